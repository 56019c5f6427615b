"""Statistics of a comparison: pure functions of accuracies, with the formulas and their sources.

Tables are arrays ``(methods, tasks)`` of means over seeds, or ``(tasks, seeds)`` of one method; NaN
is a cell that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from domadapt.errors import DomadaptError

#: Differences of means smaller than this are rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; ends are None where one value has no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half its width."""
        return None if self.high is None else self.high - self.mean


#: Below which a corrected p counts as a difference.
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """A method against the baseline over tasks.

    Attributes:
        tasks: how many both have.
        difference: mean over them of method minus baseline.
        wins, losses: tasks on which it is above and below; the others are ties.
        p: of Wilcoxon's signed-rank test, two-sided.
        p_holm: the same, corrected for all methods of the comparison.
        methods: how many these are.
    """

    tasks: int
    difference: float
    wins: int
    losses: int
    p: float
    p_holm: float
    methods: int

    @property
    def tells(self) -> bool:
        """Whether there are tasks enough for so many methods.

        A method that is better on each of n tasks has p = 2 / 2^n, which Holm multiplies by the
        number of methods: where even that is not below 0.05, no result could have been.
        """
        return self.methods * 2.0 ** (1 - self.tasks) < LEVEL


@dataclass(frozen=True)
class Ranks:
    """Average ranks over tasks, 1 the best, and how far apart they must lie.

    Attributes:
        average: by method.
        tasks: how many there are.
        friedman: p-value of the hypothesis that all methods are equal; None below 3 methods.
        critical_difference: of Nemenyi's test: methods whose average ranks lie closer are not told
            apart; None with one method or one task.
    """

    average: dict[str, float]
    tasks: int
    friedman: float | None
    critical_difference: float | None


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and interval ``m +- t s / sqrt(n)`` with Student's t of n - 1 degrees of freedom.

    Raises:
        DomadaptError: there is no value, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise DomadaptError(f"An interval needs one finite value or more; got {list(values)}.")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, None, None, 1)
    t = float(stats.t.ppf((1 + level) / 2, x.size - 1))
    half = t * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Interval(mean, mean - half, mean + half, int(x.size))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that any false rejection has the level as its chance.

    The smallest is multiplied by m, the next by m - 1 and so on; none becomes smaller than the one
    before it, or larger than 1. (Holm, 1979, Scandinavian Journal of Statistics 6)
    """
    order = np.argsort(np.asarray(p, dtype=float), kind="stable")
    corrected = [0.0] * len(p)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * float(p[index])))
        corrected[int(index)] = least
    return corrected


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on paired differences; 1 where all are 0.

    Zero differences are dropped; p is exact for few differences without ties. With n differences it
    cannot be below ``2 / 2^n``: six tasks are the fewest that reach 0.05. (Wilcoxon, 1945,
    Biometrics Bulletin 1)
    """
    d = np.asarray(differences, dtype=float)
    d = d[np.abs(d) > ROUNDING]
    if d.size == 0:
        return 1.0
    ties = np.unique(np.round(np.abs(d), 12)).size < d.size
    method = "exact" if d.size <= 50 and not ties else "approx"
    return float(stats.wilcoxon(d, method=method).pvalue)


def compared(means: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Paired]:
    """Every method against `baseline` over tasks, p-values corrected for their number.

    Args:
        means: accuracy by method and task, the tasks in one order; NaN where it is missing.
        baseline: the method that the others are compared with.
    """
    before = np.asarray(means[baseline], dtype=float)
    found = {}
    for name, values in means.items():
        d = np.asarray(values, dtype=float) - before
        d = d[np.isfinite(d)]
        if name != baseline and d.size:
            found[name] = d
    raw = {name: wilcoxon(d.tolist()) for name, d in found.items()}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return {
        name: Paired(
            tasks=int(d.size),
            difference=float(d.mean()),
            wins=int((d > ROUNDING).sum()),
            losses=int((d < -ROUNDING).sum()),
            p=raw[name],
            p_holm=corrected[name],
            methods=len(found),
        )
        for name, d in found.items()
    }


def average_ranks(means: Mapping[str, Sequence[float]], alpha: float = 0.05) -> Ranks:
    """Average ranks, Friedman's test and Nemenyi's critical difference over complete tasks.

    On each task the most accurate method has rank 1, equal ones the mean of their ranks. Tasks that
    a method lacks are left out. (Demšar, 2006, Journal of Machine Learning Research 7)
    """
    names = list(means)
    table = np.array([list(means[name]) for name in names], dtype=float)
    table = table[:, np.isfinite(table).all(0)]
    k, n = table.shape
    if n == 0:
        return Ranks({}, 0, None, None)
    # Rounding, so that equal means of seeds are equal ranks.
    ranks = stats.rankdata(-np.round(table, 12), axis=0)
    friedman = None
    if k >= 3 and n >= 2 and np.ptp(ranks, axis=0).any():
        friedman = float(stats.friedmanchisquare(*ranks).pvalue)
    difference = critical_difference(k, n, alpha) if k > 1 and n > 1 else None
    average = dict(zip(names, ranks.mean(1).tolist(), strict=True))
    return Ranks(average, n, friedman, difference)


def critical_difference(methods: int, tasks: int, alpha: float = 0.05) -> float:
    """Nemenyi's ``q sqrt(k (k + 1) / (6 n))`` for k methods over n tasks.

    q is the studentised range over sqrt(2), with infinitely many degrees of freedom. (Demšar, 2006,
    Journal of Machine Learning Research 7, section 3.2.2)
    """
    if methods < 2 or tasks < 1:
        raise DomadaptError(
            "A critical difference needs two methods and one task or more; got "
            f"{methods} and {tasks}."
        )
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))


def groups_not_told_apart(ranks: Ranks) -> list[tuple[str, ...]]:
    """Methods whose average ranks lie within less than the critical difference, best first.

    Each group is as large as can be, and none is part of another: the bars of the diagram in
    Demšar (2006, Journal of Machine Learning Research 7). None where there is no critical
    difference.
    """
    if ranks.critical_difference is None:
        return []
    order = sorted(ranks.average, key=lambda name: ranks.average[name])
    values = [ranks.average[name] for name in order]
    groups: list[tuple[str, ...]] = []
    reached = 0
    for i, low in enumerate(values):
        end = sum(1 for value in values if value < low + ranks.critical_difference - ROUNDING)
        if end > max(reached, i + 1):
            groups.append(tuple(order[i:end]))
            reached = end
    return groups


def gap_closed(method: float, source: float, upper: float) -> float | None:
    """``(method - source) / (upper - source)``: 0 as without adapting, 1 as with target labels.

    None where labels bring nothing (upper <= source), so that there is no gap to close.
    """
    return None if upper - source <= ROUNDING else (method - source) / (upper - source)


def negative_transfers(method: Sequence[float], source: Sequence[float]) -> tuple[int, int]:
    """In how many cells the method is below source_only of the same task and seed, and of how many.

    Pairs of which one is missing (NaN) do not count.
    """
    d = np.asarray(method, dtype=float) - np.asarray(source, dtype=float)
    d = d[np.isfinite(d)]
    return int((d < -ROUNDING).sum()), int(d.size)


def cost_ratio(method: Sequence[float], source: Sequence[float]) -> float | None:
    """Geometric mean over pairs of cells of cost over that of source_only; None without a pair."""
    a, b = np.asarray(method, dtype=float), np.asarray(source, dtype=float)
    fits = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    if not fits.any():
        return None
    return float(np.exp(np.log(a[fits] / b[fits]).mean()))
