"""t-SNE maps: plain data in, a matplotlib `Figure` out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.drawing import (
    BEFORE,
    INK,
    MAX_LEGEND,
    MAX_VECTOR_POINTS,
    ORDERED,
    PANEL,
    SOURCE,
    TARGET,
    blank,
    class_colours,
    columns_of,
    dot,
    dress,
    legend,
    plain,
)
from domadapt.report.report import Embedding


def target_is_true(embedding: Embedding) -> bool:
    """Whether the map knows the true classes of its target samples."""
    return any(label is not None for label in embedding.target_label)


def _draw_embedding(
    ax: Axes, embedding: Embedding, class_names: Sequence[str], by: str, title: str
) -> None:
    x, y, domain = np.array(embedding.x), np.array(embedding.y), np.array(embedding.domain)
    label = np.array(embedding.label)
    if target_is_true(embedding):
        true = np.array([-2 if t is None else t for t in embedding.target_label])
        label = np.where(domain == 1, true, label)
    colours: dict[int, str] = dict(enumerate(_map_colours(by, len(class_names))))
    colours[-2] = BEFORE
    for d, marker in ((0, "o"), (1, "x")):
        for group in [-1] if by == "domain" else np.unique(label).tolist():
            of = (domain == d) & ((label == group) | (group == -1))
            if not of.any():
                continue
            ax.plot(
                x[of],
                y[of],
                linestyle="none",
                marker=marker,
                markersize=4.2 if d else 3.6,
                markeredgewidth=0.9 if d else 0,
                color=(SOURCE, TARGET)[d] if group == -1 else colours[group],
                alpha=0.75,
                rasterized=len(x) > MAX_VECTOR_POINTS,
            )
    if by == "class" and len(class_names) <= MAX_LEGEND:
        # A name on each group of source samples, for those who cannot tell the colours apart.
        for group in np.unique(label[domain == 0]).tolist():
            of = (domain == 0) & (label == group)
            ax.text(
                float(np.median(x[of])),
                float(np.median(y[of])),
                plain(class_names[group], 7),
                color=INK,
                fontsize=8,
                fontweight="bold",
                ha="center",
                va="center",
            )
    dress(ax, title, grid=None)
    for spine in ax.spines.values():
        spine.set_visible(True)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")


def _map_colours(by: str, n: int) -> list[str]:
    return list(ORDERED) if by == "value" else class_colours(n)


def _embedding_handles(by: str, class_names: Sequence[str]) -> list[Line2D]:
    if by == "domain":
        return [dot(SOURCE, "o", "source"), dot(TARGET, "x", "target")]
    if len(class_names) > MAX_LEGEND:
        return [dot(INK, "o", "source"), dot(INK, "x", "target")]
    named = zip(class_names, _map_colours(by, len(class_names)), strict=True)
    return [dot(colour, "s", plain(name, 14)) for name, colour in named]


def embedding_panel(
    embedding: Embedding, class_names: Sequence[str], by: str, title: str
) -> Figure:
    """One map of both domains, source ``o`` and target ``x``.

    Args:
        embedding: the map.
        class_names: in the order of the class ids.
        by: what the colour tells: "domain", or "class" (true ones, or the predicted ones of a
            target without labels; grey: not known). Up to 12 classes are named. "value": the
            classes are fifths of a scale, in order.
        title: of the panel.
    """
    handles = _embedding_handles(by, class_names)
    columns = columns_of(handles, PANEL[0])
    figure = blank(PANEL[0], 3.55 + 0.19 * math.ceil(len(handles) / columns))
    _draw_embedding(figure.subplots(), embedding, class_names, by, title)
    legend(figure, handles, columns, loc="outside lower left")
    return figure


def embedding_panels(before: Embedding, after: Embedding, class_names: Sequence[str]) -> Figure:
    """Two by two: before and after adaptation (rows) by domain and by class (columns)."""
    handles = _embedding_handles("domain", class_names)
    if len(class_names) <= MAX_LEGEND:
        handles += _embedding_handles("class", class_names)
    columns = columns_of(handles, 7.2)
    figure = blank(7.2, 7.2 + 0.19 * math.ceil(len(handles) / columns))
    axes = figure.subplots(2, 2)
    for row, embedding, when in zip(axes, (before, after), ("before", "after"), strict=True):
        for ax, by in zip(row, ("domain", "class"), strict=True):
            _draw_embedding(ax, embedding, class_names, by, f"{when}, by {by}")
    legend(figure, handles, columns, loc="outside lower left")
    return figure
