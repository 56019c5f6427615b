"""Losses on unlabelled predictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.prediction import _NuclearNorm, bnm, entropy, infomax, mcc


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


# Entropy, InfoMax, BNM ----------------------------------------------------------------------------

LOSSES = {"entropy": entropy, "infomax": infomax, "bnm": bnm}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def softmax(logits: Tensor) -> np.ndarray:
    p = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
    normalised: np.ndarray = p / p.sum(1, keepdims=True)
    return normalised


def entropy_of(row: np.ndarray) -> float:
    return -sum(float(q) * math.log(float(q)) for q in row)


@pytest.mark.parametrize(("n", "c"), [(6, 4), (2, 3), (3, 9), (1, 3)])
def test_agree_with_numpy(n: int, c: int) -> None:
    logits = draw(n, c)
    p = softmax(logits)
    each = sum(entropy_of(row) for row in p) / n
    assert float(entropy(logits)) == pytest.approx(each, rel=1e-12)
    # With one sample both parts are equal.
    assert float(infomax(logits)) == pytest.approx(each - entropy_of(p.mean(0)), abs=1e-12)
    # The nuclear norm as the trace of the root of P^T P.
    root = np.sqrt(np.clip(np.linalg.eigvalsh(p.T @ p if c < n else p @ p.T), 0, None)).sum()
    assert float(bnm(logits)) == pytest.approx(-root / n, rel=1e-9)


def test_hand_constants() -> None:
    # p = (3/4, 1/4) and (1/4, 3/4): each entropy is log 4 - 3/4 log 3, their mean is uniform; P is
    # symmetric with eigenvalues 1 and 1/2.
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    each = math.log(4) - 0.75 * math.log(3)
    assert float(entropy(logits)) == pytest.approx(each)
    assert float(infomax(logits)) == pytest.approx(each - math.log(2))
    assert float(bnm(logits)) == pytest.approx(-1.5 / 2)


def test_where_the_ends_are() -> None:
    certain, one, uniform = 200.0 * torch.eye(4).repeat(2, 1), torch.zeros(8, 4), torch.zeros(8, 4)
    one[:, 1] = 200.0
    # Entropy does not tell the collapse from the answer; the other two do.
    assert float(entropy(certain)) == pytest.approx(0.0, abs=1e-6)
    assert float(entropy(one)) == pytest.approx(0.0, abs=1e-6)
    assert float(entropy(uniform)) == pytest.approx(math.log(4))
    assert float(infomax(certain)) == pytest.approx(-math.log(4))
    assert float(infomax(one)) == pytest.approx(0.0, abs=1e-6)
    assert float(infomax(uniform)) == pytest.approx(0.0, abs=1e-6)
    assert float(bnm(certain)) == pytest.approx(-math.sqrt(4 / 8))
    assert float(bnm(one)) == pytest.approx(-math.sqrt(8) / 8)
    assert float(bnm(uniform)) == pytest.approx(-1 / math.sqrt(8 * 4))
    # Fewer samples than classes: as many classes as there are samples.
    assert float(bnm(certain[:2])) == pytest.approx(-1.0)


@each_loss
def test_within_the_ends(loss: Callable[[Tensor], Tensor]) -> None:
    n, c = 7, 5
    low, high = {
        entropy: (0.0, math.log(c)),
        infomax: (-math.log(c), 0.0),
        bnm: (-math.sqrt(min(n, c) / n), -1 / math.sqrt(n * c)),
    }[loss]  # type: ignore[index]
    for seed in range(20):
        for size in (0.1, 1.0, 10.0):
            assert low <= float(loss(draw(n, c, seed, size))) <= high


@each_loss
def test_order_does_not_matter(loss: Callable[[Tensor], Tensor]) -> None:
    logits = draw()
    torch.testing.assert_close(loss(logits.flip(0)), loss(logits))
    torch.testing.assert_close(loss(logits.roll(1, 1)), loss(logits))


@each_loss
@pytest.mark.parametrize(("n", "c"), [(5, 3), (2, 4)])
def test_gradients(loss: Callable[[Tensor], Tensor], n: int, c: int) -> None:
    assert torch.autograd.gradcheck(loss, (draw(n, c, size=1.0).requires_grad_(),))


@each_loss
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_every_size_of_logits(loss: Callable[[Tensor], Tensor], size: float) -> None:
    logits = draw(12, 4, size=size).float().requires_grad_()
    value = loss(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert bool(torch.isfinite(gradient).all())
    if size < 100:
        assert float(loss(logits.detach() - gradient)) < float(value.detach())
    assert float(value.detach()) == pytest.approx(float(loss(draw(12, 4, size=size))), abs=1e-5)


@each_loss
def test_half_precision_is_near(loss: Callable[[Tensor], Tensor]) -> None:
    logits = draw(20).float()
    assert float(loss(logits.bfloat16())) == pytest.approx(float(loss(logits)), rel=0.03, abs=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(logits)
    torch.testing.assert_close(mixed, loss(logits))


@each_loss
def test_probabilities_that_underflow(loss: Callable[[Tensor], Tensor]) -> None:
    """A class whose probability is 0 to the last bit in every sample."""
    logits = draw(6, 3, size=1.0).float()
    logits[:, 0] = -1e4
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert bool(torch.isfinite(gradient).all())
    assert float(loss(logits).detach()) == pytest.approx(float(loss(logits[:, 1:]).detach()))


@each_loss
def test_nan_stays_nan(loss: Callable[[Tensor], Tensor]) -> None:
    """So that training stops with the name of the term, not with an error of LAPACK's."""
    logits = draw().clone()
    logits[2, 1] = math.nan
    assert math.isnan(float(loss(logits)))


def gradient_of_the_norm(p: Tensor) -> Tensor:
    p = p.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_NuclearNorm.apply(p), p)
    found: Tensor = gradient
    return found


def test_nuclear_norm_where_singular_values_coincide() -> None:
    # An orthogonal matrix: all are 1, and the gradient is the matrix itself.
    q, _ = torch.linalg.qr(draw(4, 4, size=1.0))
    torch.testing.assert_close(gradient_of_the_norm(q), q)
    eye = torch.eye(6, 3, dtype=torch.float64)
    torch.testing.assert_close(gradient_of_the_norm(eye), eye)


def test_nuclear_norm_where_singular_values_vanish() -> None:
    # Rank 1: the subgradient of least norm is the product of the two directions.
    a, b = draw(5, 1, seed=1), draw(3, 1, seed=2)
    expected = a @ b.T / (a.norm() * b.norm())
    torch.testing.assert_close(gradient_of_the_norm(a @ b.T), expected)
    torch.testing.assert_close(
        gradient_of_the_norm((a @ b.T).float()), expected.float(), rtol=1e-4, atol=1e-5
    )
    assert bool((gradient_of_the_norm(torch.zeros(4, 3)) == 0).all())


@pytest.mark.parametrize("kind", ["coincide", "vanish"])
def test_nuclear_norm_gradient_is_a_subgradient(kind: str) -> None:
    """``|Q| >= |P| + <G, Q - P>`` for any Q, by NumPy's norm."""
    p = torch.eye(4, 3, dtype=torch.float64) if kind == "coincide" else torch.ones(4, 3).double()
    g = gradient_of_the_norm(p)
    for seed in range(30):
        q = p + 0.1 * draw(4, 3, seed=seed)
        bound = np.linalg.norm(p.numpy(), "nuc") + float((g * (q - p)).sum())
        assert np.linalg.norm(q.numpy(), "nuc") >= bound - 1e-12


def test_bnm_gradient_where_all_samples_agree() -> None:
    """What an automatic derivative through the decomposition gives there is not finite."""
    for row in ([0.0, 0.0, 0.0], [3.0, 1.0, 0.0]):
        logits = torch.tensor([row]).repeat(5, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(bnm(logits), logits)
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) < 1.0
