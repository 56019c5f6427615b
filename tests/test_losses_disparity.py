"""The differences of two classifiers, against loops and hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.disparity import classifier_discrepancy, margin_disparity


def draw(n: int, c: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, generator=generator, dtype=torch.float64)


def four(n_s: int = 6, n_t: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return draw(n_s), draw(n_s, seed=1), draw(n_t, seed=2), draw(n_t, seed=3)


def softmax(x: Tensor) -> np.ndarray:
    e = np.exp(x.numpy() - x.numpy().max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


# Margin disparity ---------------------------------------------------------------------------------


def test_margin_disparity_of_two_samples_by_hand() -> None:
    def logits(*p: list[float]) -> Tensor:
        return torch.tensor(p).log()

    # The classifier says 0 then 1 on the source, 2 then 0 on the target.
    source = logits([0.6, 0.3, 0.1], [0.2, 0.7, 0.1])
    target = logits([0.1, 0.2, 0.7], [0.5, 0.3, 0.2])
    other_s = logits([0.5, 0.25, 0.25], [0.5, 0.25, 0.25])
    other_t = logits([0.3, 0.3, 0.4], [0.2, 0.4, 0.4])
    # Source: q(0) = 1/2, q(1) = 1/4. Target: 1 - q(2) = 0.6, 1 - q(0) = 0.8.
    agree, differ = (math.log(2) + math.log(4)) / 2, -(math.log(0.6) + math.log(0.8)) / 2
    value = margin_disparity(source, other_s, target, other_t, 4.0)
    assert value.shape == ()
    assert float(value) == pytest.approx(4 * agree + differ, rel=1e-5)
    alone = margin_disparity(source[:1], other_s[:1], target, other_t, 0.5)
    assert float(alone) == pytest.approx(0.5 * math.log(2) + differ, rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_margin_disparity_agrees_with_loops(gamma: float) -> None:
    logits_s, other_s, logits_t, other_t = four()
    q_s, q_t = softmax(other_s), softmax(other_t)
    agree = [-math.log(q[int(y)]) for q, y in zip(q_s, logits_s.argmax(1), strict=True)]
    differ = [-math.log(1 - q[int(y)]) for q, y in zip(q_t, logits_t.argmax(1), strict=True)]
    expected = gamma * sum(agree) / len(agree) + sum(differ) / len(differ)
    value = margin_disparity(logits_s, other_s, logits_t, other_t, gamma)
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_margin_disparity_does_not_ask_for_the_order() -> None:
    logits_s, other_s, logits_t, other_t = four()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    mixed = margin_disparity(logits_s.flip(0), other_s.flip(0), logits_t[order], other_t[order])
    torch.testing.assert_close(mixed, margin_disparity(logits_s, other_s, logits_t, other_t))
    # Nor for the names of the classes.
    named = [x[:, [2, 0, 3, 1]] for x in (logits_s, other_s, logits_t, other_t)]
    torch.testing.assert_close(margin_disparity(*named), mixed)


def test_margin_disparity_is_nothing_where_the_other_does_as_it_should() -> None:
    source, target = 9 * torch.eye(3), 9 * torch.eye(3)
    other_t = 90 * torch.eye(3)[[1, 2, 0]]
    assert float(margin_disparity(source, 90 * source, target, other_t)) < 1e-6


def test_the_margin_is_log_gamma() -> None:
    """On equal samples the best q(y) is ``gamma / (1 + gamma)``, where the gradient ends."""
    x = draw(5, 3)
    y = x.argmax(1)
    q = torch.full((5, 3), 0.1, dtype=torch.float64)
    q[torch.arange(5), y] = 0.8
    other = q.log().requires_grad_()
    (gradient,) = torch.autograd.grad(margin_disparity(x, other, x, other, 4.0), other)
    assert float(gradient.abs().max()) < 1e-12
    (gradient,) = torch.autograd.grad(margin_disparity(x, other, x, other, 2.0), other)
    assert float(gradient.abs().max()) > 1e-3


def test_margin_disparity_of_a_sure_classifier() -> None:
    """Where 1 - q rounds to 0, the value and the pull away from the label remain."""
    x = torch.eye(3)
    other = (60 * x).requires_grad_()
    value = margin_disparity(x, other, x, other)
    assert float(value.detach()) == pytest.approx(60 - math.log(2), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, other)
    assert bool(torch.isfinite(gradient).all())
    torch.testing.assert_close(gradient.diagonal(), torch.full((3,), 1 / 3))


def test_no_gradient_through_the_classifiers_labels() -> None:
    logits_s, other_s, logits_t, other_t = (x.requires_grad_() for x in four())
    value = margin_disparity(logits_s, other_s, logits_t, other_t)
    own = torch.autograd.grad(value, (logits_s, logits_t), allow_unused=True)
    assert own == (None, None)


def test_gradient_of_the_margin_disparity() -> None:
    logits_s, other_s, logits_t, other_t = four(3, 4)
    f = lambda a, b: margin_disparity(logits_s, a, logits_t, b)  # noqa: E731
    assert torch.autograd.gradcheck(f, (other_s.requires_grad_(), other_t.requires_grad_()))


def test_margin_disparity_refusals() -> None:
    one = torch.zeros(3, 1)
    with pytest.raises(DomadaptError, match="at least 2 classes; got 1"):
        margin_disparity(one, one, one, one)
    with pytest.raises(DomadaptError, match="gamma must be positive; got 0"):
        margin_disparity(*four(), gamma=0.0)
    with pytest.raises(Exception, match="Type-check error"):
        margin_disparity(draw(3), draw(3), draw(4), draw(5))


# Discrepancy of two heads -------------------------------------------------------------------------


def test_discrepancy_by_hand_and_by_loops() -> None:
    one, two = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.8, 0.2], [0.9, 0.1]])
    # Differences 0.3, 0.3, 0, 0.
    assert float(classifier_discrepancy(one, two.log())) == pytest.approx(0.15)
    a, b = draw(6), draw(6, seed=1)
    p, q = softmax(a), softmax(b)
    expected = sum(abs(p[i, k] - q[i, k]) for i in range(6) for k in range(4)) / 24
    assert float(classifier_discrepancy(a, b)) == pytest.approx(expected, rel=1e-9)


def test_discrepancy_of_equal_and_of_opposite_heads() -> None:
    a, b = draw(6), draw(6, seed=1)
    assert float(classifier_discrepancy(a, a + 3.0)) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(classifier_discrepancy(a, b), classifier_discrepancy(b, a))
    torch.testing.assert_close(
        classifier_discrepancy(a.flip(0), b.flip(0)), classifier_discrepancy(a, b)
    )
    apart = classifier_discrepancy(90 * torch.eye(4), 90 * torch.eye(4).flip(0))
    assert float(apart) == pytest.approx(2 / 4)


def test_gradient_of_the_discrepancy() -> None:
    a, b = draw(3).requires_grad_(), draw(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(classifier_discrepancy, (a, b))
    same = draw(3).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier_discrepancy(same, same.detach()), same)
    assert bool((gradient == 0).all())


# Both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [2, 9])
def test_every_size_of_logits(size: float, dtype: torch.dtype, n: int) -> None:
    given = [(size * x).to(dtype).requires_grad_() for x in four(2, n)]
    exact = [x.detach().double() for x in given]
    pairs = (
        (margin_disparity(*given), margin_disparity(*exact), given[1]),
        (
            classifier_discrepancy(given[2], given[3]),
            classifier_discrepancy(exact[2], exact[3]),
            given[3],
        ),
    )
    for value, wanted, x in pairs:
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert bool(torch.isfinite(gradient).all())


def test_mixed_precision_is_left_aside() -> None:
    given = [x.float() for x in four()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = margin_disparity(*given), classifier_discrepancy(given[2], given[3])
    torch.testing.assert_close(mixed[0], margin_disparity(*given))
    torch.testing.assert_close(mixed[1], classifier_discrepancy(given[2], given[3]))


def test_a_class_that_nobody_predicts() -> None:
    logits_s, other_s, logits_t, other_t = (x.clone() for x in four())
    for x in (logits_s, logits_t):
        x[:, 2] = -1e4
    value = margin_disparity(logits_s, other_s, logits_t, other_t)
    assert bool(torch.isfinite(value))
