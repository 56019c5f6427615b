"""The training loop: what every method keeps under it."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from small import arrays, same_bits, small_network, small_task, small_trainer, weights

from domadapt import checkpoint
from domadapt.batches import Order
from domadapt.errors import DomadaptError
from domadapt.methods import Method, build_method, method_class, settings_of
from domadapt.optimizers import make_optimizer, parameter_groups
from domadapt.training import Training

# The self-test puts every method to the like; here are a few of each kind, over a new network.
METHODS = ["adamatch", "dann", "self_training", "source_only"]


def zero_weights(name: str) -> dict[str, Any]:
    found = settings_of(method_class(name))
    return {key: 0.0 for key in found if key.endswith("_weight")}


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name: str) -> None:
    one, two = (small_trainer(name, dropout=0.3).fit() for _ in range(2))
    other = small_trainer(name, dropout=0.3, seed=1).fit()
    assert same_bits(one, two)
    assert not same_bits(one, other)


@pytest.mark.parametrize("name", ["dann", "adamatch"])
def test_loader_workers_change_no_bit(name: str) -> None:
    assert same_bits(small_trainer(name).fit(), small_trainer(name, workers=2).fit())


@pytest.mark.parametrize("name", METHODS)
def test_target_labels_change_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    _, y = arrays(n=90)
    plain = small_trainer(name, small_task(y)).fit()
    for poison in (rng.permutation(y), np.zeros_like(y), None):
        assert same_bits(plain, small_trainer(name, small_task(poison)).fit())


@pytest.mark.parametrize("name", METHODS)
def test_weight_zero_is_source_only_and_more_is_not(name: str) -> None:
    cls = method_class(name)
    if name == "source_only":
        pytest.skip("is the yardstick itself")
    if cls.no_neutral:
        assert len(cls.no_neutral) > 10
        return  # its gradient's reach into the backbone is tested by the contract suite
    yardstick = small_trainer("source_only", settings={"joint_forward": True}).fit()
    assert zero_weights(name), f"{name} has no *_weight setting; say why in no_neutral"
    trainer = small_trainer(name, settings=zero_weights(name))
    trainer.fit()
    # The network that was trained, not an averaged one that is kept.
    neutral = trainer.method.network
    if cls.needs_strong:
        # A pass over strong views moves BatchNorm's statistics, though no weight.
        pairs = zip(neutral.parameters(), yardstick.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    else:
        assert same_bits(neutral, yardstick)
    assert not same_bits(small_trainer(name).fit(), yardstick)


def test_source_only_never_sees_the_target() -> None:
    x, _ = arrays(n=90, seed=2, shift=2.0)
    seen = small_trainer("source_only").fit()
    task = small_task()
    task.target_train.domain.samples.x[:] = np.nan  # type: ignore[attr-defined]
    assert same_bits(seen, small_trainer("source_only", task).fit())
    assert len(x) == len(task.target_train)


@pytest.mark.parametrize("name", METHODS)
def test_each_parameter_in_one_group(name: str) -> None:
    method = build_method(name, small_network())
    groups = parameter_groups(method, Training(head_lr_multiple=10.0, lr=0.1))
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    backbone = {id(p) for p in method.network.backbone.parameters()}
    for group in groups:
        for p in group["params"]:
            assert group["lr"] == (0.1 if id(p) in backbone else 1.0)
            assert (group["weight_decay"] > 0) == (p.ndim > 1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resume_is_exact(name: str, optimizer: str, tmp_path: Any) -> None:
    how = {"optimizer": optimizer, "checkpoint_every": 6, "dropout": 0.3, "lr": 0.01}
    # A method with a length of its own is made as long as the others.
    own = {"passes": 2} if "passes" in settings_of(method_class(name)) else None
    whole = small_trainer(name, settings=own, **how).fit()
    path = tmp_path / "checkpoint.safetensors"

    class Killed(Exception):
        pass

    def kill(point: Any) -> None:
        if point.step == 9:
            raise Killed

    first = small_trainer(name, settings=own, path=path, **how)
    with pytest.raises(Killed):
        first.fit(kill)
    again = small_trainer(name, settings=own, path=path, **how)
    assert same_bits(again.fit(), whole)
    assert again.history["step"] == [3, 6, 9, 12]


def test_a_checkpoint_of_other_settings_or_torn_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "checkpoint.safetensors"
    small_trainer("dann", path=path, checkpoint_every=3).fit()
    other = small_trainer("mcc", path=path)
    with pytest.raises(DomadaptError, match="other settings"):
        other.fit()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DomadaptError, match="torn"):
        small_trainer("dann", path=path).fit()
    checkpoint.write_text(path, "hello")
    with pytest.raises(DomadaptError, match="torn or no safetensors"):
        small_trainer("dann", path=path).fit()


class Explodes(Method):
    """A method whose term is not a number from a given step on."""

    name = "explodes"
    needs_target = True

    def __init__(self, network: Any, *, at: float = 0.5) -> None:
        super().__init__(network)
        self.at = at

    def terms(self, out: Any, batch: Any) -> dict[str, torch.Tensor]:
        bad = float("nan") if batch.progress >= self.at else 0.0
        return {"boom": out.z_t.mean() * bad}


def test_nan_stops_with_the_terms_name_and_keeps_the_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "checkpoint.safetensors"
    trainer = small_trainer(Explodes(small_network()), path=path, checkpoint_every=3)
    with pytest.raises(DomadaptError, match="'boom' became NaN or infinite between steps 6 and 9"):
        trainer.fit()
    tensors, about = checkpoint.load_tensors(path)
    assert about["step"] == 6
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def test_joint_and_separate_batch_statistics_differ() -> None:
    joint = small_trainer("dann", batch_statistics="joint").fit()
    assert not same_bits(joint, small_trainer("dann", batch_statistics="separate").fit())


def test_accumulation_averages_the_gradients() -> None:
    """Two batches of one step equal their mean gradient, taken by hand."""
    trainer = small_trainer("source_only", steps=1, accumulate=2, optimizer="sgd", lr=0.1)
    before = copy.deepcopy(trainer.method.network)
    stream = trainer._batches()
    batches = [next(stream), next(stream)]
    after = trainer.fit()
    by_hand = build_method("source_only", before)
    optimizer = make_optimizer(by_hand, trainer.training)
    for batch in batches:
        (by_hand(batch).total / 2).backward()
    optimizer.step()
    torch.testing.assert_close(weights(after), weights(by_hand.network))


def test_clipping_bounds_network_and_auxiliary_apart() -> None:
    """With rate 1 and plain SGD a step is as long as the clipped gradient."""
    for part in ("network", "discriminator"):
        trainer = small_trainer(
            "dann", steps=1, clip=0.01, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0
        )
        module = getattr(trainer.method, part)
        before = torch.cat([p.detach().clone().flatten() for p in module.parameters()])
        trainer.fit()
        after = torch.cat([p.detach().flatten() for p in module.parameters()])
        assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains() -> None:
    trainer = small_trainer("dann", precision="bf16", steps=40, log_every=10)
    trainer.fit()
    assert trainer.history["loss/source"][-1] < trainer.history["loss/source"][0]


def test_order_reshuffles_and_covers_each_epoch() -> None:
    order = Order(10, 3)
    epochs = [np.concatenate([order.part(2 * e + i, 5) for i in (0, 1)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(Order(10, 3).part(4, 5), epochs[2][:5])
    # A batch larger than the data set runs through several epochs.
    assert sorted(order.part(0, 20)) == sorted(list(range(10)) * 2)


def test_schedules_are_functions_of_progress() -> None:
    cosine = Training(schedule="cosine")
    assert cosine.lr_factor(0.0) == 1.0
    assert cosine.lr_factor(0.5) == pytest.approx(0.5)
    assert Training(schedule="inverse").lr_factor(1.0) == pytest.approx(11**-0.75)
    warm = Training(schedule="constant", warmup=0.1, steps=100)
    assert warm.lr_factor(0.0) < warm.lr_factor(0.05) < warm.lr_factor(0.1) == 1.0


def test_bad_settings_are_refused_in_words() -> None:
    with pytest.raises(DomadaptError, match="steps must be at least 1; got 0"):
        Training(steps=0)
    with pytest.raises(DomadaptError, match="lr must be above 0"):
        Training(lr=0.0)
    if not torch.cuda.is_available():
        with pytest.raises(DomadaptError, match="needs a GPU"):
            small_trainer("dann", precision="fp16")
        with pytest.raises(DomadaptError, match="no CUDA device"):
            small_trainer("dann", device="cuda")


def test_a_frozen_network_is_refused() -> None:
    network = small_network().requires_grad_(False)
    with pytest.raises(DomadaptError, match="no trainable parameter"):
        small_trainer(build_method("source_only", network)).fit()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("clip", -1.0), ("target_batch_size", 0), ("seed", -1), ("weight_decay", -0.1)],
)
def test_settings_that_would_wreck_training_are_refused(setting: str, value: float) -> None:
    with pytest.raises(DomadaptError, match=rf"{setting} must .*{value}"):
        Training(**{setting: value})  # type: ignore[arg-type]


class Late(Method):
    """A method whose term begins in the middle of the run."""

    name = "late"

    def terms(self, out: Any, batch: Any) -> dict[str, torch.Tensor]:
        return {} if batch.progress < 0.4 else {"late": out.z_t.square().mean()}


def test_a_term_may_begin_later() -> None:
    trainer = small_trainer(Late(small_network()))
    trainer.fit()
    late = np.array(trainer.history["loss/late"])
    assert len(late) == len(trainer.history["step"]) == 4
    assert np.isnan(late).tolist() == [True, False, False, False]


class Returns(Method):
    """A method whose terms are whatever the test wants."""

    name = "returns"

    def __init__(self, network: Any, *, moment_weight: float = 1.0) -> None:
        super().__init__(network)
        self.moment_weight = moment_weight
        self.value: Any = {}

    def terms(self, out: Any, batch: Any) -> dict[str, torch.Tensor]:
        return self.value(out)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda out: out.z_t.mean(), "dictionary of scalar tensors by name; got Tensor"),
        (lambda out: {"moment": out.z_t.mean(0)}, r"got 'moment': \(16,\)"),
        (lambda out: {"moment": 0.0}, "got 'moment': float"),
        (lambda out: {"source": out.z_t.mean()}, "must not call a term 'source'"),
        (lambda out: {"moments": out.z_t.mean()}, "moment_weight of returns weights a term"),
    ],
)
def test_what_a_method_gets_wrong_is_said_before_training(value: Any, said: str) -> None:
    method = Returns(small_network())
    method.value = value
    with pytest.raises(DomadaptError, match=said):
        small_trainer(method).rehearse()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes_its_rehearsal(name: str) -> None:
    small_trainer(name).rehearse()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_backbone_learns_the_same() -> None:
    # SGD: AdamW's first steps depend on the sign alone of gradients that are all but zero.
    how = {"steps": 3, "optimizer": "sgd", "lr": 0.1}
    plain = small_trainer("source_only", **how).fit()
    compiled = small_trainer("source_only", compile=True, **how).fit()
    assert not same_bits(plain, small_trainer("source_only", **{**how, "lr": 0.05}).fit())
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
