"""What the page says of a verdict: the choice, its evidence, and how far to trust both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domadapt.report.report import Candidate, Report
from domadapt.report.summary import estimate_in_words, listed
from domadapt.selection.registry import Validator, validators

#: Estimates of the literature, as `domadapt.selection.estimates` calls them: name, how to read it.
_PARTS = {
    "transport": ("optimal transport (COT)", "needs classes as frequent as in the source"),
    "average_confidence": ("mean confidence", "mostly too high under a shift"),
    "difference_of_confidences": (
        "difference of confidences",
        "accuracy falls by as much as confidence does",
    ),
    "thresholded_confidence": ("thresholded confidence (ATC)", "above a threshold of the source"),
    "thresholded_confidence_source_only": (
        "the same of source-only",
        "for a network that did not adapt",
    ),
    "agreement_source_only": ("agreement with source-only", "what both say alike"),
    "agreement_seeds": ("agreement of two seeds", "too high where both err alike"),
    "vouched": ("agreement with another method", "the candidate that agrees most"),
}
_FINDINGS = {
    "label shift": "Other class shares",
    "missing classes": "Missing classes",
    "unknown samples": "Unknown samples",
}


@dataclass(frozen=True)
class Standing:
    """A line of the table of all candidates.

    Attributes:
        name: the candidate's.
        tags: what the run did with it: chosen, kept, set aside.
        estimate: its estimated accuracy with the interval.
        measured: its accuracy measured with labels, or a dash.
        score: of the rule that chose, or a dash.
        seconds: of its training.
        aside: whether it was set aside.
    """

    name: str
    tags: list[str]
    estimate: str
    measured: str
    score: str
    seconds: str
    aside: bool


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table of scores: a value for each candidate, and which are the largest."""

    name: str
    hint: str
    values: list[str]
    best: list[bool]
    fooled_by: str


def number(value: float | None) -> str:
    """A score as a reader would write it."""
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.01
    written = f"{value:.2g}" if small else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    return written.replace("-", "−")


def standings(report: Report) -> list[Standing]:
    """The candidates in the order of the verdict."""
    verdict = report.verdict or {}
    found = []
    for c in report.ranked:
        tags = ["chosen"] if c.name == verdict.get("chosen") else []
        # The same words twice would only make a reader look for the difference.
        tags += ["model kept"] if c.name == report.chosen and not tags else []
        tags += ["set aside"] if c.set_aside else []
        score = verdict.get("ranking", {}).get(c.name)
        found.append(
            Standing(
                name=c.name,
                tags=tags,
                estimate=estimate_in_words(c.estimate),
                measured="–" if c.target is None else f"{100 * c.target['accuracy']:.1f}",
                score="–" if score is None else f"{score:.2f}",
                seconds=f"{c.seconds:,.0f}",
                aside=bool(c.set_aside),
            )
        )
    return found


def held(report: Report) -> dict[str, bool]:
    """Of each candidate with both: whether its interval holds the accuracy measured with labels."""
    return {
        c.name: given["low"] <= c.target["accuracy"] <= given["high"]
        for c in report.ranked
        if c.target is not None and (given := c.estimate or {}).get("low") is not None
    }


def scores_table(candidates: Sequence[Candidate]) -> list[ScoreRow]:
    """Every validator's score of each candidate; the largest of each row is marked."""
    known = validators()
    names = dict.fromkeys(name for c in candidates for name in c.scores)
    order = sorted(names, key=lambda n: list(known).index(n) if n in known else len(known))
    return [_score_row(name, known.get(name), candidates) for name in order]


def _score_row(name: str, one: Validator | None, candidates: Sequence[Candidate]) -> ScoreRow:
    values = [c.scores.get(name) for c in candidates]
    finite = [v for v in values if v is not None and math.isfinite(v)]
    # The best of one, or of equals, says nothing.
    top = max(finite) if len(set(finite)) > 1 else None
    return ScoreRow(
        name=name.replace("_", " "),
        hint="" if one is None else one.what,
        values=[number(v) for v in values],
        best=[top is not None and v == top for v in values],
        fooled_by="" if one is None else one.fooled_by,
    )


def parts_table(candidates: Sequence[Candidate]) -> list[ScoreRow]:
    """What the estimates of the literature say of each candidate's accuracy."""
    given: list[Mapping[str, float]] = [(c.estimate or {}).get("parts") or {} for c in candidates]
    names = dict.fromkeys(name for parts in given for name in parts)
    order = sorted(names, key=lambda n: list(_PARTS).index(n) if n in _PARTS else len(_PARTS))
    rows = []
    for name in order:
        called, hint = _PARTS.get(name, (name.replace("_", " "), ""))
        values = [parts.get(name) for parts in given]
        written = ["–" if v is None else f"{100 * v:.0f} %" for v in values]
        rows.append(ScoreRow(called, hint, written, [False] * len(values), ""))
    return rows


def findings(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the target's classes have otherwise than the source's, with the numbers behind it."""
    return [
        {
            "title": _FINDINGS.get(found["kind"], str(found["kind"]).capitalize()),
            "sentence": found["sentence"],
            "numbers": [
                (key.replace("_", " of the "), _quantity(key, value))
                for key, value in (found.get("numbers") or {}).items()
            ],
        }
        for found in verdict.get("findings") or []
    ]


def _quantity(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if key == "classes" else f"{100 * value:.1f} %"


def calibration(report: Report) -> dict[str, Any] | None:
    """How the kept model's probabilities were made, and the class shares they assume."""
    given = (report.verdict or {}).get("calibration")
    if not given:
        return None
    shares = []
    if given.get("prior_s") and given.get("prior_t"):
        names = report.task["class_names"]
        shares = [
            (name, f"{100 * s:.1f} %", f"{100 * t:.1f} %")
            for name, s, t in zip(names, given["prior_s"], given["prior_t"], strict=False)
        ]
    errors = [given.get(key) for key in ("ece_before", "ece_after")]
    return {
        "trust": given["trust"],
        "temperature": f"{given['temperature']:.2f}",
        "errors": [f"{100 * e:.1f}" for e in errors if e is not None],
        "shares": shares,
    }


def provenance(report: Report) -> str:
    """By which rule and from what the model was chosen, in a sentence."""
    verdict = report.verdict or {}
    tried = listed([c.name for c in report.candidates])
    said = f"Chosen by rule {verdict.get('rule') or 'unknown'} among {tried}"
    if verdict.get("portfolio"):
        said += f" (--method auto, portfolio {verdict['portfolio']}, budget {verdict['budget']})"
    return said + "."
