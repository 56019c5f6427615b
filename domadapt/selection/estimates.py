"""Target accuracy without target labels: the estimators of the literature, pure functions.

Each is a formula on logits or probabilities, in float64, and rests on an assumption that its
docstring names. None is right for every shift; `estimate_accuracy` weighs them against each other.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.selection.predictions import accuracy

Score = Literal["negative_entropy", "max_probability"]


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


def _score(p: Tensor, score: Score) -> Tensor:
    rows = p.double()
    return rows.amax(1) if score == "max_probability" else -torch.special.entr(rows).sum(1)


def _some(p: Tensor) -> None:
    if p.ndim != 2 or len(p) == 0:
        raise DomadaptError(
            f"An estimate needs outputs (n, classes) of at least one sample; got {tuple(p.shape)}."
        )
