"""The blocks of a run's networks on its page: probes and CKA, before and after adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.network import short_blocks
from domadapt.report.drawing import AFTER, BEFORE, SOURCE, TARGET, blank, dress, legend, plain

#: Colour, words and values over the blocks.
Line = tuple[str, str, Sequence[float | None]]
#: From here on the CKA of a block with what it was is called no change.
ALIKE = 0.99


def panels(data: Mapping[str, Any]) -> list[tuple[str, str, list[Line], float]]:
    """Title, axis, lines and factor of each panel that the analysis has data for."""
    colours = (BEFORE, AFTER)

    def of_candidates(key: str) -> list[Line]:
        return [(c, name, v) for c, (name, v) in zip(colours, data[key].items(), strict=False)]

    both = data["before_after"]
    changed: list[Line] = [
        (colour, f"{name} samples", both[name])
        for colour, name in ((SOURCE, "source"), (TARGET, "target"))
        if name in both
    ]
    share = data["metric"] == "accuracy"
    found = [
        (
            "What a linear probe reads in each block",
            "% of source validation" if share else "R² on source validation",
            of_candidates("probing"),
            100.0 if share else 1.0,
        ),
        ("Both domains alike in each block", "CKA of covariances", of_candidates("domains"), 1.0),
        ("Blocks alike before and after adaptation", "linear CKA", changed, 1.0),
    ]
    return [panel for panel in found if panel[2]]


def panel_figure(
    blocks: Sequence[str], title: str, axis: str, lines: Sequence[Line], factor: float
) -> Figure:
    """One panel: values over the blocks, from input to output."""
    figure = blank(4.4, 3.1)
    ax = figure.subplots()
    for colour, _, values in lines:
        at = [(i, factor * v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
        x, y = [i for i, _ in at], [v for _, v in at]
        ax.plot(x, y, "-o", color=colour, linewidth=1.5, markersize=4)
    dress(ax, title)
    # The ends of long names differ, not their beginnings.
    short = short_blocks(blocks)
    names = [plain(name if len(name) <= 12 else f"…{name[-11:]}", 12) for name in short]
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(axis="x", labelrotation=90 if sum(map(len, names)) > 45 else 0)
    ax.set_xlabel("block, from input to output")
    ax.set_ylabel(axis)
    handles = [Line2D([], [], color=c, linewidth=2, label=plain(words)) for c, words, _ in lines]
    legend(figure, handles, 2, loc="outside lower left")
    return figure


def in_words(blocks: Sequence[str], title: str, lines: Sequence[Line], factor: float) -> str:
    """A panel for those who see none."""
    said = []
    for _, name, values in lines:
        each = ", ".join(
            f"{block} {factor * v:.3g}"
            for block, v in zip(blocks, values, strict=True)
            if v is not None
        )
        said.append(f"{name}: {each}")
    return f"{title}. {'; '.join(said)}."


def sentence(data: Mapping[str, Any]) -> str:
    """Which block adaptation changed most on the target, in a sentence; empty without two."""
    values = data["before_after"].get("target")
    named = zip(values or [], short_blocks(data["blocks"]), strict=False)
    known = [(v, block) for v, block in named if v is not None]
    if not known:
        return ""
    low, block = min(known)
    if low >= ALIKE:
        return (
            "On target samples adaptation left every block as it was but for little (CKA at least "
            f"{math.floor(100 * low) / 100:.2f}; 1 would be no change but for rotation and scale)."
        )
    return (
        f"On target samples adaptation changed block {block} most (CKA {low:.2f} with what it was; "
        "1 would be no change but for rotation and scale)."
    )
