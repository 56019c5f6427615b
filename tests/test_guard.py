"""The guard by outputs made by hand: each rule alone and at its threshold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import N_FEATURES, small_task, trained_network
from torch import Tensor, nn

from domadapt import Network, from_arrays
from domadapt.data.views import make_views
from domadapt.evaluation import Outputs
from domadapt.selection.evidence import Evidence
from domadapt.selection.guard import classes_in_effect, feature_rank, guard, hopeless
from domadapt.task import Split

CLASSES, SURE = 4, 50.0


def sure(*classes: int) -> Tensor:
    """Logits that are certain of these classes."""
    return SURE * torch.nn.functional.one_hot(torch.tensor(classes), CLASSES).float()


def features(n: int) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0))


def candidate(name: str, target: Tensor, right: int = 20, **more: object) -> Evidence:
    """A candidate with these target logits, right on `right` of 20 source validation samples."""
    y = torch.arange(20) % CLASSES
    said = torch.where(torch.arange(20) < right, y, (y + 1) % CLASSES)
    val = Outputs(sure(*said.tolist()), features(20), y)
    return Evidence(name, Outputs(target, features(len(target))), val, val, **more)  # type: ignore[arg-type]


EVEN = sure(0, 1, 2, 3)
BEFORE = candidate("source_only", EVEN)


def test_nothing_is_wrong_with_a_sound_candidate() -> None:
    assert guard(candidate("a", EVEN), BEFORE) == []


# NaN -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["target", "features", "source_val", "source_train"])
def test_one_number_that_is_not_finite(bad: float, where: str) -> None:
    sound = candidate("a", EVEN)

    def spoilt(outputs: Outputs | None) -> Outputs:
        assert outputs is not None
        logits = outputs.logits.clone()
        logits[-1, 0] = bad
        return replace(outputs, logits=logits)

    if where == "features":
        z = sound.target.z.clone()
        z[0, 0] = bad
        broken = replace(sound, target=replace(sound.target, z=z))
    else:
        broken = replace(sound, **{where: spoilt(getattr(sound, where))})
    assert guard(broken, BEFORE) == ["some of its outputs are NaN or infinite"]


# Classes ---------------------------------------------------------------------------------------


def test_classes_in_effect_by_hand() -> None:
    # Three of class 0 and one of class 1, certain: exp H(3/4, 1/4).
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert classes_in_effect(candidate("a", sure(0, 0, 0, 1))) == pytest.approx(expected)
    assert classes_in_effect(BEFORE) == pytest.approx(4)
    assert classes_in_effect(candidate("a", sure(2))) == pytest.approx(1)


def test_the_smaller_of_probabilities_and_decisions_counts() -> None:
    # Hardly certain of class 0, always: four classes by probability, one by decision.
    logits = torch.zeros(8, CLASSES)
    logits[:, 0] = 1e-3
    assert classes_in_effect(candidate("a", logits)) == pytest.approx(1)
    # Decided for each class once; by probability mostly class 0: p = (1, 0, 0, 0) and thrice
    # (.4, .6) over class 0 and another.
    p = torch.tensor([[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.4, 0, 0.6, 0], [0.4, 0, 0, 0.6]])
    q = np.array([2.2, 0.6, 0.6, 0.6]) / 4
    expected = math.exp(-(q * np.log(q)).sum())
    found = classes_in_effect(candidate("a", p.clamp_min(1e-30).log()))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found < 4


def test_half_of_the_classes_is_let_pass_and_less_is_not() -> None:
    two = candidate("a", sure(0, 0, 1, 1))
    # Exactly half of four, but for the rounding of certain predictions, which only add to it.
    assert guard(two, BEFORE) == []
    fewer = candidate("a", sure(0, 0, 0, 1))
    assert guard(fewer, BEFORE) == [
        "its predictions fall into 1.8 classes in effect, those of source_only into 4.0"
    ]
    # It is a share of what the baseline predicts, not of the classes there are.
    assert guard(fewer, candidate("source_only", sure(0, 1, 2, 2))) == []


def test_one_class_of_two_is_a_collapse() -> None:
    """Half of two classes is one, and certain predictions of one class are never fewer."""
    two = candidate("source_only", sure(0, 0, 1, 1))
    reasons = guard(candidate("a", sure(0, 0, 0, 0)), two)
    assert reasons == [
        "its predictions fall into 1.0 classes in effect, those of source_only into 2.0"
    ]
    # A tenth of the samples in the other class: exp H(.1, .9) = 1.38.
    rare = candidate("a", sure(0, 0, 0, 0, 0, 0, 0, 0, 0, 1))
    assert guard(rare, candidate("source_only", sure(*([0, 1] * 5)))) == []
    # Where the baseline itself says hardly anything else, it is no reproach.
    once = candidate("source_only", sure(*([0] * 29 + [1])))
    assert guard(candidate("a", sure(*([0] * 30))), once) == []


# Source accuracy -------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "passes"), [(20, True), (19, True), (18, False), (0, False)])
def test_five_points_of_source_accuracy(right: int, passes: bool) -> None:
    # Of 20 samples each is five points, and the first five are let pass.
    reasons = guard(candidate("a", EVEN, right), BEFORE)
    assert (reasons == []) == passes
    if not passes:
        assert reasons == [
            f"it lost {5 * (20 - right)} points of accuracy on the source's validation samples "
            f"({20 - right} of 20)"
        ]


def test_it_is_measured_from_what_the_baseline_reached() -> None:
    assert guard(candidate("a", EVEN, 10), candidate("source_only", EVEN, 11)) == []
    assert guard(candidate("a", EVEN, 20), candidate("source_only", EVEN, 11)) == []


def test_a_source_free_method_may_forget_the_source() -> None:
    assert guard(candidate("shot", EVEN, 0, trains_on_source=False), BEFORE) == []
    # It is held to the other rules.
    reasons = guard(candidate("shot", sure(0, 0, 0, 0), 0, trains_on_source=False), BEFORE)
    assert len(reasons) == 1
    assert "classes in effect" in reasons[0]


def test_without_a_source_there_is_no_such_rule() -> None:
    none = {"source_val": None, "source_train": None}
    one, before = (replace(e, **none) for e in (candidate("a", EVEN, 0), BEFORE))
    assert guard(one, before) == []
    assert guard(candidate("a", EVEN, 0), before) == []


# Features --------------------------------------------------------------------------------------


def crossed(a: float, b: float) -> Tensor:
    """Four points on two axes: centred, with singular values a and b times the root of two."""
    return torch.tensor([[a, 0.0], [-a, 0.0], [0.0, b], [0.0, -b]])


def test_feature_rank_by_hand() -> None:
    assert feature_rank(crossed(1, 1)) == pytest.approx(2)
    shares = np.array([0.8, 0.2])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert feature_rank(crossed(4, 1)) == pytest.approx(expected)
    # An offset that all samples share is no direction in which they differ.
    assert feature_rank(crossed(4, 1) + 100) == pytest.approx(expected, rel=1e-4)
    assert feature_rank(torch.ones(4, 3)) == 1.0
    assert feature_rank(crossed(1, 0)) == pytest.approx(1)


def test_an_effective_rank_of_one_and_a_half_is_the_least() -> None:
    def with_features(z: Tensor) -> Evidence:
        return Evidence("a", Outputs(EVEN, z))

    # By bisection, in NumPy, the share at which exp H is 1.5.
    low, high = 0.5, 1.0
    for _ in range(60):
        share = (low + high) / 2
        s = np.array([share, 1 - share])
        low, high = (share, high) if math.exp(-(s * np.log(s)).sum()) > 1.5 else (low, share)
    assert guard(with_features(crossed(low - 0.01, 1 - low + 0.01)), BEFORE) == []
    reasons = guard(with_features(crossed(low + 0.01, 1 - low - 0.01)), BEFORE)
    assert reasons == ["its target features have an effective rank of 1.5"]
    assert guard(with_features(crossed(1, 0)), BEFORE) == [
        "its target features have an effective rank of 1.0"
    ]


def test_two_classes_may_lie_on_one_line() -> None:
    """Features of a good classifier of two classes are two clusters: they span one direction."""
    y = torch.arange(40) % 2
    draw = torch.Generator().manual_seed(0)
    z = torch.zeros(40, 6)
    z[:, 0] = 10.0 * (2 * y - 1)
    z += 0.1 * torch.randn(40, 6, generator=draw)
    assert feature_rank(z) < 1.5
    logits = torch.stack([-z[:, 0], z[:, 0]], 1)
    found = Evidence("mcc", Outputs(logits, z), Outputs(logits, z, y))
    loose = Evidence("source_only", Outputs(logits / 10, torch.randn(40, 6, generator=draw)))
    assert guard(found, replace(loose, source_val=found.source_val)) == []


# The baseline ----------------------------------------------------------------------------------


def test_the_baseline_is_never_set_aside_for_what_it_is_measured_by() -> None:
    poor = candidate("source_only", sure(0), right=0)
    assert guard(poor, poor) == []
    # By its name, even against evidence that is better.
    assert guard(poor, BEFORE) == []


def test_all_reasons_are_told() -> None:
    target = Outputs(sure(0, 0, 0, 0), torch.ones(4, 3))
    found = guard(replace(candidate("a", EVEN, 10), target=target), BEFORE)
    assert [reason.split()[1] for reason in found] == ["predictions", "lost", "target"]


# On the way ------------------------------------------------------------------------------------

VIEWS = make_views("vector", None, None, scale=torch.ones(N_FEATURES))


class Says(nn.Module):
    """A head that says the same of every sample of a class, whatever its features are."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, z: Tensor) -> Tensor:
        return self.table[z[:, 0].long()]


def saying(*classes: int, outputs: int = 12) -> Network:
    """A network that answers sample i with ``classes[i]``."""
    table = SURE * torch.nn.functional.one_hot(torch.tensor(classes), outputs).float()
    return Network(nn.Identity(), Says(table))


def test_hopeless_by_a_quarter_of_the_classes() -> None:
    numbers = np.arange(12, dtype=np.float32)[:, None]
    target = Split("target_train", from_arrays(numbers, name="t"), np.arange(12))
    views = make_views("vector", None, None, scale=torch.ones(1))
    asked = hopeless(saying(*range(12)), target, views)
    assert asked(saying(*range(12))) == ""
    # Four and three classes, equally often: the guard would set them aside, but there is time.
    assert asked(saying(*([0, 1, 2, 3] * 3))) == ""
    assert asked(saying(*([0, 1, 2] * 4))) == ""
    assert asked(saying(*([0, 1] * 6))) == (
        "its predictions fell into 2.0 classes in effect, those of source_only into 12.0"
    )
    # A quarter of three is less than one; a single class is hopeless all the same.
    asked = hopeless(saying(*([0, 1, 2] * 4)), target, views)
    assert asked(saying(*([0, 1] * 6))) == ""
    assert asked(saying(*([0] * 12))).startswith("its predictions fell into 1.0 classes")
    broken = saying(*range(12))
    broken.head.table.data[3, 0] = math.nan
    assert asked(broken).startswith("its predictions fell into 0.0 classes")


def test_asking_changes_nothing() -> None:
    network = trained_network(dropout=0.5).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    baseline = trained_network()
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    hopeless(baseline, small_task().target_train, VIEWS)(network)
    assert network.training
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
