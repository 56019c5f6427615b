"""What a collection of data sets is, and what its readers share."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from domadapt.errors import DomadaptError
from domadapt.task import Domain

TRAIN_TEST = ("train", "test")

#: (domain, part or None, where its data are) -> the domain.
Loader = Callable[[str, str | None, Path], Domain]


def nothing_to_find(domain: str, root: Path) -> Path | None:
    """Where embedded data are: nowhere in particular."""
    return Path()


@dataclass(frozen=True)
class Collection:
    """A collection of domains: what it is, where it lies, and how a domain is read."""

    what: str
    origin: str
    layout: str
    classes: int
    #: Its domains; none where the collection is itself one domain.
    domains: tuple[str, ...]
    load: Loader
    #: Where a domain's data are, or None: (domain, data root) -> file or folder. By default nothing
    #: is looked for, as of embedded data.
    find: Callable[[str, Path], Path | None] = nothing_to_find
    #: The parts a domain has; a task trains on the first and is scored on "test".
    parts: tuple[str, ...] = ()
    #: The tasks that are listed; others work too. None: every ordered pair of domains.
    pairs: tuple[tuple[str, str], ...] | None = None
    #: Short names of domains that papers use.
    short: Mapping[str, str] = field(default_factory=dict)
    #: Puts the data into a folder, where they can be fetched.
    download: Callable[[Path], None] | None = None


def key(name: str) -> str:
    """A name without capitals, spaces, hyphens and underscores."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def below(folder: Path | None, *steps: str) -> Path | None:
    """The folder or file under `folder`, each step one of ``a|b`` whatever its spelling.

    A step that ends in ``?`` may be missing.
    """
    for step in steps:
        if folder is None or not folder.is_dir():
            return None
        names = {key(name) for name in step.rstrip("?").split("|")}
        inner = next((p for p in sorted(folder.iterdir()) if key(p.name) in names), None)
        folder = inner if inner is not None or not step.endswith("?") else folder
    return folder


def only_npz(folder: Path | None) -> Path | None:
    """The one ``.npz`` of a folder."""
    files = sorted(folder.glob("*.npz")) if folder is not None and folder.is_dir() else []
    return files[0] if len(files) == 1 else None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within it, whatever a library says of a broken file becomes one sentence."""
    try:
        yield
    except DomadaptError:
        raise
    # Each library has its own exceptions for a broken file, not all of them documented.
    except Exception as error:
        raise DomadaptError(
            f"The file {str(path)!r} cannot be read as the catalogue expects "
            f"({type(error).__name__}: {error}). Fetch it again, or remove it."
        ) from error


def fetched(collection: str, of: Collection, folder: Path) -> Path:
    """Where the data of a collection lie after their download into `folder`."""
    assert of.download is not None
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        of.download(folder)
    except (OSError, RuntimeError, EOFError) as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise DomadaptError(
            f"{collection!r} is not at hand and could not be downloaded into {str(folder)!r} "
            f"({error}). Put its files there by hand: {of.layout} below the "
            "data root (--data-root, or the environment variable DOMADAPT_DATA)."
        ) from error
    found = of.find(collection, folder.parent)
    if found is None:
        raise DomadaptError(
            f"The download of {collection!r} into {str(folder)!r} is not whole; remove the folder "
            "and try again."
        )
    return found
