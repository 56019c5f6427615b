"""What a process of a Ray cluster does with the cells that the driver gives it (`ray_engine`)."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from domadapt.checkpoint import write_atomically
from domadapt.errors import DomadaptError
from domadapt.memory import keep_freed_memory
from domadapt.runs.cell import Cell, Cells, Work
from domadapt.runs.engine import PAUSE

#: Seconds that a finished cell may take until another machine sees it in a shared folder.
SEEN = 60.0


@runtime_checkable
class Travelling(Protocol):
    """What a `Work` may have so that it can be done on machines that lack something of it."""

    @property
    def shares_cache(self) -> bool:
        """Whether cells of a task share files in ``cache/``, which are to be made once."""

    def files(self) -> list[str]:
        """The absolute paths of a person's own files and folders that it reads."""

    def moved(self, places: Mapping[str, str]) -> Any:
        """The same work where these files lie elsewhere."""

    def prepare(self, cell: Cell, cells: Cells) -> None:
        """Make what the cells of a task share; a `DomadaptError` says what this machine lacks."""


class Server:
    """A process of the cluster: it does what the driver says, one thing at a time."""

    def about(self) -> tuple[str, str, dict[str, str]]:
        """Its machine, for Ray and for a person, and its versions."""
        import ray

        context = ray.get_runtime_context()
        return context.get_node_id(), socket.gethostname(), versions_here()

    def begin(
        self,
        cells: Cells,
        work: Work,
        files: Mapping[str, str | None],
        token: str,
        far: str,
        threads: int,
    ) -> tuple[bool, list[str]]:
        """Whether it sees the driver's folder, and which of the person's files it lacks."""
        import torch

        torch.set_num_threads(threads)
        keep_freed_memory()
        self.own, self.work = _own_folder(far), work
        file = token_file(cells, token)
        self.near = file.is_file() and file.read_text(encoding="ascii") == token
        self.cells = cells if self.near else Cells(self.own)
        #: A cell that was sent back; the next thing that is said means that it has arrived.
        self.sent: str | None = None
        return self.near, [path for path, content in files.items() if content_of(path) != content]

    def receive(self, paths: Sequence[str], *contents: bytes) -> None:
        """Take files that this machine lacks."""
        places = {}
        for path, content in zip(paths, contents, strict=True):
            # In a folder of its content, as the name of the file is part of what a cell is called.
            folder = self.own / "files" / hashlib.sha256(content).hexdigest()[:16]
            place = folder / Path(path).name
            put(place, content)
            places[path] = str(place)
        assert isinstance(self.work, Travelling)
        self.work = self.work.moved(places)

    def prepare(self, cell: Cell, cache: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
        """Make what a task's cells share; what it lacks, or the new files of the cache."""
        folder = self.cells.folder / "cache"
        for name, content in cache.items():
            put(folder / name, content)
        lacks = self._prepared(cell)
        made = folder.glob("*.npy") if folder.is_dir() else ()
        return lacks, {p.name: p.read_bytes() for p in made if p.name not in cache}

    def perform(
        self, cell: Cell, brought: Mapping[str, bytes], keep: bool
    ) -> tuple[str, str | bytes]:
        """Compute a cell.

        Returns:
            "done" with the packed cell where the driver does not see it, "busy" where somebody else
            is at it, "refuses" with the reason where this machine cannot do it.
        """
        if self.sent is not None:
            shutil.rmtree(self.cells.place(self.sent), ignore_errors=True)
            self.sent = None
        try:
            for key, packed in brought.items():
                with self.cells.alone(key):
                    if not self.cells.finished(key):
                        self.cells.unpack(key, packed)
            until = time.monotonic() + SEEN
            while missing := [key for key in cell.needs if not self.cells.finished(key)]:
                if time.monotonic() > until:
                    return "refuses", f"it does not see the finished cell {missing[0]}"
                time.sleep(PAUSE)
            if lacks := self._prepared(cell):
                return "refuses", lacks
            with self.cells.claim(cell.key) as mine:
                if not mine:
                    return "busy", ""
                if not self.cells.finished(cell.key):
                    self.cells.perform(cell, self.work)
            if self.near:
                return "done", ""
            self.sent = None if keep else cell.key
            return "done", self.cells.pack(cell.key)
        except OSError as error:
            return "refuses", f"{error.strerror or error}: {error.filename}"

    def clear(self) -> None:
        """Remove what is left on this machine."""
        shutil.rmtree(self.own, ignore_errors=True)

    def _prepared(self, cell: Cell) -> str:
        """Why this machine cannot do cells of a task; empty where it can."""
        if isinstance(self.work, Travelling):
            try:
                self.work.prepare(cell, self.cells)
            except DomadaptError as error:
                return str(error)
            except Exception:
                # It will happen again where the cell is performed, and is kept as its reason there.
                return ""
        return ""


def _own_folder(name: str) -> Path:
    """A folder of this machine and this user that outlives the process."""
    who = str(os.getuid()) if hasattr(os, "getuid") else "user"
    base = Path(tempfile.gettempdir()) / f"domadapt-ray-{who}"
    base.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and base.stat().st_uid != os.getuid():
        raise DomadaptError(f"{base} belongs to another user; set TMPDIR to a folder of your own.")
    return base / name


def token_file(cells: Cells, token: str) -> Path:
    """Where the driver writes its token."""
    return cells.folder / "locks" / f"ray-{token}"


def versions_here() -> dict[str, str]:
    """What must be the same everywhere for results to stand in one table."""
    import torch

    import domadapt

    python = ".".join(platform.python_version_tuple()[:2])
    return {"domadapt": domadapt.__version__, "torch": torch.__version__, "Python": python}


def content_of(path: str) -> str | None:
    """A file's content; of a folder that it is one, and None of what is not there."""
    file = Path(path)
    if file.is_dir():
        return "folder"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def put(path: Path, content: bytes) -> None:
    """Write a file as a whole, unless it is there."""
    if not path.exists():
        write_atomically(path, lambda p: p.write_bytes(content))
