"""A suite's work of which a test kills a part; the processes of a Ray cluster import this file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ray_works import NODE, wait_for

from domadapt.benchmark.work import SuiteWork
from domadapt.runs.cell import Cell, Cells


class SecondNodeHangs(SuiteWork):
    """The work of a suite, but the second node never ends its second cell."""

    def __call__(self, cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        """A cell's result."""
        with (cells.folder / "calls.txt").open("a") as file:
            file.write(f"{cell.key}\n")
        if NODE in os.environ:
            if (cells.folder / "second").exists():
                (cells.folder / "hangs").write_text(cell.key)
                time.sleep(600)
            (cells.folder / "second").touch()
        elif len((cells.folder / "calls.txt").read_text().split()) > 3:
            # However late the second node begins, something is left for it.
            wait_for(cells.folder / "hangs")
        return super().__call__(cell, room, made, cells)
