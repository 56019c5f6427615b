"""Invariants of whole runs: what a method may depend on, and what it leaves behind."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domadapt.network import Network
from domadapt.selftest import small
from domadapt.selftest.invariant import NotKept, invariant, require
from domadapt.selftest.subject import Left, Subject, terms_of
from domadapt.trainer import Trainer


@cache
def _yardstick(world: Any, joint: bool, joins: bool) -> Network:
    """What `source_only` gives; `joint`: where target batches pass through the network as well;
    `joins`: where BatchNorm sees them with the source's.
    """
    subject = Subject("source_only")
    subject.world = world
    how: dict[str, Any] = {"batch_statistics": "joint"} if joins else {}
    return subject.trainer({"joint_forward": joint}, dropout=0.0, **how).fit()


def _weighty(subject: Subject, zeros: dict[str, Any]) -> list[str]:
    """The terms that still count with all weights at 0."""
    method, batch = subject.ready(zeros), subject.batch()
    return [n for n in terms_of(method, batch) if method.weight(n, batch.progress)]


@invariant(lambda subject: subject.name != "source_only")
def weight_zero(subject: Subject) -> None:
    """With all weights 0 it is source_only bit for bit; with any weight above 0 it is not."""
    probe = subject.probe
    start = subject.world.trained_network()
    # Without a loss, weight decay alone would move the weights.
    how: dict[str, Any] = {} if probe.needs_source else {"weight_decay": 0.0}

    def run(settings: dict[str, Any] | None = None) -> Network:
        # What is trained; a running average of it may be what is kept.
        return subject.run(settings, dropout=0.0, **how).method.network

    if not probe.trains:
        kept = run()
        require(small.same_parameters(kept, start), "trains is False, and yet parameters moved")
        require(not small.same_bits(kept, start), "the network is the same after the run")
        return
    how_plain = (subject.world, probe.needs_target_outputs, probe.joins_domains)
    plain = _yardstick(*how_plain) if probe.needs_source else start
    what = "source_only" if probe.needs_source else "the network that was given"
    require(not small.same_parameters(run(), plain), f"with its defaults it is {what}")
    if probe.no_neutral:
        require(len(probe.no_neutral) > 10, "no_neutral must say why, in words")
        return
    zeros = dict.fromkeys(subject.weights, 0.0)
    require(bool(zeros), "it has no *_weight setting; say why in no_neutral")
    found = run(zeros)
    left = _weighty(subject, zeros)
    require(
        small.same_parameters(found, plain),
        f"with all weights at 0 it is not {what}"
        + (f": the term {left[0]!r} has no setting {left[0]}_weight" if left else ""),
    )
    # A pass over strong views, or without a source, moves BatchNorm's statistics all the same.
    if probe.needs_source and not probe.needs_strong:
        require(
            small.same_bits(found, plain),
            f"with all weights at 0 its buffers are not those of {what}",
        )
    for key in zeros:
        other = run(zeros | {key: 1.0})
        require(not small.same_parameters(other, plain), f"{key} = 1 changes nothing")


@invariant()
def same_seed(subject: Subject) -> None:
    """One seed gives the same bits; another seed gives others."""
    trainer = subject.trainer()
    again = Left.of(trainer, trainer.fit())
    require(
        subject.run().equals(again),
        "two runs with one seed differ: draw random numbers from torch's generators alone",
    )
    other = subject.run(seed=1)
    require(not small.same_bits(other.method, again.method), "runs with two seeds are the same")


@invariant()
def target_labels(subject: Subject) -> None:
    """Whatever the labels of the target say, or if there are none, nothing changes."""
    _, y = small.arrays(n=90)
    poisons = {
        "permuted": np.random.default_rng(0).permutation(y),
        "all one": np.zeros_like(y),
        "missing": None,
    }
    for how, poison in poisons.items():
        trainer = subject.trainer(labels=poison)
        require(
            subject.run().equals(Left.of(trainer, trainer.fit())),
            f"with the target's labels {how} the run differs: it reads target labels",
        )


@invariant()
def resume(subject: Subject) -> None:
    """A run that was stopped goes on with the same bits."""
    kinds: dict[str, dict[str, Any]] = {
        "adamw, one batch a step": {},
        "sgd, two batches a step": {"optimizer": "sgd", "accumulate": 2, "target_batch_size": 10},
    }
    for kind, how in kinds.items():
        whole = subject.run(**how)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.safetensors"
            first = subject.trainer(path=path, **how)
            half = first.steps // 2
            first = subject.trainer(path=path, checkpoint_every=half, **how)
            _stop(first, after=half)
            again = subject.trainer(path=path, checkpoint_every=half, **how)
            found = Left.of(again, again.fit())
        require(
            found.equals(whole),
            f"a run that goes on from a checkpoint differs from one in one piece ({kind}): all "
            "state must be parameters and buffers, all randomness torch's",
        )


class _Killed(Exception):
    pass


def _stop(trainer: Trainer, after: int) -> None:
    """Stop a run some time after the step of its checkpoint."""

    def kill(point: Any) -> None:
        if point.step > after:
            raise _Killed

    with suppress(_Killed):
        trainer.fit(kill)


@invariant()
def state(subject: Subject) -> None:
    """Another instance with the state loaded gives the same losses."""
    one = subject.ready()
    subject.take_steps(one)
    two = subject.build(network=subject.world.small_network(seed=9))
    two.setup(2 * small.POOL, small.POOL)
    two.load_state_dict(one.state_dict())
    values = []
    for method in (one, two.train()):
        torch.manual_seed(4)
        values.append(method(subject.batch()).terms)
    require(values[0].keys() == values[1].keys(), "the other instance has other terms")
    for key, value in values[0].items():
        if not torch.equal(value, values[1][key]):
            raise NotKept(
                f"the term {key} is {float(value.detach()):.6g}, and "
                f"{float(values[1][key].detach()):.6g} in another instance with the state loaded: "
                "all state must be parameters and buffers"
            )


@invariant()
def keeps_network(subject: Subject) -> None:
    """The network that is kept classifies."""
    method = subject.ready()
    subject.take_steps(method)
    kept = method.adapted().eval()
    with torch.no_grad():
        logits = kept(subject.world.samples(7, 1))
    shape = (7, small.N_CLASSES)
    require(tuple(logits.shape) == shape, f"its logits have shape {tuple(logits.shape)}")
    require(bool(logits.isfinite().all()), "its logits are not finite")
