"""Where target labels exist: which validator ranks and picks well, which estimate is right.

All of it compares something made without target labels with the true accuracy, so that everything
it returns is an oracle's knowledge: for studies, never for selection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from domadapt.errors import DomadaptError
from domadapt.report.report import BASELINE
from domadapt.selection.ranking import coverage, picks, weighted_spearman

#: Fewer candidates have no rank correlation worth the name: two give -1 or 1 whatever they are.
MIN_CANDIDATES = 3
#: A mean of equal accuracies may differ from them by this much.
ROUNDING = 1e-12
SELECTOR, ALWAYS_BASELINE, RANDOM = "the run's choice", f"always {BASELINE}", "a random candidate"

Kind = Literal["validator", "selector", "reference"]
Scope = Literal["chosen", "all"]


@dataclass(frozen=True)
class Row:
    """One candidate of a pool: what was known of it without target labels, and the truth.

    Rows of one task and seed are one pool, from which a criterion picks one.

    Attributes:
        task, seed: name the pool.
        candidate: its name, once in a pool.
        scores: of the validators by name; larger is better. One that is not finite counts as the
            lowest; a missing one means that the validator did not look.
        accuracy: its true accuracy on the target, in [0, 1]: the oracle.
        set_aside: why the guard refuses it; empty where it may be chosen.
        estimate: its estimated accuracy: ``accuracy, low, high``, ``parts`` (further estimates by
            name) and ``refused`` (why there is none); None where nothing was estimated.
        chosen: whether the selector chose it.
        method: of its training; empty: the same as its name.
    """

    task: str
    seed: int
    candidate: str
    scores: Mapping[str, float]
    accuracy: float
    set_aside: Sequence[str] = ()
    estimate: Mapping[str, Any] | None = None
    chosen: bool = False
    method: str = ""

    @property
    def baseline(self) -> bool:
        """Whether it was trained on the source alone."""
        return (self.method or self.candidate) == BASELINE


@dataclass(frozen=True)
class Pick:
    """What one criterion does in one pool.

    Attributes:
        task, seed: name the pool.
        criterion, kind: who picks.
        candidates: how many it could rank.
        correlation_oracle: `weighted_spearman` of its scores with the accuracies, over the
            candidates that the guard leaves; None where it is undefined.
        correlation_all_oracle: the same over all candidates.
        picked: the candidate it picks under the guard; several where they are equal.
        accuracy_oracle: their accuracy, the mean of several.
        regret_oracle: accuracy of the pool's best candidate minus that of `picked`.
        regret_all_oracle: the same without the guard.
        gain_oracle: accuracy of `picked` minus that of source-only; None without source-only.
    """

    task: str
    seed: int
    criterion: str
    kind: Kind
    candidates: int
    correlation_oracle: float | None
    correlation_all_oracle: float | None
    picked: list[str]
    accuracy_oracle: float | None
    regret_oracle: float | None
    regret_all_oracle: float | None
    gain_oracle: float | None


@dataclass(frozen=True)
class Spread:
    """Values of several tasks: their mean, standard deviation (of two or more), least, largest."""

    mean: float
    deviation: float | None
    least: float
    largest: float
    tasks: int


@dataclass(frozen=True)
class Criterion:
    """What one criterion does over all tasks; the seeds of a task are averaged first.

    Attributes:
        name, kind: who picks.
        correlation_oracle, correlation_all_oracle, regret_oracle, regret_all_oracle, gain_oracle:
            of its `Pick`; None where no pool has a value.
        below_oracle: in how many pools its pick is less accurate than source-only.
        pools: in how many it picked.
    """

    name: str
    kind: Kind
    correlation_oracle: Spread | None
    correlation_all_oracle: Spread | None
    regret_oracle: Spread | None
    regret_all_oracle: Spread | None
    gain_oracle: Spread | None
    below_oracle: int
    pools: int


@dataclass(frozen=True)
class Estimated:
    """One candidate's estimated accuracy beside the true one."""

    task: str
    seed: int
    candidate: str
    chosen: bool
    accuracy_oracle: float
    estimate: float | None
    low: float | None
    high: float | None
    refused: str
    parts: dict[str, float]


@dataclass(frozen=True)
class EstimateError:
    """How far one estimate is from the truth.

    Attributes:
        name: of the estimate.
        scope: over the ``chosen`` candidates or ``all``.
        candidates: how many there were to estimate.
        refused: for how many of them it was refused.
        error_oracle: mean absolute error of the others.
        bias_oracle: mean of estimate minus truth.
        covered_oracle: the share whose interval holds the truth; None where there is none.
        width: mean width of the intervals.
    """

    name: str
    scope: Scope
    candidates: int
    refused: int
    error_oracle: float | None
    bias_oracle: float | None
    covered_oracle: float | None
    width: float | None


@dataclass(frozen=True)
class Audit:
    """The whole audit, as plain data.

    Attributes:
        tasks: their names.
        criteria: those of smallest regret first.
        picks: of every criterion in every pool.
        estimates: errors of the estimates.
        estimated: the candidates that have one.
        best_oracle: mean over the tasks of the accuracy of the best candidate.
        notes: sentences on what was left out.
    """

    tasks: list[str]
    criteria: list[Criterion]
    picks: list[Pick]
    estimates: list[EstimateError]
    estimated: list[Estimated]
    best_oracle: float
    notes: list[str] = field(default_factory=list)


def audit(rows: Sequence[Row], notes: Iterable[str] = ()) -> Audit:
    """Compare every criterion and every estimate of the candidates with the truth.

    Criteria are all validators of the rows, the selector's own choice, always keeping source-only,
    and a candidate drawn at random. Correlation and regret are of a pool (one task and seed); a
    task's value is the mean over its seeds, a criterion's the mean over the tasks.

    Args:
        rows: the candidates of all pools.
        notes: sentences to keep with the result.

    Raises:
        DomadaptError: there are no rows, or a pool has two candidates of one name.
    """
    if not rows:
        raise DomadaptError("An audit needs candidates with a true accuracy; got none.")
    pools: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        pools.setdefault((row.task, row.seed), []).append(row)
    for (task, seed), pool in pools.items():
        called = [row.candidate for row in pool]
        twice = sorted({name for name in called if called.count(name) > 1})
        if twice:
            raise DomadaptError(
                f"Candidates of one task and seed need different names; {twice[0]!r} occurs twice "
                f"in {task}, seed {seed}."
            )
    validators = sorted({name for row in rows for name in row.scores})
    found = [pick for pool in pools.values() for pick in _picks_of(pool, validators)]
    tasks = list(dict.fromkeys(row.task for row in rows))
    names = dict.fromkeys((pick.criterion, pick.kind) for pick in found)
    criteria = [_criterion(name, kind, found) for name, kind in names]
    estimated = [_estimated(row) for row in rows if row.estimate is not None]
    best = {place: max(row.accuracy for row in pool) for place, pool in pools.items()}
    return Audit(
        tasks=tasks,
        criteria=sorted(criteria, key=_order),
        picks=found,
        estimates=_errors(estimated),
        estimated=estimated,
        best_oracle=_by_task([(task, value) for (task, _), value in best.items()])[0],
        notes=[*notes, *_remarks(pools, validators)],
    )


def _order(criterion: Criterion) -> tuple[float, str]:
    spread = criterion.regret_oracle
    return (math.inf if spread is None else spread.mean, criterion.name)


def _picks_of(pool: Sequence[Row], validators: Sequence[str]) -> list[Pick]:
    """What every criterion does in one pool."""
    found = []
    for name in validators:
        ranked = [row for row in pool if name in row.scores]
        if ranked:
            found.append(_pick(pool, ranked, [row.scores[name] for row in ranked], name))
    chosen = [row for row in pool if row.chosen]
    baseline = [row for row in pool if row.baseline]
    # The selector has its guard in itself, and source-only needs none: only one value is theirs.
    for name, kind, those in (
        (SELECTOR, "selector", chosen),
        (ALWAYS_BASELINE, "reference", baseline),
    ):
        if those:
            found.append(_verdict(pool, those, those, name, kind, guarded_only=True))
    guarded = _allowed(pool)
    found.append(_verdict(pool, guarded, pool, RANDOM, "reference"))
    return found


def _allowed(pool: Sequence[Row]) -> list[Row]:
    """The candidates that the guard leaves; source-only where it leaves none."""
    return [row for row in pool if not row.set_aside] or [row for row in pool if row.baseline]


def _pick(pool: Sequence[Row], ranked: list[Row], scores: list[float], name: str) -> Pick:
    allowed = {row.candidate for row in _allowed(pool)}
    may = [row.candidate in allowed for row in ranked]
    under = [ranked[i] for i in picks(scores, may)]
    free = [ranked[i] for i in picks(scores)]
    left = [(s, row) for s, row, ok in zip(scores, ranked, may, strict=True) if ok]
    pairs = list(zip(scores, ranked, strict=True))
    return _verdict(
        pool,
        under,
        free,
        name,
        "validator",
        candidates=len(ranked),
        correlations=(_correlation(left), _correlation(pairs)),
    )


def _correlation(pairs: Sequence[tuple[float, Row]]) -> float | None:
    if len(pairs) < MIN_CANDIDATES:
        return None
    value = weighted_spearman([s for s, _ in pairs], [row.accuracy for _, row in pairs])
    return None if math.isnan(value) else value


def _verdict(
    pool: Sequence[Row],
    under: Sequence[Row],
    free: Sequence[Row],
    name: str,
    kind: Any,
    *,
    candidates: int | None = None,
    correlations: tuple[float | None, float | None] = (None, None),
    guarded_only: bool = False,
) -> Pick:
    best = max(row.accuracy for row in pool)
    baseline = _mean([row.accuracy for row in pool if row.baseline])
    reached, unguarded = (_mean([row.accuracy for row in those]) for those in (under, free))
    return Pick(
        task=pool[0].task,
        seed=pool[0].seed,
        criterion=name,
        kind=kind,
        candidates=len(pool) if candidates is None else candidates,
        correlation_oracle=correlations[0],
        correlation_all_oracle=correlations[1],
        picked=[row.candidate for row in under],
        accuracy_oracle=reached,
        regret_oracle=None if reached is None else max(0.0, best - reached),
        regret_all_oracle=None if guarded_only or unguarded is None else max(0.0, best - unguarded),
        gain_oracle=None if reached is None or baseline is None else reached - baseline,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_task(values: Sequence[tuple[str, float]]) -> tuple[float, list[float]]:
    """The mean over tasks, and each task's mean over its seeds."""
    tasks: dict[str, list[float]] = {}
    for task, value in values:
        tasks.setdefault(task, []).append(value)
    means = [sum(of) / len(of) for of in tasks.values()]
    return sum(means) / len(means), means


def _spread(found: Sequence[Pick], of: Callable[[Pick], float | None]) -> Spread | None:
    values = [(pick.task, value) for pick in found if (value := of(pick)) is not None]
    if not values:
        return None
    mean, means = _by_task(values)
    deviation = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(mean, deviation, min(means), max(means), len(means))


def _criterion(name: str, kind: Kind, found: Sequence[Pick]) -> Criterion:
    mine = [pick for pick in found if pick.criterion == name and pick.kind == kind]
    return Criterion(
        name=name,
        kind=kind,
        correlation_oracle=_spread(mine, lambda pick: pick.correlation_oracle),
        correlation_all_oracle=_spread(mine, lambda pick: pick.correlation_all_oracle),
        regret_oracle=_spread(mine, lambda pick: pick.regret_oracle),
        regret_all_oracle=_spread(mine, lambda pick: pick.regret_all_oracle),
        gain_oracle=_spread(mine, lambda pick: pick.gain_oracle),
        below_oracle=sum((pick.gain_oracle or 0) < -ROUNDING for pick in mine),
        pools=len(mine),
    )


def _estimated(row: Row) -> Estimated:
    given = row.estimate or {}

    def number(name: str) -> float | None:
        value = given.get(name)
        return None if value is None or not math.isfinite(value) else float(value)

    refused = given.get("refused") or ("" if number("accuracy") is not None else "no value")
    parts = {
        name: float(value)
        for name, value in (given.get("parts") or {}).items()
        if value is not None and math.isfinite(value)
    }
    return Estimated(
        task=row.task,
        seed=row.seed,
        candidate=row.candidate,
        chosen=row.chosen,
        accuracy_oracle=row.accuracy,
        estimate=None if refused else number("accuracy"),
        low=None if refused else number("low"),
        high=None if refused else number("high"),
        refused=str(refused),
        parts=parts,
    )


def _errors(estimated: Sequence[Estimated]) -> list[EstimateError]:
    """Errors of the estimate and of each of its parts, over the chosen candidates and over all."""
    parts = sorted({name for one in estimated for name in one.parts})
    scopes: list[tuple[Scope, list[Estimated]]] = [
        ("chosen", [one for one in estimated if one.chosen]),
        ("all", list(estimated)),
    ]
    found = [_error("the estimate", scope, those, None) for scope, those in scopes if those]
    for name in parts:
        found += [_error(name, scope, those, name) for scope, those in scopes if those]
    return found


def _error(name: str, scope: Scope, those: Sequence[Estimated], part: str | None) -> EstimateError:
    values = [(one.estimate if part is None else one.parts.get(part)) for one in those]
    off = [
        value - one.accuracy_oracle
        for value, one in zip(values, those, strict=True)
        if value is not None
    ]
    bounds = [
        (one.low, one.high, one.accuracy_oracle)
        for one in those
        if part is None and one.low is not None and one.high is not None
    ]
    low, high, truth = ([b[i] for b in bounds] for i in range(3))
    return EstimateError(
        name=name,
        scope=scope,
        candidates=len(those),
        refused=len(those) - len(off),
        error_oracle=_mean([abs(value) for value in off]),
        bias_oracle=_mean(off),
        covered_oracle=coverage(low, high, truth) if bounds else None,
        width=_mean([b - a for a, b, _ in bounds]),
    )


def _remarks(
    pools: Mapping[tuple[str, int], Sequence[Row]], validators: Sequence[str]
) -> list[str]:
    """What a reader must know of the pools."""
    found = []
    small = [place for place, pool in pools.items() if len(pool) < MIN_CANDIDATES]
    if small:
        found.append(
            f"{_counted(small)} fewer than {MIN_CANDIDATES} candidates: no correlation there."
        )
    alone = [place for place, pool in pools.items() if not any(row.baseline for row in pool)]
    if alone:
        found.append(f"{_counted(alone)} no {BASELINE} candidate: no gain over it there.")
    unscored = [place for place, pool in pools.items() if not any(row.scores for row in pool)]
    if unscored:
        found.append(f"{_counted(unscored)} no scores of validators: no validator picks there.")
    for name in validators:
        lacking = sum(name not in row.scores for pool in pools.values() for row in pool)
        broken = sum(
            not math.isfinite(row.scores.get(name, 0.0)) for pool in pools.values() for row in pool
        )
        if lacking:
            found.append(f"{name} did not score {lacking} of the candidates; it cannot pick them.")
        if broken:
            found.append(f"{name} is not finite for {broken} of the candidates: ranked lowest.")
    return found


def _counted(places: Sequence[tuple[str, int]]) -> str:
    task, seed = places[0]
    rest = len(places) - 1
    more = f" and {rest} other{'s' * (rest > 1)} have" if rest else " has"
    return f"{task} (seed {seed}){more}"
