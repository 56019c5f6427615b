"""`domadapt.adapt` in Python: every way in, what comes out, the firewall, the same bits twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from run_bits import bits
from small import N_CLASSES, N_FEATURES, arrays, calibrated, same_bits, small_task
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import domadapt
from domadapt import DomadaptError, Network, Task, adapt, from_arrays, from_dataset, from_loader
from domadapt.adaptation import candidate_names
from domadapt.checkpoint import load_tensors

QUICK = {"steps": 20, "batch_size": 16, "log_every": 5, "device": "cpu"}


def quick(task: Any, *args: Any, **more: Any) -> Any:
    if len(args) < 2:
        more = {"method": "mcc", "keep": "adapted", **more}
    """`adapt` with few steps, without maps and exports unless asked for."""
    training = {**QUICK, **more.pop("training", {})}
    return adapt(task, *args, training=training, **{"look": False, "export": (), **more})


# Ways in ---------------------------------------------------------------------------------------


def test_five_lines_with_arrays(tmp_path: Path) -> None:
    (x_s, y_s), (x_t, _) = arrays(shift=0.0), arrays(seed=2)
    task = domadapt.Task(domadapt.from_arrays(x_s, y_s), domadapt.from_arrays(x_t))
    network, report = domadapt.adapt(task, training={**QUICK, "steps": 100})
    logits = network(torch.from_numpy(x_t))
    assert logits.shape == (len(x_t), N_CLASSES)
    assert isinstance(network, nn.Module)
    assert not network.training
    names = ["source_only", "dan", "mcc", "infomax", "shot"]
    assert [c.name for c in report.candidates] == names
    assert report.verdict is not None
    assert report.summary().startswith(report.verdict["sentence"])


class Pairs(Dataset[tuple[Tensor, int]]):
    """A plain torch dataset: one sample at a time."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = torch.from_numpy(x), y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], int(self.y[i])


def test_datasets_and_loaders_are_as_good_as_arrays() -> None:
    (x_s, y_s), (x_t, y_t) = arrays(seed=1), arrays(seed=2, n=90)
    of_arrays = Task(from_arrays(x_s, y_s), from_arrays(x_t, y_t))
    of_datasets = Task(
        from_dataset(Pairs(x_s, y_s), name="s", labelled=True),
        from_dataset(Pairs(x_t, y_t), name="t", labelled=True),
    )
    # A loader's own order and batches do not matter; its unlabelled batches will do for a target.
    target = DataLoader(TensorDataset(torch.from_numpy(x_t)), batch_size=7)
    source = DataLoader(Pairs(x_s, y_s), batch_size=5)
    of_loaders = Task(
        from_loader(source, name="s", labelled=True), from_loader(target, name="t", labelled=False)
    )
    first = quick(of_arrays)
    assert same_bits(first.network, quick(of_datasets).network)
    second = quick(of_loaders)
    assert same_bits(first.network, second.network)
    assert first.report.candidates[-1].target is not None
    assert second.report.candidates[-1].target is None


def test_a_pair_of_domains_and_a_tasks_name() -> None:
    (x_s, y_s), (x_t, _) = arrays(), arrays(seed=2)
    report = quick((from_arrays(x_s, y_s), from_arrays(x_t)), method="source_only").report
    assert report.task["name"]
    report = quick("digits:handwritten->photo", method="source_only", training={"steps": 1}).report
    assert report.task["name"] == "digits:handwritten->photo"


class Own(nn.Module):
    """A backbone of a person's own, with a parameter that is no matrix and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(N_FEATURES))
        self.register_buffer("shift", torch.zeros(N_FEATURES))
        self.body = nn.Linear(N_FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x * self.scale + self.get_buffer("shift")).relu()


def test_any_module_as_backbone(tmp_path: Path) -> None:
    own = Own()
    before = {k: v.clone() for k, v in own.state_dict().items()}
    network, _ = quick(small_task(), own, out=tmp_path / "run")
    # It is copied: what was given stays as it was, and both candidates began from it.
    assert all(torch.equal(v, own.state_dict()[k]) for k, v in before.items())
    assert isinstance(network.backbone, Own)
    assert not torch.equal(network.backbone.body.weight, own.body.weight)
    # Only the program can bring such a backbone back: it is written whether asked for or not.
    from domadapt.data import from_arrays
    from domadapt.runs.saved import load_run, predict

    x, _ = arrays(seed=2, shift=2.0, n=90)
    p = predict(load_run(tmp_path / "run"), from_arrays(x))
    leaves = calibrated(tmp_path / "run", network)
    torch.testing.assert_close(p, leaves(torch.from_numpy(x)).softmax(1))


def test_a_trained_classifier_head_included() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential()
    classifier.add_module("body", nn.Sequential(nn.Linear(N_FEATURES, 12), nn.ReLU()))
    classifier.add_module("fc", nn.Linear(12, N_CLASSES))
    whole = Network.from_classifier(classifier, head="fc")
    kept = whole.head.weight.detach().clone()
    network, report = quick(small_task(), whole, training={"steps": 1, "lr": 1e-9})
    torch.testing.assert_close(network.head.weight, kept, atol=1e-6, rtol=0)
    x = torch.from_numpy(arrays()[0])
    torch.testing.assert_close(network(x), classifier(x), atol=1e-4, rtol=1e-4)
    wrong = Network(nn.Linear(N_FEATURES, 4), nn.Linear(4, 5))
    with pytest.raises(DomadaptError, match="5 classes"):
        quick(small_task(), wrong)
    assert report.model["backbone"] == "module"


def test_combination_and_settings() -> None:
    settings = {"dann.domain_weight": 0.5, "mcc.temperature": "3"}
    report = quick(small_task(), method="dann+mcc", settings=settings).report
    assert report.chosen == "dann+mcc"
    assert report.method == {
        "dann.domain_weight": 0.5,
        "dann.hidden": 256,
        "mcc.mcc_weight": 1.0,
        "mcc.temperature": 3.0,
    }
    history = report.candidates[-1].history
    assert {"loss/source", "loss/dann.domain", "loss/mcc.mcc"} <= history.keys()
    assert len(history["step"]) == len(history["loss/mcc.mcc"]) == 4


def test_candidate_names() -> None:
    task = small_task()
    assert candidate_names(task, "source_only") == ["source_only"]
    assert candidate_names(task, "dann+mcc") == ["source_only", "dann+mcc"]


def test_settings_of_source_only_are_not_dropped() -> None:
    report = quick(small_task(), method="source_only", settings={"joint_forward": True}).report
    assert report.method == {"joint_forward": True}
    plain = quick(small_task(), method="source_only").network
    joint = quick(small_task(), method="source_only", settings={"joint_forward": True}).network
    assert not same_bits(plain, joint)


# What comes out --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "first"
    adapt(
        small_task(),
        method="mcc",
        keep="adapted",
        out=folder,
        training=QUICK,
        command="domadapt adapt s.npz t.npz",
    )
    return folder


def test_both_candidates_are_kept(run_folder: Path) -> None:
    kept = run_folder / "candidates"
    assert sorted(p.name for p in kept.iterdir()) == ["mcc", "source_only"]
    weights = {n: load_tensors(kept / n / "model.safetensors")[0] for n in ("mcc", "source_only")}
    chosen, _ = load_tensors(run_folder / "model.safetensors")
    assert all(torch.equal(chosen[k], weights["mcc"][k]) for k in chosen)
    assert any(not torch.equal(chosen[k], weights["source_only"][k]) for k in chosen)


def test_config_and_report(run_folder: Path) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    assert config["class_names"] == ["0", "1", "2"]
    assert config["model"]["spec"]["name"] == "mlp"
    assert config["model"]["input"] == [N_FEATURES]
    assert config["method"] == {"name": "mcc", "settings": {"mcc_weight": 1.0, "temperature": 2.5}}
    assert config["training"]["steps"] == QUICK["steps"]
    assert config["seed"] == 0
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    report = json.loads((run_folder / "report.json").read_text())
    assert report["chosen"] == "mcc"
    assert report["command"] == "domadapt adapt s.npz t.npz"
    assert report["task"]["sizes"] == {
        "source_train": 96,
        "source_val": 24,
        "target_train": 90,
        "target_test": 90,
    }
    for candidate in report["candidates"]:
        history = candidate["history"]
        assert history["step"] == [5, 10, 15, 20]
        assert all(len(values) == 4 for values in history.values())
        assert candidate["embedding"]["perplexity"] > 0
        assert candidate["target"]["n"] == 90
        wanted = {"source_val_accuracy", "entropy", "information_maximisation"}
        assert wanted <= candidate["label_free"].keys()
        assert {"proxy_a_distance", "mmd"} <= candidate["shift"].keys()
    page = (run_folder / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    table = pd.read_csv(run_folder / "predictions.csv")
    assert list(table.columns) == ["id", "split", "class", "probability"]
    assert len(table) == 90


WITHOUT = """
import sys
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("domadapt", "accelerate", "safetensors"):
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Never())
import torch
model = torch.export.load(sys.argv[1]).module()
x = torch.load(sys.argv[2], weights_only=True)
for n in (1, 2, len(x)):
    assert model(x[:n]).shape[0] == n
torch.save(model(x), sys.argv[3])
try:
    import domadapt
except ImportError:
    print("alone")
"""


def test_the_export_needs_torch_alone(run_folder: Path, tmp_path: Path) -> None:
    x = torch.from_numpy(arrays(seed=2, shift=2.0, n=90)[0])
    torch.save(x, tmp_path / "x.pt")
    files = [str(run_folder / "model.pt2"), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *files],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "alone" in done.stdout
    # Raw inputs go in: their normalisation is inside.
    p = torch.load(tmp_path / "y.pt", weights_only=True).softmax(1)
    table = pd.read_csv(run_folder / "predictions.csv")
    assert p.argmax(1).tolist() == table["class"].tolist()
    np.testing.assert_allclose(p.max(1).values.numpy(), table["probability"], atol=1e-5)


class Branches(nn.Module):
    """A backbone that torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(N_FEATURES, 8)

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return z if float(z.detach().sum()) > 0 else z * 1.0


def test_a_failed_export_loses_nothing_else(tmp_path: Path) -> None:
    _, report = quick(small_task(), Branches(), out=tmp_path / "run")
    assert any("model.pt2 is missing" in w for w in report.warnings)
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.json", "report.html", "model.safetensors", "predictions.csv"} <= files
    assert "model.pt2" not in files


def test_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick(small_task(), export=("pt2",))
    assert list(tmp_path.iterdir()) == []


# The same bits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adamatch", "dann+mcc"])
def test_same_seed_same_bits(tmp_path: Path, method: str) -> None:
    one = quick(small_task(), method=method, out=tmp_path / "one").report
    torch.rand(7)  # what came before does not matter
    np.random.default_rng().random()
    two = quick(small_task(), method=method, out=tmp_path / "two").report
    other = quick(small_task(), method=method, out=tmp_path / "other", seed=1).report
    assert bits(tmp_path / "one") == bits(tmp_path / "two")
    models = {name.rpartition("/")[0] for name in bits(tmp_path / "one")}
    assert models == {
        "",
        "model.safetensors",
        "candidates/source_only/model.safetensors",
        f"candidates/{method}/model.safetensors",
    }
    assert bits(tmp_path / "one") != bits(tmp_path / "other")
    for a, b in zip(one.candidates, two.candidates, strict=True):
        assert a.label_free == b.label_free
        assert a.history["loss/source"] == b.history["loss/source"]
    assert other.seed == 1


def poisoned() -> dict[str, Any]:
    y = arrays(seed=2, n=90)[1]
    return {
        "permuted": np.random.default_rng(0).permutation(y),
        "constant": np.zeros_like(y),
        "absent": None,
        "partly": np.where(np.arange(90) < 45, y, np.nan),
    }


@pytest.mark.parametrize("how", poisoned())
def test_target_labels_change_no_bit(tmp_path: Path, how: str) -> None:
    options = {"method": "self_training+dann", "look": True}
    true = quick(small_task(), out=tmp_path / "true", **options).report
    false = quick(small_task(poisoned()[how]), out=tmp_path / "false", **options).report
    assert bits(tmp_path / "true") == bits(tmp_path / "false")
    assert true.chosen == false.chosen
    for a, b in zip(true.candidates, false.candidates, strict=True):
        assert (a.label_free, a.shift, a.confidence) == (b.label_free, b.shift, b.confidence)
        assert a.embedding is not None
        assert b.embedding is not None
        assert (a.embedding.x, a.embedding.y) == (b.embedding.x, b.embedding.y)
    # They are read for the scores alone, so there they must show.
    assert true.candidates[-1].target != false.candidates[-1].target


def test_source_only_is_the_same_beside_every_method(tmp_path: Path) -> None:
    for method in ("mcc", "adamatch"):
        quick(small_task(), method=method, out=tmp_path / method)
    kept = [
        {k: v for k, v in bits(tmp_path / m).items() if k.startswith("candidates/source_only")}
        for m in ("mcc", "adamatch")
    ]
    assert kept[0]
    assert kept[0] == kept[1]


# Frozen backbones ------------------------------------------------------------------------------


class Counted(nn.Module):
    """A backbone that counts the samples it is given."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(N_FEATURES, 9)

    def forward(self, x: Tensor) -> Tensor:
        Counted.seen += len(x)
        return self.body(x).tanh()


def test_features_of_a_frozen_backbone_are_computed_once(tmp_path: Path) -> None:
    own = Counted()
    Counted.seen = 0
    network, report = quick(small_task(), own, freeze=True, out=tmp_path / "run")
    # Source and target once each, and a few samples to learn its width; 2 x 20 steps add nothing.
    assert 120 + 90 <= Counted.seen < 120 + 90 + 60
    assert torch.equal(network.backbone.body.weight, own.body.weight)
    x, _ = arrays(seed=2, shift=2.0, n=90)
    p = calibrated(tmp_path / "run", network)(torch.from_numpy(x)).softmax(1)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert p.argmax(1).tolist() == table["class"].tolist()
    np.testing.assert_allclose(p.max(1).values.detach().numpy(), table["probability"], atol=1e-5)
    assert report.candidates[-1].target is not None


def test_a_frozen_named_backbone_is_taken_up_again(tmp_path: Path) -> None:
    from domadapt.runs.saved import load_run, predict

    run = tmp_path / "run"
    network, _ = quick(small_task(), "mlp", freeze=True, out=run)
    assert len(list((run / "cache").iterdir())) == 2
    x, _ = arrays(seed=5)
    p = predict(load_run(run), from_arrays(x))
    torch.testing.assert_close(p, calibrated(run, network)(torch.from_numpy(x)).softmax(1))


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "mcx"}, "mcc"),
        ({"model": "lenett"}, "lenet"),
        ({"settings": {"temprature": 1}}, "temperature"),
        ({"settings": {"temperature": "warm"}}, "number"),
        ({"training": {"stepps": 3}}, "steps"),
        ({"training": {"precision": "fp8"}}, "bf16"),
        ({"export": ("foo",)}, "onnx"),
        ({"track": "foo"}, "tensorboard"),
        ({"track": "tensorboard"}, "folder"),
        ({"resume": True}, "folder"),
        ({"seed": -1}, "seed"),
        ({"image_size": 8}, "image"),
        ({"augment": "photo"}, "vector"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DomadaptError, match=words):
        quick(small_task(), **options)


def test_refusals_of_task_and_folder(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(DomadaptError, match="Task"):
        quick([1, 2])
    with pytest.raises(DomadaptError, match="already holds a run"):
        quick(small_task(), out=run_folder)
    with pytest.raises(DomadaptError, match="finished"):
        quick(small_task(), out=run_folder, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DomadaptError, match="written to"):
        quick(small_task(), out=tmp_path / "file")


def test_a_run_that_diverged_is_begun_anew_in_its_folder(tmp_path: Path) -> None:
    from domadapt.runs.saved import load_run

    out = tmp_path / "run"

    def run(weight: float, **more: Any) -> Any:
        return quick(
            small_task(), out=out, method="dann", settings={"domain_weight": weight}, **more
        )

    with pytest.raises(DomadaptError, match=r"NaN or infinite.*folder of the run may stay"):
        run(1e39)
    kept = out / "candidates" / "source_only" / "result.json"
    before = kept.stat().st_mtime_ns
    with pytest.raises(DomadaptError, match=r"has no model: Training of dann"):
        load_run(out)
    with pytest.raises(DomadaptError, match=r"would end as before: Training of dann.*other setti"):
        run(1e39, resume=True)
    # What the new settings do not change is not trained again, and the rest is as in a new folder.
    assert run(0.5).report.chosen
    assert kept.stat().st_mtime_ns == before
    assert not (out / "failed.json").exists()
    elsewhere = quick(
        small_task(), out=tmp_path / "other", method="dann", settings={"domain_weight": 0.5}
    )
    mine, theirs = (
        json.loads((place / "report.json").read_text())["candidates"][1]["history"]["loss/source"]
        for place in (out, tmp_path / "other")
    )
    assert mine == theirs
    assert elsewhere.report.chosen
    with pytest.raises(DomadaptError, match="already holds a run"):
        run(0.5)


def test_after_divergence_a_changed_training_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    def run(lr: float) -> Any:
        return quick(small_task(), out=tmp_path / "run", training={**QUICK, "lr": lr})

    with pytest.raises(DomadaptError, match="Lower the learning rate"):
        run(1e30)
    assert run(0.01).report.chosen


def test_a_run_goes_on_only_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from domadapt.trainer import Trainer

    fit = Trainer.fit

    def first_only(self: Trainer, *args: Any) -> Network:
        if self.method.name != "source_only":
            raise KeyboardInterrupt
        return fit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", first_only)
        with pytest.raises(KeyboardInterrupt):
            quick(small_task(), out=tmp_path / "run")
    with pytest.raises(DomadaptError, match="other settings, data or versions"):
        quick(small_task(), out=tmp_path / "run", resume=True, seed=1)
    quick(small_task(), out=tmp_path / "run", resume=True)
    quick(small_task(), out=tmp_path / "whole")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_channels_last_changes_the_layout_and_hardly_the_numbers() -> None:
    how = {"steps": 3, "batch_size": 8, "device": "cpu"}
    networks = [
        adapt(
            "digits:printed->handwritten",
            "lenet",
            "source_only",
            training={**how, "channels_last": last},
            look=False,
        ).network
        for last in (False, True)
    ]
    filters = [next(p for p in n.parameters() if p.ndim == 4 and p.shape[1] > 3) for n in networks]
    # Both leave laid out as a model read from a file is; rounding tells how they were trained.
    assert all(f.is_contiguous() for f in filters)
    assert not torch.equal(*filters)
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(networks[0](x), networks[1](x), rtol=1e-2, atol=1e-2)


def test_what_leaves_is_what_is_scored_where_class_shares_are_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from domadapt.adaptation import run as of_run

    judged = of_run.judge

    def shifted(*args: Any) -> Any:
        return replace(judged(*args), prior_t=torch.tensor([0.98, 0.01, 0.01]))

    monkeypatch.setattr(of_run, "judge", shifted)
    task = small_task()
    _, report = quick(task, method="dann", out=tmp_path / "run")
    assert report.verdict is not None
    assert report.verdict["calibration"]["prior_t"] == pytest.approx([0.98, 0.01, 0.01])
    said = pd.read_csv(tmp_path / "run" / "predictions.csv")["class"].to_numpy()
    right = float((said == task._labels_for_evaluate()).mean())
    chosen = next(c for c in report.candidates if c.name == "dann")
    assert chosen.target is not None
    assert chosen.target["accuracy"] == pytest.approx(right)
    # The correction moved decisions, or this would show nothing.
    assert (said == 0).mean() > 0.5
