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
    class_balance_loss,
    class_balanced_labels,
    class_thresholds,
    consistency_loss,
    interpolate_logits,
    neighbour_labels,
    pseudo_label_loss,
    relative_threshold,
    sharpen,
    weighted_pseudo_label_loss,
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


# Mean teacher -------------------------------------------------------------------------------------


def test_consistency_by_hand() -> None:
    # Student uniform; teacher (1, 0): ((1/2)^2 + (1/2)^2) / 2 = 1/4, for one of two samples.
    logits, p = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(consistency_loss(logits, p, torch.tensor([True, False]))) == pytest.approx(1 / 8)
    assert float(consistency_loss(logits, p, torch.tensor([True, True]))) == pytest.approx(1 / 4)
    assert float(consistency_loss(logits, p, torch.tensor([False, False]))) == 0.0


def test_consistency_with_oneself_is_zero() -> None:
    logits = draw()
    everything = torch.ones(5, dtype=torch.bool)
    assert float(consistency_loss(logits, logits.softmax(1), everything)) == 0.0
    certain, opposite = 1e3 * torch.eye(3), torch.eye(3).roll(1, 1)
    assert float(consistency_loss(certain, opposite, everything[:3])) == pytest.approx(2 / 3)


def test_consistency_moves_the_student_alone() -> None:
    logits, teacher = draw().requires_grad_(), draw(seed=1).requires_grad_()
    mask = torch.tensor([True, False, True, True, False])
    value = consistency_loss(logits, teacher.softmax(1), mask)
    student, other = torch.autograd.grad(value, (logits, teacher), allow_unused=True)
    assert other is None
    assert bool((student[~mask] == 0).all())
    assert bool((student[mask].abs().sum(1) > 0).all())
    p = teacher.detach().softmax(1)
    assert torch.autograd.gradcheck(lambda x: consistency_loss(x, p, mask), (logits,))


def test_class_balance_by_hand() -> None:
    # Mean prediction (3/4, 1/4): both classes give 1/2 log(4/3) + 1/2 log 4.
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    assert float(class_balance_loss(logits)) == pytest.approx(math.log(16 / 3), rel=1e-5)


@pytest.mark.parametrize("c", [2, 3, 10])
def test_class_balance_is_least_for_equal_classes(c: int) -> None:
    certain = 50.0 * torch.eye(c, dtype=torch.float64)
    least = float(class_balance_loss(certain))
    share = 1 / c
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert least == pytest.approx(c * entropy, rel=1e-4)
    assert float(class_balance_loss(torch.zeros(4, c).double())) == pytest.approx(least)
    for seed in range(10):
        assert float(class_balance_loss(draw(6, c, seed))) > least
    one = torch.zeros(4, c)
    one[:, 0] = 1e4
    one.requires_grad_()
    value = class_balance_loss(one)
    (gradient,) = torch.autograd.grad(value, one)
    assert math.isfinite(float(value.detach()))
    assert bool(torch.isfinite(gradient).all())


def test_class_balance_gradient() -> None:
    assert torch.autograd.gradcheck(class_balance_loss, (draw().requires_grad_(),))
    logits = draw().requires_grad_()
    (gradient,) = torch.autograd.grad(class_balance_loss(logits), logits)
    start = logits.detach()
    assert float(class_balance_loss(start - gradient)) < float(class_balance_loss(start))


def test_mean_teacher_losses_in_half_precision() -> None:
    logits, p = draw(20).float(), draw(20, seed=1).float().softmax(1)
    everything = torch.ones(20, dtype=torch.bool)
    half = consistency_loss(logits.bfloat16(), p, everything)
    exact = consistency_loss(logits, p, everything)
    assert float(half) == pytest.approx(float(exact), rel=0.03)
    balance = float(class_balance_loss(logits.bfloat16()))
    assert balance == pytest.approx(float(class_balance_loss(logits)), rel=0.01)


# ATDOC --------------------------------------------------------------------------------------------


def test_weighted_loss_by_hand() -> None:
    # CE = log 2 and log 4 for (0, 0) and (log 3, 0) on class 1; weights 1 and 3.
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    value = weighted_pseudo_label_loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    assert float(value) == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


def test_weighted_loss_knows_weights_by_their_proportions() -> None:
    logits, labels = draw(), torch.tensor([0, 2, 1, 1, 0])
    even = torch.full((5,), 0.01, dtype=torch.float64)
    torch.testing.assert_close(
        weighted_pseudo_label_loss(logits, labels, even), cross_entropy(logits, labels)
    )
    weight = torch.tensor([0.1, 2.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    value = weighted_pseudo_label_loss(logits, labels, weight)
    torch.testing.assert_close(weighted_pseudo_label_loss(logits, labels, 100 * weight), value)
    assert float(weighted_pseudo_label_loss(logits, labels, 0 * weight)) == 0.0
    f = lambda x: weighted_pseudo_label_loss(x, labels, weight)  # noqa: E731
    assert torch.autograd.gradcheck(f, (draw().requires_grad_(),))


def test_sharpen_by_hand() -> None:
    p = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    # Columns of squares 0.64, 0.36 (mean 0.5) and 0.04, 0.16 (mean 0.1).
    expected = torch.tensor([[1.28, 0.4], [0.72, 1.6]], dtype=torch.float64)
    torch.testing.assert_close(sharpen(p), expected)
    # The rare class wins the second sample, which it loses by p alone.
    assert sharpen(p).argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(sharpen(p.repeat(5, 1)), expected.repeat(5, 1))


def test_sharpen_with_a_class_that_nobody_predicts() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert sharpen(p).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def labels_by_loops(
    z: Tensor, index: Tensor, bank_z: Tensor, bank_p: Tensor, k: int
) -> tuple[list[int], list[float]]:
    labels, confidences = [], []
    for row, own in zip(z.tolist(), index.tolist(), strict=True):
        others = [j for j in range(len(bank_z)) if j != own and sum(bank_p[j].tolist()) > 0]
        by_cosine = sorted(
            others, key=lambda j: -sum(a * b for a, b in zip(row, bank_z[j].tolist(), strict=True))
        )
        mean = [sum(float(bank_p[j, c]) for j in by_cosine[:k]) / k for c in range(3)]
        labels.append(mean.index(max(mean)))
        confidences.append(max(mean))
    return labels, confidences


@pytest.mark.parametrize("k", [1, 3, 8, 20])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_neighbours_agree_with_loops(k: int, size: float) -> None:
    bank_z = torch.nn.functional.normalize(draw(12, 4))
    bank_p = draw(12, 3, seed=1).softmax(1)
    bank_p[[2, 7]] = 0.0
    z, index = size * draw(5, 4, seed=2), torch.tensor([0, 3, 4, 9, 11])
    labels, confidences = labels_by_loops(z, index, bank_z, bank_p, k)
    label, confidence = neighbour_labels(z, index, bank_z, bank_p, k)
    assert label.tolist() == labels
    assert confidence.tolist() == pytest.approx(confidences)


def test_a_sample_does_not_vote_for_itself() -> None:
    bank_z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    bank_p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    label, _ = neighbour_labels(bank_z[:1], torch.tensor([0]), bank_z, bank_p, 1)
    assert label.tolist() == [1]


def test_an_empty_bank_is_no_neighbour() -> None:
    bank_z, bank_p = torch.zeros(6, 2), torch.zeros(6, 3)
    bank_z[4], bank_p[4] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    label, confidence = neighbour_labels(z, torch.tensor([4, 0]), bank_z, bank_p, 5)
    # Its own entry is the only one; the other sample has one neighbour of five, however far.
    assert confidence.tolist() == pytest.approx([0.0, 0.2])
    assert label[1] == 1


def test_neighbours_in_half_precision() -> None:
    bank_z = torch.nn.functional.normalize(draw(12, 4).float())
    bank_p = draw(12, 3, seed=1).float().softmax(1)
    z, index = draw(5, 4, seed=2).float(), torch.arange(5)
    expected = neighbour_labels(z, index, bank_z, bank_p, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = neighbour_labels(z, index, bank_z, bank_p, 3)
    torch.testing.assert_close(mixed, expected)
    assert neighbour_labels(z.bfloat16(), index, bank_z, bank_p, 3)[1].isfinite().all()


def test_refuses_no_neighbours() -> None:
    with pytest.raises(DomadaptError, match="at least 1; got 0"):
        neighbour_labels(draw(2), torch.arange(2), draw(4), draw(4).softmax(1), 0)
