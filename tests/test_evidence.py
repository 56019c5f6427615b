"""What is known of a candidate: never target labels, the same samples, nothing left changed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from small import N_CLASSES, N_FEATURES, arrays, small_network, small_task, trained_network
from torch import Tensor

from domadapt import Network, Task, from_arrays
from domadapt.data.views import make_views
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection.evidence import Evidence, gather, mixer, some, together
from domadapt.task import Oracle, Split

VIEWS = make_views("vector", None, None, scale=torch.ones(N_FEATURES))


@dataclass(frozen=True)
class Candidate:
    """What `gather` reads of a trained candidate."""

    name: str
    network: Network
    method: str = "mcc"
    trains_on_confidence: bool = False


def outputs(n: int = 4, classes: int = 3, y: Tensor | None = None) -> Outputs:
    draw = torch.Generator().manual_seed(n)
    logits = torch.randn(n, classes, generator=draw)
    return Outputs(logits, torch.randn(n, 2, generator=draw), y)


# The firewall ----------------------------------------------------------------------------------


def test_target_labels_are_refused() -> None:
    with pytest.raises(DomadaptError, match="must not hold target labels"):
        Evidence("a", outputs(y=torch.zeros(4, dtype=torch.long)))
    clean = Evidence("a", outputs())
    with pytest.raises(DomadaptError, match="must not hold target labels"):
        replace(clean, target=outputs(y=torch.zeros(4, dtype=torch.long)))


def test_no_field_could_bring_them() -> None:
    held = {field.name for field in fields(Evidence)}
    assert held == {
        "name",
        "target",
        "source_val",
        "source_train",
        "others",
        "twin",
        "mixed",
        "trains_on_confidence",
        "trains_on_source",
    }


def test_evidence_without_samples_or_without_the_sources_labels_is_refused() -> None:
    with pytest.raises(DomadaptError, match="at least one target sample"):
        Evidence("a", outputs(0))
    for what in ("source_val", "source_train"):
        with pytest.raises(DomadaptError, match=f"labels of {what}"):
            Evidence("a", outputs(), **{what: outputs()})
        with pytest.raises(DomadaptError, match=f"labels of {what}"):
            Evidence("a", outputs(), **{what: outputs(0, y=torch.zeros(0, dtype=torch.long))})


def test_gather_cannot_reach_target_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Task) -> Oracle:
        raise AssertionError("target labels were asked for")

    monkeypatch.setattr(Task, "_labels_for_evaluate", never)
    monkeypatch.setattr(Task, "oracle", never)
    task = small_task()
    found = gather(Candidate("mcc", trained_network()), task, VIEWS)
    assert found.target.y is None
    with pytest.raises(AssertionError, match="were asked for"):
        task.oracle()


def test_nan_is_kept_for_the_guard_to_see() -> None:
    broken = outputs()
    broken.logits[1] = torch.nan
    found = together([Evidence("a", broken), Evidence("b", outputs())])
    assert found[1].others is not None
    assert bool(found[1].others["a"].isnan().any())
    assert found[0].classes == 3


# Together --------------------------------------------------------------------------------------


def test_each_candidate_is_told_of_all() -> None:
    a, b = Evidence("a", outputs()), Evidence("b", outputs())
    found = together([a, b])
    for evidence in found:
        assert evidence.others is not None
        assert list(evidence.others) == ["a", "b"]
        assert evidence.others["a"] is a.target.logits
        assert evidence.others["b"] is b.target.logits
    assert a.others is None


@pytest.mark.parametrize(
    "other",
    [Evidence("a", outputs(5)), Evidence("b", outputs(5)), Evidence("b", outputs(classes=2))],
)
def test_what_cannot_be_compared_is_refused(other: Evidence) -> None:
    with pytest.raises(DomadaptError, match="different names and logits of one shape"):
        together([Evidence("a", outputs()), other])


# Samples ---------------------------------------------------------------------------------------


def split(n: int, labelled: bool = False) -> Split:
    x = np.arange(n, dtype=np.float32)[:, None]
    indices = np.arange(n)[::-1].copy()
    y = torch.from_numpy(indices) if labelled else None
    return Split("some", from_arrays(x, name="d"), indices, y)


def test_some_draws_the_same_rows_each_time_and_keeps_their_order() -> None:
    torch.rand(3)  # the global generator does not decide
    one = some(split(100, labelled=True), 30)
    torch.rand(5)
    two = some(split(100, labelled=True), 30)
    assert len(one) == len(np.unique(one.indices)) == 30
    assert (one.indices == two.indices).all()
    assert (np.diff(one.indices) < 0).all()  # the split's own order, which falls
    assert one.y is not None
    assert one.y.tolist() == one.indices.tolist()
    assert (some(split(100), 30, seed=1).indices != one.indices).any()


def test_some_of_a_small_split_is_all_of_it() -> None:
    whole = split(30)
    assert some(whole, 30) is whole
    assert some(whole, 31) is whole
    assert len(some(whole, 29)) == 29


def test_every_candidate_is_judged_on_the_same_samples() -> None:
    task = small_task()
    one, two = trained_network(), small_network(seed=3)
    kept = some(task.target_train, 20)
    x = torch.from_numpy(arrays(seed=2, shift=2.0, n=90)[0])[kept.indices]
    for network in (one, two):
        found = gather(Candidate("c", network), task, VIEWS, most=20)
        with torch.no_grad():
            said = copy.deepcopy(network).eval()(x)
        torch.testing.assert_close(found.target.logits, said)
        assert found.source_val is not None
        assert found.source_train is not None
        # 24 and 96 samples: 20 of each
        assert len(found.source_val.logits) == len(found.source_train.logits) == 20


# Gather ----------------------------------------------------------------------------------------


def test_gather_against_the_network_by_hand() -> None:
    task, network = small_task(), trained_network()
    found = gather(Candidate("c", network, "shot", True), task, VIEWS)
    network.eval()
    assert found.source_val is not None
    assert found.source_train is not None
    for said, of in (
        (found.target, task.target_train),
        (found.source_val, task.source_val),
        (found.source_train, task.source_train),
    ):
        x = of.fetch(np.arange(len(of)))
        with torch.no_grad():
            torch.testing.assert_close(said.logits, network(x))
            torch.testing.assert_close(said.z, network.features(x))
    assert found.source_val.y is not None
    assert torch.equal(found.source_val.y, task.source_val.y)
    assert found.trains_on_confidence
    assert not found.trains_on_source
    assert gather(Candidate("c", network, "mcc"), task, VIEWS).trains_on_source
    p = found.p
    assert p.dtype == torch.float64
    torch.testing.assert_close(p.sum(1), torch.ones(90).double())


def test_gather_without_a_source() -> None:
    x, _ = arrays(seed=2, shift=2.0, n=90)
    task = Task(None, from_arrays(x), class_names=["0", "1", "2"])
    found = gather(Candidate("c", trained_network()), task, VIEWS)
    assert found.source_val is None
    assert found.source_train is None


@pytest.mark.parametrize("training", [True, False])
def test_gather_leaves_everything_as_it_was(training: bool) -> None:
    network = trained_network(dropout=0.5).train(training)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = {name: m.training for name, m in network.named_modules()}
    torch.manual_seed(11)
    drawn = torch.get_rng_state()
    found = gather(Candidate("c", network), small_task(), VIEWS)
    assert found.mixed is not None
    found.mixed(torch.arange(5), torch.arange(5, 10), 0.55)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert {name: m.training for name, m in network.named_modules()} == modes
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())
    # In evaluation mode: twice the same, whatever dropout would draw.
    again = gather(Candidate("c", network), small_task(), VIEWS)
    assert torch.equal(found.target.logits, again.target.logits)


# Mixtures --------------------------------------------------------------------------------------


def test_the_mixer_is_the_network_on_inputs_mixed_by_hand() -> None:
    task, network = small_task(), trained_network(dropout=0.3).train()
    draw = np.random.default_rng(0)
    # More than one batch of 256, with repetitions.
    a, b = (torch.from_numpy(draw.integers(0, 90, 300)) for _ in range(2))
    said = mixer(network, task.target_train, VIEWS, None)(a, b, 0.7)
    x = arrays(seed=2, shift=2.0, n=90)[0]
    mixed = np.float32(0.7) * x[a.numpy()] + np.float32(0.3) * x[b.numpy()]
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(torch.from_numpy(mixed))
    assert said.shape == (300, N_CLASSES)
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)
    assert network.training


def test_mixing_a_sample_with_itself_changes_nothing() -> None:
    task, network = small_task(), trained_network()
    rows = torch.arange(90)
    found = gather(Candidate("c", network), task, VIEWS)
    assert found.mixed is not None
    torch.testing.assert_close(found.mixed(rows, rows, 0.55), found.target.logits)
