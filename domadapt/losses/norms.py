"""Penalties on the size of features: their norms, and the singular values of a batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def norm_step(z: Float[Tensor, "n d"], step: float = 1.0) -> Float[Tensor, ""]:
    """``mean_i (|z_i| - r_i - step)^2`` with ``r_i = |z_i|`` taken as a constant.

    **The value is step^2, always**; what it has is its gradient, ``-2 step / n`` along each
    sample's own direction: every norm is pushed outwards alike, whatever it is. A sample at the
    origin has no direction and no gradient.

    Source: Xu et al. (2019), arXiv:1811.07456 (stepwise adaptive feature norm).

    Args:
        z: features of one domain.
        step: how far ahead of each norm its aim lies, in units of the features; above 0.

    Raises:
        DomadaptError: a step that is not positive.
    """
    if not step > 0:
        raise DomadaptError(f"step must be positive; got {step}.")
    with full_precision(z):
        norms = torch.linalg.vector_norm(at_least_float32(z), dim=1)
        # The difference of the norms first: a step is not to be rounded away beside large norms.
        return ((norms - norms.detach()) - step).square().mean()


def spectral_penalty(z: Float[Tensor, "n d"], k: int = 1) -> Float[Tensor, ""]:
    """``sum_{i <= k} sigma_i^2``, sigma the singular values of the batch, largest first.

    The features are not centred, as in the paper: with features that are seldom negative the
    first singular vector is close to their mean. The value grows with the square of the features'
    size and in proportion to the number of samples (with ``k = min(n, d)`` it is ``|z|_F^2``).
    Where the batch has fewer than k singular values, all count.

    Source: Chen et al. (2019), Proceedings of Machine Learning Research 97, pages 1081-1090.

    Args:
        z: features of one domain.
        k: how many singular values count, at least 1.

    Raises:
        DomadaptError: k below 1.
    """
    if k < 1:
        raise DomadaptError(f"k must be at least 1; got {k}.")
    with full_precision(z):
        x = at_least_float32(z)
        # Squared singular values are the eigenvalues of the smaller of the two Gram matrices. The
        # largest ones, which alone count, lose nothing by the squaring.
        gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
        return torch.linalg.eigvalsh(gram)[-k:].sum()
