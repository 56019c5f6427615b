"""What a `Report` says in a terminal: plain lines, the verdict first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domadapt.regression import written
from domadapt.report.report import BASELINE, Candidate, Report


def summary(report: Report) -> str:
    """A few plain lines; where there is no verdict, the scores of every candidate."""
    how = "transductive" if report.task.get("transductive") else "inductive"
    head = f"{report.task['name']} ({how}), model kept: {report.chosen}"
    lines = _judged(report, head) if report.verdict is not None else [head, *_scores(report)]
    said, others = sorted_warnings(report)
    lines += [f"  Warning: {w}" for w in said]
    for name, found in others.items():
        what = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
        lines.append(f"  {what} about {name}, which is not kept: see the page.")
    return "\n".join(lines)


def estimate_in_words(estimate: Mapping[str, Any] | None) -> str:
    """An estimated accuracy with its 90 % interval in percent, or that there is none."""
    given = estimate or {}
    values = [given.get(key) for key in ("accuracy", "low", "high")]
    if any(value is None for value in values):
        return "not estimated"
    middle, low, high = (f"{100 * value:.0f}" for value in values if value is not None)
    return f"{middle} ({low} to {high})"


def overruled(report: Report) -> str:
    """That the run keeps another model than the verdict's, if it does."""
    chosen = (report.verdict or {}).get("chosen", report.chosen)
    if chosen == report.chosen:
        return ""
    instead = "source-only model" if chosen == BASELINE else f"model {chosen}"
    return (
        f"This run keeps {report.chosen} all the same, because it was told to keep an adapted "
        f"model; the verdict is for the {instead}."
    )


def refusals(report: Report) -> list[tuple[str, str]]:
    """Which candidates that may be chosen have no estimate, and why; a reason stands once."""
    why: dict[str, list[str]] = {}
    for c in report.ranked:
        refused = (c.estimate or {}).get("refused")
        if refused and not c.set_aside:
            why.setdefault(refused, []).append(c.name)
    return [(listed(names), reason) for reason, names in why.items()]


def sorted_warnings(report: Report) -> tuple[list[str], dict[str, list[str]]]:
    """The warnings that concern what is kept, and, by name, those on the other candidates.

    Without a verdict all are of the first kind: every candidate is the reader's to judge.
    """
    said: list[str] = []
    others: dict[str, list[str]] = {}
    names = [c.name for c in report.candidates if c.name != report.chosen]
    for warning in report.warnings:
        of = [n for n in names if warning.startswith((f"{n}: ", f"{n} "))]
        if report.verdict is None or not of:
            said.append(warning)
        else:
            others.setdefault(max(of, key=len), []).append(warning)
    return said, others


def listed(items: list[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _judged(report: Report, head: str) -> list[str]:
    """The verdict, a line for each candidate, and why."""
    verdict = report.verdict or {}
    scored = next((c.target for c in report.candidates if c.target is not None), None)
    lines = [verdict["sentence"], *filter(None, [overruled(report)]), head, *_table(report)]
    if scored is not None:
        lines.append(f"  {_measured(report, scored)}")
    else:
        lines.append(
            "  The target has no labels: its accuracy, and whether adapting helped, cannot be "
            "known; these are estimates."
        )
    lines += [f"  {sentence}" for sentence in verdict.get("because") or []]
    lines += [f"  No estimate for {names}: {why}" for names, why in refusals(report)]
    lines += [f"  {found['sentence']}" for found in verdict.get("findings") or []]
    left_out: Mapping[str, str] = verdict.get("left_out") or {}
    return [*lines, *(f"  {name} was left out: {why}" for name, why in left_out.items())]


def _table(report: Report) -> list[str]:
    """A line for each candidate, the best-ranked first."""
    labels = any(c.target is not None for c in report.candidates)
    rows = [("candidate", "estimate, 90 % interval", "true" if labels else "", "")]
    for c in report.ranked:
        known = f"{100 * c.target['accuracy']:.1f}" if c.target is not None else ""
        fate = "set aside" if c.set_aside else "kept" if c.name == report.chosen else ""
        rows.append((c.name, estimate_in_words(c.estimate), known, fate))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        f"  {name:<{widths[0]}}  {estimate:<{widths[1]}}  {true:>{widths[2]}}  {note}".rstrip()
        for name, estimate, true, note in rows
    ]


def _measured(report: Report, scored: Mapping[str, Any]) -> str:
    """What the target's labels say of the kept model, and of adapting."""
    kept = next(c for c in report.candidates if c.name == report.chosen)
    said = f"True accuracy: on {scored['n']:,} labelled target samples, after the choice"
    if kept.target is not None:
        said += f"; {kept.name} has macro F1 {kept.target['macro_f1']:.3f}"
        if kept.target.get("h_score") is not None:
            said += f", h score {kept.target['h_score']:.3f}"
    return said + (f"; {_gain(report)}." if report.gain() is not None else ".")


def _gain(report: Report) -> str:
    gain, after = report.gain(), report.adapted
    assert gain is not None
    assert after is not None
    if report.regression:
        more = "more" if gain < 0 else "less"
        return f"{after.name} against source-only: {written(abs(gain))} {more} error"
    return f"{after.name} against source-only: {100 * gain:+.1f} points"


def _scores(report: Report) -> list[str]:
    """The scores of all candidates."""
    width = max(len(c.name) for c in report.candidates)
    scored = [c for c in report.candidates if c.target is not None]
    lines = [f"  {c.name:<{width}}  {_score(c, report.regression)}" for c in scored]
    if report.gain() is not None:
        lines.append(f"  {_gain(report)}")
    if not scored:
        what = "the error on it" if report.regression else "its accuracy"
        lines.append(
            f"  The target has no labels: {what}, and whether adapting helped, cannot be known."
        )
    of = "error" if report.regression else "accuracy"
    lines.append(f"  Without target labels (no {of} on the target):")
    for c in report.candidates:
        found = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in c.label_free.items())
        lines.append(f"  {c.name:<{width}}  {found or 'not computed'}")
    return lines


def _score(candidate: Candidate, regression: bool) -> str:
    """The scores with target labels in a line."""
    target = candidate.target
    assert target is not None
    if regression:
        r2 = "undefined" if target["r2"] is None else f"{target['r2']:.3f}"
        return (
            f"target mean absolute error {written(target['mae'])}  (RMSE "
            f"{written(target['rmse'])}, R2 {r2}, {target['n']:,} samples)"
        )
    h_score = f", h score {target['h_score']:.3f}" if "h_score" in target else ""
    return (
        f"target accuracy {target['accuracy']:.3f}"
        f"  (macro F1 {target['macro_f1']:.3f}, {target['n']:,} samples){h_score}"
    )
