"""CORAL against NumPy's covariance and what its theory says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.coral import coral


def draw(n: int, d: int = 4, size: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n_s", "n_t"), [(16, 16), (7, 30), (2, 2), (3, 2)])
def test_equals_the_covariance_formula(n_s: int, n_t: int) -> None:
    s, t = draw(n_s), draw(n_t, size=1.7, seed=1)
    difference = np.cov(s.numpy(), rowvar=False) - np.cov(t.numpy(), rowvar=False)
    expected = (difference**2).sum() / (4 * 4**2)
    assert float(coral(s, t)) == pytest.approx(expected, rel=1e-12)


def test_hand_constant() -> None:
    # Variances 2 and 8 of one feature: (2 - 8)^2 / 4.
    s, t = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    assert float(coral(s, t)) == pytest.approx(9.0)


def test_zero_for_equal_covariances_whatever_the_means() -> None:
    x = draw(20)
    assert float(coral(x, x.clone())) == 0.0
    assert float(coral(x, x + 3.0)) == pytest.approx(0.0, abs=1e-20)
    assert float(coral(x, x * 1.1)) > 1e-4


def test_symmetry_and_order() -> None:
    s, t = draw(9), draw(14, size=2.0, seed=1)
    torch.testing.assert_close(coral(t, s), coral(s, t))
    torch.testing.assert_close(coral(s.flip(0), t.roll(3, 0)), coral(s, t))


def test_no_growth_with_the_batch() -> None:
    """A covariance that is not divided by n - 1 makes the value grow as n squared."""
    means = [
        np.mean([float(coral(draw(n, seed=i), draw(n, size=2.0, seed=99 + i))) for i in range(50)])
        for n in (64, 512)
    ]
    # The limit is |I - 4 I|^2 / (4 d^2) = 9 / (4 d); small batches add their noise.
    assert means[1] == pytest.approx(9 / 16, rel=0.05)
    assert means[0] == pytest.approx(means[1], rel=0.25)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_fourth_power_of_the_features(size: float) -> None:
    s, t = draw(30).float(), draw(30, size=2.0, seed=1).float()
    scaled = (size * s).requires_grad_()
    value = coral(scaled, size * t)
    assert float(value.detach()) == pytest.approx(size**4 * float(coral(s, t)), rel=1e-4)
    (gradient,) = torch.autograd.grad(value, scaled)
    nearer = scaled.detach() - 5 * gradient / size**2
    assert float(coral(nearer, size * t)) < float(value.detach())


def test_gradient() -> None:
    s, t = draw(5, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(coral, (s, t))


def test_half_precision() -> None:
    s, t = draw(40).float(), draw(40, size=1.5, seed=1).float()
    value = coral(s.bfloat16(), t.bfloat16())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(coral(s, t)), rel=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = coral(s, t)
    torch.testing.assert_close(mixed, coral(s, t))


def test_refuses_one_sample() -> None:
    with pytest.raises(DomadaptError, match=r"at least 2 samples .* got 5 source and 1 target"):
        coral(draw(5), draw(1))
