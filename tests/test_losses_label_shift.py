"""Label shift against shifts whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.label_shift import bbse_weights, confusion_matrix, corrected, em_prior


def shares(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: P(predicted i | label j): columns sum to 1.
ERRORS = torch.tensor([[0.8, 0.2, 0.1], [0.1, 0.7, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)


# The confusion ------------------------------------------------------------------------------------


def test_confusion_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    c = confusion_matrix(p, torch.tensor([0, 1, 1, 0]))
    expected = [[1.25 / 4, 1 / 4], [0.75 / 4, 1 / 4]]
    np.testing.assert_allclose(c.numpy(), expected)


def test_confusion_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=30)
    y = rng.integers(0, 4, 30)
    expected = np.zeros((4, 4))
    for row, label in zip(p, y, strict=True):
        expected[:, label] += row / 30
    c = confusion_matrix(torch.from_numpy(p), torch.from_numpy(y))
    np.testing.assert_allclose(c.numpy(), expected, atol=1e-15)


# Black-box shift estimation -----------------------------------------------------------------------


@pytest.mark.parametrize("target", [(0.2, 0.3, 0.5), (0.7, 0.25, 0.05), (0.0, 0.4, 0.6)])
def test_bbse_finds_a_constructed_shift(target: tuple[float, ...]) -> None:
    source, q = shares(0.5, 0.3, 0.2), shares(*target)
    w = bbse_weights(ERRORS * source, ERRORS @ q)
    np.testing.assert_allclose(w.numpy(), (q / source).numpy(), atol=1e-12)


def test_bbse_for_two_classes_in_closed_form() -> None:
    # Sensitivity a, specificity b: the Rogan-Gladen estimate (mu - (1 - b)) / (a + b - 1).
    a, b, share, positive = 0.9, 0.7, 0.4, 0.55
    c = torch.tensor(
        [[a * share, (1 - b) * (1 - share)], [(1 - a) * share, b * (1 - share)]],
        dtype=torch.float64,
    )
    estimate = (positive - (1 - b)) / (a + b - 1)
    w = bbse_weights(c, shares(positive, 1 - positive))
    assert float(w[0]) == pytest.approx(estimate / share)
    assert float(w[1]) == pytest.approx((1 - estimate) / (1 - share))


def test_bbse_is_one_without_shift() -> None:
    source = shares(0.5, 0.3, 0.2)
    w = bbse_weights(ERRORS * source, ERRORS @ source)
    np.testing.assert_allclose(w.numpy(), 1.0, atol=1e-12)


def test_bbse_agrees_with_numpy_on_samples() -> None:
    rng = np.random.default_rng(1)
    c, mu = rng.dirichlet(np.ones(5), size=5), rng.dirichlet(np.ones(5) * 50)
    c = (c + 3 * np.eye(5)) / (c + 3 * np.eye(5)).sum()
    raw = np.linalg.solve(c, mu)
    assert (raw > 0).all()
    w = bbse_weights(torch.from_numpy(c), torch.from_numpy(mu))
    np.testing.assert_allclose(w.numpy(), raw, rtol=1e-9)


def test_bbse_clips_and_still_sums_to_one() -> None:
    # More certain of class 0 than the predictor is even on class 0 alone.
    source, mu = shares(0.5, 0.3, 0.2), shares(0.95, 0.03, 0.02)
    c = ERRORS * source
    assert bool((torch.linalg.solve(c, mu) < 0).any())
    w = bbse_weights(c, mu)
    assert bool((w >= 0).all())
    assert float(w.min()) == 0.0
    assert float((source * w).sum()) == pytest.approx(1.0)


def test_bbse_leaves_alone_what_cannot_be_told_apart() -> None:
    # Classes 1 and 2 are never told apart: their common share is found, its division is not.
    errors = np.array([[0.9, 0.1, 0.1], [0.05, 0.45, 0.45], [0.05, 0.45, 0.45]])
    source, q = shares(0.4, 0.5, 0.1), shares(0.6, 0.4, 0.0)
    rates = torch.from_numpy(errors)
    w = bbse_weights(rates * source, rates @ q)
    np.testing.assert_allclose(w.numpy(), [1.5, 0.4 / 0.6, 0.4 / 0.6], rtol=1e-9)


def test_bbse_of_a_rare_class() -> None:
    source, q = shares(0.949, 0.05, 0.001), shares(0.9, 0.06, 0.04)
    w = bbse_weights(ERRORS * source, ERRORS @ q)
    np.testing.assert_allclose(w.numpy(), (q / source).numpy(), rtol=1e-9)


def test_bbse_of_a_constant_predictor_claims_no_shift() -> None:
    c = torch.zeros(3, 3, dtype=torch.float64)
    c[1] = shares(0.5, 0.3, 0.2)
    np.testing.assert_allclose(bbse_weights(c, shares(0.0, 1.0, 0.0)).numpy(), 1.0)


def test_bbse_without_held_out_samples_of_a_class() -> None:
    errors = torch.tensor([[0.9, 0.2, 0.0], [0.1, 0.8, 0.0], [0.0, 0.0, 1.0]]).double()
    source, q = shares(0.5, 0.5, 0.0), shares(0.8, 0.2, 0.0)
    w = bbse_weights(errors * source, errors @ q)
    np.testing.assert_allclose(w.numpy(), [1.6, 0.4, 1.0], atol=1e-6)


def test_bbse_does_not_depend_on_the_order_of_the_classes() -> None:
    source, q = shares(0.5, 0.3, 0.2), shares(0.1, 0.3, 0.6)
    c, mu, order = ERRORS * source, ERRORS @ q, [2, 0, 1]
    w = bbse_weights(c[order][:, order], mu[order])
    torch.testing.assert_close(w, bbse_weights(c, mu)[order])


def test_bbse_recovers_the_shift_of_a_sample() -> None:
    rng = np.random.default_rng(3)
    means = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])

    def draw(n: int, prior: list[float]) -> tuple[Tensor, Tensor]:
        y = rng.choice(3, n, p=prior)
        x = means[y] + rng.normal(size=(n, 2))
        nearest = ((x[:, None] - means) ** 2).sum(2).argmin(1)
        return torch.from_numpy(np.eye(3)[nearest]), torch.from_numpy(y)

    p_s, y_s = draw(20_000, [0.5, 0.3, 0.2])
    p_t, _ = draw(20_000, [0.1, 0.3, 0.6])
    w = bbse_weights(confusion_matrix(p_s, y_s), p_t.mean(0))
    np.testing.assert_allclose(w.numpy(), [0.2, 1.0, 3.0], atol=0.12)


@pytest.mark.parametrize(
    ("confusion", "predicted", "said"),
    [
        (torch.eye(2), shares(0.5, 0.5), "they sum to 2"),
        (torch.eye(2) / 2, shares(5.0, 5.0), "they sum to 10"),
        (torch.eye(2) / 2, shares(1.5, -0.5), "the least is -0.5"),
    ],
)
def test_bbse_refuses(confusion: Tensor, predicted: Tensor, said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        bbse_weights(confusion, predicted)


# Correction of predictions ------------------------------------------------------------------------


def gaussian_posterior(x: np.ndarray, priors: np.ndarray) -> Tensor:
    """Of the class, where class c is a Gaussian of variance 1 about c on the line."""
    likelihood = np.exp(-0.5 * (x[:, None] - np.arange(len(priors))) ** 2)
    joint = likelihood * priors
    return torch.from_numpy(joint / joint.sum(1, keepdims=True))


def test_correction_is_the_posterior_of_the_other_priors() -> None:
    x = np.linspace(-3, 5, 9)
    one, two = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    value = corrected(gaussian_posterior(x, one), torch.from_numpy(one), torch.from_numpy(two))
    torch.testing.assert_close(value, gaussian_posterior(x, two))


def test_correction_of_two_classes_shifts_the_log_odds() -> None:
    p = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    value = corrected(p, torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]))
    odds = value[:, 0] / value[:, 1]
    torch.testing.assert_close(odds, p[:, 0] / p[:, 1] * 4)


def test_correction_to_equal_priors_changes_nothing() -> None:
    p = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    prior = torch.tensor([0.2, 0.5, 0.3])
    torch.testing.assert_close(corrected(p, prior, prior), p)


def test_correction_where_a_class_is_absent() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    value = corrected(p, torch.full((3,), 1 / 3), torch.tensor([0.0, 0.5, 0.5]))
    torch.testing.assert_close(value, torch.tensor([[0.0, 0.6, 0.4], [1.0, 0.0, 0.0]]))


def test_correction_refuses_a_source_class_of_share_zero() -> None:
    with pytest.raises(DomadaptError, match="class 1 has none"):
        corrected(torch.ones(2, 2) / 2, torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))


# Expectation maximisation -------------------------------------------------------------------------


def test_em_maximises_the_likelihood_of_two_classes() -> None:
    rng = np.random.default_rng(2)
    prior = np.array([0.5, 0.5])
    x = np.where(rng.random(400) < 0.85, rng.normal(0, 1, 400), rng.normal(1, 1, 400))
    p = gaussian_posterior(x, prior)

    def unlikely(q: float) -> float:
        return -float(np.log(p.numpy() @ (np.array([q, 1 - q]) / prior)).mean())

    best = minimize_scalar(unlikely, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    assert 0.6 < best < 1.0
    q = em_prior(p, torch.from_numpy(prior), steps=20_000, tolerance=1e-12)
    assert float(q[0]) == pytest.approx(best, abs=1e-5)
    assert float(q.sum()) == pytest.approx(1.0)


def test_em_counts_certain_predictions() -> None:
    p = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    np.testing.assert_allclose(em_prior(p, torch.full((3,), 1 / 3)), [2 / 6, 1 / 6, 3 / 6])


def test_em_of_predictions_that_say_nothing_keeps_the_prior() -> None:
    prior = shares(0.5, 0.3, 0.2)
    torch.testing.assert_close(em_prior(prior.repeat(4, 1), prior), prior)


def test_em_recovers_a_constructed_shift() -> None:
    rng = np.random.default_rng(4)
    source, target = np.array([0.5, 0.3, 0.2]), np.array([0.15, 0.25, 0.6])
    x = 2.0 * rng.choice(3, 20_000, p=target) + rng.normal(size=20_000)
    likelihood = np.exp(-0.5 * (x[:, None] - 2.0 * np.arange(3)) ** 2) * source
    p = torch.from_numpy(likelihood / likelihood.sum(1, keepdims=True))
    q = em_prior(p, torch.from_numpy(source))
    np.testing.assert_allclose(q.numpy(), target, atol=0.02)
    assert float((p.mean(0) - torch.from_numpy(target)).abs().max()) > 0.05  # a plain mean is off


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lower_precision(dtype: torch.dtype) -> None:
    p = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    prior = torch.full((4,), 0.25)
    low = em_prior(p.to(dtype), prior.to(dtype))
    torch.testing.assert_close(low, em_prior(p.double(), prior.double()), rtol=0.05, atol=0.02)
    y = torch.arange(50) % 4
    c, exact = confusion_matrix(p.to(dtype), y), confusion_matrix(p, y)
    torch.testing.assert_close(c, exact, rtol=0.01, atol=1e-3)


def test_batch_of_two() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    q = em_prior(p, torch.tensor([0.5, 0.5]))
    assert torch.isfinite(q).all()
    w = bbse_weights(confusion_matrix(p, torch.tensor([0, 1])), p.mean(0))
    np.testing.assert_allclose(w.numpy(), 1.0, atol=1e-7)
