"""Cells per hour of `domadapt benchmark`, beside the same cells in a plain loop in one process.

    python benchmarks/throughput.py                  # the methods of digits.toml on two pairs
    python benchmarks/throughput.py --tasks digits:printed->photo --rounds 5

Both do the whole of each cell (training, scores, what a verdict needs) with the same steps, in
programs of their own whose start counts as well. The loop does one cell after the other with all
cores for torch, as a script would; the runner divides the cores among processes of one thread,
shares what cells have in common and keeps freed memory. They take turns, first one and then the
other going first, so that whatever else the machine does meets both. What is told is the ratio of
their times, round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from domadapt.benchmark.cells import cells_of
from domadapt.benchmark.suite import Suite, read_suite
from domadapt.benchmark.work import SuiteWork
from domadapt.report.report import versions
from domadapt.runs.cell import Cells
from domadapt.runs.engine import cores

HERE = Path(__file__).parent


def suite_of(args: argparse.Namespace) -> Suite:
    return replace(read_suite(args.suite), tasks=tuple(args.tasks), seeds=args.seeds).checked()


def plain(suite: Suite, folder: Path) -> None:
    """Every cell, one after the other, in this process."""
    torch.set_num_threads(cores())
    cells, work = Cells(folder), SuiteWork(suite)
    wanted = {cell.key: cell for cell in cells_of(suite, threads=cores(), device="cpu")}
    while wanted:
        for key, cell in list(wanted.items()):
            if not wanted.keys() & set(cell.needs):
                cells.perform(cell, work)
                del wanted[key]


def runner(suite: Suite, folder: Path) -> None:
    """The same by the runner, with its tables and its page."""
    from domadapt.benchmark import benchmark

    benchmark(suite, folder)


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
    parser.add_argument("--do", choices=["plain", "runner"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        (plain if args.do == "plain" else runner)(suite_of(args), args.folder)
        return
    rounds: list[dict[str, float]] = []
    for number in range(args.rounds):
        turn = ["plain", "runner"] if number % 2 == 0 else ["runner", "plain"]
        rounds.append({which: round(timed(which, args), 1) for which in turn})
        print(rounds[-1], f"{rounds[-1]['plain'] / rounds[-1]['runner']:.2f}", flush=True)
        ratios = [r["plain"] / r["runner"] for r in rounds]
        about = {
            "suite": args.suite.name,
            "tasks": args.tasks,
            "seeds": args.seeds,
            "cells": args.cells,
            "cores": cores(),
            "versions": versions(),
            "rounds": rounds,
            "ratio": {"median": round(statistics.median(ratios), 3), "of": sorted(ratios)},
        }
        args.out.write_text(json.dumps(about, indent=1) + "\n")
    print(f"{args.cells} cells: the loop takes {statistics.median(ratios):.2f} times as long.")


if __name__ == "__main__":
    main()
