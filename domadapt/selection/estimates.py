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
from domadapt.selection.intervals import Z90, expit, logit
from domadapt.selection.predictions import accuracy

Score = Literal["negative_entropy", "max_probability"]

#: The rule of `estimate_accuracy`, in log odds above chance: a constant, and the weights of the
#: neighbours' agreement, of the fit of the class shares, and of the source-only confidence.
OFFSET, NEIGHBOURS, SHARES, CONFIDENCE = -3.0, 1.1, 0.5, 0.2
#: Shares above chance are taken as no closer than this to 0 and 1: none of them is ever sure.
LEAST, MOST = 0.02, 0.985
#: Standard error of the rule, in the same log odds.
ERROR = 0.7
#: The most neighbours that are asked.
K_NEIGHBOURS = 10


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
    z: Float[Tensor, "n d"], predicted: Int[Tensor, " n"], classes: int, block: int = 512
) -> float:
    """The mean share of a sample's nearest neighbours that are predicted to be of its class.

    Neighbours by the cosine of features; ``k = min(10, n / (4 classes))`` of them, at least one,
    so that rare classes have enough samples of their own. 1 where the predictions follow clusters
    of the features; where their borders cut through dense regions it is less.
    """
    n = len(z)
    k = max(1, min(K_NEIGHBOURS, n // (4 * classes), n - 1))
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

    Args:
        evidence: the candidate whose accuracy is estimated.
        baseline: the evidence on source_only of the same run; None where there is none, then the
            candidate stands in for it if its method does not train on its own confidence.
        candidates: all candidates of the run, with or without these two.
    """
    why = _refusal(evidence, baseline)
    if why:
        return Estimate(None, None, None, {}, why)
    start = baseline or evidence
    held, trained = evidence.source_val, evidence.source_train
    assert held is not None
    assert held.y is not None
    y = held.y if trained is None or trained.y is None else torch.cat([held.y, trained.y])
    classes, prior = evidence.classes, class_shares(y, evidence.classes)
    predicted = evidence.target.logits.argmax(1)
    z, rows = evidence.target.z, evidence.target.rows
    seen = predicted[: len(z)] if rows is None else predicted[rows]
    n = len(predicted)
    value = (
        OFFSET
        + NEIGHBOURS * _odds(neighbour_agreement(z, seen, classes), classes)
        + SHARES * _odds(shares_fit(predicted, prior, len(y)), classes)
        + CONFIDENCE * _odds(average_confidence(_calibrated(start)), classes)
    )
    sampling = 1.0 / math.sqrt(n * expit(value) * (1 - expit(value)))
    half = Z90 * math.hypot(ERROR, sampling)
    low, middle, high = (_share(v, classes) for v in (value - half, value, value + half))
    return Estimate(middle, low, high, _parts(evidence, start, candidates, prior))


def _refusal(evidence: Evidence, baseline: Evidence | None) -> str:
    """Why nothing can be estimated of a candidate; empty where something can."""
    held = evidence.source_val
    if held is None or held.y is None:
        return (
            "Without labelled source validation samples there is nothing to measure confidence "
            "against; label some target samples to know the accuracy."
        )
    seen = [o.y for o in (held, evidence.source_train) if o is not None and o.y is not None]
    known = 1 + max(int(y.max()) for y in seen)
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


def _parts(
    evidence: Evidence, start: Evidence, candidates: Sequence[Evidence], prior: Tensor
) -> dict[str, float]:
    """The estimates of the literature, as far as the evidence allows."""
    held, before = evidence.source_val, start.source_val
    assert held is not None
    assert held.y is not None
    p = _calibrated(evidence)
    found = {"cot": confidence_transport(p, prior)}
    if not evidence.trains_on_confidence:
        p_v = _calibrated(evidence, held.logits)
        found |= {
            "average_confidence": average_confidence(p),
            "difference_of_confidences": difference_of_confidences(p, p_v, held.y),
            "atc": average_thresholded_confidence(p, p_v, held.y),
        }
    if before is not None and before.y is not None and start.name != evidence.name:
        p_t, p_v = _calibrated(start), _calibrated(start, before.logits)
        found["source_only_atc"] = average_thresholded_confidence(p_t, p_v, before.y)
        found["agreement_source_only"] = agreement(evidence.target.logits, start.target.logits)
    if evidence.twin is not None:
        found["agreement_seeds"] = agreement(evidence.target.logits, evidence.twin)
    others = [
        c for c in candidates if c.name not in (evidence.name, start.name) and not guard(c, start)
    ]
    if others:
        shares = [agreement(evidence.target.logits, c.target.logits) for c in others]
        found["agreement_candidates"] = float(np.median(shares))
    return found


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
    return logit(min(max(above, LEAST), MOST), 10**9)


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
