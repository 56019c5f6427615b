"""How far a benchmark is, read from its folder, by whomever it is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from domadapt.benchmark.cells import Planned
from domadapt.errors import DomadaptError
from domadapt.runs.cell import RESULT, Cells

#: Finished cells from which the pace is taken.
WINDOW = 24
#: Seconds without a finished cell after which a watcher says so, and says so again.
QUIET = 300.0


@dataclass(frozen=True)
class Pace:
    """How many cells are finished and failed, of how many; seconds left, None where unknown."""

    done: int
    failed: int
    total: int
    left: float | None
    latest: str

    def said(self) -> str:
        """The same for a person."""
        failed = f", {self.failed} failed" if self.failed else ""
        left = "" if self.left is None or self.done == self.total else f", {_time(self.left)} left"
        latest = f"  {self.latest}" if self.latest else ""
        return f"{self.done} of {self.total} cells{failed}{left}{latest}"


class Follower:
    """Reads what is new in the folder each time it is asked; each cell is read once."""

    def __init__(self, cells: Cells, of: Sequence[Planned]) -> None:
        self.cells = cells
        self.wanted = {cell.key: cell for cell in of}
        self.failed = 0
        #: When each cell was finished, and the seconds that it took, in the order of reading.
        self.seen: dict[str, tuple[float, float]] = {}
        self.latest = ""
        self.begun = time.time()

    def look(self) -> Pace:
        """How far it is now."""
        for key in self.cells.keys() - self.seen.keys():
            cell = self.wanted.get(key)
            if cell is None:
                continue
            try:
                result = self.cells.result(key)
                when = (self.cells.place(key) / RESULT).stat().st_mtime
            except (DomadaptError, OSError):
                # Taken away between listing and reading, to be run again.
                continue
            self.seen[key] = (when, float(result.get("wall_seconds", 0.0)))
            if result["error"] is not None:
                self.failed += 1
                self.latest = f"{cell.method} on {cell.task}, seed {cell.seed}: {result['error']}"
            else:
                accuracy = 100 * result["metrics"]["accuracy"]
                stamp = " (oracle)" if result["oracle"] else ""
                self.latest = (
                    f"{cell.method}{stamp} on {cell.task}, seed {cell.seed}: {accuracy:.1f} %"
                )
        return Pace(len(self.seen), self.failed, len(self.wanted), self._left(), self.latest)

    def _left(self) -> float | None:
        """Work left over pace: what is left costs as cells of the same method did."""
        fresh = sorted(v for v in self.seen.values() if v[0] >= self.begun - 600)[-WINDOW:]
        if len(fresh) < 2:
            return None
        # The first of the window marks its beginning; its own work was done before.
        spent = max(fresh[-1][0], time.time() - fresh[-1][1]) - fresh[0][0]
        work = sum(seconds for _, seconds in fresh[1:])
        costs: dict[str, list[float]] = {}
        for key, (_, seconds) in self.seen.items():
            costs.setdefault(self.wanted[key].method, []).append(seconds)
        means = {method: sum(v) / len(v) for method, v in costs.items()}
        usual = sum(means.values()) / len(means)
        left = sum(
            means.get(cell.method, usual)
            for key, cell in self.wanted.items()
            if key not in self.seen
        )
        return left * spent / work if work > 0 and spent > 0 else None


def watch(folder: Path, of: Sequence[Planned], say: Callable[[str], None], pause: float) -> Pace:
    """Tell how a benchmark goes on until all cells are finished."""
    follower = Follower(Cells(folder), of)
    before, since, told = None, time.monotonic(), 0.0
    while True:
        pace = follower.look()
        if before is None or pace.done != before.done:
            say(pace.said())
            since, told = time.monotonic(), 0.0
        if pace.done >= pace.total:
            return pace
        quiet = time.monotonic() - since
        if quiet - told >= QUIET:
            told = quiet
            say(
                f"No cell was finished for {_time(quiet)}; if nothing runs any more, the command "
                "that began it goes on."
            )
        before = pace
        time.sleep(pause)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
