"""``domadapt transferability``: which model to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from domadapt.cli.common import (
    DataRoot,
    GroupColumn,
    LabelColumn,
    TextColumn,
    app,
    column_of_texts,
    load,
    say,
)
from domadapt.errors import DomadaptError

group = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    help="What transfers: which model to start from.",
)
app.add_typer(group, name="transferability")


@group.callback()
def transferability() -> None:
    """What transfers: which model to start from."""


@group.command()
def rank(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Backbones (see `list models`), with =WEIGHTS where they have any "
            "(resnet18=weights.pth), file.py:function, or folders of runs.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The labelled (source) data: image folder, CSV or Parquet table, .npz arrays, or "
            "collection:domain."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for rank.json, rank.md, rank.png and rank.svg.")
    ] = None,
    label_column: LabelColumn = None,
    text_column: TextColumn = None,
    group_column: GroupColumn = None,
    data_root: DataRoot = None,
    task_type: Annotated[
        Literal["classification", "regression"],
        typer.Option(
            help="Whether labels are classes or measurements (of several columns: a,b).",
            rich_help_panel="Data",
        ),
    ] = "classification",
    image_size: Annotated[
        int | None, typer.Option(help="Side images are brought to.", rich_help_panel="Data")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Use about so many samples, drawn at random. Default: all."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the linear probe.")] = 5,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps features for another time.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds, the mixture and the draw.")] = 0,
) -> None:
    """Rank models for labelled data by transferability scores, a linear probe and their size."""
    for folder, flag in ((out, "--out"), (cache, "--cache")):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise DomadaptError(f"{flag} needs a folder, and {folder} is a file; give another.")

    import torch

    from domadapt.transfer.rank import rank as ranked
    from domadapt.transfer.tables import terminal

    domain = load(
        data,
        label_column,
        group_column,
        data_root,
        labelled=True,
        regression=task_type == "regression",
        text_column=column_of_texts(text_column, *models),
    )
    found = ranked(
        models,
        domain,
        samples=samples,
        folds=folds,
        image_size=image_size,
        cache=cache,
        device=torch.device("cuda") if torch.cuda.is_available() else None,
        seed=seed,
        told=lambda line: say(line, error=True),
    )
    say(terminal(found))
    if out is None:
        return
    from domadapt import checkpoint
    from domadapt.report.drawing import save_png, to_svg
    from domadapt.transfer.figure import figure
    from domadapt.transfer.tables import markdown, to_json

    drawn = figure(found)
    texts = {
        "rank.json": to_json(found),
        "rank.md": markdown(found),
        "rank.svg": to_svg(drawn, "rank"),
    }
    for name, text in texts.items():
        checkpoint.write_text(out / name, text)
    save_png(drawn, out / "rank.png")
    say(f"{out} holds rank.json, rank.md, rank.png and rank.svg.")
