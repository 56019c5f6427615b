"""Calibration against closed forms, simulations of known temperature, and a loop over bins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection.calibration import (
    BOUNDS,
    Calibration,
    calibrate,
    class_shares,
    expected_calibration_error,
    fit_temperature,
)
from domadapt.selection.evidence import Evidence


def _drawn(n: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `temperature` times those from which their labels were drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = np.array([rng.choice(4, p=row) for row in p])
    return torch.tensor(temperature * logits), torch.tensor(y)


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_temperature_of_drawn_labels_is_found(truth: float) -> None:
    logits, y = _drawn(6_000, truth)
    assert fit_temperature(logits, y) == pytest.approx(truth, rel=0.06)


def test_the_temperature_agrees_with_scipy_on_the_plain_likelihood() -> None:
    logits, y = _drawn(6_000, 2.0)
    rows = logits.numpy()

    def nll(t: float) -> float:
        scaled = rows / t
        top = scaled.max(1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((log_sum - scaled[np.arange(len(y)), y.numpy()]).mean())

    best = minimize_scalar(nll, bounds=(0.1, 10), method="bounded").x
    assert fit_temperature(logits, y) == pytest.approx(best, rel=5e-3)


def test_two_classes_have_a_closed_form() -> None:
    # 3 of 4 samples are right, each with margin 2. With smoothed labels the share of rights is
    # (3 (1 - c) + c * 2) / 4 with c = 1/5; sigmoid(2 / T) equals it at the minimum.
    logits = torch.tensor([[2.0, 0.0]] * 4)
    y = torch.tensor([0, 0, 0, 1])
    share = (3 * 0.8 + 0.2 * 2) / 4
    expected = 2 / math.log(share / (1 - share))
    assert fit_temperature(logits, y) == pytest.approx(expected, rel=1e-9)


def test_separated_samples_leave_as_much_doubt_as_their_number() -> None:
    n = 50
    y = torch.arange(n) % 2
    logits = torch.nn.functional.one_hot(y, 2) * 3.0
    t = fit_temperature(logits, y)
    # At the minimum the probability of the right class is the smoothed label: 1 - 1 / (2 (n + 1)).
    assert (logits[0] / t).softmax(0).max() == pytest.approx(1 - 0.5 / (n + 1), abs=1e-6)


def test_the_temperature_stays_within_its_bounds() -> None:
    y = torch.zeros(10, dtype=torch.long)
    faint, wrong = torch.tensor([[1e-3, 0.0]] * 10), torch.tensor([[0.0, 5.0]] * 10)
    assert fit_temperature(faint, y) == BOUNDS[0]
    assert fit_temperature(wrong, y) == BOUNDS[1]
    assert fit_temperature(torch.zeros(10, 2), y) == BOUNDS[1]


def test_the_calibration_error_by_hand() -> None:
    # Two bins of [0, 1]: only the upper one can hold the larger of two probabilities.
    p = torch.tensor([[0.9, 0.1], [0.75, 0.25], [0.45, 0.55], [0.3, 0.7]]).double()
    y = torch.tensor([0, 1, 1, 1])
    assert expected_calibration_error(p, y, bins=2) == pytest.approx(0.75 - 0.725, abs=1e-7)
    # Of five bins: (0.4, 0.6] holds 0.55, (0.6, 0.8] 0.7 and 0.75 (wrong), (0.8, 1] 0.9.
    by_hand = 0.45 / 4 + abs(0.5 - 0.725) / 2 + 0.1 / 4
    assert expected_calibration_error(p, y, bins=5) == pytest.approx(by_hand, abs=1e-7)


def test_the_calibration_error_agrees_with_a_loop() -> None:
    logits, y = _drawn(500, 2.0)
    p = logits.softmax(1)
    confidence, right = p.max(1).values.numpy(), (p.argmax(1) == y).numpy()
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(p, y) == pytest.approx(total, abs=1e-12)


def test_certain_samples_fall_into_the_last_bin() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(p, torch.tensor([0, 1])) == pytest.approx(0.5)


def _evidence(n: int = 2_000) -> Evidence:
    logits, y = _drawn(n, 3.0)
    target, _ = _drawn(n, 3.0, seed=1)
    return Evidence("a", Outputs(target, target), Outputs(logits, logits, y))


def test_calibrating_lowers_the_error_and_keeps_the_decisions() -> None:
    evidence = _evidence()
    found = calibrate(evidence)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.ece_before is not None
    assert found.ece_after is not None
    assert found.ece_after < 0.05 < 0.15 < found.ece_before
    p = found.probabilities(evidence.target.logits)
    assert torch.equal(p.argmax(1), evidence.target.logits.argmax(1))
    assert torch.allclose(p.sum(1), torch.ones(len(p)).double())


def test_the_prior_of_the_target_is_applied_by_bayes_rule() -> None:
    evidence = _evidence()
    assert evidence.source_val is not None
    assert evidence.source_val.y is not None
    prior_t = torch.tensor([0.7, 0.1, 0.1, 0.1]).double()
    found = calibrate(evidence, prior_t=prior_t)
    counts = np.bincount(evidence.source_val.y.numpy(), minlength=4) + 1
    plain = torch.softmax(evidence.target.logits.double() / found.temperature, 1).numpy()
    expected = plain * prior_t.numpy() / (counts / counts.sum())
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found.probabilities(evidence.target.logits), expected, atol=1e-6)
    assert "class shares" in found.trust


def test_the_offset_moves_the_logits_as_bayes_rule_moves_the_probabilities() -> None:
    given = Calibration(2.0, [0.5, 0.25, 0.25], [0.25, 0.75, 0.0], 0.1, 0.0, "")
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 50.0]])
    offset = given.offset(3)
    assert offset[:2].tolist() == pytest.approx([math.log(0.5), math.log(3.0)])
    assert bool(offset.isfinite().all())
    moved = (logits / 2.0 + offset).softmax(1)
    assert torch.allclose(moved.double(), given.probabilities(logits), atol=1e-6)
    # A sample of a class that the target is said to lack, and of no other, keeps it.
    assert moved[1].argmax() == 2
    assert replace(given, prior_t=None).offset(3).tolist() == [0.0, 0.0, 0.0]


def test_a_method_that_follows_its_own_confidence_is_not_corrected_twice() -> None:
    evidence = replace(_evidence(), trains_on_confidence=True)
    found = calibrate(evidence, prior_t=torch.tensor([0.7, 0.1, 0.1, 0.1]))
    assert found.prior_t is None
    assert "raises its own confidence" in found.trust


def test_the_words_name_a_confidence_far_from_the_estimate() -> None:
    evidence = _evidence()
    assert "too high by about" in calibrate(evidence, accuracy=0.2).trust
    assert "too low by about" in calibrate(evidence, accuracy=0.95).trust


def test_without_a_source_nothing_is_claimed() -> None:
    evidence = replace(_evidence(), source_val=None)
    found = calibrate(evidence)
    assert (found.temperature, found.ece_before, found.ece_after) == (1.0, None, None)
    assert "not calibrated" in found.trust
    assert found.to_dict()["temperature"] == 1.0


def test_shares_of_absent_classes_stay_positive() -> None:
    assert class_shares(torch.tensor([0, 0, 1]), 3).tolist() == [0.5, 2 / 6, 1 / 6]


def test_mistakes_are_named() -> None:
    logits = torch.zeros(3, 2)
    with pytest.raises(DomadaptError, match="at least one sample"):
        fit_temperature(logits[:0], torch.zeros(0, dtype=torch.long))
    with pytest.raises(DomadaptError, match="finite"):
        fit_temperature(logits + float("nan"), torch.zeros(3, dtype=torch.long))
    with pytest.raises(DomadaptError, match="between 0 and 1"):
        fit_temperature(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(DomadaptError, match="at least one bin"):
        expected_calibration_error(logits.softmax(1), torch.tensor([0, 1, 1]), bins=0)
    with pytest.raises(DomadaptError, match="rising"):
        fit_temperature(logits, torch.tensor([0, 1, 1]), bounds=(2.0, 1.0))
