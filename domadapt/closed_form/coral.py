"""Correlation alignment in closed form."""

from __future__ import annotations

import numpy as np
from sklearn.base import OneToOneFeatureMixin

from domadapt.closed_form.base import ClosedForm, Rows, covariances, spd_power


class Coral(OneToOneFeatureMixin, ClosedForm):
    """Give the source the target's covariance (Sun et al., 2016, arXiv:1511.05547, algorithm 1).

    ``x -> (x - m_s) (C_s + reg I)^(-1/2) (C_t + reg I)^(1/2) + m_t`` for source rows; target rows
    stay as they are. Covariances are divided by ``n - 1``.

    The paper presumes standardised features and has no means; with zero means, or
    ``center=False``, this is its algorithm to the letter.

    When it fails: it matches two moments of the whole domain and knows no classes. Where the
    shares of the classes differ between the domains, or a feature means another thing in the
    target, it moves classes onto each other; under pure covariate shift it can lose more than it
    gains, since the classifier was already right. With features much smaller than 1, ``reg`` of
    1 outweighs the covariances and the map is close to the identity: standardise first.

    Args:
        reg: what is added to the diagonals of both covariances.
        center: whether the source's mean is moved to the target's.

    Attributes:
        matrix_: ``(d, d)``, applied from the right.
        mean_s_, mean_t_: ``(d,)``, zero without ``center``.
    """

    def __init__(self, *, reg: float = 1.0, center: bool = True) -> None:
        self.reg = reg
        self.center = center

    def _fit(self, x_s: Rows, x_t: Rows, y_s: np.ndarray | None) -> None:
        c_s, c_t = covariances(x_s, x_t, self.reg, "Coral", ddof=1)
        self.matrix_ = spd_power(c_s, -0.5) @ spd_power(c_t, 0.5)
        self.mean_s_, self.mean_t_ = (x.mean(0) * bool(self.center) for x in (x_s, x_t))

    def _map_source(self, x: Rows) -> Rows:
        return (x - self.mean_s_) @ self.matrix_ + self.mean_t_
