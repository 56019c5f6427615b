"""Where studies are kept, and whether one of them is for the same search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domadapt.errors import DomadaptError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def check_same(study: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a study that was begun for something else."""
    other = [k for k in now if then.get(k) != now[k]]
    if other:
        said = "; ".join(f"{k} was {_differing(then.get(k, 'none'), now[k])}" for k in other[:3])
        raise DomadaptError(
            f"The study {study!r} was made with other {', '.join(other)} than asked for now "
            f"({said}). Ask for the same, or begin another one: another --out, or, in a database, "
            "another --study-name as well."
        )


def _differing(then: str, now: str) -> str:
    """Two long texts by the parts in which they differ."""
    old, new = then.split(", "), now.split(", ")
    if len(old) == len(new) > 1:
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        return f"{', '.join(a for a, _ in pairs)}, now {', '.join(b for _, b in pairs)}"
    return f"{then}, now {now}"


def open_storage(where: str | Path) -> BaseStorage:
    """A SQLite file, or a database by its URL."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    url = str(where)
    options: dict[str, Any] = {}
    if "://" not in url:
        Path(url).resolve().parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{Path(url).resolve()}"
        # Several processes write to the file in turns.
        options = {"engine_kwargs": {"connect_args": {"timeout": 120}}}
    try:
        return RDBStorage(url, **options)
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DomadaptError(
            f"--study takes a file or the URL of a database such as sqlite:///tune.db, whose "
            f"driver is installed; {where} cannot be opened ({reason})."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes on what it does; its warnings are heard."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
