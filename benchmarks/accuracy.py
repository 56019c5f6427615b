"""Target accuracy of methods over tasks and seeds, as one table.

    python benchmarks/accuracy.py digits            # embedded, nothing to download
    python benchmarks/accuracy.py digits-rows       # the same as rows of pixels: frozen features
    python benchmarks/accuracy.py mnist-usps        # reads DOMADAPT_DATA
    python benchmarks/accuracy.py office31          # reads DOMADAPT_DATA

Every method of a task starts from the same weights and takes the same steps, batches and
augmentation; settings are the defaults. Target labels are read once, after training. A finished
cell is not run again: delete the results file to begin anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from domadapt.data import from_arrays, load, load_task
from domadapt.data.digits import NAMES
from domadapt.defaults import training_for
from domadapt.evaluation import evaluate
from domadapt.inference import outputs_of
from domadapt.methods import is_source_free, method_names
from domadapt.network import Network
from domadapt.report.report import BASELINE, versions
from domadapt.runs.candidate import Trained, train_candidate
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.selection.validators import label_free
from domadapt.task import Domain, Task
from domadapt.training import Training

HERE = Path(__file__).parent
REVIEWS = ("books", "dvd", "electronics", "kitchen")
OFFICE = ("amazon", "dslr", "webcam")
SUITES: dict[str, dict[str, Any]] = {
    "digits": {
        "tasks": [f"digits:{a}->{b}" for a in NAMES for b in NAMES if a != b],
        "methods": None,
        "model": {"name": "lenet"},
    },
    # What the defaults of frozen features are chosen on.
    "digits-rows": {
        "tasks": [f"digits:{a}->{b}" for a in NAMES for b in NAMES if a != b],
        "methods": ["source_only", "dann", "mcc", "deep_jdot", "dan"],
        "model": {"name": "features"},
        "load": lambda name: rows_of_pixels(name),
    },
    "mnist-usps": {
        "tasks": ["mnist->usps", "usps->mnist"],
        "methods": ["source_only", "dann", "mcc"],
        "model": {"name": "lenet"},
    },
    "amazon": {
        "tasks": [f"amazon:{a}->{b}" for a in REVIEWS for b in REVIEWS if a != b],
        "methods": ["source_only", "dann", "deep_jdot", "msda+deep_jdot"],
        # One hidden layer of 100 units, as in the experiments of Ganin et al. (2016).
        "model": {"name": "features", "bottleneck": 100},
        # Others train on all 2,000; a tenth of them is enough to validate on.
        "load": lambda name: load_task(name, val_fraction=0.1),
    },
    "office31-features": {
        "tasks": [f"office31-features:{a}->{b}" for a in OFFICE for b in OFFICE if a != b],
        "methods": ["source_only", "mcc", "bnm", "infomax"],
        "model": {"name": "features"},
        # Others train on the whole source.
        "load": lambda name: load_task(name, val_fraction=0.1),
    },
    "office31": {
        "tasks": ["office31:amazon->webcam"],
        "methods": None,
        "model": {"name": f"{HERE}/backbones/mobilenet_v2.py:mobilenet_v2", "freeze": True},
    },
}


def rows_of_pixels(name: str) -> Task:
    """A pair of digits, each image a row of grey values in [0, 1]."""

    def domain(of: str) -> Domain:
        images = load(f"digits:{of}")
        pixels = images.samples.__getitems__(range(len(images.samples)))
        assert isinstance(pixels, torch.Tensor)
        x = pixels.float().mean(1).flatten(1).numpy() / 255
        return from_arrays(x, images.labels, name=of, kind="vector", augment="features")

    source, target = name.removeprefix("digits:").split("->")
    return Task(domain(source), domain(target), name=name)


#: Settings of training that change the speed, and of the results the rounding alone.
SPEED_ONLY = ("channels_last", "compile", "workers")


def key_of(task: str, method: str, seed: int, settings: dict[str, Any]) -> str:
    kept = {name: value for name, value in settings.items() if name not in SPEED_ONLY}
    return json.dumps([task, method, seed, kept], sort_keys=True)


def measured(
    plan: Plan,
    method: str,
    settings: dict[str, Any],
    how: Training,
    start: Network | None = None,
) -> tuple[dict[str, Any], Trained]:
    """Train a method, and say how good it is on the target: with labels, and without them."""
    trained = train_candidate(plan, method, settings, how, start=start)
    test = outputs_of(trained.network, plan.task.target_test, plan.views)
    val = outputs_of(trained.network, plan.task.source_val, plan.views)
    scores = evaluate(plan.task, test)
    assert scores is not None
    known = {"accuracy": scores.accuracy, "per_class_mean": scores.per_class_mean}
    return {**known, "n": scores.n, **label_free(val, test)}, trained


def run(suite: str, args: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    done = {row["key"] for row in rows}
    chosen = SUITES[suite]
    methods = args.methods.split(",") if args.methods else chosen["methods"] or method_names()
    methods = ["source_only", *(m for m in methods if m != "source_only")]
    settings, training = json.loads(args.settings), json.loads(args.training)
    cache = Path(args.cache) if args.cache else None
    sources: dict[tuple[str, int], Network] = {}
    for name in args.tasks.split(",") if args.tasks else chosen["tasks"]:
        plan = None
        for seed in range(args.seeds):
            for method in methods:
                key = key_of(name, method, seed, {**settings.get(method, {}), **training})
                if key in done:
                    continue
                if plan is None:
                    task = chosen.get("load", load_task)(name)
                    plan = make_plan(task, ModelSpec(**chosen["model"]), cache=cache)
                how = training_for(plan.kind, {**training, "seed": seed})
                start = None
                if is_source_free(method):
                    # Trained once per task and seed, and not counted: the method begins after it.
                    if (name, seed) not in sources:
                        sources[name, seed] = train_candidate(plan, BASELINE, {}, how).network
                    start = sources[name, seed]
                begun = time.perf_counter()
                row, trained = measured(plan, method, settings.get(method, {}), how, start)
                if method == BASELINE and not settings.get(method):
                    sources[name, seed] = trained.network
                rows.append(
                    {
                        "key": key,
                        "task": name,
                        "method": method,
                        "seed": seed,
                        **row,
                        "seconds": round(time.perf_counter() - begun, 1),
                        "settings": settings.get(method, {}),
                        "training": training,
                    }
                )
                print(
                    f"{name} {method} seed {seed}: {row['accuracy']:.4f} ({rows[-1]['seconds']} s)",
                    flush=True,
                )
                about = {
                    "suite": suite,
                    "model": {**chosen["model"], "name": Path(chosen["model"]["name"]).name},
                    "training": {k: v for k, v in asdict(how).items() if k != "seed"},
                    "versions": versions(),
                    "threads": torch.get_num_threads(),
                    "rows": rows,
                }
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(about, indent=1) + "\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, in percent, as Markdown; a last column of means."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| method | " + " | ".join(t.split(":")[-1] for t in tasks) + " | mean |"]
    lines.append("| --- " * (len(tasks) + 2) + "|")
    for method in methods:
        cells, means = [], []
        for task in tasks:
            found = [
                100 * r["accuracy"] for r in rows if (r["task"], r["method"]) == (task, method)
            ]
            if not found:
                cells.append("–")
                continue
            means.append(statistics.mean(found))
            # One seed has no spread.
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{means[-1]:.1f}{spread}")
        mean = f"{statistics.mean(means):.1f}" if len(means) == len(tasks) else "–"
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {mean} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--methods", default="", help="comma-separated; default: the suite's")
    parser.add_argument("--tasks", default="", help="comma-separated; default: the suite's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", default="{}", help='JSON: {"mcc": {"temperature": 2}}')
    parser.add_argument("--training", default="{}", help='JSON: {"steps": 500}')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default="", help="folder for the features of frozen backbones")
    parser.add_argument("--out", default="", help="default: benchmarks/results/SUITE.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.out) if args.out else HERE / "results" / f"{args.suite}.json"
    rows = run(args.suite, args, out)
    print(f"\nTarget accuracy in percent, mean ± standard deviation over {args.seeds} seeds")
    # The file may hold other settings as well, which are no further seeds of these.
    settings, training = json.loads(args.settings), json.loads(args.training)
    asked = [r for r in rows if r.get("training", {}) == training]
    print(table([r for r in asked if r.get("settings", {}) == settings.get(r["method"], {})]))


if __name__ == "__main__":
    main()
