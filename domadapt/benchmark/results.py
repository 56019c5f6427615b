"""The results of a suite as one tidy table: a row per cell and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from domadapt import checkpoint
from domadapt.benchmark.cells import Planned
from domadapt.benchmark.choice import Pool, pools_of
from domadapt.benchmark.search import expanded, searched_of
from domadapt.benchmark.suite import ORACLE, Entry, Suite
from domadapt.benchmark.trials import Trial, judge_trials
from domadapt.errors import DomadaptError
from domadapt.methods.space import LR
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cells

#: Files of a benchmark's folder.
PLAN, RESULTS = "plan.json", "results.parquet"
SCHEMA = 1
COLUMNS = (
    *("task", "method", "seed", "oracle", "kind", "metric", "value", "reason", "key"),
    *("step", "trial"),
)
#: The kinds of rows: from target labels; from source labels; scores without target labels; the
#: guard; the verdict; what it cost, which differs from run to run; and that there is no result.
TARGET, SOURCE, LABEL_FREE = "target", "source", "label_free"
GUARD, VERDICT, COST, FAILED = "guard", "verdict", "cost", "failed"
#: What was seen at a look on the way (see `Suite.checkpoints`), with its ``step``; its metrics that
#: begin with ``oracle_`` are from target labels, the others from none.
LOOK = "look"
#: What there is to say of a trial of a search (see `Suite.search`), with its number ``trial``;
#: again ``oracle_`` marks what is from target labels. The cells of the chosen trial have the rows
#: of the method as well.
TRIAL = "trial"


def write_plan(
    folder: Path,
    suite: Suite,
    cells: Sequence[Planned],
    command: str | None = None,
    to_come: int = 0,
) -> None:
    """Write down what is to be run, for those who look at the folder, and the command, if any.

    `to_come` says how many more cells there will be at most, once trials are chosen.
    """
    entries = [entry for entry in suite.methods if isinstance(entry, Entry)]
    said = asdict(replace(suite, methods=(), folder=Path()))
    del said["folder"]
    said["methods"] = [
        {"name": e.name, "method": e.method, "settings": {k: str(v) for k, v in e.settings.items()}}
        for e in entries
    ]
    said["trials"] = [_said_of(e) for e in expanded(suite) if e.trial is not None]
    said["to_come"] = to_come
    if command is not None:
        said["command"] = command
    checkpoint.write_json(
        folder / PLAN, {"schema": SCHEMA, "suite": said, "cells": [list(cell) for cell in cells]}
    )


def _said_of(trial: Entry) -> dict[str, Any]:
    """A trial as plain data: its cell's name, its method and number, and what it has searched."""
    assert trial.search is not None
    values = {
        key: trial.lr_factor if key == LR else trial.settings[key]
        for key in searched_of(trial, trial.search)
    }
    about = {"cell": trial.name, "method": trial.of, "number": trial.trial, "values": values}
    search = trial.search
    return {**about, "validator": search.validator, "budget": search.trials, "lr": search.lr}


def read_plan(folder: Path) -> tuple[dict[str, Any], list[Planned]]:
    """The suite as plain data and its cells, of the last benchmark in a folder."""
    if not (folder / PLAN).exists():
        raise DomadaptError(
            f"{folder} holds no benchmark; begin one: domadapt benchmark SUITE.toml --out {folder}."
        )
    said = checkpoint.read_json(folder / PLAN)
    if said.get("schema") != SCHEMA:
        raise DomadaptError(
            f"{folder / PLAN} has schema {said.get('schema')!r}, and {SCHEMA} is required; begin "
            "in another folder."
        )
    return said["suite"], [Planned(*cell) for cell in said["cells"]]


def collect(cells: Cells, of: Sequence[Planned]) -> dict[str, dict[str, Any]]:
    """The results of the cells that are finished, failures among them, by key."""
    there = cells.keys()
    return {cell.key: cells.result(cell.key) for cell in of if cell.key in there}


def tidy(
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
    pools: Sequence[Pool],
    trials: Sequence[Trial] = (),
) -> pd.DataFrame:
    """One row per cell and metric, in the order of the cells, and after them those of the trials.

    Columns: ``task, method, seed, oracle, kind, metric, value, reason, key, step, trial``; see
    `TARGET` and its like for the kinds. ``reason`` says why a cell failed or its method is set
    aside, and what a trial's settings are; ``step`` is that of a look and ``trial`` the number of a
    trial, both empty elsewhere.
    """
    judged = {(pool.task, pool.seed): pool for pool in pools}
    rows: list[tuple[Any, ...]] = []
    for cell in of:
        if cell.key not in found:
            continue
        result = found[cell.key]
        oracle = bool(result.get("oracle", False))

        def add(
            kind: str,
            metric: str,
            value: Any,
            reason: str = "",
            who: tuple[Any, ...] = (cell.task, cell.method, cell.seed, oracle),
            key: str = cell.key,
            step: int | None = None,
        ) -> None:
            rows.append((*who, kind, metric, float(value), reason, key, step, None))

        if result["error"] is not None:
            add(FAILED, "failed", 1.0, result["error"])
            continue
        for metric, value in result["metrics"].items():
            add(SOURCE if metric.startswith("source_") else TARGET, metric, value)
        for metric, value in result["scores"].items():
            add(LABEL_FREE, metric, value)
        for look in result.get("looks", ()):
            for metric, value in look["scores"].items():
                add(LOOK, metric, value, step=look["step"])
            for metric, value in look[ORACLE].items():
                add(LOOK, f"{ORACLE}_{metric}", value, step=look["step"])
        pool = judged.get((cell.task, cell.seed))
        if pool is not None and not oracle and result.get("adapted", True):
            if cell.method in pool.ensv:
                add(LABEL_FREE, "ensv", pool.ensv[cell.method])
            reasons = pool.set_aside.get(cell.method, [])
            add(GUARD, "set_aside", bool(reasons), "; ".join(reasons))
            add(VERDICT, "chosen", pool.chosen == cell.method)
            if cell.method in pool.ranking:
                add(VERDICT, "rank_score", pool.ranking[cell.method])
        for metric in ("seconds", "wall_seconds", "steps", "parameters"):
            add(COST, metric, result[metric])
        for place, size in result["peak_memory"].items():
            add(COST, f"peak_memory_{place}", size)
    for trial in trials:
        facts: dict[str, tuple[float, str]] = {
            "chosen": (trial.chosen, trial.words),
            "failed": (bool(trial.failed), trial.failed),
            "set_aside": (bool(trial.set_aside), trial.set_aside),
        }
        if trial.score is not None:
            facts[trial.validator] = (trial.score, "")
        facts |= {f"{ORACLE}_{name}": (value, "") for name, value in trial.oracle.items()}
        own = (trial.task, trial.method, trial.seed, False, TRIAL)
        rows += [
            (*own, metric, float(value), why, trial.key, None, trial.number)
            for metric, (value, why) in facts.items()
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    types = {"seed": "int64", "oracle": "bool", "value": "float64"}
    types |= {"step": "Int64", "trial": "Int64"}
    return frame.astype({**types, **{c: "str" for c in COLUMNS if c not in types}})


def write_results(folder: Path, frame: pd.DataFrame) -> Path:
    """Write the table as ``results.parquet``, whole or not at all."""
    path = folder / RESULTS
    checkpoint.write_atomically(path, lambda p: frame.to_parquet(p, index=False))
    return path


def results_of(
    folder: Path, of: Sequence[Planned], trials: Sequence[Trial] = ()
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The table of the cells that are finished, verdicts included, and their results by key."""
    cells = Cells(folder)
    found = collect(cells, of)
    return tidy(of, found, pools_of(cells, of, found), trials), found


def trials_of(folder: Path, about: Mapping[str, Any], of: Sequence[Planned]) -> list[Trial]:
    """The trials of searches that are finished, of each search one chosen."""
    names = {trial["cell"] for trial in about.get("trials", ())}
    if not names:
        return []
    cells = Cells(folder)
    firsts = [c for c in of if c.seed == about["seeds"][0]]
    looked = [c for c in firsts if c.method in names or c.method == BASELINE]
    return judge_trials(cells, about, firsts, collect(cells, looked))
