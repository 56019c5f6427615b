"""One row per method for the README and `domadapt list methods --long`.

    domadapt benchmark benchmarks/digits-all.toml --out runs/digits
    python benchmarks/methods.py --digits runs/digits    # keep its accuracies, then write the rows
    python benchmarks/methods.py --cost       # measure what a step costs, then write the rows
    python benchmarks/methods.py              # write the rows from what was measured
    python benchmarks/accuracy.py digits-rows --methods source_only,coral,... --threads 1 \\
        --out benchmarks/results/digits-closed.json      # methods on rows of features

Keeps what is measured in benchmarks/results/ (digits.json, digits-closed.json, cost.json), writes
domadapt/methods/measured.json, the table in README.md and benchmarks/results/digits.md.

The cost is the time of a step as a multiple of `source_only`'s: LeNet, 64 + 64 images of 28 x 28,
one thread; every method takes a block of steps in turn, and the ratio is the median over rounds of
its block against source_only's block of the same round. A step includes what the method does
between steps, such as passes over the target, shared out over the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy import HERE, table

from domadapt.benchmark.results import FAILED, PLAN, TARGET
from domadapt.benchmark.suite import UPPER
from domadapt.data import from_arrays
from domadapt.data.views import make_views
from domadapt.methods import build_method, method_class, method_names
from domadapt.methods import table as about
from domadapt.network import Network
from domadapt.report.report import BASELINE, versions
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Task
from domadapt.trainer import Trainer
from domadapt.training import Training

README = HERE.parent / "README.md"
MEASURED = HERE.parent / "domadapt" / "methods" / "measured.json"
RESULTS = HERE / "results"
BEGIN, END = "<!-- methods: made by benchmarks/methods.py -->", "<!-- end of methods -->"
STEPS, BLOCK = 80, 8


def ticks(name: str, task: Task, network: Network) -> Iterator[float]:
    """Seconds per step of each block of a run of `name`, one block each time it is asked."""
    method = build_method(name, network)
    # A method that passes over the target once would end too soon: its passes are repeated.
    if hasattr(method, "passes"):
        method.passes = STEPS
    views = make_views("image", "glyph")
    how = Training(steps=STEPS, batch_size=64, log_every=BLOCK, device="cpu", checkpoint_every=0)
    trainer = Trainer(method, task, views, how)
    trainer.steps = STEPS
    yield from _in_turns(trainer)


def _in_turns(trainer: Trainer) -> Iterator[float]:
    """Run a trainer in a thread of its own that works only while a block is asked for."""
    import threading

    go, done = threading.Semaphore(0), threading.Semaphore(0)
    spent: list[float] = []
    failed: list[BaseException] = []

    def work() -> None:
        go.acquire()
        start = time.perf_counter()

        def block(_: Any) -> None:
            nonlocal start
            spent.append((time.perf_counter() - start) / BLOCK)
            done.release()
            go.acquire()
            start = time.perf_counter()

        try:
            trainer.fit(block)
        except BaseException as error:  # handed over to the thread that asks
            failed.append(error)
        done.release()

    threading.Thread(target=work, daemon=True).start()
    for _ in range(STEPS // BLOCK):
        go.release()
        done.acquire()
        if failed:
            raise failed[0]
        yield spent[-1]


def measure_cost(names: list[str]) -> dict[str, Any]:
    """Ratio to source_only of every method, median and quartiles over rounds."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(2, 1024, 28, 28, 1), dtype=np.uint8)
    y = np.arange(1024) % 10
    task = Task(from_arrays(x[0], y, name="source"), from_arrays(x[1], name="target"))
    plan = make_plan(task, ModelSpec(name="lenet"))
    found: dict[str, Any] = {}
    for name in names:
        pair = [ticks(one, task, plan.make_network(0)) for one in ("source_only", name)]
        rounds = list(zip(*pair, strict=True))[2:]
        ratios = [b / a for a, b in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {"ratio": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
    return found


def digits(file: str = "digits.json") -> dict[str, dict[str, Any]]:
    """Mean over the six pairs, and the standard deviation of that mean over seeds."""
    rows = json.loads((RESULTS / file).read_text())["rows"]
    plain = [r for r in rows if r["method"] != UPPER]
    pairs = len({r["task"] for r in plain})
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(r["method"] for r in plain):
        seeds: dict[int, list[float]] = {}
        for r in plain:
            if r["method"] == name:
                seeds.setdefault(r["seed"], []).append(100 * r["accuracy"])
        whole = [statistics.mean(v) for v in seeds.values() if len(v) == pairs]
        if not whole:
            continue
        found[name] = {"digits": round(statistics.mean(whole), 1), "seeds": len(whole)}
        if len(whole) > 1:
            found[name]["spread"] = round(statistics.stdev(whole), 1)
    return found


def write_rows() -> None:
    """measured.json, the table of the README, and the table of the six pairs."""
    cost_file = RESULTS / "cost.json"
    cost = json.loads(cost_file.read_text())["methods"] if cost_file.exists() else {}
    on_rows = digits("digits-closed.json")
    closed = {n: {**v, "rows": True} for n, v in on_rows.items() if method_class(n).closed_form}
    accuracy = digits() | closed
    measured = {
        name: {
            **accuracy.get(name, {}),
            **({"cost": cost[name]["ratio"]} if name in cost else {}),
        }
        for name in sorted({*accuracy, *cost})
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    about.measured.cache_clear()
    lines = [
        "| method | what it is | setting | needs | paper | defaults | cost | digits |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in about.rows():
        cells = (r.what, r.setting, r.needs, f"{r.paper} {r.link}".strip(), r.defaults)
        more = (about.cost_text(r), about.digits_text(r))
        lines.append(f"| `{r.name}` | " + " | ".join((*cells, *more)) + " |")
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)
    kept = json.loads((RESULTS / "digits.json").read_text())
    rows, how = kept["rows"], kept["training"]
    passed = how.get("batch_statistics", Training().batch_statistics)
    rows.sort(key=lambda r: (r["method"] != BASELINE, r["method"] == UPPER, r["method"]))
    (RESULTS / "digits.md").write_text(
        f"Target accuracy in percent on the embedded digits, {how['steps']} steps, BatchNorm's "
        f"domains {passed}, mean ± standard deviation over seeds (one value: one seed). Made by "
        "`domadapt benchmark benchmarks/digits-all.toml --out runs/digits` and "
        "`python benchmarks/methods.py --digits runs/digits`, or where the steps are 1,000 by "
        "`python benchmarks/accuracy.py digits --threads 1 --training "
        f'\'{{"batch_statistics": "{passed}"}}\'`. `{UPPER}`, where it stands, is trained on the '
        "target's labels (oracle).\n\n" + table(rows) + "\n"
    )


def keep_digits(folder: Path) -> None:
    """Take the accuracies of a finished benchmark of digits-all.toml into results/digits.json."""
    frame = pd.read_parquet(folder / "results.parquet")
    kept = frame[frame["metric"].isin(["accuracy", "per_class_mean", "macro_f1"])]
    kept = kept[kept["kind"] == TARGET]
    rows = [
        {
            "task": task,
            "method": method,
            "seed": int(seed),
            **dict(zip(f.metric, f.value, strict=True)),
        }
        for (task, method, seed), f in kept.groupby(["task", "method", "seed"], sort=False)
    ]
    failed = frame[frame["kind"] == FAILED][["task", "method", "seed", "reason"]]
    suite = json.loads((folder / PLAN).read_text())["suite"]
    about = {
        "suite": suite["name"],
        "model": suite["model"],
        "training": suite["training"],
        "versions": versions(),
        "failed": failed.to_dict("records"),
        "rows": rows,
    }
    (RESULTS / "digits.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cost", action="store_true", help="measure the cost of a step first")
    parser.add_argument("--methods", default="", help="comma-separated; default: all")
    parser.add_argument("--digits", default="", help="folder of a benchmark of digits-all.toml")
    args = parser.parse_args()
    if args.digits:
        keep_digits(Path(args.digits))
    if args.cost:
        file = RESULTS / "cost.json"
        known = json.loads(file.read_text())["methods"] if file.exists() else {}
        # Methods on features do not take images.
        images = [n for n in method_names() if not method_class(n).closed_form]
        names = args.methods.split(",") if args.methods else images
        known |= measure_cost([n for n in names if n != "source_only"])
        known["source_only"] = {"ratio": 1.0, "quartiles": [1.0, 1.0]}
        file.write_text(json.dumps({"versions": versions(), "methods": known}, indent=1) + "\n")
    write_rows()


if __name__ == "__main__":
    main()
