"""What an invariant is, and what comes of putting a method to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from domadapt.selftest.subject import Subject


class NotKept(Exception):
    """An invariant is not kept; the message is the reason."""


def require(kept: bool, reason: str) -> None:
    """Raise `NotKept` for the reason given unless `kept`."""
    if not kept:
        raise NotKept(reason)


@dataclass(frozen=True)
class Invariant:
    """Something that every method keeps.

    Attributes:
        name: one word or two, for the table.
        meaning: a sentence.
        check: returns nothing, or raises `NotKept` with the reason.
        applies: whether a method is asked at all.
    """

    name: str
    meaning: str
    check: Callable[[Subject], None]
    applies: Callable[[Subject], bool]

    def examine(self, subject: Subject) -> Finding:
        """Put a method to the test; whatever goes wrong in it is a reason."""
        started = time.process_time()
        kept: bool | None = None
        reason = ""
        try:
            if self.applies(subject):
                with _isolated():
                    self.check(subject)
                kept = True
        except Exception as error:
            kept = False
            own = isinstance(error, NotKept)
            text = " ".join(str(error).split())
            reason = text if own else f"{type(error).__name__}: {text}"
        return Finding(subject.name, self, kept, reason, time.process_time() - started)


@dataclass(frozen=True)
class Finding:
    """What came of one invariant for one method; `kept` is None where it does not apply."""

    method: str
    invariant: Invariant
    kept: bool | None
    reason: str
    seconds: float


#: All invariants, in the order of their definition.
INVARIANTS: list[Invariant] = []


def _always(_: Subject) -> bool:
    return True


def invariant(
    applies: Callable[[Subject], bool] = _always,
) -> Callable[[Callable[[Subject], None]], Invariant]:
    """Make a function an `Invariant`: its name, and the first sentence of its docstring."""

    def add(check: Callable[[Subject], None]) -> Invariant:
        meaning = " ".join((check.__doc__ or "").split("\n\n")[0].split())
        made = Invariant(check.__name__.replace("_", " "), meaning, check, applies)
        INVARIANTS.append(made)
        return made

    return add


@contextmanager
def _isolated() -> Iterator[None]:
    """Within it a check may seed and draw, and change the default type of numbers."""
    kind = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(kind)
