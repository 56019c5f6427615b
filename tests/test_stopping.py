"""Stopping where the losses on held-out samples are lowest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_trainer, weights
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError
from domadapt.network import Network
from domadapt.selftest.small_text import small_trainer as text_trainer
from domadapt.stopping import LOOKS

#: Rates at which the small network soon knows its few source samples by heart.
HOT: dict[str, Any] = {"steps": 60, "lr": 0.05, "weight_decay": 0.0, "schedule": "constant"}


def held_out(history: dict[str, list[float]]) -> dict[int, float]:
    """The losses by the step at which they were logged."""
    pairs = zip(history["step"], history["loss/held_out"], strict=True)
    return {int(step): loss for step, loss in pairs if math.isfinite(loss)}


def test_the_network_of_the_lowest_source_loss_is_kept() -> None:
    trainer = small_trainer("source_only", patience=1000, **HOT)
    val = trainer.task.source_val
    assert val.y is not None
    x = trainer.views.evaluation(val.fetch(range(len(val))))
    seen: dict[int, tuple[float, Tensor]] = {}

    def look(step: int, network: Network) -> None:
        network.eval()
        with torch.no_grad():
            loss = float(cross_entropy(network(x), val.y))
        network.train()
        seen[step] = loss, weights(network).clone()

    kept = trainer.fit(look=look, looks=LOOKS)
    found = held_out(trainer.history)
    assert set(found) == {*seen, trainer.steps}, "a look at every twentieth of the run"
    assert found == pytest.approx({**found, **{s: loss for s, (loss, _) in seen.items()}}, rel=1e-5)
    assert trainer.lowest is not None
    best = min(found, key=lambda step: found[step])
    assert trainer.lowest.step == best < trainer.steps, "the case is too easy"
    assert torch.equal(weights(kept), seen[best][1])


def test_training_goes_as_without_until_it_stops() -> None:
    plain = small_trainer("source_only", **HOT)
    plain.fit()
    watched = small_trainer("source_only", patience=4, **HOT)
    watched.fit()
    found = held_out(watched.history)
    assert watched.lowest is not None
    assert not watched.stopped, "it is no failure"
    last = int(watched.history["step"][-1])
    assert last < HOT["steps"]
    each = HOT["steps"] // LOOKS
    assert last == watched.lowest.step + 4 * each
    assert min(found.values()) == watched.lowest.lowest == found[watched.lowest.step]
    n = len(watched.history["step"])
    assert watched.history["loss/source"] == plain.history["loss/source"][:n]


@pytest.mark.parametrize("after", [9, 30])
def test_it_is_resumed_with_the_network_that_it_keeps(tmp_path: Path, after: int) -> None:
    how = {**HOT, "patience": 6, "log_every": 3, "checkpoint_every": 3}
    whole = small_trainer("source_only", **how)
    expected = weights(whole.fit())

    class Killed(Exception):
        pass

    def dies(point: Any) -> None:
        if point.step == after + 3:
            raise Killed

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        small_trainer("source_only", path=path, **how).fit(dies)
    again = small_trainer("source_only", path=path, **how)
    assert torch.equal(weights(again.fit()), expected)
    assert again.history["step"] == whole.history["step"]


def test_one_that_was_killed_after_its_last_step_trains_no_more(tmp_path: Path) -> None:
    how = {**HOT, "patience": 2, "log_every": 3, "checkpoint_every": 3}
    path = tmp_path / "state.safetensors"
    first = small_trainer("source_only", path=path, **how)
    expected = weights(first.fit())
    again = small_trainer("source_only", path=path, **how)
    assert torch.equal(weights(again.fit()), expected)
    assert again.step == first.step


def test_the_mixed_loss_hides_the_same_words_at_each_look() -> None:
    trainer = text_trainer("udalm", patience=3, steps=4)
    assert trainer.lowest is not None
    device = torch.device("cpu")
    first = trainer.lowest.look(1, device)
    torch.rand(7)
    assert trainer.lowest.look(2, device) == first
    trainer.method.mlm_weight = 0.0
    source = trainer.lowest.look(3, device)
    assert source < first
    alone = text_trainer("source_only", patience=3, steps=4)
    assert alone.lowest is not None
    assert alone.lowest.look(1, device) == pytest.approx(source, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "how", "words"),
    [
        ("dann", {}, "choose one of source_only, udalm"),
        ("source_only", {"ema": 0.9}, "leave one out"),
        ("source_only", {"patience": -1}, "must not be negative"),
    ],
)
def test_what_it_cannot_do_is_refused(method: str, how: dict[str, Any], words: str) -> None:
    with pytest.raises(DomadaptError, match=words):
        small_trainer(method, **{"patience": 3, **how})
