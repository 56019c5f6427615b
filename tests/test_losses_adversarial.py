"""The domain discriminators' losses, and what a conditional discriminator is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.losses.adversarial import (
    domain_loss,
    entropy_weights,
    inverted_loss,
    multilinear,
    randomized_multilinear,
)


def draw(n: int, d: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_hand_constants() -> None:
    zero = torch.zeros(3)
    assert float(domain_loss(zero, torch.zeros(5))) == pytest.approx(math.log(2))
    # Source said with odds 3 to 1 for source, target with even odds.
    value = domain_loss(torch.full((2,), math.log(3.0)), zero)
    assert float(value) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_right_answers_cost_nothing_and_wrong_ones_much() -> None:
    sure = torch.full((4,), 30.0)
    assert float(domain_loss(sure, -sure)) == pytest.approx(0.0, abs=1e-9)
    assert float(domain_loss(-sure, sure)) == pytest.approx(30.0)


def test_domains_count_equally_whatever_their_sizes() -> None:
    d_s, d_t = torch.tensor([0.3, -1.0]), torch.tensor([0.5])
    value = domain_loss(d_s, d_t)
    torch.testing.assert_close(domain_loss(d_s.repeat(5), d_t.repeat(7)), value)


def test_weights_are_shares_within_a_domain() -> None:
    d_s, d_t = torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0, 1.0])
    plain = domain_loss(d_s, d_t)
    torch.testing.assert_close(domain_loss(d_s, d_t, torch.full((2,), 7.0), torch.ones(3)), plain)
    first = domain_loss(d_s, d_t, torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0, 0.0]))
    torch.testing.assert_close(first, domain_loss(d_s[:1], d_t[1:2]))


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.rand(6, generator=generator, dtype=torch.float64)
    f = lambda x: domain_loss(x[:4], x[4:], w[:4], w[4:])  # noqa: E731
    assert torch.autograd.gradcheck(f, (d,))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size_of_logits(size: float, dtype: torch.dtype) -> None:
    d = (size * draw(9)[:, 0]).to(dtype).requires_grad_()
    for f in (lambda x: domain_loss(x[:5], x[5:]), inverted_loss):
        value = f(d)
        (gradient,) = torch.autograd.grad(value, d)
        exact = float(f(d.detach().double()))
        assert float(value.detach()) == pytest.approx(exact, rel=0.02, abs=1e-3)
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.float().norm()) > 0.05


# The inverted label -------------------------------------------------------------------------------


def test_inverted_loss_by_hand() -> None:
    assert float(inverted_loss(torch.zeros(3))) == pytest.approx(math.log(2))
    # Odds of 3 to 1 for source, and of 1 to 3.
    value = inverted_loss(torch.tensor([math.log(3.0), -math.log(3.0)]))
    assert float(value) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_inverted_loss_pulls_against_a_sure_discriminator() -> None:
    d = torch.full((2,), -30.0, requires_grad=True)
    (inverted,) = torch.autograd.grad(inverted_loss(d), d)
    (usual,) = torch.autograd.grad(domain_loss(torch.zeros(2), d), d)
    torch.testing.assert_close(inverted, torch.full((2,), -0.5))
    assert float(usual.abs().max()) < 1e-10


# The multilinear map ------------------------------------------------------------------------------


def test_multilinear_is_the_outer_product() -> None:
    z, p = draw(5, 3), draw(5, 4, seed=1)
    expected = np.stack([np.outer(b, a).ravel() for a, b in zip(z, p, strict=True)])
    torch.testing.assert_close(multilinear(z, p), torch.from_numpy(expected))
    by_hand = multilinear(torch.tensor([[2.0, 3.0]]), torch.tensor([[0.25, 0.75]]))
    assert by_hand.tolist() == [[0.5, 0.75, 1.5, 2.25]]


def test_randomized_map_keeps_inner_products_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    z, p = draw(4, 6), draw(4, 3, seed=1).softmax(1)
    wanted = multilinear(z, p) @ multilinear(z, p).T

    def normal(n: int) -> Tensor:
        return torch.randn(n, 200_000, generator=generator, dtype=torch.float64)

    found = randomized_multilinear(z, p, normal(6), normal(3))
    assert found.shape == (4, 200_000)
    torch.testing.assert_close(found @ found.T, wanted, rtol=0.03, atol=0.03)


def test_randomized_map_by_loops() -> None:
    z, p, r_z, r_p = draw(3, 4), draw(3, 2, seed=1), draw(4, 5, seed=2), draw(2, 5, seed=3)
    found = randomized_multilinear(z, p, r_z, r_p)
    for i in range(3):
        for m in range(5):
            left = sum(float(z[i, j] * r_z[j, m]) for j in range(4))
            right = sum(float(p[i, k] * r_p[k, m]) for k in range(2))
            assert float(found[i, m]) == pytest.approx(left * right / math.sqrt(5))


def test_gradients_of_the_maps() -> None:
    z, p = draw(3, 4).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(multilinear, (z, p))
    fixed = (draw(4, 5, seed=2), draw(2, 5, seed=3))
    assert torch.autograd.gradcheck(lambda a, b: randomized_multilinear(a, b, *fixed), (z, p))


# Entropy weights ----------------------------------------------------------------------------------


def test_entropy_weights_by_hand() -> None:
    # An even choice of four, a certain one, and odds of 3 to 1 between two.
    logits = torch.tensor([[0.0] * 4, [500.0, 0, 0, 0], [math.log(3), 0, -500.0, -500.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = torch.tensor([1.25, 2.0, 1 + math.exp(-entropy)])
    torch.testing.assert_close(entropy_weights(logits), expected)
    torch.testing.assert_close(entropy_weights(logits + 7.0), expected)


def test_entropy_weights_carry_no_gradient_and_stay_finite() -> None:
    logits = draw(6).float().requires_grad_()
    assert not entropy_weights(logits).requires_grad
    for dtype in (torch.float32, torch.bfloat16):
        for size in (0.01, 1.0, 100.0, 1e4):
            given = (size * draw(6)).to(dtype)
            found = entropy_weights(given)
            assert found.dtype == torch.float32
            torch.testing.assert_close(
                found.double(), entropy_weights(given.double()), rtol=1e-5, atol=0
            )
            assert bool(((found >= 1.25 - 1e-6) & (found <= 2)).all())
