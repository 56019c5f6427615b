"""Benchmarks of a tiny suite: cells against `adapt`, verdicts, the firewall, kills, the tables."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmark_tasks
import numpy as np
import pandas as pd
import pytest
import torch

from domadapt import adapt, cli
from domadapt.benchmark import Benchmark, Suite, read_suite, report
from domadapt.benchmark import pace as pace_module
from domadapt.benchmark import work as work_module
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.choice import judged, of_rank
from domadapt.benchmark.fair import checks
from domadapt.benchmark.pace import Follower, watch
from domadapt.benchmark.results import collect, read_plan, results_of, write_plan
from domadapt.benchmark.work import SuiteWork, with_target_labels_oracle
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.evaluation import score
from domadapt.methods import method_names, registry
from domadapt.runs.candidate import Trainer, train_candidate
from domadapt.runs.cell import Cell, Cells
from domadapt.runs.engine import shared
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.selection.evidence import gather, together
from domadapt.selection.guard import feature_rank
from domadapt.selection.registry import get_validator
from domadapt.selection.verdict import judge

HERE = Path(__file__).parent
TRAINING = {"steps": 12, "batch_size": 16, "device": "cpu", "checkpoint_every": 4, "log_every": 4}
FAILS = '''
from domadapt.methods import Method, register


@register("fails")
class Fails(Method):
    """Fails."""

    def terms(self, out, batch):
        raise ZeroDivisionError("on purpose")
'''
SUITE = """
name = "tiny"
tasks = ["benchmark_tasks.py:near", "benchmark_tasks.py:far"]
methods = ["dan", "shot", "fails.py"]
seeds = 2
model = {name = "mlp"}
training = {steps = 12, batch_size = 16, device = "cpu", checkpoint_every = 4, log_every = 4}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's file, with its tasks and a method of its own beside it."""
    place = tmp_path_factory.mktemp("suite")
    shutil.copy(HERE / "benchmark_tasks.py", place)
    (place / "fails.py").write_text(FAILS)
    (place / "tiny.toml").write_text(SUITE)
    return place / "tiny.toml"


@pytest.fixture(scope="module")
def whole(file: Path) -> tuple[Path, Benchmark]:
    """The suite run without interruption in this process."""
    method_names()
    before = dict(registry._METHODS)
    run_here(read_suite(file), file.parent / "whole")
    found = report(file.parent / "whole")
    registry._METHODS.clear()
    registry._METHODS.update(before)
    return file.parent / "whole", found


def run_here(suite: Suite, folder: Path) -> list[Cell]:
    cells, wanted = Cells(folder), cells_of(suite)
    write_plan(folder, suite, planned(wanted))
    for cell in shared(cells, wanted):
        cells.perform(cell, SuiteWork(suite))
    return wanted


def small(**change: Any) -> Suite:
    given = {"tasks": ["benchmark_tasks.py:near"], "methods": ["dan"], "seeds": 1, **change}
    return Suite("s", **given, model={"name": "mlp"}, training=TRAINING, folder=HERE).checked()


def value(frame: pd.DataFrame, metric: str, **where: Any) -> float:
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    found = frame.loc[frame["metric"] == metric, "value"]
    assert len(found) == 1
    return float(found.iloc[0])


def timeless(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that must be equal however often a benchmark was killed."""
    kept = frame[frame["kind"] != "cost"]
    return kept.sort_values(["key", "kind", "metric"]).reset_index(drop=True)


# Cells ----------------------------------------------------------------------------------------


def test_a_cell_is_what_adapt_makes(whole: tuple[Path, Benchmark]) -> None:
    frame = whole[1].frame
    done = adapt(benchmark_tasks.far(), "mlp", "dan", training=TRAINING, seed=1, look=False)
    for candidate in done.report.candidates:
        where = {"task": "benchmark_tasks:far", "seed": 1, "method": candidate.name}
        assert candidate.target is not None
        for metric in ("accuracy", "macro_f1", "per_class_mean", "auroc"):
            assert value(frame, metric, **where) == candidate.target[metric]
        assert value(frame, "n", **where) == 60
        for name, score_ in candidate.scores.items():
            if name != "ensv":
                assert value(frame, name, kind="label_free", **where) == score_
        known = candidate.label_free["source_val_accuracy"]
        assert value(frame, "source_val_accuracy", kind="source", **where) == known


def test_source_free_methods_go_on_from_the_finished_source_only(
    whole: tuple[Path, Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = adapt(benchmark_tasks.far(), "mlp", "shot", training=TRAINING, seed=0, look=False)
    shot = next(c for c in done.report.candidates if c.name == "shot")
    assert shot.target is not None
    where = {"task": "benchmark_tasks:far", "seed": 0, "method": "shot"}
    assert value(whole[1].frame, "accuracy", **where) == shot.target["accuracy"]
    # Trained once: of three cells the third takes up what the first has trained.
    fits, plans = [], []
    fit, make = Trainer.fit, work_module.make_plan
    monkeypatch.setattr(Trainer, "fit", lambda *a, **k: (fits.append(1), fit(*a, **k))[1])
    monkeypatch.setattr(
        work_module, "make_plan", lambda *a, **k: (plans.append(1), make(*a, **k))[1]
    )
    run_here(small(methods=["shot"], seeds=2), tmp_path)
    assert len(fits) == 2 * 3
    assert len(plans) == 1


def test_target_only_is_stamped_and_never_scored_on_what_it_saw(
    whole: tuple[Path, Benchmark],
) -> None:
    frame = whole[1].frame
    assert set(frame.loc[frame["oracle"], "method"]) == {"target_only"}
    kinds = frame[frame["method"] == "target_only"]["kind"]
    assert set(kinds) == {"target", "source", "cost"}
    task = benchmark_tasks.near()
    oracle = task.oracle()
    assert not set(oracle.target_train.indices) & set(oracle.target_test.indices)
    where = {"task": "benchmark_tasks:near", "method": "target_only", "seed": 0}
    assert value(frame, "n", **where) == len(oracle.target_test)
    # By hand: source_only's training on the labelled part of the target.
    plan = make_plan(task, ModelSpec(name="mlp"))
    labelled = dataclasses.replace(plan, task=with_target_labels_oracle(task))
    assert labelled.task.source_train.y is not None
    assert oracle.target_train.y is not None
    assert torch.equal(labelled.task.source_train.y, oracle.target_train.y)
    assert labelled.task.source_train.domain.name == "target"
    trained = train_candidate(labelled, "source_only", {}, training_for(plan.kind, TRAINING))
    assert oracle.target_test.y is not None
    test = oracle.target_test.domain.samples.__getitems__(oracle.target_test.indices.tolist())
    assert isinstance(test, torch.Tensor)
    with torch.no_grad():
        logits = trained.network.eval()(plan.views.evaluation(test))
    expected = score(logits, oracle.target_test.y, task.class_names).accuracy
    assert value(frame, "accuracy", **where) == expected
    stored = json.loads((whole[0] / "cells" / key_of(whole[0], where) / "result.json").read_text())
    assert stored["oracle"] is True
    assert stored["scored_on"] == "oracle_target_test"


def key_of(folder: Path, where: dict[str, Any]) -> str:
    _, cells = read_plan(folder)
    return next(
        c.key
        for c in cells
        if (c.task, c.method, c.seed) == (where["task"], where["method"], where["seed"])
    )


def test_target_labels_change_scores_and_nothing_that_selects(tmp_path: Path) -> None:
    frames = {}
    for name in ("near", "relabelled"):
        run_here(small(tasks=[f"benchmark_tasks.py:{name}"]), tmp_path / name)
        frames[name] = report(tmp_path / name).frame.drop(columns=["key", "task"])
    first, other = frames.values()
    for kind in ("label_free", "guard", "verdict", "source"):
        mine = [f[(f["kind"] == kind) & ~f["oracle"]] for f in (first, other)]
        assert len(mine[0]) > 0
        pd.testing.assert_frame_equal(*(f.reset_index(drop=True) for f in mine), check_exact=True)
    where = {"method": "source_only", "kind": "target"}
    assert value(first, "accuracy", **where) > value(other, "accuracy", **where) + 0.3


def test_a_finished_cell_holds_what_it_says(whole: tuple[Path, Benchmark]) -> None:
    where = {"task": "benchmark_tasks:near", "method": "dan", "seed": 1}
    place = whole[0] / "cells" / key_of(whole[0], where)
    assert {p.name for p in place.iterdir()} == {"result.json", "history.json", "outputs.npz"}
    result = json.loads((place / "result.json").read_text())
    assert result["steps"] == 12
    assert result["training"]["seed"] == 1
    assert result["peak_memory"]["process"] > 10_000_000
    assert 0 < result["seconds"] <= result["wall_seconds"]
    assert result["config"]["torch"] == torch.__version__
    assert result["config"]["threads"] == 1
    network = make_plan(benchmark_tasks.near(), ModelSpec(name="mlp")).make_network(1)
    assert result["parameters"] == sum(p.numel() for p in network.parameters())
    with np.load(place / "outputs.npz", allow_pickle=False) as kept:
        assert kept["target_logits"].shape == (90, 3)
        val = (kept["val_logits"].argmax(1) == kept["val_y"]).mean()
    assert result["metrics"]["source_val_accuracy"] == pytest.approx(val)


# Verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1.0, 1.2, 1.5, 2.0, 3.7, 5.99])
def test_features_of_a_given_rank(rank: float) -> None:
    assert feature_rank(of_rank(rank)) == pytest.approx(rank, abs=1e-6)
    assert feature_rank(of_rank(1000.0)) == pytest.approx(6.0)


def test_the_verdict_is_that_of_adapt(whole: tuple[Path, Benchmark]) -> None:
    task = benchmark_tasks.near()
    plan = make_plan(task, ModelSpec(name="mlp"))
    how = training_for(plan.kind, TRAINING)
    trained = [train_candidate(plan, "source_only", {}, how)]
    for name in ("dan", "shot"):
        trained.append(train_candidate(plan, name, {}, how, start=trained[0].network))
    evidence = together([gather(t, task, plan.views) for t in trained])
    real = judge(evidence, "source_only", task.class_names)
    pool = judged("t", 0, evidence, {})
    assert (pool.chosen, pool.set_aside, pool.ranking) == (
        real.chosen,
        real.set_aside,
        real.ranking,
    )
    rows = whole[1].frame
    rows = rows[(rows["task"] == "benchmark_tasks:near") & (rows["seed"] == 0)]
    chosen = rows[(rows["metric"] == "chosen") & (rows["value"] == 1)]["method"]
    assert chosen.tolist() == [real.chosen]
    for name, score_ in real.ranking.items():
        assert value(rows, "rank_score", method=name) == pytest.approx(score_, abs=1e-9)
    for one in evidence:
        assert value(rows, "ensv", method=one.name) == get_validator("ensv").score(one)


def test_a_collapsed_method_is_set_aside(whole: tuple[Path, Benchmark], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "b", ignore=shutil.ignore_patterns("verdicts.json"))
    where = {"task": "benchmark_tasks:near", "method": "dan", "seed": 0}
    file = tmp_path / "b" / "cells" / key_of(whole[0], where) / "outputs.npz"
    with np.load(file) as kept:
        values = dict(kept)
    values["target_logits"][:] = [9.0, 0.0, 0.0]
    np.savez(file, **values)
    frame = results_of(tmp_path / "b", read_plan(tmp_path / "b")[1])[0]
    row = frame[(frame["metric"] == "set_aside") & (frame["method"] == "dan")].iloc[0]
    assert row["value"] == 1
    assert "1.0 classes in effect" in row["reason"]


# Tables ---------------------------------------------------------------------------------------


def test_a_failing_method_is_recorded_and_the_rest_goes_on(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    assert len(found.failures) == 4
    assert all(why == "ZeroDivisionError: on purpose" for _, why in found.failures)
    rows = found.frame[found.frame["method"] == "fails"]
    assert rows["kind"].tolist() == ["failed"] * 4
    assert set(rows["reason"]) == {"ZeroDivisionError: on purpose"}
    assert found.missing == 0
    text = (folder / "leaderboard.md").read_text()
    assert "- fails on benchmark_tasks:far, seed 1: ZeroDivisionError: on purpose" in text
    assert "NO: complete: 16 of 20 cells have a result" in text


def test_the_table_is_tidy_and_survives_parquet(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    assert not found.frame.duplicated(["task", "method", "seed", "kind", "metric"]).any()
    assert np.isfinite(found.frame["value"]).all()
    read = pd.read_parquet(folder / "results.parquet")
    pd.testing.assert_frame_equal(read, found.frame, check_exact=True)


def test_the_leaderboard_by_hand(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    results = [json.loads(p.read_text()) for p in folder.glob("cells/*/result.json")]

    def accuracies(method: str, task: str) -> list[float]:
        mine = [r for r in results if (r["method"], r["task"]) == (method, task)]
        return [r["metrics"]["accuracy"] for r in sorted(mine, key=lambda r: r["seed"])]

    tasks = ["benchmark_tasks:near", "benchmark_tasks:far"]
    assert found.summary is not None
    standings = {s.method: s for s in found.summary.standings}
    assert list(standings) == ["source_only", "dan", "shot", "fails", "target_only"]
    means = {m: [np.mean(accuracies(m, t)) for t in tasks] for m in standings if m != "fails"}
    dan = standings["dan"]
    assert dan.mean == pytest.approx(np.mean(means["dan"]))
    a, b = accuracies("dan", tasks[0])
    # t of one degree of freedom at 97.5 %: 12.7062.
    assert dan.tasks[tasks[0]].half == pytest.approx(12.7062 * abs(a - b) / 2, rel=1e-4, abs=1e-9)
    below = sum(
        x < y
        for t in tasks
        for x, y in zip(accuracies("dan", t), accuracies("source_only", t), strict=True)
    )
    assert dan.negative == (below, 4)
    source, upper = np.mean(means["source_only"]), np.mean(means["target_only"])
    if upper > source:
        assert dan.gap == pytest.approx((dan.mean - source) / (upper - source))
    assert standings["source_only"].time == pytest.approx(1.0)
    assert standings["fails"].mean is None
    assert standings["fails"].failed == 4
    assert standings["target_only"].rank is None
    assert found.summary.ranks.tasks == 2
    text = (folder / "leaderboard.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| dan |"))
    assert f"{100 * means['dan'][0]:.1f} ±" in line
    assert "target_only (oracle)" in text
    tex = (folder / "leaderboard.tex").read_text()
    assert r"target\_only (oracle)" in tex
    assert tex.count(r"\\") == 6
    assert r"\mathbf" in tex


def test_what_picks_by_hand(whole: tuple[Path, Benchmark]) -> None:
    frame, summary = whole[1].frame, whole[1].summary
    assert summary is not None
    picks = {p.criterion: p for p in summary.picks}
    assert list(picks) == [
        "verdict",
        "information_maximisation",
        "ensv",
        "best method (oracle)",
    ]
    honest = frame[~frame["oracle"]]
    scored = honest[honest["metric"] == "accuracy"]
    table = scored.pivot_table(index=["task", "seed"], columns="method", values="value")
    best = table.max(axis=1).groupby("task").mean().mean()
    assert picks["best method (oracle)"].mean == pytest.approx(best)
    assert picks["best method (oracle)"].regret == 0
    chosen = honest[(honest["metric"] == "chosen") & (honest["value"] == 1)]
    reached = [table.loc[(r.task, r.seed), r.method] for r in chosen.itertuples()]
    assert picks["verdict"].mean == pytest.approx(np.mean(reached))
    assert picks["verdict"].regret == pytest.approx(best - np.mean(reached))
    assert sum(picks["ensv"].picks.values()) == picks["ensv"].pools == 4


def test_fair_play_is_seen_and_missed(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    kept = {c.what: c.kept for c in found.checks}
    assert all(v for name, v in kept.items() if name not in ("complete", "overlap and duplicates"))
    _, cells = read_plan(folder)
    results = collect(Cells(folder), cells)
    key = key_of(folder, {"task": "benchmark_tasks:near", "method": "dan", "seed": 0})
    changes: dict[str, dict[str, Any]] = {
        "same backbone": {"config": {"model": {"name": "other"}}},
        "same weights at the start, per task and seed": {"initial_weights": "0"},
        "same steps": {"steps": 99},
        "same augmentation": {"config": {"views": {}}},
        "same tuning": {"config": {"settings": {"mmd_weight": 3.0}}},
        "same versions, device and threads": {"config": {"threads": 8}},
    }
    for what, change in changes.items():
        own = {
            **results[key],
            **change,
            "config": {**results[key]["config"], **change.get("config", {})},
        }
        broken = {c.what: c for c in checks(cells, {**results, key: own})}
        assert not broken[what].kept, what
        assert "dan" in broken[what].found


def test_how_far_it_is(whole: tuple[Path, Benchmark], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole[0]
    _, cells = read_plan(folder)
    pace = Follower(Cells(folder), cells).look()
    assert (pace.done, pace.failed, pace.total) == (20, 4, 20)
    more = [*cells, cells[0]._replace(key="not there yet")]
    follower = Follower(Cells(folder), more)
    pace = follower.look()
    assert (pace.done, pace.total) == (20, 21)
    assert pace.left is not None
    assert pace.left > 0
    assert "20 of 21 cells, 4 failed" in pace.said()
    said: list[str] = []
    assert watch(folder, cells, said.append, 0.01).done == 20
    assert len(said) == 1
    with pytest.raises(DomadaptError, match="holds no benchmark"):
        read_plan(folder / "cells")

    class Enough(Exception):
        pass

    def listen(line: str) -> None:
        said.append(line)
        if len(said) == 4:
            raise Enough

    # One that waits for what nobody does says so, again and again.
    monkeypatch.setattr(pace_module, "QUIET", 0.02)
    with pytest.raises(Enough):
        watch(folder, more, listen, 0.01)
    assert all("No cell was finished for" in line for line in said[2:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing.toml", "there is no nothing.toml"),
        ("tiny.toml --seeds 1,x", "--seeds takes a number, or seeds with commas"),
        ("tiny.toml --seeds 0", "one seed or more"),
        ("tiny.toml --out tiny.toml", "out needs a folder"),
        ("tiny.toml --processes 0", "processes and threads must be at least 1"),
        ("tiny.toml --watch --out empty", "holds no benchmark"),
        ("tiny.toml --proceses 2", "Did you mean --processes?"),
    ],
)
def test_wrong_commands(
    file: Path,
    words: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "argv", ["domadapt", "benchmark", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert said in " ".join(err.split())
    assert err.count("\n") == 1


def test_seeds_of_the_command_and_a_finished_benchmark(
    file: Path,
    whole: tuple[Path, Benchmark],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All cells are there: nothing is started, and the table is of the seeds that are asked for."""
    out = file.parent / "copied"
    shutil.copytree(whole[0], out)
    monkeypatch.chdir(file.parent)
    line = ["domadapt", "benchmark", "tiny.toml", "--out", str(out), "--seeds", "1,"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    told = capsys.readouterr()
    assert "10 cells, 10 of them finished" in told.err
    assert "over 1 seed." in told.out
    frame = pd.read_parquet(out / "results.parquet")
    assert set(frame["seed"]) == {1}
    assert set(frame["key"]) < set(whole[1].frame["key"])


# Kills ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bits(
    file: Path, whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "benchmark_killed.py"), str(file), str(tmp_path / "k"), "10"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    killed, status, *finished = map(int, done.stdout.split())
    assert (killed, status) == (10, 0)
    # Some were killed with cells finished and others left.
    assert sum(0 < n < 20 for n in finished) >= 3
    again = report(tmp_path / "k")
    pd.testing.assert_frame_equal(timeless(again.frame), timeless(whole[1].frame), check_exact=True)
    assert again.missing == 0
    assert list((tmp_path / "k" / "work").iterdir()) == []


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on_on_two_processes(
    file: Path, whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    out = tmp_path / "b"
    line = [sys.executable, "-m", "domadapt.cli", "benchmark", str(file), "--out", str(out)]
    line += ["--processes", "2"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    first = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        cells = Cells(out)
        until = time.monotonic() + 200
        while len(cells.keys()) < 3 and first.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, "it had ended by itself"
    finally:
        first.kill()
    before = {p: p.stat().st_mtime_ns for p in (out / "cells").glob("*/result.json")}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert before
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())
    assert "20 of 20 cells, 4 failed" in done.stderr
    assert "Failed: fails on benchmark_tasks:near, seed 0: ZeroDivisionError" in done.stderr
    assert "| target_only (oracle) |" in done.stdout
    frame = pd.read_parquet(out / "results.parquet")
    pd.testing.assert_frame_equal(timeless(frame), timeless(whole[1].frame), check_exact=True)
