"""Kernel mean matching: weights for the source's rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float
from sklearn.base import OneToOneFeatureMixin
from sklearn.exceptions import ConvergenceWarning

from domadapt.closed_form.base import ClosedForm, bandwidth, kernel_between, stacked
from domadapt.errors import DomadaptError

Vector = Float[np.ndarray, " n"]


class KMM(OneToOneFeatureMixin, ClosedForm):
    """Weight the source's rows until their mean in the kernel's space is the target's.

    (Huang et al., 2006, doi:10.7551/mitpress/7503.003.0080.) ``weights_`` is the ``w (n_s,)`` that
    minimises ``w^T K w / 2 - q^T w`` with ``K`` the kernel of the source rows and ``q_i = n_s/n_t
    sum_j k(x_i, x_j^t)``, subject to ``0 <= w_i <= max_weight`` and ``|mean(w) - 1| <= slack``.
    Rows are left as they are. Give the weights to a classifier: ``fit(x_s, y_s,
    sample_weight=weights_)``.

    The problem is solved by accelerated projected gradients. The bandwidth follows the rows by
    default, which the paper leaves to the user. Sparse rows stay sparse.

    When it fails: weights correct a covariate shift only, where the label of a row does not depend
    on the domain. Where the target lies outside the source there is nothing to weight: a few rows
    then carry all (look at ``weights_.sum() ** 2 / (weights_ ** 2).sum()``, the number of rows
    that are left in effect). In many dimensions all rows are about equally far, and the weights
    say little.

    Args:
        kernel: "rbf" (``exp(-gamma |x - x'|^2)``) or "linear".
        gamma: the rbf kernel's. None: 1 over the median squared distance between rows.
        max_weight: the largest weight, at least 1.
        slack: how far the mean weight may be from 1. None: ``(sqrt(n_s) - 1) / sqrt(n_s)``.
        max_iter: the most gradient steps; a warning says where they were not enough.
        tol: the relative change of the weights in a step at which to stop.

    Attributes:
        weights_: ``(n_s,)``, in the order of the source's rows.
        gamma_: the ``gamma`` that was used.
        n_iter_: the steps taken; more than ``max_iter`` where it did not converge.
    """

    _dense = _moves = False
    _fewest = 1

    def __init__(
        self,
        *,
        kernel: str = "rbf",
        gamma: float | None = None,
        max_weight: float = 1000.0,
        slack: float | None = None,
        max_iter: int = 10_000,
        tol: float = 1e-6,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.max_weight = max_weight
        self.slack = slack
        self.max_iter = max_iter
        self.tol = tol

    def _fit(self, x_s: Any, x_t: Any, y_s: np.ndarray | None) -> None:
        n_s = x_s.shape[0]
        slack = 1 - n_s**-0.5 if self.slack is None else self.slack
        if not (self.max_weight >= 1 and slack >= 0 and self.max_iter >= 1):
            raise DomadaptError(
                "KMM needs max_weight >= 1, slack >= 0 and max_iter >= 1; got "
                f"{self.max_weight!r}, {self.slack!r} and {self.max_iter!r}."
            )
        self.gamma_ = bandwidth(stacked(x_s, x_t), self.kernel, self.gamma)
        k = kernel_between(x_s, x_s, self.kernel, self.gamma_)
        q = n_s * kernel_between(x_s, x_t, self.kernel, self.gamma_).mean(1)
        sums = (n_s * max(0.0, 1 - slack), n_s * (1 + slack))
        self.weights_, self.n_iter_ = matched(k, q, self.max_weight, sums, self.max_iter, self.tol)
        if self.n_iter_ > self.max_iter:
            warnings.warn(
                f"KMM did not reach tol={self.tol} in {self.max_iter} steps; raise one of them.",
                ConvergenceWarning,
                stacklevel=3,
            )


def matched(
    k: Float[np.ndarray, "n n"],
    q: Vector,
    upper: float,
    sums: tuple[float, float],
    max_iter: int,
    tol: float,
) -> tuple[Vector, int]:
    """The ``w`` of least ``w^T k w / 2 - q^T w`` in bounds, and the steps (too many: no end)."""
    last = len(q) - 1
    largest = scipy.linalg.eigh(k, eigvals_only=True, subset_by_index=[last, last])[0]
    step = 1 / max(float(largest), np.finfo(np.float64).tiny)
    w = ahead = np.ones(len(q))
    momentum = 1.0
    for n_iter in range(1, max_iter + 1):
        moved = project(ahead - step * (k @ ahead - q), upper, *sums)
        if np.abs(moved - ahead).max() <= tol * np.abs(moved).max():
            return moved, n_iter
        # Momentum that points uphill is dropped (O'Donoghue and Candes, 2015).
        if (ahead - moved) @ (moved - w) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - w)
        w, momentum = moved, following
    return w, max_iter + 1


def project(v: Vector, upper: float, low: float, high: float) -> Vector:
    """The nearest point to ``v`` with ``0 <= w <= upper`` and ``low <= sum(w) <= high``."""
    w = v.clip(0, upper)
    bound = min(max(w.sum(), low), high)
    if bound == w.sum():
        return w
    # One shift of all values before the clipping meets the bound on the sum.
    shift = scipy.optimize.brentq(
        lambda s: (v - s).clip(0, upper).sum() - bound, v.min() - upper, v.max(), xtol=1e-14
    )
    return np.asarray((v - shift).clip(0, upper))
