"""What the commands share: the application, options, messages, and how data are read."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from domadapt.errors import DomadaptError
from domadapt.hf import is_hf, reads

if TYPE_CHECKING:
    from domadapt.task import Domain

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt a model to unlabelled target data, know whether it helped, and see why.",
)

ClassMetric = Literal[
    "accuracy",
    "macro_f1",
    "per_class_mean",
    "auroc",
    "known_accuracy",
    "unknown_accuracy",
    "h_score",
]
ValueMetric = Literal["mae", "rmse", "r2", "spearman"]
TextMetric = Literal["bleu"]
Metric = Literal[ClassMetric, ValueMetric, TextMetric]
DataArgument = Annotated[
    str,
    typer.Argument(
        help="Image folder, folder of .txt, CSV, Parquet or JSON lines table, .npz or .npy "
        "arrays, or collection:domain."
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the labels.", rich_help_panel="Data"),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of a table that holds texts (a,b: pairs of texts). Default, with a model that "
        "takes texts: the column of the longest ones.",
        rich_help_panel="Data",
    ),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="Column that names who or what a row comes from; splits keep groups whole.",
        rich_help_panel="Data",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the catalogue's data sets; else the variable DOMADAPT_DATA.",
        rich_help_panel="Data",
    ),
]


def say(text: str, error: bool = False) -> None:
    """Print a text as it is, to the terminal or its error stream."""
    from rich.console import Console

    Console(stderr=error, highlight=False, soft_wrap=True).print(text, markup=False)


def write(path: Path, text: str) -> None:
    """Write a file that a person named; where that fails, one sentence."""
    from domadapt import checkpoint

    try:
        checkpoint.write_text(path, text)
    except OSError as error:
        raise DomadaptError(
            f"{path} cannot be written ({error.strerror}); choose another file with -o."
        ) from error


def load(
    spec: str, label_column: str | None, group_column: str | None, root: Path | None, **more: Any
) -> Domain:
    """The domain of a person's SOURCE, TARGET or DATA."""
    from domadapt.data import load as read

    if not is_table(spec):
        # Only tables have columns; arrays of the same width are as good.
        more = {**more, "columns": None, "text_column": None}
    return read(spec, label_column=label_column, group_column=group_column, data_root=root, **more)


def reads_texts(model: str) -> bool:
    """Whether a model takes texts: an encoder of Hugging Face, or that of a run's folder."""
    if is_hf(model):
        return reads(model) == "text"
    if not Path(model).is_dir():
        return False
    from domadapt.runs.saved import read_config

    return bool(read_config(Path(model))["kind"] == "text")


def column_of_texts(asked: str | None, *models: str | None) -> str | None:
    """The column of the texts of a table: as asked, else found by itself where a model reads texts.

    None where samples are numbers.
    """
    return asked or ("auto" if any(reads_texts(m) for m in models if m is not None) else None)


def holds_texts(spec: str, label_column: str | None) -> bool:
    """Whether data are texts: a folder of them, or a table with strings and no other numbers than
    labels.
    """
    from pandas.api.types import is_numeric_dtype

    from domadapt.data.table import LABEL_COLUMNS, read_frame

    if not is_table(spec):
        return Path(spec).is_dir() and any(Path(spec).rglob("*.txt"))
    frame = read_frame(Path(spec), texts=True)
    special = {label_column} if label_column is not None else set(LABEL_COLUMNS)
    inputs = [frame[c] for c in frame.columns if str(c) not in special]
    return bool(inputs) and not any(is_numeric_dtype(column) for column in inputs)


def is_table(spec: str) -> bool:
    """Whether data are a table, which has named columns."""
    from domadapt.data.table import EXTENSIONS

    return spec.lower().endswith(EXTENSIONS)


def check_metric(metric: str | None, open_set: bool, regression: bool) -> None:
    """Refuse a metric that there is not for such labels."""
    if metric is None:
        return
    known = typing.get_args(ValueMetric if regression else ClassMetric)
    if metric == "bleu":
        raise DomadaptError(
            "bleu compares texts that a model wrote with references: "
            "domadapt evaluate OUTPUTS.txt REFERENCES.txt --metric bleu, one text per line."
        )
    if metric not in known:
        raise DomadaptError(
            f"The labels are {'measurements' if regression else 'classes'}, for which there is no "
            f"{metric}; choose one of {', '.join(known)}."
        )
    if metric in ("known_accuracy", "unknown_accuracy", "h_score") and not open_set:
        raise DomadaptError(
            f"{metric} is of models with the output 'unknown'; adapt with --extra-classes unknown, "
            "or choose another metric."
        )
