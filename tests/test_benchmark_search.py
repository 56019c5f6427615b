"""Search budgets: what is drawn, run and chosen, and that labels have no part in it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from domadapt import cli
from domadapt.benchmark import Benchmark, Entry, Search, Suite, benchmark, read_suite, report
from domadapt.benchmark import run as run_module
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.choice import evidence_of
from domadapt.benchmark.engines import Engine
from domadapt.benchmark.fair import checks
from domadapt.benchmark.results import read_plan, write_plan
from domadapt.benchmark.run import chosen_trials
from domadapt.benchmark.search import drawn, expanded, most_to_come, searched_of, to_run
from domadapt.benchmark.trials import judge_trials
from domadapt.checkpoint import write_text
from domadapt.errors import DomadaptError
from domadapt.methods.space import LR, Choices, Range
from domadapt.runs.cell import Cell, Cells, Work
from domadapt.runs.engine import shared
from domadapt.selection.evidence import together
from domadapt.selection.guard import guard
from domadapt.selection.registry import get_validator

TRAINING = {"steps": 12, "batch_size": 16, "device": "cpu", "log_every": 4}


def suite(task: str = "near", methods: Any = ("dan", "shot"), **change: Any) -> Suite:
    given = {"seeds": 2, "search": {"trials": 3}, "validators": ("ensv",), **change}
    return Suite(
        "s",
        tasks=[f"benchmark_tasks.py:{task}"],
        methods=methods,
        model={"name": "mlp"},
        training=TRAINING,
        folder=Path(__file__).parent,
        **given,
    ).checked()


def entries(of: Suite) -> dict[str, Entry]:
    return {entry.name: entry for entry in expanded(of)}


@contextmanager
def this_process(*_: Any, **__: Any) -> Iterator[Engine]:
    """An engine that computes the cells here."""

    def run(cells: Cells, wanted: Sequence[Cell], work: Work, **_: Any) -> None:
        for cell in shared(cells, wanted):
            cells.perform(cell, work)

    yield Engine(run, "here")


@pytest.fixture(scope="module", autouse=True)
def _no_page() -> Iterator[None]:
    """The page and its maps, and processes of their own, take seconds and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "content_of", lambda *a, **k: None)
        patch.setattr(run_module, "render", lambda content: "")
        patch.setattr(run_module, "engine_for", this_process)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:
    folder = tmp_path_factory.mktemp("search")
    return folder, benchmark(suite(), folder)


# What is drawn ---------------------------------------------------------------------------------


def test_one_setting_follows_the_golden_ratio() -> None:
    space: dict[str, Any] = {"a": Range(0.0, 1.0, log=False)}
    values = np.array([drawn(space, t, 0, "m")["a"] for t in range(1, 40)])
    golden = (math.sqrt(5) - 1) / 2
    steps = np.diff(values) % 1.0
    np.testing.assert_allclose(steps, golden, atol=2e-6)
    # Three lengths of gap at most, as for every such sequence (the three-gap theorem).
    gaps = np.diff(np.sort(values))
    assert len(set(np.round(gaps, 4))) <= 3
    assert gaps.max() < 3 / len(values)


def test_draws_fill_the_square_and_depend_on_seed_and_method() -> None:
    space: dict[str, Any] = {"a": Range(0.0, 1.0, log=False), "b": Range(0.0, 1.0, log=False)}

    def points(seed: int, name: str) -> np.ndarray:
        return np.array([list(drawn(space, t, seed, name).values()) for t in range(1, 65)])

    found = points(0, "m")
    cells = {(int(4 * a), int(4 * b)) for a, b in found}
    assert len(cells) == 16
    assert not np.allclose(found, points(1, "m"))
    assert not np.allclose(found, points(0, "n"))
    np.testing.assert_array_equal(found, points(0, "m"))


def test_values_of_every_kind() -> None:
    space: dict[str, Any] = {
        "log": Range(0.01, 100.0, log=True),
        "whole": Range(1, 4, log=False),
        "times": Range(1, 8, log=True),
        "way": Choices(("a", "b", "c")),
    }
    found = [drawn(space, t, 0, "m") for t in range(1, 201)]
    assert all(0.01 <= f["log"] <= 100 for f in found)
    # By their logarithm: half of them below 1, a quarter below 0.1.
    assert np.mean([f["log"] < 1 for f in found]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([f["log"] < 0.1 for f in found]) == pytest.approx(0.25, abs=0.05)
    for n in (1, 2, 3, 4):
        assert np.mean([f["whole"] == n for f in found]) == pytest.approx(0.25, abs=0.05)
    assert {type(f["whole"]) for f in found} == {int}
    assert {f["times"] for f in found} == set(range(1, 9))
    for way in "abc":
        assert np.mean([f["way"] == way for f in found]) == pytest.approx(1 / 3, abs=0.05)
    # Six digits, so that machines agree.
    assert all(float(f"{f['log']:.6g}") == f["log"] for f in found)


def test_more_trials_leave_the_others_as_they_are() -> None:
    few, many = entries(suite()), entries(suite(search={"trials": 6}))
    assert set(few) < set(many)
    assert len(many) == 3 * 6 + 1
    for name, entry in few.items():
        assert (entry.settings, entry.lr_factor) == (many[name].settings, many[name].lr_factor)


# What is searched ------------------------------------------------------------------------------


def test_source_only_is_searched_by_its_learning_rate_alone() -> None:
    found = entries(suite())
    factors = [found[f"source_only#{t}"].lr_factor for t in range(3)]
    assert factors[0] == 1.0
    assert len(set(factors)) == 3
    assert all(0.1 <= f <= 10 for f in factors)
    assert len({str(found[f"source_only#{t}"].settings) for t in range(3)}) == 1
    assert all(found[f"dan#{t}"].lr_factor == 1 for t in range(3))
    assert len({found[f"dan#{t}"].settings["mmd_weight"] for t in range(3)}) == 3
    with_lr = entries(suite(search={"trials": 3, "lr": True}))
    assert len({with_lr[f"dan#{t}"].lr_factor for t in range(3)}) == 3
    cells = {c.method: c for c in cells_of(suite())}
    lr = cells["dan#1"].config["training"]["lr"]
    assert cells["source_only#2"].config["training"]["lr"] == pytest.approx(lr * factors[2], 1e-5)
    assert cells["target_only"].config["training"]["lr"] == lr


def test_given_settings_are_not_searched_and_own_searches_go_first() -> None:
    methods = [
        Entry("adamatch", {"threshold": 0.8}),
        Entry("dan", search=Search(2)),
        Entry("adabn"),
        "mcc",
    ]
    one = suite(methods=methods)
    found = entries(one)
    kept = [found[f"adamatch#{t}"].settings for t in range(3)]
    assert [s["threshold"] for s in kept] == [0.8] * 3
    assert len({s["pseudo_weight"] for s in kept}) == 3
    assert "dan#1" in found
    assert "dan#2" not in found
    # adabn trains nothing and has no space.
    assert [name for name in found if name.startswith("adabn")] == ["adabn#0"]
    # What is checked can be checked again.
    assert one.checked() == one
    only = entries(suite(methods=["mcc", Entry("dan", search=Search(2))], search=None))
    assert list(only) == ["source_only", "mcc", "dan#0", "dan#1", "target_only"]
    assert list(entries(suite(methods=["mcc"], search={"trials": 1})))[:2] == ["source_only", "mcc"]
    space = searched_of(found["adamatch#0"], Search(3, lr=True))
    assert list(space) == ["pseudo_weight", LR]


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        """
        tasks = ["digits:printed->handwritten"]
        methods = ["mcc", {method = "dan", search = {trials = 2, validator = "ensv", lr = true}}]
        search = {trials = 8, validator = "snd", seed = 3}
        checkpoints = 5
        """
    )
    found = read_suite(tmp_path / "s.toml")
    assert found.search == Search(8, "snd", False, 3)
    by_name = {e.name: e for e in found.methods if isinstance(e, Entry)}
    assert by_name["dan"].search == Search(2, "ensv", True)
    assert by_name["mcc"].search is None
    assert found.checkpoints == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"search": {"trials": 0}}, "trials of a search are a whole number from 1 on; got 0"),
        ({"search": {"trials": 2.5}}, "whole number from 1 on"),
        ({"search": {"validator": "ensv"}}, "a table with a number of trials"),
        ({"search": 8}, "a table with a number of trials"),
        ({"search": {"trials": 2, "validators": "ensv"}}, "Did you mean 'validator'"),
        ({"search": {"trials": 2, "validator": "enzv"}}, "Did you mean 'ensv'"),
        ({"search": {"trials": 2, "lr": 1}}, "lr of a search is true or false"),
        ({"methods": [Entry("target_only", search=Search(2))]}, "no search"),
        (
            {"methods": ["dan", Entry("mcc", name="dan#1", search=Search(1))]},
            "what a trial of the search is called",
        ),
    ],
)
def test_wrong_searches(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        suite(**change)


# What is run -----------------------------------------------------------------------------------


def test_the_first_trial_is_the_cell_without_a_search() -> None:
    plain = {(c.method, c.seed): c.key for c in cells_of(suite(search=None))}
    searched = {(c.method, c.seed): c.key for c in cells_of(suite())}
    for method in ("source_only", "dan", "shot"):
        for seed in (0, 1):
            assert searched[f"{method}#0", seed] == plain[method, seed]
    assert searched["target_only", 0] == plain["target_only", 0]
    assert len(set(searched.values())) == len(searched)


def test_other_seeds_are_run_of_the_chosen_trials_alone(whole: tuple[Path, Benchmark]) -> None:
    one = suite()
    wanted = cells_of(one)
    now = to_run(wanted, one)
    # source_only#0 of seed 1 as well: shot goes on from it, whatever is chosen.
    later = [(c.method, c.seed) for c in to_run(wanted, one, {("benchmark_tasks:near", "shot#2")})]
    assert len(now) == 3 * 3 + 2
    assert set(later) - {(c.method, c.seed) for c in now} == {("source_only#0", 1), ("shot#2", 1)}
    folder, found = whole
    _, planned_cells = read_plan(folder)
    chosen = {cell for _, cell in chosen_trials(folder)}
    assert len(chosen) == 3
    assert {c.method for c in planned_cells if c.seed == 1} == chosen | {
        "target_only",
        "source_only#0",
    }
    assert found.missing == 0
    assert found.failures == []
    assert len(planned_cells) == len(now) + most_to_come(one)


def test_source_free_trials_go_on_from_source_only_as_given() -> None:
    cells = {(c.method, c.seed): c for c in cells_of(suite(search={"trials": 2, "lr": True}))}
    for seed in (0, 1):
        start = cells["source_only#0", seed].key
        assert {cells[f"shot#{t}", seed].needs for t in range(2)} == {(start,)}


# What is chosen --------------------------------------------------------------------------------


def rows_of(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    return frame[(frame["kind"] == "trial") & (frame["metric"] == metric)]


def test_the_choice_by_hand(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    results = [json.loads(p.read_text()) for p in folder.glob("cells/*/result.json")]
    first = {r["method"]: r for r in results if r["seed"] == 0}
    cells = Cells(folder)
    about, of = read_plan(folder)
    evidence = {
        c.method: evidence_of(cells, c, first[c.method])
        for c in of
        if c.seed == 0 and c.method in first and not first[c.method]["oracle"]
    }
    for method in ("source_only", "dan", "shot"):
        scores = {
            name: r["scores"]["class_ami"]
            for name, r in first.items()
            if name.startswith(f"{method}#")
            and not guard(evidence[name], evidence["source_only#0"])
        }
        best = max(scores, key=lambda name: scores[name])
        assert {c for _, c in chosen_trials(folder) if c.startswith(method)} == {best}
        # The row holds that trial's cells, under the method's name.
        mine = found.frame[(found.frame["method"] == method) & (found.frame["kind"] == "target")]
        accuracy = mine[mine["metric"] == "accuracy"].set_index("seed")["value"]
        expected = {r["seed"]: r["metrics"]["accuracy"] for r in results if r["method"] == best}
        assert accuracy.to_dict() == expected
        assert len(expected) == 2
    assert not found.frame.duplicated(["task", "method", "seed", "kind", "metric", "trial"]).any()
    assert set(found.frame["method"]) == {"source_only", "dan", "shot", "target_only"}
    assert about["to_come"] == 0
    # Kept, and made anew where it is deleted.
    kept = (folder / "trials.json").read_text()
    (folder / "trials.json").unlink()
    again = report(folder)
    assert (folder / "trials.json").read_text() == kept
    pd.testing.assert_frame_equal(again.frame, found.frame, check_exact=True)


def test_a_validator_that_compares_compares_the_trials(whole: tuple[Path, Benchmark]) -> None:
    folder, _ = whole
    one = suite(search={"trials": 3, "validator": "ensv"})
    cells, of = Cells(folder), planned(to_run(cells_of(one), one))
    found = {c.key: cells.result(c.key) for c in of if c.seed == 0}
    about = {**read_plan(folder)[0]}
    about["trials"] = [{**t, "validator": "ensv"} for t in about["trials"]]
    first = [c for c in of if c.seed == 0]
    trials = [t for t in judge_trials(cells, about, first, found) if t.method == "dan"]
    mine = [c for c in first if c.method.startswith("dan#")]
    pool = together([evidence_of(cells, c, found[c.key]) for c in mine])
    assert [t.score for t in trials] == [get_validator("ensv").score(e) for e in pool]
    (folder / "trials.json").unlink()


def test_target_labels_have_no_part_in_the_choice(
    whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    other = benchmark(suite("relabelled", ["dan"], seeds=1), tmp_path).frame
    mine = whole[1].frame
    mine = mine[mine["method"] != "shot"]
    for metric in ("chosen", "class_ami", "set_aside"):
        a, b = (
            rows_of(f, metric).drop(columns=["task", "key"]).reset_index(drop=True)
            for f in (mine, other)
        )
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert not np.array_equal(
        rows_of(mine, "oracle_accuracy")["value"], rows_of(other, "oracle_accuracy")["value"]
    )


def rewritten(folder: Path, to: Path, method: str, **change: Any) -> Benchmark:
    """The benchmark with other results of one trial's cell of the first seed."""
    shutil.copytree(folder, to)
    for file in (to / "cells").glob("*/result.json"):
        result = json.loads(file.read_text())
        if result["method"] == method and result["seed"] == 0:
            file.write_text(json.dumps({**result, **change}))
    (to / "trials.json").unlink(missing_ok=True)
    return report(to)


def test_failed_and_broken_trials_are_not_chosen(
    whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    folder, found = whole
    best = next(c for _, c in chosen_trials(folder) if c.startswith("dan#"))
    broken = rewritten(folder, tmp_path / "a", best, stopped="it was hopeless")
    row = rows_of(broken.frame, "set_aside")
    row = row[(row["method"] == "dan") & (row["value"] == 1)]
    assert row["reason"].str.contains("it was hopeless").all()
    assert len(row) >= 1
    chosen = rows_of(broken.frame, "chosen")
    chosen = chosen[(chosen["method"] == "dan") & (chosen["value"] == 1)]
    assert chosen["trial"].item() != int(best.partition("#")[2])
    failed = rewritten(folder, tmp_path / "b", best, error="RuntimeError: no")
    assert (f"{best} on benchmark_tasks:near, seed 0", "RuntimeError: no") in failed.failures
    assert failed.summary is not None
    assert {s.method: s.failed for s in failed.summary.searches}["dan"] == 1
    assert found.failures == []


def test_nothing_is_chosen_before_all_trials_are_there(
    whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    folder, _ = whole
    about, of = read_plan(folder)
    cells = Cells(folder)
    found = {c.key: cells.result(c.key) for c in of if c.seed == 0}
    one = next(c for c in of if c.method == "dan#1" and c.seed == 0)
    del found[one.key]
    first = [c for c in of if c.seed == 0]
    cells = Cells(tmp_path)
    (tmp_path / "cells").symlink_to(folder / "cells")
    trials = judge_trials(cells, about, first, found)
    assert {t.method for t in trials} == {"source_only", "shot"}


# What is said ----------------------------------------------------------------------------------


def test_the_table_of_searches_by_hand(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    results = [json.loads(p.read_text()) for p in folder.glob("cells/*/result.json")]
    dan = {
        r["method"]: r["metrics"]["accuracy"]
        for r in results
        if r["seed"] == 0 and r["method"].startswith("dan#")
    }
    best = next(c for _, c in chosen_trials(folder) if c.startswith("dan#"))
    assert found.summary is not None
    row = next(s for s in found.summary.searches if s.method == "dan")
    assert (row.trials, row.tasks, row.validator) == (3, 1, "class_ami")
    assert row.given == dan["dan#0"]
    assert row.chosen == dan[best]
    assert row.best == max(dan.values())
    assert row.kept == (best == "dan#0")
    text = (folder / "leaderboard.md").read_text()
    assert "## Searched settings" in text
    assert "| dan | 3 | class_ami |" in text
    assert "best (oracle)" in text
    kept = text[text.index("## Chosen settings") :]
    said = next(line for line in kept.splitlines() if line.startswith("| dan |"))
    assert said.split("|")[2].strip() == (row.settings[found.summary.tasks[0]] or "as given")
    assert ("mmd_weight" in said) == (not row.kept)


def test_budgets_are_said_and_unequal_ones_named(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    tuning = next(c for c in found.checks if c.what == "same tuning")
    assert tuning.kept
    assert tuning.found.startswith("3 trials by class_ami each, source_only too")
    assert next(c for c in found.checks if c.what.startswith("same training")).kept
    about, of = read_plan(folder)
    cells = Cells(folder)
    rows = [c._replace(method=c.method.partition("#")[0]) for c in of if c.seed == 0]
    results = {c.key: cells.result(c.key) for c in of if c.seed == 0}
    for change, said in (
        ({"budget": 20}, "20 trials by class_ami: dan"),
        ({"validator": "snd"}, "3 trials by snd: dan"),
        ({"lr": True}, "3 trials by class_ami, learning rate too: dan"),
    ):
        trials = [t | change if t["method"] == "dan" else t for t in about["trials"]]
        broken = {c.what: c for c in checks(rows, results, {**about, "trials": trials})}
        assert not broken["same tuning"].kept
        assert said in broken["same tuning"].found
    trials = [t for t in about["trials"] if t["method"] != "shot"]
    rows = [c for c in rows if results[c.key]["method"] in ("shot#0", "dan#1", "source_only#1")]
    broken = {c.what: c for c in checks(rows, results, {**about, "trials": trials})}
    assert not broken["same tuning"].kept
    assert "no search: shot" in broken["same tuning"].found
    # Another learning rate than that of the search is no part of it.
    key = next(c.key for c in rows if c.method == "dan")
    config = results[key]["config"]
    changed = {**config, "training": {**config["training"], "lr": 0.5}}
    results[key] = {**results[key], "config": changed}
    assert not {c.what: c for c in checks(rows, results, about)}[
        "same training (optimiser, rates, batch, schedule)"
    ].kept


def test_a_trial_with_another_learning_rate_is_trained_with_it(
    whole: tuple[Path, Benchmark],
) -> None:
    results = [json.loads(p.read_text()) for p in whole[0].glob("cells/*/result.json")]
    rates = {r["method"]: r["training"]["lr"] for r in results if r["seed"] == 0}
    assert rates["dan#1"] == rates["source_only#0"] == rates["target_only"]
    factor = entries(suite())["source_only#1"].lr_factor
    assert rates["source_only#1"] == pytest.approx(factor * rates["source_only#0"], rel=1e-5)
    first = {r["method"]: r["initial_weights"] for r in results if r["seed"] == 0}
    assert len(set(first.values())) == 1


def test_searches_and_looks_go_together(tmp_path: Path) -> None:
    one = dataclasses.replace(
        suite(methods=["dan"], seeds=1, search={"trials": 2}), checkpoints=2
    ).checked()
    found = benchmark(one, tmp_path)
    assert found.failures == []
    assert found.summary is not None
    assert [c.method for c in found.summary.checkpoints] == ["source_only", "dan"]
    assert [s.method for s in found.summary.searches] == ["source_only", "dan"]


def test_who_watches_sees_the_chosen_trials_too(
    whole: tuple[Path, Benchmark],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "b")
    one, plan = suite(), (tmp_path / "b" / "plan.json").read_text()
    write_plan(tmp_path / "b", one, planned(to_run(cells_of(one), one)), to_come=4)
    half = report(tmp_path / "b")
    assert half.missing == 4

    # While it waits, the trials are chosen.
    monkeypatch.setattr(time, "sleep", lambda _: write_text(tmp_path / "b" / "plan.json", plan))
    monkeypatch.setattr(
        sys, "argv", ["domadapt", "benchmark", "s.toml", "--watch", "--out", str(tmp_path / "b")]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    said = capsys.readouterr()
    assert "11 of 11 cells" in said.err
    assert "15 of 15 cells" in said.err
    assert "over 2 seeds" in said.out
