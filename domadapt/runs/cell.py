"""A cell: one training of a comparison, and the folder that keeps many of them.

A cell is named by the hash of its whole configuration. It is written aside and renamed when it is
complete, so that its folder is either whole or not there; what was under way goes on from its last
checkpoint. A claim is a locked file: it falls with the process that holds it, however that ends, so
that several runners share one folder and nobody waits for the dead.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from domadapt.checkpoint import read_json, write_json
from domadapt.errors import DomadaptError

#: What a finished cell always holds.
RESULT = "result.json"
SCHEMA = 1
#: A full or read-only disk is no property of a cell, and would fail all that follow.
_NOT_ITS_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Cell:
    """One training: a method on a task with a seed.

    Attributes:
        task, method, seed: what tables call it.
        config: everything that decides its result, as plain values for JSON.
        needs: the keys of cells that must be finished before; it goes on from them.
    """

    task: str
    method: str
    seed: int
    config: Mapping[str, Any] = field(hash=False)
    needs: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """The hash of the configuration."""
        said = json.dumps([SCHEMA, self.task, self.seed, self.config], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    @property
    def title(self) -> str:
        """The cell for a person."""
        return f"{self.method} on {self.task}, seed {self.seed}"


#: ``work(cell, room, made, cells)`` computes a cell: `room` is a folder of its own that outlives a
#: kill, `made` an empty one whose files become the finished cell, beside the returned result.
Work = Callable[[Cell, Path, Path, "Cells"], Mapping[str, Any]]


class Cells:
    """The folder of cells: ``cells/KEY`` finished, ``work/KEY`` under way, ``locks/KEY.lock``."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def place(self, key: str) -> Path:
        """Where a finished cell lies."""
        return self.folder / "cells" / key

    def finished(self, key: str) -> bool:
        """Whether a cell is there, as a result or as a failure: it is not run again."""
        return (self.place(key) / RESULT).exists()

    def result(self, key: str) -> dict[str, Any]:
        """What a finished cell found; its ``error`` is None unless it failed.

        Raises:
            DomadaptError: the cell is not finished, or was written by another version.
        """
        found = read_json(self.place(key) / RESULT)
        if found.get("schema") != SCHEMA:
            raise DomadaptError(
                f"{self.place(key)} has schema {found.get('schema')!r}, and {SCHEMA} is required; "
                "give another folder."
            )
        return dict(found)

    def error(self, key: str) -> str | None:
        """Why a finished cell failed; None where it did not."""
        reason: str | None = self.result(key)["error"]
        return reason

    def keys(self) -> set[str]:
        """The keys of all finished cells, failures among them."""
        with os.scandir(self._made("cells")) as found:
            return {entry.name for entry in found if not entry.name.startswith(".")}

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the cell is this process's own while the context lasts; nobody waits for it."""
        lock = FileLock(self._made("locks") / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """No other process does the same meanwhile: whoever comes second waits."""
        with FileLock(self._made("locks") / f"{what}.lock"):
            yield

    def perform(self, cell: Cell, work: Work) -> None:
        """Compute a claimed cell and keep it; what goes wrong is kept as its reason.

        Raises:
            OSError: the disk is full or cannot be written to.
        """
        failed = [reason for key in cell.needs if (reason := self.error(key)) is not None]
        if failed:
            self.fail(cell, f"It goes on from another cell, which failed: {failed[0]}")
            return
        room = self._made("work") / cell.key
        made = room / "cell"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        try:
            found = dict(work(cell, room, made, self))
        except DomadaptError as error:
            self.fail(cell, str(error))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NOT_ITS_FAULT:
                raise
            said = f"{type(error).__name__}: {error}"
            self.fail(cell, said, traceback.format_exc())
        else:
            self._keep(cell, made, {"error": None, **found})

    def fail(self, cell: Cell, reason: str, details: str = "") -> None:
        """Keep the reason why a claimed cell has no result."""
        made = self._made("work") / cell.key / "cell"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        self._keep(cell, made, {"error": reason, **({"traceback": details} if details else {})})

    def pack(self, key: str) -> bytes:
        """The files of a finished cell as one piece, for a machine that does not see the folder."""
        place, whole = self.place(key), io.BytesIO()
        with zipfile.ZipFile(whole, "w", strict_timestamps=False) as packed:
            for file in sorted(place.rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(place).as_posix())
        return whole.getvalue()

    def unpack(self, key: str, packed: bytes) -> None:
        """Keep a claimed cell that was finished elsewhere.

        Raises:
            DomadaptError: it is another cell.
            OSError: the disk is full or cannot be written to.
        """
        made = self._made("work") / key / "cell"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(packed)) as files:
            files.extractall(made)
        found = read_json(made / RESULT)
        if found.get("key") != key:
            raise DomadaptError(f"The cell {key} was asked for, and {found.get('key')} came.")
        # Once more, as this flushes it to the disk before the cell has its name.
        write_json(made / RESULT, found)
        self._named(key, made)

    def sweep(self) -> None:
        """Remove what a kill left of cells that were finished a moment before."""
        with os.scandir(self._made("work")) as found:
            left = [entry.name for entry in found]
        for name in left:
            if self.finished(name):
                with self.claim(name) as mine:
                    if mine:
                        shutil.rmtree(self.folder / "work" / name, ignore_errors=True)

    def forget_failures(self) -> int:
        """Let failed cells be run again; returns how many there were."""
        failed = [key for key in self.keys() if self.error(key) is not None]
        for key in failed:
            # Renamed first: a removal that is interrupted leaves no half of a cell.
            gone = self._made("work") / f".{key}"
            shutil.rmtree(gone, ignore_errors=True)
            self.place(key).rename(gone)
            shutil.rmtree(gone)
        return len(failed)

    def _keep(self, cell: Cell, made: Path, found: Mapping[str, Any]) -> None:
        who = {"task": cell.task, "method": cell.method, "seed": cell.seed}
        about = {"schema": SCHEMA, "key": cell.key, **who, "config": dict(cell.config)}
        write_json(made / RESULT, {**about, **found})
        self._named(cell.key, made)

    def _named(self, key: str, made: Path) -> None:
        self._made("cells")
        made.rename(self.place(key))
        shutil.rmtree(made.parent, ignore_errors=True)

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
