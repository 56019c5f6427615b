"""Transfer component analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils.extmath import svd_flip

from domadapt.closed_form.base import (
    ClosedForm,
    Rows,
    bandwidth,
    kernel_between,
    n_components_of,
    stacked,
)
from domadapt.errors import DomadaptError


class TCA(ClassNamePrefixFeaturesOutMixin, ClosedForm):
    """Components along which the domains' means agree and the variance is kept.

    (Pan et al., 2011, doi:10.1109/TNN.2010.2091281.) With the kernel ``K`` of all ``n`` rows, the
    centring matrix ``H`` and ``L = v v^T``, ``v_i = 1/n_s`` for source and ``-1/n_t`` for target
    rows, ``W (n, k)`` minimises ``tr(W^T K L K W) + mu tr(W^T W)`` subject to ``W^T K H K W =
    I``: the leading eigenvectors of ``(K L K + mu I)^-1 K H K``. Any row, seen or new, source or
    target, becomes ``k(x, rows) W``.

    The paper leaves the bandwidth to the user; here it follows the rows by default.

    Time and memory grow as the cube and the square of the number of rows. Sparse rows stay sparse.

    When it fails: it matches the means of the whole domains in the kernel's space and no classes,
    so that differing shares of classes mislead it; no label says which variance matters. With the
    linear kernel only the features' means are matched: a difference of covariances remains, and
    between domains that were each standardised there is nothing left to match, so that the
    components are those of a PCA of all rows.

    Args:
        kernel: "linear" or "rbf" (``exp(-gamma |x - x'|^2)``).
        gamma: the rbf kernel's. None: 1 over the median squared distance between rows.
        mu: weight of ``tr(W^T W)``, positive, to be read against the size of the kernel's values.
        n_components: ``k``. None: 20, or as many as the kernel has.

    Attributes:
        rows_: the rows it was fitted on, source first.
        components_: ``W``, ``(n, k)``.
        gamma_: the ``gamma`` that was used.
    """

    _dense = False
    _fewest = 1

    def __init__(
        self,
        *,
        kernel: str = "linear",
        gamma: float | None = None,
        mu: float = 1.0,
        n_components: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.mu = mu
        self.n_components = n_components

    def _fit(self, x_s: Any, x_t: Any, y_s: np.ndarray | None) -> None:
        if not self.mu > 0:
            raise DomadaptError(f"TCA(mu) must be positive; got {self.mu!r}.")
        self.rows_ = stacked(x_s, x_t)
        n_s, n = x_s.shape[0], self.rows_.shape[0]
        wanted = n_components_of(self.n_components, n, "TCA", "the rows of both domains")
        self.gamma_ = bandwidth(self.rows_, self.kernel, self.gamma)
        k = kernel_between(self.rows_, self.rows_, self.kernel, self.gamma_)
        k_h = k - k.mean(1, keepdims=True)
        mean = k[:, :n_s].mean(1) - k[:, n_s:].mean(1)
        values, vectors = scipy.linalg.eigh(
            k_h @ k_h.T,
            np.outer(mean, mean) + self.mu * np.eye(n),
            subset_by_index=[n - wanted, n - 1],
        )
        values, vectors = values[::-1], vectors[:, ::-1]
        # Components of no variance cannot meet the constraint.
        found = int((values > 1e-12 * values[0]).sum())
        if found == 0:
            raise DomadaptError("TCA needs rows that differ; all rows it was given are the same.")
        count = n_components_of(self.n_components, found, "TCA", "components that have variance")
        # The solver scales by the other matrix; the constraint is W^T K H K W = I.
        scaled = vectors[:, :count] / np.sqrt(values[:count])
        self.components_ = svd_flip(scaled, None)[0]

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[1]

    def _map_source(self, x: Any) -> Rows:
        k = kernel_between(x, self.rows_, self.kernel, self.gamma_)
        return np.asarray(k @ self.components_)

    _map_target = _map_source
