"""Rows without adaptation: against scikit-learn and transformers, and their place in the tables."""

from __future__ import annotations

import builtins
import dataclasses
from pathlib import Path
from typing import Any

import benchmark_tasks
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_clip import save_tiny_clip

from domadapt.benchmark import Benchmark, Suite, report
from domadapt.benchmark import baselines as baselines_module
from domadapt.benchmark.baselines import STRENGTHS, linear_probe, read_zero_shot, zero_shot
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.work import SuiteWork
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.evaluation import evaluate
from domadapt.runs.cell import Cells
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Split, Task

HERE = Path(__file__).parent
FROZEN = {"name": "features", "freeze": True}
TRAINING = {"steps": 4, "batch_size": 16, "device": "cpu"}


def rows(split: Split) -> np.ndarray:
    raw = split.fetch(np.arange(len(split)))
    assert isinstance(raw, torch.Tensor)
    found: np.ndarray = raw.numpy()
    return found


def suite(**change: Any) -> Suite:
    given: dict[str, Any] = {
        "tasks": ["benchmark_tasks.py:near", "benchmark_tasks.py:far"],
        "methods": ["dan", "linear_probe"],
        "seeds": 2,
        "model": FROZEN,
        "training": TRAINING,
        "folder": HERE,
    }
    return Suite("s", **given | change).checked()


def run(of: Suite, folder: Path) -> Benchmark:
    cells, wanted = Cells(folder), cells_of(of)
    write_plan(folder, of, planned(wanted))
    for cell in wanted:
        if not cells.finished(cell.key):
            cells.perform(cell, SuiteWork(of))
    return report(folder)


# Linear probe -----------------------------------------------------------------------------------


def test_the_probe_is_that_of_scikit_learn() -> None:
    task = benchmark_tasks.far()
    plan = make_plan(task, ModelSpec("features", freeze=True))
    found = linear_probe(plan, seed=0)
    x, x_test = rows(task.source_train), rows(task.target_test)
    assert task.source_train.y is not None
    y = task.source_train.y.numpy()
    d = x.shape[1]
    # Of features that are not divided by sqrt(d) the same penalty is C / d.
    pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = GridSearchCV(
        pipe,
        {"logisticregression__C": [c / d for c in STRENGTHS]},
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    )
    grid.fit(x, y)
    chosen = found.settings["C"]
    by_c = dict(zip(STRENGTHS, grid.cv_results_["mean_test_score"], strict=True))
    assert by_c[chosen] >= grid.best_score_ - 0.025
    assert found.settings["cross_validated_accuracy"] == pytest.approx(by_c[chosen], abs=0.025)
    p = pipe.set_params(logisticregression__C=chosen / d).fit(x, y).predict_proba(x_test)
    assert torch.allclose(found.test.softmax(1), torch.from_numpy(p).float(), atol=2e-3)
    assert found.parameters == 3 * (d + 1)


def test_the_penalty_is_chosen_by_cross_validation() -> None:
    """A quarter is of class 1: a strong penalty never says so, which is right of noise alone."""
    rng = np.random.default_rng(0)
    y = (np.arange(120) % 4 == 0).astype(int)
    noise = rng.normal(size=(120, 80)).astype(np.float32)
    told = noise[:, :2].copy()
    told[:, 0] = 0.3 * told[:, 0] + 2 * y
    found = []
    for x in (noise, told):
        task = Task(from_arrays(x, y, name="a"), from_arrays(x + 1, y, name="b"))
        plan = make_plan(task, ModelSpec("features", freeze=True))
        found.append(linear_probe(plan).settings)
    assert found[0]["C"] == STRENGTHS[0]
    assert found[1]["C"] > STRENGTHS[0]
    assert found[1]["cross_validated_accuracy"] > 0.95


def test_target_labels_change_its_score_alone(tmp_path: Path) -> None:
    frames = {}
    for name in ("near", "relabelled"):
        of = suite(tasks=[f"benchmark_tasks.py:{name}"], methods=["linear_probe"], seeds=1)
        run(of, tmp_path / name)
        cells = Cells(tmp_path / name)
        results = [cells.result(cell.key) for cell in cells_of(of)]
        [frames[name]] = [r for r in results if r["method"] == "linear_probe"]
    one, other = frames.values()
    assert one["settings"] == other["settings"]
    assert one["metrics"]["source_val_accuracy"] == other["metrics"]["source_val_accuracy"]
    assert one["metrics"]["accuracy"] > other["metrics"]["accuracy"] + 0.2


def test_its_place_in_the_tables(tmp_path: Path) -> None:
    of = suite(tasks=["benchmark_tasks.py:near"])
    found = run(of, tmp_path)
    assert found.failures == []
    assert found.summary is not None
    by_name = {one.method: one for one in found.summary.standings}
    assert list(by_name) == ["source_only", "dan", "linear_probe", "target_only"]
    probe = by_name["linear_probe"]
    assert probe.mean is not None
    assert probe.rank is None
    assert probe.paired is None
    assert not probe.oracle
    assert all("linear_probe" not in pick.picks for pick in found.summary.picks)
    mine = found.frame[found.frame["method"] == "linear_probe"]
    assert set(mine["kind"]) == {"target", "source", "cost"}
    assert {c.what for c in found.checks if not c.kept} == {"overlap and duplicates"}
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| linear_probe (no adaptation) |" in text
    assert "linear_probe is a logistic regression" in text
    assert "zero_shot" not in text
    page = (tmp_path / "benchmark.html").read_text()
    assert page.count('<span class="stamp">no adaptation</span>') >= 2
    assert "linear_probe is a logistic regression" in page
    # By hand, on the task without a test part of its own.
    task = benchmark_tasks.near()
    scores = evaluate(task, probe_outputs(task))
    where = (mine["task"] == "benchmark_tasks:near") & (mine["metric"] == "accuracy")
    assert mine.loc[where & (mine["seed"] == 0), "value"].tolist() == [scores.accuracy]
    # Finished cells are not run again.
    before = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(run(of, tmp_path).frame, before)


def probe_outputs(task: Task) -> Any:
    from domadapt.evaluation import Outputs

    logits = linear_probe(make_plan(task, ModelSpec("features", freeze=True)), 0).test
    return Outputs(logits, logits[:0])


def test_a_pretrained_backbone_is_frozen_for_it(tmp_path: Path) -> None:
    """The probe is of the weights as they came, whatever the methods make of them."""
    own = tmp_path / "net.py"
    own.write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    made = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU())\n"
        "    return made, {'mean': [0.0], 'std': [1.0]}\n"
    )
    model = {"name": f"{own}:net"}
    one = suite(tasks=["benchmark_tasks.py:near"], seeds=1, methods=["linear_probe"], model=model)
    found = run(one, tmp_path / "a")
    assert found.failures == []
    assert list((tmp_path / "a" / "cache").glob("features-*.npy"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "mlp"}}, "linear_probe needs a backbone that has learnt"),
        ({"methods": ["zero_shot"]}, "zero_shot needs a CLIP model"),
        ({"zero_shot": {"model": "x"}}, "zero_shot is for images"),
        ({"zero_shot": {"model": "x", "prompt": "a photo"}}, "prompt of zero_shot"),
        ({"zero_shot": {"model": "x", "promt": "{}"}}, "prompt"),
        ({"zero_shot": "x"}, "zero_shot is a table"),
        ({"methods": [{"method": "linear_probe", "name": "p"}]}, "no other name"),
        ({"methods": ["dan+linear_probe"]}, "linear_probe"),
    ],
)
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    from domadapt.benchmark.suite import _read_entry

    if "methods" in change:
        change = {**change, "methods": [_read_entry(m) for m in change["methods"]]}
    with pytest.raises(DomadaptError, match=said):
        cells_of(suite(**change))


# Zero-shot --------------------------------------------------------------------------------------


def pictures() -> Task:
    """Images of two classes with names in words, each domain with a colour of its own."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    y = np.array(["back_pack", "mug"])[np.arange(24) % 2]
    x[y == "mug", 5:12] = 255
    source = from_arrays(x, y, name="a", kind="image")
    return Task(source, from_arrays(x // 2, y, name="b", kind="image"), name="pictures")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="zero_shot reads models by transformers")
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_zero_shot_is_what_transformers_says(clip: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    task = pictures()
    found = zero_shot(task, str(clip), "a photo of a {}.")
    network = CLIPModel.from_pretrained(clip).eval()
    texts = ["a photo of a back pack.", "a photo of a mug."]
    asked = CLIPTokenizer.from_pretrained(clip)(texts, padding=True, return_tensors="pt")
    images = [torch.from_numpy(i).permute(2, 0, 1) for i in images_of(task)]
    pixels = CLIPImageProcessor.from_pretrained(clip)(images=images, return_tensors="pt")
    with torch.no_grad():
        expected = network(**asked, **pixels).logits_per_image
    assert task.class_names == ("back_pack", "mug")
    assert torch.allclose(found.test, expected, atol=1e-4)
    assert found.test.std() > 1e-3
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert found.val.logits.shape == (len(task.source_val), 2)
    other = zero_shot(task, str(clip), "{} in winter.")
    assert not torch.allclose(found.test, other.test, atol=1e-4)


def images_of(task: Task) -> np.ndarray:
    raw = task.target_test.fetch(np.arange(len(task.target_test)))
    assert isinstance(raw, torch.Tensor)
    found: np.ndarray = raw.permute(0, 2, 3, 1).numpy()
    return found


def test_zero_shot_is_a_cell_like_others(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").write_text(
        f"import sys\nsys.path.insert(0, {str(HERE)!r})\n"
        "from test_benchmark_baselines import pictures\n"
    )
    of = suite(
        tasks=["tasks.py:pictures"],
        methods=["source_only"],
        model={"name": "lenet"},
        zero_shot={"model": str(clip)},
        folder=tmp_path,
        training={**TRAINING, "steps": 2},
    )
    assert of.zero_shot["prompt"] == "a photo of a {}."
    done = []
    real = zero_shot
    monkeypatch.setattr(
        baselines_module, "zero_shot", lambda *a, **k: done.append(1) or real(*a, **k)
    )
    found = run(of, tmp_path / "out")
    assert found.failures == []
    # It has no seed: the second takes over what the first found.
    assert len(done) == 1
    mine = found.frame[found.frame["method"] == "zero_shot"]
    values = mine.loc[mine["metric"] == "accuracy", "value"].tolist()
    scores = evaluate(pictures(), outputs(real(pictures(), str(clip)).test))
    assert values == [scores.accuracy] * 2
    assert "| zero_shot (no adaptation) |" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert {c.what for c in found.checks if not c.kept} == {"overlap and duplicates"}
    # Another prompt or other weights are other cells; where the folder lies is not.
    keys = {c.key for c in cells_of(of) if c.method == "zero_shot"}
    moved = save_tiny_clip(tmp_path / "elsewhere" / "tiny")
    same = dataclasses.replace(of, zero_shot={"model": str(moved)}, methods=["source_only"])
    assert {c.key for c in cells_of(same.checked()) if c.method == "zero_shot"} == keys
    for other in (
        {"model": str(clip), "prompt": "{}"},
        {"model": str(save_tiny_clip(tmp_path / "other" / "tiny", seed=1))},
    ):
        changed = dataclasses.replace(of, zero_shot=other, methods=["source_only"]).checked()
        assert not keys & {c.key for c in cells_of(changed) if c.method == "zero_shot"}


def outputs(logits: torch.Tensor) -> Any:
    from domadapt.evaluation import Outputs

    return Outputs(logits, logits[:0])


def test_without_transformers_or_model_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **how: Any) -> Any:
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *args, **how)

    with monkeypatch.context() as m:
        m.setattr(builtins, "__import__", without)
        with pytest.raises(DomadaptError, match="pip install transformers"):
            zero_shot(pictures(), "anything")
    pytest.importorskip("transformers", reason="zero_shot reads models by transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DomadaptError, match="must be a CLIP model with safetensors"):
        zero_shot(pictures(), str(tmp_path / "empty"))


def test_a_path_begins_where_the_suite_lies(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    found = read_zero_shot({"model": "clip"}, tmp_path)
    assert found == {"model": str((tmp_path / "clip").resolve()), "prompt": "a photo of a {}."}
    assert read_zero_shot({"model": "org/clip"}, tmp_path)["model"] == "org/clip"
