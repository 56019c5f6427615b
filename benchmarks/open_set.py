"""Scores where the target has classes that the source lacks (open-set adaptation).

    python benchmarks/open_set.py           # embedded digits, nothing to download

The digits 0 to 5 of a domain as source, all ten of another as target; samples of 6 to 9 are right
when they are called unknown. The methods ovanet and osbp say so themselves. All others, source_only
among them, reject below the threshold that 95 % of the source's validation samples reach, or below
0.9 where that is less (`domadapt.open_set`); no target label has a part in it.

All methods of a task start from the same weights and take the same steps and batches; settings are
the defaults. Target labels are read once, after training. A finished cell is not run again: delete
the results file to begin anew.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accuracy import key_of, table
from partial import labelled, only

from domadapt.data.catalogue import domain
from domadapt.defaults import training_for
from domadapt.evaluation import OPEN_SET_METRICS, evaluate
from domadapt.inference import outputs_of
from domadapt.report.report import versions
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Task

HERE = Path(__file__).parent
KNOWN = list("012345")
PAIRS = [("printed", "handwritten"), ("photo", "handwritten"), ("handwritten", "printed")]
METHODS = "source_only,mcc,ovanet,osbp"
MODEL = "lenet"


def run(args: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """Train what is missing in `out`; returns all rows."""
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    done = {row["key"] for row in rows}
    settings = json.loads(args.settings)
    for source, target in PAIRS:
        name = f"{source}->{target}"
        if args.tasks and name not in args.tasks.split(","):
            continue
        plan = None
        for seed in range(args.seeds):
            for method in args.methods.split(","):
                given = settings.get(method, {})
                key = key_of(name, method, seed, given)
                if key in done:
                    continue
                if plan is None:
                    known = replace(
                        only(domain(f"digits:{source}"), KNOWN), class_names=tuple(KNOWN)
                    )
                    task = Task(
                        known, domain(f"digits:{target}"), name=name, extra_classes="unknown"
                    )
                    plan = make_plan(task, ModelSpec(MODEL))
                how = training_for(plan.kind, {"seed": seed, "device": "cpu"})
                begun = time.perf_counter()
                trained = train_candidate(plan, method, given, how)
                scores = evaluate(
                    plan.task, outputs_of(trained.network, plan.task.target_test, plan.views)
                )
                assert scores is not None
                found = {m: getattr(scores, m) for m in (*OPEN_SET_METRICS, "per_class_mean")}
                rows.append(
                    {
                        "key": key,
                        "task": name,
                        "method": method,
                        "seed": seed,
                        **found,
                        "accuracy": scores.accuracy,
                        "auroc": scores.auroc,
                        "n": scores.n,
                        "seconds": round(time.perf_counter() - begun, 1),
                        "settings": given,
                    }
                )
                told = ", ".join(f"{k} {v:.4f}" for k, v in found.items())
                print(f"{name} {method} {given or ''} seed {seed}: {told}", flush=True)
                kept = {
                    "known": KNOWN,
                    "model": MODEL,
                    "training": {k: v for k, v in asdict(how).items() if k != "seed"},
                    "versions": versions(),
                    "threads": torch.get_num_threads(),
                    "rows": rows,
                }
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(kept, indent=1) + "\n")
    return rows


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=METHODS, help=f"comma-separated; default: {METHODS}")
    parser.add_argument("--tasks", default="", help="comma-separated; default: all three")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", default="{}", help='JSON: {"osbp": {"threshold": 0.6}}')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="default: benchmarks/results/open_set.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.out) if args.out else HERE / "results" / "open_set.json"
    rows = run(args, out)
    for metric in ("h_score", "known_accuracy", "unknown_accuracy"):
        print(f"\n{metric} in percent, mean ± standard deviation over the seeds")
        print(table([{**labelled(row), "accuracy": row[metric]} for row in rows]))


if __name__ == "__main__":
    main()
