"""A folder of a benchmark as it would be after training, with numbers that a test gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domadapt.benchmark import Suite
from domadapt.benchmark.cells import planned
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.sample import SAMPLE
from domadapt.benchmark.work import HISTORY, OUTPUTS
from domadapt.checkpoint import write_json
from domadapt.errors import DomadaptError
from domadapt.runs.cell import Cell, Cells

CONFIG = {
    "settings": {},
    "training": {"steps": 30, "batch_size": 16, "lr": 0.001},
    "model": {"name": "mlp"},
    "views": {},
    "data": "0" * 16,
    "torch": "2",
    "domadapt": "0",
    "device": "cpu",
    "threads": 1,
}


def folder_of(
    folder: Path,
    accuracy: Callable[[str, str, int], float | str | None],
    *,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int = 2,
    classes: Sequence[str] = ("a", "b", "c"),
    curves: Callable[[str, str, int], Mapping[str, list[float]]] | None = None,
    about: str = "",
    name: str = "sample",
    command: str | None = None,
) -> list[Cell]:
    """Write a benchmark's folder.

    Args:
        folder: an empty one.
        accuracy: of method, task and seed; words are the reason of a failure, None is no cell.
        methods, tasks: what they are called.
        seeds: how many.
        classes: their names, in the samples that the first seed keeps.
        curves: the history of a cell.
        about, name, command: of the suite.
    """
    wanted = [
        Cell(task, method, seed, {**CONFIG, "method": "dan", "name": method})
        for task in tasks
        for method in methods
        for seed in range(seeds)
    ]
    suite = Suite(name, tasks=["digits:*->*"], methods=["dan"], seeds=seeds, about=about)
    write_plan(folder, suite.checked(), planned(wanted), command)

    def work(cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        value = accuracy(cell.method, cell.task, cell.seed)
        if isinstance(value, str):
            raise DomadaptError(value)
        rng = np.random.default_rng(int(cell.key[:8], 16))
        oracle = cell.method == "target_only"
        found: dict[str, Any] = {"scores": {}}
        if not oracle:
            y = np.arange(30) % 3
            logits = [np.eye(3)[y] * 4 + rng.normal(size=(30, 3)) for _ in range(2)]
            kept: dict[str, Any] = {
                "target_logits": logits[0].astype(np.float32),
                "val_logits": logits[1].astype(np.float32),
                "val_y": y,
            }
            with (made / OUTPUTS).open("wb") as file:
                np.savez(file, **kept)
            if cell.seed == 0:
                sample: dict[str, Any] = {
                    "z": rng.normal(size=(24, 4)).astype(np.float16),
                    "label_s": (np.arange(12) % 3).astype(np.int32),
                    "predicted_t": (np.arange(12) % 3).astype(np.int32),
                    "class_names": np.array(classes),
                }
                with (made / SAMPLE).open("wb") as file:
                    np.savez_compressed(file, **sample)
            found = {
                "scores": {"information_maximisation": float(rng.normal())},
                "feature_rank": 9.0,
                "trains_on_source": True,
            }
        usual = {"step": [10.0, 20.0, 30.0], "loss/source": [2.0, 1.0, 0.5]}
        history = usual if curves is None else curves(cell.method, cell.task, cell.seed)
        write_json(made / HISTORY, dict(history))
        return {
            **found,
            "oracle": oracle,
            "metrics": {"accuracy": value, "n": 30.0, "source_val_accuracy": 0.9},
            "seconds": 2.0,
            "wall_seconds": 3.0,
            "steps": 30,
            "peak_memory": {"process": 10 * 2**20},
            "parameters": 10,
            "initial_weights": f"{cell.task}-{cell.seed}",
            "trains_on_confidence": False,
            "warnings": [],
            "stopped": "",
        }

    cells = Cells(folder)
    for cell in wanted:
        if accuracy(cell.method, cell.task, cell.seed) is not None:
            cells.perform(cell, work)
    return wanted
