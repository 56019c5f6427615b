"""Losses on unlabelled predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.prediction import mcc


def draw(n: int = 6, c: int = 4, seed: int = 0, size: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, c, generator=generator, dtype=torch.float64)


def by_loops(logits: np.ndarray, temperature: float) -> float:
    n, c = logits.shape
    p = np.exp(logits / temperature)
    p /= p.sum(1, keepdims=True)
    w = [1 + math.exp(sum(float(q) * math.log(q) for q in row)) for row in p]
    w = [n * v / sum(w) for v in w]
    confusion = [
        [sum(w[i] * p[i, a] * p[i, b] for i in range(n)) for b in range(c)] for a in range(c)
    ]
    return (
        sum(confusion[a][b] / sum(confusion[a]) for a in range(c) for b in range(c) if a != b) / c
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("n", "c"), [(6, 4), (2, 3), (9, 2), (1, 3)])
def test_agrees_with_loops(n: int, c: int, temperature: float) -> None:
    logits = draw(n, c)
    expected = by_loops(logits.numpy(), temperature)
    assert float(mcc(logits, temperature)) == pytest.approx(expected, rel=1e-12)


def test_hand_constant() -> None:
    # p = (3/4, 1/4) and (1/4, 3/4), equal weights: M is 10/16 on and 6/16 off the diagonal.
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    assert float(mcc(logits, 1.0)) == pytest.approx(6 / 16)


def test_both_ends() -> None:
    certain = 200.0 * torch.eye(4)
    assert float(mcc(certain, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(mcc(torch.zeros(5, 4))) == pytest.approx(3 / 4)
    # All of one class, to the last bit: the other classes' rows are empty.
    one = torch.zeros(5, 4)
    one[:, 1] = 1e4
    assert float(mcc(one, 1.0)) == 0.0
    assert not bool(torch.isnan(mcc(one.requires_grad_(), 1.0)).any())


def test_order_of_samples_and_classes() -> None:
    logits = draw()
    torch.testing.assert_close(mcc(logits.flip(0)), mcc(logits))
    torch.testing.assert_close(mcc(logits.roll(1, 1)), mcc(logits))


def test_certain_samples_weigh_more() -> None:
    """A certain sample draws the value towards itself: unequal weights, as in equation 5."""
    sure, unsure = draw(3, seed=1, size=30.0), draw(3, seed=2, size=0.3)
    p = torch.softmax(torch.cat([sure, unsure]), 1)
    flat = p.T @ p
    flat = flat / flat.sum(1, keepdim=True)
    unweighted = float((flat.sum() - flat.trace()) / 4)
    assert float(mcc(torch.cat([sure, unsure]), 1.0)) < unweighted


def test_gradient_takes_the_weights_as_constant() -> None:
    logits = draw().requires_grad_()
    p0 = torch.softmax(logits.detach() / 2.5, 1)
    w = 1 + torch.exp((p0 * p0.log()).sum(1))
    w = len(w) * w / w.sum()

    def fixed(x: Tensor) -> Tensor:
        p = torch.softmax(x / 2.5, 1)
        m = (p * w[:, None]).T @ p
        m = m / m.sum(1, keepdim=True)
        return (m.sum() - m.trace()) / m.shape[1]

    (gradient,) = torch.autograd.grad(mcc(logits), logits)
    (expected,) = torch.autograd.grad(fixed(logits), logits)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(fixed, (logits,))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_step_down_lowers_it_at_every_size(size: float) -> None:
    logits = (size * draw(size=1.0)).float().requires_grad_()
    value = mcc(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert bool(torch.isfinite(gradient).all())
    if size < 100:
        assert float(mcc(logits.detach() - gradient)) < float(value.detach())


def test_half_precision() -> None:
    logits = draw(20).float()
    assert float(mcc(logits.bfloat16())) == pytest.approx(float(mcc(logits)), rel=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mcc(logits)
    torch.testing.assert_close(mixed, mcc(logits))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_refuses_the_temperature(temperature: float) -> None:
    with pytest.raises(DomadaptError, match="temperature must be positive"):
        mcc(draw(), temperature)
