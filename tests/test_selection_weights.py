"""Weights between domains against a known ratio of densities, and risks made from them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from domadapt.evaluation import Outputs
from domadapt.selection.evidence import Evidence
from domadapt.selection.registry import get_validator
from domadapt.selection.weights import (
    controlled_risk,
    density_ratio,
    normalised,
    weighted_risk,
)

SHIFT = 0.7


def gaussian(n: int, mean: float, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, generator=draw, dtype=torch.float64) + mean


def true_ratio(x: torch.Tensor) -> torch.Tensor:
    """Of N(SHIFT, 1) to N(0, 1)."""
    return (SHIFT * x - SHIFT**2 / 2).exp().flatten()


@pytest.mark.parametrize("n_t", [1500, 6000])
def test_weights_are_the_ratio_of_densities_whatever_the_sizes(n_t):
    val = gaussian(800, 0.0, 2)
    w = density_ratio(gaussian(4000, 0.0, 0), gaussian(n_t, SHIFT, 1), val)
    assert float((w.log() - true_ratio(val).log()).abs().mean()) < 0.12
    assert float(w.mean()) == pytest.approx(1, abs=0.1)


def test_weights_do_not_depend_on_the_scale_of_features():
    parts = [gaussian(300, 0.0, 0), gaussian(300, SHIFT, 1), gaussian(100, 0.0, 2)]
    plain, scaled = density_ratio(*parts), density_ratio(*(1e4 * x for x in parts))
    torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=1e-6)


def test_weights_are_clipped_at_the_root_of_n_times_their_mean():
    val = torch.zeros(100, 1, dtype=torch.float64)
    val[0] = 40.0
    w = density_ratio(gaussian(500, 0.0, 0), gaussian(500, SHIFT, 1), val)
    rest = float(w[1])
    assert 0.5 < rest < 1.2
    # One huge weight: the clip is 10 times a mean that it alone makes, a tenth of itself.
    free = density_ratio(gaussian(500, 0.0, 0), gaussian(500, SHIFT, 1), val[:1].repeat(100, 1))
    assert float(w[0]) == pytest.approx((float(free[0]) + 99 * rest) / 10, rel=1e-6)


def losses(x: torch.Tensor) -> torch.Tensor:
    """A loss that grows towards the target."""
    return (x.flatten() - 2 * SHIFT).square()


def test_risks_estimate_the_loss_on_the_target():
    val = gaussian(4000, 0.0, 2)
    w = density_ratio(gaussian(4000, 0.0, 0), gaussian(4000, SHIFT, 1), val)
    # E (x - 2 s)^2 under N(s, 1) is 1 + s^2; under the source it is 1 + 4 s^2.
    truth = 1 + SHIFT**2
    assert float(losses(val).mean()) == pytest.approx(1 + 4 * SHIFT**2, rel=0.1)
    assert weighted_risk(w, losses(val)) == pytest.approx(truth, rel=0.1)
    assert controlled_risk(w, losses(val)) == pytest.approx(truth, rel=0.1)


def test_the_control_variate_reduces_the_spread():
    plain, controlled = [], []
    for seed in range(200):
        x = gaussian(100, 0.0, 1000 + seed)
        w, loss = true_ratio(x), 3 + losses(x)
        plain.append(weighted_risk(w, loss))
        controlled.append(controlled_risk(w, loss))
    truth = 4 + SHIFT**2
    assert np.mean(plain) == pytest.approx(truth, rel=0.05)
    assert np.mean(controlled) == pytest.approx(truth, rel=0.05)
    assert np.std(controlled) < 0.6 * np.std(plain)


def test_risks_by_hand():
    w = torch.tensor([1.0, 2.0, 3.0]).double()
    loss = torch.tensor([2.0, 1.0, 1.0]).double()
    # w l = 2, 2, 3, mean 7/3; cov(w l, w) = 1/2, var(w) = 1, eta = -1/2, mean w = 2.
    assert weighted_risk(w, loss) == pytest.approx(7 / 3)
    assert controlled_risk(w, loss) == pytest.approx(7 / 3 - 1 + 0.5)
    # w / 3 = 1/3, 2/3, 1 has the mean 2/3: shifted by 1/3.
    assert normalised(w).tolist() == pytest.approx([2 / 3, 1, 4 / 3])


def test_equal_weights_and_a_single_sample_have_no_variance():
    loss = torch.tensor([2.0, 4.0]).double()
    assert controlled_risk(torch.full((2,), 1.5).double(), loss) == pytest.approx(4.5)
    assert controlled_risk(torch.tensor([2.0]).double(), loss[:1]) == pytest.approx(4.0)


def test_risks_agree_with_pytorch_adapt():
    theirs = pytest.importorskip("pytorch_adapt.validators.deep_embedded_validator")
    draw = torch.Generator().manual_seed(0)
    w = torch.rand(50, generator=draw, dtype=torch.float64).square() * 9
    loss = torch.rand(50, generator=draw, dtype=torch.float64) * 3

    def risk(normalisation: str | None) -> float:
        return float(theirs.get_dev_risk(w[:, None].clone(), loss[:, None], normalisation))

    assert controlled_risk(w, loss) == pytest.approx(risk(None), rel=1e-9)
    assert controlled_risk(normalised(w), loss) == pytest.approx(risk("max"), rel=1e-9)


def outputs(x: torch.Tensor, threshold: float, labelled: bool) -> Outputs:
    """A classifier of the sign of ``x - threshold`` where that of x is right."""
    logits = torch.stack([-(x - threshold), x - threshold], 1).squeeze(2).float() * 2
    return Outputs(logits, x.float(), (x > 0).long().flatten() if labelled else None)


def candidate(threshold: float) -> Evidence:
    return Evidence(
        "a",
        outputs(gaussian(1000, 1.0, 1), threshold, False),
        outputs(gaussian(1000, 0.0, 2), threshold, True),
        outputs(gaussian(1000, 0.0, 3), threshold, True),
    )


@pytest.mark.parametrize("name", ["iwcv", "dev", "devn"])
def test_validators_prefer_the_candidate_that_is_right_where_the_target_lies(name):
    # Equal mistakes on the source; on the target, which lies to the right, the first has more.
    bad, good = candidate(0.5), candidate(-0.5)
    accuracy = get_validator("source_val_accuracy")
    assert accuracy.score(bad) == pytest.approx(accuracy.score(good), abs=0.06)
    one = get_validator(name)
    assert one.score(good) > one.score(bad)


def test_validators_are_the_risks_of_cross_entropy():
    one = candidate(0.3)
    assert one.source_val is not None
    assert one.source_train is not None
    y = one.source_val.y
    assert y is not None
    p = np.exp(one.source_val.logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(p)), y.numpy()])
    w = density_ratio(one.source_train.z, one.target.z, one.source_val.z).numpy()
    wl = w * loss
    cov = np.cov(wl, w)
    eta = -cov[0, 1] / cov[1, 1]
    assert get_validator("iwcv").score(one) == pytest.approx(-wl.mean(), rel=1e-9)
    expected = -(wl.mean() + eta * w.mean() - eta)
    assert get_validator("dev").score(one) == pytest.approx(expected, rel=1e-9)
    n = w / w.max() - (w / w.max()).mean() + 1
    cov = np.cov(n * loss, n)
    expected = -((n * loss).mean() - cov[0, 1] / cov[1, 1] * (n.mean() - 1))
    assert get_validator("devn").score(one) == pytest.approx(expected, rel=1e-9)


def test_weights_of_one_candidate_are_not_those_of_another():
    a, b = candidate(0.5), candidate(-0.5)
    iwcv, devn = get_validator("iwcv"), get_validator("devn")
    alone = [iwcv.score(a), devn.score(a)], [iwcv.score(b), devn.score(b)]
    assert alone[0][0] != alone[1][0]
    mixed = [iwcv.score(a), iwcv.score(b), devn.score(a), devn.score(b)]
    assert mixed == [alone[0][0], alone[1][0], alone[0][1], alone[1][1]]


def test_a_source_that_a_line_separates_hides_its_losses_from_iwcv():
    # Documented: the weights vanish, and with them the risk of a network that is always wrong.
    one = candidate(0.0)
    assert one.source_val is not None
    wrong = replace(one.source_val, y=1 - one.source_val.y)
    far = replace(one, source_val=wrong, target=outputs(gaussian(1000, 60.0, 1), 0.0, False))
    near = replace(one, source_val=wrong)
    iwcv = get_validator("iwcv")
    assert iwcv.score(near) < -1
    assert iwcv.score(far) > -0.1
    assert math.isfinite(get_validator("dev").score(far))
    assert get_validator("devn").score(far) < -1
