"""The figure of an audit: regret, rank correlation, and estimates beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.report.drawing import AFTER, BEFORE, INK, TARGET, WORSE, blank, dress, legend, plain
from domadapt.selection.audit import Audit, Criterion, Estimated, Pick, Spread

COLOURS = {"validator": AFTER, "selector": TARGET, "reference": BEFORE}
#: Above this many points of regret the axis is stretched near zero, where criteria differ.
WIDE = 15
TICKS = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def figure(audit: Audit) -> Figure:
    """Regret and correlation of every criterion; with estimates, these against the accuracies.

    A pale dot is a task, a diamond the mean over the tasks under the guard with a line of one
    standard deviation to each side, a ring the mean without the guard.
    """
    criteria = [c for c in audit.criteria if c.regret_oracle is not None]
    estimated = [one for one in audit.estimated if one.estimate is not None]
    height = max(4.2, 0.25 * len(criteria) + 1.9)
    ratios = [1.0, 0.8, 1.15] if estimated else [1.0, 0.8]
    drawn = blank(12.2 if estimated else 8.4, height)
    axes = drawn.subplots(1, len(ratios), width_ratios=ratios)
    _draw_regret(axes[0], criteria, audit.picks)
    _draw_correlation(axes[1], criteria, audit.picks)
    if estimated:
        refused = len(audit.estimated) - len(estimated)
        _draw_estimates(axes[2], estimated, refused)
    legend(drawn, _handles(estimated), 3, loc="outside lower left")
    return drawn


def _task_means(
    picks: Sequence[Pick], criterion: Criterion, of: Callable[[Pick], float | None]
) -> list[float]:
    tasks: dict[str, list[float]] = {}
    for pick in picks:
        value = of(pick)
        if (pick.criterion, pick.kind) == (criterion.name, criterion.kind) and value is not None:
            tasks.setdefault(pick.task, []).append(value)
    return [sum(values) / len(values) for values in tasks.values()]


def _draw_spread(
    ax: Axes,
    place: int,
    spread: Spread | None,
    free: Spread | None,
    values: Sequence[float],
    colour: str,
    factor: float,
    least: float,
    largest: float,
) -> None:
    """One row of a panel."""
    if free is not None:
        [ring] = ax.plot(factor * free.mean, place, "o", color=colour, markersize=9, clip_on=False)
        ring.set(markerfacecolor="none", markeredgewidth=1.3)
    if spread is None:
        return
    dots = factor * np.array(values)
    ax.plot(dots, [place] * len(dots), "o", color=colour, alpha=0.3, markersize=3.5, clip_on=False)
    if spread.deviation is not None:
        ends = [spread.mean - spread.deviation, spread.mean + spread.deviation]
        ax.plot(np.clip(factor * np.array(ends), least, largest), [place] * 2, color=colour, lw=1.6)
    ax.plot(factor * spread.mean, place, "D", color=colour, markersize=5.5, clip_on=False)


def _draw_regret(ax: Axes, criteria: Sequence[Criterion], picks: Sequence[Pick]) -> None:
    top = 1.0
    for place, criterion in enumerate(criteria):
        values = _task_means(picks, criterion, lambda pick: pick.regret_oracle)
        regret, free = criterion.regret_oracle, criterion.regret_all_oracle
        colour = COLOURS[criterion.kind]
        _draw_spread(ax, place, regret, free, values, colour, 100, 0, 100)
        top = max(top, *(100 * v for v in values), 100 * free.mean if free else 0)
        if regret is not None and regret.deviation is not None:
            top = max(top, min(100, 100 * (regret.mean + regret.deviation)))
    if top > WIDE:
        ax.set_xscale("function", functions=(_root, np.square))
        ticks = [t for t in TICKS if t <= top and (t <= 20 or t % 20 == 0)]
        ax.set_xticks(ticks, [str(t) for t in ticks])
    dress(ax, "Accuracy it costs (regret, oracle)", grid="x")
    ax.set_yticks(range(len(criteria)), [plain(c.name, 32) for c in criteria])
    ax.set(xlim=(0, 1.04 * top), ylim=(len(criteria) - 0.4, -0.6))
    ax.tick_params(axis="y", pad=7)
    stretched = ", stretched near 0" if top > WIDE else ""
    ax.set_xlabel(f"points below the best (0){stretched}")


def _root(values: np.ndarray) -> np.ndarray:
    root: np.ndarray = np.sqrt(np.maximum(values, 0))
    return root


def _draw_correlation(ax: Axes, criteria: Sequence[Criterion], picks: Sequence[Pick]) -> None:
    for place, criterion in enumerate(criteria):
        values = _task_means(picks, criterion, lambda pick: pick.correlation_oracle)
        rank, free = criterion.correlation_oracle, criterion.correlation_all_oracle
        if rank is None and free is None:
            what = "has no ranking" if criterion.kind != "validator" else "undefined"
            ax.text(-0.97, place, what, color=INK, alpha=0.6, fontsize=7, va="center")
        _draw_spread(ax, place, rank, free, values, COLOURS[criterion.kind], 1, -1, 1)
    ax.axvline(0, color=INK, linewidth=0.8, alpha=0.35)
    dress(ax, "Ranks as the truth does (oracle)", grid="x")
    ax.set_yticks(range(len(criteria)), [""] * len(criteria))
    ax.set(xlim=(-1.03, 1.03), ylim=(len(criteria) - 0.4, -0.6))
    ax.set_xlabel("rank correlation; 1: same order")


def _held(one: Estimated) -> str:
    """The colour of an estimate: whether its interval holds the truth."""
    if one.low is None or one.high is None:
        return BEFORE
    return AFTER if one.low <= one.accuracy_oracle <= one.high else WORSE


def _draw_estimates(ax: Axes, estimated: Sequence[Estimated], refused: int) -> None:
    seen: list[float] = []
    # The chosen ones last, so that none is hidden by the many others.
    for one in sorted(estimated, key=lambda one: one.chosen):
        assert one.estimate is not None
        x, colour = 100 * one.accuracy_oracle, _held(one)
        if one.low is not None and one.high is not None:
            ends = [100 * one.low, 100 * one.high]
            seen += ends
            ax.plot([x, x], ends, color=colour, alpha=0.8 if one.chosen else 0.25, linewidth=1.2)
        [mark] = ax.plot(x, 100 * one.estimate, "D" if one.chosen else "o", color=colour)
        mark.set(markersize=5.5 if one.chosen else 3, alpha=1 if one.chosen else 0.5)
        seen += [x, 100 * one.estimate]
    low, high = max(0.0, min(seen) - 3), min(100.0, max(seen) + 3)
    ax.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle=":", alpha=0.6)
    more = f" ({refused} more were refused)" if refused else ""
    dress(ax, "Estimated and true accuracy (oracle)", grid="y")
    ax.set(xlim=(low, high), ylim=(low, high), xlabel=f"true accuracy (oracle), %{more}")
    ax.set_ylabel("estimated without target labels, %")


def _handles(estimated: Sequence[Estimated]) -> list[Line2D]:
    def mark(marker: str, colour: str, label: str, **more: object) -> Line2D:
        style = {"linestyle": "none", "markersize": 5.5, **more}
        return Line2D([], [], marker=marker, color=colour, label=label, **style)  # type: ignore[arg-type]

    handles = [
        mark("D", AFTER, "validator: mean under the guard, ± 1 standard deviation"),
        mark("o", AFTER, "its mean without the guard", markerfacecolor="none"),
        mark("o", AFTER, "one task", alpha=0.4, markersize=3.5),
        mark("D", TARGET, "what the runs chose"),
        mark("D", BEFORE, "for comparison"),
    ]
    if estimated:
        states = {_held(one) for one in estimated}
        handles += [
            mark("_", colour, label, markeredgewidth=3, markersize=9)
            for colour, label in (
                (AFTER, "interval holds the truth"),
                (WORSE, "it misses the truth"),
            )
            if colour in states
        ]
        handles += [
            mark("D", INK, "estimate of a chosen candidate", alpha=0.6),
            mark("o", INK, "of another candidate", markersize=3, alpha=0.6),
        ]
    return handles
