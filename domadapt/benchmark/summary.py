"""What a leaderboard says, as numbers: computed from the tidy table alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from domadapt.benchmark import statistics
from domadapt.benchmark.baselines import NOT_ADAPTED
from domadapt.benchmark.results import COST, FAILED, GUARD, LABEL_FREE, LOOK, TARGET, TRIAL, VERDICT
from domadapt.benchmark.statistics import Interval, Paired, Ranks
from domadapt.benchmark.suite import ORACLE, UPPER
from domadapt.errors import DomadaptError
from domadapt.report.report import BASELINE

#: Rows of the table that pick a method of each task and seed.
BY_VERDICT, BEST = "verdict", f"best method ({ORACLE})"
#: Where no trial of a search has a score.
NO_SCORE = "no score"


@dataclass(frozen=True)
class Standing:
    """One method over all tasks.

    Attributes:
        method: its name; oracle: whether it saw target labels.
        tasks: mean and interval over seeds, by task.
        mean: over the tasks, of the means over seeds; None where a task is missing.
        interval: of that mean over seeds, the tasks being given; None where a cell is missing.
        rank: average rank among the methods without oracle, over complete tasks; None without.
        gap: share closed between source_only and target_only, of the means over common tasks.
        negative: cells below source_only of the same task and seed, and of how many.
        paired: against source_only over tasks; None for source_only and the oracle.
        time: seconds of training relative to source_only of the same cell, geometric mean.
        step_time: the same per step.
        memory: largest peak of the process in bytes.
        set_aside: in how many cells the guard refuses it.
        failed: how many cells failed.
    """

    method: str
    oracle: bool
    tasks: dict[str, Interval]
    mean: float | None
    interval: Interval | None
    rank: float | None
    gap: float | None
    negative: tuple[int, int]
    paired: Paired | None
    time: float | None
    step_time: float | None
    memory: float | None
    set_aside: int
    failed: int


@dataclass(frozen=True)
class Pick:
    """What one criterion picks of each task and seed: the mean over tasks of its accuracy.

    Attributes:
        criterion: its name; that of the best method bears `oracle`.
        mean: over tasks; regret: the best method's mean minus it.
        below: in how many pools its pick is below source_only; pools: of how many.
        picks: how often it picks each method.
    """

    criterion: str
    mean: float
    regret: float
    below: int
    pools: int
    picks: dict[str, int]


@dataclass(frozen=True)
class Checkpoints:
    """One method by the checkpoint that is kept of each training: means over tasks and seeds.

    Attributes:
        method: its name.
        last: of the checkpoint after the last step.
        chosen: of that with the largest score, by validator; of equal ones the latest is taken,
            and the last where none has a score.
        best: of that which target labels choose (oracle).
        looks: at how many checkpoints of a training was looked, at most.
    """

    method: str
    last: float
    chosen: dict[str, float]
    best: float
    looks: int


@dataclass(frozen=True)
class Searched:
    """What the search of one method gave: means over tasks, all of the first seed.

    Attributes:
        method: its name.
        validator: by which trials are chosen.
        trials: how many there were on each task.
        given: of the settings as they are given; None where they failed on a task.
        chosen: of the trials that were chosen without target labels; None likewise.
        best: of those that target labels choose (oracle).
        kept: on how many tasks the settings as they are given were chosen; tasks: of how many.
        set_aside: how many trials the guard refused; failed: how many have no result.
        settings: those that were chosen, in words, by task; empty where these are as given.
    """

    method: str
    validator: str
    trials: int
    given: float | None
    chosen: float | None
    best: float
    kept: int
    tasks: int
    set_aside: int
    failed: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """The whole leaderboard as numbers."""

    metric: str
    tasks: list[str]
    standings: list[Standing]
    ranks: Ranks
    picks: list[Pick]
    seeds: int
    checkpoints: list[Checkpoints] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)


def summarise(
    frame: pd.DataFrame,
    metric: str = "accuracy",
    validators: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> Summary:
    """The statistics of a tidy table (`domadapt.benchmark.results.tidy`).

    Args:
        frame: the rows.
        metric: of the target, by which methods are compared.
        validators: label-free scores that pick.
        tasks, methods: all that were planned, in order; by default those of the rows.

    Raises:
        DomadaptError: no row has the metric.
    """
    scored = frame[(frame["kind"] == TARGET) & (frame["metric"] == metric)]
    if scored.empty:
        raise DomadaptError(
            f"A leaderboard needs finished cells with {metric}; there are none. `domadapt "
            "benchmark` says why cells failed."
        )
    tasks = list(dict.fromkeys(frame["task"])) if tasks is None else list(tasks)
    methods = list(dict.fromkeys(frame["method"])) if methods is None else list(methods)
    seeds = sorted(set(frame["seed"]))
    oracle = {UPPER, *scored.loc[scored["oracle"], "method"]}
    table = _cube(scored, methods, tasks, seeds)
    means = {m: _means(table[m]) for m in methods}
    honest = [m for m in methods if m not in oracle and m not in NOT_ADAPTED]
    there = [m for m in honest if np.isfinite(means[m]).any()]
    ranks = statistics.average_ranks({m: means[m].tolist() for m in there})
    paired = {}
    if BASELINE in there:
        paired = statistics.compared({m: means[m].tolist() for m in there}, BASELINE)
    costs = {
        name: _cube(_of(frame, COST, name), methods, tasks, seeds)
        for name in ("seconds", "steps", "peak_memory_process")
    }
    per_step = {m: _ratio(costs["seconds"][m], costs["steps"][m]) for m in methods}
    aside = _of(frame, GUARD, "set_aside").groupby("method")["value"].sum()
    failed = frame[frame["kind"] == FAILED].groupby("method")["value"].sum()
    none = np.full((len(tasks), len(seeds)), np.nan)
    before = table.get(BASELINE, none)
    standings = [
        Standing(
            method=m,
            oracle=m in oracle,
            tasks={
                t: statistics.t_interval(row[np.isfinite(row)].tolist())
                for t, row in zip(tasks, table[m], strict=True)
                if np.isfinite(row).any()
            },
            mean=float(means[m].mean()) if np.isfinite(means[m]).all() else None,
            interval=_overall(table[m]),
            rank=ranks.average.get(m),
            gap=_gap(means, m),
            negative=statistics.negative_transfers(
                table[m].ravel().tolist(), before.ravel().tolist()
            ),
            paired=paired.get(m),
            time=_cost(costs["seconds"], m),
            step_time=_cost(per_step, m),
            memory=_largest(costs["peak_memory_process"][m]),
            set_aside=int(aside.get(m, 0)),
            failed=int(failed.get(m, 0)),
        )
        for m in methods
    ]
    picks = _picks(frame, table, honest, tasks, seeds, validators)
    looks = _checkpoints(frame, metric, tasks, methods, validators)
    searches = _searches(frame, metric, methods)
    return Summary(metric, tasks, standings, ranks, picks, len(seeds), looks, searches)


def _of(frame: pd.DataFrame, kind: str, metric: str) -> pd.DataFrame:
    return frame[(frame["kind"] == kind) & (frame["metric"] == metric)]


def _cube(
    rows: pd.DataFrame, methods: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Values ``(tasks, seeds)`` by method, NaN where there is none."""
    found = np.full((len(methods), len(tasks), len(seeds)), np.nan)
    where = [{name: i for i, name in enumerate(names)} for names in (methods, tasks, seeds)]
    index = [
        rows[column].map(numbers).to_numpy(dtype=float)
        for column, numbers in zip(("method", "task", "seed"), where, strict=True)
    ]
    fits = np.isfinite(np.array(index)).all(0)
    m, t, s = (i[fits].astype(int) for i in index)
    found[m, t, s] = rows["value"].to_numpy()[fits]
    return dict(zip(methods, found, strict=True))


def _means(values: np.ndarray) -> np.ndarray:
    """Mean over the seeds there are ``(tasks,)``; NaN where there is none."""
    there = np.isfinite(values)
    count = there.sum(1)
    total = np.where(there, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _overall(values: np.ndarray) -> Interval | None:
    """The interval over seeds of the mean over tasks, of values ``(tasks, seeds)``."""
    if not np.isfinite(values).all():
        return None
    return statistics.t_interval(values.mean(0).tolist())


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


def _gap(means: dict[str, np.ndarray], method: str) -> float | None:
    if method in (BASELINE, UPPER) or BASELINE not in means or UPPER not in means:
        return None
    three = np.array([means[method], means[BASELINE], means[UPPER]])
    three = three[:, np.isfinite(three).all(0)]
    if three.shape[1] == 0:
        return None
    return statistics.gap_closed(*(float(v) for v in three.mean(1)))


def _cost(values: dict[str, np.ndarray], method: str) -> float | None:
    if BASELINE not in values:
        return None
    mine, before = values[method].ravel().tolist(), values[BASELINE].ravel().tolist()
    return statistics.cost_ratio(mine, before)


def _largest(values: np.ndarray) -> float | None:
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _checkpoints(
    frame: pd.DataFrame,
    metric: str,
    tasks: Sequence[str],
    methods: Sequence[str],
    validators: Sequence[str],
) -> list[Checkpoints]:
    """Last, chosen and best checkpoint of the methods that were looked at on every task."""
    label = f"{ORACLE}_{metric}"
    rows = frame[(frame["kind"] == LOOK) & frame["metric"].isin([label, *validators])]
    if rows.empty:
        return []
    cell = ["method", "task", "seed"]
    looks = rows.pivot(index=[*cell, "step"], columns="metric", values="value")
    looks = looks.reindex(columns=list(dict.fromkeys([label, *validators])))
    looks = looks[looks[label].notna()].reset_index()
    steps = looks.groupby("method")["step"].nunique()

    def kept(by: str) -> pd.Series:
        """Means over seeds and then tasks by method, of the checkpoint with the largest `by`."""
        order = looks.sort_values([by, "step"], na_position="first")
        picked = order.groupby(cell)[label].last()
        return picked.groupby(["method", "task"]).mean().unstack("task")[list(tasks)].mean(axis=1)

    there = looks.groupby("method")["task"].nunique()
    whole = [m for m in methods if there.get(m, 0) == len(tasks)]
    if not whole:
        return []
    last, best = kept("step"), kept(label)
    chosen = {name: kept(name) for name in validators}
    return [
        Checkpoints(
            method=m,
            last=float(last[m]),
            chosen={name: float(values[m]) for name, values in chosen.items()},
            best=float(best[m]),
            looks=int(steps[m]),
        )
        for m in whole
    ]


def _searches(frame: pd.DataFrame, metric: str, methods: Sequence[str]) -> list[Searched]:
    """What the searches gave, on the tasks whose trials are judged and not all failed."""
    rows = frame[frame["kind"] == TRIAL]
    label = f"{ORACLE}_{metric}"
    facts = ("chosen", "set_aside", "failed")
    found = []
    for method in methods:
        mine = rows[rows["method"] == method]
        if mine.empty:
            continue
        trials = mine.pivot(index=["task", "trial"], columns="metric", values="value")
        if label not in trials or trials[label].isna().all():
            continue
        names = [n for n in trials.columns if n not in facts and not n.startswith(f"{ORACLE}_")]
        first = trials.xs(0, level="trial")[label]
        chosen = trials.loc[trials["chosen"] > 0, label]
        found.append(
            Searched(
                method=method,
                validator=str(names[0]) if names else NO_SCORE,
                trials=int(trials.groupby("task").size().max()),
                given=_whole(first),
                chosen=_whole(chosen),
                best=float(trials[label].groupby("task").max().mean()),
                kept=int((trials.xs(0, level="trial")["chosen"] > 0).sum()),
                tasks=len(first),
                set_aside=int(trials["set_aside"].sum()),
                failed=int(trials["failed"].sum()),
                settings=_chosen(mine),
            )
        )
    return found


def _chosen(rows: pd.DataFrame) -> dict[str, str]:
    """The settings of the chosen trials by task."""
    picked = rows[(rows["metric"] == "chosen") & (rows["value"] > 0)]
    words = picked["reason"].where(picked["trial"] > 0, "")
    return dict(zip(picked["task"], words.astype(str), strict=True))


def _whole(values: pd.Series) -> float | None:
    """The mean; None where one is missing."""
    return None if values.empty or values.isna().any() else float(values.mean())


def _picks(
    frame: pd.DataFrame,
    table: dict[str, np.ndarray],
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    validators: Sequence[str],
) -> list[Pick]:
    """What the verdict, validators and hindsight pick of each task and seed with a source_only."""
    if BASELINE not in methods or not methods:
        return []
    accuracy = np.array([table[m] for m in methods])

    def scores(kind: str, name: str) -> np.ndarray:
        made = _cube(_of(frame, kind, name), methods, tasks, seeds)
        return np.array([made[m] for m in methods])

    refused = scores(GUARD, "set_aside") > 0
    found: dict[str, np.ndarray] = {BY_VERDICT: scores(VERDICT, "chosen")}
    found |= {name: np.where(refused, np.nan, scores(LABEL_FREE, name)) for name in validators}
    found[BEST] = accuracy
    known = np.isfinite(accuracy)
    judged = np.isfinite(accuracy[list(methods).index(BASELINE)])
    # Every criterion is compared on the pools that all of them can judge.
    for value in found.values():
        judged &= (np.isfinite(value) & known).any(0)
    if not judged.any():
        return []
    picks = []
    best = np.nanmax(np.where(known, accuracy, -math.inf), 0)
    before = accuracy[list(methods).index(BASELINE)]
    for name, value in found.items():
        which = np.where(np.isfinite(value) & known, value, -math.inf).argmax(0)
        reached = np.take_along_axis(accuracy, which[None], 0)[0]
        reached, top, base = (np.where(judged, v, np.nan) for v in (reached, best, before))
        some = np.isfinite(reached).any(1)
        chosen = which[judged]
        picks.append(
            Pick(
                criterion=name,
                mean=float(_means(reached)[some].mean()),
                regret=float(_means(top - reached)[some].mean()),
                below=int((reached - base < -statistics.ROUNDING).sum()),
                pools=int(judged.sum()),
                picks={m: int((chosen == i).sum()) for i, m in enumerate(methods) if i in chosen},
            )
        )
    return picks
