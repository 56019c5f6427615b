from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small import calibrated
from torch import Tensor, nn
from torchvision import models

from domadapt import adapt
from domadapt.checkpoint import read_json
from domadapt.cli import main
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of
from domadapt.network import Network, Normalize
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.runs.saved import load_run, predict, whole
from domadapt.task import Domain, Task

N, CLASSES = 24, 3
SHAPES = {"vector": (5,), "series": (2, 16), "image": (16, 16, 3)}
NAMES = ["one", "two", "three"]


def domain(kind: str, seed: int, labelled: bool = True, classes: list[str] | None = None) -> Domain:
    rng = np.random.default_rng(seed)
    names = classes or NAMES
    y = np.arange(N) % len(names)
    x = rng.normal(size=(N, *SHAPES[kind])).astype(np.float32) + 0.5 * y.reshape(
        -1, *[1] * len(SHAPES[kind])
    )
    if kind == "image":
        x = np.clip(96 + 48 * x, 0, 255).astype(np.uint8)
    labels = np.array(names)[y] if labelled else None
    return from_arrays(x, labels, name="source" if labelled else "target")


def task(kind: str, classes: list[str] | None = None) -> Task:
    return Task(domain(kind, 0, classes=classes), domain(kind, 1, labelled=False))


def run(out: Path, kind: str, model: Any = None, method: str = "mcc", **more: Any) -> Network:
    training = {"steps": 2, "batch_size": 8, "workers": 0, "device": "cpu"}
    more = {"look": False, "export": (), "keep": "adapted", **more}
    return adapt(task(kind), model, method, out=out, training=training, **more).network


def inputs(kind: str, out: Path) -> Tensor:
    (x,) = inputs_of(whole(domain(kind, 1, labelled=False)), load_run(out).views)
    assert isinstance(x, Tensor)
    return x


def check(out: Path, kind: str, network: Network, exact: bool = True) -> None:
    """The model that a run's folder brings back is the one that `adapt` returned."""
    saved = load_run(out)
    assert saved.class_names == tuple(sorted(NAMES))
    assert saved.kind == kind
    x = inputs(kind, out)
    with torch.no_grad():
        got, want, leaves = saved.model(x), network(x), calibrated(out, network)(x)
    assert got.std() > 0
    if exact:
        assert isinstance(saved.model, Network)
        assert not saved.model.training
        assert torch.equal(got, want)
    brought = want if isinstance(saved.model, Network) else leaves
    torch.testing.assert_close(got, brought, atol=1e-5, rtol=1e-5)
    if (out / "model.pt2").exists():
        program = torch.export.load(out / "model.pt2").module()
        torch.testing.assert_close(program(x), leaves, atol=1e-5, rtol=1e-5)
    table = pd.read_csv(out / "predictions.csv")
    with pytest.raises(DomadaptError, match=r"got a Tensor\. Make one first"):
        predict(saved, torch.zeros(2, 3))
    p = predict(saved, domain(kind, 1, labelled=False))
    np.testing.assert_allclose(table["probability"], p.max(1).values, atol=2e-6)
    assert list(table["class"]) == [saved.class_names[i] for i in p.argmax(1).tolist()]


def own(folder: Path, text: str, name: str = "mine.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"import torch\nfrom torch import nn\n{text}")
    return str(folder / name)


CONV = """
def maps():
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
    return net, {"size": (20, 20), "mean": (.5, .4, .3), "std": (.2, .3, .4)}
"""
CLASSIFIER = """
class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 5)
        self.fc = nn.Linear(6, n_classes)
    def forward(self, x):
        return self.fc(self.body(x).relu().mean((2, 3)))
def classifier(n_classes):
    torch.manual_seed(3)
    return Net(n_classes)
"""


@pytest.mark.parametrize(
    ("kind", "model", "more"),
    [
        ("vector", None, {}),
        ("vector", "mlp", {"bottleneck": 6}),
        ("series", None, {}),
        ("image", None, {}),
        ("image", "resnet18", {"bottleneck": 16, "image_size": 32}),
        ("vector", "mlp", {"freeze": True, "export": ("pt2",)}),
        ("image", "lenet", {"freeze": True, "bottleneck": 0}),
    ],
)
def test_a_named_model_is_brought_back(
    tmp_path: Path, kind: str, model: str | None, more: dict[str, Any]
) -> None:
    check(tmp_path, kind, run(tmp_path, kind, model, **more))


def test_a_model_of_timm_is_brought_back(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    network = run(tmp_path, "image", "timm:mobilenetv3_small_050", image_size=32)
    check(tmp_path, "image", network)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_file_of_ones_own_is_read_from_the_run(tmp_path: Path, freeze: bool) -> None:
    file = own(tmp_path / "code", CONV)
    out = tmp_path / "run"
    network = run(out, "image", f"{file}:maps", freeze=freeze, export=("pt2",))
    shutil.rmtree(tmp_path / "code")
    check(out, "image", network)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_function_may_return_a_whole_network(tmp_path: Path, freeze: bool) -> None:
    file = own(
        tmp_path / "code",
        """
from domadapt.network import Network
def network():
    return Network(nn.Linear(5, 8), nn.Linear(4, 3), nn.Sequential(nn.Tanh(), nn.Linear(8, 4)))
""",
    )
    out = tmp_path / "run"
    network = run(out, "vector", f"{file}:network", freeze=freeze)
    shutil.rmtree(tmp_path / "code")
    check(out, "vector", network)


def test_the_export_serves_where_the_function_lacks_its_files(tmp_path: Path) -> None:
    state = tmp_path / "w.pt"
    torch.save({"weight": torch.rand(4, 5), "bias": torch.rand(4)}, state)
    file = own(
        tmp_path / "code",
        f"""
def loaded():
    net = nn.Linear(5, 4)
    net.load_state_dict(torch.load({str(state)!r}, weights_only=True))
    return net
""",
    )
    out = tmp_path / "run"
    network = run(out, "vector", f"{file}:loaded", export=("pt2",))
    check(out, "vector", network)
    state.unlink()
    check(out, "vector", network, exact=False)
    (out / "model.pt2").unlink()
    with pytest.raises(DomadaptError, match="FileNotFoundError"):
        load_run(out)


def test_modules_given_in_python(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh())
    check(tmp_path / "a", "vector", run(tmp_path / "a", "vector", plain), exact=False)
    classifier = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, CLASSES))
    divided = Network.from_classifier(classifier)
    check(tmp_path / "b", "vector", run(tmp_path / "b", "vector", divided), exact=False)
    frozen = run(tmp_path / "c", "vector", divided, freeze=True)
    check(tmp_path / "c", "vector", frozen, exact=False)
    assert torch.equal(frozen.backbone[0].weight, classifier[0].weight)
    with pytest.raises(DomadaptError, match="given in Python"):
        run(tmp_path / "d", "vector", checkpoint_file=tmp_path / "a")


# A trained classifier, head included


def untrained(out: Path, kind: str, **more: Any) -> Network:
    """What a run begins with: a step of size 0, after which nothing has changed."""
    training = {"steps": 1, "batch_size": 8, "workers": 0, "device": "cpu", "lr": 1e-30}
    training |= {"optimizer": "sgd", "head_lr_multiple": 1.0, "weight_decay": 0.0}
    more = {"look": False, "export": (), "keep": "adapted", **more}
    return adapt(task(kind), method="source_only", out=out, training=training, **more).network


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in network.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(v, b[k], 0, 1e-20) for k, v in a.items())


def test_from_a_state_dict_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(5)
    classifier = models.resnet18(num_classes=CLASSES)
    torch.save(classifier.state_dict(), tmp_path / "c.pth")
    out = tmp_path / "run"
    network = untrained(
        out, "image", model="resnet18", checkpoint_file=tmp_path / "c.pth", image_size=32
    )
    (tmp_path / "c.pth").unlink()
    check(out, "image", network)
    assert torch.equal(network.head.weight, classifier.fc.weight)
    assert torch.equal(network.backbone.conv1.weight, classifier.conv1.weight)
    # What was trained with torchvision takes the statistics that torchvision's weights take.
    assert isinstance(network.normalize, Normalize)
    torch.testing.assert_close(network.normalize.mean, torch.tensor([0.485, 0.456, 0.406]))


@pytest.mark.parametrize("freeze", [False, True])
def test_a_classifier_of_ones_own_keeps_its_head(tmp_path: Path, freeze: bool) -> None:
    file = own(tmp_path / "code", CLASSIFIER)
    out = tmp_path / "run"
    network = untrained(
        out, "image", model=f"{file}:classifier", head="fc", freeze=freeze, export=("pt2",)
    )
    namespace: dict[str, Any] = {}
    exec(Path(file).read_text(), namespace)
    shutil.rmtree(tmp_path / "code")
    check(out, "image", network)
    x = inputs("image", out)
    with torch.no_grad():
        assert torch.equal(network(x), namespace["classifier"](CLASSES)(x))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("vector", {"bottleneck": 6}),
        ("vector", {"freeze": True}),
        ("image", {}),
        ("image", {"model": "shufflenet_v2_x0_5", "image_size": 32, "bottleneck": 8}),
    ],
)
def test_from_a_run(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    first = run(tmp_path / "first", kind, **more)
    given = tmp_path / "first"
    second = untrained(
        tmp_path / "second",
        kind,
        checkpoint_file=given / "model.safetensors" if kind == "vector" else given,
    )
    assert equal(parameters(first), parameters(second))
    config = read_json(tmp_path / "second" / "config.json")
    assert config["model"]["input"] == read_json(given / "config.json")["model"]["input"]
    shutil.rmtree(given)
    check(tmp_path / "second", kind, second)


@pytest.mark.parametrize("freeze", [False, True])
def test_from_a_run_of_ones_own_classifier(tmp_path: Path, freeze: bool) -> None:
    file = own(tmp_path / "code", CLASSIFIER)
    first = run(tmp_path / "first", "image", f"{file}:classifier", head="fc")
    shutil.rmtree(tmp_path / "code")
    second = untrained(
        tmp_path / "second", "image", checkpoint_file=tmp_path / "first", freeze=freeze
    )
    assert equal(parameters(first), parameters(second))
    shutil.rmtree(tmp_path / "first")
    check(tmp_path / "second", "image", second)


def test_from_what_does_not_fit(tmp_path: Path) -> None:
    run(tmp_path / "first", "vector", bottleneck=6)
    with pytest.raises(DomadaptError, match="the same classes"):
        adapt(task("vector", ["one", "two", "four"]), checkpoint_file=tmp_path / "first")
    with pytest.raises(DomadaptError, match="no place for a bottleneck"):
        run(tmp_path / "b", "vector", checkpoint_file=tmp_path / "first", bottleneck=4)
    with pytest.raises(DomadaptError, match=r"has no config\.json"):
        run(tmp_path / "c", "vector", checkpoint_file=tmp_path)
    with pytest.raises(DomadaptError, match=r"must be the model\.safetensors of a run"):
        run(tmp_path / "d", "vector", "mlp", checkpoint_file=tmp_path / "none.pth")


# Frozen features


def test_frozen_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own(tmp_path, CONV)

    def plan(**more: Any) -> Plan:
        return make_plan(task("image"), ModelSpec(f"{file}:maps", freeze=True, **more), cache=cache)

    cache = tmp_path / "cache"
    first = plan()
    assert [np.load(f).shape for f in cache.glob("features-*.npy")] == [(N, 8), (N, 8)]
    kept = first.task.source_train.domain.samples.__getitems__([0, N - 1])
    in_memory = make_plan(task("image"), first.spec).task.source_train.domain
    assert torch.equal(in_memory.samples.__getitems__([0, N - 1]), kept)

    def never(*args: Any) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr("domadapt.runs.plan._feature_batches", never)
    again = plan().task.source_train.domain.samples.__getitems__([0, N - 1])
    assert torch.equal(again, kept)
    # Another image size gives other features.
    with pytest.raises(AssertionError, match="computed again"):
        plan(image_size=24)


def test_a_run_is_used_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    np.savez(tmp_path / "new.npz", x=x, y=np.array(NAMES * 2))
    network = run(tmp_path / "run", "vector")
    monkeypatch.setattr(
        sys,
        "argv",
        ["domadapt", "predict", str(tmp_path / "run"), str(tmp_path / "new.npz"), "--per-class"],
    )
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    lines = [line.split(",") for line in capsys.readouterr().out.strip().splitlines()]
    with torch.no_grad():
        p = calibrated(tmp_path / "run", network)(torch.from_numpy(x)).softmax(1)
    assert lines[0][3:] == [f"p_{name}" for name in sorted(NAMES)]
    got = torch.tensor([[float(v) for v in row[3:]] for row in lines[1:]])
    torch.testing.assert_close(got, p, atol=2e-6, rtol=0)


def test_a_configuration_that_lacks_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DomadaptError, match="lacks class_names, kind, model, views"):
        load_run(tmp_path)
