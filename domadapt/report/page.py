"""The page of a run: one HTML file that needs nothing else, drawn from its `Report` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from domadapt.doctor.findings import alignment
from domadapt.regression import written
from domadapt.report import curves, drawing, figures, layers, maps, trust
from domadapt.report.regression import Row, per_output, value_panels
from domadapt.report.report import BASELINE, Candidate, Report
from domadapt.report.summary import estimate_in_words, listed, overruled, refusals, sorted_warnings

#: Key in a Candidate, name, how to read it, and how it is written.
_TARGET = (
    ("accuracy", "accuracy", "share of samples classified rightly", "share"),
    ("macro_f1", "macro F1", "mean F1 of the classes", "share"),
    ("per_class_mean", "per-class mean", "mean recall of the classes", "share"),
    ("auroc", "AUROC", "one class against the rest; 50 % is chance", "share"),
    ("known_accuracy", "known accuracy", "on samples of the source's classes", "share"),
    ("unknown_accuracy", "unknown accuracy", "of other samples, those called unknown", "share"),
    ("h_score", "H-score", "harmonic mean of the two above", "share"),
    ("mae", "mean absolute error", "in the units of the labels", "value"),
    ("rmse", "RMSE", "root of the mean squared error", "value"),
    ("r2", "R2", "1 is perfect, 0 as good as always predicting the mean", "number"),
    ("spearman", "rank correlation", "Spearman's; 1 where the order is right", "number"),
    ("n", "scored samples", "", "count"),
)
_LABEL_FREE = {
    "source_val_accuracy": (
        "source validation accuracy",
        "on the source, not on the target",
        "share",
    ),
    "source_val_mae": (
        "source validation error",
        "mean absolute error on the source, not on the target",
        "value",
    ),
    "source_val_r2": ("source validation R2", "on the source, not on the target", "number"),
    "entropy": (
        "entropy of a prediction",
        "nats; 0 is certain, of right and wrong alike",
        "number",
    ),
    "information_maximisation": (
        "information maximisation",
        "nats; high where predictions are certain and varied",
        "number",
    ),
    "effective_classes": (
        "effective classes",
        "of {k}: how many the predictions spread over",
        "number",
    ),
}
_SHIFT = {
    "proxy_a_distance": (
        "proxy A-distance",
        "0: domains cannot be told apart; 2: always",
        "number",
    ),
    "mmd": ("squared MMD", "0 on average for one distribution", "number"),
}


def _write(value: Any, how: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if how == "share":
        return f"{100 * value:.1f} %"
    if how == "value":
        return written(value)
    return f"{value:,}" if how == "count" else f"{value:.3f}"


def setting_in_words(value: Any) -> str:
    """A setting as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {setting_in_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(setting_in_words(v) for v in value) or "none"
    return str(value)


def _groups(report: Report, found: Sequence[Candidate]) -> list[tuple[str, list[Row]]]:
    """The table of candidates, transposed: it has few columns and fits a narrow screen."""
    k = len(report.task["class_names"])

    def rows(attribute: str, known: Mapping[str, tuple[str, str, str]]) -> list[Row]:
        keys = list(dict.fromkeys(key for c in found for key in getattr(c, attribute)))
        # What stands among the scores of the validators, with another sign, is not said twice.
        keys = [key for key in keys if not any(key in c.scores for c in found)]
        keys.sort(key=lambda key: list(known).index(key) if key in known else len(known))
        lines = []
        for key in keys:
            name, hint, how = known.get(key, (key.replace("_", " "), "", "number"))
            values = [_write(getattr(c, attribute).get(key), how) for c in found]
            lines.append(Row(name, hint.format(k=k), values))
        return lines

    target = [
        Row(name, hint, [_write((c.target or {}).get(key), how) for c in found])
        for key, name, hint, how in _TARGET
        if any((c.target or {}).get(key) is not None for c in found)
    ]
    groups = [
        ("On the target, with its labels", target),
        *((f"On the target: {name}", lines) for name, lines in per_output(found)),
        ("Without target labels", rows("label_free", _LABEL_FREE)),
        ("Distance of the domains, in the features", rows("shift", _SHIFT)),
        ("Training", [Row("time", "seconds", [f"{c.seconds:,.0f}" for c in found])]),
    ]
    return [(name, lines) for name, lines in groups if lines]


def _mistakes(target: Mapping[str, Any], names: Sequence[str], most: int = 5) -> list[str]:
    """The most frequent wrong predictions in words."""
    counts = np.array(target["confusion"])
    total = counts.sum(1)
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(o) // len(counts), int(o) % len(counts)) for o in order]
    return [
        f"{names[i]} taken for {names[j]}: {wrong[i, j]:,} of {total[i]:,}"
        for i, j in pairs
        if wrong[i, j]
    ]


class _Drawer:
    """Figures as inline SVG, each under an id of its own and with words for those who see none."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, figure: Figure, words: str) -> Markup:
        self.count += 1
        svg = drawing.to_svg(figure, f"f{self.count}")
        # Safe: to_svg escapes every text, and the label is escaped here.
        return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1))


def _curves(candidates: Sequence[Candidate], draw: _Drawer) -> list[Markup]:
    drawn = []
    for term in curves.loss_terms(candidates):
        parts = []
        for c in candidates:
            known = [v for v in c.history.get(term, []) if math.isfinite(v)]
            if known:
                parts.append(f"{c.name} from {known[0]:.3g} to {known[-1]:.3g}")
        words = f"Learning curve of the {curves.title_of(term)}: {'; '.join(parts) or 'no value'}."
        drawn.append(draw(curves.learning_curve(candidates, term), words))
    return drawn


def _latest(candidate: Candidate, key: str) -> float | None:
    known = [v for v in candidate.history.get(key, []) if math.isfinite(v)]
    return known[-1] if known else None


_ACCURACY = "doctor/discriminator_accuracy/"


def _diagnosis(report: Report, found: Sequence[Candidate], draw: _Drawer) -> list[Markup]:
    """What the doctor measured, a panel for each thing that any candidate has."""
    # It looks at the network in training, which has no output "unknown" yet.
    k = len(report.task["class_names"]) - bool(report.task.get("open_set"))
    judged = list(dict.fromkeys(n for c in found for n in c.history if n.startswith(_ACCURACY)))
    panels: tuple[tuple[list[str], str, float | None, tuple[float, str] | None], ...] = (
        (["doctor/adaptation_share"], "adaptation's share of the gradient", 1.02, None),
        (judged, "discriminator's accuracy", 1.02, (0.5, "chance")),
        (["doctor/effective_classes"], "effective classes, target", 1.05 * k, (k, "all classes")),
        (["doctor/batchnorm_gap"], "domains apart at BatchNorm", None, None),
    )
    drawn = []
    for keys, title, top, level in panels:
        said = [
            f"{c.name} {value:.3g} at the last examination"
            for c in found
            for key in keys
            if (value := _latest(c, key)) is not None
        ]
        if said:
            figure = curves.diagnosis_curve(found, keys, title, top, level)
            drawn.append(draw(figure, f"Diagnosis, {title}: {'; '.join(said)}."))
    return drawn


def _alignments(candidates: Sequence[Candidate]) -> list[str]:
    """The discriminators' last accuracies beside the distance that a fresh classifier finds."""
    lines = []
    for c in candidates:
        found = [_latest(c, key) for key in c.history if key.startswith(_ACCURACY)]
        known = [v for v in found if v is not None]
        if known and "proxy_a_distance" in c.shift:
            line = alignment(sum(known) / len(known), c.shift["proxy_a_distance"])
            lines.append(f"{c.name}: {line}")
    return lines


def _weights(candidates: Sequence[Candidate]) -> list[str]:
    """How the weight of each adaptation term went over the steps."""
    lines = []
    adapted = [c for c in candidates if c.method != BASELINE]
    for c in candidates:
        of = f" in {c.name}" if len(adapted) > 1 else ""
        for key, values in c.history.items():
            known = [v for v in values if math.isfinite(v)]
            if not key.startswith("weight/") or key == "weight/source" or not known:
                continue
            first, last = f"{known[0]:.3g}", f"{known[-1]:.3g}"
            course = first if first == last else f"{first} at the first step, {last} at the last"
            lines.append(f"{key.removeprefix('weight/')}{of}: {course}")
    return lines


def _maps(report: Report, draw: _Drawer, shown: Sequence[Candidate]) -> list[dict[str, Any]]:
    names = report.task["fifths"] if report.regression else report.task["class_names"]
    found = []
    for c in shown:
        e = c.embedding
        if e is None:
            continue
        when = "before adaptation" if c.method == BASELINE else "after adaptation"
        numbers = [
            f"{_SHIFT[key][0]} {_write(c.shift[key], 'number')}" for key in _SHIFT if key in c.shift
        ]
        if c.target is not None and report.regression:
            numbers.append(f"mean absolute error on the target {written(c.target['mae'])}")
        elif c.target is not None:
            numbers.append(f"target accuracy {_write(c.target['accuracy'], 'share')}")
        drawn = []
        for by in ("domain", "value" if report.regression else "class"):
            words = f"t-SNE map of the features of {c.name}, {when}, coloured by {by}."
            panel = maps.embedding_panel(e, names, by, f"by {by}")
            drawn.append(draw(panel, words))
        found.append(
            {
                "name": c.name,
                "when": when,
                "numbers": numbers,
                "figures": drawn,
                "true": maps.target_is_true(e),
                "embedding": e,
            }
        )
    return found


def _per_class(
    before: Candidate | None, after: Candidate, names: Sequence[str], draw: _Drawer
) -> Any:
    """The figure of the classes' accuracies; None where the target has no labels."""
    if after.target is None:
        return None
    old = before.target["per_class"] if before and before.target and before is not after else None
    new = after.target["per_class"]
    known = [(v, n) for v, n in zip(new, names, strict=True) if v is not None]
    (low, worst), (high, best) = min(known), max(known)
    words = (
        f"Target accuracy of each class with {after.name}: lowest {worst} with {100 * low:.0f} %, "
        f"highest {best} with {100 * high:.0f} %."
    )
    labels = (before.name if before else BASELINE, after.name)
    return draw(figures.per_class_accuracy(old, new, names, labels), words)


def _confusions(
    shown: Sequence[Candidate], names: Sequence[str], draw: _Drawer
) -> list[dict[str, Any]]:
    drawn = []
    for c in shown:
        if c.target is None:
            continue
        mistakes = _mistakes(c.target, names)
        most = "; ".join(mistakes) or "none"
        words = f"Confusion matrix of {c.name}. Most frequent mistakes: {most}."
        figure = figures.confusion(c.target["confusion"], names, drawing.plain(c.name))
        drawn.append({"name": c.name, "figure": draw(figure, words), "mistakes": mistakes})
    return drawn


def _layers(report: Report, draw: _Drawer) -> dict[str, Any] | None:
    """The analysis of the blocks: its sentence and its panels; None where none was asked for."""
    data = report.layers
    if data is None:
        return None
    blocks = data["blocks"]
    drawn = [
        draw(
            layers.panel_figure(blocks, title, axis, lines, factor),
            layers.in_words(blocks, title, lines, factor),
        )
        for title, axis, lines, factor in layers.panels(data)
    ]
    return {"sentence": layers.sentence(data), "figures": drawn}


def _confidences(shown: Sequence[Candidate], draw: _Drawer) -> list[Markup]:
    with_shares = [c for c in shown if c.confidence]
    top = max((100 * max(v) for c in with_shares for v in c.confidence.values()), default=100.0)
    drawn = []
    for c in with_shares:
        sure = [
            f"{100 * sum(v[-len(v) // 10 :]):.0f} % of {key.replace('_val', ' validation')}"
            for key, v in c.confidence.items()
        ]
        words = f"Confidence of {c.name}: above 0.9 for {' and '.join(sure)} samples."
        figure = figures.confidence_histogram(c.confidence, drawing.plain(c.name), 1.04 * top)
        drawn.append(draw(figure, words))
    return drawn


def _settings(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    task = {k: v for k, v in report.task.items() if k not in ("notes", "class_names", "fifths")}
    if report.regression:
        task["outputs"] = report.task["class_names"]
    else:
        task["classes"] = len(report.task["class_names"]) - bool(task.get("open_set"))
    method = next(c.method for c in report.candidates if c.name == report.chosen)
    tables = {
        "Task": task,
        "Model": report.model,
        f"Method: {method}": report.method,
        "Training": report.training,
        "Versions": report.versions,
    }
    return [
        (name, [(str(k).replace("_", " "), setting_in_words(v)) for k, v in values.items()])
        for name, values in tables.items()
        if values
    ]


def _tied(sentence: str) -> str:
    """A sentence in which no line ends between a number and its percent sign."""
    return sentence.replace(" %", "\u00a0%")


def _estimates(report: Report, draw: _Drawer) -> Markup:
    """The figure of the estimated accuracies."""
    verdict = report.verdict or {}
    chosen = verdict.get("chosen", report.chosen)
    said = []
    for c in report.ranked:
        words = estimate_in_words(c.estimate)
        line = f"{c.name} {words if words == 'not estimated' else words + ' %'}"
        line += f", measured {100 * c.target['accuracy']:.1f} %" if c.target is not None else ""
        line += ", chosen" if c.name == chosen else ", set aside" if c.set_aside else ""
        said.append(line)
    figure = figures.accuracy_estimates(report.ranked, chosen)
    return draw(figure, f"Estimated target accuracy with 90 % interval: {'; '.join(said)}.")


def _trust(report: Report, draw: _Drawer) -> dict[str, Any] | None:
    """What the page says of the verdict; None where there is none."""
    verdict = report.verdict
    if verdict is None:
        return None
    held = trust.held(report)
    missed = [name for name, holds in held.items() if not holds]
    return {
        "sentence": verdict["sentence"],
        "overruled": overruled(report),
        "figure": _estimates(report, draw),
        "because": verdict.get("because") or [],
        "refusals": refusals(report),
        "standings": trust.standings(report),
        "missed": listed(missed) if missed else "",
        "missed_one": len(missed) == 1,
        "all_held": bool(held) and not missed,
        "provenance": trust.provenance(report),
        "left_out": verdict.get("left_out") or {},
        "findings": trust.findings(verdict),
        "calibration": trust.calibration(report),
        "ranked": report.ranked,
        "scores": trust.scores_table(report.ranked),
        "parts": trust.parts_table(report.ranked),
    }


def render(report: Report) -> str:
    """The page of `report` as HTML: inline styles and figures, no script, no network.

    Figures and measurements show the source-only candidate and the adapted one (see
    `Report.adapted`). The verdict, its tables, and, to unfold, the curves show all candidates.
    """
    before, after = report.baseline, report.adapted
    shown = [c for c in (before, after) if c is not None]
    others = [c for c in report.ranked if c not in shown]
    # In this order everywhere, so that a candidate has one colour.
    everyone = [*shown, *others]
    compared = shown if report.verdict is not None else report.candidates
    chosen = next(c for c in report.candidates if c.name == report.chosen)
    names = report.task["class_names"]
    warnings, other_warnings = sorted_warnings(report)
    draw = _Drawer()
    environment = Environment(
        loader=PackageLoader("domadapt", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    main = after or chosen
    page = "regression.html.j2" if report.regression else "page.html.j2"
    environment.filters["written"] = written
    environment.filters["tied"] = _tied
    return environment.get_template(page).render(
        report=report,
        task=report.task,
        chosen=chosen,
        before=before,
        after=after,
        compared=compared,
        warnings=warnings,
        other_warnings=other_warnings,
        trust=_trust(report, draw),
        gain=report.gain(),
        scored=next((c.target for c in report.candidates if c.target is not None), None),
        groups=_groups(report, compared),
        tiles=_tiles(shown or [chosen], len(names)),
        curves=_curves(shown, draw),
        weights=_weights(shown),
        other_curves=_curves(everyone, draw) if others else [],
        other_weights=_weights(others),
        diagnosis=_diagnosis(report, shown, draw),
        alignments=_alignments(shown),
        findings=sum(len(c.warnings) for c in shown),
        other_diagnosis=_diagnosis(report, everyone, draw) if others else [],
        other_findings=[f"{c.name}: {line}" for c in others for line in c.warnings],
        maps=_maps(report, draw, shown),
        values=value_panels(report, shown, draw),
        per_class=None if report.regression else _per_class(before, main, names, draw),
        # Two large matrices side by side would be too small to read.
        confusions=[]
        if report.regression
        else _confusions(shown if len(names) <= drawing.MAX_ANNOTATED else [main], names, draw),
        large=len(names) > drawing.MAX_ANNOTATED,
        confidences=_confidences(shown, draw),
        layers=_layers(report, draw),
        settings=_settings(report),
    )


def _tiles(shown: Sequence[Candidate], k: int) -> list[Row]:
    """The label-free scores, for the head of a page without target labels."""
    return [
        Row(name, hint.format(k=k), [_write(c.label_free.get(key), how) for c in shown])
        for key, (name, hint, how) in _LABEL_FREE.items()
        if any(key in c.label_free for c in shown)
    ]
