"""Marginalised denoising of rows: each feature is rebuilt from the others, in both domains."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float
from sklearn.base import OneToOneFeatureMixin

from domadapt.closed_form.base import ClosedForm, Rows, require_memory
from domadapt.errors import DomadaptError


class MSDA(OneToOneFeatureMixin, ClosedForm):
    """Rebuild rows from what is left of them when features are missing, in closed form.

    (Chen et al., 2012, arXiv:1206.4683, section 3.) Of all matrices the one is taken that best
    rebuilds the rows ``x`` of both domains from rows ``x'`` in which each feature was set to 0 with
    probability ``p``, on the mean over every way to do so: with ``X (n, d + 1)`` the rows and a
    column of ones, ``S = X^T X`` and ``q = (1 - p, ..., 1 - p, 1)``,

    ``W = Q^-1 P``,  ``Q_ij = q_i q_j S_ij`` (``i != j``), ``Q_ii = q_i S_ii``,  ``P_ij = q_i S_ij``

    and a row becomes ``(x, 1) W``. A word that only one domain uses is then spread over the words
    that it stands beside, some of which the other domain has, too. Stacked, each layer is fitted on
    what the one before it makes of the rows.

    Departures: the paper puts a tanh after each layer and hands on the rows and all layers side by
    side; here the layers are linear and the last one alone is handed on, so that all of them are
    one matrix and the rows keep their width. The authors' code adds 1e-5 to the diagonal of Q for
    counts; here it is ``reg`` times the mean of that diagonal, the ones left out, so that the scale
    of the features does not matter.

    When it fails: it sees which features go together and neither domains nor classes. Where these
    do not go together in either domain (features that are already uncorrelated) it only shrinks
    them, and what few rows rebuild badly (rare features) is lost. Time and memory grow as the cube
    and the square of the number of features.

    Args:
        corruption: ``p``, at least 0 and below 1; at 0 nothing is missing and rows stay.
        layers: how many are stacked.
        reg: what is added to the diagonal, relative to its mean.

    Attributes:
        matrix_: ``(d, d)``, applied from the right.
        shift_: ``(d,)``, added after it.
    """

    _fewest = 1

    def __init__(self, *, corruption: float = 0.5, layers: int = 1, reg: float = 1e-5) -> None:
        self.corruption = corruption
        self.layers = layers
        self.reg = reg

    def _fit(self, x_s: Rows, x_t: Rows, y_s: np.ndarray | None) -> None:
        if not 0 <= self.corruption < 1:
            raise DomadaptError(
                f"MSDA(corruption) must be at least 0 and below 1; got {self.corruption!r}."
            )
        if not (isinstance(self.layers, int | np.integer) and self.layers >= 1):
            raise DomadaptError(
                f"MSDA(layers) must be a whole number from 1 on; got {self.layers!r}."
            )
        if not self.reg > 0:
            raise DomadaptError(f"MSDA(reg) must be positive; got {self.reg!r}.")
        x = np.vstack([x_s, x_t])
        d = x.shape[1]
        require_memory((d + 1, d + 1), f"The products of {d} features, which MSDA needs,")
        whole = np.eye(d + 1)
        for _ in range(self.layers):
            layer = np.eye(d + 1)
            layer[:, :d] = denoiser(_with_ones(x), self.corruption, self.reg)
            x = _with_ones(x) @ layer[:, :d]
            whole = whole @ layer
        self.matrix_, self.shift_ = whole[:d, :d], whole[d, :d]

    def _map_source(self, x: Rows) -> Rows:
        return x @ self.matrix_ + self.shift_

    _map_target = _map_source


def denoiser(
    x: Float[np.ndarray, "n d1"], corruption: float, reg: float
) -> Float[np.ndarray, "d1 d"]:
    """``W`` of `MSDA`, for rows whose last column is of ones, which are never missing."""
    kept = np.full(x.shape[1], 1.0 - corruption)
    kept[-1] = 1.0
    products = x.T @ x
    own = kept * np.diag(products)
    q = products * np.outer(kept, kept)
    # The column of ones has no scale to follow, and needs no help.
    own[:-1] += reg * (own[:-1].mean() or 1.0)
    np.fill_diagonal(q, own)
    rebuilt = kept[:, None] * products[:, :-1]
    return np.asarray(scipy.linalg.solve(q, rebuilt, assume_a="pos", overwrite_a=True))


def _with_ones(x: Rows) -> Rows:
    return np.hstack([x, np.ones((len(x), 1))])
