"""The norm step and the spectral penalty against hand constants, NumPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.norms import norm_step, spectral_penalty


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


# Norms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.3, 1.0, 5.0])
def test_step_is_constant_and_pushes_outwards(step: float) -> None:
    z = draw(7).requires_grad_()
    value = norm_step(z, step)
    assert float(value.detach()) == pytest.approx(step**2)
    (gradient,) = torch.autograd.grad(value, z)
    x = z.detach().numpy()
    expected = -2 * step / 7 * x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10)


def test_step_of_a_fixed_aim() -> None:
    """The gradient is that of the distance to an aim that does not move, checked numerically."""
    z, step = draw(5), 0.7
    aim = z.norm(dim=1) + step
    by_hand = (z.requires_grad_().norm(dim=1) - aim).square().mean()
    (expected,) = torch.autograd.grad(by_hand, z)
    (gradient,) = torch.autograd.grad(norm_step(z, step), z)
    torch.testing.assert_close(gradient, expected)
    longer = z.detach() - 0.1 * gradient
    assert bool((longer.norm(dim=1) > z.detach().norm(dim=1)).all())


def test_step_of_a_sample_at_the_origin() -> None:
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(norm_step(z), z)
    np.testing.assert_allclose(gradient.numpy(), [[0.0, 0.0], [-0.6, -0.8]], rtol=1e-6)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_is_the_same_push_at_every_size(size: float, dtype: torch.dtype) -> None:
    z = (size * draw(20)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = norm_step(z, 0.01)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(1e-4, rel=1e-4)
    (gradient,) = torch.autograd.grad(value, z)
    np.testing.assert_allclose(gradient.float().norm(dim=1).numpy(), 0.02 / 20, rtol=0.01)


def test_step_does_not_mind_the_order_or_the_number() -> None:
    z = draw(8)
    assert float(norm_step(z[:2], 2.0)) == pytest.approx(4.0)
    assert float(norm_step(z.flip(0), 2.0)) == pytest.approx(4.0)
    with pytest.raises(DomadaptError, match="step must be positive; got 0"):
        norm_step(z, 0.0)


# Spectrum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 6), (5, 5), (2, 4), (1, 4)])
def test_equals_the_singular_values(n: int, d: int, k: int) -> None:
    z = draw(n, d)
    expected = (np.linalg.svd(z.numpy(), compute_uv=False)[:k] ** 2).sum()
    assert float(spectral_penalty(z, k)) == pytest.approx(expected, rel=1e-10)


def test_hand_constants() -> None:
    assert float(spectral_penalty(torch.diag(torch.tensor([3.0, -5.0, 4.0])))) == pytest.approx(25)
    assert float(spectral_penalty(torch.diag(torch.tensor([3.0, -5.0, 4.0])), 2)) == pytest.approx(
        41
    )
    # One sample n times: all of its length is in one direction.
    assert float(spectral_penalty(torch.tensor([[1.0, 2.0]]).repeat(6, 1))) == pytest.approx(30)
    assert float(spectral_penalty(torch.zeros(3, 2))) == 0.0


def test_all_singular_values_are_the_norm_and_rotations_do_not_count() -> None:
    z = draw(9)
    assert float(spectral_penalty(z, 4)) == pytest.approx(float(z.square().sum()))
    rotation = torch.linalg.qr(draw(4, seed=3)).Q
    for other in (z @ rotation, z.flip(0), -z):
        torch.testing.assert_close(spectral_penalty(other), spectral_penalty(z))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("n", "d"), [(5, 3), (3, 5), (2, 2)])
def test_gradient(n: int, d: int, k: int) -> None:
    z = draw(n, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectral_penalty(x, k), (z,))


def test_gradient_is_along_the_first_direction() -> None:
    z = draw(8).requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_penalty(z), z)
    u, s, vh = np.linalg.svd(z.detach().numpy())
    np.testing.assert_allclose(gradient.numpy(), 2 * s[0] * np.outer(u[:, 0], vh[0]), rtol=1e-8)
    # Equal singular values and dead features have a finite one as well.
    for x in (torch.eye(4), torch.zeros(3, 5), torch.ones(4, 2)):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(spectral_penalty(x), x)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_square_of_the_size(size: float, dtype: torch.dtype) -> None:
    z = (size * draw(20)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = spectral_penalty(z)
    assert value.dtype == torch.float32
    first, second = (size * np.linalg.svd(draw(20).numpy(), compute_uv=False)[:2]) ** 2
    assert float(value.detach()) == pytest.approx(first, rel=0.02)
    (gradient,) = torch.autograd.grad(value, z)
    smaller = z.detach().float() - 0.1 * gradient.float()
    # A tenth of the gradient takes a fifth of the first singular value.
    expected = max(0.64 * first, second)
    assert float(spectral_penalty(smaller)) == pytest.approx(expected, rel=0.03)


def test_refusals() -> None:
    with pytest.raises(DomadaptError, match="k must be at least 1; got 0"):
        spectral_penalty(draw(3), 0)
