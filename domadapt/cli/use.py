"""``domadapt predict`` and ``domadapt evaluate``: a finished run on other data."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from domadapt.cli.common import (
    ClassMetric,
    DataArgument,
    DataRoot,
    LabelColumn,
    Metric,
    TextColumn,
    ValueMetric,
    app,
    check_metric,
    is_table,
    load,
    say,
    write,
)
from domadapt.errors import DomadaptError

if TYPE_CHECKING:
    from domadapt.runs.saved import SavedRun
    from domadapt.task import Domain


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: DataArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file; else the terminal.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The probability of every class as well.")
    ] = False,
    online: Annotated[
        bool,
        typer.Option("--online", help="Go on adapting, batch by batch (runs of tent and adabn)."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples at a time; default: 256, online that of the run.")
    ] = None,
    label_column: LabelColumn = None,
    text_column: TextColumn = None,
    data_root: DataRoot = None,
) -> None:
    """Predict the classes, or values, of new data with a run's adapted model."""
    from domadapt.runs.saved import load_run, prediction_table, value_table
    from domadapt.runs.saved import predict as probabilities

    saved = load_run(run)
    if per_class and saved.regression:
        raise DomadaptError("--per-class is for classes; this run is a regression. Leave it out.")
    domain = load(
        data,
        label_column,
        None,
        data_root,
        columns=saved.config.get("columns"),
        labelled=False,
        text_column=_text_column(saved, text_column or _asked(run, "text_column", data)),
    )
    p = probabilities(saved, domain, batch_size, online=online)
    ids = [str(i) for i in (domain.ids if domain.ids is not None else range(len(domain)))]
    if saved.regression:
        table = value_table(ids, p, saved.class_names)
    else:
        table = prediction_table(ids, p, saved.class_names, per_class)
    csv = table.to_csv(index=False)
    if output is None:
        sys.stdout.write(csv)
    else:
        write(output, csv)
        say(f"{len(domain)} predictions in {output}.")
    for note in domain.notes:
        say(f"Note: {note}", error=True)


@app.command()
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished run; for --metric bleu a file of texts, one per line, and "
            "DATA a file of their references."
        ),
    ],
    data: DataArgument,
    label_column: LabelColumn = None,
    text_column: TextColumn = None,
    data_root: DataRoot = None,
    extra_classes: Annotated[
        Literal["error", "unscored", "unknown"] | None,
        typer.Option(
            help="Samples of a class that the model does not know; default: of an open-set run "
            "unknown, else error."
        ),
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="Print this metric's value alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a run's adapted model on labelled data, or texts that any model wrote (bleu)."""
    if metric == "bleu" and not run.is_dir():
        _evaluate_texts(run, Path(data), as_json)
        return
    from domadapt.evaluation import score
    from domadapt.runs.saved import class_ids, load_run
    from domadapt.runs.saved import predict as probabilities

    saved = load_run(run)
    check_metric(metric, saved.open_set, saved.regression)
    columns, regression = saved.config.get("columns"), saved.regression
    domain = load(
        data,
        label_column or _asked(run, "label_column", data),
        None,
        data_root,
        columns=columns,
        labelled=True,
        regression=regression,
        text_column=_text_column(saved, text_column or _asked(run, "text_column", data)),
    )
    if regression:
        _evaluate_values(saved, domain, metric, as_json)
        return
    y = class_ids(saved, domain, extra_classes)
    p = probabilities(saved, domain)
    found = score(p, y, saved.class_names, open_set=saved.open_set).to_dict()
    if metric is not None:
        value = found.get(metric)
        say(f"{value:.6f}" if value is not None else "undefined")
        return
    if as_json:
        say(json.dumps(found))
        return
    for name in typing.get_args(ClassMetric)[: None if saved.open_set else 4]:
        value = found.get(name)
        say(f"{name.replace('_', ' '):<16} {'undefined' if value is None else f'{value:.4f}'}")
    say(f"{'samples':<16} {found['n']}")
    rows = zip(saved.class_names, found["per_class"], strict=True)
    for name, value in rows:
        say(f"  {name:<20} {'no sample' if value is None else f'{value:.4f}'}")


def _evaluate_texts(outputs: Path, references: Path, as_json: bool) -> None:
    from domadapt.translation import bleu, read_lines

    found = bleu(read_lines(outputs), read_lines(references))
    if as_json:
        say(json.dumps(dataclasses.asdict(found)))
        return
    say(f"{found.bleu:.6f}")
    say(f"{found.n} texts, {found.signature}", error=True)


def _asked(run: Path, what: str, data: str) -> str | None:
    """The column that the command of a run named; None where data have none, or Python made it."""
    from domadapt import checkpoint

    if not is_table(data):
        return None
    file = run / "run.json"
    given = checkpoint.read_json(file).get(what) if file.exists() else None
    return None if given is None else str(given)


def _text_column(saved: SavedRun, given: str | None) -> str | None:
    """The column of a table that holds a run's texts; None where it takes something else."""
    return given or ("auto" if saved.kind == "text" else None)


def _evaluate_values(saved: SavedRun, domain: Domain, metric: str | None, as_json: bool) -> None:
    """What `evaluate` says of a run that is a regression."""
    from domadapt.regression import score_values, written
    from domadapt.runs.saved import predict as values
    from domadapt.runs.saved import true_values

    y = true_values(domain, saved.class_names)
    found = score_values(values(saved, domain), y, saved.class_names).to_dict()
    if metric is not None:
        say(f"{found[metric]:.9g}" if found[metric] is not None else "undefined")
        return
    if as_json:
        say(json.dumps(found))
        return
    several = found["per_output"] if len(found["per_output"]) > 1 else []
    for row in (found, *several):
        if "name" in row:
            say(row["name"])
        for name in typing.get_args(ValueMetric):
            say(f"{'  ' * ('name' in row)}{name:<15} {written(row[name])}")
    say(f"{'samples':<15} {found['n']}")
