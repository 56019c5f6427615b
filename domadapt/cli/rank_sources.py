"""``domadapt rank-sources``: which labelled data to train on for a target."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from domadapt.cli.common import (
    DataRoot,
    LabelColumn,
    app,
    column_of_texts,
    holds_texts,
    load,
    say,
    write,
)
from domadapt.errors import DomadaptError


@app.command("rank-sources")
def rank_sources_command(
    target: Annotated[str, typer.Argument(help="Target data; labels, if any, are not looked at.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Candidate sources of the same kind.")
    ],
    by: Annotated[
        str, typer.Option(help="Measure to sort by, as the table names it.")
    ] = "Jensen-Shannon",
    model: Annotated[
        str | None,
        typer.Option(
            help="What turns samples into features: backbone=WEIGHTS, file.py:function, or the "
            "folder of a run. Images need one."
        ),
    ] = None,
    select: Annotated[
        int | None,
        typer.Option(help="Also write selected.csv: the so many samples most like the target."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for sources.json, sources.md and selected.csv.")
    ] = None,
    label_column: LabelColumn = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of a table that holds texts.", rich_help_panel="Data")
    ] = None,
    data_root: DataRoot = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side images are brought to.", rich_help_panel="Data")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of clusters and subsamples.")] = 0,
) -> None:
    """Rank candidate sources by similarity to a target and by diversity, without target labels."""
    if select is not None and out is None:
        raise DomadaptError("--select writes a file; say where with --out.")
    if out is not None and out.exists() and not out.is_dir():
        raise DomadaptError(f"--out needs a folder, and {out} is a file; give another.")

    from domadapt.sources.rank import markdown, rank_sources, terminal
    from domadapt.sources.rank import select as chosen_of

    column = column_of_texts(text_column, model)
    if column is None and all(holds_texts(place, label_column) for place in (target, *sources)):
        column = "auto"
    domain = load(target, label_column, None, data_root, text_column=column)
    columns = getattr(domain.samples, "columns", None) if text_column is None else None
    candidates = [
        load(place, label_column, None, data_root, columns=columns, text_column=column)
        for place in sources
    ]
    found = rank_sources(
        domain,
        candidates,
        by=by,
        model=model,
        image_size=image_size,
        seed=seed,
        told=lambda line: say(line, error=True),
    )
    say(terminal(found))
    if out is None:
        return
    written = {"sources.json": found.to_json(), "sources.md": markdown(found)}
    if select is not None:
        rows = chosen_of(domain, candidates, select, model=model, image_size=image_size, seed=seed)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["source", "index", "id", "score"])
        table.writerows([r.source, r.index, r.name, f"{r.score:.6g}"] for r in rows)
        written["selected.csv"] = text.getvalue()
    for name, held in written.items():
        write(out / name, held)
    say(f"{out} holds {', '.join(written)}.")
