"""The rule that chooses among candidates without target labels.

Two things go wrong when a candidate is chosen by how sure it is: one that found arbitrary clusters
is as sure as one that found the classes, and both can look better than they are. What tells them
apart is what the network knew before. A good candidate goes on saying what source_only said rightly
and differs where that was wrong, so it keeps a large part of it; one that found other clusters
contradicts right and wrong alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from domadapt.selection.evidence import Evidence
from domadapt.selection.predictions import mutual_information

#: The version of the rule and of its constants, which were chosen on digits and HAR tasks.
RULE = "1"
#: The least share of source_only's confident predictions that a candidate keeps, as a multiple of
#: the median over the adapted candidates.
KEPT_OF_MEDIAN = 0.8
#: The same where there are too few candidates for a median, absolute.
KEPT_ALONE = 0.5
#: From how many adapted candidates on their median says something.
ENOUGH = 3
#: What agreement with the most similar candidates counts beside information maximisation.
AGREEMENT = 0.5


@dataclass(frozen=True)
class Choice:
    """What the rule makes of the candidates that the guard let pass.

    Attributes:
        ranking: scores by name, best first; larger is better. The first is chosen.
        unsafe: why others are not, by name.
        kept: the share of the baseline's confident predictions that each one keeps, by name.
        information: `information_maximisation` over log(classes), in [0, 1], by name.
        agreement: mean agreement with the most similar other candidates, by name.
    """

    ranking: dict[str, float]
    unsafe: dict[str, str]
    kept: dict[str, float]
    information: dict[str, float]
    agreement: dict[str, float]


def choose(candidates: Sequence[Evidence], baseline: str) -> Choice:
    """Rank candidates, of which `baseline` is the one without adaptation.

    1. Candidates that keep too little of the baseline are unsafe (`kept`): less than 0.8 of the
       median over the adapted ones; with one or two of them, less than half.
    2. One adapted candidate that is left is chosen: nothing speaks against it.
    3. Of several, and the baseline, the largest ``I + 0.5 A`` is: ``I = (H(mean p) - mean H(p)) /
       log(classes)`` and A the mean agreement of decisions with the most similar candidates, a
       sixth of them and at least two. What differently trained candidates say alike is more
       probably so.
    """
    before = next(e for e in candidates if e.name == baseline)
    adapted = [e for e in candidates if e.name != baseline]
    decided = {e.name: e.target.logits.argmax(1) for e in candidates}
    shares = {e.name: kept(before, e) for e in candidates}
    least = KEPT_ALONE
    if len(adapted) >= ENOUGH:
        found = sorted(shares[e.name] for e in adapted)
        middle = len(found) // 2
        median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
        least = KEPT_OF_MEDIAN * median
    unsafe = {
        e.name: f"it contradicts {100 * (1 - shares[e.name]):.0f} % of what {baseline} is "
        f"confident of, more than the {100 * (1 - least):.0f} % that are let pass"
        for e in adapted
        if shares[e.name] < least
    }
    safe = [e for e in candidates if e.name not in unsafe]
    information = {e.name: mutual_information(e.target.logits) / math.log(e.classes) for e in safe}
    agreement = nearest_agreement({e.name: decided[e.name] for e in safe})
    scores = {e.name: information[e.name] + AGREEMENT * agreement[e.name] for e in safe}
    # Of equal ones the baseline is kept; the order in which candidates are given decides nothing.
    order = sorted(scores, key=lambda name: (-scores[name], name != baseline, name))
    if len(safe) == 2:
        # Nothing to compare the one adapted candidate with but what it began from.
        order.sort(key=lambda name: name == baseline)
    return Choice({n: scores[n] for n in order}, unsafe, shares, information, agreement)


def kept(baseline: Evidence, candidate: Evidence) -> float:
    """The share of the baseline's confidence that lies where the candidate decides alike.

    ``sum_i c_i [y_i = b_i] / sum_i c_i`` over target samples, with b the baseline's decisions, y
    the candidate's, and c the baseline's largest probabilities; in [0, 1].
    """
    confidence, said = baseline.p.max(1)
    same = (candidate.target.logits.argmax(1) == said).double()
    return float((confidence * same).sum() / confidence.sum())


def nearest_agreement(decided: dict[str, Tensor]) -> dict[str, float]:
    """Mean agreement of each candidate's decisions with those of the most similar others.

    A sixth of all candidates and at least two, or as many as there are; 1 for one alone.
    """
    names = list(decided)
    if len(names) == 1:
        return {names[0]: 1.0}
    said = torch.stack([decided[name] for name in names])
    same = torch.stack([(said == one).double().mean(1) for one in said])
    same.fill_diagonal_(-1.0)
    nearest = min(max(2, round(len(names) / 6)), len(names) - 1)
    means = same.topk(nearest, dim=1).values.mean(1).tolist()
    return dict(zip(names, means, strict=True))
