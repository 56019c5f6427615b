"""Checkpoints side by side: looks change no bit, and say what the network of their step says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_tasks
import pandas as pd
import pytest
import small
import torch
from small import same_bits, small_trainer

from domadapt import checkpoint
from domadapt.benchmark import Benchmark, Suite, report
from domadapt.benchmark import run as run_module
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.leaderboard import latex, markdown
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.summary import summarise
from domadapt.benchmark.work import SuiteWork
from domadapt.curves import Log, look_steps
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.methods import Method
from domadapt.network import Network
from domadapt.runs.candidate import LOOKS, STATE, Trained, looks_back, train_candidate
from domadapt.runs.cell import Cell, Cells
from domadapt.runs.engine import shared
from domadapt.runs.plan import ModelSpec, Plan, make_plan

TRAINING = {"steps": 12, "batch_size": 16, "device": "cpu", "checkpoint_every": 4, "log_every": 4}


def test_looks_are_even_and_end_with_the_last_step() -> None:
    assert look_steps(12, 5) == [3, 5, 8, 10, 12]
    assert look_steps(1000, 5) == [200, 400, 600, 800, 1000]
    assert look_steps(3, 5) == [1, 2, 3]
    assert look_steps(7, 1) == [7]
    assert look_steps(0, 5) == [0]


@pytest.mark.parametrize("name", ["dann", "mean_teacher", "source_only"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_looks_change_no_bit_and_see_the_network_of_their_step(name: str, ema: float) -> None:
    if ema and name == "mean_teacher":
        pytest.skip("it keeps a network of its own")
    plain = small_trainer(name, dropout=0.3, ema=ema).fit()
    trainer = small_trainer(name, dropout=0.3, ema=ema, log_every=1)
    then: dict[int, Network] = {}
    seen: dict[int, Network] = {}

    def after(log: Log) -> None:
        live = trainer.average if ema else trainer.method.adapted()
        then[log.step] = copy.deepcopy(live)  # type: ignore[assignment]

    random = torch.get_rng_state()
    fitted = trainer.fit(after, look=lambda k, n: seen.update({k: copy.deepcopy(n)}), looks=3)
    moved = torch.get_rng_state()
    assert same_bits(fitted, plain)
    assert list(seen) == [4, 8]
    for step, network in seen.items():
        assert same_bits(network, then[step])
        assert not same_bits(network, fitted)
    torch.set_rng_state(random)
    small_trainer(name, dropout=0.3, ema=ema, log_every=1).fit()
    assert torch.equal(torch.get_rng_state(), moved)


def plan_of_near() -> Plan:
    return make_plan(benchmark_tasks.near(), ModelSpec(name="mlp"))


def trained(plan: Plan, folder: Path | None, looks: int = 3) -> Trained:
    how = training_for(plan.kind, TRAINING)
    return train_candidate(plan, "dann", {}, how, folder, looks=looks)


def test_a_candidate_keeps_its_looks(tmp_path: Path) -> None:
    plan = plan_of_near()
    plain = trained(plan, None, looks=0)
    found = trained(plan, tmp_path / "a")
    assert same_bits(found.network, plain.network)
    assert not list((tmp_path / "a").glob(STATE))
    back = dict(looks_back(plan, 0, tmp_path / "a"))
    assert list(back) == [4, 8]
    assert not any(network.training for network in back.values())
    # Taken up where it is finished, the looks are still there.
    trained(plan, tmp_path / "a")
    again = dict(looks_back(plan, 0, tmp_path / "a"))
    assert all(same_bits(again[step], back[step]) for step in back)
    with pytest.raises(DomadaptError, match="need a folder"):
        trained(plan, None)


@pytest.mark.parametrize("at", [3, 6, 9])
def test_interrupted_between_looks_it_keeps_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    plan = plan_of_near()
    trained(plan, tmp_path / "whole")
    after_step, calls = Method.after_step, [0]

    def killed(self: Method, progress: float) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        after_step(self, progress)

    monkeypatch.setattr(Method, "after_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(plan, tmp_path / "killed")
    before = {p.name for p in (tmp_path / "killed").glob(LOOKS)}
    assert len(before) == (at - 1) // 4
    monkeypatch.setattr(Method, "after_step", after_step)
    trained(plan, tmp_path / "killed")
    files = sorted((tmp_path / "whole").glob(LOOKS))
    assert len(files) == 2
    for file in [*files, tmp_path / "whole" / "model.safetensors"]:
        one, _ = checkpoint.load_tensors(file)
        two, _ = checkpoint.load_tensors(tmp_path / "killed" / file.name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)


# The benchmark -----------------------------------------------------------------------------------


def suite(task: str = "near", **change: Any) -> Suite:
    given = {"methods": ["dan", "shot"], "seeds": 1, "checkpoints": 3, **change}
    return Suite(
        "s",
        tasks=[f"benchmark_tasks.py:{task}"],
        model={"name": "mlp"},
        training=TRAINING,
        validators=("class_ami", "ensv"),
        folder=Path(__file__).parent,
        **given,
    ).checked()


def run_here(of: Suite, folder: Path) -> list[Cell]:
    cells, wanted = Cells(folder), cells_of(of)
    write_plan(folder, of, planned(wanted))
    for cell in shared(cells, wanted):
        cells.perform(cell, SuiteWork(of))
    return wanted


@pytest.fixture(scope="module", autouse=True)
def _no_page() -> Iterator[None]:
    """The page and its maps take seconds, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "content_of", lambda *a, **k: None)
        patch.setattr(run_module, "render", lambda content: "")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:
    place = tmp_path_factory.mktemp("looks")
    run_here(suite(), place)
    return place, report(place)


def rows_of(frame: pd.DataFrame, kind: str, metric: str) -> pd.DataFrame:
    return frame[(frame["kind"] == kind) & (frame["metric"] == metric)]


def test_a_cell_keeps_what_its_looks_saw(whole: tuple[Path, Benchmark]) -> None:
    folder, found = whole
    frame = found.frame
    assert found.failures == []
    looks = rows_of(frame, "look", "oracle_accuracy")
    assert list(looks["method"].unique()) == ["source_only", "dan", "shot"]
    assert all(v == [4, 8, 12] for v in looks.groupby("method")["step"].apply(list))
    assert not frame.duplicated(["task", "method", "seed", "kind", "metric", "step"]).any()
    assert frame.loc[frame["kind"] != "look", "step"].isna().all()
    # The last look is the cell itself, and the others are what their weights say.
    for method in ("dan", "shot"):
        mine = frame[frame["method"] == method]
        for metric, kind in (("accuracy", "target"), ("class_ami", "label_free")):
            name = f"oracle_{metric}" if kind == "target" else metric
            last = rows_of(mine, "look", name).iloc[-1]
            assert last["value"] == rows_of(mine, kind, metric)["value"].item()
    plan = plan_of_near()
    how = training_for(plan.kind, TRAINING)
    train_candidate(plan, "dan", {"mmd_weight": 1.0}, how, folder / "dan", looks=3)
    test = plan.task.target_test
    x = test.domain.samples.__getitems__(test.indices.tolist())
    assert isinstance(x, torch.Tensor)
    _, y = small.arrays(seed=2, shift=2.0, n=90)
    for step, network in looks_back(plan, 0, folder / "dan"):
        with torch.no_grad():
            said = network(plan.views.evaluation(x)).argmax(1).numpy()
        row = looks[(looks["method"] == "dan") & (looks["step"] == step)]
        assert row["value"].item() == pytest.approx((said == y).mean())


def test_cells_without_looks_are_the_same_but_for_the_looks(
    whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    plain = suite(checkpoints=0)
    keys = {c.method: c.key for c in cells_of(plain)}
    with_looks = {c.method: c.key for c in cells_of(suite())}
    assert keys["target_only"] == with_looks["target_only"]
    assert all(keys[m] != with_looks[m] for m in ("source_only", "dan", "shot"))
    assert all("checkpoints" not in c.config for c in cells_of(plain))
    run_here(plain, tmp_path)
    frame, other = report(tmp_path).frame, whole[1].frame
    other = other[other["kind"] != "look"]
    a, b = (
        f[f["kind"] != "cost"].drop(columns="key").reset_index(drop=True) for f in (frame, other)
    )
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    candidate = whole[0] / "cells" / with_looks["source_only"] / "candidate"
    assert candidate.is_dir()
    assert list(candidate.glob(LOOKS)) == []


def test_target_labels_reach_no_look_but_in_its_oracle(
    whole: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    run_here(suite("relabelled", methods=["dan"]), tmp_path)
    other = report(tmp_path).frame
    mine = whole[1].frame
    mine = mine[mine["method"].isin(["source_only", "dan"])]
    for oracle in (False, True):
        a, b = (
            f[(f["kind"] == "look") & (f["metric"].str.startswith("oracle_") == oracle)]
            .drop(columns=["key", "task"])
            .reset_index(drop=True)
            for f in (mine, other)
        )
        assert len(a) == len(b) > 0
        assert a.equals(b) != oracle


def test_a_killed_cell_has_the_same_looks(
    whole: tuple[Path, Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = suite(methods=["dan"])
    wanted = cells_of(one)
    cells = Cells(tmp_path)
    work = SuiteWork(one)
    dan = next(c for c in wanted if c.method == "dan")
    after_step, calls = Method.after_step, [0]

    def killed(self: Method, progress: float) -> None:
        calls[0] += 1
        if calls[0] == 10:
            raise KeyboardInterrupt
        after_step(self, progress)

    monkeypatch.setattr(Method, "after_step", killed)
    with pytest.raises(KeyboardInterrupt):
        cells.perform(dan, work)
    monkeypatch.setattr(Method, "after_step", after_step)
    cells.perform(dan, work)
    assert cells.result(dan.key)["looks"] == Cells(whole[0]).result(dan.key)["looks"]
    assert not list((tmp_path / "work").glob("*"))


# The table ---------------------------------------------------------------------------------------


def look_rows(method: str, task: str, seed: int, looks: list[tuple[int, float, float]]) -> Any:
    """Rows of looks, each a step, its score and its accuracy, and of the cell they belong to."""
    who = {"method": method, "task": task, "seed": seed, "oracle": False, "reason": "", "key": ""}
    for step, score, accuracy in looks:
        own = {**who, "kind": "look", "step": step}
        yield {**own, "metric": "class_ami", "value": score}
        yield {**own, "metric": "oracle_accuracy", "value": accuracy}
    yield {**who, "kind": "target", "metric": "accuracy", "value": looks[-1][2], "step": None}


def test_the_table_of_checkpoints_by_hand() -> None:
    nan = float("nan")
    rows = [
        # Chosen: 0.9 at 0.7, best 0.8, last 0.6; then a tie, of which the later is taken.
        *look_rows("dan", "a", 0, [(4, 0.9, 0.7), (8, 0.2, 0.8), (12, 0.8, 0.6)]),
        *look_rows("dan", "a", 1, [(4, 0.5, 0.1), (8, 0.5, 0.2), (12, 0.4, 0.4)]),
        # No score at all: the last.
        *look_rows("dan", "b", 0, [(4, nan, 0.9), (8, nan, 0.3), (12, nan, 0.5)]),
        *look_rows("mcc", "a", 0, [(4, 0.1, 0.1)]),
    ]
    frame = pd.DataFrame(rows).astype({"step": "Int64"})
    found = summarise(frame, "accuracy", ["class_ami"], ["a", "b"], ["dan", "mcc"])
    (dan,) = found.checkpoints  # mcc lacks a task
    assert (dan.method, dan.looks) == ("dan", 3)
    assert dan.last == pytest.approx(((0.6 + 0.4) / 2 + 0.5) / 2)
    assert dan.chosen == pytest.approx({"class_ami": ((0.7 + 0.2) / 2 + 0.5) / 2})
    assert dan.best == pytest.approx(((0.8 + 0.4) / 2 + 0.9) / 2)
    text = markdown(found)
    assert "| dan | 50.0 | 47.5 | 75.0 |" in text
    assert "25.0 points above the last" in text
    assert "class_ami -2.5 points" in text
    assert "& class\\_ami & best (oracle)" in latex(found)
    # Without looks there is no table.
    bare = frame[frame["kind"] != "look"]
    assert "side by side" not in markdown(summarise(bare, tasks=["a", "b"]))


def test_the_leaderboard_shows_them(whole: tuple[Path, Benchmark]) -> None:
    text = (whole[0] / "leaderboard.md").read_text()
    assert "## Checkpoints side by side" in text
    assert "looked at 3 times" in text
    assert (whole[0] / "leaderboard.tex").read_text().count(r"\begin{tabular}") == 2


def test_a_wrong_number_of_checkpoints() -> None:
    for wrong in (-1, 2.5, True):
        with pytest.raises(DomadaptError, match="checkpoints of a suite are a number of looks"):
            suite(checkpoints=wrong)
