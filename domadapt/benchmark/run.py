"""`benchmark`: from a suite to its leaderboard; resumable, whatever ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from domadapt import checkpoint
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.engines import Engine, engine_for
from domadapt.benchmark.fair import Check, checks
from domadapt.benchmark.leaderboard import latex, markdown, sections
from domadapt.benchmark.overlap import keep_overlap, known, overlap_checks
from domadapt.benchmark.pace import Follower
from domadapt.benchmark.page import PAGE, content_of, render
from domadapt.benchmark.published import Published, published_for
from domadapt.benchmark.results import read_plan, results_of, trials_of, write_plan, write_results
from domadapt.benchmark.search import most_to_come, to_run
from domadapt.benchmark.suite import Suite, read_suite
from domadapt.benchmark.summary import Summary, summarise
from domadapt.benchmark.trials import as_rows
from domadapt.benchmark.work import SuiteWork
from domadapt.errors import DomadaptError
from domadapt.runs.cell import Cell, Cells

#: Seconds between two lines about a benchmark that is under way.
EVERY = 15.0


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found.

    Attributes:
        frame: a row per cell and metric (`domadapt.benchmark.results.tidy`).
        summary: the leaderboard's numbers; None where no cell has a result.
        checks: of fair play.
        failures: cells that failed, each with its reason.
        missing: how many cells are not finished.
        published: figures of others beside those of the summary; None where that is None.
    """

    frame: pd.DataFrame
    summary: Summary | None
    checks: list[Check]
    failures: list[tuple[str, str]]
    missing: int
    published: Published | None = None


def benchmark(
    suite: Suite | Path | str,
    out: Path | str,
    *,
    processes: int | None = None,
    threads: int = 1,
    seeds: int | Sequence[int] | None = None,
    data_root: Path | str | None = None,
    retry: bool = False,
    say: Callable[[str], None] | None = None,
    command: str | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus_per_cell: float | None = None,
) -> Benchmark:
    """Run a suite's cells that are not finished, and write results and leaderboard.

    Processes are spawned: in a script call it under ``if __name__ == "__main__":``.

    Args:
        suite: a `Suite` or its TOML file.
        out: the folder of cells and tables; others may work on it at the same time.
        processes: how many; by default the cores over `threads`, or one per GPU; of a Ray cluster
            as many as it holds.
        threads: of each process. They are part of a cell's configuration, as results differ in
            rounding.
        seeds: in place of the suite's.
        data_root: the folder of the catalogue's data sets.
        retry: run failed cells again.
        say: is told how far it is.
        command: by which it was started; stands on the page.
        engine: "local" for processes of this machine, or "ray" (`domadapt.runs.ray_engine`).
        address: of the Ray cluster, ``HOST:PORT`` or ``auto``; by default the variable RAY_ADDRESS,
            else a cluster of this machine alone, which ends with the benchmark.
        gpus_per_cell: the share of a GPU of the cluster that a cell takes, such as 0.5; by default
            1 where there are GPUs and the suite's device is not "cpu".

    Raises:
        DomadaptError: something in the suite cannot be used. What goes wrong in a cell is kept as
            its failure.
    """
    checked = (suite if isinstance(suite, Suite) else read_suite(suite)).checked()
    if seeds is not None:
        checked = replace(checked, seeds=seeds).checked()
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DomadaptError(f"out needs a folder, and {folder} is a file; give another name.")
    tell = say or (lambda text: None)
    with engine_for(
        engine,
        str(checked.training.get("device", "auto")),
        processes=processes,
        threads=threads,
        address=address,
        gpus_per_cell=gpus_per_cell,
        say=tell,
    ) as crew:
        if crew.note:
            tell(crew.note)
        # Fingerprints are taken with as many threads as the cells are trained with.
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            wanted = cells_of(checked, threads=threads, data_root=data_root, device=crew.device)
        finally:
            torch.set_num_threads(before)
        cells = Cells(folder)
        if retry:
            cells.forget_failures()
        root = None if data_root is None else str(Path(data_root).resolve())
        work = SuiteWork(checked, root)
        now = to_run(wanted, checked)
        write_plan(folder, checked, planned(now), command, to_come=most_to_come(checked))
        _run(cells, now, work, crew, tell)
        if most_to_come(checked):
            now = to_run(wanted, checked, chosen_trials(folder))
            write_plan(folder, checked, planned(now), command)
            _run(cells, now, work, crew, tell)
    keep_overlap(folder, checked, {c.task: str(c.config["data"]) for c in wanted}, data_root, tell)
    return report(folder, say=tell)


def report(out: Path | str, *, say: Callable[[str], None] | None = None) -> Benchmark:
    """Write results, leaderboard and page of the cells that are finished in a folder.

    Where no cell has a result there is no leaderboard, and the page says why.
    """
    folder = Path(out)
    about, every = read_plan(folder)
    trials = trials_of(folder, about, every)
    of = as_rows(about, every, trials)
    frame, found = results_of(folder, of, trials)
    failures = [
        (f"{cell.method} on {cell.task}, seed {cell.seed}", str(found[cell.key]["error"]))
        for cell in of
        if cell.key in found and found[cell.key]["error"] is not None
    ]
    failures += [
        (f"{trial.cell} on {trial.task}, seed {trial.seed}", trial.failed)
        for trial in trials
        if trial.failed and not trial.chosen
    ]
    write_results(folder, frame)
    prints = {cell.task: found[cell.key]["config"]["data"] for cell in of if cell.key in found}
    fair = checks(of, found, about)
    fair += overlap_checks({title: known(folder, data) for title, data in prints.items()})
    summary = published = None
    if len(failures) < len(found):
        names = [list(dict.fromkeys(cell[i] for cell in of)) for i in (0, 1)]
        tasks, methods = ([str(name) for name in some] for some in names)
        validators = about["validators"]
        summary = summarise(frame, about["metric"], validators, tasks, methods)
        published = published_for(about, tasks, methods)
        text = markdown(summary, fair, failures, about, published)
        checkpoint.write_text(folder / "leaderboard.md", text)
        checkpoint.write_text(folder / "leaderboard.tex", latex(summary, published))
    further = [] if summary is None else sections(summary, published)
    there = Cells(folder).keys()
    missing = sum(cell.key not in there for cell in every) + about.get("to_come", 0)
    what = (summary, fair, failures, further)
    told = {"missing": missing, "say": say or (lambda text: None)}
    content = content_of(folder, about, of, found, *what, **told)
    checkpoint.write_text(folder / PAGE, render(content))
    return Benchmark(frame, summary, fair, failures, missing, published)


def chosen_trials(folder: Path) -> set[tuple[str, str]]:
    """Task and cells' name of the trials that are chosen, in a folder where all are finished."""
    trials = trials_of(folder, *read_plan(folder))
    return {(trial.task, trial.cell) for trial in trials if trial.chosen}


def _run(
    cells: Cells,
    wanted: Sequence[Cell],
    work: SuiteWork,
    crew: Engine,
    tell: Callable[[str], None],
) -> None:
    """Run what is left, with a line now and then."""
    follower = Follower(cells, planned(wanted))
    first = follower.look()
    tell(f"{first.total} cells, {first.done} of them finished; {crew.said}.")
    if first.done == first.total:
        return
    last = time.monotonic()
    told = first.done

    def look() -> None:
        nonlocal last, told
        if time.monotonic() - last < EVERY:
            return
        last = time.monotonic()
        pace = follower.look()
        if pace.done != told:
            told = pace.done
            tell(pace.said())

    crew.run(cells, wanted, work, look=look)
    tell(follower.look().said())
