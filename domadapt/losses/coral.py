"""Correlation alignment: the distance between two samples' covariance matrices."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def coral(z_s: Float[Tensor, "n_s d"], z_t: Float[Tensor, "n_t d"]) -> Float[Tensor, ""]:
    """``|C_s - C_t|_F^2 / (4 d^2)``, ``C`` the covariance of a domain's features.

    Covariances are divided by ``n - 1``, so that their expectation does not depend on the batch
    size. At least 0; 0 for equal covariances, whatever the means. It grows with the fourth power
    of the features' size.

    Source: Sun and Saenko (2016), arXiv:1607.01719, equations 1 to 3.

    Args:
        z_s: source features. z_t: target features; the two numbers of samples may differ.

    Raises:
        DomadaptError: fewer than two samples of a domain.
    """
    if min(len(z_s), len(z_t)) < 2:
        raise DomadaptError(
            "CORAL needs at least 2 samples of each domain in a batch; got "
            f"{len(z_s)} source and {len(z_t)} target. Raise the batch size."
        )
    with full_precision(z_s):
        difference = _covariance(at_least_float32(z_s)) - _covariance(at_least_float32(z_t))
        return difference.square().sum() / (4 * z_s.shape[1] ** 2)


def _covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    centred = z - z.mean(0)
    return centred.T @ centred / (len(z) - 1)
