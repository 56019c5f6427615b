"""Transfer component analysis, in closed form."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from domadapt.methods.base import Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, double, from_double, widened


@register("tca")
class TCA(Method):
    """Transfer component analysis, linear (Pan et al., 2011, doi:10.1109/TNN.2010.2091281).

    Before training, the rows of both domains become ``x M`` with ``M = X^T W`` ``(d, k)``: the
    components along which the domains' means agree and the variance is kept
    (`domadapt.closed_form.TCA`, which says when it fails). Time and memory grow as the cube and
    the square of the number of rows.

    The ``k`` columns stand in the first of the ``d`` that the network takes, and the others are 0,
    so that it keeps its form; and all are multiplied by one number that leaves the rows' mean
    square as it was, since those of the paper are the smaller the more rows there are. The map ends
    as part of the network's first layer, which must be linear. For that the kernel must be linear
    too; the rbf kernel has only `domadapt.closed_form.TCA`, to be put before a classifier of
    scikit-learn.

    Args:
        mu: weight of ``tr(W^T W)``, positive, to be read against the size of ``x^T x``.
        n_components: ``k``; none takes 20, or as many as the rows have.
    """

    setting = "closed form"
    closed_form = True
    needs_classes = False
    no_neutral = "It reduces the rows to components, and no setting leaves all in place."
    space = {"mu": (0.1, 1000.0, "log")}

    def __init__(
        self, network: Network, *, mu: float = 1.0, n_components: int | None = None
    ) -> None:
        super().__init__(network)
        self.mu = mu
        self.n_components = n_components

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """The components of the source's rows, and the map of the target's."""
        from domadapt.closed_form import TCA as Transformer

        transformer = Transformer(mu=self.mu, n_components=self.n_components)
        transformer.fit(double(x_s), X_target=double(x_t))
        both = transformer.rows_
        matrix = widened(both.T @ transformer.components_, both.shape[1])
        matrix *= np.sqrt(np.mean(both**2) / np.mean((both @ matrix) ** 2))
        return Features(from_double(double(x_s) @ matrix), from_double(matrix))
