"""Selection without target labels, measured: a pool of candidates on real tasks, good and bad.

    python benchmarks/selection.py pool --out pool           # trains it; resumable
    python benchmarks/selection.py scores --pool pool        # scores, regret, estimates, verdicts

The pool keeps what each candidate says of source and unlabelled target samples, and, in a file
apart, the target's test labels, which only the last step of `scores` opens. Data are read from
DOMADAPT_DATA; the digits need none.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from domadapt.checkpoint import write_atomically
from domadapt.data import load_task
from domadapt.data.digits import NAMES
from domadapt.defaults import training_for
from domadapt.evaluation import Outputs
from domadapt.inference import outputs_of
from domadapt.methods import is_source_free
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.selection.evidence import Evidence, gather, together
from domadapt.selection.mixtures import SHARE, mixing_pairs

HERE = Path(__file__).parent
OFFICE = ("amazon", "dslr", "webcam")

#: Rules and constants are chosen on these; the others are looked at once, at the end.
DEVELOPMENT = ("digits", "har")
TASKS: dict[str, list[str]] = {
    "digits": [f"digits:{a}->{b}" for a in NAMES for b in NAMES if a != b],
    "har": ["har:2->11", "har:9->18", "har:20->5", "har:30->20"],
    "mnist-usps": ["mnist->usps", "usps->mnist"],
    "office31-features": [f"office31-features:{a}->{b}" for a in OFFICE for b in OFFICE if a != b],
    "amazon": [
        "amazon:books->kitchen",
        "amazon:dvd->electronics",
        "amazon:electronics->books",
        "amazon:kitchen->dvd",
    ],
}
#: Model and length of training by collection: shorter than the defaults, so that the pool is made
#: in an hour.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "digits": ({"name": "lenet"}, {"steps": 300, "channels_last": True}),
    "mnist-usps": ({"name": "lenet"}, {"steps": 300, "channels_last": True}),
    "har": ({}, {"steps": 200, "batch_size": 32}),
    "office31-features": ({"name": "features"}, {"steps": 500}),
    "amazon": ({"name": "features", "bottleneck": 100}, {"steps": 400}),
}
#: Each method with a weak, the default and an excessive setting, which collapses on many tasks.
GRID: dict[str, list[dict[str, Any]]] = {
    BASELINE: [{}],
    "dann": [{"domain_weight": w} for w in (0.1, 1.0, 10.0)],
    "dan": [{"mmd_weight": w} for w in (0.1, 1.0, 10.0)],
    "mcc": [{"mcc_weight": w} for w in (0.1, 1.0, 10.0)],
    "bnm": [{"bnm_weight": w} for w in (0.1, 1.0, 10.0)],
    "infomax": [{"infomax_weight": w} for w in (0.1, 1.0, 10.0)],
    "entropy": [{"entropy_weight": w} for w in (0.1, 1.0, 10.0)],
    "self_training": [{}],
    "deep_jdot": [{}],
    "shot": [{}],
    "cdan+mcc": [{}],
}
#: Samples of a split that are kept.
MOST = 2_000


def candidates() -> list[tuple[str, str, dict[str, Any]]]:
    """Name, method and settings of every candidate."""
    return [
        (f"{method}{''.join(f' {v:g}' for v in settings.values())}", method, settings)
        for method, grid in GRID.items()
        for settings in grid
    ]


def file_of(pool: Path, task: str, seed: int, name: str) -> Path:
    return pool / task.replace(":", "/").replace("->", "-to-") / str(seed) / f"{name}.npz"


def train_task(collection: str, name: str, seeds: list[int], pool: Path) -> str:
    """Every candidate of a task that the pool lacks."""
    torch.set_num_threads(1)
    spec, training = MODELS[collection]
    lacking = [
        (seed, *c)
        for seed in seeds
        for c in candidates()
        if not file_of(pool, name, seed, c[0]).exists()
    ]
    if not lacking:
        return f"{name}: nothing left to do"
    begun = time.perf_counter()
    plan = make_plan(load_task(name), ModelSpec(**spec))
    task, views = plan.task, plan.views
    sources: dict[int, Any] = {}
    for seed, title, method, settings in lacking:
        how = training_for(plan.kind, {**training, "seed": seed})
        start = None
        if is_source_free(method):
            if seed not in sources:
                sources[seed] = train_candidate(plan, BASELINE, {}, how).network
            start = sources[seed]
        broken = ""
        try:
            trained = train_candidate(plan, method, settings, how, start=start)
        except Exception as error:  # a candidate that diverges is one of the pool's cases
            broken = f"{type(error).__name__}: {error}"
        path = file_of(pool, name, seed, title)
        path.parent.mkdir(parents=True, exist_ok=True)
        if broken:
            print(f"{name} {title}: {broken}", flush=True)
            continue
        if method == BASELINE:
            sources[seed] = trained.network
        said = gather(trained, task, views, most=MOST)
        assert said.source_val is not None
        assert said.source_train is not None
        assert said.mixed is not None
        a, b, same = mixing_pairs(said.target.logits.argmax(1))
        test = outputs_of(trained.network, task.target_test, views, max_features=2)
        kept = {
            "target_logits": said.target.logits,
            "target_z": said.target.z.half(),
            "val_logits": said.source_val.logits,
            "val_z": said.source_val.z.half(),
            "val_y": said.source_val.y,
            "train_logits": said.source_train.logits,
            "train_z": said.source_train.z.half(),
            "train_y": said.source_train.y,
            "mixed_same": same,
            "mixed_a": a,
            "mixed_logits": said.mixed(a, b, SHARE),
            "test_logits": test.logits,
            "seconds": np.float64(trained.seconds),
            "trains_on_confidence": np.bool_(trained.trains_on_confidence),
        }
        arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in kept.items()}

        def write(place: Path, arrays: dict[str, Any] = arrays) -> None:
            with place.open("wb") as file:
                np.savez(file, **arrays)

        write_atomically(path, write)
    labels = task._labels_for_evaluate()
    assert labels is not None
    oracle = file_of(pool, name, 0, "x").parent.parent / "oracle.npy"
    np.save(oracle, labels)
    return f"{name}: {len(lacking)} candidates in {time.perf_counter() - begun:.0f} s"


def load(pool: Path, task: str, seed: int) -> list[Evidence]:
    """The evidence on every candidate of a task, as `adapt` would gather it; no target labels."""
    found = []
    for name, method, _ in candidates():
        path = file_of(pool, task, seed, name)
        if not path.exists():
            continue
        with np.load(path) as kept:
            held = {k: torch.from_numpy(kept[k]) for k in kept.files if kept[k].ndim}
            confident = bool(kept["trains_on_confidence"])

        def mixed(a: Tensor, b: Tensor, share: float, held: dict[str, Tensor] = held) -> Tensor:
            # Made with the pairs of `mixing_pairs`, which follow from the predictions.
            assert share == SHARE
            assert torch.equal(a, held["mixed_a"])
            return held["mixed_logits"]

        def outputs(part: str, held: dict[str, Tensor] = held) -> Outputs:
            return Outputs(held[f"{part}_logits"], held[f"{part}_z"].float(), held.get(f"{part}_y"))

        found.append(
            Evidence(
                name,
                target=outputs("target"),
                source_val=outputs("val"),
                source_train=outputs("train"),
                mixed=mixed,
                trains_on_confidence=confident,
                trains_on_source=not is_source_free(method),
            )
        )
    return together(found)


def oracle_accuracies(pool: Path, task: str, seed: int) -> dict[str, float]:
    """The accuracy of every candidate on the target's test labels: for the study alone."""
    labels = np.load(file_of(pool, task, 0, "x").parent.parent / "oracle.npy")
    found = {}
    for name, _, _ in candidates():
        path = file_of(pool, task, seed, name)
        if path.exists():
            with np.load(path) as kept:
                found[name] = float((kept["test_logits"].argmax(1) == labels).mean())
    return found


def build(args: argparse.Namespace) -> None:
    """Train what the pool lacks, tasks side by side."""
    chosen = args.collections.split(",") if args.collections else list(TASKS)
    begun = time.perf_counter()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as engine:
        jobs = [
            engine.submit(train_task, collection, name, list(range(args.seeds)), args.out)
            for collection in chosen
            for name in TASKS[collection]
        ]
        for job in jobs:
            print(job.result(), flush=True)
    minutes = (time.perf_counter() - begun) / 60
    print(f"The pool is complete: {minutes:.0f} minutes with {args.processes} processes.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    pool = commands.add_parser("pool", help="train the candidates")
    pool.add_argument("--out", type=Path, default=Path("pool"))
    pool.add_argument("--seeds", type=int, default=1)
    pool.add_argument("--processes", type=int, default=2)
    pool.add_argument("--collections", default="", help="comma-separated; default: all")
    args = parser.parse_args()
    build(args)


if __name__ == "__main__":
    main()
