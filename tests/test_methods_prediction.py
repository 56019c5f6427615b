"""What the methods of predictions and self-training promise beyond the contract of all."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import N_CLASSES, N_FEATURES, small_network, small_trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from domadapt.errors import DomadaptError
from domadapt.losses.prediction import bnm, entropy, infomax
from domadapt.losses.self_training import neighbour_labels, sharpen, weighted_pseudo_label_loss
from domadapt.methods import BatchOutputs, Method, build_method
from domadapt.methods.atdoc import ATDOC
from domadapt.methods.mean_teacher import MeanTeacher
from domadapt.task import Batch


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def logits_of(p: list[list[float]]) -> Tensor:
    return torch.tensor(p).log()


def terms(method: Method, out: BatchOutputs, batch: Batch | None = None) -> dict[str, Tensor]:
    return method.terms(out, batch or Batch(None, None, None, 0.5))


# Entropy, InfoMax, BNM ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"), [("entropy", entropy), ("infomax", infomax), ("bnm", bnm)]
)
def test_they_are_their_losses_on_the_target(name: str, loss: Any) -> None:
    out = BatchOutputs(logits_s=draw(8, 3), logits_t=draw(6, 3, seed=1))
    found = terms(build_method(name, small_network()), out)
    assert found.keys() == {name}
    torch.testing.assert_close(found[name], loss(out.logits_t))


@pytest.mark.parametrize(("name", "collapses"), [("entropy", True), ("infomax", False)])
def test_entropy_alone_collapses(name: str, collapses: bool) -> None:
    """Predictions that lean to one class are driven into it, and infomax drives them apart."""
    logits = draw(60, 3)
    logits[:, 0] += 0.7
    assert set(logits.argmax(1).tolist()) == {0, 1, 2}
    method = build_method(name, small_network())
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (value,) = terms(method, BatchOutputs(logits_t=logits + bias)).values()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    shares = torch.bincount((logits + bias).argmax(1), minlength=3) / 60
    assert (float(shares.max()) > 0.99) == collapses
    if not collapses:
        assert float(shares.min()) > 0.2


# FixMatch -----------------------------------------------------------------------------------------


def test_fixmatch_by_hand() -> None:
    out = BatchOutputs(
        logits_t=logits_of([[0.96, 0.04], [0.06, 0.94], [0.01, 0.99]]),
        logits_t_strong=logits_of([[0.3, 0.7], [0.5, 0.5], [0.2, 0.8]]),
    )
    (value,) = terms(build_method("fixmatch", small_network()), out).values()
    # The second sample is below 0.95; the sum of the others is divided by all three.
    assert float(value) == pytest.approx(-(math.log(0.3) + math.log(0.8)) / 3, rel=1e-5)
    low = build_method("fixmatch", small_network(), {"threshold": 0.9})
    (value,) = terms(low, out).values()
    expected = -(math.log(0.3) + math.log(0.5) + math.log(0.8)) / 3
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_fixmatch_sends_no_gradient_through_its_labels() -> None:
    weak, strong = (5 * draw(6, 3)).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    out = BatchOutputs(logits_t=weak, logits_t_strong=strong)
    (value,) = terms(build_method("fixmatch", small_network()), out).values()
    grads = torch.autograd.grad(value, (weak, strong), allow_unused=True)
    assert grads[0] is None
    assert bool(grads[1].abs().sum() > 0)


# Mean teacher -------------------------------------------------------------------------------------


def mean_teacher(**settings: Any) -> MeanTeacher:
    method = build_method("mean_teacher", small_network(), settings)
    assert isinstance(method, MeanTeacher)
    return method.train()


def target_batch(n: int = 6) -> Batch:
    return Batch(None, None, draw(n, N_FEATURES), 0.5, x_t_strong=draw(n, N_FEATURES, seed=1))


def test_teacher_begins_as_the_network_and_has_nothing_to_train() -> None:
    method = mean_teacher()
    for a, b in zip(method.teacher.parameters(), method.network.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
        assert not a.requires_grad
        assert b.requires_grad
    assert method.adapted() is method.teacher


def test_teacher_follows_by_the_decay() -> None:
    method = mean_teacher(decay=0.9)
    before = [p.clone() for p in method.network.parameters()]
    with torch.no_grad():
        for p in method.network.parameters():
            p.add_(1.0)
    statistics = copy.deepcopy(dict(method.teacher.named_buffers()))
    for step in range(1, 4):
        method.after_step(0.5)
        for a, b in zip(method.teacher.parameters(), before, strict=True):
            torch.testing.assert_close(a, b + (1 - 0.9**step))
    for name, buffer in method.teacher.named_buffers():
        assert torch.equal(buffer, statistics[name])


def test_mean_teacher_terms_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return logits_of([[0.98, 0.02], [0.9, 0.1]])

    method = mean_teacher()
    method.teacher = Fixed()  # type: ignore[assignment]
    out = BatchOutputs(logits_t_strong=logits_of([[0.5, 0.5], [0.5, 0.5]]))
    found = terms(method, out, target_batch(2))
    # One of two samples is followed: (0.48^2 + 0.48^2) / 2 / 2; the mean prediction is uniform.
    assert float(found["consistency"]) == pytest.approx(0.48**2 / 2, rel=1e-5)
    assert float(found["balance"]) == pytest.approx(0.5 * 2 * math.log(2), rel=1e-4)


def test_nothing_is_learnt_while_the_teacher_is_unsure() -> None:
    found = terms(mean_teacher(), BatchOutputs(logits_t_strong=draw(6, 3)), target_batch())
    assert all(float(value) == 0.0 for value in found.values())


def test_teacher_has_the_statistics_of_the_target() -> None:
    method, batch = mean_teacher(), target_batch(6)
    assert isinstance(batch.x_t, Tensor)
    for _ in range(200):
        terms(method, BatchOutputs(logits_t_strong=draw(6, 3)), batch)
    linear, norm = method.teacher.backbone[0], method.teacher.backbone[1]  # type: ignore[index]
    inner = linear(batch.x_t).detach()
    torch.testing.assert_close(norm.running_mean, inner.mean(0))
    torch.testing.assert_close(norm.running_var, inner.var(0))


def test_training_keeps_the_teacher(tmp_path: Path) -> None:
    trainer = small_trainer("mean_teacher", settings={"threshold": 0.5})
    kept = trainer.fit()
    method = trainer.method
    assert isinstance(method, MeanTeacher)
    assert kept is method.teacher
    pairs = list(zip(kept.parameters(), method.network.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)


# ATDOC --------------------------------------------------------------------------------------------


def atdoc(n_target: int = 20, **settings: Any) -> ATDOC:
    method = build_method("atdoc", small_network(), settings)
    assert isinstance(method, ATDOC)
    method.setup(10, n_target)
    return method.train()


def asked(index: list[int], seed: int = 0) -> tuple[BatchOutputs, Batch]:
    n = len(index)
    out = BatchOutputs(z_t=draw(n, 16, seed), logits_t=draw(n, N_CLASSES, seed + 50))
    return out, Batch(None, None, None, 0.5, index_t=torch.tensor(index))


def test_bank_keeps_the_latest_of_each_sample() -> None:
    method = atdoc()
    first, second = asked([3, 7, 9]), asked([7, 1], seed=1)
    terms(method, *first)
    terms(method, *second)
    torch.testing.assert_close(method.bank_z[[3, 9]], normalize(first[0].z_t[[0, 2]]))
    torch.testing.assert_close(method.bank_z[[7, 1]], normalize(second[0].z_t))
    torch.testing.assert_close(method.bank_p[[7, 1]], sharpen(second[0].logits_t.softmax(1)))
    filled = [i for i in range(20) if bool(method.bank_p[i].any())]
    assert filled == [1, 3, 7, 9]


def test_labels_come_from_the_bank() -> None:
    method = atdoc(neighbours=2)
    terms(method, *asked([0, 1, 2, 3, 4, 5]))
    out, batch = asked([4, 8, 9], seed=1)
    (value,) = terms(method, out, batch).values()
    assert batch.index_t is not None
    label, weight = neighbour_labels(out.z_t, batch.index_t, method.bank_z, method.bank_p, 2)
    torch.testing.assert_close(value, weighted_pseudo_label_loss(out.logits_t, label, weight))


def test_neighbours_overrule_the_classifier() -> None:
    """Five of a cluster say class 0; the sixth lies with them and is said to be of class 2."""
    method = atdoc()
    z = torch.cat([torch.ones(6, 16), -torch.ones(6, 16)]) + 0.1 * draw(12, 16)
    said = torch.tensor([0] * 5 + [2] + [1] * 6)
    logits = (4.0 * nn.functional.one_hot(said, N_CLASSES)).float().requires_grad_()
    batch = Batch(None, None, None, 0.5, index_t=torch.arange(12))
    (value,) = terms(method, BatchOutputs(z_t=z, logits_t=logits), batch).values()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[5].argmin() == 0
    assert gradient[5].argmax() == 2


def test_first_batch_of_atdoc_alone_teaches_nothing_it_has_not_seen() -> None:
    method = atdoc()
    out, batch = asked([3])
    (value,) = terms(method, out, batch).values()
    assert float(value) == 0.0


def test_atdoc_weight_grows_linearly() -> None:
    method = atdoc()
    assert [method.weight("pseudo", t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0, 0.1, 0.2])


def test_atdoc_sends_no_gradient_into_the_bank() -> None:
    method = atdoc()
    out, batch = asked(list(range(6)))
    out = replace(out, z_t=out.z_t.requires_grad_(), logits_t=out.logits_t.requires_grad_())
    (value,) = terms(method, out, batch).values()
    z, logits = torch.autograd.grad(value, (out.z_t, out.logits_t), allow_unused=True)
    assert z is None
    assert bool(logits.abs().sum() > 0)
    assert not method.bank_z.requires_grad
    assert not method.bank_p.requires_grad


def test_atdoc_refuses_a_batch_without_numbers() -> None:
    out, _ = asked([0, 1])
    with pytest.raises(DomadaptError, match="which target samples"):
        terms(atdoc(), out)


def test_the_bank_takes_what_every_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is played by what it would send: samples, features, predictions."""
    method = atdoc()
    here, there = asked([0, 2, 6]), asked([1, 3, 5], seed=1)
    assert there[1].index_t is not None
    p = sharpen(there[0].logits_t.softmax(1))
    sent = [there[1].index_t, normalize(there[0].z_t), p]

    def all_gather(parts: list[Tensor], own: Tensor) -> None:
        for part, x in zip(parts, (own, sent.pop(0)), strict=True):
            part.copy_(x)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    terms(method, *here)
    for out, batch in (here, there):
        assert batch.index_t is not None
        torch.testing.assert_close(method.bank_z[batch.index_t], normalize(out.z_t))
        expected = sharpen(out.logits_t.softmax(1))
        torch.testing.assert_close(method.bank_p[batch.index_t], expected)
    assert not method.bank_p[[4, 7]].any()


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bnm", "fixmatch", "mean_teacher", "atdoc"])
def test_a_stopped_run_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = {"threshold": 0.5} if name in ("fixmatch", "mean_teacher") else {}
    whole = small_trainer(name, settings=settings).fit()
    path = tmp_path / "state"
    options: dict[str, Any] = {"path": path, "checkpoint_every": 6}

    class Stopped(Exception):
        """Stands for a signal."""

    def stop(log: Any) -> None:
        if log.step == 9:
            raise Stopped

    with pytest.raises(Stopped):
        small_trainer(name, settings=settings, **options).fit(stop)
    assert path.exists()
    resumed = small_trainer(name, settings=settings, **options).fit()
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("fixmatch", {"threshold": 1.0}, r"threshold must lie in \[0, 1\); got 1"),
        ("mean_teacher", {"threshold": -0.1}, "threshold must lie in"),
        ("mean_teacher", {"decay": 1.0}, r"decay must lie in \[0, 1\); got 1"),
        ("atdoc", {"neighbours": 0}, "neighbours must be at least 1; got 0"),
    ],
)
def test_refused_settings(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DomadaptError, match=says):
        build_method(name, small_network(), settings)


def test_an_even_weight_is_plain_cross_entropy() -> None:
    """All of one class, all neighbours alike: ATDOC's loss is the cross-entropy with that class."""
    method = atdoc(neighbours=3)
    logits = torch.tensor([[2.0, 0.0, 1.0]]).repeat(8, 1)
    batch = Batch(None, None, None, 0.5, index_t=torch.arange(8))
    (value,) = terms(method, BatchOutputs(z_t=draw(8, 16), logits_t=logits), batch).values()
    # After the balance all classes are alike, and the first of them is taken.
    torch.testing.assert_close(value, cross_entropy(logits, torch.zeros(8, dtype=torch.long)))
