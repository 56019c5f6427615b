"""The verdict on a run: which model to keep, by evidence without target labels, in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from domadapt.selection.choice import RULE, Choice, choose
from domadapt.selection.estimates import Estimate, estimate_accuracy
from domadapt.selection.evidence import Evidence
from domadapt.selection.guard import guard
from domadapt.selection.shift import Finding, detect_shift, target_shares

#: Estimates that differ by less are called alike.
NEAR = 0.01
#: How much lower the estimate of the only adapted candidate may be, as these are rough.
LOWER = 0.05
#: Half the summed difference of two models' class shares from which on a caution is due.
DISAGREE = 0.2


@dataclass(frozen=True)
class Verdict:
    """Which candidate to keep, and why.

    Attributes:
        chosen: its name.
        sentence: the verdict for someone who reads nothing else.
        because: the evidence in sentences.
        ranking: the score of each candidate that may be chosen, best first.
        set_aside: why others may not, by name.
        estimates: the estimated target accuracy of each candidate, by name.
        findings: kinds of shift that the evidence shows.
        prior_t: the target's class shares, where a label shift was found.
        baseline: the candidate without adaptation.
        rule: the version of the rule that chose.
    """

    chosen: str
    sentence: str
    because: list[str]
    ranking: dict[str, float]
    set_aside: dict[str, list[str]]
    estimates: dict[str, Estimate]
    findings: list[Finding] = field(default_factory=list)
    prior_t: Tensor | None = None
    baseline: str = ""
    rule: str = RULE

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it."""
        held = dataclasses.replace(self, prior_t=None)
        shares = None if self.prior_t is None else self.prior_t.tolist()
        return {**dataclasses.asdict(held), "prior_t": shares}


def judge(
    candidates: Sequence[Evidence],
    baseline: str,
    class_names: Sequence[str],
    stopped: Mapping[str, str] | None = None,
) -> Verdict:
    """Choose among the candidates of a run, of which `baseline` is the one without adaptation.

    Args:
        candidates: their evidence, on the same target samples.
        baseline: the name of the candidate that is kept where no other is safely better.
        class_names: the classes, for sentences.
        stopped: why the training of a candidate ended early, by name; it is set aside.
    """
    before = next(e for e in candidates if e.name == baseline)
    set_aside = _set_aside(candidates, before, stopped or {})
    passed = [e for e in candidates if e.name not in set_aside]
    choice = choose(passed, baseline)
    set_aside |= {name: [reason] for name, reason in choice.unsafe.items()}
    estimates = {e.name: estimate_accuracy(e, before, candidates) for e in candidates}
    ranking, doubt = choice.ranking, ""
    if len(ranking) == 2:
        doubt = _doubt(next(iter(ranking)), baseline, estimates)
        if doubt:
            ranking = {name: ranking[name] for name in reversed(ranking)}
    chosen = next(e for e in passed if e.name == next(iter(ranking)))
    findings = detect_shift(before, chosen, class_names)
    shifted = any(found.kind == "label shift" for found in findings)
    return Verdict(
        chosen=chosen.name,
        sentence=_sentence(chosen.name, baseline, estimates, len(candidates)),
        because=[
            *([doubt] if doubt else _because(chosen.name, baseline, choice)),
            *_frequencies(before, chosen, class_names),
            *(f"{n} was set aside: {'; '.join(reasons)}." for n, reasons in set_aside.items()),
        ],
        ranking=ranking,
        set_aside=set_aside,
        estimates=estimates,
        findings=findings,
        prior_t=target_shares(chosen)[0] if shifted else None,
        baseline=baseline,
    )


def _set_aside(
    candidates: Sequence[Evidence], before: Evidence, stopped: Mapping[str, str]
) -> dict[str, list[str]]:
    """The adapted candidates that must not be chosen, with the reasons of the guard."""
    found = {}
    for evidence in candidates:
        reasons = guard(evidence, before)
        if stopped.get(evidence.name):
            reasons.insert(0, f"its training was stopped early: {stopped[evidence.name]}")
        if reasons and evidence.name != before.name:
            found[evidence.name] = reasons
    return found


def in_words(estimate: Estimate | None) -> str:
    """An estimated accuracy with its interval."""
    if estimate is None or estimate.accuracy is None:
        return "unknown"
    assert estimate.low is not None
    assert estimate.high is not None
    return (
        f"about {100 * estimate.accuracy:.0f} % (90 % interval {100 * estimate.low:.0f} to "
        f"{100 * estimate.high:.0f} %)"
    )


def _sentence(chosen: str, baseline: str, estimates: Mapping[str, Estimate], tried: int) -> str:
    before, after = estimates[baseline], estimates[chosen]
    if tried == 1:
        return f"Only {baseline} was trained; its estimated target accuracy is {in_words(before)}."
    if chosen == baseline:
        return (
            f"Keep the source-only model: no adapted candidate is safely better. Its estimated "
            f"target accuracy is {in_words(before)}."
        )
    if after.accuracy is None:
        return (
            f"Use the adapted model ({chosen}). Its target accuracy is not known: {after.refused}"
        )
    said = (
        f"Use the adapted model ({chosen}): estimated target accuracy {in_words(after)}, against "
        f"{in_words(before)} of the source-only model."
    )
    if before.accuracy is None or after.accuracy > before.accuracy + NEAR:
        return said
    # The choice rests on more than the estimates, and these are rough.
    return f"{said} The two estimates do not tell them apart: expect no large difference."


def _doubt(alone: str, baseline: str, estimates: Mapping[str, Estimate]) -> str:
    """Why the one adapted candidate that is left is not safely better; empty where it may be."""
    after, before = estimates[alone].accuracy, estimates[baseline].accuracy
    if after is None or before is None or after >= before - LOWER:
        return ""
    return (
        f"{alone} is expected to be right on {100 * after:.0f} % of the target, {baseline} on "
        f"{100 * before:.0f} %, and there is no other candidate to ask."
    )


def _frequencies(before: Evidence, chosen: Evidence, class_names: Sequence[str]) -> list[str]:
    """A caution where both models disagree on how frequent the classes of the target are.

    Methods and rule alike lean towards classes as frequent as in the source.
    """
    shares = [e.p.mean(0) for e in (before, chosen)]
    if before.name == chosen.name or float((shares[1] - shares[0]).abs().sum()) / 2 < DISAGREE:
        return []
    most = int((shares[1] - shares[0]).abs().argmax())
    name = class_names[most] if most < len(class_names) else str(most)
    return [
        f"Caution: {before.name} and {chosen.name} disagree on how frequent the classes are "
        f"({name}: {100 * shares[0][most]:.0f} % and {100 * shares[1][most]:.0f} % of the target). "
        "If the target's classes are not about as frequent as the source's, the choice may be "
        "wrong: look at a few dozen target samples."
    ]


def _because(chosen: str, baseline: str, choice: Choice) -> list[str]:
    """The evidence in sentences."""
    said = []
    if chosen != baseline:
        said.append(
            f"{chosen} still decides like {baseline} where that is sure of itself "
            f"({100 * choice.kept[chosen]:.0f} % of its confidence): it has built on it."
        )
    others = [name for name in choice.ranking if name != chosen]
    if len(choice.ranking) > 2:
        said.append(
            f"Of those that may be chosen, {chosen} answers most surely over the most classes and "
            f"in agreement with the others: score {choice.ranking[chosen]:.2f}, next "
            f"{others[0]} with {choice.ranking[others[0]]:.2f}."
        )
    elif chosen != baseline:
        said.append(f"Nothing speaks against it; {baseline} alone remains to compare it with.")
    return said
