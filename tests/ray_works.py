"""What the processes of a Ray cluster do in the tests; they import this file."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domadapt.runs.cell import Cell, Cells

#: Which node of the test's cluster a process is on: a variable that only the second one has.
NODE = "DOMADAPT_TEST_NODE"


def encoder() -> nn.Module:
    """A backbone of fixed weights, to be frozen."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU())


class Hidden(Cells):
    """A folder that the second node does not see."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _seen, (self.folder,)


def _seen(folder: Path) -> Cells:
    return Cells(Path("/nowhere") / folder.name if NODE in os.environ else folder)


def wait_for(file: Path) -> None:
    """Wait until a file is there, but not for ever."""
    until = time.monotonic() + 120
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.05)


def where(cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
    """A cell that says where it was made, and reads what it needs."""
    meet = Path(cell.config["meet"])
    (meet / os.environ.get(NODE, "1")).touch()
    # However late one of the nodes begins, something is left for it.
    wait_for(meet / "1")
    wait_for(meet / "2")
    needed = [cells.place(key) / "output.txt" for key in cell.needs]
    text = "".join(file.read_text() for file in needed) + cell.method
    (made / "output.txt").write_text(text)
    (made / "deep").mkdir()
    (made / "deep" / "numbers.bin").write_bytes(bytes(range(256)))
    return {
        "node": os.environ.get(NODE, "1"),
        "folder": str(cells.folder),
        "host": socket.gethostname(),
        "threads": torch.get_num_threads(),
        "variable": os.environ["OMP_NUM_THREADS"],
    }
