"""What cells do in the tests of cells and engine; processes that are spawned import it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.runs.cell import Cell, Cells


def cell(
    method: str = "works", task: str = "a", seed: int = 0, needs: tuple[str, ...] = ()
) -> Cell:
    """A cell whose method names what it does."""
    return Cell(task, method, seed, {"method": method}, needs)


def work(cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
    """Do what the method's name says."""
    with (cells.folder / "calls.txt").open("a") as file:
        file.write(f"{cell.key}\n")
    if cell.method == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.method == "dies once" and not (room / "mark").exists():
        (room / "mark").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.method == "refuses":
        raise DomadaptError("This needs something else.")
    if cell.method == "breaks":
        raise ZeroDivisionError("no number")
    if cell.method == "full disk":
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
    (made / "output.txt").write_text("whole")
    return {"value": cell.seed, "threads": os.environ.get("OMP_NUM_THREADS")}


def hold(folder: str, key: str) -> None:
    """Claim a cell, say so, and never let go."""
    with Cells(folder).claim(key) as mine:
        print(mine, flush=True)
        time.sleep(120)


if __name__ == "__main__":
    hold(*sys.argv[1:])
