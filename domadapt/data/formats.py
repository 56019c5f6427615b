"""The kinds of files that `domadapt.data.load` reads, each an entry of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domadapt.data.arrays import from_npz
from domadapt.data.table import EXTENSIONS as TABLES
from domadapt.data.table import from_table
from domadapt.data.text import from_text_table
from domadapt.errors import DomadaptError
from domadapt.task import Domain


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        what: what an error calls it, with its article.
        endings: how such files' names end, in small letters.
        read: ``read(path, name=..., regression=..., ...)`` makes the domain; it is given what of
            `takes` was asked for.
        takes: the arguments of `load` that say where in the file something is: ``label_column``,
            ``group_column``, ``columns``, ``text_column``, ``labelled``. One that it does not take
            is refused, but for the last two, which then do not concern it.
    """

    what: str
    endings: tuple[str, ...]
    read: Callable[..., Domain]
    takes: tuple[str, ...] = ()


def _table(path: Path, *, text_column: str | None = None, **asked: Any) -> Domain:
    if text_column is None:
        return from_table(path, **asked)
    prefer = asked.pop("columns", None) or ()
    return from_text_table(path, text_column=text_column, prefer=prefer, **asked)


def _arrays(path: Path, *, group_column: str | None = None, **asked: Any) -> Domain:
    return from_npz(path, group_key=group_column, **asked)


#: A new kind of file is an entry here, and the function that reads it.
FORMATS = [
    Format(
        "a table",
        TABLES,
        _table,
        ("label_column", "group_column", "columns", "text_column", "labelled"),
    ),
    Format("arrays", (".npz", ".npy"), _arrays, ("group_column",)),
]


def read_file(
    path: Path,
    *,
    name: str | None,
    regression: bool,
    labelled: bool | None,
    text_column: str | None,
    **where: Any,
) -> Domain:
    """The domain of a file, by the ending of its name.

    Raises:
        DomadaptError: no format has this ending, or an argument does not fit the one that has.
    """
    for form in FORMATS:
        if path.name.lower().endswith(form.endings):
            refuse(f"{form.what} ({path.suffix})", {k: where[k] for k in where.keys() - form.takes})
            asked = {**where, "labelled": labelled, "text_column": text_column}
            kept = {key: asked[key] for key in form.takes}
            return form.read(path, name=name, regression=regression, **kept)
    raise DomadaptError(f"Data must be {accepted()}; {path.name!r} is none of these.")


def refuse(where: str, given: dict[str, Any]) -> None:
    """Refuse arguments that say where in a table something is, of what has no such place."""
    for what, value in given.items():
        if value is not None:
            raise DomadaptError(f"{what} belongs to a table; {where} has none. Leave it out.")


def accepted() -> str:
    """What `domadapt.data.load` takes, in words."""
    files = ", ".join(f"{form.what} ({', '.join(form.endings)})" for form in FORMATS)
    return (
        f"an image folder, a folder of .txt files, {files}, or catalogue:domain such as "
        "digits:printed"
    )
