"""t-SNE maps of the samples that cells kept: methods side by side, for one seed of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from domadapt.benchmark.cells import Planned
from domadapt.benchmark.sample import ROWS, SAMPLE, read_sample
from domadapt.checkpoint import read_json, write_json
from domadapt.report.embedding import embed
from domadapt.runs.cell import Cells
from domadapt.runs.engine import cores

#: Where coordinates are kept; it may be deleted at any time.
MAPS = "maps.json"
#: Maps of a page at most: of whole tasks, in their order, but of one task in any case.
MOST = 24
#: Changes where coordinates would be others.
_VERSION = 1


@dataclass(frozen=True)
class Map:
    """Where the samples of one cell lie.

    Attributes:
        task, method, seed: name the cell.
        xy: ``(n_s + n_t, 2)``, source samples first.
        n_s: how many source samples.
        label: true classes of the source samples, predicted ones of the target samples.
        class_names: in the order of the ids.
        accuracy: on the target, with its labels.
    """

    task: str
    method: str
    seed: int
    xy: np.ndarray
    n_s: int
    label: np.ndarray
    class_names: list[str]
    accuracy: float


def maps_of(
    cells: Cells,
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
    metric: str,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Map], int]:
    """The maps of the first tasks, and how many tasks have samples without being shown.

    Coordinates are kept in ``maps.json``.

    Args:
        cells: the folder.
        of: the cells of the suite.
        found: their results by key; failures and the oracle are left out.
        metric: which of their scores is the map's `accuracy`.
        say: is told before maps are computed, which takes a second each.
    """
    by_task: dict[str, list[Planned]] = {}
    seeds: dict[str, int] = {}
    for cell in of:
        result = found.get(cell.key)
        if result is None or result["error"] is not None or result["oracle"]:
            continue
        if not (cells.place(cell.key) / SAMPLE).exists():
            continue
        # Of one seed, so that methods are compared from the same first weights.
        if seeds.setdefault(cell.task, cell.seed) == cell.seed:
            by_task.setdefault(cell.task, []).append(cell)
    shown: list[Planned] = []
    tasks = 0
    for members in by_task.values():
        if tasks and len(shown) + len(members) > MOST:
            break
        shown += members[:MOST]
        tasks += 1
    file = cells.folder / MAPS
    known: dict[str, Any] = read_json(file) if file.exists() else {}
    wanted = {cell.key: f"{_VERSION}-{cell.key}" for cell in shown}
    new = [cell for cell in shown if wanted[cell.key] not in known]
    if new:
        say(f"{len(new)} t-SNE maps are computed.")
    samples = {cell.key: read_sample(cells.place(cell.key) / SAMPLE) for cell in shown}

    def compute(cell: Planned) -> list[list[float]]:
        z_s, z_t = samples[cell.key].z_s, samples[cell.key].z_t
        xy: list[list[float]] = np.round(embed(z_s, z_t, max_points=ROWS).xy, 3).tolist()
        return xy

    # A map takes one thread, and most of it holds no lock of Python's.
    with ThreadPoolExecutor(cores()) as pool:
        made = dict(zip((wanted[c.key] for c in new), pool.map(compute, new), strict=True))
    maps, kept = [], {}
    for cell in shown:
        sample, name = samples[cell.key], wanted[cell.key]
        kept[name] = known[name] if name in known else made[name]
        maps.append(
            Map(
                task=cell.task,
                method=cell.method,
                seed=cell.seed,
                xy=np.array(kept[name]),
                n_s=len(sample.z_s),
                label=np.concatenate([sample.label_s, sample.predicted_t]),
                class_names=sample.class_names,
                accuracy=float(found[cell.key]["metrics"][metric]),
            )
        )
    if new or kept.keys() != known.keys():
        write_json(file, kept)
    return maps, len(by_task) - tasks
