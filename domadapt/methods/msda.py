"""Marginalised denoising of features, in closed form."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from domadapt.methods.base import Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, double, from_double


@register("msda")
class MSDA(Method):
    """Marginalised denoising autoencoder, linear (Chen et al., 2012, arXiv:1206.4683).

    Before training, the rows of both domains become what is rebuilt of them when features are
    missing (`domadapt.closed_form.MSDA`, which says how it departs from the paper and when it
    fails), so that a feature of one domain alone speaks through those that it goes with. All are
    multiplied by one number that leaves the rows' mean square as it was. The map ends as part of
    the network's first layer, which must be linear. Made for bags of words; time grows as the cube
    of the number of features (5,000: some 20 s).

    Args:
        corruption: the share of features that are missing, at least 0 and below 1.
        layers: how many are stacked.
    """

    setting = "closed form"
    closed_form = True
    needs_classes = False
    no_neutral = "It rebuilds the rows from each other, and no setting leaves all in place."
    space = {"corruption": (0.1, 0.9, "linear"), "layers": [1, 2, 3]}

    def __init__(self, network: Network, *, corruption: float = 0.5, layers: int = 1) -> None:
        super().__init__(network)
        self.corruption = corruption
        self.layers = layers

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """The rebuilt rows of the source, and the map of the target's."""
        from domadapt.closed_form import MSDA as Transformer

        transformer = Transformer(corruption=self.corruption, layers=self.layers)
        rows_s, rows_t = double(x_s), double(x_t)
        transformer.fit(rows_s, X_target=rows_t)
        matrix, shift = transformer.matrix_, transformer.shift_
        both = np.vstack([rows_s, rows_t])
        factor = np.sqrt(np.mean(both**2) / np.mean((both @ matrix + shift) ** 2))
        matrix, shift = factor * matrix, factor * shift
        return Features(
            from_double(rows_s @ matrix + shift), from_double(matrix), from_double(shift)
        )
