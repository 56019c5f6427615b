"""Runs a suite in processes that are killed at random moments, and says how many were.

    python benchmark_killed.py SUITE.toml FOLDER KILLS

They are forked, so that none pays for importing torch again.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from domadapt.benchmark import read_suite
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.work import SuiteWork
from domadapt.runs.cell import Cells
from domadapt.runs.engine import shared


def main(file: str, folder: str, kills: int) -> None:
    """Kill so often, then let one finish."""
    torch.set_num_threads(1)
    suite = read_suite(file)
    cells, wanted = Cells(folder), cells_of(suite)
    write_plan(Path(folder), suite, planned(wanted))
    # What is imported by the first cell is so once for all.
    with tempfile.TemporaryDirectory() as other:
        Cells(other).perform(wanted[0], SuiteWork(suite))
    draw, killed, finished = random.Random(7), 0, []
    while True:
        child = os.fork()
        if child == 0:
            work = SuiteWork(suite)
            for cell in shared(cells, wanted):
                cells.perform(cell, work)
            os._exit(0)
        if killed < kills:
            # At once where only as many cells are left as kills: on a quick machine, too, none of
            # them comes too late.
            until = time.monotonic() + draw.uniform(0.02, 0.8)
            while time.monotonic() < until and len(wanted) - len(cells.keys()) > kills - killed:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        finished.append(len(cells.keys()))
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
            continue
        break
    print(killed, status, *finished)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
