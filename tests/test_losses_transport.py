"""Transport losses against SciPy's assignment, POT, closed forms and loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.transport import (
    coupling,
    feature_cost,
    label_cost,
    sliced_wasserstein,
    transport_cost,
    unit_cost,
)


def draw(n: int, d: int = 4, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def lines(d: int = 4, m: int = 50) -> Tensor:
    return draw(d, m, seed=7)


# Costs --------------------------------------------------------------------------------------------


def test_feature_cost_by_loops() -> None:
    s, t = draw(5), draw(7, shift=1.0, seed=1)
    expected = [[float(((a - b) ** 2).sum()) for b in t.numpy()] for a in s.numpy()]
    np.testing.assert_allclose(feature_cost(s, t).numpy(), expected, rtol=1e-10)


def test_label_cost_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    cost = label_cost(torch.tensor([0, 1, 1]), logits)
    # Probabilities (1/4, 3/4) and (9/10, 1/10).
    expected = -np.log([[0.25, 0.9], [0.75, 0.1], [0.75, 0.1]])
    np.testing.assert_allclose(cost.numpy(), expected, rtol=1e-6)


def test_costs_in_half_precision_and_far_from_the_origin() -> None:
    s, t = draw(20).float(), draw(15, shift=1.0, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(feature_cost(s, t), feature_cost(s, t).float())
        assert feature_cost(s, t).dtype == torch.float32
    far = feature_cost(s + 500.0, t + 500.0)
    torch.testing.assert_close(far, feature_cost(s, t), rtol=1e-2, atol=1e-2)
    half = feature_cost(s.bfloat16(), t.bfloat16())
    torch.testing.assert_close(half, feature_cost(s, t), rtol=0.05, atol=0.1)
    labels = label_cost(torch.tensor([0, 3]), (100 * t).bfloat16())
    assert labels.dtype == torch.float32
    assert bool(torch.isfinite(labels).all())


def test_unit_is_the_mean_and_a_constant() -> None:
    s = draw(3).requires_grad_()
    cost = feature_cost(s, draw(5, seed=1))
    unit = unit_cost(cost)
    assert float(unit) == pytest.approx(float(cost.detach().numpy().mean()))
    assert not unit.requires_grad
    assert float(unit_cost(torch.zeros(2, 3))) > 0


# Couplings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_s", "n_t"), [(4, 4), (3, 5), (6, 2), (2, 2)])
def test_coupling_is_the_linear_programme(n_s: int, n_t: int) -> None:
    cost = feature_cost(draw(n_s), draw(n_t, shift=0.5, seed=1))
    plan = coupling(cost)
    rows = np.kron(np.eye(n_s), np.ones(n_t))
    columns = np.kron(np.ones(n_s), np.eye(n_t))
    solved = linprog(
        cost.numpy().ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.r_[np.full(n_s, 1 / n_s), np.full(n_t, 1 / n_t)],
    )
    assert float(transport_cost(plan, cost)) == pytest.approx(solved.fun, rel=1e-9)
    np.testing.assert_allclose(plan.numpy().ravel(), solved.x, atol=1e-9)
    assert not plan.requires_grad


def test_coupling_of_equal_samples_is_the_identity() -> None:
    x = draw(8)
    plan = coupling(feature_cost(x, x.clone()))
    torch.testing.assert_close(plan, torch.eye(8, dtype=torch.float64) / 8)
    assert float(transport_cost(plan, feature_cost(x, x.clone()))) == pytest.approx(0, abs=1e-12)


def test_coupling_is_symmetric_and_follows_the_order() -> None:
    s, t = draw(6), draw(9, shift=1.0, seed=1)
    plan = coupling(feature_cost(s, t))
    torch.testing.assert_close(coupling(feature_cost(t, s)), plan.T)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(coupling(feature_cost(s[order], t)), plan[order])


@pytest.mark.parametrize("size", [1e-8, 0.01, 100.0, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_coupling_at_every_size_of_the_cost(size: float, dtype: torch.dtype) -> None:
    cost = feature_cost(draw(6), draw(6, shift=0.5, seed=1))
    plan = coupling((size * cost).to(dtype))
    assert plan.dtype == dtype
    best = min(
        sum(float(cost[i, j]) for i, j in enumerate(order)) / 6
        for order in itertools.permutations(range(6))
    )
    assert float(transport_cost(plan.double(), cost)) == pytest.approx(best, rel=0.02)


def test_coupling_of_a_broken_cost_leaves_the_loss_broken() -> None:
    cost = torch.ones(3, 4)
    cost[1, 2] = float("nan")
    assert not torch.isfinite(transport_cost(coupling(cost), cost))


def test_coupling_of_nothing_but_zeros_and_of_a_missing_class() -> None:
    plan = coupling(torch.zeros(2, 3))
    np.testing.assert_allclose(plan.sum(0), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(1), 1 / 2, rtol=1e-6)
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    y = torch.tensor([0, 2, 2, 0])
    # Labels go where they are believed.
    plan = coupling(label_cost(y, logits)) > 0
    assert [sorted(row.nonzero().flatten().tolist())[0] % 2 for row in plan] == [0, 1, 1, 0]


def test_transport_gradient_is_that_of_the_fixed_plan() -> None:
    """At the optimum the plan's own change does not count (envelope theorem)."""
    s, t = draw(4).requires_grad_(), draw(5, shift=1.0, seed=1).requires_grad_()

    def f(a: Tensor, b: Tensor) -> Tensor:
        cost = feature_cost(a, b)
        return transport_cost(coupling(cost), cost)

    assert torch.autograd.gradcheck(f, (s, t))


# Sliced Wasserstein -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_s", "n_t"), [(8, 8), (5, 12), (12, 5), (6, 9), (2, 2), (1, 7)])
def test_sliced_equals_pot(n_s: int, n_t: int) -> None:
    s, t, directions = draw(n_s), draw(n_t, shift=0.7, seed=1), lines()
    unit = directions.numpy() / np.linalg.norm(directions.numpy(), axis=0)
    expected = ot.sliced_wasserstein_distance(s.numpy(), t.numpy(), projections=unit, p=2) ** 2
    assert float(sliced_wasserstein(s, t, directions)) == pytest.approx(expected, rel=1e-9)


def test_sliced_is_the_transport_on_a_line() -> None:
    s, t = draw(6, 1), draw(4, 1, shift=1.0, seed=1)
    cost = feature_cost(s, t)
    exact = float(transport_cost(coupling(cost), cost))
    value = sliced_wasserstein(s, t, torch.tensor([[-3.0, 0.1]], dtype=torch.float64))
    assert float(value) == pytest.approx(exact, rel=1e-9)


def test_sliced_hand_constant() -> None:
    # {0, 4} against {1, 1, 7}: up to the half 0 meets 1, above it 4 meets first 1, then 7.
    s, t = torch.tensor([[0.0], [4.0]]), torch.tensor([[7.0], [1.0], [1.0]])
    value = sliced_wasserstein(s, t, torch.ones(1, 1))
    assert float(value) == pytest.approx(1**2 / 2 + 3**2 / 2)


def test_sliced_of_a_shift_is_its_square_over_the_width() -> None:
    x, c = draw(9, 6), draw(1, 6, seed=3)
    value = sliced_wasserstein(x, x + c, draw(6, 20_000, seed=5))
    assert float(value) == pytest.approx(float(c.square().sum()) / 6, rel=0.03)


def test_sliced_of_gaussians() -> None:
    """Of N(0, 1) and N(m, s^2) on a line: m^2 + (s - 1)^2."""
    s, t = draw(20_000, 1), 2.0 * draw(15_000, 1, seed=1) + 1.5
    value = sliced_wasserstein(s, t, torch.ones(1, 1, dtype=torch.float64))
    assert float(value) == pytest.approx(1.5**2 + 1.0, rel=0.03)


def test_sliced_zero_symmetry_and_order() -> None:
    s, t = draw(7), draw(11, shift=0.5, seed=1)
    assert float(sliced_wasserstein(s, s.flip(0), lines())) == pytest.approx(0.0, abs=1e-20)
    # The same distribution with every sample twice.
    assert float(sliced_wasserstein(s, s.repeat(2, 1), lines())) == pytest.approx(0.0, abs=1e-20)
    value = sliced_wasserstein(s, t, lines())
    assert float(value) > 0.1
    torch.testing.assert_close(sliced_wasserstein(t, s, lines()), value)
    torch.testing.assert_close(sliced_wasserstein(s.flip(0), t.roll(3, 0), lines()), value)
    torch.testing.assert_close(sliced_wasserstein(s, t, 5.0 * lines().flip(1)), value)


@pytest.mark.parametrize(("n_s", "n_t"), [(4, 4), (3, 5), (2, 2)])
def test_sliced_gradient(n_s: int, n_t: int) -> None:
    s, t = draw(n_s, 3).requires_grad_(), draw(n_t, 3, shift=0.5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: sliced_wasserstein(a, b, lines(3, 6)), (s, t))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sliced_at_every_size(size: float, dtype: torch.dtype) -> None:
    """It grows with the square of the size; one step down the gradient brings domains nearer."""
    s = (size * draw(40)).to(dtype).requires_grad_()
    t = (size * draw(30, shift=1.0, seed=1)).to(dtype)
    value = sliced_wasserstein(s, t, lines())
    assert value.dtype == torch.float32
    exact = float(sliced_wasserstein(draw(40), draw(30, shift=1.0, seed=1), lines()))
    assert float(value.detach()) == pytest.approx(size**2 * exact, rel=0.05)
    (gradient,) = torch.autograd.grad(value, s)
    moved = s.detach().float() - 40 * gradient.float()
    assert float(sliced_wasserstein(moved, t.float(), lines())) < 0.7 * float(value.detach())


def test_sliced_far_from_the_origin_and_in_mixed_precision() -> None:
    s, t = draw(30).float(), draw(30, shift=0.3, seed=1).float()
    exact = sliced_wasserstein(s, t, lines())
    far = sliced_wasserstein(s + 300.0, t + 300.0, lines())
    torch.testing.assert_close(far, exact, rtol=1e-3, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sliced_wasserstein(s, t, lines())
    torch.testing.assert_close(mixed, exact)


@pytest.mark.parametrize(("n_s", "m"), [(0, 5), (4, 0)])
def test_refusals(n_s: int, m: int) -> None:
    with pytest.raises(DomadaptError, match=f"got {n_s} source samples, 3 target .* {m} dir"):
        sliced_wasserstein(draw(n_s), draw(3), draw(4, m))
