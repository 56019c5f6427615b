"""Which trial of a search makes a method's row on a task: chosen without target labels.

Of the trials of one task and the first seed, the guard sets aside what is broken, as `domadapt
tune` does, against source_only as it is given; of the others the one with the largest score of the
search's validator is chosen, of equal ones the first. A validator that compares candidates compares
the trials of this method. Where no trial is left or none has a score, the settings as they are
given stand.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from domadapt.benchmark.cells import Planned
from domadapt.benchmark.choice import evidence_of
from domadapt.benchmark.suite import METRICS
from domadapt.checkpoint import read_json, write_json
from domadapt.methods.space import LR
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cells
from domadapt.selection.choice import RULE
from domadapt.selection.evidence import Evidence, together
from domadapt.selection.guard import guard
from domadapt.selection.registry import get_validator
from domadapt.selection.validators import scores_of

#: Where the choices are kept; it may be deleted at any time.
TRIALS = "trials.json"


@dataclass(frozen=True)
class Trial:
    """One trial of a method on a task, with the first seed.

    Attributes:
        task, method, seed: which row it is a trial of.
        cell: what its cell is called; key: of that cell.
        number: of the trial; 0 has the settings as they are given.
        words: the values that were drawn.
        validator: by whose score one is chosen; score: that score, None without one.
        set_aside: why the guard refuses it, nothing where it does not.
        failed: why its cell has no result, nothing where it has one.
        chosen: whether it makes the row.
        oracle: its target scores, which had no part in the choice.
    """

    task: str
    method: str
    seed: int
    cell: str
    key: str
    number: int
    words: str
    validator: str
    score: float | None = None
    set_aside: str = ""
    failed: str = ""
    chosen: bool = False
    oracle: dict[str, float] = field(default_factory=dict)


def judge_trials(
    cells: Cells,
    about: Mapping[str, Any],
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
) -> list[Trial]:
    """The trials of every task and method whose trials are all finished, one of them chosen.

    The choices are kept in ``trials.json``, and made anew where their cells change.

    Args:
        cells: the folder.
        about: the suite as plain data (`domadapt.benchmark.results.read_plan`).
        of: its cells.
        found: their results by key, failures among them.
    """
    said = {trial["cell"]: trial for trial in about.get("trials", ())}
    first = about["seeds"][0]
    groups: dict[tuple[str, str], list[Planned]] = {}
    starts: dict[str, Planned] = {}
    for cell in of:
        own = said.get(cell.method)
        if cell.seed == first and own is not None:
            groups.setdefault((cell.task, own["method"]), []).append(cell)
        row = cell.method if own is None else own["method"] if own["number"] == 0 else ""
        if cell.seed == first and row == BASELINE:
            starts[cell.task] = cell
    file = cells.folder / TRIALS
    known = read_json(file) if file.exists() else {}
    made = {}
    for (task, method), members in groups.items():
        start = starts.get(task)
        if any(c.key not in found for c in (*members, *([start] if start else []))):
            continue
        what = [RULE, start and start.key, [[c.key, said[c.method]] for c in members]]
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
        made[name] = known.get(name) or [
            asdict(trial)
            for trial in _chosen(
                [_trial(c, method, said[c.method], found[c.key]) for c in members],
                {c.key: evidence_of(cells, c, found[c.key]) for c in members if _has(found, c)},
                evidence_of(cells, start, found[start.key])
                if start is not None and _has(found, start)
                else None,
                found,
            )
        ]
    if made != known:
        write_json(file, made)
    return [Trial(**trial) for group in made.values() for trial in group]


def as_rows(
    about: Mapping[str, Any], of: Sequence[Planned], trials: Sequence[Trial]
) -> list[Planned]:
    """The cells that make the table: of each search those of the chosen trial, as its method."""
    said = {trial["cell"]: trial["method"] for trial in about.get("trials", ())}
    chosen = {(trial.task, trial.cell) for trial in trials if trial.chosen}
    return [
        cell._replace(method=said.get(cell.method, cell.method))
        for cell in of
        if cell.method not in said or (cell.task, cell.method) in chosen
    ]


def _has(found: Mapping[str, Mapping[str, Any]], cell: Planned) -> bool:
    return found[cell.key]["error"] is None


def _trial(cell: Planned, method: str, said: Mapping[str, Any], result: Mapping[str, Any]) -> Trial:
    metrics = result.get("metrics", {})
    return Trial(
        task=cell.task,
        method=method,
        seed=cell.seed,
        cell=cell.method,
        key=cell.key,
        number=said["number"],
        words=", ".join(_said(name, value) for name, value in said["values"].items()),
        validator=said["validator"],
        failed=result["error"] or "",
        oracle={name: metrics[name] for name in METRICS if name in metrics},
    )


def _said(name: str, value: Any) -> str:
    short = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"lr x {short}" if name == LR else f"{name}={short}"


def _least(score: float | None) -> float:
    return -math.inf if score is None else score


def _chosen(
    trials: Sequence[Trial],
    evidence: Mapping[str, Evidence],
    before: Evidence | None,
    found: Mapping[str, Mapping[str, Any]],
) -> list[Trial]:
    """The trials with their scores, one of them chosen."""
    validator = get_validator(trials[0].validator)
    compared = together(list(evidence.values()))
    others = dict(zip(evidence, compared, strict=True))
    judged = []
    for trial in trials:
        if trial.failed:
            judged.append(trial)
            continue
        reasons = [] if before is None else guard(evidence[trial.key], before)
        if found[trial.key].get("stopped"):
            reasons.insert(0, f"its training was stopped early: {found[trial.key]['stopped']}")
        scores = dict(found[trial.key]["scores"])
        if "others" in validator.needs:
            scores |= scores_of(others[trial.key], [validator.name])
        score = scores.get(validator.name)
        judged.append(replace(trial, score=score, set_aside="; ".join(reasons)))
    able = [t for t in judged if t.score is not None and not t.set_aside and not t.failed]
    best = max(able, key=lambda t: (_least(t.score), -t.number), default=judged[0])
    return [replace(trial, chosen=trial is best) for trial in judged]
