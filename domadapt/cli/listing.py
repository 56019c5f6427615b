"""``domadapt list``: what can be chosen."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from domadapt.cli.common import DataRoot, app


@app.command("list")
def list_(
    what: Annotated[
        Literal["methods", "models", "tasks", "validators", "strategies"], typer.Argument()
    ],
    long: Annotated[
        bool,
        typer.Option("--long", help="Methods: paper, defaults, cost and measured accuracy too."),
    ] = False,
    data_root: DataRoot = None,
) -> None:
    """List what can be chosen: methods, models, tasks, validators, or strategies of fine-tuning."""
    from rich.console import Console
    from rich.table import Table

    heads, rows = _listing(what, data_root, long)
    if not sys.stdout.isatty():
        for row in (heads, *rows):
            print("\t".join(row))
        return
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _listing(
    what: str, root: Path | None, long: bool
) -> tuple[list[str], Iterable[tuple[str, ...]]]:
    if what == "methods":
        from domadapt.methods import table

        known = table.rows()
        heads = ["method", "what it is", "setting", "needs"]
        short = [(r.name, r.what, r.setting, r.needs) for r in known]
        if not long:
            return heads, short
        heads += ["paper", "defaults", "cost of a step", "digits %"]
        more = [
            (f"{r.paper} {r.link}".strip(), r.defaults, table.cost_text(r), table.digits_text(r))
            for r in known
        ]
        return heads, [(*a, *b) for a, b in zip(short, more, strict=True)]
    if what == "models":
        from domadapt.backbones import backbone_names

        return ["model", "what it is"], backbone_names()
    if what == "strategies":
        from domadapt.strategies.spec import table as strategies

        return ["strategy", "what it means", "paper"], strategies()
    if what == "validators":
        from domadapt.selection.registry import validators

        heads = ["validator", "what it measures", "range", "cost", "fooled by"]
        return heads, [
            (v.name, v.what, v.range, v.cost, v.fooled_by) for v in validators().values()
        ]
    from domadapt.data.catalogue import tasks

    return ["task", "what it is", "classes", "from", "at hand"], [
        (t.name, t.what, str(t.classes), t.origin, "yes" if t.at_hand else "no")
        for t in tasks(root)
    ]
