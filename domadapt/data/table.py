"""Domains from tables: CSV, Parquet and JSON lines files."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from domadapt.data.labels import group_array, label_array
from domadapt.data.samples import TableSamples, numbers
from domadapt.errors import DomadaptError, unknown
from domadapt.regression import value_array
from domadapt.task import Domain

if TYPE_CHECKING:
    import pandas as pd

#: Columns that hold labels where none is named, the likeliest first.
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "sentiment", "y")
#: A column of consecutive numbers is one that counts the rows where it is longer than this.
COUNTED = 10
#: Labels are likelier measurements where there are more numbers than the first, with fewer samples
#: of each than the second.
MANY_CLASSES, SAMPLES_PER_CLASS = 20, 10
#: The endings of files that are tables.
EXTENSIONS = (".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz", ".ndjson")


def from_table(
    path: str | Path,
    *,
    label_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    columns: Sequence[str] | None = None,
    labelled: bool | None = None,
    regression: bool = False,
) -> Domain:
    """A domain of vectors from a table, one sample per row.

    The inputs are all columns but those of labels and groups, as float32 in the table's order;
    `Domain.samples` tells their names (`TableSamples.columns`). A target is to be read with
    ``columns=source.samples.columns``, so that its columns come in the order of the source's.
    An unnamed first column of a CSV, in which pandas writes row numbers, is left out and noted.

    Args:
        path: a ``.csv``, ``.csv.gz`` (separated by commas, names in the first row), ``.parquet``
            or JSON lines file (``.jsonl``, ``.jsonl.gz``, ``.ndjson``).
        label_column: the column of the labels, text or numbers. A table without it, such as an
            unlabelled target, gives a domain without labels, and a note.
        group_column: the column that says who or what each row comes from; it must be there.
        name: what tables call the domain; by default the file's name.
        columns: the input columns, in this order; all others are ignored, and noted.
        labelled: True insists on the label column.
        regression: the label column holds measurements. Several columns are named with commas
            between; all of them must be there, or none.

    Raises:
        DomadaptError: no such file, columns that are missing or not numeric, or missing values.
    """
    if not isinstance(path, str | os.PathLike):
        raise DomadaptError(
            f"from_table reads a file; got a {type(path).__name__}. Of a table in memory: "
            "domadapt.from_arrays(frame[inputs], frame[label], name=...)."
        )
    path = Path(path)
    frame = read_frame(path)
    name = name or path.name.removesuffix(".gz").rsplit(".", 1)[0]
    notes = []
    if group_column is not None and group_column not in frame.columns:
        raise unknown(f"group column in {path.name!r}", group_column, map(str, frame.columns))
    wanted_labels = label_columns(label_column, frame, regression)
    has_labels = bool(wanted_labels) and set(wanted_labels) <= set(frame.columns)
    if labelled and not has_labels:
        known = list(map(str, frame.columns))
        if label_column is not None:
            absent = next(c for c in wanted_labels if c not in frame.columns)
            raise unknown(f"label column (of {path.name})", absent, known)
        raise DomadaptError(
            f"The column of {path.name!r} that holds the labels must be named (--label-column); "
            f"its columns are {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
        )
    if label_column is not None and not has_labels:
        notes.append(unlabelled_note(label_column, path.name, list(map(str, frame.columns))))
    special = {*wanted_labels, group_column}
    if columns is None:
        wanted = [c for c in frame.columns if c not in special]
        if wanted and wanted[0] == "Unnamed: 0":
            notes.append("the unnamed first column, which counts the rows, is left out")
            wanted = wanted[1:]
    else:
        wanted = [str(c) for c in columns]
        _check_columns(wanted, frame, special, path.name)
        left = [str(c) for c in frame.columns if str(c) not in {*wanted, *map(str, special)}]
        if left:
            notes.append(f"columns that the source lacks are left out: {', '.join(left[:8])}")
    if not wanted:
        raise DomadaptError(
            f"A table needs at least one input column; {path.name!r} has only "
            f"{', '.join(map(repr, frame.columns)) or 'none'}. Columns are separated by commas, "
            "and their names stand in the first row."
        )
    values = value_array(frame[wanted_labels], name) if has_labels and regression else None
    if columns is None:
        notes += [_counting_note(str(c)) for c in wanted if _counts(frame[c])]
    labels = label_array(frame[label_column]) if has_labels and not regression else None
    if labels is not None and _many_numbers(frame[label_column]):
        notes.append(
            f"the {frame[label_column].nunique()} numbers in {label_column!r} are taken as so many "
            "classes; if they are measurements, say --task-type regression"
        )
    return Domain(
        name,
        TableSamples(numbers(frame[wanted], path.name), [str(c) for c in wanted]),
        labels=labels,
        values=values,
        class_names=None if values is None else tuple(wanted_labels),
        groups=None if group_column is None else group_array(frame[group_column]),
        kind="vector",
        notes=tuple(notes),
    )


def _counts(column: pd.Series) -> bool:
    """Whether a column only numbers the rows: consecutive whole numbers."""
    from pandas.api.types import is_integer_dtype

    return (
        len(column) > COUNTED
        and is_integer_dtype(column)
        and bool((column.diff().iloc[1:].abs() == 1).all())
        and column.is_unique
    )


def _counting_note(column: str) -> str:
    return (
        f"column {column!r}, which numbers the rows, is taken as an input; take it out of the "
        "table if it is an id"
    )


def _many_numbers(labels: pd.Series) -> bool:
    """Whether labels look like measurements: fractions, or more numbers than classes would be."""
    from pandas.api.types import is_float_dtype, is_numeric_dtype

    known = labels.dropna()
    if not is_numeric_dtype(known) or not len(known):
        return False
    fractions = is_float_dtype(known) and bool((known % 1 != 0).any())
    return fractions or (
        known.nunique() > MANY_CLASSES and len(known) < SAMPLES_PER_CLASS * known.nunique()
    )


def unlabelled_note(label_column: str, where: str, known: Sequence[str]) -> str:
    """What a reader should know of a table that lacks the column of the labels."""
    note = f"no column {label_column!r} in {where}: taken as unlabelled"
    other = next((c for c in LABEL_COLUMNS if c in known), None)
    if other is not None:
        note += f" (to score by its column {other!r}, call it the same)"
    return note


def label_columns(named: str | None, frame: pd.DataFrame, regression: bool) -> list[str]:
    """The columns that hold the labels: one, or of a regression several with commas between."""
    if named is None:
        return []
    if not regression or named in frame.columns:
        return [named]
    return [c.strip() for c in named.split(",")]


def read_frame(path: Path, texts: bool = False) -> pd.DataFrame:
    """A table as it stands in a file; with `texts`, words such as NA are not taken as missing."""
    import pandas as pd

    if not path.is_file():
        raise DomadaptError(f"A table is required; {str(path)!r} is no file.")
    if not path.name.lower().endswith(EXTENSIONS):
        raise DomadaptError(
            f"A table must end in {', '.join(EXTENSIONS)}; got {path.name!r}. Convert it."
        )
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        elif path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            # Not by pandas, which guesses numbers and dates: "0012" and "2001" may be words.
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode()
            frame = pd.DataFrame([json.loads(row) for row in text.split("\n") if row.strip()])
        elif texts:
            frame = pd.read_csv(path, low_memory=False, keep_default_na=False, na_values=[""])
        else:
            frame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DomadaptError(f"{path.name!r} cannot be read as a table: {error}.") from error
    if len(frame) == 0:
        raise DomadaptError(f"The table {path.name!r} has no rows; give at least one.")
    counted = frame.index.equals(pd.RangeIndex(len(frame)))
    if ".csv" in path.name.lower() and not counted:
        raise DomadaptError(
            f"The first row of {path.name!r} must name every column; the other rows have more "
            "values than it has names."
        )
    return frame


def _check_columns(
    wanted: Sequence[str], frame: pd.DataFrame, special: set[str | None], where: str
) -> None:
    twice = sorted({c for c in wanted if list(wanted).count(c) > 1})
    wrong = [c for c in wanted if c in special]
    if twice or wrong:
        raise DomadaptError(
            f"Input columns must differ, and hold neither labels nor groups; got "
            f"{', '.join(twice or wrong)}. Leave it out of columns."
        )
    absent = [c for c in wanted if c not in frame.columns]
    if absent:
        raise DomadaptError(
            f"Source and target must have the same input columns; {where!r} lacks "
            f"{', '.join(absent[:8])}{', ...' if len(absent) > 8 else ''}. Its columns are "
            f"{', '.join(map(str, frame.columns[:20]))}{', ...' if frame.shape[1] > 20 else ''}."
        )
