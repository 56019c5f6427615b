"""Losses of predicted measurements."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32


def squared_error(
    values: Float[Tensor, "n k"], y: Float[Tensor, "n k"], spread: Float[Tensor, " k"] | None = None
) -> Float[Tensor, ""]:
    """The mean squared error in units of `spread`: ``mean_ij ((values_ij - y_ij) / spread_j)^2``.

    With the standard deviation of the labels as spread it is about 1 for a network that always
    predicts their mean, whatever their units are, and each output counts alike.

    Args:
        values: predicted. y: true.
        spread: of each output, positive; None counts in the units as they are.

    Raises:
        DomadaptError: the shapes differ; ``(n,)`` and ``(n, 1)`` would become ``(n, n)``.
    """
    if values.shape != y.shape:
        raise DomadaptError(
            "Predicted and true values must have one shape (n, outputs); got "
            f"{tuple(values.shape)} and {tuple(y.shape)}."
        )
    error = at_least_float32(values) - y
    if spread is not None:
        error = error / spread
    return error.square().mean()
