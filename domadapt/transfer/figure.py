"""The figure of a ranking: the probe of each model, and its rank by every score beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from domadapt.report.drawing import AFTER, BEFORE, INK, blank, dress, legend, plain
from domadapt.transfer.models import short_names
from domadapt.transfer.rank import PROBE, SIZE, Ranking, settled
from domadapt.transfer.tables import number, size_text

#: Above this many models the cells hold ranks alone.
MAX_VALUES = 24
#: Above this many letters a model's name loses its beginning.
MAX_NAME = 40


def figure(ranking: Ranking) -> Figure:
    """Left the linear probe with its spread, right a column per score: rank, and value below.

    Ranks count from 1, the best; the better, the darker. Models of equal value share a rank.
    """
    names = [SIZE, *(n for n in ranking.score_names if n != PROBE)]
    count = len(ranking.models)
    shown = count <= MAX_VALUES
    height = max(2.6, (0.46 if shown else 0.28) * count + 1.9)
    cells = max(0.78 * len(names), 2.6)
    drawn = blank(4.6 + cells, height)
    left, right = drawn.subplots(1, 2, width_ratios=[2.6, cells])
    _draw_probe(left, ranking)
    _draw_ranks(right, ranking, names, shown)
    marks = [
        Line2D([], [], marker="D", color=colour, linestyle="none", markersize=5.5, label=label)
        for colour, label in _kinds(ranking)
    ]
    dot = Line2D([], [], marker="o", color=INK, linestyle="none", markersize=3.5, label="one fold")
    dot.set_alpha(0.4)
    marks.append(dot)
    marks.append(Line2D([], [], color=INK, alpha=0.6, label="± standard deviation over the folds"))
    legend(drawn, marks, 4 if cells > 4 else 2, loc="outside lower left")
    return drawn


def _kinds(ranking: Ranking) -> list[tuple[str, str]]:
    kinds = {m.weights == "random" for m in ranking.models}
    known = [(False, AFTER, "linear probe"), (True, BEFORE, "linear probe, random weights")]
    return [(colour, label) for random, colour, label in known if random in kinds]


def _draw_probe(ax: Axes, ranking: Ranking) -> None:
    factor = 1 if ranking.classes == 0 else 100
    for place, m in enumerate(ranking.models):
        mean = m.scores[PROBE].value
        assert mean is not None
        colour = BEFORE if m.weights == "random" else AFTER
        folds = factor * np.array(m.probe_folds)
        ax.plot(folds, [place] * len(folds), "o", color=colour, alpha=0.3, markersize=3.5)
        ends = [factor * (mean - m.probe_std), factor * (mean + m.probe_std)]
        ax.plot(ends, [place] * 2, color=colour, linewidth=1.6)
        ax.plot(factor * mean, place, "D", color=colour, markersize=5.5)
    dress(ax, "Linear probe", grid="x")
    called = short_names([m.model for m in ranking.models])
    ax.set_yticks(range(len(called)), [plain(_ended(name), MAX_NAME) for name in called])
    ax.set(ylim=(len(ranking.models) - 0.5, -0.5))
    ax.margins(x=0.06)
    ax.set_xlabel("R² on held-out folds" if ranking.classes == 0 else "% on held-out folds")


def _ended(name: str) -> str:
    """The end of a long name, which says more than its beginning."""
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """Places from 1, the largest value first; equal values share the better place."""
    known = [settled(v) for v in values if v is not None]
    return [None if v is None else 1 + sum(other > settled(v) for other in known) for v in values]


def _draw_ranks(ax: Axes, ranking: Ranking, names: Sequence[str], shown: bool) -> None:
    count = len(ranking.models)
    for column, name in enumerate(names):
        values: list[float | None] = [
            float(m.parameters)
            if name == SIZE
            else (m.scores[name].value if name in m.scores else None)
            for m in ranking.models
        ]
        for row, (place, value) in enumerate(zip(ranks(values), values, strict=True)):
            if place is None:
                ax.text(column, row, "–", ha="center", va="center", color=INK, fontsize=8)
                continue
            shade = 0.05 + 0.5 * (count - place) / max(count - 1, 1)
            corner = (column - 0.47, row - 0.44)
            ax.add_patch(Rectangle(corner, 0.94, 0.88, color=AFTER, alpha=shade, linewidth=0))
            up = 0.13 if shown else 0
            ax.text(
                column,
                row - up,
                str(place),
                ha="center",
                va="center",
                color=INK,
                fontsize=9,
                fontweight="bold",
            )
            if shown:
                text = size_text(ranking.models[row].parameters) if name == SIZE else number(value)
                ax.text(column, row + 0.24, text, ha="center", va="center", color=INK, fontsize=6.5)
    dress(ax, "Rank (1 is best), value below" if shown else "Rank (1 is best)")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_yticks(range(count), [""] * count)
    ax.set_xticks(range(len(names)), [n.replace(" ", "\n") for n in names])
    ax.tick_params(axis="x", labelsize=7)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(count - 0.5, -0.5))
