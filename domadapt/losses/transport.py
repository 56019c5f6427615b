"""Optimal transport between two batches: exact couplings, and the sliced Wasserstein distance."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.mmd import squared_distances
from domadapt.losses.precision import at_least_float32, full_precision


def feature_cost(
    z_s: Float[Tensor, "n_s d"], z_t: Float[Tensor, "n_t d"]
) -> Float[Tensor, "n_s n_t"]:
    """``C_ij = |z_s_i - z_t_j|^2``, in squared units of the features."""
    with full_precision(z_s):
        z = torch.cat([at_least_float32(z_s), at_least_float32(z_t)])
        return squared_distances(z - z.detach().mean(0))[: len(z_s), len(z_s) :]


def label_cost(
    y_s: Int[Tensor, " n_s"], logits_t: Float[Tensor, "n_t c"]
) -> Float[Tensor, "n_s n_t"]:
    """``C_ij = -log softmax(logits_t_j)[y_s_i]``: the cross-entropy of label i at sample j."""
    return -at_least_float32(logits_t).log_softmax(1).T[y_s]


def unit_cost(cost: Float[Tensor, "n_s n_t"]) -> Float[Tensor, ""]:
    """The mean cost of a pair, as a constant and never 0: a unit of the features' own size.

    Divided by it, a cost means the same at any size and width of the features, and its gradient
    neither fades nor explodes with them.
    """
    return cost.detach().mean().clamp_min(1e-30)


def coupling(cost: Float[Tensor, "n_s n_t"]) -> Float[Tensor, "n_s n_t"]:
    """The exact optimal transport plan of two batches whose samples all weigh the same.

    ``argmin_G sum_ij G_ij cost_ij`` over ``G >= 0`` whose rows sum to ``1 / n_s`` and columns to
    ``1 / n_t``, by POT's network simplex on the processor. The plan is a constant: no gradient
    passes through it. A cost that is not finite has no plan; then every pair weighs the same, so
    that the loss is not finite either and the training loop can name it.

    Source: Bonneel et al. (2011), doi:10.1145/2070781.2024192, for the solver.
    """
    import ot

    n_s, n_t = cost.shape
    exact = cost.detach().cpu().double().numpy()
    if not np.isfinite(exact).all():
        return torch.full_like(cost, 1.0 / (n_s * n_t), requires_grad=False)
    # Where the solver adds up masses, a cost of any size must look alike to it.
    size = np.abs(exact).max() or 1.0
    a, b = np.full(n_s, 1.0 / n_s), np.full(n_t, 1.0 / n_t)
    plan = ot.emd(a, b, np.ascontiguousarray(exact / size), numItermax=1_000_000)
    return torch.from_numpy(plan).to(cost)


def transport_cost(
    plan: Float[Tensor, "n_s n_t"], cost: Float[Tensor, "n_s n_t"]
) -> Float[Tensor, ""]:
    """``sum_ij plan_ij cost_ij``; for the optimal plan of `coupling` the transport distance."""
    return (plan * cost).sum()


def sliced_wasserstein(
    z_s: Float[Tensor, "n_s d"],
    z_t: Float[Tensor, "n_t d"],
    directions: Float[Tensor, "d m"],
) -> Float[Tensor, ""]:
    """Squared sliced Wasserstein distance: the mean over lines of the exact W2^2 on each line.

    ``1/m sum_u integral_0^1 (Q_s(q; u) - Q_t(q; u))^2 dq``, where Q are the quantile functions of
    the two samples projected on the unit vector ``u / |u|``. Quantiles are step functions, and the
    integral runs over the steps of both, so it is exact for two different numbers of samples
    as well. At least 0; 0 for equal samples. It grows with the square of the features' size, and
    for random directions a shift of one domain by c counts ``|c|^2 / d``.

    Sources: Rabin et al. (2011), doi:10.1007/978-3-642-24785-9_37; Bonneel et al. (2015),
    doi:10.1007/s10851-014-0506-3.

    Args:
        z_s: source features. z_t: target features; the two numbers of samples may differ.
        directions: one vector a column; their lengths do not matter.

    Raises:
        DomadaptError: a domain without samples, or no direction.
    """
    n_s, n_t = len(z_s), len(z_t)
    if not n_s or not n_t or not directions.shape[1]:
        raise DomadaptError(
            "The sliced Wasserstein distance needs samples of both domains and a direction; got "
            f"{n_s} source samples, {n_t} target samples and {directions.shape[1]} directions."
        )
    with full_precision(z_s):
        s, t = at_least_float32(z_s), at_least_float32(z_t)
        # Lines through the samples' middle: a shift of all of them together changes nothing, and
        # large features keep their digits.
        middle = 0.5 * (s.detach().mean(0) + t.detach().mean(0))
        unit = torch.nn.functional.normalize(directions.to(s), dim=0)
        sorted_s = ((s - middle) @ unit).sort(0).values
        sorted_t = ((t - middle) @ unit).sort(0).values
        steps_s, steps_t, widths = (x.to(s.device) for x in _common_steps(n_s, n_t))
        squares = (sorted_s[steps_s] - sorted_t[steps_t]).square().mean(1)
        return widths.to(s.dtype) @ squares


def _common_steps(n_s: int, n_t: int) -> tuple[Tensor, Tensor, Tensor]:
    """The steps of two quantile functions laid over each other: both indices, and the widths."""
    # In units of 1 / (n_s n_t) every step ends at an integer, so none is lost to rounding.
    ends = np.union1d(np.arange(1, n_s + 1) * n_t, np.arange(1, n_t + 1) * n_s)
    widths = np.diff(ends, prepend=0) / (n_s * n_t)
    last = torch.from_numpy(ends - 1)
    return last // n_t, last // n_s, torch.from_numpy(widths)
