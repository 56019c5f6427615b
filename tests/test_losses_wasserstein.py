"""The critic's side of the Wasserstein distance, against POT, NumPy and hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from domadapt.losses.wasserstein import critic_gap, penalty_points, slope_penalty


def draw(n: int, d: int = 3, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def test_gap_by_hand() -> None:
    c_s, c_t = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.5, 1.5])
    assert float(critic_gap(c_s, c_t)) == pytest.approx(2.0)
    assert float(critic_gap(c_t, c_s)) == pytest.approx(-2.0)
    assert float(critic_gap(c_s, c_s.flip(0))) == 0.0
    torch.testing.assert_close(critic_gap(c_s.repeat(4), c_t + 10), torch.tensor(-8.0))


def test_the_best_critic_reaches_the_distance_and_no_other_exceeds_it() -> None:
    s, t = draw(6), draw(6, shift=1.0, seed=1)
    w = np.full(6, 1 / 6)
    plan = ot.emd(w, w, ot.dist(s.numpy(), t.numpy(), metric="euclidean"), log=True)[1]
    distance = float(plan["cost"])
    # The optimal dual potentials are the values of the best critic of slope 1.
    c_s, c_t = torch.from_numpy(plan["u"]), -torch.from_numpy(plan["v"])
    assert float(critic_gap(c_s, c_t)) == pytest.approx(distance, rel=1e-9)
    for seed in range(20):
        direction = draw(1, seed=seed)[0]
        direction = direction / direction.norm()
        assert abs(float(critic_gap(s @ direction, t @ direction))) <= distance + 1e-12


def test_slope_penalty_by_hand() -> None:
    # Lengths 5, 1 and 0: (16 + 0 + 1) / 3.
    g = torch.tensor([[3.0, 4.0], [0.0, -1.0], [0.0, 0.0]], requires_grad=True)
    value = slope_penalty(g)
    assert float(value.detach()) == pytest.approx(17 / 3)
    (gradient,) = torch.autograd.grad(value, g)
    # A slope of 0 has no direction to grow in; it must not become NaN.
    assert bool(torch.isfinite(gradient).all())
    # 2 (5 - 1) / 3 along the slope.
    torch.testing.assert_close(gradient[0], torch.tensor([0.6, 0.8]) * 8 / 3)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(slope_penalty, (draw(4).requires_grad_(),))
    c = draw(7, 1)[:, 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: critic_gap(x[:3], x[3:]), (c,))


@pytest.mark.parametrize(("n_s", "n_t"), [(2, 2), (5, 3), (3, 7)])
def test_penalty_points_by_loops(n_s: int, n_t: int) -> None:
    s, t = draw(n_s), draw(n_t, shift=5.0, seed=1)
    m = max(n_s, n_t)
    found = penalty_points(s, t)
    assert found.shape == (n_s + n_t + m, 3)
    torch.testing.assert_close(found[:n_s], s)
    torch.testing.assert_close(found[n_s : n_s + n_t], t)
    for i in range(m):
        share = (i + 0.5) / m
        expected = share * s[i % n_s] + (1 - share) * t[i % n_t]
        torch.testing.assert_close(found[n_s + n_t + i], expected)


def test_penalty_points_are_constants() -> None:
    s, t = draw(4).requires_grad_(), draw(3).requires_grad_()
    assert not penalty_points(s, t).requires_grad


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size(size: float, dtype: torch.dtype) -> None:
    g = (size * draw(8)).to(dtype).requires_grad_()
    value = slope_penalty(g)
    assert value.dtype == torch.float32
    lengths = np.linalg.norm(g.detach().double().numpy(), axis=1)
    assert float(value.detach()) == pytest.approx(float(((lengths - 1) ** 2).mean()), rel=1e-4)
    (gradient,) = torch.autograd.grad(value, g)
    assert bool(torch.isfinite(gradient).all())
    c = (size * draw(9, 1)[:, 0]).to(dtype)
    gap = critic_gap(c[:4], c[4:])
    exact = float(c[:4].double().mean() - c[4:].double().mean())
    assert math.isfinite(exact)
    assert float(gap) == pytest.approx(exact, rel=1e-4)
