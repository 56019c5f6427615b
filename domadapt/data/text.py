"""Domains of texts: strings, tables with a column of text, folders of ``.txt``, hub data sets.

A sample is a text, or a pair of texts, kept as UTF-8 bytes until a model's tokenizer is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from domadapt.data.folder import Paths, empty_classes, files_below, is_shown, skipped_note
from domadapt.data.labels import group_array, label_array, name_labels
from domadapt.data.table import LABEL_COLUMNS, label_columns, read_frame, unlabelled_note
from domadapt.errors import DomadaptError, unknown
from domadapt.regression import value_array
from domadapt.task import Domain, Raw, class_order

if TYPE_CHECKING:
    import pandas as pd

#: A text, or two that belong together, such as a premise and a hypothesis.
Text = str | tuple[str, str]
#: In place of a column's name: the column of the longest texts.
AUTO = "auto"
#: What stands between the two texts of a pair. Texts themselves never hold it.
_BETWEEN = b"\0"


class TextSamples:
    """Texts, or pairs of texts, in one block of bytes.

    A batch is a list of uint8 tensors, each the UTF-8 bytes of a sample; the two texts of a pair
    have a zero byte between them. `texts_of` reads them back.

    Args:
        texts: strings, or pairs of strings.
        columns: the columns they were read from; a target is read from those of its source.
    """

    def __init__(self, texts: Iterable[Text], columns: Sequence[str] = ()) -> None:
        coded = [_coded(text) for text in texts]
        self._block = b"".join(coded)
        self._ends = np.cumsum([0, *map(len, coded)])
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        return [self._bytes(int(i)) for i in indices]

    def _bytes(self, i: int) -> Tensor:
        part = self._block[self._ends[i] : self._ends[i + 1]]
        return torch.from_numpy(np.frombuffer(part, np.uint8).copy())


def texts_of(raw: Raw) -> list[Text]:
    """The texts of a batch of `TextSamples`."""
    assert not isinstance(raw, dict)
    found: list[Text] = []
    for row in raw:
        first, between, second = row.numpy().tobytes().partition(_BETWEEN)
        one = first.decode()
        found.append((one, second.decode()) if between else one)
    return found


def from_texts(
    texts: Sequence[Text],
    y: Any = None,
    *,
    name: str = "texts",
    groups: Any = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    regression: bool = False,
) -> Domain:
    """A domain from strings, or from pairs of strings.

    Args:
        texts: one string, or one pair of strings, per sample; an empty one is a text as well.
        y: one label per sample, strings or integers; None, NaN and "" are samples without one.
        name: what tables call the domain.
        groups: who or what each sample comes from; splits keep groups whole.
        ids: one name per sample.
        class_names: the classes in order. Labels are these names, or integers counting them
            from 0. In a regression the names of what is measured.
        regression: `y` holds measurements ``(n,)`` or ``(n, k)``; NaN where one is missing.

    Raises:
        DomadaptError: a sample that is no string; labels or groups that cannot be used.
    """
    if isinstance(texts, str):
        raise DomadaptError("A list of texts is required, one per sample; got a single string.")
    return _domain(
        name,
        TextSamples(texts),
        labels=None if y is None or regression else label_array(y),
        values=None if y is None or not regression else value_array(y, name),
        groups=groups,
        ids=ids,
        class_names=class_names,
    )


def from_text_table(
    path: str | Path,
    *,
    text_column: str = AUTO,
    label_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    labelled: bool | None = None,
    regression: bool = False,
    prefer: Sequence[str] = (),
) -> Domain:
    """A domain of texts from a table, one sample per row.

    ``NA``, ``null`` and the like are texts here; a row whose text is missing altogether is refused.
    What was guessed is noted in `Domain.notes`.

    Args:
        path: a ``.csv``, ``.parquet`` or JSON lines file (``.jsonl``, ``.ndjson``), the first and
            the last also as ``.gz``.
        text_column: the column of the texts, or two with a comma between for pairs. "auto" takes
            the column whose strings are the longest on average.
        label_column: the column of the labels. None takes the first of ``label``, ``labels``,
            ``class``, ``target``, ``category``, ``sentiment`` and ``y`` that is there. A table
            without it gives a domain without labels.
        group_column: the column that says who or what each row comes from; it must be there.
        name: what tables call the domain; by default the file's name.
        labelled: True insists on the label column.
        regression: the label column holds measurements; several are named with commas between.
        prefer: the columns that "auto" takes where the table has them, such as the source's.

    Raises:
        DomadaptError: no such file, columns that are missing, or rows without a text.
    """
    path = Path(path)
    frame = read_frame(path, texts=True)
    if text_column == AUTO and prefer and set(prefer) <= {str(c) for c in frame.columns}:
        text_column = ",".join(prefer)
    return _from_frame(
        frame,
        path.name,
        name or path.name.removesuffix(".gz").rsplit(".", 1)[0],
        text_column,
        label_column,
        group_column,
        labelled,
        regression,
    )


def from_text_folder(
    path: str | Path, *, name: str | None = None, labelled: bool | None = None
) -> Domain:
    """A domain of the ``.txt`` files of a folder: ``class/*.txt``, or a flat, unlabelled folder.

    Deeper folders belong to their class. Texts come in the order of their relative paths, which
    are also their `Domain.ids`. Files that are not UTF-8 are read as Latin-1, and counted in
    `Domain.notes` like those with another ending, which are skipped.

    Args:
        path: the folder.
        name: what tables call the domain; by default the folder's name.
        labelled: None takes labels where there are class folders; True insists on them; False
            takes every text under the folder and no label.

    Raises:
        DomadaptError: no folder, no text in it, texts both beside and inside class folders, or no
            class folders where labels are required.
    """
    root = Path(path)
    if not root.is_dir():
        raise DomadaptError(f"A folder of .txt files is required; {str(root)!r} is no folder.")
    files = sorted(files_below(root))
    found = [file for file in files if file.lower().endswith(".txt")]
    notes = []
    if len(found) < len(files):
        others = [file for file in files if not file.lower().endswith(".txt")]
        notes.append(skipped_note("not a .txt", others))
    if not found:
        raise DomadaptError(f"The folder {str(root)!r} holds no .txt file; give at least one.")
    flat = [file for file in found if "/" not in file]
    if labelled is not False and flat and len(flat) < len(found):
        raise DomadaptError(
            f"The folder {str(root)!r} must hold either class folders or texts, not both; it has "
            f"{len(flat)} text(s) at its top, such as {flat[0]!r}. Move them apart, or take all as "
            "unlabelled (labelled=False)."
        )
    if labelled and flat:
        raise DomadaptError(
            f"Labels are required, hence one folder per class (class/*.txt); {str(root)!r} holds "
            f"its {len(flat)} texts without class folders."
        )
    labels = class_names = None
    if labelled is not False and not flat:
        labels = np.array([file.split("/", 1)[0] for file in found], dtype=object)
        folders = {e.name for e in os.scandir(root) if e.is_dir() and is_shown(e.name)}
        class_names = class_order(folders)
        notes += empty_classes(class_names, labels, "text")
    texts, strange = [], 0
    for file in found:
        data = (root / file).read_bytes()
        try:
            texts.append(data.decode("utf-8-sig"))
        except UnicodeDecodeError:
            texts.append(data.decode("latin-1"))
            strange += 1
    if strange:
        notes.append(f"{strange} file(s) are not UTF-8 and were read as Latin-1")
    return _domain(
        name or root.resolve().name,
        TextSamples(texts),
        labels=labels,
        ids=Paths(found),
        class_names=class_names,
        notes=notes,
    )


def from_hub_dataset(
    dataset: Any,
    *,
    name: str,
    text_column: str = AUTO,
    label_column: str | None = None,
    group_column: str | None = None,
    labelled: bool | None = None,
    regression: bool = False,
) -> Domain:
    """A domain of texts from a data set of Hugging Face's ``datasets``: one split of it, in memory.

    The package itself is not needed: what counts is ``column_names`` and ``dataset[column]``. A
    column of ``ClassLabel`` brings the names of its classes along; its -1 is a missing label.

    Args:
        dataset: a split, such as ``load_dataset(...)["train"]``.
        name: what tables call the domain.
        text_column, label_column, group_column, labelled, regression: as of `from_text_table`.

    Raises:
        DomadaptError: a dictionary of splits, a stream, or columns that are missing.
    """
    if isinstance(dataset, dict):
        raise DomadaptError(
            f"One split of a data set is required; got {', '.join(map(str, dataset))}. Choose one, "
            f"such as dataset[{next(iter(dataset), 'train')!r}]."
        )
    columns = getattr(dataset, "column_names", None)
    if not columns or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DomadaptError(
            "A data set with column_names, len() and dataset[column] is required, as those of the "
            f"package datasets; got {type(dataset).__name__}. A stream is read into memory first."
        )
    import pandas as pd

    frame = pd.DataFrame({c: list(dataset[c]) for c in columns})
    if len(frame) == 0:
        raise DomadaptError(f"The data set {name!r} has no rows; give at least one.")
    features = getattr(dataset, "features", None) or {}
    return _from_frame(
        frame,
        name,
        name,
        text_column,
        label_column,
        group_column,
        labelled,
        regression,
        {c: list(f.names) for c, f in features.items() if getattr(f, "names", None)},
    )


def _from_frame(
    frame: pd.DataFrame,
    where: str,
    name: str,
    text_column: str,
    label_column: str | None,
    group_column: str | None,
    labelled: bool | None,
    regression: bool,
    class_names: Mapping[str, list[str]] | None = None,
) -> Domain:
    """The domain of a table; `where` is what errors call it, `class_names` are by column."""
    known = [str(c) for c in frame.columns]
    notes = []
    if group_column is not None and group_column not in known:
        raise unknown(f"group column in {where!r}", group_column, known)
    if label_column is None:
        lower = {c.lower(): c for c in known}
        label_column = next((lower[c] for c in LABEL_COLUMNS if c in lower), None)
        if label_column is not None and labelled is not False:
            notes.append(f"labels are taken from the column {label_column!r}")
    wanted = label_columns(label_column, frame, regression)
    has_labels = bool(wanted) and set(wanted) <= set(known)
    if labelled and not has_labels:
        if wanted:
            absent = next(c for c in wanted if c not in known)
            raise unknown(f"label column (of {where})", absent, known)
        raise DomadaptError(
            f"The column of {where!r} that holds the labels must be named (--label-column); "
            f"its columns are {', '.join(known[:20])}."
        )
    if wanted and not has_labels:
        assert label_column is not None
        notes.append(unlabelled_note(label_column, where, known))
    columns = _text_columns(text_column, frame, {*wanted, group_column}, where)
    if text_column == AUTO:
        notes.append(f"texts are taken from the column {columns[0]!r}")
    texts = [_strings(frame, column, where) for column in columns]
    labels = names = values = None
    if has_labels and regression:
        values, names = value_array(frame[wanted], where), list(wanted)
    elif has_labels:
        names = (class_names or {}).get(wanted[0])
        labels = label_array(frame[wanted[0]])
        if names is not None:
            labels = np.array([None if v in (-1, None) else v for v in labels], dtype=object)
    return _domain(
        name,
        TextSamples(texts[0] if len(texts) == 1 else zip(*texts, strict=True), columns),
        labels=labels,
        values=values,
        groups=None if group_column is None else frame[group_column],
        class_names=names,
        notes=notes,
    )


def _domain(
    name: str,
    samples: TextSamples,
    *,
    labels: np.ndarray | None = None,
    values: np.ndarray | None = None,
    groups: Any = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Domain:
    named = None if class_names is None else tuple(str(c) for c in class_names)
    return Domain(
        name,
        samples,
        labels=None if labels is None else name_labels(labels, named),
        values=values,
        groups=None if groups is None else group_array(groups),
        kind="text",
        ids=ids,
        class_names=named,
        notes=tuple(notes),
    )


def _text_columns(
    asked: str, frame: pd.DataFrame, special: set[str | None], where: str
) -> list[str]:
    """The one or two columns of the texts."""
    known = [str(c) for c in frame.columns if str(c) not in special]
    if asked == AUTO:
        lengths = {c: _length(frame[c]) for c in known}
        longest = max(lengths, key=lambda c: lengths[c], default=None)
        if longest is None or lengths[longest] == 0:
            raise DomadaptError(
                f"A column of texts is required, and {where!r} has none beside labels and groups; "
                f"its columns are {', '.join(map(str, frame.columns[:20]))}. Name it (--text-column"
                ") if its values are not strings."
            )
        return [longest]
    columns = [asked] if asked in known else [c.strip() for c in asked.split(",")]
    for column in columns:
        if column not in known:
            raise unknown(f"text column in {where!r}", column, known)
    if len(columns) > 2:
        raise DomadaptError(
            f"Texts stand in one column, or pairs of them in two; got {len(columns)}: {asked}."
        )
    return columns


def _length(column: pd.Series[Any]) -> float:
    """The mean length of a column's strings; 0 where not all of its values are strings."""
    values = column.dropna()
    if len(values) == 0 or not all(isinstance(v, str) for v in values):
        return 0.0
    return float(np.mean([len(v) for v in values]))


def _strings(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    missing = np.flatnonzero(frame[column].isna().to_numpy())
    if len(missing):
        raise DomadaptError(
            f"Every row needs a text; {len(missing)} of {where!r} have none in {column!r}, the "
            f"first in row {missing[0]}. Fill them in or drop the rows."
        )
    return [str(v) for v in frame[column]]


def _coded(text: Text) -> bytes:
    parts = tuple(text) if isinstance(text, tuple | list) else (text,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise DomadaptError(
            f"A text must be a string, or a pair of strings; got {type(text).__name__} {text!r:.60}"
            ". Convert it, and drop samples that have none."
        )
    # A lone surrogate is no character, and a zero byte stands between the texts of a pair.
    coded = [part.encode(errors="replace").replace(_BETWEEN, b" ") for part in parts]
    return _BETWEEN.join(coded)
