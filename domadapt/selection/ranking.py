"""Measures of scores against true accuracies, an oracle's: rank correlation, regret, coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from domadapt.errors import DomadaptError


def weighted_spearman(
    scores: Sequence[float], accuracies: Sequence[float], power: float = 2.0
) -> float:
    """Rank correlation in which candidates weigh more the higher the validator ranks them.

    With ``d_i`` the dense rank of score i (equal scores share a rank, no rank is skipped, the
    lowest is 1), the weights are ``w_i = (d_i / max d)^power``. The weighted rank of a value is the
    sum of the weights of all lower values plus ``(m + 1) / 2`` times the mean weight of the m
    candidates that share it. The result is the Pearson correlation, weighted by w, of the weighted
    ranks of scores and accuracies, in [-1, 1]: 1 for the same order, near -1 for the reverse. With
    ``power=0`` it is Spearman's.

    So a bad candidate at the top of the ranking costs much, disorder at its bottom little. Measure:
    (Musgrave et al., 2022, arXiv:2208.07360); weights, ranks and power as in the authors' code. As
    there, a score that is not finite counts as the lowest finite one.

    Args:
        scores: of the validator, larger is better.
        accuracies: the true ones, of the same candidates.
        power: how much the top of the ranking counts.

    Returns:
        The correlation; NaN for fewer than two candidates or where all scores, or all accuracies,
        are equal.

    Raises:
        DomadaptError: the lengths differ, or an accuracy is not finite.
    """
    x, y = _pair(scores, accuracies)
    finite = np.isfinite(x)
    if len(x) < 2 or not finite.any():
        return math.nan
    x = np.where(finite, x, x[finite].min())
    dense = np.unique(x, return_inverse=True)[1] + 1
    w = (dense / dense.max()) ** power
    r, s = _weighted_ranks(x, w), _weighted_ranks(y, w)
    r, s = r - np.average(r, weights=w), s - np.average(s, weights=w)
    spread = math.sqrt(float((w * r * r).sum() * (w * s * s).sum()))
    # Equal values may leave a rounding error where there is no spread at all.
    if np.ptp(x) == 0 or np.ptp(y) == 0 or spread == 0:
        return math.nan
    return float(np.clip((w * r * s).sum() / spread, -1, 1))


def _weighted_ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mass = np.bincount(place, w)
    ranks: np.ndarray = (np.cumsum(mass) - mass + (count + 1) / 2 * mass / count)[place]
    return ranks


def _pair(scores: Sequence[float], accuracies: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(scores, float), np.asarray(accuracies, float)
    if x.shape != y.shape or x.ndim != 1:
        raise DomadaptError(
            f"Scores and accuracies must be of the same candidates; got {x.shape} and {y.shape}."
        )
    if not np.isfinite(y).all():
        raise DomadaptError(
            "An accuracy must be a number in [0, 1]; got one that is not finite. Leave out "
            "candidates whose accuracy is unknown."
        )
    return x, y


def picks(scores: Sequence[float], allowed: Sequence[bool] | None = None) -> list[int]:
    """Positions of the allowed candidates of the highest score: several where they are equal.

    A score that is not finite is never picked while another is finite.
    """
    x = np.asarray(scores, float)
    x = np.where(np.isfinite(x), x, -np.inf)
    may = np.ones(len(x), bool) if allowed is None else np.asarray(allowed, bool)
    if not may.any():
        return []
    return [int(i) for i in np.flatnonzero(may & (x == x[may].max()))]


def regret(
    scores: Sequence[float], accuracies: Sequence[float], allowed: Sequence[bool] | None = None
) -> float:
    """Accuracy of the best candidate of all (the oracle's) minus that of the picked one.

    ``max_i a_i - mean_{i in P} a_i`` with P the allowed candidates of the highest score: those of
    equal score count with their mean. The best one need not be allowed, so that a guard that sets
    it aside pays for it.

    Raises:
        DomadaptError: no candidate is allowed, the lengths differ, or an accuracy is not finite.
    """
    x, y = _pair(scores, accuracies)
    chosen = picks(x.tolist(), allowed)
    if not chosen:
        raise DomadaptError("A regret needs at least one candidate that may be picked; got none.")
    return float(y.max() - y[chosen].mean())


def coverage(low: Sequence[float], high: Sequence[float], truth: Sequence[float]) -> float:
    """Share of the closed intervals ``[low_i, high_i]`` that hold ``truth_i``; NaN for none."""
    if not len(low) == len(high) == len(truth):
        raise DomadaptError(
            "Intervals and true values must be of the same candidates; got "
            f"{len(low)} and {len(high)} ends for {len(truth)} values."
        )
    held = [a <= value <= b for a, b, value in zip(low, high, truth, strict=True)]
    return sum(held) / len(held) if held else math.nan
