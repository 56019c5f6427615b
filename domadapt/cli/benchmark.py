"""``domadapt benchmark``: compare methods over tasks and seeds."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from domadapt.cli.common import DataRoot, app, say
from domadapt.errors import DomadaptError

Engines = Literal["local", "ray"]


@app.command()
def benchmark(
    suite: Annotated[Path, typer.Argument(help="Suite: a TOML file, such as digits.toml.")],
    out: Annotated[
        Path, typer.Option(help="Folder of cells and tables; the same one goes on.")
    ] = Path("runs/bench"),
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes. Default: the cores over --threads, or one per GPU; of a Ray cluster "
            "as many as it holds."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    seeds: Annotated[
        str | None, typer.Option(help="How many, or which: 5, or 0,1,2. Default: the suite's.")
    ] = None,
    data_root: DataRoot = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed cells again.")] = False,
    engine: Annotated[
        Engines, typer.Option(help="Processes of this machine, or of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster: HOST:PORT, or auto on one of its machines. Default: the "
            "variable RAY_ADDRESS, else a cluster of this machine alone."
        ),
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(help="Share of a GPU of the Ray cluster per cell, such as 0.5. Default: 1."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Run nothing; tell how the benchmark in --out goes on."),
    ] = False,
) -> None:
    """Run a suite and write results.parquet, leaderboard.md, .tex and benchmark.html.

    Killed at any moment, the same command goes on; several at once share the cells of a folder.
    """
    from domadapt.benchmark import benchmark as run
    from domadapt.benchmark import report
    from domadapt.benchmark.pace import watch as follow
    from domadapt.benchmark.results import read_plan

    if watch:
        about, of = read_plan(out)
        follow(out, of, lambda text: say(text, error=True), 5.0)
        # Once trials are chosen there are more cells.
        while about.get("to_come"):
            time.sleep(1.0)
            about, of = read_plan(out)
            if not about.get("to_come"):
                follow(out, of, lambda text: say(text, error=True), 5.0)
        found = report(out)
    else:
        found = run(
            suite,
            out,
            processes=processes,
            threads=threads,
            seeds=None if seeds is None else _seeds(seeds),
            data_root=data_root,
            retry=retry,
            say=lambda text: say(text, error=True),
            command=shlex.join(["domadapt", *sys.argv[1:]]),
            engine=engine,
            address=address,
            gpus_per_cell=gpus_per_cell,
        )
    if found.summary is not None:
        say((out / "leaderboard.md").read_text(encoding="utf-8"))
    for title, why in found.failures:
        say(f"Failed: {title}: {why}", error=True)
    if found.summary is None:
        raise DomadaptError("No cell has a result; mend what stands above and give --retry.")
    say(f"{out} holds results.parquet, leaderboard.md, leaderboard.tex and benchmark.html.")


def _seeds(said: str) -> int | list[int]:
    if not re.fullmatch(r"\d+(,\d+)*,?", said):
        raise DomadaptError(f"--seeds takes a number, or seeds with commas: 0,1,2; got {said!r}.")
    numbers = [int(part) for part in said.split(",") if part]
    return numbers if "," in said else numbers[0]
