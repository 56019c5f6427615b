"""Pseudo-labels: chosen and learnt from as their papers say."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_network
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError
from domadapt.losses.self_training import (
    align_distribution,
    class_balanced_labels,
    class_thresholds,
    interpolate_logits,
    pseudo_label_loss,
    relative_threshold,
)
from domadapt.methods import TargetView, build_method
from domadapt.methods.adamatch import cosine_ramp
from domadapt.methods.self_training import SelfTraining

INF = float("inf")


def draw(n: int = 5, c: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator, dtype=torch.float64)


# The loss -----------------------------------------------------------------------------------------


def test_loss_counts_all_samples() -> None:
    # Two certain halves: CE = log 2 for the one that is selected, divided by both.
    logits = torch.zeros(2, 2)
    loss = pseudo_label_loss(logits, torch.tensor([0, 1]), torch.tensor([True, False]))
    assert float(loss) == pytest.approx(math.log(2) / 2)


def test_loss_with_everything_selected_is_cross_entropy() -> None:
    logits, labels = draw(), torch.tensor([0, 2, 1, 1, 0])
    everything = torch.ones(5, dtype=torch.bool)
    expected = cross_entropy(logits, labels)
    torch.testing.assert_close(pseudo_label_loss(logits, labels, everything), expected)


def test_unselected_samples_get_no_gradient_and_may_bear_any_label() -> None:
    logits = draw().requires_grad_()
    labels = torch.tensor([0, -1, 2, 99, 1])
    mask = torch.tensor([True, False, True, False, False])
    (gradient,) = torch.autograd.grad(pseudo_label_loss(logits, labels, mask), logits)
    assert bool((gradient[~mask] == 0).all())
    assert bool((gradient[mask].abs().sum(1) > 0).all())


def test_nothing_selected_is_zero_even_for_infinite_logits() -> None:
    logits = torch.full((3, 2), INF)
    nothing = torch.zeros(3, dtype=torch.bool)
    assert float(pseudo_label_loss(logits, torch.zeros(3, dtype=torch.long), nothing)) == 0.0


def test_gradient() -> None:
    labels, mask = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([True, False, True, True, False])
    logits = draw().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pseudo_label_loss(x, labels, mask), (logits,))


# Class balance ------------------------------------------------------------------------------------

P = torch.tensor(
    [
        [0.90, 0.05, 0.05],
        [0.80, 0.15, 0.05],
        [0.70, 0.25, 0.05],
        [0.60, 0.35, 0.05],
        [0.30, 0.60, 0.10],
        [0.45, 0.50, 0.05],
    ]
)


def test_thresholds_by_hand() -> None:
    # Class 0 is predicted four times (0.9 .. 0.6), class 1 twice (0.6, 0.5), class 2 never.
    assert class_thresholds(P, 0.5).tolist() == pytest.approx([0.8, 0.6, INF])
    assert class_thresholds(P, 1.0).tolist() == pytest.approx([0.6, 0.5, INF])
    # floor(0.2 * 4) = 0, but the surest sample is kept.
    assert class_thresholds(P, 0.2).tolist() == pytest.approx([0.9, 0.6, INF])


def test_labels_by_hand() -> None:
    label, selected = class_balanced_labels(P, torch.tensor([0.8, 0.3, INF]))
    # Third row: 0.70 / 0.8 < 1, 0.25 / 0.3 < 1. Fourth: 0.6 / 0.8 < 0.35 / 0.3, so class 1 wins.
    assert selected.tolist() == [True, True, False, True, True, True]
    assert label[selected].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("portion", [0.2, 0.35, 0.5, 1.0])
def test_every_class_gets_its_portion(portion: float) -> None:
    """An easy class does not crowd out a hard one."""
    confidence = torch.cat([torch.linspace(0.9, 0.99, 40), torch.linspace(0.51, 0.6, 20)])
    p = torch.stack([confidence, 1 - confidence], 1)
    p[40:] = p[40:].flip(1)
    label, selected = class_balanced_labels(p, class_thresholds(p, portion))
    truth = torch.tensor([0] * 40 + [1] * 20)
    counts = torch.bincount(label[selected], minlength=2)
    assert counts.tolist() == [int(portion * 40), int(portion * 20)]
    if portion < 1:
        assert bool((label[selected] == truth[selected]).all())


@pytest.mark.parametrize("portion", [0.0, 1.5])
def test_refuses_the_portion(portion: float) -> None:
    with pytest.raises(DomadaptError, match="portion must lie in"):
        class_thresholds(P, portion)


# Self-training ------------------------------------------------------------------------------------


def test_portions_grow_from_first_to_last_round() -> None:
    method = SelfTraining(small_network())
    portions = [method.portion(k / 10) for k in range(2, 10)]
    assert portions[0] == pytest.approx(0.2)
    assert portions[-1] == pytest.approx(0.5)
    assert portions == sorted(portions)
    assert method.refreshes == 10


def test_rounds_fill_the_labels() -> None:
    method = SelfTraining(small_network(), start=0.2)
    method.setup(10, 6)
    view = TargetView(P.log(), torch.zeros(6, 4))
    method.refresh(view, 0.1)
    assert method.pseudo_labels.tolist() == [-1] * 6
    method.refresh(view, 0.9)
    # Half of each class: rows 0 and 1, and the surer one of rows 4 and 5.
    assert method.pseudo_labels.tolist() == [0, 0, -1, -1, 1, -1]


def test_labels_meet_their_samples() -> None:
    from domadapt.methods import BatchOutputs
    from domadapt.task import Batch

    method = SelfTraining(small_network())
    method.setup(10, 6)
    method.refresh(TargetView(P.log(), torch.zeros(6, 4)), 0.9)
    logits = draw(3).float()
    batch = Batch(None, None, None, 0.9, index_t=torch.tensor([4, 2, 0]))
    (value,) = method.terms(BatchOutputs(logits_t=logits), batch).values()
    expected = cross_entropy(logits[[0, 2]], torch.tensor([1, 0]), reduction="sum") / 3
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"start": 1.0}, "start must lie in"),
        ({"start": 0.95}, "no sample would ever be labelled"),
        ({"first_portion": 0.6}, "first_portion <= last_portion"),
    ],
)
def test_refuses_settings(settings: dict[str, float], says: str) -> None:
    with pytest.raises(DomadaptError, match=says):
        build_method("self_training", small_network(), settings)


# AdaMatch -----------------------------------------------------------------------------------------


def test_alignment_by_hand() -> None:
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    aligned = align_distribution(p, torch.tensor([0.5, 0.5], dtype=torch.float64), p.mean(0))
    expected = torch.tensor([[8 / 7, 2 / 3], [6 / 7, 4 / 3]], dtype=torch.float64)
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(aligned, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(aligned.sum(1), torch.ones(2, dtype=torch.float64))


def test_alignment_to_what_is_present_changes_nothing() -> None:
    p = torch.softmax(draw(9), 1)
    torch.testing.assert_close(align_distribution(p, p.mean(0), p.mean(0)), p)


def test_alignment_survives_a_missing_class() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert bool(torch.isfinite(align_distribution(p, torch.tensor([0.5, 0.5]), p.mean(0))).all())


def test_relative_threshold_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    assert float(relative_threshold(p, 0.9)) == pytest.approx(0.72)


def test_interpolation_runs_from_alone_to_joint() -> None:
    joint, alone = draw(4), draw(4, seed=1)
    zero, one = torch.zeros_like(joint), torch.ones_like(joint)
    torch.testing.assert_close(interpolate_logits(joint, alone, zero), alone)
    torch.testing.assert_close(interpolate_logits(joint, alone, one), joint)
    middle = interpolate_logits(joint, alone, 0.5 * one)
    torch.testing.assert_close(middle, (joint + alone) / 2)


def test_cosine_ramp() -> None:
    values = [cosine_ramp(k / 20) for k in range(21)]
    assert values[0] == 0.0
    assert values[5] == pytest.approx(0.5)
    assert values[10:] == pytest.approx([1.0] * 11)
    assert values == sorted(values)
