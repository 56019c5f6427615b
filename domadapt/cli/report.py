"""``domadapt report``: a run's page, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domadapt.cli.common import app, say, write


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; else report.html there.")
    ] = None,
) -> None:
    """Draw a run's page again from its report.json, without training."""
    from domadapt.report.page import render
    from domadapt.report.report import Report

    loaded = Report.load(run)
    page = output or (run if run.is_dir() else run.parent) / "report.html"
    write(page, render(loaded))
    say(loaded.summary())
    say(f"Page: {page}")
