"""The Wasserstein distance of two samples by a critic of bounded slope."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from domadapt.losses.precision import at_least_float32, full_precision


def critic_gap(c_s: Float[Tensor, " n_s"], c_t: Float[Tensor, " n_t"]) -> Float[Tensor, ""]:
    """``mean c_s - mean c_t``: a lower bound of ``W_1(s, t)`` if the critic's slope is at most 1.

    The best such critic reaches the distance itself (Kantorovich and Rubinstein). The critic
    maximises it, the encoder minimises it.

    Source: Shen et al. (2018), arXiv:1707.01217, the domain critic.
    """
    with full_precision(c_s):
        return at_least_float32(c_s).mean() - at_least_float32(c_t).mean()


def penalty_points(
    z_s: Float[Tensor, "n_s d"], z_t: Float[Tensor, "n_t d"]
) -> Float[Tensor, "n d"]:
    """Where the critic's slope is checked: at the features, and between pairs of both domains.

    Pair ``i`` of ``m = max(n_s, n_t)`` joins the i-th samples of the two batches, the smaller one
    gone through again from its start, and gives the point ``z_t + (i + 1/2) / m (z_s - z_t)``. The
    points are constants.

    Source: Shen et al. (2018), arXiv:1707.01217, the gradient penalty. There each pair's position
    is drawn; here the positions are spread evenly over the pairs, which a shuffled batch has put
    together at random, so that no random number is needed.

    Returns:
        ``n = n_s + n_t + m`` points.
    """
    z_s, z_t = at_least_float32(z_s).detach(), at_least_float32(z_t).detach()
    pair = torch.arange(max(len(z_s), len(z_t)), device=z_s.device)
    share = (pair.to(z_s.dtype)[:, None] + 0.5) / len(pair)
    between = torch.lerp(z_t[pair % len(z_t)], z_s[pair % len(z_s)], share)
    return torch.cat([z_s, z_t, between])


def slope_penalty(gradient: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """``mean_i (|g_i| - 1)^2``, g the critic's gradient at a point.

    Source: Gulrajani et al. (2017), arXiv:1704.00028, equation 3.
    """
    with full_precision(gradient):
        length: Tensor = torch.linalg.vector_norm(at_least_float32(gradient), dim=1)
        return (length - 1.0).square().mean()
