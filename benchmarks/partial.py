"""Target accuracy where the target lacks some of the source's classes (partial adaptation).

    python benchmarks/partial.py office31           # reads DOMADAPT_DATA
    python benchmarks/partial.py digits             # embedded, nothing to download

``office31``: all 31 classes of a domain of Office-31 as source, the ten classes that Caltech-256
has as well as target (the protocol of the field), on features of a MobileNetV2. ``digits``: ten
digits as source, 0 to 4 as target; what a method's defaults are tried on.

All methods of a task start from the same weights and take the same steps and batches; settings are
the defaults. Predictions may name any source class. Target labels say which samples make up the
target, and are read once more after training. A finished cell is not run again: delete the results
file to begin anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import key_of, table

from domadapt.data.catalogue import domain
from domadapt.data.digits import NAMES
from domadapt.defaults import training_for
from domadapt.evaluation import evaluate
from domadapt.inference import outputs_of
from domadapt.methods import method_names
from domadapt.report.report import versions
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Domain, Raw, Samples, Task, canonical

HERE = Path(__file__).parent
#: The classes of Office-31 that Caltech-256 has as well (Gong et al., 2012, "Office-Caltech").
SHARED = [
    "back_pack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop_computer",
    "monitor",
    "mouse",
    "mug",
    "projector",
]
SUITES: dict[str, dict[str, Any]] = {
    "office31": {
        "pairs": list(permutations(("amazon", "dslr", "webcam"), 2)),
        "collection": "office31-features",
        "kept": SHARED,
        "model": {"name": f"{HERE}/backbones/features.py:features", "freeze": True},
    },
    "digits": {
        "pairs": list(permutations(NAMES, 2)),
        "collection": "digits",
        "kept": list("01234"),
        "model": {"name": "lenet"},
    },
}
METHODS = "source_only,pada,iwan,entropy,mcc,dann"


@dataclass(frozen=True)
class Rows:
    """Some of the samples of another, in their order."""

    of: Samples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        return self.of.__getitems__(self.rows[np.asarray(indices)].tolist())


def only(whole: Domain, classes: Sequence[str]) -> Domain:
    """The samples of `whole` that are of `classes`."""
    assert whole.labels is not None
    rows = np.flatnonzero([canonical(label) in classes for label in whole.labels])
    return replace(
        whole,
        samples=Rows(whole.samples, rows),
        labels=whole.labels[rows],
        groups=None if whole.groups is None else whole.groups[rows],
        ids=None if whole.ids is None else [whole.ids[i] for i in rows],
    )


def run(suite: str, args: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """Train what is missing in `out`; returns all rows."""
    kept: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    rows: list[dict[str, Any]] = kept.get(suite, {}).get("rows", [])
    done = {row["key"] for row in rows}
    chosen = SUITES[suite]
    known = method_names()
    settings, training = json.loads(args.settings), json.loads(args.training)
    for source, target in chosen["pairs"]:
        name = f"{source}->{target}"
        if args.tasks and name not in args.tasks.split(","):
            continue
        plan = None
        for seed in range(args.seeds):
            for method in args.methods.split(","):
                given = settings.get(method, {})
                key = key_of(name, method, seed, {**given, **training})
                if key in done or not set(method.split("+")) <= set(known):
                    continue
                if plan is None:
                    of = chosen["collection"]
                    part = only(domain(f"{of}:{target}"), chosen["kept"])
                    task = Task(domain(f"{of}:{source}"), part, name=name)
                    plan = make_plan(task, ModelSpec(**chosen["model"]))
                how = training_for(plan.kind, {**training, "seed": seed, "device": "cpu"})
                begun = time.perf_counter()
                trained = train_candidate(plan, method, given, how)
                test = outputs_of(trained.network, plan.task.target_test, plan.views)
                scores = evaluate(plan.task, test)
                assert scores is not None
                names = np.array(plan.task.class_names)[test.logits.argmax(1).numpy()]
                rows.append(
                    {
                        "key": key,
                        "task": name,
                        "method": method,
                        "seed": seed,
                        "accuracy": scores.accuracy,
                        "per_class_mean": scores.per_class_mean,
                        "outside": float(np.mean(~np.isin(names, chosen["kept"]))),
                        "n": scores.n,
                        "seconds": round(time.perf_counter() - begun, 1),
                        "settings": {**given, **training},
                    }
                )
                print(
                    f"{name} {method} {given or ''} seed {seed}: {scores.accuracy:.4f}", flush=True
                )
                kept[suite] = {
                    "kept": chosen["kept"],
                    "model": {**chosen["model"], "name": Path(chosen["model"]["name"]).name},
                    "training": {k: v for k, v in asdict(how).items() if k != "seed"},
                    "versions": versions(),
                    "threads": torch.get_num_threads(),
                    "rows": rows,
                }
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(kept, indent=1) + "\n")
    return rows


def labelled(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the settings in the method's name, where it has other than the defaults."""
    said = ", ".join(f"{k}={v}" for k, v in row["settings"].items())
    return {**row, "method": f"{row['method']} ({said})" if said else row["method"]}


def main() -> None:
    """Run a suite and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--methods", default=METHODS, help=f"comma-separated; default: {METHODS}")
    parser.add_argument("--tasks", default="", help="comma-separated; default: all pairs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", default="{}", help='JSON: {"pada": {"class_weight": 0.5}}')
    parser.add_argument("--training", default="{}", help='JSON: {"batch_statistics": "joint"}')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="default: benchmarks/results/partial.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.out) if args.out else HERE / "results" / "partial.json"
    rows = run(args.suite, args, out)
    print("\nTarget accuracy in percent, mean ± standard deviation over the seeds")
    print(table([labelled(row) for row in rows]))


if __name__ == "__main__":
    main()
