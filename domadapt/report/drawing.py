"""The house style of figures: colours, panels, legends, and how a figure leaves.

Every figure is drawn on a transparent ground. Text and axes bear one sentinel colour, which
`to_svg` turns into ``currentColor``: the same drawing reads on a light and on a dark page. The
other colours have a luminance between 0.13 and 0.30, hence a contrast of at least 3 with both.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.report import BASELINE, Candidate

INK = "#010203"


SOURCE, TARGET = "#2f7ec7", "#d9730d"


BEFORE, AFTER, WORSE = "#7f8792", "#7a62d3", "#d6454f"


#: Domains, candidates and classes never share a colour within the first five classes.
CLASSES = (
    *("#1f9e6e", "#c85fa5", "#8f8a12", "#1899b5", "#a5693f", "#d6454f"),
    *("#5a7fe0", "#5a9e2f", "#9a55b8", "#c9652a", "#4f8f9c", "#a4607a"),
)


#: Parts of a scale in order, from low to high.
ORDERED = ("#2f7ec7", "#1899b5", "#1f9e6e", "#8f8a12", "#c9652a")


#: Above these many classes a legend, and numbers in the cells, would no longer be readable.
MAX_LEGEND = 12


MAX_ANNOTATED = 15


MAX_VECTOR_POINTS = 3_000


PANEL = (3.6, 2.7)


def plain(text: str, most: int = 22) -> str:
    """A label as matplotlib should draw it: one line, not too long, ``$`` no mathematics."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return (line if len(line) <= most else line[: most - 1] + "…").replace("$", r"\$")


def colour_of(candidate: Candidate, others: Sequence[Candidate]) -> str:
    """Grey for source-only, and a colour of its own for each adapted candidate."""
    if candidate.method == BASELINE:
        return BEFORE
    adapted = [c.name for c in others if c.method != BASELINE]
    colours = (AFTER, *CLASSES)
    return colours[adapted.index(candidate.name) % len(colours)]


def class_colours(n: int) -> list[str]:
    """`n` colours: a fixed set up to 12 classes, above that hues around the circle."""
    if n <= len(CLASSES):
        return list(CLASSES[:n])
    return [_oklch(0.63, 0.13, (0.618034 * i) % 1) for i in range(n)]


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """A colour of perceived lightness and chroma, hue in turns (Ottosson, 2020, "Oklab")."""
    a, b = (chroma * f(2 * math.pi * hue) for f in (math.cos, math.sin))
    lms = (
        np.array(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ]
        )
        ** 3
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_rgb @ lms, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * float(v)):02x}" for v in rgb)


def dress(ax: Axes, title: str | None = None, grid: Literal["x", "y"] | None = "y") -> None:
    """The house style of one panel."""
    if title:
        ax.set_title(title, fontsize=9, color=INK, loc="left", fontweight="bold")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_edgecolor(INK)
        spine.set_alpha(0.35)
        spine.set_linewidth(0.8)
    ax.patch.set_visible(False)
    ax.tick_params(colors=INK, labelsize=8, length=0)
    ax.xaxis.label.set(color=INK, fontsize=8)
    ax.yaxis.label.set(color=INK, fontsize=8)
    if grid:
        ax.grid(axis=grid, color=INK, alpha=0.12, linewidth=0.6)
        ax.set_axisbelow(True)


def legend(target: Figure | Axes, handles: Sequence[Line2D], columns: int, **where: object) -> None:
    """A legend without a frame, placed as matplotlib's `legend` is told to."""
    target.legend(
        handles=list(handles),
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=8,
        handletextpad=0.4,
        columnspacing=1.0,
        borderaxespad=0.2,
        **where,
    )


def blank(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, on a transparent ground."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def dot(colour: str, marker: str, label: str) -> Line2D:
    """A marker for a legend."""
    return Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=5, label=label)


def columns_of(handles: Sequence[Line2D], width: float) -> int:
    """How many legend entries fit into a row of `width` inches."""
    longest = max(len(str(h.get_label())) for h in handles)
    return max(1, min(len(handles), int(width / (0.4 + 0.075 * longest))))


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand in a page: the same bytes for the same figure.

    Text stays text and takes the page's font and colour; the ground is transparent; ids bear
    `name`, so that several figures can share a page.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # A letter that matplotlib's font lacks is drawn by the page's.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))

    def mend(match: re.Match[str]) -> str:
        """One tag; never text, which may be the name of a class."""
        tag = match[0].replace("xlink:href", "href").replace(INK, "currentColor")
        tag = tag.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
        tag = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", tag)
        tag = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", tag)
        return re.sub(r"(\d+\.\d{3})\d+", r"\1", tag)

    svg = re.sub(r">\n\s*", ">\n", re.sub(r"<[^<>]+>", mend, svg))

    def share_style(match: re.Match[str]) -> str:
        """One style for a group of points instead of the same one for each."""
        styles = set(re.findall(r' style="[^"]*"', match[2]))
        if len(styles) > 1:
            return match[0]
        return f"<g{match[1]}{styles.pop()}>\n" + re.sub(r' style="[^"]*"', "", match[2])

    return re.sub(r'<g( clip-path="[^"]*")>\n((?:<use [^<>]*style=[^<>]*/>\n)+)', share_style, svg)


def save_png(figure: Figure, path: str | Path, dpi: int = 160) -> None:
    """Write the figure to `path` on a white ground."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
