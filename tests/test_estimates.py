"""Estimators against hand constants, closed forms of POT, and simulations of known accuracy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection.estimates import (
    agreement,
    average_confidence,
    average_thresholded_confidence,
    confidence_transport,
    difference_of_confidences,
    estimate_accuracy,
    neighbour_agreement,
    shares_fit,
    three_way,
)
from domadapt.selection.evidence import Evidence
from domadapt.selection.intervals import Z90, expit, wilson

P = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]]).double()


def _calibrated(n: int, spread: float, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities, and labels drawn from them: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(n, classes)) * spread)
    p = logits.softmax(1)
    y = [rng.choice(classes, p=row / row.sum()) for row in p.numpy()]
    return p, torch.tensor(y)


def test_average_confidence_by_hand() -> None:
    assert average_confidence(P) == pytest.approx((0.9 + 0.6 + 0.8 + 0.55) / 4)


def test_confidence_is_the_accuracy_of_calibrated_predictions() -> None:
    p, y = _calibrated(4_000, 2.0)
    truth = float((p.argmax(1) == y).double().mean())
    assert average_confidence(p) == pytest.approx(truth, abs=0.02)


def test_the_difference_of_confidences_by_hand() -> None:
    y = torch.tensor([0, 0, 1, 0])  # 3 of 4 are right
    p_t = torch.tensor([[0.5, 0.5], [0.3, 0.7]])
    expected = 0.75 - (average_confidence(P) - 0.6)
    assert difference_of_confidences(p_t, P, y) == pytest.approx(expected)


def test_the_threshold_lets_as_many_source_samples_miss_as_are_wrong() -> None:
    y = torch.tensor([0, 0, 1, 0])
    # One source sample is wrong: the least score, 0.55, misses and the threshold is 0.6.
    p_t = torch.tensor([[0.59, 0.41], [0.3, 0.7], [0.62, 0.38], [0.5, 0.5]]).double()
    for score in ("max_probability", "negative_entropy"):
        assert average_thresholded_confidence(p_t, P, y, score) == 0.5  # type: ignore[arg-type]


def test_without_source_errors_the_threshold_is_the_least_score() -> None:
    y = torch.tensor([0, 0, 1, 1])
    p_t = torch.tensor([[0.54, 0.46], [0.3, 0.7], [0.56, 0.44]]).double()
    found = average_thresholded_confidence(p_t, P, y, "max_probability")
    assert found == pytest.approx(2 / 3)
    assert average_thresholded_confidence(p_t, P, 1 - y) == 0.0


def test_the_difference_of_confidences_of_calibrated_predictions() -> None:
    p_v, y_v = _calibrated(4_000, 3.0)
    p_t, y_t = _calibrated(4_000, 1.5, seed=1)
    truth = float((p_t.argmax(1) == y_t).double().mean())
    assert difference_of_confidences(p_t, p_v, y_v) == pytest.approx(truth, abs=0.03)


def test_the_threshold_is_exact_where_certainty_decides_what_is_right() -> None:
    # A sample is right where its larger probability exceeds 0.7, in both domains.
    rng = np.random.default_rng(0)
    sure_v, sure_t = rng.uniform(0.5, 1, 2_000), rng.beta(1, 3, 2_000) / 2 + 0.5
    p_v, p_t = (torch.tensor(np.stack([s, 1 - s], 1)) for s in (sure_v, sure_t))
    y_v = torch.tensor((sure_v <= 0.7).astype(int))
    truth = float((sure_t > 0.7).mean())
    assert truth < 0.3
    for score in ("max_probability", "negative_entropy"):
        found = average_thresholded_confidence(p_t, p_v, y_v, score)  # type: ignore[arg-type]
        assert found == pytest.approx(truth, abs=0.01)


def test_agreement_by_hand() -> None:
    assert agreement(P, P.flip(1)) == 0.0
    assert agreement(P, torch.tensor([[2.0, 1], [0, 3], [0, 1], [0, 1]])) == 0.75
    with pytest.raises(DomadaptError, match="same samples"):
        agreement(P, P[:2])


def test_transport_of_two_samples_by_hand() -> None:
    # Two samples that both lean to class 0, where each class has half: the less sure one moves.
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    half = torch.tensor([0.5, 0.5])
    assert confidence_transport(p, half) == pytest.approx((0.9 + 0.3) / 2, abs=1e-6)
    # Were the shares those of the predictions, nothing would move.
    assert confidence_transport(p, torch.tensor([1.0, 0.0])) == pytest.approx(0.8, abs=1e-6)


def test_transport_agrees_with_an_assignment_of_labels() -> None:
    from scipy.optimize import linear_sum_assignment

    p, _ = _calibrated(60, 2.0, classes=3)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    cost = np.abs(p.numpy()[:, None] - np.eye(3)[labels][None]).sum(2) / 2
    rows, columns = linear_sum_assignment(cost)
    expected = 1 - cost[rows, columns].mean()
    prior = torch.tensor([3.0, 2.0, 1.0]) / 6
    assert confidence_transport(p, prior) == pytest.approx(expected, abs=1e-6)


def test_three_independent_networks_reveal_their_accuracies() -> None:
    rng = np.random.default_rng(0)
    n, classes, truth = 40_000, 4, (0.9, 0.7, 0.5)
    y = rng.integers(classes, size=n)
    said = [
        np.where(rng.random(n) < a, y, (y + rng.integers(1, classes, n)) % classes) for a in truth
    ]
    ab, ac, bc = ((said[i] == said[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert three_way(ab, ac, bc, classes) == pytest.approx(0.9, abs=0.02)
    assert three_way(ab, bc, ac, classes) == pytest.approx(0.7, abs=0.02)
    assert three_way(ac, bc, ab, classes) == pytest.approx(0.5, abs=0.02)


def test_three_networks_at_chance_reveal_nothing() -> None:
    assert math.isnan(three_way(0.25, 0.5, 0.5, 4))
    with pytest.raises(DomadaptError, match="2 classes"):
        three_way(0.5, 0.5, 0.5, 1)


def test_wilson_agrees_with_statistics_tables() -> None:
    # The endpoints solve |p - x| = z sqrt(x (1 - x) / n).
    for share, n in ((0.8, 50), (0.0, 20), (1.0, 20), (0.5, 1)):
        for end in wilson(share, n):
            if 0 < end < 1:
                assert abs(share - end) == pytest.approx(Z90 * math.sqrt(end * (1 - end) / n))
    assert wilson(1.0, 20)[1] == 1.0
    assert wilson(0.0, 20)[0] == 0.0
    with pytest.raises(DomadaptError, match="at least one sample"):
        wilson(0.5, 0)


def test_expit_of_any_size() -> None:
    assert expit(math.log(3)) == pytest.approx(0.75)
    assert expit(-math.log(3)) == pytest.approx(0.25)
    assert expit(-800.0) == 0.0
    assert expit(800.0) == 1.0


def test_no_sample_is_a_named_mistake() -> None:
    with pytest.raises(DomadaptError, match="at least one sample"):
        average_confidence(P[:0])
    with pytest.raises(DomadaptError, match="share for each"):
        confidence_transport(P, torch.ones(3))


def test_neighbours_agree_as_a_loop_over_cosines_says() -> None:
    rng = np.random.default_rng(0)
    z, predicted = rng.normal(size=(90, 3)), rng.integers(3, size=90)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    k, total = 90 // 12, 0.0
    for i in range(90):
        others = np.argsort(-unit @ unit[i])
        near = [j for j in others if j != i][:k]
        total += float((predicted[near] == predicted[i]).mean()) / 90
    found = neighbour_agreement(torch.tensor(z), torch.tensor(predicted), 3, block=32)
    assert found == pytest.approx(total)


def test_shares_fit_by_hand() -> None:
    predicted = torch.tensor([0] * 600 + [1] * 400)
    prior = torch.tensor([0.3, 0.7])
    # TV = 0.3; by chance about sqrt(2 (0.24 / 1000 + 0.21 / 500) / pi).
    by_chance = math.sqrt(2 * (0.24 / 1_000 + 0.21 / 500) / math.pi)
    assert shares_fit(predicted, prior, 500) == pytest.approx(1 - 0.3 + by_chance, abs=1e-6)


def test_equal_shares_fit_up_to_chance() -> None:
    rng = np.random.default_rng(0)
    prior = np.full(20, 0.05)
    fits = [
        shares_fit(
            torch.tensor(rng.choice(20, 400)),
            torch.tensor(np.bincount(rng.choice(20, 400), minlength=20) / 400),
            400,
        )
        for _ in range(20)
    ]
    assert prior.sum() == pytest.approx(1.0)
    assert np.mean(fits) > 0.98


def _domain(seed: int, blur: float, sure: float = 4.0, n: int = 300) -> tuple[Outputs, Tensor]:
    """Features around three corners in 12 dimensions, and logits that follow three of them."""
    rng = np.random.default_rng(seed)
    y = torch.tensor(rng.permutation(np.arange(n) % 3))
    z = blur * torch.tensor(rng.normal(size=(n, 12)))
    z[:, :3] += torch.nn.functional.one_hot(y, 3)
    return Outputs((sure * z[:, :3]).float(), z.float()), y


def _candidate(name: str, blur: float, confident: bool = False, **given: object) -> Evidence:
    """A candidate whose source is clean and whose target has this much blur."""
    source, y = _domain(0, 0.15)
    target, _ = _domain(1, blur)
    found = Evidence(
        name,
        target,
        replace(source, y=y),
        replace(source, y=y),
        trains_on_confidence=confident,
    )
    return replace(found, **given)  # type: ignore[arg-type]


def test_where_nothing_speaks_for_errors_the_rule_gives_its_largest_value() -> None:
    y = torch.arange(300) % 3
    sharp = torch.nn.functional.one_hot(y, 3).float()
    same = Outputs(50 * sharp, sharp)
    made = [
        Evidence(name, same, replace(same, y=y), replace(same, y=y), trains_on_confidence=True)
        for name in ("source_only", "mcc", "infomax")
    ]
    found = estimate_accuracy(made[1], made[0], made)
    above = 1 / (1 + math.exp(2.33 - 1.99 * math.log(0.985 / 0.015)))
    assert found.accuracy == pytest.approx((1 + 2 * above) / 3, abs=1e-9)
    assert found.accuracy is not None
    assert found.low is not None
    # All signals say the same: FLOOR alone, and hardly any sampling error.
    assert found.accuracy - found.low == pytest.approx(0.06, abs=0.002)
    assert found.high == 1.0
    assert found.parts["vouched"] == 1.0
    alone = estimate_accuracy(made[1], made[0], made[:2])
    assert alone.low is not None
    assert "vouched" not in alone.parts
    assert found.accuracy - alone.low == pytest.approx(0.06 * 1.3, abs=0.002)


def test_the_estimate_falls_with_the_truth() -> None:
    estimates: list[float] = []
    truths: list[float] = []
    for blur in (0.2, 0.4, 0.6):
        made = _candidate("dann", blur)
        found = estimate_accuracy(made, _candidate("source_only", blur))
        assert found.accuracy is not None
        assert found.low is not None
        assert found.high is not None
        truth = float((made.target.logits.argmax(1) == _domain(1, blur)[1]).double().mean())
        assert 0 <= found.low < found.accuracy < found.high <= 1
        estimates.append(found.accuracy)
        truths.append(truth)
    assert truths == sorted(truths, reverse=True)
    assert estimates == sorted(estimates, reverse=True)
    assert max(abs(e - t) for e, t in zip(estimates, truths, strict=True)) < 0.2


def test_confidence_alone_does_not_raise_the_estimate_of_a_method_that_trains_on_it() -> None:
    start = _candidate("source_only", 0.6)
    made = _candidate("mcc", 0.6, confident=True)
    # Ten times as certain in both domains: the temperature takes it back.
    held, target = made.source_val, made.target
    assert held is not None
    sure = replace(
        made,
        target=replace(target, logits=10 * target.logits),
        source_val=replace(held, logits=10 * held.logits),
    )
    plain, louder = estimate_accuracy(made, start), estimate_accuracy(sure, start)
    assert louder.accuracy == pytest.approx(plain.accuracy, abs=1e-6)
    assert not {"average_confidence", "thresholded_confidence"} & plain.parts.keys()
    assert {"average_confidence", "thresholded_confidence"} <= estimate_accuracy(
        replace(made, trains_on_confidence=False), start
    ).parts.keys()


def test_candidates_of_the_same_method_and_broken_ones_do_not_vouch() -> None:
    start, made = _candidate("source_only", 0.4), _candidate("mcc 1", 0.4, confident=True)
    variant = _candidate("mcc 10", 0.4, confident=True)
    one_class = torch.tensor([[9.0, 0.0, 0.0]]).repeat(300, 1)
    broken = _candidate("entropy", 0.4, confident=True, target=Outputs(one_class, one_class))
    alone = estimate_accuracy(made, start, [start, made, variant, broken])
    assert "vouched" not in alone.parts
    other = replace(variant, name="infomax")
    assert estimate_accuracy(made, start, [other]).parts["vouched"] == 1.0


def test_seeds_are_compared_where_there_are_two() -> None:
    made = _candidate("dann", 0.4)
    twin = made.target.logits.clone()
    twin[:30] = twin[:30].roll(1, 1)
    found = estimate_accuracy(replace(made, twin=twin), _candidate("source_only", 0.4))
    assert found.parts["agreement_seeds"] == pytest.approx(0.9)


def test_what_cannot_be_estimated_is_refused_in_words() -> None:
    start = _candidate("source_only", 0.3)
    made = _candidate("mcc", 0.3, confident=True)
    free = estimate_accuracy(replace(made, source_val=None), None)
    assert (free.accuracy, free.low, free.high) == (None, None, None)
    assert "source validation" in free.refused
    wider = torch.cat([made.target.logits, torch.zeros(300, 1)], 1)
    held = made.source_val
    assert held is not None
    wide = replace(
        made,
        target=replace(made.target, logits=wider),
        source_val=replace(held, logits=torch.cat([held.logits, torch.zeros(300, 1)], 1)),
    )
    assert "unknown classes" in estimate_accuracy(wide, start).refused
    assert "confidence" in estimate_accuracy(made, None).refused
    assert estimate_accuracy(replace(made, trains_on_confidence=False), None).refused == ""
    nan = replace(made, target=replace(made.target, logits=made.target.logits * float("nan")))
    refused = estimate_accuracy(nan, start)
    assert "NaN" in refused.refused
    assert refused.to_dict() == {
        "accuracy": None,
        "low": None,
        "high": None,
        "parts": {},
        "refused": refused.refused,
    }


def test_decisions_that_do_not_hold_together_in_source_onlys_features_lower_the_estimate() -> None:
    """Two candidates alike in all but where source_only put the samples."""
    made = _candidate("infomax", 0.15, confident=True)
    decided = made.target.logits.argmax(1)
    corners = torch.eye(12)[decided]
    mixed = corners[torch.randperm(len(corners), generator=torch.Generator().manual_seed(0))]
    before = _candidate("source_only", 0.15)
    found = []
    for z in (corners, mixed):
        baseline = replace(before, target=replace(before.target, z=z))
        estimate = estimate_accuracy(made, baseline)
        assert estimate.accuracy is not None
        found.append(estimate.accuracy)
    # With three classes of equal size a random neighbour decides alike once in three times.
    assert found[1] / found[0] == pytest.approx(1 / 3, abs=0.08)
