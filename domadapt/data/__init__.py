"""Where domains come from: arrays, folders, tables, texts, and the catalogue of named tasks."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from domadapt.data.arrays import from_arrays, from_npz
from domadapt.data.datasets import from_dataset, from_loader
from domadapt.data.folder import EXTENSIONS as IMAGES
from domadapt.data.folder import files_below, from_folder
from domadapt.data.formats import accepted, read_file, refuse
from domadapt.data.table import from_table
from domadapt.data.text import from_hub_dataset, from_text_folder, from_text_table, from_texts
from domadapt.errors import DomadaptError
from domadapt.task import Domain, Task

__all__ = [
    "from_arrays",
    "from_dataset",
    "from_folder",
    "from_hub_dataset",
    "from_loader",
    "from_npz",
    "from_table",
    "from_text_folder",
    "from_text_table",
    "from_texts",
    "load",
    "load_task",
]


def load(
    spec: str | Path,
    *,
    label_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    columns: Sequence[str] | None = None,
    labelled: bool | None = None,
    data_root: str | Path | None = None,
    regression: bool = False,
    text_column: str | None = None,
) -> Domain:
    """The domain that a path or a name stands for.

    A folder is read by `from_folder`, or, where it holds ``.txt`` files and no image, by
    `from_text_folder`; a table (``.csv``, ``.csv.gz``, ``.parquet``, ``.jsonl``) by `from_table`,
    or, where `text_column` is given, by `from_text_table`; an ``.npz`` or ``.npy`` by `from_npz`;
    what is no path and has a colon is looked up in the catalogue.

    Args:
        spec: the path, or ``catalogue:domain``.
        label_column: of a table.
        group_column: of a table, or the name of the array of groups in an ``.npz``.
        name: what tables call the domain.
        columns: the input columns of a table, in order.
        labelled: True insists on labels, False drops them, None takes what there is.
        data_root: the folder in which the catalogue finds data sets.
        regression: labels are measurements; of a table or arrays alone.
        text_column: the column of a table that holds texts, two with a comma between for pairs, or
            "auto" for the column of the longest strings.

    Raises:
        DomadaptError: nothing there, a kind of file that is not read, an argument that does not
            fit it, or labels required where there are none.
    """
    path = Path(spec)
    in_table = {"label_column": label_column, "group_column": group_column, "columns": columns}
    if not path.exists():
        if ":" not in str(spec):
            raise _missing(path)
        refuse(str(spec), in_table)
        from domadapt.data import catalogue

        domain = catalogue.domain(str(spec), data_root=data_root)
        domain = dataclasses.replace(domain, name=name or domain.name)
    elif path.is_dir():
        refuse("a folder", in_table)
        if (path / "config.json").exists() and (path / "model.safetensors").exists():
            raise DomadaptError(
                f"Data are required; {str(path)!r} is the folder of a run. Its model is taken up "
                "by load_run, `domadapt predict` and `domadapt evaluate`."
            )
        read = from_text_folder if _holds_texts(path) else from_folder
        domain = read(path, name=name, labelled=labelled)
    else:
        domain = read_file(
            path,
            name=name,
            labelled=labelled,
            regression=regression,
            text_column=text_column,
            **in_table,
        )
    if regression and domain.labels is not None:
        raise DomadaptError(
            f"The labels of {str(spec)!r} are classes, and those of a regression must be numbers: "
            "give a table with --label-column, or arrays."
        )
    if labelled and domain.labels is None and domain.values is None:
        raise DomadaptError(
            f"Labels are required, but {str(spec)!r} has none. Give class folders, a label column "
            "that the table has (--label-column), or an array y."
        )
    return domain.unlabelled() if labelled is False else domain


def load_task(spec: str, data_root: str | Path | None = None, *, val_fraction: float = 0.2) -> Task:
    """The task of this name in the catalogue, such as ``digits:printed->handwritten``.

    `val_fraction` is the share of the source that is kept for validation.
    """
    from domadapt.data import catalogue

    return catalogue.task(spec, data_root, val_fraction=val_fraction)


def _holds_texts(folder: Path) -> bool:
    """Whether there are texts under a folder, and no image."""
    found = {
        "text" if f.lower().endswith(".txt") else "image"
        for f in files_below(folder)
        if f.lower().endswith((*IMAGES, ".txt"))
    }
    return found == {"text"}


def _missing(path: Path) -> DomadaptError:
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return DomadaptError(f"Data must be {accepted()}; there is nothing at {str(path)!r}.{hint}")
