"""The optimal transport map between two Gaussians."""

from __future__ import annotations

import numpy as np
from sklearn.base import OneToOneFeatureMixin

from domadapt.closed_form.base import ClosedForm, Rows, covariances, spd_power


class LinearOT(OneToOneFeatureMixin, ClosedForm):
    """Move the source onto the target by the Monge map of their Gaussians.

    (Flamary et al., 2019, arXiv:1905.10155.) ``x -> m_t + (x - m_s) A`` for source
    rows, with ``A = S^-1 (S C_t S)^(1/2) S^-1`` and ``S = C_s^(1/2)``, both covariances plus
    ``reg I``, divided by ``n``. Target rows stay as they are. Of all maps that give the source the
    target's mean and covariance it moves the rows least; `Coral` is another of them.

    When it fails: as `Coral`, it sees two moments of the whole domain and no classes, so that
    differing shares of classes are taken for a shift of the features. The covariances must be
    estimated well: with fewer rows than features their estimates are singular, and a small
    ``reg`` then stretches new source rows without bound; raise it, or reduce the dimension first.

    Args:
        reg: what is added to the diagonals of both covariances.

    Attributes:
        matrix_: ``A``, ``(d, d)``, symmetric.
        mean_s_, mean_t_: ``(d,)``.
    """

    def __init__(self, *, reg: float = 1e-3) -> None:
        self.reg = reg

    def _fit(self, x_s: Rows, x_t: Rows, y_s: np.ndarray | None) -> None:
        c_s, c_t = covariances(x_s, x_t, self.reg, "LinearOT", ddof=0)
        root, inverse = spd_power(c_s, 0.5), spd_power(c_s, -0.5)
        self.matrix_ = inverse @ spd_power(root @ c_t @ root, 0.5) @ inverse
        self.mean_s_, self.mean_t_ = x_s.mean(0), x_t.mean(0)

    def _map_source(self, x: Rows) -> Rows:
        return (x - self.mean_s_) @ self.matrix_ + self.mean_t_
