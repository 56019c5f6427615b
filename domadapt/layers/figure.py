"""The figure of a study: what is lost without each block, and how far the first blocks carry."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.benchmark.statistics import Interval
from domadapt.layers.results import (
    LEVEL,
    METRIC_WORDS,
    LayerStudy,
    headline,
    size_name,
)
from domadapt.network import short_blocks
from domadapt.report.drawing import (
    BEFORE,
    CLASSES,
    INK,
    SOURCE,
    TARGET,
    blank,
    dress,
    legend,
    plain,
)

#: One colour per number of training samples, the largest first.
COLOURS = (SOURCE, TARGET, *CLASSES)
#: Letters of a block's name that fit below its column.
MAX_NAME = 14


def figure(study: LayerStudy, *, titled: bool = True) -> Figure:
    """Both panels share the blocks as their axis, in the order in which a sample passes them.

    Above: points lost where a block (or a window around it) begins anew, with the interval over
    seeds; on the zero line the block's pre-training is worth nothing. Below: the score where all
    blocks up to this one keep their pre-training and the rest begins anew, and beside it that of a
    linear probe of the same block of the frozen network.

    Args:
        study: what was found.
        titled: whether the story in a sentence stands above.
    """
    lost = {size: study.lost(size) for size in study.sizes}
    above = any(lost.values())
    curves = [s for s in ("progressive", "anb+", "anb", "inverse", "probing") if s in study.studies]
    if "progressive" in curves and "anb+" in curves:
        curves.remove("anb+")
    below = any(study.curve(s, size) for s in curves for size in study.sizes)
    count = len(study.blocks)
    width = min(max(6.4, 0.52 * count + 1.6), 13.0)
    rows = int(above) + int(below)
    title = textwrap.wrap(headline(study), int(11 * width)) if titled else []
    drawn = blank(width, 0.9 + 2.55 * max(rows, 1) + 0.2 * len(title) + 0.5)
    axes = drawn.subplots(max(rows, 1), 1, squeeze=False, sharex=True)[:, 0]
    if title:
        drawn.suptitle(
            "\n".join(plain(line, 200) for line in title),
            fontsize=10.5,
            color=INK,
            x=0.01,
            ha="left",
            fontweight="bold",
        )
    if above:
        _draw_lost(axes[0], study, lost)
    if below:
        _draw_curves(axes[-1], study, curves)
    first = 0 if below and any(study.curve(s, z).get(0) for s in curves for z in study.sizes) else 1
    names = [_short(name) for name in short_blocks(study.blocks)]
    ticks = list(range(first, count + 1))
    axes[-1].set_xticks(ticks, ["none" if t == 0 else names[t - 1] for t in ticks])
    turned = max(map(len, names)) * len(ticks) > 15 * width
    axes[-1].tick_params(axis="x", labelrotation=90 if turned else 0)
    axes[-1].set(xlim=(first - 0.6, count + 0.6))
    axes[-1].set_xlabel("block, from input to output")
    handles = _handles(study, curves if below else [], above)
    legend(drawn, handles, 2 if width < 8 else 3, loc="outside lower left")
    return drawn


def _draw_lost(ax: Axes, study: LayerStudy, lost: Mapping[int, Mapping[int, Interval]]) -> None:
    f = study.factor
    shift = 0.22 if len(study.sizes) > 1 else 0.0
    ax.axhline(0, color=INK, alpha=0.5, linewidth=0.8)
    for k, size in enumerate(study.sizes):
        off = shift * (k - (len(study.sizes) - 1) / 2)
        for i, value in lost[size].items():
            _point(ax, i + 1 + off, value, f, COLOURS[k % len(COLOURS)], "o")
    what = "block" if study.window == 1 else f"window of {study.window} blocks"
    dress(ax, f"Lost when a {what} begins anew")
    words = METRIC_WORDS[study.metric]
    ax.set_ylabel(f"{study.unit} of {words} lost" if study.unit else f"{words} lost")


def _point(ax: Axes, x: float, value: Interval, factor: int, colour: str, marker: str) -> None:
    if value.low is not None and value.high is not None:
        ends = [factor * value.low, factor * value.high]
        ax.plot([x, x], ends, color=colour, linewidth=1.8, alpha=0.55, solid_capstyle="butt")
    ax.plot(x, factor * value.mean, marker, color=colour, markersize=5)


#: Scores that do not depend on a block, and how their lines are broken.
LEVELS: dict[str, tuple[int, tuple[int, ...]]] = {"whole": (0, (8, 3)), "scratch": (0, (1, 3))}
_STYLE = {
    "progressive": ("-", "o", "fine-tuned, blocks up to here kept, rest anew"),
    "anb+": ("-", "o", "fine-tuned, blocks up to here kept, rest anew"),
    "anb": (":", "s", "blocks up to here kept frozen, rest anew"),
    "inverse": ("-.", "v", "only this block (window from here) kept"),
    "probing": ("--", "D", "frozen network, linear probe of this block"),
}


def _draw_curves(ax: Axes, study: LayerStudy, curves: Sequence[str]) -> None:
    f, seen = study.factor, []
    for k, size in enumerate(study.sizes):
        colour = COLOURS[k % len(COLOURS)]
        for name in curves:
            found = study.curve(name, size)
            if not found:
                continue
            line, marker, _ = _STYLE[name]
            at = {p + (name == "inverse"): v for p, v in found.items()}
            x = sorted(at)
            y = [f * at[p].mean for p in x]
            seen += y
            hollow = "none" if name == "probing" else colour
            ax.plot(x, y, line, color=colour, linewidth=1.5)
            ax.plot(x, y, marker, color=colour, markersize=4, markerfacecolor=hollow)
            ends = [(p, at[p]) for p in x if at[p].low is not None]
            if ends:
                low = [f * (v.low or 0.0) for _, v in ends]
                high = [f * (v.high or 0.0) for _, v in ends]
                ax.fill_between([p for p, _ in ends], low, high, color=colour, alpha=0.13, lw=0)
        for name, dashes in LEVELS.items():
            level = study.curve(name, size).get(0)
            if level is not None:
                ax.axhline(f * level.mean, color=colour, linewidth=1, alpha=0.8, linestyle=dashes)
    tuned, probed = [n for n in curves if n != "probing"], "probing" in curves
    kept = "Score if only some blocks keep their pre-training"
    said = f"{kept}, and of a probe of each" if probed else kept
    dress(ax, said if tuned else "Score of a linear probe of each block of the frozen network")
    ax.set_ylabel(f"held-out {METRIC_WORDS[study.metric]}{' (%)' if f == 100 else ''}")
    known = [v for v in seen if math.isfinite(v)]
    if f == 100 and known:
        known += [v for name in LEVELS for v in _levels(study, name)]
        ax.set_ylim(max(0.0, min(known) - 6), min(101.5, max(known) + 6))


def _levels(study: LayerStudy, name: str) -> list[float]:
    found = [study.curve(name, size).get(0) for size in study.sizes]
    return [study.factor * v.mean for v in found if v is not None]


def _handles(study: LayerStudy, curves: Sequence[str], above: bool) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[k % len(COLOURS)],
            marker="s",
            markersize=7,
            linestyle="none",
            label=size_name(study, size),
        )
        for k, size in enumerate(study.sizes)
    ]
    for name in curves:
        line, marker, words = _STYLE[name]
        face = "none" if name == "probing" else BEFORE
        handles.append(
            Line2D(
                [],
                [],
                color=BEFORE,
                linestyle=line,
                marker=marker,
                markersize=4,
                markerfacecolor=face,
                label=words,
            )
        )
    for name, words in (
        ("whole", "all kept: the whole network fine-tuned"),
        ("scratch", "nothing kept: from scratch"),
    ):
        if _levels(study, name) and curves:
            handles.append(
                Line2D([], [], color=BEFORE, linewidth=1, linestyle=LEVELS[name], label=words)
            )
    if len(study.seeds) > 1:
        words = f"{100 * LEVEL:.0f} % interval over {len(study.seeds)} seeds"
        handles.append(Line2D([], [], color=BEFORE, linewidth=5, alpha=0.4, label=words))
    return handles


def _short(name: str) -> str:
    """The end of a block's name, where blocks differ."""
    short = name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
    return plain(short, MAX_NAME)


def cka_figure(study: LayerStudy, size: int) -> Figure:
    """Likeness of each block's representation before and after fine-tuning, and of two domains."""
    known = [
        ("source", SOURCE, "before and after, held-out samples"),
        ("target", TARGET, "before and after, target samples"),
        ("domains_before", BEFORE, "the two domains, before"),
        ("domains_after", CLASSES[0], "the two domains, after"),
    ]
    found = [(c, w, v) for key, c, w in known if (v := study.look("cka", key, size)) is not None]
    return lines(found, study.blocks, "Linear CKA of each block", "CKA (1: alike)")


def lines(
    found: Sequence[tuple[str, str, Sequence[Interval | None]]],
    blocks: Sequence[str],
    title: str,
    axis: str,
) -> Figure:
    """A line over the blocks for each (colour, words, values), with intervals where known."""
    width = min(max(6.4, 0.52 * len(blocks) + 1.6), 13.0)
    drawn = blank(width, 3.3)
    ax = drawn.subplots()
    for colour, _, values in found:
        at = [(i + 1, v) for i, v in enumerate(values) if v is not None]
        ax.plot([x for x, _ in at], [v.mean for _, v in at], "-", color=colour, linewidth=1.5)
        for x, v in at:
            _point(ax, x, v, 1, colour, "o")
    dress(ax, title)
    names = [_short(name) for name in short_blocks(blocks)]
    ax.set_xticks(range(1, len(names) + 1), names)
    ax.tick_params(axis="x", labelrotation=90 if max(map(len, names)) * len(names) > 90 else 0)
    ax.set_xlabel("block, from input to output")
    ax.set_ylabel(axis)
    handles = [Line2D([], [], color=c, linewidth=2, label=words) for c, words, _ in found]
    legend(drawn, handles, 2, loc="outside lower left")
    return drawn
