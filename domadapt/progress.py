"""What a run shows while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from domadapt.runs.candidate import Progress
from domadapt.trainer import Log


def _losses(point: Log) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in point.losses.items())


class Lines:
    """A line at each tenth of a candidate's steps, for logs and pipes."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.name, self.next = "", 0.0

    def stage(self, name: str, steps: int) -> None:
        """Name the part that begins."""
        self.name, self.next = name, 0.1
        of = f" ({steps} steps)" if steps else ""
        print(f"{name}{of} ...", file=self.file, flush=True)

    def log(self, point: Log) -> None:
        """Print the losses, the rate and the time left where a tenth is done."""
        done = point.step / point.steps
        if done + 1e-9 < self.next:
            return
        self.next = done + 0.1
        rate = point.step / max(point.seconds, 1e-9)
        left = (point.steps - point.step) / max(rate, 1e-9)
        print(
            f"  {self.name} {point.step}/{point.steps}  {_losses(point)}  {rate:.0f} steps/s, "
            f"{left:.0f} s left",
            file=self.file,
            flush=True,
        )


class Rich:
    """One bar per candidate with its losses, rate and time left."""

    def __init__(self, bars: Bars, names: Sequence[str]) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {
            name: bars.add_task(name, total=None, start=False, losses="waiting") for name in names
        }
        self.current: TaskID | None = None

    def stage(self, name: str, steps: int) -> None:
        """Start the bar of this part, or one without length for what has no steps."""
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=None, losses="")
        self.finish()
        self.current = self.tasks[name]
        self.bars.start_task(self.current)
        self.bars.update(self.current, total=steps or None, losses="")

    def finish(self) -> None:
        """Fill the bar of the part that is over."""
        if self.current is not None:
            total = self.bars.tasks[self.current].total or 1
            self.bars.update(self.current, total=total, completed=total)

    def log(self, point: Log) -> None:
        """Move the bar and show the losses."""
        if self.current is not None:
            rate = point.step / max(point.seconds, 1e-9)
            self.bars.update(
                self.current, completed=point.step, losses=f"{rate:.0f} steps/s  {_losses(point)}"
            )


class Silent:
    """Nothing at all: what all processes but the first show."""

    def stage(self, name: str, steps: int) -> None:
        """Show nothing."""

    def log(self, point: Log) -> None:
        """Show nothing."""


@contextmanager
def make_progress(
    names: Sequence[str], file: TextIO | None = None, quiet: bool = False
) -> Iterator[Progress]:
    """Bars where `file` (standard error) is a terminal, else plain lines; nothing if `quiet`."""
    out = file or sys.stderr
    if quiet:
        yield Silent()
        return
    if not out.isatty():
        yield Lines(out)
        return
    bars = Bars(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
        console=Console(file=out),
    )
    with bars:
        shown = Rich(bars, names)
        yield shown
        shown.finish()
