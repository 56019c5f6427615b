"""The one error that a person's own mistake raises, and the one style it speaks in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DomadaptError(ValueError):
    """Something a person can mend: it says what is required, what was given, what to do."""


class Diverged(DomadaptError):
    """A training came to NaN; the same settings would come to it again."""


def unknown(what: str, given: str, known: Iterable[str]) -> DomadaptError:
    """The error for a name that is in no registry: suggests the nearest and lists all."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DomadaptError(f"There is no {what} {given!r}.{hint} Known: {', '.join(names)}.")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas between, the first `most` of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
