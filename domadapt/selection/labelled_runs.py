"""Run folders whose target has labels, read as rows of an audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.report.report import Candidate, Report
from domadapt.selection.audit import Row

REPORT = "report.json"


@dataclass(frozen=True)
class Read:
    """What was read of some run folders.

    Attributes:
        rows: every candidate with a known accuracy.
        notes: sentences on what was left out or put together.
        runs: how many run folders gave rows.
    """

    rows: list[Row]
    notes: list[str]
    runs: int


def rows_of(runs: Sequence[str | Path]) -> Read:
    """The candidates of run folders, and of all run folders inside of other folders.

    Runs of one task and seed become one pool; a model that several of them trained alike (the
    source-only one, mostly) counts once. Where runs of one task's name differ in classes or sizes,
    they are tasks apart.

    Raises:
        DomadaptError: a folder does not exist, or none of the runs can be audited.
    """
    notes: list[str] = []
    reports = [pair for place in _folders(runs, notes) for pair in _labelled(place, notes)]
    if not reports:
        why = f" {notes[0]}" if notes else ""
        more = f" (and {len(notes) - 1} notes more)" if len(notes) > 1 else ""
        raise DomadaptError(
            "An audit needs finished runs of `domadapt adapt` whose target has labels of classes; "
            f"got none in {', '.join(map(str, runs)) or 'no folder'}.{why}{more} Give such run "
            "folders, or a folder that holds them; --target-test gives a run labelled data."
        )
    names = _task_names([report for _, report in reports], notes)
    pools: dict[tuple[str, int], list[tuple[Row, str, Path]]] = {}
    several: dict[tuple[str, int], set[Path]] = {}
    for (place, report), task in zip(reports, names, strict=True):
        several.setdefault((task, report.seed), set()).add(place)
        for candidate in report.candidates:
            row = _row(task, report, candidate)
            if row is not None:
                pool = pools.setdefault((task, report.seed), [])
                pool.append((row, _identity(candidate), place))
    merged = sum(len(places) > 1 for places in several.values())
    if merged:
        notes.append(
            f"In {merged} pool{'s' * (merged > 1)} candidates of several runs of one task and seed "
            "were put together; a score that compares a candidate with the others of its run (the "
            "agreement with the ensemble) was made within that run."
        )
    rows = [row for pool in pools.values() for row in _distinct(pool)]
    return Read(rows, notes, len(reports))


def _folders(runs: Sequence[str | Path], notes: list[str]) -> list[Path]:
    """The folders that hold a report, each once; notes on those of unfinished runs."""
    found: dict[Path, Path] = {}
    for given in map(Path, runs):
        if not given.exists():
            raise DomadaptError(
                f"There is no {given}; give run folders of `domadapt adapt`, or folders that hold "
                "them."
            )
        if given.is_file():
            if given.name != REPORT:
                raise DomadaptError(
                    f"{given} is a file; give run folders of `domadapt adapt`, or their {REPORT}."
                )
            given = given.parent
        for file in sorted(given.rglob(REPORT)):
            found.setdefault(file.parent.resolve(), file.parent)
        notes += [
            f"{file.parent} is not finished: go on with `domadapt adapt --resume {file.parent}`."
            for file in sorted(given.rglob("run.json"))
            if not (file.parent / REPORT).exists()
        ]
    return list(found.values())


def _labelled(place: Path, notes: list[str]) -> list[tuple[Path, Report]]:
    """The run's report where it can be audited, else a note."""
    try:
        report = Report.load(place)
    except DomadaptError as error:
        notes.append(f"{place} was left out: {error}")
        return []
    if report.regression:
        notes.append(f"{place} was left out: its labels are measurements, not classes.")
        return []
    known = [_accuracy(candidate) is not None for candidate in report.candidates]
    if not any(known):
        notes.append(f"{place} was left out: its target has no labels.")
        return []
    if not any(candidate.scores for candidate in report.candidates):
        notes.append(f"{place} holds no scores of validators; make the run again to audit them.")
    return [(place, report)]


def _accuracy(candidate: Candidate) -> float | None:
    value = (candidate.target or {}).get("accuracy")
    return None if value is None else float(value)


def _task_names(reports: Sequence[Report], notes: list[str]) -> list[str]:
    """A name per report that is the same exactly where the task is the same."""
    kinds: dict[str, list[str]] = {}
    names = []
    for report in reports:
        task = report.task
        same = ("class_names", "sizes", "transductive", "open_set")
        kind = json.dumps([task.get(key) for key in same], sort_keys=True)
        variants = kinds.setdefault(task["name"], [])
        if kind not in variants:
            variants.append(kind)
        which = variants.index(kind)
        names.append(task["name"] if which == 0 else f"{task['name']} ({which + 1})")
    for name, variants in kinds.items():
        if len(variants) > 1:
            notes.append(
                f"{len(variants)} tasks are called {name} and differ in classes or sizes; the "
                f"later ones are named {name} (2) and so on."
            )
    return names


def _row(task: str, report: Report, candidate: Candidate) -> Row | None:
    accuracy = _accuracy(candidate)
    if accuracy is None:
        return None
    return Row(
        task=task,
        seed=report.seed,
        candidate=candidate.name,
        scores=candidate.scores,
        accuracy=accuracy,
        set_aside=candidate.set_aside,
        estimate=candidate.estimate,
        chosen=candidate.name == report.chosen,
        method=candidate.method,
    )


def _identity(candidate: Candidate) -> str:
    """What two runs' candidates share where they are one model trained twice."""
    said: list[Any] = [candidate.target, candidate.label_free]
    return json.dumps([candidate.method, candidate.settings, *said], sort_keys=True, default=str)


def _distinct(pool: Sequence[tuple[Row, str, Path]]) -> list[Row]:
    """The pool with each model once, and a name of its own for each."""
    kept: dict[str, tuple[Row, Path]] = {}
    for row, identity, place in pool:
        if identity in kept:
            first, where = kept[identity]
            row, place = replace(first, chosen=first.chosen or row.chosen), where
        kept[identity] = (row, place)
    names = [row.candidate for row, _ in kept.values()]
    found: list[Row] = []
    for row, place in kept.values():
        name = row.candidate if names.count(row.candidate) == 1 else f"{row.candidate} of {place}"
        while any(name == other.candidate for other in found):
            name += "'"
        found.append(replace(row, candidate=name))
    return found
