"""Target accuracy without target labels: the estimators of the literature, pure functions.

Each is a formula on logits or probabilities, in float64, and rests on an assumption that its
docstring names. None is right for every shift; `estimate_accuracy` weighs them against each other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.selection.calibration import class_shares, fit_temperature
from domadapt.selection.evidence import Evidence
from domadapt.selection.guard import guard
from domadapt.selection.intervals import Z90, expit
from domadapt.selection.predictions import accuracy

Score = Literal["negative_entropy", "max_probability"]

#: The rule of `estimate_accuracy`: log odds of the accuracy are OFFSET + SLOPE times the mean log
#: odds of the signals, all above chance. Fitted on the embedded digits and on HAR, with labels.
OFFSET, SLOPE = -2.33, 1.99
#: Shares above chance are taken as no closer than this to 0 and 1: no signal is ever sure.
LEAST, MOST = 0.02, 0.985
#: Half the width of the interval: FLOOR + SPREAD times the standard deviation of what the signals
#: say one by one, wider by ALONE where no candidate but source_only can be asked.
FLOOR, SPREAD, ALONE = 0.06, 0.3, 1.3
#: Signals whose standard deviation is larger contradict each other: nothing is estimated.
CONTRADICTION = 0.4
#: The most neighbours that are asked.
K_NEIGHBOURS = 10
#: The same among the features of source_only.
NEAREST = 5


@dataclass(frozen=True)
class Estimate:
    """An accuracy on the target, estimated without its labels.

    Attributes:
        accuracy: the estimate, in [0, 1]; None where it is refused.
        low: lower end of the 90 % interval, or None.
        high: upper end of the 90 % interval, or None.
        parts: estimates of the same accuracy by the methods of the literature, by name, as far as
            the evidence allows: their spread tells how hard the case is.
        refused: why there is no estimate, one sentence; empty where there is one.
    """

    accuracy: float | None
    low: float | None
    high: float | None
    parts: dict[str, float] = field(default_factory=dict)
    refused: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it."""
        return dataclasses.asdict(self)


def average_confidence(p: Float[Tensor, "n c"]) -> float:
    """``mean_i max_c p_ic``: the accuracy of a network whose probabilities mean what they say.

    In [1/c, 1]. Under shift networks stay more certain than right: mostly too high.
    Source: Hendrycks and Gimpel (2017), arXiv:1610.02136.
    """
    _some(p)
    return float(p.double().amax(1).mean())


def difference_of_confidences(
    p_t: Float[Tensor, "n_t c"], p_v: Float[Tensor, "n_v c"], y_v: Int[Tensor, " n_v"]
) -> float:
    """``accuracy_v - (AC_v - AC_t)``: accuracy falls by as much as the mean confidence does.

    Clipped to [0, 1]. v is source validation, `AC` is `average_confidence`.
    Source: Guillory et al. (2021), arXiv:2107.03315. Departure: the paper also fits a regression
    over many shifted sets; this is its plain form, of slope 1.
    """
    fallen = average_confidence(p_v) - average_confidence(p_t)
    return min(1.0, max(0.0, accuracy(p_v, y_v) - fallen))


def average_thresholded_confidence(
    p_t: Float[Tensor, "n_t c"],
    p_v: Float[Tensor, "n_v c"],
    y_v: Int[Tensor, " n_v"],
    score: Score = "negative_entropy",
) -> float:
    """ATC: the share of target samples whose score reaches a threshold of the source, in [0, 1].

    The threshold is that which as many source validation samples miss as are classified wrongly;
    the score is ``sum_c p_c log p_c`` or ``max_c p_c``. Where the source makes no error it is the
    least score of a source sample, so that the estimate leans on that one sample: too low in
    general, the more so the fewer samples. Probabilities should be calibrated before.

    Source: Garg et al. (2022), arXiv:2201.04234.
    """
    _some(p_t)
    _some(p_v)
    reached, held = _score(p_t, score), _score(p_v, score)
    wrong = int((p_v.argmax(1) != y_v).sum())
    if wrong == len(held):
        return 0.0
    return float((reached >= held.sort().values[wrong]).double().mean())


def agreement(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> float:
    """The share of samples of which two networks say the same class, in [0, 1].

    Between two seeds of one method it estimates the accuracy of either ("GDE"), if the ensemble of
    seeds is calibrated: errors that both make alike raise it above.
    Source: Jiang et al. (2022), arXiv:2106.13799.
    """
    _some(a)
    if a.shape != b.shape:
        raise DomadaptError(
            "Two networks agree or not on the same samples and classes; got outputs of shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    return float((a.argmax(1) == b.argmax(1)).double().mean())


def confidence_transport(p: Float[Tensor, "n c"], prior: Float[Tensor, " c"]) -> float:
    """COT: ``1 - min_G sum_ic G_ic (1 - p_ic)``, G from samples to class shares `prior`, in [0, 1].

    G has rows that sum to ``1 / n`` and columns that sum to the prior. The cost of a sample and a
    class is half the L1 distance of the probabilities from that class as a corner of the simplex.
    It is at most `average_confidence`, and counts predictions that no labels of these shares could
    bear out as errors; it needs the target's classes to be as frequent as `prior` says.

    Source: Lu et al. (2023), arXiv:2305.15640.
    """
    import ot

    _some(p)
    if tuple(prior.shape) != (p.shape[1],) or not float(prior.sum()) > 0:
        raise DomadaptError(
            f"`prior` must hold a share for each of the {p.shape[1]} classes; got shape "
            f"{tuple(prior.shape)} with sum {float(prior.sum()):.4g}."
        )
    n = len(p)
    shares = (prior.double() / prior.double().sum()).numpy()
    cost = np.ascontiguousarray(1.0 - p.double().numpy())
    return float(1.0 - ot.emd2(np.full(n, 1.0 / n), shares, cost, numItermax=1_000_000))


def three_way(first_second: float, first_third: float, second_third: float, classes: int) -> float:
    """The accuracy of the first of three networks from their pairwise agreements.

    With errors that are independent and spread evenly over the wrong classes, agreement above
    chance ``u = (c a - 1) / (c - 1)`` factors: ``u_12 = u_1 u_2`` with u_1 the same function of
    network 1's accuracy. Hence ``u_1 = sqrt(u_12 u_13 / u_23)``. Errors that networks have in
    common make it too high. In [1/c, 1]; NaN where a pair agrees no more than by chance.

    Source: Platanios et al. (2014), "Estimating Accuracy from Unlabeled Data" (UAI), for two
    classes; the factors for c classes are those of Dawid and Skene's model (1979,
    doi:10.2307/2346806) with one parameter for each network.
    """
    if classes < 2:
        raise DomadaptError(f"Agreements tell of accuracy from 2 classes on; got {classes}.")
    above = [(classes * a - 1) / (classes - 1) for a in (first_second, first_third, second_third)]
    if min(above) <= 0:
        return math.nan
    u = min(1.0, math.sqrt(above[0] * above[1] / above[2]))
    return (1 + (classes - 1) * u) / classes


def neighbour_agreement(
    z: Float[Tensor, "n d"],
    predicted: Int[Tensor, " n"],
    classes: int,
    most: int = K_NEIGHBOURS,
    block: int = 512,
) -> float:
    """The mean share of a sample's nearest neighbours that are predicted to be of its class.

    Neighbours by the cosine of features; ``k = min(most, n / (4 classes))`` of them, at least one,
    so that rare classes have enough samples of their own. 1 where the predictions follow clusters
    of the features; where their borders cut through dense regions it is less.
    """
    n = len(z)
    k = max(1, min(most, n // (4 * classes), n - 1))
    if n < 2:
        return 1.0
    unit = torch.nn.functional.normalize(z.float(), dim=1)
    total = 0.0
    for first in range(0, n, block):
        rows = torch.arange(first, min(first + block, n))
        close = unit[rows] @ unit.T
        close[torch.arange(len(rows)), rows] = -torch.inf
        near = close.topk(k, 1).indices
        total += float((predicted[near] == predicted[rows, None]).double().mean(1).sum())
    return total / n


def shares_fit(predicted: Int[Tensor, " n"], prior: Float[Tensor, " c"], n_prior: int) -> float:
    """``1 - max(0, TV - E)``: how well the predicted class shares fit those of the source.

    ``TV = 1/2 sum_c |q_c - prior_c|`` is the least share of samples that are wrong if the target's
    classes are as frequent as the source's. E is about what it would be by chance of sampling n
    and `n_prior` samples, ``1/2 sum_c sqrt(2 v_c / pi)`` with v_c the variance of the difference.
    """
    n, q = len(predicted), torch.bincount(predicted, minlength=len(prior)).double()
    q, prior = q / n, prior.double()
    variance = q * (1 - q) / n + prior * (1 - prior) / n_prior
    chance = (2 * variance / math.pi).sqrt().sum()
    return 1.0 - max(0.0, 0.5 * float((q - prior).abs().sum() - chance))


def estimate_accuracy(
    evidence: Evidence, baseline: Evidence | None, candidates: Sequence[Evidence] = ()
) -> Estimate:
    """The accuracy of a candidate on the target, with a 90 % interval, or why there is none.

    Five signals, each a share that is 1 where nothing speaks for errors:

    - neighbours: `neighbour_agreement` of its predictions in its own features;
    - shares: `shares_fit` of its predictions to the class shares of the source;
    - transport: `confidence_transport` to them, after temperature scaling on source validation;
    - source: `average_confidence` of source_only, after temperature scaling: how far the domains
      lie apart for a network that has not adapted;
    - vouched: `agreement` with the candidate that agrees most, among those that train on their
      confidence by another method, or else among all of another method but source_only.

    With ``u = (c share - 1) / (c - 1)`` above chance for c classes, a first value has ``logit u =
    OFFSET + SLOPE mean_k logit u_k`` over the signals there are. Of an adapted candidate it is
    multiplied by `neighbour_agreement` of its decisions in the features of source_only: its method
    has not shaped those, and clusters that it made up do not hold together there. No signal is an
    accuracy by
    itself: confidence and structure can be trained without being right, and agreement rests on
    common errors; they fail on different candidates. The class shares of source and target should
    be alike; a strong label shift makes the estimate too low.

    The interval is the estimate plus and minus `FLOOR` + `SPREAD` times the standard deviation of
    ``expit(OFFSET + SLOPE logit u_k)`` over the signals, and, in quadrature, the sampling error of
    the target samples. Constants: fitted with labels on the embedded digits and HAR alone.

    Args:
        evidence: the candidate whose accuracy is estimated.
        baseline: the evidence on source_only of the same run; None where there is none, then the
            candidate stands in for it if its method does not train on its own confidence.
        candidates: all candidates of the run, with or without these two; broken ones (by `guard`)
            are not asked. A candidate's method is the first word of its name.
    """
    why = _refusal(evidence, baseline)
    if why:
        return Estimate(None, None, None, {}, why)
    start, classes = baseline or evidence, evidence.classes
    others = [c for c in candidates if c.name not in (evidence.name, start.name)]
    parts = _parts(evidence, start, others)
    signals = _signals(evidence, start, parts)
    odds = [_odds(share, classes) for share in signals]
    middle = _share(OFFSET + SLOPE * float(np.mean(odds)), classes)
    spread = float(np.std([_share(OFFSET + SLOPE * value, classes) for value in odds]))
    if spread > CONTRADICTION:
        least, most = min(signals), max(signals)
        return Estimate(
            None,
            None,
            None,
            parts,
            "The signs of its accuracy contradict each other: they lie between "
            f"{100 * least:.0f} and {100 * most:.0f} %.",
        )
    if evidence.name != start.name:
        middle *= _neighbours_before(evidence, start)
    half = (FLOOR + SPREAD * spread) * (1.0 if "vouched" in parts else ALONE)
    half = math.hypot(half, Z90 * math.sqrt(middle * (1 - middle) / len(evidence.target.logits)))
    return Estimate(middle, max(0.0, middle - half), min(1.0, middle + half), parts)


def _signals(evidence: Evidence, start: Evidence, parts: dict[str, float]) -> list[float]:
    """The shares that the estimate is made of; the last one only where somebody can vouch."""
    predicted, z, rows = evidence.target.logits.argmax(1), evidence.target.z, evidence.target.rows
    seen = predicted[: len(z)] if rows is None else predicted[rows]
    y = _source_labels(evidence)
    found = [
        neighbour_agreement(z, seen, evidence.classes),
        shares_fit(predicted, class_shares(y, evidence.classes), len(y)),
        parts["transport"],
        average_confidence(_calibrated(start)),
    ]
    return [*found, parts["vouched"]] if "vouched" in parts else found


def _neighbours_before(evidence: Evidence, start: Evidence) -> float:
    """`neighbour_agreement` of a candidate's decisions in the features of source_only.

    These are taken about their mean, which all of them share.
    """
    predicted, z, rows = evidence.target.logits.argmax(1), start.target.z, start.target.rows
    seen = predicted[: len(z)] if rows is None else predicted[rows]
    return neighbour_agreement(z - z.mean(0), seen, evidence.classes, most=NEAREST)


def _source_labels(evidence: Evidence) -> Tensor:
    """The labels of all source samples that the evidence has."""
    splits = [evidence.source_val, evidence.source_train]
    return torch.cat([o.y for o in splits if o is not None and o.y is not None])


def _refusal(evidence: Evidence, baseline: Evidence | None) -> str:
    """Why nothing can be estimated of a candidate; empty where something can."""
    held = evidence.source_val
    if held is None or held.y is None:
        return (
            "Without labelled source validation samples there is nothing to measure confidence "
            "against; label some target samples to know the accuracy."
        )
    known = 1 + int(_source_labels(evidence).max())
    if evidence.classes > known:
        return (
            f"The network has {evidence.classes} outputs and the source {known} classes: how many "
            "target samples are of unknown classes cannot be estimated from the source."
        )
    if evidence.classes < 2:
        return "With a single class there is no accuracy to estimate."
    if baseline is None and evidence.trains_on_confidence:
        return (
            "The method raises its own confidence and there is no source-only model to compare "
            "with; train one beside it."
        )
    reasons = guard(evidence, baseline or evidence)
    if reasons:
        return f"The candidate is broken ({reasons[0]}): what it says of the target is no evidence."
    return ""


def _parts(evidence: Evidence, start: Evidence, others: Sequence[Evidence]) -> dict[str, float]:
    """Estimates of the literature, as far as the evidence allows."""
    held, said = evidence.source_val, evidence.target.logits
    assert held is not None
    assert held.y is not None
    p = _calibrated(evidence)
    prior = class_shares(_source_labels(evidence), evidence.classes)
    found = {"transport": confidence_transport(p, prior)}
    if not evidence.trains_on_confidence:
        p_v = _calibrated(evidence, held.logits)
        found |= {
            "average_confidence": average_confidence(p),
            "difference_of_confidences": difference_of_confidences(p, p_v, held.y),
            "thresholded_confidence": average_thresholded_confidence(p, p_v, held.y),
        }
    before = start.source_val
    if start.name != evidence.name and before is not None and before.y is not None:
        found["agreement_source_only"] = agreement(said, start.target.logits)
        p_t, p_v = _calibrated(start), _calibrated(start, before.logits)
        found["thresholded_confidence_source_only"] = average_thresholded_confidence(
            p_t, p_v, before.y
        )
    if evidence.twin is not None:
        found["agreement_seeds"] = agreement(said, evidence.twin)
    vouched = _vouched(evidence, start, others)
    return found if vouched is None else {**found, "vouched": vouched}


def _vouched(evidence: Evidence, start: Evidence, others: Sequence[Evidence]) -> float | None:
    """The largest agreement with a sound candidate of another method; None where there is none."""
    strange = [c for c in others if _method(c) != _method(evidence)]
    agreed = [agreement(evidence.target.logits, c.target.logits) for c in strange]
    # Those that train on their confidence first. The guard costs most, so it is asked last.
    order = sorted(
        range(len(strange)), key=lambda i: (not strange[i].trains_on_confidence, -agreed[i])
    )
    return next((agreed[i] for i in order if not guard(strange[i], start)), None)


def _method(evidence: Evidence) -> str:
    return evidence.name.split()[0] if evidence.name.split() else ""


def _calibrated(evidence: Evidence, logits: Tensor | None = None) -> Tensor:
    """Probabilities with the temperature of the candidate's source validation, if there is one."""
    held = evidence.source_val
    scaled = (evidence.target.logits if logits is None else logits).double()
    if held is None or held.y is None:
        return scaled.softmax(1)
    return (scaled / fit_temperature(held.logits, held.y)).softmax(1)


def _odds(share: float, classes: int) -> float:
    """Log odds of a share above chance."""
    above = (classes * share - 1) / (classes - 1)
    above = min(max(above, LEAST), MOST)
    return math.log(above / (1 - above))


def _share(odds: float, classes: int) -> float:
    """The share whose `_odds` these are."""
    return (1 + (classes - 1) * expit(odds)) / classes


def _score(p: Tensor, score: Score) -> Tensor:
    rows = p.double()
    return rows.amax(1) if score == "max_probability" else -torch.special.entr(rows).sum(1)


def _some(p: Tensor) -> None:
    if p.ndim != 2 or len(p) == 0:
        raise DomadaptError(
            f"An estimate needs outputs (n, classes) of at least one sample; got {tuple(p.shape)}."
        )
