"""``domadapt selftest``: the contract of methods."""

from __future__ import annotations

from typing import Annotated

import typer

from domadapt.cli.common import app, say
from domadapt.cli.flags import check_names


@app.command()
def selftest(
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method, combination or file.py; may be repeated. Default: all."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say what each invariant means, and the time taken.")
    ] = False,
) -> None:
    """Check that methods keep what every method must keep, on data of their own.

    Exit code 1 where something is not kept.
    """
    import torch

    from domadapt.methods import method_names, method_settings
    from domadapt.selftest import Subject, table

    # Several threads add up in another order now and then; bits are compared here.
    torch.set_num_threads(1)
    for spec in method or ():
        check_names(spec, method_settings(spec))
    subjects = [Subject(spec) for spec in method or method_names()]
    width = max(len(subject.name) for subject in subjects) + 1
    marks = ". kept, X not kept, - does not apply"
    say("\n".join([*table.legend(verbose), "", marks, "", table.columns(width)]))
    broken: list[str] = []
    for subject in subjects:
        findings = list(table.examine(subject))
        say(table.row(findings, width, verbose))
        broken += table.reasons(findings)
    say("")
    if broken:
        say("\n".join(broken))
        raise typer.Exit(1)
    say(f"{len(subjects)} method{'s' * (len(subjects) > 1)}: everything is kept.")
