"""``domadapt audit``: which criterion to trust, where target labels exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domadapt.cli.common import app, say
from domadapt.errors import DomadaptError


@app.command()
def audit(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Finished runs with a labelled target, or folders that hold such runs."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the tables and the plot.")] = Path("audit"),
) -> None:
    """Compare validators and accuracy estimates with the truth, over runs with target labels."""
    from domadapt import checkpoint
    from domadapt.report.audit import markdown, terminal, to_csv, to_json
    from domadapt.report.audit_figure import figure
    from domadapt.report.drawing import save_png, to_svg
    from domadapt.selection.audit import audit as compare
    from domadapt.selection.labelled_runs import rows_of

    if out.exists() and not out.is_dir():
        raise DomadaptError(f"--out needs a folder, and {out} is a file; give another name.")
    read = rows_of(runs)
    found = compare(read.rows, read.notes)
    say(terminal(found))
    drawn = figure(found)
    texts = {
        "audit.md": markdown(found),
        "audit.csv": to_csv(found),
        "audit.json": to_json(found),
        "audit.svg": to_svg(drawn, "audit"),
    }
    for name, text in texts.items():
        checkpoint.write_text(out / name, text)
    save_png(drawn, out / "audit.png")
    say(f"{out} holds audit.md, audit.csv, audit.json, audit.png and audit.svg.")
