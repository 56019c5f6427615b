"""Learning curves and the doctor's, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.drawing import INK, PANEL, blank, colour_of, dress, legend, plain
from domadapt.report.report import Candidate


def title_of(term: str) -> str:
    """The heading of a panel: ``loss/source`` is the "source loss"."""
    return f"{term.removeprefix('loss/').replace('_', ' ')} loss"


def _thin(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` means of neighbouring values."""
    size = math.ceil(len(values) / most)
    padded = np.pad(values.astype(float), (0, -len(values) % size), constant_values=np.nan)
    thinned: np.ndarray = np.nanmean(padded.reshape(-1, size), axis=1)
    return thinned


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a twentieth of the points."""
    kernel = np.ones(max(1, len(values) // 20 // 2 * 2 + 1))
    total = np.convolve(values, kernel, "same")
    smooth: np.ndarray = total / np.convolve(np.ones(len(values)), kernel, "same")
    return smooth


def loss_terms(candidates: Sequence[Candidate]) -> list[str]:
    """The loss terms that any candidate logged, the source loss first."""
    terms = {k for c in candidates for k in c.history if k.startswith("loss/")}
    return sorted(terms, key=lambda k: (k != "loss/source", k))


def _draw_curve(ax: Axes, candidates: Sequence[Candidate], term: str) -> None:
    low, high = math.inf, 0.0
    for c in candidates:
        if not c.history.get(term) or not c.history.get("step"):
            continue
        steps, raw = np.array(c.history["step"]), np.array(c.history[term])
        # A term that was not logged at each step is drawn through the steps where it was.
        known = np.isfinite(raw)
        if not known.any():
            continue
        steps, raw = _thin(steps[known], 400), _thin(raw[known], 400)
        line = _smooth(raw)
        colour = colour_of(c, candidates)
        ax.plot(steps, raw, color=colour, linewidth=0.7, alpha=0.35)
        # A run too short for a line still has its points.
        marker = "o" if len(steps) < 3 else ""
        ax.plot(steps, line, color=colour, linewidth=1.6, marker=marker, markersize=4)
        low, high = min(low, float(line.min())), max(high, float(line.max()))
    wide = low > 0 and high > 100 * low
    if wide:
        ax.set_yscale("log")
    dress(ax, plain(title_of(term) + (" (log scale)" if wide else ""), 40))
    ax.margins(x=0.01)
    ax.set_xlabel("step")


def _candidate_handles(candidates: Sequence[Candidate]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour_of(c, candidates), linewidth=2, label=plain(c.name))
        for c in candidates
    ]


def learning_curve(candidates: Sequence[Candidate], term: str) -> Figure:
    """One loss term over the steps, a line per candidate: faint as logged, bold a running mean."""
    figure = blank(*PANEL)
    _draw_curve(figure.subplots(), candidates, term)
    shown = [c for c in candidates if c.history.get(term)]
    handles = [
        h for h, c in zip(_candidate_handles(candidates), candidates, strict=True) if c in shown
    ]
    legend(figure, handles, 3, loc="outside lower left")
    return figure


def diagnosis_curve(
    candidates: Sequence[Candidate],
    keys: Sequence[str],
    title: str,
    top: float | None = None,
    level: tuple[float, str] | None = None,
) -> Figure:
    """What the doctor measured over the steps, a line per candidate and key, a dot per point.

    Args:
        candidates: those to draw, where they have a key.
        keys: of their histories; a second key of one candidate is dashed.
        title: of the panel.
        top: upper end of the axis.
        level: a value to compare with, and what it is called.
    """
    figure = blank(*PANEL)
    ax = figure.subplots()
    handles = []
    for c in candidates:
        mine = [k for k in keys if any(math.isfinite(v) for v in c.history.get(k, []))]
        colour = colour_of(c, candidates)
        for i, key in enumerate(mine):
            steps, values = np.array(c.history["step"]), np.array(c.history[key])
            known = np.isfinite(values)
            style = ("-", "--", ":")[i % 3]
            ax.plot(
                steps[known],
                values[known],
                color=colour,
                linestyle=style,
                linewidth=1.6,
                marker="o",
                markersize=3.5,
            )
            name = c.name if len(mine) == 1 else f"{c.name} {i + 1}"
            handles.append(
                Line2D([], [], color=colour, linestyle=style, linewidth=2, label=plain(name))
            )
    if level is not None:
        ax.axhline(level[0], color=INK, linewidth=0.9, linestyle=":", alpha=0.6)
        handles.append(Line2D([], [], color=INK, alpha=0.6, linestyle=":", label=plain(level[1])))
    dress(ax, plain(title, 40))
    ax.margins(x=0.02)
    ax.set(ylim=(0, top), xlabel="step")
    legend(figure, handles, 3, loc="outside lower left")
    return figure


def learning_curves(candidates: Sequence[Candidate]) -> Figure:
    """Every loss term in a panel of its own."""
    terms = loss_terms(candidates)
    columns = min(3, max(1, len(terms)))
    rows = max(1, math.ceil(len(terms) / columns))
    figure = blank(PANEL[0] * columns, PANEL[1] * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, term in zip(axes, terms, strict=False):
        _draw_curve(ax, candidates, term)
    for ax in axes[len(terms) :]:
        ax.set_axis_off()
    legend(figure, _candidate_handles(candidates), 4, loc="outside lower left")
    return figure
