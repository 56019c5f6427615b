"""The local engine: processes that share the cells of a folder until all are finished.

The cores are divided: one process per core with one thread each by default, one per GPU where there
are any. Processes are spawned, end with the one that started them, and claim cells one at a time,
so that any number of runners may work on one folder.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.memory import keep_freed_memory
from domadapt.runs.cell import Cell, Cells, Work

#: Seconds between two looks at cells that others are at.
PAUSE = 0.25
#: A cell whose process died this often is recorded as failed.
DEATHS = 2
#: What libraries read their number of threads from, before they are imported.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def divided(threads: int = 1, gpus: int = 0) -> int:
    """How many processes of so many threads fit: one per GPU where there are any, else by cores."""
    return gpus if gpus else max(1, cores() // threads)


def shared(cells: Cells, all_of_them: Sequence[Cell], first: int = 0) -> Iterator[Cell]:
    """Claim cells that are not finished, one at a time, until all are; the claim lasts a turn.

    Cells of the task that was last worked on come first, so that what they share is made once; a
    cell waits for those that it needs. Whoever had a claim and died has lost it.

    Args:
        cells: the folder.
        all_of_them: those that are wanted, in the order in which they are to be run.
        first: the number of the task to begin with, so that processes begin with different ones.
    """
    pending: dict[str, list[Cell]] = {}
    for cell in all_of_them:
        pending.setdefault(cell.task, []).append(cell)
    names = list(pending)
    turn = first % len(names) if names else 0
    names = names[turn:] + names[:turn]
    while any(pending.values()):
        worked = False
        for name in names:
            before = None
            # Once more after each pass that did something: it may be what others waited for.
            while pending[name] and before != len(pending[name]):
                before = len(pending[name])
                for cell in list(pending[name]):
                    if _due(cells, cell):
                        with cells.claim(cell.key) as mine:
                            if mine and not cells.finished(cell.key):
                                worked = True
                                yield cell
                pending[name] = [c for c in pending[name] if not cells.finished(c.key)]
        if not worked and any(pending.values()):
            time.sleep(PAUSE)
    cells.sweep()


def _due(cells: Cells, cell: Cell) -> bool:
    return not cells.finished(cell.key) and all(cells.finished(key) for key in cell.needs)


def run(
    cells: Cells,
    wanted: Sequence[Cell],
    work: Work,
    *,
    processes: int,
    threads: int = 1,
    gpus: int = 0,
    look: Callable[[], None] | None = None,
) -> None:
    """Compute all wanted cells on this machine; those that are finished are not run again.

    A process that dies is replaced, and its cell is run again, at most twice.

    Args:
        cells: the folder.
        wanted: the cells; what one of them needs is among them.
        work: computes one; it and the cells are sent to the processes, once each.
        processes: how many.
        threads: of each process.
        gpus: how many there are; the processes take turns with them.
        look: is called at least once a second, to tell how far it is.

    Raises:
        DomadaptError: a process could not start or could not write.
    """
    if processes < 1 or threads < 1:
        raise DomadaptError(
            f"processes and threads must be at least 1; got {processes} and {threads}."
        )
    todo = [cell for cell in wanted if not cells.finished(cell.key)]
    by_key = {cell.key: cell for cell in todo}
    deaths: Counter[str] = Counter()
    tasks = len({cell.task for cell in todo})
    crew: list[_Hand] = []
    try:
        for index in range(min(processes, len(todo))):
            first = index * tasks // processes
            crew.append(_hire(cells, todo, work, index, first, threads, gpus))
        while crew:
            wait([hand.process.sentinel for hand in crew] + [h.pipe for h in crew], timeout=1.0)
            for hand in list(crew):
                hand.listen()
                if hand.process.is_alive():
                    continue
                hand.process.join()
                hand.listen()
                crew.remove(hand)
                if hand.process.exitcode == 0:
                    continue
                _bury(cells, by_key, hand, deaths)
                crew.append(_hire(cells, todo, work, hand.index, hand.first, threads, gpus))
            if look is not None:
                look()
    finally:
        for hand in crew:
            hand.process.terminate()
        for hand in crew:
            hand.process.join()


@dataclass
class _Hand:
    """A process, and what is known of what it does."""

    index: int
    first: int
    process: Any
    pipe: Connection
    at: str | None = None
    refused: str | None = None
    began: bool = False

    def listen(self) -> None:
        """Take in what it has said since."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                what, said = self.pipe.recv()
                self.began = True
                self.at = said if what == "begins" else None
                self.refused = said if what == "refuses" else self.refused


def _hire(
    cells: Cells,
    todo: Sequence[Cell],
    work: Work,
    index: int,
    first: int,
    threads: int,
    gpus: int,
) -> _Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_serve, args=(cells, todo, work, first, threads, theirs), name=f"cells-{index}"
    )
    own = dict.fromkeys(_THREADS, str(threads))
    if gpus > 1:
        own["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
    with _environment(own):
        process.start()
    theirs.close()
    return _Hand(index, first, process, ours)


@contextlib.contextmanager
def _environment(own: dict[str, str]) -> Iterator[None]:
    """These variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _bury(cells: Cells, by_key: dict[str, Cell], hand: _Hand, deaths: Counter[str]) -> None:
    """Note what a dead process was at; refuse to go on where it never got to work."""
    if hand.refused is not None:
        raise DomadaptError(hand.refused)
    if not hand.began:
        raise DomadaptError(
            f"A process ended with exit code {hand.process.exitcode} before its first cell. In a "
            "script, the call must stand under `if __name__ == '__main__':`, as processes are "
            "spawned; other reasons stand above."
        )
    if hand.at is None:
        return
    deaths[hand.at] += 1
    if deaths[hand.at] < DEATHS:
        return
    with cells.claim(hand.at) as mine:
        if mine and not cells.finished(hand.at):
            cells.fail(
                by_key[hand.at],
                f"its process died {DEATHS} times (exit code {hand.process.exitcode}); a negative "
                "code is a signal, and -9 mostly a lack of memory.",
            )


def _serve(
    cells: Cells, todo: Sequence[Cell], work: Work, first: int, threads: int, pipe: Connection
) -> None:
    """What a process does: cell after cell, until none is left or its parent is gone."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        for cell in shared(cells, todo, first):
            pipe.send(("begins", cell.key))
            cells.perform(cell, work)
            pipe.send(("ends", cell.key))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            pipe.send(("refuses", f"{error.strerror or error}: {error.filename}."))
        raise SystemExit(3) from error


def _end_with_parent() -> None:
    """A process whose parent was killed must not go on beside the next one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
