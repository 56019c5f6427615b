"""Subspace alignment."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.decomposition import PCA

from domadapt.closed_form.base import ClosedForm, Rows, n_components_of


class SubspaceAlignment(ClassNamePrefixFeaturesOutMixin, ClosedForm):
    """Turn the source's principal subspace into the target's.

    (Fernando et al., 2013, doi:10.1109/ICCV.2013.368.) With the bases ``P_s`` and ``P_t`` ``(d,
    k)`` of the leading principal components of each domain, source rows become ``(x - m_s) P_s
    P_s^T P_t`` and target rows ``(x - m_t) P_t``.

    The paper presumes standardised features, and chooses ``k`` by a bound on the stability of the
    subspaces and by cross-validation on the source; here it is an argument. Each domain's mean
    goes, as in its own PCA.

    When it fails: the directions of largest variance must be those that tell the classes apart,
    and in both domains; directions are aligned, but neither their variances nor the classes. Too
    small a ``k`` drops the classes, too large a one aligns noise, worst in small domains.

    Args:
        n_components: ``k``. None: 20, or as many as the features and both domains allow.

    Attributes:
        pca_s_, pca_t_: the fitted `sklearn.decomposition.PCA` of each domain.
        matrix_: ``P_s^T P_t``, ``(k, k)``.
    """

    def __init__(self, *, n_components: int | None = None) -> None:
        self.n_components = n_components

    def _fit(self, x_s: Rows, x_t: Rows, y_s: np.ndarray | None) -> None:
        k = n_components_of(
            self.n_components,
            min(x_s.shape[1], len(x_s) - 1, len(x_t) - 1),
            "SubspaceAlignment",
            "the features, and the rows of each domain less 1",
        )
        # The full solver takes no random numbers.
        self.pca_s_, self.pca_t_ = (PCA(k, svd_solver="full").fit(x) for x in (x_s, x_t))
        self.matrix_ = self.pca_s_.components_ @ self.pca_t_.components_.T

    @property
    def _n_features_out(self) -> int:
        return len(self.matrix_)

    def _map_source(self, x: Rows) -> Rows:
        return np.asarray(self.pca_s_.transform(x) @ self.matrix_)

    def _map_target(self, x: Rows) -> Rows:
        return np.asarray(self.pca_t_.transform(x))
