"""The domain discriminators' loss."""

from __future__ import annotations

import math

import pytest
import torch

from domadapt.losses.adversarial import domain_loss


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
