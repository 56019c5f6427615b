"""The report's figures of accuracy and confidence: plain data in, a `Figure` out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.drawing import (
    AFTER,
    BEFORE,
    INK,
    MAX_ANNOTATED,
    PANEL,
    SOURCE,
    TARGET,
    WORSE,
    blank,
    dot,
    dress,
    legend,
    plain,
)
from domadapt.report.report import BASELINE, Candidate


def confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str], title: str) -> Figure:
    """Share of each true class (row) that was predicted as each class (column), in percent."""
    c = np.array(counts, dtype=float)
    k = len(c)
    share = c / np.maximum(c.sum(1, keepdims=True), 1)
    side = 3.0 if k <= 8 else 0.2 * k + 1.4 if k <= MAX_ANNOTATED else 0.155 * k + 1.3
    names = [plain(n, 14) for n in class_names]
    margin = 0.075 * max(len(n) for n in names)
    figure = blank(side + margin + 0.5, side + margin + 0.55)
    ax = figure.subplots()
    rgb = tuple(int(SOURCE[i : i + 2], 16) / 255 for i in (1, 3, 5))
    image = np.concatenate([np.broadcast_to(rgb, (k, k, 3)), 0.9 * share[..., None]], axis=2)
    ax.imshow(image, interpolation="nearest")
    dress(ax, title, grid=None)
    for spine in ax.spines.values():
        spine.set_visible(True)
    size = 8 if k <= 20 else 7
    turn = 90 if max(len(n) for n in names) > 2 else 0
    ax.set_xticks(range(k), names, fontsize=size, rotation=turn)
    ax.set_yticks(range(k), names, fontsize=size)
    ax.set(xlabel="predicted", ylabel="true")
    if k <= MAX_ANNOTATED:
        for i, j in zip(*np.nonzero(c), strict=True):
            text = f"{100 * share[i, j]:.0f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=7.5, color=INK)
    return figure


def per_class_accuracy(
    before: Sequence[float | None] | None,
    after: Sequence[float | None],
    class_names: Sequence[str],
    names: tuple[str, str] = (BASELINE, "adapted"),
) -> Figure:
    """Recall of each class: a dot for source-only, one for the adapted model, a line between."""
    k = len(class_names)
    figure = blank(4.1, 0.19 * k + 0.9)
    ax = figure.subplots()
    old = before or [None] * k
    for i, (b, a) in enumerate(zip(old, after, strict=True)):
        if a is not None and b is not None:
            ax.plot(
                [100 * b, 100 * a],
                [i, i],
                color=AFTER if a >= b else WORSE,
                linewidth=2,
                alpha=0.5,
            )
        for value, colour, marker in ((b, BEFORE, "o"), (a, AFTER, "D")):
            if value is not None:
                ax.plot(100 * value, i, marker=marker, color=colour, markersize=5.5, clip_on=False)
    dress(ax, None, grid="x")
    ax.set_yticks(range(k), [plain(n) for n in class_names])
    ax.set(ylim=(k - 0.4, -0.6), xlim=(-1, 101), xlabel="accuracy on the target, %")
    handles = [
        Line2D([], [], linestyle="none", marker=m, color=colour, label=plain(name))
        for name, colour, m, shown in zip(
            names, (BEFORE, AFTER), "oD", (before is not None, True), strict=True
        )
        if shown
    ]
    legend(figure, handles, 2, loc="outside upper left")
    return figure


#: Height of a line of text in a list of estimates, in inches, and letters of a line of reasons.
_LINE, _LETTERS = 0.165, 56


def accuracy_estimates(candidates: Sequence[Candidate], chosen: str) -> Figure:
    """The estimated target accuracy of each candidate with its 90 % interval, one below another.

    The chosen one is coloured and bold; one that was set aside is grey and dashed, with the reason
    below its name; where nothing is estimated, the reason stands instead. Where the target has
    labels, a diamond marks the accuracy measured with them.
    """
    blocks = [_reasons(c) for c in candidates]
    # A line for the name, one for each line of reasons, one for the interval, and a gap.
    heights = [
        1.6 + len(lines) + (_interval(c) is not None or c.target is not None)
        for c, lines in zip(candidates, blocks, strict=True)
    ]
    figure = blank(4.1, _LINE * sum(heights) + 0.85)
    ax = figure.subplots()
    top = 0.0
    for c, lines, height in zip(candidates, blocks, heights, strict=True):
        _draw_estimate(ax, c, lines, top, chosen)
        top += height
    dress(ax, None, grid="x")
    ax.spines["left"].set_visible(False)
    ax.set(xlim=(0, 100), ylim=(top - 0.2, 0), yticks=[], xlabel="accuracy on the target, %")
    handles = [
        Line2D(
            *([], []),
            color=INK,
            alpha=0.7,
            marker="o",
            markersize=5,
            label="estimate, 90 % interval",
        )
    ]
    if any(c.target is not None for c in candidates):
        handles.append(dot(TARGET, "D", "measured with labels afterwards"))
    legend(figure, handles, 2, loc="outside upper left")
    return figure


def _reasons(candidate: Candidate) -> list[str]:
    """Why a candidate was set aside, or has no estimate, in lines."""
    refused = (candidate.estimate or {}).get("refused")
    words = f"Set aside: {'; '.join(candidate.set_aside)}." if candidate.set_aside else refused
    clean = "".join(c if c.isprintable() else " " for c in words or "")
    return [line.replace("$", r"\$") for line in textwrap.wrap(clean, _LETTERS)]


def _interval(candidate: Candidate) -> tuple[float, float, float] | None:
    """Estimate, lower and upper end; None where there is no estimate."""
    given = candidate.estimate or {}
    values = [given.get(key) for key in ("accuracy", "low", "high")]
    middle, low, high = (None if v is None else float(v) for v in values)
    return None if middle is None or low is None or high is None else (middle, low, high)


def _draw_estimate(
    ax: Axes, candidate: Candidate, lines: Sequence[str], top: float, chosen: str
) -> None:
    """One candidate of `accuracy_estimates`, from the height `top` downwards."""
    interval = _interval(candidate)
    mine, aside = candidate.name == chosen, bool(candidate.set_aside)
    colour, alpha = (BEFORE, 1.0) if aside else (AFTER, 1.0) if mine else (INK, 0.7)
    words = "not estimated"
    if interval is not None:
        words = "{:.0f} % ({:.0f} to {:.0f} %)".format(*(100 * v for v in interval))
    name = plain(candidate.name) + (" (chosen)" if mine else "")
    bold = "bold" if mine else "normal"
    faint = 0.7 if aside else 1.0
    style: dict[str, Any] = {"color": INK, "alpha": faint, "va": "center"}
    ax.text(0, top + 0.7, name, ha="left", fontsize=8.5, fontweight=bold, **style)
    ax.text(100, top + 0.7, words, ha="right", fontsize=8.5, fontweight=bold, **style)
    for i, line in enumerate(lines):
        ax.text(0, top + 1.65 + i, line, fontsize=7.5, **style)
    at = top + 1.65 + len(lines)
    if interval is not None:
        middle, low, high = interval
        ax.plot(
            [100 * low, 100 * high],
            [at, at],
            color=colour,
            alpha=alpha,
            linewidth=3.2 if mine else 2.2,
            linestyle=(0, (1.6, 1.2)) if aside else "-",
            solid_capstyle="round",
        )
        ax.plot(
            100 * middle, at, marker="o", color=colour, markersize=7 if mine else 6, clip_on=False
        )
    if candidate.target is not None:
        true = 100 * candidate.target["accuracy"]
        ax.plot(true, at, marker="D", color=TARGET, markersize=5, clip_on=False)


def confidence_histogram(
    shares: dict[str, list[float]], title: str, top: float | None = None
) -> Figure:
    """How large the largest probability is: shares of the samples, per domain.

    Args:
        shares: ``source_val`` and ``target``, each the shares of equal parts of [0, 1].
        title: of the panel.
        top: upper end of the axis in percent, so that panels can be compared.
    """
    figure = blank(*PANEL)
    ax = figure.subplots()
    handles = []
    styles = (("source_val", SOURCE, "source validation", 0.35), ("target", TARGET, "target", 0.2))
    for key, colour, label, alpha in styles:
        if key not in shares:
            continue
        values = 100 * np.array(shares[key])
        edges = np.linspace(0, 1, len(values) + 1)
        ax.stairs(values, edges, fill=True, color=colour, alpha=alpha)
        ax.stairs(values, edges, color=colour, linewidth=1.6)
        handles.append(Line2D([], [], color=colour, linewidth=2, label=label))
    dress(ax, title)
    ax.set(
        xlim=(0, 1), ylim=(0, top), xlabel="largest predicted probability", ylabel="% of samples"
    )
    legend(figure, handles, 2, loc="outside lower left")
    return figure
