"""One function per figure: plain data in, a matplotlib `Figure` out, no global state.

Every figure is drawn on a transparent ground. Text and axes bear one sentinel colour, which
`to_svg` turns into ``currentColor``: the same drawing reads on a light and on a dark page. The
other colours have a luminance between 0.13 and 0.30, hence a contrast of at least 3 with both.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.report import BASELINE, Candidate, Embedding

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


def title_of(term: str) -> str:
    """The heading of a panel: ``loss/source`` is the "source loss"."""
    return f"{term.removeprefix('loss/').replace('_', ' ')} loss"


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


def _dress(ax: Axes, title: str | None = None, grid: Literal["x", "y"] | None = "y") -> None:
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


def _legend(
    target: Figure | Axes, handles: Sequence[Line2D], columns: int, **where: object
) -> None:
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


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


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
    _dress(ax, plain(title_of(term) + (" (log scale)" if wide else ""), 40))
    ax.margins(x=0.01)
    ax.set_xlabel("step")


def _candidate_handles(candidates: Sequence[Candidate]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour_of(c, candidates), linewidth=2, label=plain(c.name))
        for c in candidates
    ]


def learning_curve(candidates: Sequence[Candidate], term: str) -> Figure:
    """One loss term over the steps, a line per candidate: faint as logged, bold a running mean."""
    figure = _figure(*PANEL)
    _draw_curve(figure.subplots(), candidates, term)
    shown = [c for c in candidates if c.history.get(term)]
    handles = [
        h for h, c in zip(_candidate_handles(candidates), candidates, strict=True) if c in shown
    ]
    _legend(figure, handles, 3, loc="outside lower left")
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
    figure = _figure(*PANEL)
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
    _dress(ax, plain(title, 40))
    ax.margins(x=0.02)
    ax.set(ylim=(0, top), xlabel="step")
    _legend(figure, handles, 3, loc="outside lower left")
    return figure


def learning_curves(candidates: Sequence[Candidate]) -> Figure:
    """Every loss term in a panel of its own."""
    terms = loss_terms(candidates)
    columns = min(3, max(1, len(terms)))
    rows = max(1, math.ceil(len(terms) / columns))
    figure = _figure(PANEL[0] * columns, PANEL[1] * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, term in zip(axes, terms, strict=False):
        _draw_curve(ax, candidates, term)
    for ax in axes[len(terms) :]:
        ax.set_axis_off()
    _legend(figure, _candidate_handles(candidates), 4, loc="outside lower left")
    return figure


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
    _dress(ax, title, grid=None)
    for spine in ax.spines.values():
        spine.set_visible(True)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")


def _dot(colour: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=5, label=label)


def _map_colours(by: str, n: int) -> list[str]:
    return list(ORDERED) if by == "value" else class_colours(n)


def _embedding_handles(by: str, class_names: Sequence[str]) -> list[Line2D]:
    if by == "domain":
        return [_dot(SOURCE, "o", "source"), _dot(TARGET, "x", "target")]
    if len(class_names) > MAX_LEGEND:
        return [_dot(INK, "o", "source"), _dot(INK, "x", "target")]
    named = zip(class_names, _map_colours(by, len(class_names)), strict=True)
    return [_dot(colour, "s", plain(name, 14)) for name, colour in named]


def _columns(handles: Sequence[Line2D], width: float) -> int:
    """How many legend entries fit into a row of `width` inches."""
    longest = max(len(str(h.get_label())) for h in handles)
    return max(1, min(len(handles), int(width / (0.4 + 0.075 * longest))))


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
    columns = _columns(handles, PANEL[0])
    figure = _figure(PANEL[0], 3.55 + 0.19 * math.ceil(len(handles) / columns))
    _draw_embedding(figure.subplots(), embedding, class_names, by, title)
    _legend(figure, handles, columns, loc="outside lower left")
    return figure


def embedding_panels(before: Embedding, after: Embedding, class_names: Sequence[str]) -> Figure:
    """Two by two: before and after adaptation (rows) by domain and by class (columns)."""
    handles = _embedding_handles("domain", class_names)
    if len(class_names) <= MAX_LEGEND:
        handles += _embedding_handles("class", class_names)
    columns = _columns(handles, 7.2)
    figure = _figure(7.2, 7.2 + 0.19 * math.ceil(len(handles) / columns))
    axes = figure.subplots(2, 2)
    for row, embedding, when in zip(axes, (before, after), ("before", "after"), strict=True):
        for ax, by in zip(row, ("domain", "class"), strict=True):
            _draw_embedding(ax, embedding, class_names, by, f"{when}, by {by}")
    _legend(figure, handles, columns, loc="outside lower left")
    return figure


def confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str], title: str) -> Figure:
    """Share of each true class (row) that was predicted as each class (column), in percent."""
    c = np.array(counts, dtype=float)
    k = len(c)
    share = c / np.maximum(c.sum(1, keepdims=True), 1)
    side = 3.0 if k <= 8 else 0.2 * k + 1.4 if k <= MAX_ANNOTATED else 0.155 * k + 1.3
    names = [plain(n, 14) for n in class_names]
    margin = 0.075 * max(len(n) for n in names)
    figure = _figure(side + margin + 0.5, side + margin + 0.55)
    ax = figure.subplots()
    rgb = tuple(int(SOURCE[i : i + 2], 16) / 255 for i in (1, 3, 5))
    image = np.concatenate([np.broadcast_to(rgb, (k, k, 3)), 0.9 * share[..., None]], axis=2)
    ax.imshow(image, interpolation="nearest")
    _dress(ax, title, grid=None)
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
    figure = _figure(4.1, 0.19 * k + 0.9)
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
    _dress(ax, None, grid="x")
    ax.set_yticks(range(k), [plain(n) for n in class_names])
    ax.set(ylim=(k - 0.4, -0.6), xlim=(-1, 101), xlabel="accuracy on the target, %")
    handles = [
        Line2D([], [], linestyle="none", marker=m, color=colour, label=plain(name))
        for name, colour, m, shown in zip(
            names, (BEFORE, AFTER), "oD", (before is not None, True), strict=True
        )
        if shown
    ]
    _legend(figure, handles, 2, loc="outside upper left")
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
    figure = _figure(4.1, _LINE * sum(heights) + 0.85)
    ax = figure.subplots()
    top = 0.0
    for c, lines, height in zip(candidates, blocks, heights, strict=True):
        _draw_estimate(ax, c, lines, top, chosen)
        top += height
    _dress(ax, None, grid="x")
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
        handles.append(_dot(TARGET, "D", "measured with labels afterwards"))
    _legend(figure, handles, 2, loc="outside upper left")
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
    figure = _figure(*PANEL)
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
    _dress(ax, title)
    ax.set(
        xlim=(0, 1), ylim=(0, top), xlabel="largest predicted probability", ylabel="% of samples"
    )
    _legend(figure, handles, 2, loc="outside lower left")
    return figure


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
