"""Figures of the benchmark's page as SVG, written by hand: small, and styled by the page.

Lines and points bear the page's classes: ``l3`` is the line of the fourth method, ``k2`` the colour
of the third class. ``data-m`` names the method for the page's filters. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from domadapt.benchmark.page.curves import Curve
from domadapt.benchmark.page.maps import Map
from domadapt.benchmark.statistics import Ranks
from domadapt.report.drawing import MAX_LEGEND


def cut(text: str, most: int = 24) -> str:
    """One line of at most `most` letters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else line[: most - 1] + "…"


def _svg(width: float, height: float, words: str, parts: Sequence[str]) -> Markup:
    inside = "".join(parts)
    # Safe: every text among the parts is escaped where it is made.
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(words)}">'
        f"{inside}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{where}{kind}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def rank_diagram(ranks: Ranks, groups: Sequence[Sequence[str]], ids: Mapping[str, int]) -> Markup:
    """Average ranks on an axis, best at the left; a bar joins methods that are not told apart.

    Args:
        ranks: with a critical difference, which is drawn above the axis.
        groups: of `groups_not_told_apart`.
        ids: the page's number of each method.

    Source: Demšar (2006, Journal of Machine Learning Research 7), figure 1.
    """
    order = sorted(ranks.average, key=lambda name: ranks.average[name])
    k, half = len(order), math.ceil(len(order) / 2)
    # Room for the longest name on each side.
    room = 62.0 + 6.6 * max(len(cut(name)) for name in order)
    left, right, top = room, room + 280.0, 46.0
    width = right + room
    distance = ranks.critical_difference or 0.0

    def at(rank: float) -> float:
        return left + (right - left) * (rank - 1) / max(k - 1, 1)

    parts = [_line(left, top, right, top, "axis")]
    step = max(1, math.ceil(k / 12))
    for tick in range(1, k + 1, step):
        parts += [_line(at(tick), top - 5, at(tick), top, "axis")]
        parts += [_text(at(tick), top - 9, str(tick), "middle", "tick")]
    below = top + 12 + 7 * len(groups)
    for i, name in enumerate(order):
        x, rank = at(ranks.average[name]), ranks.average[name]
        on_left = i < half
        y = below + 8 + 19 * (i if on_left else k - 1 - i)
        edge = left - 12 if on_left else right + 12
        label = f"{cut(name)}  {rank:.2f}" if on_left else f"{rank:.2f}  {cut(name)}"
        anchor = "end" if on_left else "start"
        lines = f"M{x:.1f} {top:.1f}V{y:.1f}H{edge:.1f}"
        text = _text(edge + (-5 if on_left else 5), y + 4, label, anchor)
        parts.append(f'<g data-m="{ids[name]}"><path class="lead" d="{lines}"/>{text}</g>')
    for i, group in enumerate(groups):
        low, high = (at(ranks.average[group[j]]) for j in (0, -1))
        y = top + 11 + 7 * i
        parts.append(_line(low - 4, y, high + 4, y, "join"))
    # The ruler starts at rank 1; it may be longer than the axis.
    scale = (right - left) / max(k - 1, 1)
    length = distance * scale
    height = below + 8 + 19 * (half - 1) + 14
    y = height + 12
    parts += [
        _line(left, y, left + length, y, "axis"),
        _line(left, y - 4, left, y + 4, "axis"),
        _line(left + length, y - 4, left + length, y + 4, "axis"),
        _text(left + length + 8, y + 4, f"critical difference {distance:.2f}", kind="tick"),
    ]
    said = ", ".join(f"{name} {ranks.average[name]:.2f}" for name in order)
    joined = "; ".join(" and ".join(group) for group in groups) or "none"
    words = f"Average ranks: {said}. Not told apart: {joined}."
    return _svg(max(width, left + length + 150), height + 24, words, parts)


def _ticks(low: float, high: float, most: int) -> list[float]:
    values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low - 1e-9 <= v <= high + 1e-9]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _axis(low: float, high: float) -> tuple[bool, float, float, list[float]]:
    """Whether the scale is logarithmic, its ends, and where it has ticks."""
    if low > 0 and high > 100 * low:
        a, b = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return True, low, high, [10.0**e for e in range(a, b + 1) if low <= 10.0**e <= high]
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    bottom = 0.0 if 0 <= low < 0.5 * high else low - margin
    return False, bottom, high + margin, _ticks(bottom, high + margin, 4)


def curve_panel(curves: Sequence[Curve], title: str, task: str, ids: Mapping[str, int]) -> Markup:
    """One quantity over the steps, a line for each method.

    Args:
        curves: of one task.
        title: of the quantity.
        task: for those who hear the figure.
        ids: the page's number of each method.
    """
    width, height, left, right, top, bottom = 340.0, 214.0, 46.0, 326.0, 24.0, 182.0
    low = min(float(c.values.min()) for c in curves)
    high = max(float(c.values.max()) for c in curves)
    wide, low, high, ticks = _axis(low, high)
    first = min(float(c.steps[0]) for c in curves)
    last = max(float(c.steps[-1]) for c in curves)

    def rise(value: float) -> float:
        a, b, v = (math.log(x) if wide else x for x in (low, high, value))
        return bottom - (bottom - top) * (v - a) / ((b - a) or 1.0)

    def run(step: float) -> float:
        return left + (right - left) * (step - first) / ((last - first) or 1.0)

    parts = [_text(0, 13, cut(title, 36) + (" (log scale)" if wide else ""), kind="head")]
    for tick in ticks:
        parts.append(_line(left, rise(tick), right, rise(tick), "grid"))
        parts.append(_text(left - 6, rise(tick) + 3.5, _number(tick), "end", "tick"))
    parts += [
        _text(run(tick), bottom + 14, f"{tick:,.0f}", "middle", "tick")
        for tick in _ticks(first, last, 5)
    ]
    parts.append(_text(right, bottom + 26, "step", "end", "tick"))
    said = []
    for c in curves:
        points = [f"{run(s):.1f} {rise(v):.1f}" for s, v in zip(c.steps, c.values, strict=True)]
        if len(points) == 1:
            points.append(points[0])
        i = ids[c.method]
        parts.append(f'<path data-m="{i}" class="line l{i}" d="M{"L".join(points)}"/>')
        said.append(f"{c.method} from {c.values[0]:.3g} to {c.values[-1]:.3g}")
    return _svg(width, height, f"{title} on {task}: {'; '.join(said)}.", parts)


def map_panel(one: Map, short: Callable[[str], str]) -> Markup:
    """One t-SNE map: source samples as dots, target samples as crosses, colours are classes."""
    side, margin = 240.0, 10.0
    low, high = one.xy.min(0), one.xy.max(0)
    spread = float((high - low).max()) or 1.0
    at = margin + (side - 2 * margin) * ((one.xy - (low + high) / 2) / spread + 0.5)
    source = np.arange(len(at)) < one.n_s
    dots, crosses, names = [], [], []
    for label in np.unique(one.label).tolist():
        mine = one.label == label
        xy = at[mine & source]
        if len(xy):
            d = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in xy)
            dots.append(f'<path class="dot k{label}" d="{d}"/>')
        xy = at[mine & ~source]
        if len(xy):
            d = "".join(f"M{x - 2:.1f} {y - 2:.1f}l4 4m-4 0l4-4" for x, y in xy)
            crosses.append(f'<path class="cross k{label}" d="{d}"/>')
        if len(one.class_names) <= MAX_LEGEND and (mine & source).any():
            # A name on each group, for those who cannot tell the colours apart.
            x, y = np.median(at[mine & source], axis=0)
            names.append(_text(x, y + 4, cut(one.class_names[label], 7), "middle", "name"))
    words = (
        f"t-SNE map of {one.method} on {short(one.task)}, {one.n_s} source and "
        f"{len(at) - one.n_s} target samples, coloured by class."
    )
    frame = f'<rect class="frame" x=".5" y=".5" width="{side - 1:g}" height="{side - 1:g}"/>'
    return _svg(side, side, words, [frame, *dots, *crosses, *names])
