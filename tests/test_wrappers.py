"""What goes with any method: SAM, averaged weights, balanced batches, labelled target samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import N_CLASSES, arrays, same_bits, small_network, small_task, small_trainer, weights

from domadapt import ops
from domadapt.batches import balancing_weights
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.methods import build_method
from domadapt.methods.base import BatchOutputs, Method
from domadapt.task import Batch, Task

# Sharpness-aware minimisation -------------------------------------------------------------------


def test_sam_takes_the_gradient_uphill_and_steps_from_where_it_was() -> None:
    """One SGD step by hand: ``w - lr * grad L(w + rho g / |g|)``."""
    rho, lr = 0.5, 0.1
    how: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": lr}
    trainer = small_trainer("mcc", steps=1, sam=rho, schedule="constant", **how)
    batch = trainer._stream()[0]
    method = build_method("mcc", small_network()).train()
    parameters = list(method.network.parameters())
    with ops.kept_statistics(method.network):
        source = method.source_loss(method.outputs(batch), batch)
    g = torch.autograd.grad(source, parameters)
    norm = torch.sqrt(sum((x**2).sum() for x in g))  # type: ignore[arg-type]
    start = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, x in zip(parameters, g, strict=True):
            p += rho * x / norm
    grads = torch.autograd.grad(method(batch).total, parameters)
    expected = [w - lr * x for w, x in zip(start, grads, strict=True)]
    found = list(trainer.fit().parameters())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_sam_moves_the_statistics_of_batchnorm_once_a_step() -> None:
    counts = [
        small_trainer("mcc", steps=3, sam=rho).fit().get_buffer("backbone.1.num_batches_tracked")
        for rho in (0.0, 0.05)
    ]
    # Once for each domain.
    assert counts[0] == counts[1] == 2 * 3


# Averaged weights -------------------------------------------------------------------------------


def test_ema_is_the_average_of_the_weights_by_hand() -> None:
    trainer = small_trainer("mcc", steps=4, ema=0.9, log_every=1)
    seen: list[torch.Tensor] = [weights(trainer.method.network)]
    kept = trainer.fit(lambda _: seen.append(weights(trainer.method.network)))
    average = seen[0]
    for step, w in enumerate(seen[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    torch.testing.assert_close(weights(kept), average, rtol=1e-4, atol=1e-5)
    assert not same_bits(kept, trainer.method.network)


def test_ema_beside_a_teacher_is_refused() -> None:
    with pytest.raises(DomadaptError, match="leave ema out"):
        small_trainer("mean_teacher", ema=0.9)


@pytest.mark.parametrize("how", [{"ema": 0.9}, {"sam": 0.05}, {"balance": True}], ids=str)
def test_resume_is_exact(how: dict[str, Any], tmp_path: Any) -> None:
    whole = small_trainer("mcc", dropout=0.3, **how).fit()
    path = tmp_path / "checkpoint.safetensors"

    def kill(point: Any) -> None:
        if point.step == 9:
            raise KeyboardInterrupt

    given = {"path": path, "dropout": 0.3, "checkpoint_every": 6, **how}
    with pytest.raises(KeyboardInterrupt):
        small_trainer("mcc", **given).fit(kill)
    again = small_trainer("mcc", **given)
    assert same_bits(again.fit(), whole)
    assert again.history["step"][-1] == 12


# Balanced batches -------------------------------------------------------------------------------


def test_balancing_weights_by_hand() -> None:
    w = balancing_weights(torch.tensor([0, 0, 0, 2]))
    assert torch.allclose(w, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]).double())


def test_balanced_batches_draw_rare_classes_as_often() -> None:
    x, y = arrays(200)
    y = np.where(np.arange(200) < 180, 0, 1 + np.arange(200) % 2)
    task = Task(from_arrays(x, y), from_arrays(x[:90]))
    trainer = small_trainer("mcc", task, balance=True, steps=60)
    stream = trainer._stream()
    drawn = torch.cat([stream[k].y_s for k in range(60)])  # type: ignore[misc]
    share = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.05)


def test_balanced_target_follows_the_predictions() -> None:
    trainer = small_trainer("mcc", balance=True)
    trainer.fit()
    assert trainer._weights_t is not None
    kept = trainer.method.network.eval()
    trainer._balance()
    views = trainer.views.evaluation(
        trainer.task.target_train.fetch(np.arange(len(trainer.task.target_train)))
    )
    predicted = kept(views).argmax(1)
    sums = [float(trainer._weights_t[predicted == c].sum()) for c in predicted.unique()]
    assert sums == pytest.approx([1.0] * len(sums))


@pytest.mark.parametrize("name", ["mcc", "wdgrl", "adda"])
def test_wrappers_in_mixed_precision(name: str) -> None:
    trainer = small_trainer(name, precision="bf16", sam=0.05)
    assert torch.isfinite(weights(trainer.fit())).all()


# Labelled target samples ------------------------------------------------------------------------


def labelled_task(target_labels: Any = "true", n: int = 9) -> Task:
    x, y = arrays(n, seed=7, shift=2.0)
    return small_task(target_labels, target_labelled=from_arrays(x, y, name="few"))


def test_labelled_target_samples_are_learnt_from() -> None:
    trainer = small_trainer("mcc", labelled_task())
    batch = trainer._stream()[0]
    assert batch.x_l is not None
    assert batch.y_l is not None
    assert len(batch.y_l) == 9
    method = build_method("mcc", small_network()).train()
    losses = method(batch)
    target = torch.cat([batch.x_t, batch.x_l])  # type: ignore[list-item]
    logits = small_network().train()(target)[-9:]
    expected = torch.nn.functional.cross_entropy(logits, batch.y_l)
    torch.testing.assert_close(losses.terms["labelled"], expected)
    assert losses.weights["labelled"] == 1.0
    assert not same_bits(trainer.fit(), small_trainer("mcc").fit())


@pytest.mark.parametrize("name", ["adamatch", "dann", "self_training", "dann+mcc"])
def test_every_kind_of_method_takes_labelled_target_samples(name: str) -> None:
    trainer = small_trainer(name, labelled_task())
    trainer.fit()
    assert np.isfinite(trainer.history["loss/labelled"]).all()


def test_scored_samples_are_not_trained_with_by_their_labels() -> None:
    x, y = arrays(90, seed=2, shift=2.0)
    with pytest.raises(DomadaptError, match="must not be scored"):
        small_task(target_labelled=from_arrays(x[5:9], y[5:9]))
    with pytest.raises(DomadaptError, match="needs a label"):
        small_task(target_labelled=from_arrays(x + 1))


def test_labels_of_the_other_target_samples_change_nothing() -> None:
    runs = [small_trainer("dann", labelled_task(y)).fit() for y in ("true", None)]
    assert same_bits(*runs)


# Critics ----------------------------------------------------------------------------------------


class Counting(Method):
    """A method whose own module is trained apart."""

    critic_steps = 3

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.critic = self.auxiliary(lambda: torch.nn.Linear(network.n_features, 1))
        self.calls = 0

    def critic_loss(self, out: BatchOutputs, batch: Batch) -> torch.Tensor:
        assert not out.z_s.requires_grad
        self.calls += 1
        return self.critic(out.z_t).mean() - self.critic(out.z_s).mean()

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, torch.Tensor]:
        return {}


def test_critic_steps_move_the_critic_alone() -> None:
    torch.manual_seed(0)
    method = Counting(small_network())
    before = method.critic.weight.detach().clone()
    trainer = small_trainer(method, steps=4)
    kept = trainer.fit()
    assert method.calls == 12
    assert not torch.equal(before, method.critic.weight)
    joint = small_trainer("source_only", settings={"joint_forward": True}, steps=4).fit()
    assert same_bits(kept, joint)


# Without source ---------------------------------------------------------------------------------


def test_a_task_without_source() -> None:
    x, y = arrays(90, seed=2, shift=2.0)
    names = [str(i) for i in range(N_CLASSES)]
    task = Task(None, from_arrays(x, y), class_names=names)
    assert task.source_free
    assert task.class_names == tuple(names)
    assert task.has_test_labels
    network = small_trainer("source_only").fit()
    method = build_method("shot", network)
    kept = small_trainer(method, task).fit()
    assert kept.head.weight.equal(small_trainer("source_only").fit().head.weight)  # type: ignore
    with pytest.raises(DomadaptError, match="class_names are for a task without"):
        Task(None, from_arrays(x))
    with pytest.raises(DomadaptError, match="class_names are for a task without"):
        Task(from_arrays(x, y), from_arrays(x + 1), class_names=names)


@pytest.mark.parametrize("how", [{"sam": 0.1}], ids=str)
def test_sam_without_source_loss_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(DomadaptError, match="has none"):
        small_trainer("shot", **how)
