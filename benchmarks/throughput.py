"""Cells per hour of `domadapt benchmark`, beside the same cells in a plain loop in one process.

    python benchmarks/throughput.py                  # the methods of digits.toml on two pairs
    python benchmarks/throughput.py --tasks digits:printed->photo --rounds 5
    python benchmarks/throughput.py --ceiling        # what dividing the cores can give at most

Both do the whole of each cell (training, scores, what a verdict needs) with the same steps, in
programs of their own whose start counts as well. The loop does one cell after the other with all
cores for torch; the runner divides the cores among processes of one thread, shares what cells have
in common and keeps freed memory. The loop stands twice: as a script would do it, each cell by
itself ("alone": one that starts from the source-only model trains that first), and with the
source-only models of the runner ("plain"), so that what remains is what dividing the cores gives.
All load the data once. They take turns, each order in turn, so that whatever else the machine does
meets all. What is told is the ratio of their times, round by round.

``--ceiling`` measures training steps alone: those of one process with all cores for torch, and
those of as many processes of one thread as there are cores, all at once. The ratio of their sums
is what a runner could reach if a cell were nothing but steps and a start cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from domadapt.benchmark.cells import cells_of
from domadapt.benchmark.suite import Entry, Suite, read_suite, spec_of_model
from domadapt.benchmark.work import SuiteWork
from domadapt.data import load_task
from domadapt.defaults import training_for
from domadapt.memory import keep_freed_memory
from domadapt.methods import is_source_free
from domadapt.report.report import versions
from domadapt.runs.candidate import train_candidate
from domadapt.runs.cell import Cells
from domadapt.runs.engine import cores
from domadapt.runs.plan import make_plan

HERE = Path(__file__).parent
#: How many training steps are timed for the ceiling, after as many of warming up.
STEPS = 60
#: Ways to do all cells, in the order of the first round.
WAYS = ("alone", "plain", "runner")


def suite_of(args: argparse.Namespace) -> Suite:
    return replace(read_suite(args.suite), tasks=tuple(args.tasks), seeds=args.seeds).checked()


def plain(suite: Suite, folder: Path, alone: bool = False) -> None:
    """Every cell, one after the other, in this process.

    `alone`: a cell that goes on from another trains that one itself, though it is there.
    """
    torch.set_num_threads(cores())
    cells, work = Cells(folder), SuiteWork(suite)
    every = {cell.key: cell for cell in cells_of(suite, threads=cores(), device="cpu")}
    wanted = dict(every)
    while wanted:
        for key, cell in list(wanted.items()):
            if wanted.keys() & set(cell.needs):
                continue
            for need in cell.needs if alone else ():
                shutil.rmtree(cells.place(need))
                cells.perform(every[need], work)
            cells.perform(cell, work)
            del wanted[key]


def runner(suite: Suite, folder: Path) -> None:
    """The same by the runner, with its tables and its page."""
    from domadapt.benchmark import benchmark

    benchmark(suite, folder)


def steps_per_second(method: str, args: argparse.Namespace) -> float:
    """Training steps a second, of the second half of a run of twice `STEPS`."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    suite = suite_of(args)
    plan = make_plan(load_task(suite.tasks[0]), spec_of_model(suite.model))
    how = training_for(plan.kind, {"steps": 2 * STEPS, "log_every": STEPS, "device": "cpu"})
    first, last = train_candidate(plan, method, {}, how).history["seconds"]
    return STEPS / (last - first)


def ceiling(args: argparse.Namespace) -> dict[str, Any]:
    """Steps a second of each method of the suite, both ways."""
    named = [entry for entry in suite_of(args).methods if isinstance(entry, Entry)]
    methods = [e.method for e in named if not e.oracle and not is_source_free(e.method)]
    rates: dict[str, Any] = {}
    for method in methods:
        rates[method] = {"one": [], "divided": []}
        for _ in range(args.rounds):
            for how, processes, threads in (("one", 1, cores()), ("divided", cores(), 1)):
                command = [sys.executable, __file__, "--do", method, "--threads", str(threads)]
                command += ["--suite", str(args.suite), "--tasks", *args.tasks]
                begun = [
                    subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    for _ in range(processes)
                ]
                said = [process.communicate()[0] for process in begun]
                if any(process.returncode for process in begun):
                    sys.exit(f"{method} failed.")
                rates[method][how].append(round(sum(float(s.split()[-1]) for s in said), 1))
        middle = {how: statistics.median(rates[method][how]) for how in rates[method]}
        rates[method]["ratio"] = round(middle["divided"] / middle["one"], 2)
        print(method, rates[method], flush=True)
    return rates


def timed(which: str, args: argparse.Namespace) -> float:
    """Seconds of a program that does all cells in a new folder."""
    command = [sys.executable, __file__, "--do", which, "--seeds", str(args.seeds)]
    command += ["--suite", str(args.suite), "--tasks", *args.tasks]
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run([*command, "--folder", folder], check=True, env=env)
        seconds = time.perf_counter() - begun
        failed = [k for k in Cells(folder).keys() if Cells(folder).error(k)]  # noqa: SIM118
        if failed:
            sys.exit(f"{len(failed)} cells failed, such as {Cells(folder).error(failed[0])}")
        args.cells = len(Cells(folder).keys())
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", type=Path, default=HERE / "digits.toml")
    pairs = ["digits:printed->handwritten", "digits:handwritten->photo"]
    parser.add_argument("--tasks", nargs="+", default=pairs)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "throughput.json")
    parser.add_argument("--ceiling", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--do", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do not in ("", *WAYS):
        print(steps_per_second(args.do, args))
        return
    if args.ceiling:
        told = json.loads(args.out.read_text()) if args.out.exists() else {}
        told["ceiling"] = {"cores": cores(), "versions": versions(), "steps": ceiling(args)}
        args.out.write_text(json.dumps(told, indent=1) + "\n")
        return
    if args.do:
        if args.do == "runner":
            runner(suite_of(args), args.folder)
        else:
            plain(suite_of(args), args.folder, alone=args.do == "alone")
        return
    told = json.loads(args.out.read_text()) if args.out.exists() else {}
    rounds: list[dict[str, float]] = []
    for number in range(args.rounds):
        turn = WAYS if number % 2 == 0 else WAYS[::-1]
        rounds.append({which: round(timed(which, args), 1) for which in turn})
        ratios = {
            way: [round(r[way] / r["runner"], 3) for r in rounds] for way in ("alone", "plain")
        }
        print(rounds[-1], {way: found[-1] for way, found in ratios.items()}, flush=True)
        told |= {
            "suite": args.suite.name,
            "tasks": args.tasks,
            "seeds": args.seeds,
            "cells": args.cells,
            "cores": cores(),
            "versions": versions(),
            "rounds": rounds,
            "ratio": {
                way: {"median": round(statistics.median(found), 3), "of": sorted(found)}
                for way, found in ratios.items()
            },
        }
        args.out.write_text(json.dumps(told, indent=1) + "\n")
    for way, found in ratios.items():
        times = statistics.median(found)
        print(f"{args.cells} cells: the loop ({way}) takes {times:.2f} times as long.")


if __name__ == "__main__":
    main()
