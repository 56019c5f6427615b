"""What every registered method must keep, without being told of it here.

The invariants themselves ship with the package, as `domadapt selftest`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from small import make_batch, small_network
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.methods import BatchOutputs, Method, build_method, method_class, method_names
from domadapt.network import Network
from domadapt.selftest import INVARIANTS, Invariant, Subject
from domadapt.selftest.subject import discriminators
from domadapt.task import Batch

METHODS = method_names()
PAIRABLE = [n for n in METHODS if method_class(n).needs_source and method_class(n).needs_target]


@cache
def subject(spec: str) -> Subject:
    return Subject(spec)


@pytest.mark.parametrize(
    ("spec", "invariant"),
    [
        pytest.param(spec, invariant, id=f"{spec}-{invariant.name.replace(' ', '_')}")
        for spec in [*METHODS, "dann+mcc"]
        for invariant in INVARIANTS
        if invariant.applies(subject(spec))
    ],
)
def test_invariant(spec: str, invariant: Invariant) -> None:
    finding = invariant.examine(subject(spec))
    assert finding.kept, finding.reason


def test_no_invariant_is_idle() -> None:
    assert len({invariant.name for invariant in INVARIANTS}) == len(INVARIANTS)
    for invariant in INVARIANTS:
        assert len(invariant.meaning) > 20, invariant.name
        assert any(invariant.applies(subject(name)) for name in ("dann", "mcc")), invariant.name
    assert subject("dann").adversarial
    assert not subject("mcc").adversarial


# Combinations -------------------------------------------------------------------------------------


def combined(spec: str) -> tuple[Method, list[Method]]:
    """A combination, and its parts on their own over the same network."""
    world = subject(spec).world
    network = world.small_network()
    whole = world.prepare(build_method(spec, network))
    return whole, [world.prepare(build_method(part, network)) for part in spec.split("+")]


@pytest.mark.parametrize("name", [n for n in PAIRABLE if n != "mcc"])
def test_combination_has_the_terms_of_both(name: str) -> None:
    whole, parts = combined(f"{name}+mcc")
    batch = subject(f"{name}+mcc").world.make_batch(progress=0.4)
    torch.manual_seed(0)
    losses = whole(batch)
    torch.manual_seed(0)
    out = (parts[0] if parts[0].needs_target_outputs else whole).outputs(batch)
    expected: dict[str, Tensor] = {"source": parts[0].source_loss(out, batch)}
    weights = {"source": 1.0}
    for part in parts:
        for term, value in part.terms(out, batch).items():
            expected[f"{part.name}.{term}"] = value
            weights[f"{part.name}.{term}"] = part.weight(term, batch.progress)
    assert losses.weights == weights
    assert losses.terms.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses.terms[key], value, rtol=0, atol=0)


def test_combination_of_two_source_losses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = method_class("mcc")
    own: Callable[..., Tensor] = lambda self, out, batch: out.logits_s.sum()  # noqa: E731
    monkeypatch.setattr(other, "source_loss", own)
    with pytest.raises(DomadaptError, match="each define the source loss"):
        build_method("adamatch+mcc", small_network())


@pytest.mark.parametrize("spec", ["mcc+mcc", "source_only+mcc"])
def test_combinations_that_cannot_be(spec: str) -> None:
    with pytest.raises(DomadaptError, match=r"twice|cannot be combined"):
        build_method(spec, small_network())


def test_settings_of_a_combination_reach_their_part() -> None:
    whole = build_method("dann+mcc", small_network(), {"mcc.temperature": "3", "dann.hidden": 8})
    assert whole.parts["mcc"].temperature == 3.0  # type: ignore[index, union-attr]
    assert discriminators(whole)[0].layers[0].out_features == 8
    with pytest.raises(DomadaptError, match=r"Did you mean 'mcc.temperature'"):
        build_method("dann+mcc", small_network(), {"mcc.temprature": 3})


# The base class -----------------------------------------------------------------------------------


class Plain(Method):
    """Nothing but one made-up term."""

    half_weight = 0.5
    ramps = {"half": lambda progress: progress}

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"half": out.z_t.sum(), "free": out.z_s.sum()}


def test_weights_are_argument_times_ramp() -> None:
    method = Plain(small_network())
    assert method.weight("half", 0.5) == 0.25
    assert method.weight("free", 0.5) == 1.0


def test_batch_statistics() -> None:
    method, batch = Plain(small_network()).train(), make_batch()
    assert batch.x_s is not None
    assert batch.x_t is not None
    method.batch_statistics = "joint"
    joint = method.outputs(batch)
    both = method.network(torch.cat([batch.x_s, batch.x_t]))  # type: ignore[list-item]
    torch.testing.assert_close(torch.cat([joint.logits_s, joint.logits_t]), both)
    method.batch_statistics = "separate"
    apart = method.outputs(batch)
    torch.testing.assert_close(apart.logits_t, method.network(batch.x_t))
    assert not torch.allclose(apart.logits_t, joint.logits_t, atol=1e-2)


class TwoRows(nn.Module):
    """Every sample as two rows for BatchNorm, which lie together or, if `mixed`, do not divide."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.linear, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        z = self.dropout(self.linear(x)).repeat_interleave(2, 0)
        z = self.norm(torch.cat([z, z[:1]]))[: 2 * n] if self.mixed else self.norm(z)
        return z.view(n, 2, 8).mean(1)


@pytest.mark.parametrize("mixed", [False, True])
def test_statistics_by_domain_are_those_of_two_passes(mixed: bool) -> None:
    network = Network(
        TwoRows(mixed),
        nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
    )
    network.backbone.dropout.p = 0.0
    twin = copy.deepcopy(network)
    method = Plain(network).train()
    batch = Batch(torch.randn(7, 4), torch.zeros(7).long(), 3 + torch.randn(5, 4), 0.5)
    for _ in range(3):
        out = method.outputs(batch)
        parts = [twin.train()(x) for x in (batch.x_s, batch.x_t)]
        torch.testing.assert_close(out.logits_s, parts[0])
        torch.testing.assert_close(out.logits_t, parts[1])
    for found, wanted in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)
    gradients = [
        torch.autograd.grad(x.square().sum(), list(n.parameters()))
        for x, n in ((out.logits_s, network), (parts[0], twin))
    ]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    # Nothing is left on the layers, so that the network can be copied and saved.
    assert all("forward" not in vars(m) for m in network.modules())


def test_rows_that_do_not_divide_leave_no_trace_of_the_attempt() -> None:
    method = Plain(Network(TwoRows(mixed=True), nn.Linear(8, 3))).train()
    batch = Batch(torch.randn(7, 4), torch.zeros(7).long(), torch.randn(5, 4), 0.5)
    results = []
    for attempted in (None, False):
        twin = copy.deepcopy(method)
        twin._divisible = attempted
        torch.manual_seed(0)
        results.append((twin.outputs(batch).logits_t, list(twin.buffers()), torch.rand(1)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_network_without_batchnorm_takes_one_pass() -> None:
    calls = []
    backbone = nn.Linear(4, 8)
    backbone.register_forward_hook(lambda *_: calls.append(1))
    method = Plain(Network(backbone, nn.Linear(8, 3))).train()
    method.outputs(Batch(torch.randn(7, 4), torch.zeros(7).long(), torch.randn(5, 4), 0.5))
    assert len(calls) == 1


def test_no_label_of_the_target_in_a_batch() -> None:
    assert not any(field.endswith("y_t") for field in Batch.__dataclass_fields__)
