"""Selection without target labels, measured: a pool of candidates on real tasks, good and bad.

    python benchmarks/selection.py pool --out pool           # trains it; resumable
    python benchmarks/selection.py scores --pool pool        # scores, regret, estimates, verdicts

The pool keeps what each candidate says of source and unlabelled target samples, and, in a file
apart, the target's test labels, which only the last step of `scores` opens. Data are read from
DOMADAPT_DATA; the digits need none.
"""

from __future__ import annotations

import argparse
import json
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
from domadapt.report.report import BASELINE, versions
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.selection.choice import RULE
from domadapt.selection.evidence import Evidence, gather, together
from domadapt.selection.guard import guard
from domadapt.selection.mixtures import SHARE, mixing_pairs
from domadapt.selection.portfolio import VERSION
from domadapt.selection.validators import scores_of
from domadapt.selection.verdict import judge

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
#: What was looked at, and how often.
NOTE = (
    "Rules and constants were chosen on the development tasks. The rule that chooses was looked at "
    "once on the others. The estimate was not: a first version erred there by 11.8 points on "
    "average and covered 58 % (5.2 points and 80 % in development). What was then added, the check "
    "in the features of source_only, took the error in development from 5.2 to 3.7; it has no "
    "constant of its own, but its figures on the other tasks are not untouched."
)
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
    return {name: float(r.mean()) for name, r in oracle_correct(pool, task, seed).items()}


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


#: What auto's portfolio (version 1) is in the pool.
AUTO = {
    "quick": [BASELINE, "infomax 0.1", "shot"],
    "standard": [BASELINE, "dan 1", "mcc 1", "infomax 0.1", "shot"],
}


def score_task(collection: str, task: str, seed: int, pool: Path) -> dict[str, Any]:
    """Scores, guard, verdicts and estimates of a task's candidates; then, apart, the truth."""
    torch.set_num_threads(1)
    found = load(pool, task, seed)
    names = [str(c) for c in range(found[0].classes)]
    before = found[0]
    assert before.name == BASELINE
    guarded = {e.name: guard(e, before) for e in found}
    # Candidates that the guard sets aside have no vote, whoever else is asked.
    allowed = {e.name: e for e in together([e for e in found if not guarded[e.name]])}
    scores = {e.name: scores_of(allowed.get(e.name, e)) for e in found}
    verdict = judge(found, BASELINE, names)
    parts = {
        budget: judge(together([e for e in found if e.name in kept]), BASELINE, names)
        for budget, kept in AUTO.items()
    }
    alone = {
        e.name: judge(together([before, e]), BASELINE, names) for e in found if e is not before
    }
    # All decisions are made; the oracle's door opens here.
    right = oracle_correct(pool, task, seed)
    base = right[BASELINE].astype(float)
    rows = []
    for e in found:
        gained = right[e.name].astype(float) - base
        half = 1.96 * float(gained.std()) / len(gained) ** 0.5
        rows.append(
            {
                "candidate": e.name,
                "accuracy_oracle": float(right[e.name].mean()),
                "gain_oracle": [
                    float(gained.mean()),
                    float(gained.mean()) - half,
                    float(gained.mean()) + half,
                ],
                "n": len(gained),
                "scores": scores[e.name],
                "guard": guarded[e.name],
                "set_aside": verdict.set_aside.get(e.name, []),
                "estimate": verdict.estimates[e.name].to_dict(),
                "alone": None
                if e is before
                else {
                    "chosen": alone[e.name].chosen,
                    "estimate": alone[e.name].estimates[alone[e.name].chosen].to_dict(),
                },
            }
        )
    return {
        "collection": collection,
        "task": task,
        "seed": seed,
        "chosen": verdict.chosen,
        "ranking": verdict.ranking,
        "findings": [f.sentence for f in verdict.findings],
        "auto": {
            budget: {"chosen": v.chosen, "estimate": v.estimates[v.chosen].to_dict()}
            for budget, v in parts.items()
        },
        "candidates": rows,
    }


def oracle_correct(pool: Path, task: str, seed: int) -> dict[str, np.ndarray]:
    """Which test samples each candidate classifies rightly: for the study alone."""
    labels = np.load(file_of(pool, task, 0, "x").parent.parent / "oracle.npy")
    found = {}
    for name, _, _ in candidates():
        path = file_of(pool, task, seed, name)
        if path.exists():
            with np.load(path) as kept:
                found[name] = kept["test_logits"].argmax(1) == labels
    return found


def score(args: argparse.Namespace) -> None:
    """Score the pool and write the table and its summary."""
    chosen = args.collections.split(",") if args.collections else list(TASKS)
    held = json.loads(args.out.read_text())["tasks"] if args.out.exists() else []
    held = [t for t in held if t["collection"] not in chosen]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as engine:
        jobs = [
            engine.submit(score_task, collection, task, seed, args.pool)
            for collection in chosen
            for task in TASKS[collection]
            for seed in range(args.seeds)
            if file_of(args.pool, task, seed, BASELINE).exists()
        ]
        held += [job.result() for job in jobs]
    order = list(TASKS)
    held.sort(key=lambda t: (order.index(t["collection"]), t["task"], t["seed"]))
    about = {
        "rule": RULE,
        "portfolio": VERSION,
        "versions": versions(),
        "models": {k: {"model": m, "training": t} for k, (m, t) in MODELS.items()},
        "tasks": held,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # A line per task: the table of scores is kept in the repository.
    lines = ",\n".join(json.dumps(_rounded(t)) for t in about.pop("tasks"))
    head = json.dumps(about)[:-1]
    args.out.write_text(f'{head}, "tasks": [\n{lines}\n]}}\n')
    text = summary(held)
    args.out.with_suffix(".md").write_text(text)
    print(text)


def summary(tasks: list[dict[str, Any]]) -> str:
    """The tables of the study: development tasks and those that were looked at once, apart."""
    groups = {
        "Development (digits, HAR): rules and constants were chosen here": [
            t for t in tasks if t["collection"] in DEVELOPMENT
        ],
        "The others (Office-31, Amazon, MNIST/USPS)": [
            t for t in tasks if t["collection"] not in DEVELOPMENT
        ],
        "All": tasks,
    }
    lines = ["# Selection without target labels", ""]
    lines += ["Everything marked oracle used target labels, after all choices were made.", ""]
    lines += [NOTE, ""]
    for title, group in groups.items():
        if group:
            lines += [f"## {title}: {len(group)} pools", "", *_selectors(group), ""]
            lines += [*_estimates(group), ""]
    lines += ["## Per task", "", *_per_task(tasks), ""]
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _accuracy(task: dict[str, Any], name: str) -> float:
    return 100 * next(c["accuracy_oracle"] for c in task["candidates"] if c["candidate"] == name)


def _gain(task: dict[str, Any], name: str) -> list[float]:
    found = next(c["gain_oracle"] for c in task["candidates"] if c["candidate"] == name)
    return [100 * v for v in found]


def _picked(task: dict[str, Any], validator: str) -> str | None:
    """What a single criterion picks under the guard."""
    able = [c for c in task["candidates"] if not c["guard"] and validator in c["scores"]]
    if not able:
        return None
    return str(max(able, key=lambda c: c["scores"][validator])["candidate"])


def _selectors(group: list[dict[str, Any]]) -> list[str]:
    best = [max(100 * c["accuracy_oracle"] for c in t["candidates"]) for t in group]
    names = sorted({v for t in group for c in t["candidates"] for v in c["scores"]})
    choices: dict[str, list[str | None]] = {"the selector": [t["chosen"] for t in group]}
    choices |= {v: [_picked(t, v) for t in group] for v in names}
    choices["always source_only"] = [BASELINE] * len(group)
    lines = [
        "| criterion, under the guard | mean regret (oracle) | worst gain on source_only | "
        "significantly below it |",
        "| --- | --- | --- | --- |",
    ]
    for name, picked in choices.items():
        known = [(t, p, b) for t, p, b in zip(group, picked, best, strict=True) if p is not None]
        regrets = [b - _accuracy(t, p) for t, p, b in known]
        gains = [_gain(t, p) for t, p, _ in known]
        worse = sum(g[2] < 0 for g in gains)
        lines.append(
            f"| {name} | {np.mean(regrets):.2f} | {min(g[0] for g in gains):+.1f} | {worse} |"
        )
    lines += [
        "",
        "Mean target accuracy (oracle), the portfolio's choice and single candidates:",
        "",
    ]
    lines += ["| | mean | significantly below source_only |", "| --- | --- | --- |"]
    for budget in AUTO:
        picked = [t["auto"][budget]["chosen"] for t in group]
        lines.append(_mean_row(f"auto, {budget}", group, picked))
    lines.append(_mean_row("the selector over the whole pool", group, [t["chosen"] for t in group]))
    shared = [
        c["candidate"]
        for c in group[0]["candidates"]
        if all(c["candidate"] in [o["candidate"] for o in t["candidates"]] for t in group)
    ]
    means = {n: np.mean([_accuracy(t, n) for t in group]) for n in shared}
    for name in sorted(shared, key=lambda n: -means[n]):
        lines.append(_mean_row(name, group, [name] * len(group)))
    return lines


def _mean_row(title: str, group: list[dict[str, Any]], picked: list[str]) -> str:
    mean = np.mean([_accuracy(t, p) for t, p in zip(group, picked, strict=True)])
    worse = sum(_gain(t, p)[2] < 0 for t, p in zip(group, picked, strict=True))
    return f"| {title} | {mean:.1f} | {worse} |"


def _estimates(group: list[dict[str, Any]]) -> list[str]:
    """How far the estimated accuracies are from the truth."""

    def row(title: str, pairs: list[tuple[dict[str, Any], float]]) -> str:
        given = [(e, a) for e, a in pairs if e["accuracy"] is not None]
        if not given:
            return f"| {title} | {len(pairs)} | {len(pairs)} | | | |"
        error = np.mean([abs(100 * e["accuracy"] - a) for e, a in given])
        covered = np.mean([100 * e["low"] <= a <= 100 * e["high"] for e, a in given])
        width = np.mean([100 * (e["high"] - e["low"]) for e, _ in given])
        refused = len(pairs) - len(given)
        return f"| {title} | {len(pairs)} | {refused} | {error:.1f} | {covered:.0%} | {width:.1f} |"

    by = [{c["candidate"]: c for c in t["candidates"]} for t in group]
    whole = [
        (c[t["chosen"]]["estimate"], _accuracy(t, t["chosen"]))
        for t, c in zip(group, by, strict=True)
    ]
    auto = [
        (t["auto"]["standard"]["estimate"], _accuracy(t, t["auto"]["standard"]["chosen"]))
        for t in group
    ]
    alone = [
        (c["alone"]["estimate"], _accuracy(t, c["alone"]["chosen"]))
        for t in group
        for c in t["candidates"]
        if c["alone"] is not None
    ]
    every = [
        (c["estimate"], 100 * c["accuracy_oracle"])
        for t in group
        for c in t["candidates"]
        if not c["set_aside"]
    ]
    return [
        "Estimated target accuracy of the models that were chosen (points):",
        "",
        "| models | how many | refused | mean error | 90 % interval covers | mean width |",
        "| --- | --- | --- | --- | --- | --- |",
        row("chosen from the whole pool", whole),
        row("chosen by auto", auto),
        row("chosen from one adapted model and source_only", alone),
        row("every candidate that is not set aside", every),
    ]


def _per_task(tasks: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| task | seed | source_only | chosen | accuracy (oracle) | estimate | best (oracle) "
        "| auto |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for t in tasks:
        by = {c["candidate"]: c for c in t["candidates"]}
        top = max(by.values(), key=lambda c: c["accuracy_oracle"])
        e = by[t["chosen"]]["estimate"]
        said = (
            "refused"
            if e["accuracy"] is None
            else f"{100 * e['accuracy']:.0f} ({100 * e['low']:.0f} to {100 * e['high']:.0f})"
        )
        auto = t["auto"]["standard"]["chosen"]
        lines.append(
            f"| {t['task']} | {t['seed']} | {_accuracy(t, BASELINE):.1f} | {t['chosen']} | "
            f"{_accuracy(t, t['chosen']):.1f} | {said} | {top['candidate']} "
            f"{100 * top['accuracy_oracle']:.1f} | {auto} {_accuracy(t, auto):.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    pool = commands.add_parser("pool", help="train the candidates")
    pool.add_argument("--out", type=Path, default=Path("pool"))
    scores = commands.add_parser("scores", help="score them, and write the tables")
    scores.add_argument("--pool", type=Path, default=Path("pool"))
    scores.add_argument("--out", type=Path, default=HERE / "results" / "selection.json")
    for command in (pool, scores):
        command.add_argument("--seeds", type=int, default=1)
        command.add_argument("--processes", type=int, default=2)
        command.add_argument("--collections", default="", help="comma-separated; default: all")
    args = parser.parse_args()
    if args.command == "pool":
        build(args)
    else:
        score(args)


if __name__ == "__main__":
    main()
