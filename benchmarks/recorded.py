"""How long tables, statistics and page of many recorded cells take: 10,000 by default, made up.

    python benchmarks/recorded.py --out recorded            # makes them, then measures
    python benchmarks/recorded.py --out recorded --cells 1000

The cells hold what real ones hold (results, logits, curves, samples of features of the first seed),
with numbers drawn at random. Verdicts of every task and seed and the t-SNE maps are made in the
first pass and kept; the second pass finds them.

Measured with 10,000 cells on a quiet machine of two cores: the first pass takes 36.5 s (61.4 s of
the processor), the second 6.5 s, with a peak of 1.16 GiB. The page has 2.7 MB; it caps maps
at 24, quantities of a task at 9, and points of all curves together at 120,000.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from domadapt.benchmark import Suite, report
from domadapt.benchmark.cells import planned
from domadapt.benchmark.page import PAGE
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.sample import COMPONENTS, ROWS, SAMPLE
from domadapt.benchmark.work import HISTORY, OUTPUTS
from domadapt.checkpoint import write_json
from domadapt.runs.cell import Cell, Cells
from domadapt.selection.registry import validators

METHODS = ("source_only", "dann", "cdan", "dan", "deep_coral", "mcc", "bnm", "shot", "jan")
CLASSES, SAMPLES, SEEDS = 10, 500, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=10_000)
    args = parser.parse_args()
    methods = (*METHODS, "target_only")
    tasks = [f"made-up:{i}" for i in range(max(1, args.cells // (len(methods) * SEEDS)))]
    wanted = [
        Cell(task, method, seed, configuration(method))
        for task in tasks
        for method in methods
        for seed in range(SEEDS)
    ]
    suite = Suite("recorded", tasks=["digits:*->*"], methods=METHODS, seeds=SEEDS).checked()
    write_plan(args.out, suite, planned(wanted))
    cells, made = Cells(args.out), Made()
    begun = time.perf_counter()
    for cell in wanted:
        if not cells.finished(cell.key):
            cells.perform(cell, made)
    print(f"{len(wanted)} cells made in {time.perf_counter() - begun:.0f} s", flush=True)
    for what in ("with verdicts and maps", "again"):
        begun, busy = time.perf_counter(), time.process_time()
        found = report(args.out)
        seconds, busy = time.perf_counter() - begun, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = (args.out / PAGE).stat().st_size / 1e6
        print(
            f"tables and page {what}: {seconds:.1f} s ({busy:.1f} s of the processor), "
            f"{len(found.frame)} rows, peak {peak:.2f} GiB, page {size:.2f} MB",
            flush=True,
        )


def configuration(method: str) -> dict[str, Any]:
    return {
        "method": method,
        "settings": {},
        "training": {"steps": 1000, "batch_size": 64, "lr": 1e-3, "optimizer": "adamw"},
        "model": {"name": "lenet"},
        "views": {"kind": "glyph"},
        "data": "0" * 16,
        "torch": "2",
        "domadapt": "0",
        "device": "cpu",
        "threads": 1,
    }


class Made:
    """Makes up what a cell would find; better methods have larger logits for the class."""

    def __init__(self) -> None:
        self.names = list(validators())
        self.y = np.arange(SAMPLES) % CLASSES

    def __call__(self, cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        rng = np.random.default_rng([int(cell.key[:8], 16), cell.seed])
        oracle = cell.method == "target_only"
        edge = 1.0 + 0.2 * ([*METHODS, "target_only"].index(cell.method))
        logits = [rng.normal(size=(SAMPLES, CLASSES)).astype(np.float32) for _ in range(2)]
        for one in logits:
            one[np.arange(SAMPLES), self.y] += edge
        accuracy = float((logits[0].argmax(1) == self.y).mean())
        found: dict[str, Any] = {"scores": {}}
        if not oracle:
            outputs: dict[str, Any] = {
                "target_logits": logits[0],
                "val_logits": logits[1],
                "val_y": self.y,
            }
            with (made / OUTPUTS).open("wb") as file:
                np.savez(file, **outputs)
            if cell.seed == 0:
                self.keep_sample(rng, made)
            scores = {name: float(rng.normal()) for name in self.names if name != "ensv"}
            found = {"scores": scores, "feature_rank": 9.0, "trains_on_source": True}
        names = ["loss/source", "lr", "weight/source", "doctor/effective_classes"]
        if not oracle and cell.method != "source_only":
            names += [f"loss/{cell.method}", "doctor/adaptation_share", "doctor/batchnorm_gap"]
        history = {name: [round(float(v), 5) for v in rng.random(40)] for name in names}
        write_json(made / HISTORY, {"step": [25.0 * (i + 1) for i in range(40)], **history})
        metrics = dict.fromkeys(("accuracy", "macro_f1", "per_class_mean", "auroc"), accuracy)
        seconds = float(rng.uniform(10, 30))
        return {
            **found,
            "oracle": oracle,
            "metrics": {**metrics, "n": float(SAMPLES), "source_val_accuracy": 0.99},
            "seconds": seconds,
            "wall_seconds": seconds + 1,
            "steps": 1000,
            "peak_memory": {"process": 10**9},
            "parameters": 100_000,
            "initial_weights": f"{cell.task}-{cell.seed}",
            "trains_on_confidence": False,
            "warnings": [],
            "stopped": "",
        }

    def keep_sample(self, rng: np.random.Generator, made: Path) -> None:
        """As `domadapt.benchmark.sample` does: groups of points in as many dimensions."""
        label = np.arange(ROWS) % CLASSES
        centres = rng.normal(size=(CLASSES, COMPONENTS))
        z = centres[np.tile(label, 2)] + 0.5 * rng.normal(size=(2 * ROWS, COMPONENTS))
        kept: dict[str, Any] = {
            "z": z.astype(np.float16),
            "label_s": label.astype(np.int32),
            "predicted_t": label.astype(np.int32),
            "class_names": np.array([str(i) for i in range(CLASSES)]),
        }
        with (made / SAMPLE).open("wb") as file:
            np.savez_compressed(file, **kept)


if __name__ == "__main__":
    main()
