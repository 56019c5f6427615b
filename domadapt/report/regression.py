"""What the page of a regression shows in place of classes: predicted against true values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.regression import written
from domadapt.report.drawing import INK, PANEL, blank, colour_of, dress, legend, plain
from domadapt.report.report import BASELINE, Candidate, Report

#: Outputs that are drawn; the table has the numbers of all.
MAX_DRAWN = 4
_SPLITS = {"source_val": "source validation", "target_test": "target"}


@dataclass(frozen=True)
class Row:
    """A line of the table of candidates: what is measured, how to read it, a value for each."""

    name: str
    hint: str
    values: list[str]


def per_output(found: Sequence[Candidate]) -> list[tuple[str, list[Row]]]:
    """The errors of each output, where there are several."""
    scored: list[dict[str, Any]] = next(
        (c.target["per_output"] for c in found if c.target and "per_output" in c.target), []
    )
    groups = []
    for j, output in enumerate(scored if len(scored) > 1 else []):
        rows = []
        for key, name in (("mae", "mean absolute error"), ("rmse", "RMSE"), ("r2", "R2")):
            each = [c.target["per_output"][j][key] if c.target else None for c in found]
            if key == "r2":
                values = ["–" if v is None else f"{v:.3f}" for v in each]
            else:
                values = [written(v) for v in each]
            rows.append(Row(name, "", values))
        groups.append((output["name"], rows))
    return groups


def _column(candidate: Candidate, split: str, j: int) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true) of one output."""
    kept = candidate.values[split]
    return np.array(kept["predicted"])[:, j], np.array(kept["true"])[:, j]


def _handles(candidates: Sequence[Candidate], others: Sequence[Candidate]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour_of(c, others), linewidth=2, label=plain(c.name))
        for c in candidates
    ]


def predicted_against_true(
    candidates: Sequence[Candidate], split: str, j: int, title: str
) -> Figure:
    """Predicted over true values of output `j`, a dot per sample; on the line both are equal.

    Args:
        candidates: those to draw: source_only as circles, others as crosses.
        split: ``source_val`` or ``target_test``.
        j: number of the output.
        title: of the panel.
    """
    figure = blank(PANEL[0], PANEL[1] + 0.5)
    ax = figure.subplots()
    low, high = np.inf, -np.inf
    for c in candidates:
        predicted, true = _column(c, split, j)
        base = c.method == BASELINE
        ax.plot(
            true,
            predicted,
            linestyle="none",
            marker="o" if base else "x",
            markersize=3.4,
            markeredgewidth=0 if base else 0.9,
            color=colour_of(c, candidates),
            alpha=0.55,
        )
        low = min(low, float(true.min()), float(predicted.min()))
        high = max(high, float(true.max()), float(predicted.max()))
    ax.plot([low, high], [low, high], color=INK, linewidth=0.9, alpha=0.5)
    dress(ax, plain(title, 40))
    ax.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
    ax.set(xlabel="true", ylabel="predicted")
    legend(figure, _handles(candidates, candidates), 3, loc="outside lower left")
    return figure


def residuals(candidates: Sequence[Candidate], split: str, j: int, title: str) -> Figure:
    """Histogram of ``predicted - true`` of output `j`; arguments as `predicted_against_true`."""
    figure = blank(*PANEL)
    ax = figure.subplots()
    errors = [np.subtract(*_column(c, split, j)) for c in candidates]
    everything = np.concatenate(errors)
    edges = np.histogram_bin_edges(everything, bins=24)
    for c, error in zip(candidates, errors, strict=True):
        counts, _ = np.histogram(error, edges)
        colour, share = colour_of(c, candidates), 100 * counts / len(error)
        ax.stairs(share, edges, fill=True, color=colour, alpha=0.2)
        ax.stairs(share, edges, color=colour, linewidth=1.6)
    ax.axvline(0, color=INK, linewidth=0.9, alpha=0.5)
    dress(ax, plain(title, 40))
    ax.set(xlabel="predicted - true", ylabel="% of samples")
    legend(figure, _handles(candidates, candidates), 3, loc="outside lower left")
    return figure


def value_panels(
    report: Report, shown: Sequence[Candidate], draw: Callable[[Figure, str], Markup]
) -> list[dict[str, Any]]:
    """For each split whose true values are known, the figures of its first outputs."""
    names = report.task["class_names"]
    found = []
    for split, called in _SPLITS.items():
        drawn = [c for c in shown if split in c.values]
        figures = []
        for j, name in enumerate(names[:MAX_DRAWN] if drawn else []):
            said = []
            for c in drawn:
                error = np.subtract(*_column(c, split, j))
                said.append(
                    f"{c.name} with mean absolute error {written(float(np.abs(error).mean()))} "
                    f"and mean error {written(float(error.mean()))}"
                )
            words = f"{name}, {called}: {'; '.join(said)}."
            scatter = predicted_against_true(drawn, split, j, f"{name}, {called}")
            histogram = residuals(drawn, split, j, f"errors of {name}, {called}")
            figures.append(draw(scatter, f"Predicted against true values of {words}"))
            figures.append(draw(histogram, f"Histogram of the errors of {words}"))
        if figures:
            found.append(
                {"name": called, "figures": figures, "n": len(drawn[0].values[split]["true"])}
            )
    return found
