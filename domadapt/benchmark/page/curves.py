"""Learning curves of a benchmark: means over seeds of what cells keep of their training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domadapt.benchmark.cells import Planned
from domadapt.benchmark.work import HISTORY
from domadapt.checkpoint import read_json
from domadapt.runs.cell import Cells

#: Quantities shown first where cells have them; then come the other losses, then the rest.
FIRST = ("loss/source", "doctor/effective_classes", "doctor/adaptation_share")
#: Not a curve, or one that says little.
_LEFT_OUT = ("step", "seconds", "lr")
#: Panels of a task, points of a curve, and points of all curves of a page, at most.
PANELS, POINTS, ALL_POINTS = 9, 60, 120_000


@dataclass(frozen=True)
class Curve:
    """One method's curve on one task: mean over its seeds, at steps."""

    method: str
    steps: np.ndarray
    values: np.ndarray


#: Curves by task and quantity.
Curves = dict[str, dict[str, list[Curve]]]


def curves_of(
    cells: Cells, of: Sequence[Planned], found: Mapping[str, Mapping[str, Any]]
) -> tuple[Curves, int, int]:
    """The curves of all finished cells, the points of each at most, and quantities left out.

    Args:
        cells: the folder.
        of: the cells of the suite.
        found: their results by key; failures are left out.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in of:
        if cell.key in found and found[cell.key]["error"] is None:
            groups.setdefault((cell.task, cell.method), []).append(cell.key)
    made: Curves = {}
    having: dict[str, set[str]] = {}
    for (task, method), keys in groups.items():
        histories = [_history(cells, key) for key in keys]
        names = dict.fromkeys(name for history in histories for name in history)
        for name in names:
            if name in _LEFT_OUT or name.startswith("weight/"):
                continue
            curve = mean_curve([(h["step"], h[name]) for h in histories if name in h], POINTS)
            if curve is not None:
                made.setdefault(task, {}).setdefault(name, []).append(Curve(method, *curve))
                having.setdefault(name, set()).add(method)
    order = sorted(
        having,
        key=lambda n: (
            FIRST.index(n) if n in FIRST else len(FIRST),
            not n.startswith("loss/"),
            -len(having[n]),
            n,
        ),
    )
    shown = order[:PANELS]
    kept = {
        task: {name: by_name[name] for name in shown if name in by_name}
        for task, by_name in made.items()
    }
    many = sum(len(curves) for by_name in kept.values() for curves in by_name.values())
    points = int(np.clip(ALL_POINTS // max(1, many), 12, POINTS))
    if points < POINTS:
        for by_name in kept.values():
            for name, curves in by_name.items():
                by_name[name] = [_thinned(curve, points) for curve in curves]
    return kept, points, len(order) - len(shown)


def mean_curve(
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]], points: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and means of the values of several seeds; None where no value is finite.

    Steps are cut into at most `points` equal parts; each part has the mean of all its values, and
    of their steps.

    Args:
        seeds: steps and values of each.
        points: how many parts.
    """
    x = np.concatenate([np.asarray(steps, dtype=float) for steps, _ in seeds])
    y = np.concatenate([np.asarray(values, dtype=float) for _, values in seeds])
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if x.size == 0:
        return None
    low, high = float(x.min()), float(x.max())
    # No more parts than steps, so that equal steps of several seeds meet in one.
    parts = min(points, np.unique(x).size)
    share = (x - low) / (high - low) if high > low else np.zeros_like(x)
    part = np.minimum((share * parts).astype(int), parts - 1)
    count = np.bincount(part, minlength=parts)
    some = count > 0
    steps = np.bincount(part, x, minlength=parts)[some] / count[some]
    values = np.bincount(part, y, minlength=parts)[some] / count[some]
    return steps, values


def _thinned(curve: Curve, points: int) -> Curve:
    found = mean_curve([(curve.steps.tolist(), curve.values.tolist())], points)
    assert found is not None
    return Curve(curve.method, *found)


def _history(cells: Cells, key: str) -> dict[str, list[float]]:
    path = cells.place(key) / HISTORY
    found = read_json(path) if path.exists() else {}
    steps = found.get("step")
    if not isinstance(steps, list):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == len(steps)}
