"""What a run shows while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from domadapt.curves import Log
from domadapt.runs.candidate import Progress


def _losses(point: Log) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in point.losses.items())


def _pace(point: Log) -> str:
    """Rate and time left, from all of the training so far, whichever process did it."""
    rate = point.step / max(point.seconds, 1e-9)
    left = round((point.steps - point.step) / max(rate, 1e-9))
    minutes, seconds = divmod(left, 60)
    time = f"{seconds} s" if not minutes else f"{minutes} min {seconds:02} s"
    if minutes >= 60:
        time = f"{minutes // 60} h {minutes % 60:02} min"
    return f"{rate:.{0 if rate >= 10 else 1}f} steps/s, {time} left"


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
        """Print warnings at once, and losses, rate and time left where a tenth is done."""
        for warning in point.warnings:
            print(f"  {self.name} warning: {warning}", file=self.file, flush=True)
        done = point.step / point.steps
        if done + 1e-9 < self.next:
            return
        self.next = done + 0.1
        print(
            f"  {self.name} {point.step}/{point.steps}  {_losses(point)}  {_pace(point)}",
            file=self.file,
            flush=True,
        )


class Rich:
    """One bar per part of the run; a candidate's with its losses, rate and time left."""

    def __init__(self, bars: Bars, names: Sequence[str]) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {
            name: bars.add_task(name, total=1, start=False, said="waiting") for name in names
        }
        self.current: TaskID | None = None

    def stage(self, name: str, steps: int) -> None:
        """Start the bar of this part, or one without length for what has no steps."""
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=None, said="")
        self.finish()
        self.current = self.tasks[name]
        self.bars.start_task(self.current)
        self.bars.update(self.current, said="")
        # A bar of unknown length pulses.
        self.bars.tasks[self.current].total = steps or None

    def finish(self) -> None:
        """Fill the bar of the part that is over."""
        if self.current is not None:
            total = self.bars.tasks[self.current].total or 1
            self.bars.update(self.current, total=total, completed=total, refresh=True)

    def log(self, point: Log) -> None:
        """Move the bar and show the losses; warnings stay above the bars."""
        if self.current is not None:
            name = str(self.bars.tasks[self.bars.task_ids.index(self.current)].description)
            for warning in point.warnings:
                self.bars.console.print(Text(f"{name} warning: {warning}", style="yellow"))
            said = f"{point.step}/{point.steps}  {_pace(point)}  {_losses(point)}"
            self.bars.update(self.current, completed=point.step, said=said)


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
    """Bars where `file` (standard error) is a terminal, else plain lines; nothing if `quiet`.

    `names` are the parts of the run in order.
    """
    out = file or sys.stderr
    if quiet:
        yield Silent()
        return
    if not out.isatty():
        yield Lines(out)
        return
    bars = Bars(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[said]}", table_column=Column(no_wrap=False)),
        console=Console(file=out),
    )
    with bars:
        shown = Rich(bars, names)
        yield shown
        shown.finish()
