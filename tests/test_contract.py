"""What every registered method must keep, without being told of it here.

The invariants themselves ship with the package, as `domadapt selftest`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from small import make_batch, prepare, small_network
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.methods import BatchOutputs, Method, build_method, method_class, method_names
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
    network = small_network()
    whole = prepare(build_method(spec, network))
    return whole, [prepare(build_method(part, network)) for part in spec.split("+")]


@pytest.mark.parametrize("name", [n for n in PAIRABLE if n != "mcc"])
def test_combination_has_the_terms_of_both(name: str) -> None:
    whole, parts = combined(f"{name}+mcc")
    batch = make_batch(progress=0.4)
    torch.manual_seed(0)
    losses = whole(batch)
    torch.manual_seed(0)
    out = parts[0].outputs(batch)
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
    joint = method.outputs(batch)
    both = method.network(torch.cat([batch.x_s, batch.x_t]))  # type: ignore[list-item]
    torch.testing.assert_close(torch.cat([joint.logits_s, joint.logits_t]), both)
    method.batch_statistics = "separate"
    apart = method.outputs(batch)
    torch.testing.assert_close(apart.logits_t, method.network(batch.x_t))
    assert not torch.allclose(apart.logits_t, joint.logits_t, atol=1e-2)


def test_no_label_of_the_target_in_a_batch() -> None:
    assert not any(field.endswith("y_t") for field in Batch.__dataclass_fields__)
