"""Closed-form methods in training: the rows that are seen and the network that leaves."""

from __future__ import annotations

import copy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import (
    N_CLASSES,
    N_FEATURES,
    arrays,
    calibrated,
    small_network,
    small_task,
    small_trainer,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt import adapt, closed_form, rows
from domadapt.adaptation import check
from domadapt.cli import main
from domadapt.data import from_arrays
from domadapt.data.views import make_views
from domadapt.errors import DomadaptError
from domadapt.inference import outputs_of
from domadapt.methods import build_method, method_class, method_names
from domadapt.network import Network, Normalize
from domadapt.runs.saved import load_run, predict
from domadapt.task import Batch, Task
from domadapt.trainer import Trainer

MOVING = ["coral", "linear_ot", "ot_da"]
MAPPING = ["subspace_alignment", "tca"]
WEIGHING = ["kmm", "discriminator_weights"]
ALL = MOVING + MAPPING + WEIGHING + ["msda"]
#: Settings under which a method does something peculiar on six features.
SETTINGS: dict[str, dict[str, Any]] = {
    "coral": {"reg": 0.1},
    "subspace_alignment": {"n_components": 3},
    "tca": {"n_components": 3},
    "msda": {"corruption": 0.3},
    "kmm": {"weight_max": 5.0},
}
MEAN, STD = torch.linspace(-1, 2, N_FEATURES), torch.linspace(0.5, 2, N_FEATURES)
VIEWS = make_views("vector", None, None, scale=torch.ones(N_FEATURES))


def data(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x_s, y_s = arrays(seed=1, shift=0.0)
    x_t, y_t = arrays(n=90, seed=2, shift=2.0)
    return scale * x_s, y_s, scale * x_t, y_t


def linear_network(bottleneck: int = 0) -> Network:
    """A head alone, or a bottleneck before it, on standardised features."""
    torch.manual_seed(0)
    middle = None
    if bottleneck:
        middle = nn.Sequential(
            nn.Linear(N_FEATURES, bottleneck), nn.BatchNorm1d(bottleneck), nn.ReLU()
        )
    head = nn.Linear(bottleneck or N_FEATURES, N_CLASSES)
    return Network(nn.Flatten(), head, middle, Normalize(MEAN, STD))


def trainer(name: str, network: Network, path: Path | None = None, **how: Any) -> Trainer:
    method = build_method(name, network, SETTINGS.get(name))
    how = {"lr": 1e-2, "momentum": 0.0, **how}
    return small_trainer(method, small_task(), path=path, **how)


def by_hand(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source rows, target rows and source weights by the transformer, on standardised features."""
    task = small_task()
    raw_s = task.source_train.domain.samples.__getitems__(task.source_train.indices.tolist())
    raw_t = task.target_train.domain.samples.__getitems__(list(range(len(task.target_train))))
    x_s, x_t = (((r - MEAN) / STD).double().numpy() for r in (raw_s, raw_t))  # type: ignore[operator]
    y_s = task.source_train.y
    assert y_s is not None
    transformers: dict[str, Any] = {
        "coral": closed_form.Coral(reg=0.1),
        "linear_ot": closed_form.LinearOT(),
        "ot_da": closed_form.OTDA(),
        "subspace_alignment": closed_form.SubspaceAlignment(n_components=3),
        "tca": closed_form.TCA(n_components=3),
        "msda": closed_form.MSDA(corruption=0.3),
        "kmm": closed_form.KMM(max_weight=5.0),
        "discriminator_weights": closed_form.DiscriminatorWeights(),
    }
    transformer = transformers[name].fit(x_s, y_s.numpy(), X_target=x_t)
    weights = getattr(transformer, "weights_", np.ones(len(x_s)))
    moved = transformer.fit_transform(x_s, y_s.numpy(), X_target=x_t)
    return moved, transformer.transform(x_t), weights


def test_all_are_registered_as_closed_form() -> None:
    found = {n for n in method_names() if method_class(n).closed_form}
    assert found >= set(ALL)
    assert all(method_class(n).setting == "closed form" for n in ALL)


# What is trained on -------------------------------------------------------------------------------


def seen(name: str) -> tuple[np.ndarray, np.ndarray, Trainer]:
    """Every row of the moved task as the network's layers see it, in order."""
    run = trainer(name, linear_network())
    run._setup()
    run._move()
    split = run.task.source_train, run.task.target_train
    rows_ = [s.domain.samples.__getitems__(s.indices.tolist()) for s in split]
    x_s, x_t = (((r - MEAN) / STD).double().numpy() for r in rows_)  # type: ignore[operator]
    return x_s, x_t, run


@pytest.mark.parametrize("name", MOVING)
def test_rows_are_those_of_the_transformer(name: str) -> None:
    x_s, x_t, _ = seen(name)
    wanted_s, wanted_t, _ = by_hand(name)
    np.testing.assert_allclose(x_s, wanted_s, atol=1e-5)
    np.testing.assert_allclose(x_t, wanted_t, atol=1e-5)


@pytest.mark.parametrize("name", MAPPING)
def test_mapped_rows_have_the_distances_of_the_transformer(name: str) -> None:
    x_s, x_t, _ = seen(name)
    wanted_s, wanted_t, _ = by_hand(name)

    def distances(a: np.ndarray, b: np.ndarray) -> Any:
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    ours, theirs = distances(x_s, x_t), distances(wanted_s, wanted_t)
    factor = 1.0 if name == "subspace_alignment" else np.median(ours / theirs)
    np.testing.assert_allclose(ours, factor * theirs, rtol=1e-3, atol=1e-4)
    assert np.linalg.matrix_rank(x_t, tol=1e-3) == 3


def test_tca_keeps_the_mean_square_of_the_rows() -> None:
    x_s, x_t, _ = seen("tca")
    raw = (np.vstack([data()[0], data()[2]]) - MEAN.numpy()) / STD.numpy()
    # The raw rows hold the validation samples as well.
    assert np.mean(np.vstack([x_s, x_t]) ** 2) == pytest.approx(np.mean(raw**2), rel=0.05)


def test_msda_rows_are_those_of_the_transformer_at_the_scale_of_the_raw_ones() -> None:
    x_s, x_t, run = seen("msda")
    wanted_s, wanted_t, _ = by_hand("msda")
    factor = float(np.linalg.norm(x_t) / np.linalg.norm(wanted_t))
    np.testing.assert_allclose(x_s, factor * wanted_s, atol=1e-4)
    np.testing.assert_allclose(x_t, factor * wanted_t, atol=1e-4)
    assert run.method.needs_classes is False
    raw = (np.vstack([data()[0], data()[2]]) - MEAN.numpy()) / STD.numpy()
    # The raw rows hold the validation samples as well.
    assert np.mean(np.vstack([x_s, x_t]) ** 2) == pytest.approx(np.mean(raw**2), rel=0.05)


@pytest.mark.parametrize("name", WEIGHING)
def test_source_loss_is_weighted_by_the_rows_of_the_batch(name: str) -> None:
    x_s, _, run = seen(name)
    _, _, weights = by_hand(name)
    index = torch.tensor([5, 0, 17, 31])
    y = torch.tensor([0, 2, 1, 1])
    x = torch.from_numpy(x_s).float()[index] * STD + MEAN
    batch = Batch(x, y, x[:2], 0.5, index_s=index)
    with torch.no_grad():
        losses = run.method(batch)
        each = cross_entropy(run.method.network(x), y, reduction="none").double().numpy()
    wanted = np.mean(weights[index] / weights.mean() * each)
    assert float(losses.terms["source"]) == pytest.approx(wanted, rel=1e-4)
    assert losses.terms.keys() == {"source"}
    assert weights.std() > 0.1


def test_labelled_target_rows_take_the_targets_map() -> None:
    x_s, y_s, x_t, _ = data()
    few = np.random.default_rng(5).normal(size=(6, N_FEATURES)).astype(np.float32)
    task = Task(
        from_arrays(x_s, y_s),
        from_arrays(x_t, None),
        target_labelled=from_arrays(few, np.arange(6) % N_CLASSES),
    )
    method = build_method("subspace_alignment", linear_network(), {"n_components": 3})
    features = rows.fit(method, task, VIEWS)
    other = rows.moved(task, VIEWS, features, method.network.normalize)
    assert other.target_labelled is not None
    found = other.target_labelled.fetch(np.arange(6))
    assert features.matrix is not None
    assert features.shift is not None
    wanted = ((torch.from_numpy(few) - MEAN) / STD) @ features.matrix + features.shift
    torch.testing.assert_close(found, wanted * STD + MEAN, atol=1e-5, rtol=1e-5)
    # The validation rows and those that are scored stay.
    assert other.source_val is task.source_val
    assert other.target_test is task.target_test


# What leaves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("bottleneck", [0, 8])
@pytest.mark.parametrize("name", ["coral", "msda", *MAPPING])
def test_the_network_that_leaves_is_map_and_network(name: str, bottleneck: int, ema: float) -> None:
    run = trainer(name, linear_network(bottleneck), ema=ema)
    leaves = run.fit().eval()
    trained = copy.deepcopy(run.average or run.method.network).eval()
    x = torch.from_numpy(data()[2])
    mapped = x
    if name != "coral":
        assert run.features is not None
        assert run.features.matrix is not None
        z = ((x - MEAN) / STD).double() @ run.features.matrix.double()
        if run.features.shift is not None:
            z = z + run.features.shift.double()
        mapped = z.float() * STD + MEAN
        assert not torch.allclose(leaves(x), trained(x), atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(leaves(x), trained(mapped), atol=1e-5, rtol=1e-4)
    # The form of any other method's network, so that a run's folder and an export know it.
    fresh = linear_network(bottleneck).state_dict()
    assert {k: v.shape for k, v in leaves.state_dict().items()} == {
        k: v.shape for k, v in fresh.items()
    }


def test_coral_with_a_linear_head_learns_what_gradient_descent_learns_from_coral_rows() -> None:
    """Full batches and plain SGD, beside a loop in NumPy on the transformer's rows."""
    moved, _, _ = by_hand("coral")
    y = small_task().source_train.y
    assert y is not None
    start = linear_network()
    network = trainer(
        "coral",
        copy.deepcopy(start),
        optimizer="sgd",
        weight_decay=0.0,
        schedule="constant",
        batch_size=len(y),
        target_batch_size=4,
        steps=20,
        lr=0.05,
    ).fit()
    weight, bias = (
        start.head.weight.detach().double().numpy(),
        start.head.bias.detach().double().numpy(),
    )
    truth = np.eye(N_CLASSES)[y.numpy()]
    for _ in range(20):
        logits = moved @ weight.T + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - truth) / len(y)
        weight, bias = weight - 0.05 * error.T @ moved, bias - 0.05 * error.sum(0)
    np.testing.assert_allclose(network.head.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(network.head.bias.detach(), bias, atol=1e-4)


def test_coral_undoes_a_linear_distortion_of_the_target() -> None:
    x_s, y_s, _, _ = data()
    rng = np.random.default_rng(0)
    matrix = np.eye(N_FEATURES) + 0.9 * np.abs(rng.normal(size=(N_FEATURES, N_FEATURES)))
    x_t = (x_s @ matrix + 5).astype(np.float32)
    task = Task(from_arrays(x_s, y_s), from_arrays(x_t, y_s))
    accuracy = {}
    for name, settings in (("source_only", {}), ("linear_ot", {})):
        method = build_method(name, small_network(), settings)
        run = small_trainer(method, task, steps=80, lr=0.05)
        out = outputs_of(run.fit(), task.target_test, VIEWS)
        accuracy[name] = float((out.logits.argmax(1).numpy() == y_s).mean())
    assert accuracy["linear_ot"] > accuracy["source_only"] + 0.1


# Runs ---------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", [*ALL, "coral+mcc", "subspace_alignment+mean_teacher"])
def test_a_stopped_run_goes_on_with_the_same_bits_and_is_not_fitted_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(name, linear_network(8)).fit()
    path = tmp_path / "state.safetensors"

    def kill(point: Any) -> None:
        if point.step > 6:
            raise Killed

    with suppress(Killed):
        trainer(name, linear_network(8), path, checkpoint_every=6).fit(kill)
    assert path.exists()
    calls: list[str] = []
    own = rows.fit
    monkeypatch.setattr(rows, "fit", lambda *a: (calls.append("fitted"), own(*a))[1])
    again = trainer(name, linear_network(8), path, checkpoint_every=6).fit()
    assert calls == []
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("name", "model", "more"),
    [
        ("coral", "features", {"bottleneck": 0}),
        ("subspace_alignment", "features", {"export": ("pt2",)}),
        ("tca", "mlp", {}),
        ("subspace_alignment", "mlp", {"freeze": True}),
        ("tca", "features", {"freeze": True, "bottleneck": 0}),
    ],
)
def test_the_run_folder_predicts_as_the_network_that_was_returned(
    name: str, model: str, more: dict[str, Any], tmp_path: Path
) -> None:
    x_s, y_s, x_t, _ = data()
    target = from_arrays(x_t, None, name="target")
    task = Task(from_arrays(x_s, y_s, name="source"), target)
    network, _ = adapt(
        task,
        model,
        name,
        out=tmp_path / "run",
        settings=SETTINGS.get(name),
        training={"steps": 4, "batch_size": 16, "workers": 0, "device": "cpu"},
        look=False,
        keep="adapted",
        **{"export": (), **more},
    )
    run = load_run(tmp_path / "run")
    with torch.no_grad():
        wanted = calibrated(tmp_path / "run", network)(torch.from_numpy(x_t)).softmax(1)
    torch.testing.assert_close(predict(run, target), wanted, atol=1e-6, rtol=1e-5)
    if "export" in more:
        program: Any = torch.export.load(tmp_path / "run" / "model.pt2").module()
        found = program(torch.from_numpy(x_t)).softmax(1)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_what_is_lost_on_the_source_as_it_was_is_not_called_unlearnt() -> None:
    x_s, y_s, _, _ = data()
    # The classes swap places: what is right for the moved source is wrong for it as it was.
    x_t = np.roll(x_s, 1, axis=1) * 2 + 4
    how = {"steps": 60, "batch_size": 32, "workers": 0, "device": "cpu", "lr": 0.05}
    task = Task(from_arrays(x_s, y_s), from_arrays(x_t, None))
    _, report = adapt(task, "features", "linear_ot", training=how, look=False)
    lost = [w for w in report.warnings if "on the source's validation samples" in w]
    assert len(lost) == 1
    assert "these are as they were" in lost[0]


# Refusals -----------------------------------------------------------------------------------------


def images() -> Task:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, size=(30, 12, 12), dtype=np.uint8)
    y = np.arange(30) % 3
    return Task(from_arrays(x, y), from_arrays(255 - x, None))


@pytest.mark.parametrize("name", ALL)
def test_images_are_refused_unless_the_backbone_is_frozen(name: str) -> None:
    how = {"steps": 2, "batch_size": 8, "workers": 0, "device": "cpu"}
    with pytest.raises(DomadaptError, match=r"rows of features.*'image'; give --freeze"):
        adapt(images(), "lenet", name, training=how, look=False)
    assert "frozen" in check(images(), "lenet", name, training=how, freeze=True)
    more: dict[str, Any] = {"look": False, "freeze": True, "keep": "adapted"}
    network, report = adapt(images(), "lenet", name, training=how, **more)
    assert report.chosen == name
    assert network(torch.rand(2, 3, 12, 12)).shape == (2, 3)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs()


@pytest.mark.parametrize(
    "first",
    [Square(), nn.LayerNorm(N_FEATURES), nn.Linear(N_FEATURES, N_FEATURES, bias=False)],
    ids=["square", "layer norm", "no bias"],
)
def test_a_network_that_cannot_take_in_the_map_is_refused(first: nn.Module) -> None:
    network = Network(nn.Sequential(first), nn.Linear(N_FEATURES, N_CLASSES))
    with pytest.raises(DomadaptError, match=r"must be a torch.nn.Linear with a bias"):
        trainer("subspace_alignment", network).rehearse()
    # Moving the source alone asks nothing of the network.
    trainer("coral", network).rehearse()


def test_a_normalisation_of_ones_own_is_refused() -> None:
    network = Network(nn.Flatten(), nn.Linear(N_FEATURES, N_CLASSES), None, nn.Tanh())
    with pytest.raises(DomadaptError, match=r"domadapt.network.Normalize, or none; got Tanh"):
        trainer("coral", network).rehearse()


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("coral", {"reg": -1.0}, "at least 0"),
        ("subspace_alignment", {"n_components": 7}, "from 1 to 6"),
        ("tca", {"mu": 0.0}, "must be positive"),
        ("ot_da", {"reg": -1.0}, "reg >= 0"),
        ("kmm", {"weight_max": 0.5}, "max_weight >= 1"),
        ("discriminator_weights", {"C": 0.0}, "C > 0"),
    ],
)
def test_a_setting_that_the_transformer_refuses_is_refused_before_training(
    name: str, settings: dict[str, Any], says: str
) -> None:
    run = small_trainer(build_method(name, linear_network(), settings))
    with pytest.raises(DomadaptError, match=says):
        run.rehearse()


def test_combinations_that_cannot_be() -> None:
    with pytest.raises(DomadaptError, match=r"coral and tca are each fitted on the rows"):
        build_method("coral+tca", linear_network())
    with pytest.raises(DomadaptError, match=r"moves the source's training rows"):
        trainer("coral+bbse", linear_network(8)).rehearse()
    trainer("kmm+bbse", linear_network(8)).rehearse()


def test_flags_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x_s, y_s, x_t, _ = data()
    np.savez(tmp_path / "s.npz", x=x_s, y=y_s)
    np.savez(tmp_path / "t.npz", x=x_t)
    out = tmp_path / "run"
    flags = "--method ot_da --norm max --class-reg 0.1 --steps 2 --keep adapted"
    words = ["adapt", f"{tmp_path}/s.npz", f"{tmp_path}/t.npz", *flags.split(), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["domadapt", *words])
    with suppress(SystemExit):
        main()
    settings = load_run(out).config["method"]["settings"]
    assert settings == {"reg": 0.1, "class_reg": 0.1, "norm": "max", "max_iter": 1000}
