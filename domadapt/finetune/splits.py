"""What a comparison trains with and what it is scored on: folds, and smaller parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domadapt.errors import DomadaptError

PER_CLASS = "/class"
ALL = "all"


@dataclass(frozen=True, order=True)
class Size:
    """How much is trained with.

    Attributes:
        count: samples, or samples of each class; 0 for all there are.
        per_class: whether `count` is of each class.
    """

    count: int
    per_class: bool = False

    def __str__(self) -> str:
        return f"{self.count}{PER_CLASS}" if self.per_class else str(self.count or ALL)


def read_size(text: str) -> Size:
    """A size as a person says it: ``all``, ``200``, or ``5/class``.

    Raises:
        DomadaptError: it is none of these.
    """
    number, per_class = text.strip().removesuffix(PER_CLASS), text.strip().endswith(PER_CLASS)
    if number == ALL and not per_class:
        return Size(0)
    if not number.isdecimal() or int(number) < 1:
        raise DomadaptError(
            f"A training size is a number of samples, a number of each class (5/class), or all; "
            f"got {text!r}."
        )
    return Size(int(number), per_class)


def nested_order(y: np.ndarray, seed: int) -> np.ndarray:
    """An order of all samples of which every beginning has the classes in their shares.

    The r-th of the n_c samples of a class, in random order, stands at ``(r + u) / n_c`` with one u
    in [0, 1) per class; so a smaller training set is part of every larger one.

    Args:
        y: class ids ``(n,)``.
        seed: of the random order.
    """
    rng = np.random.default_rng([seed, len(y)])
    place = np.empty(len(y))
    for c in np.unique(y):
        where = rng.permutation(np.flatnonzero(y == c))
        place[where] = (np.arange(len(where)) + rng.random()) / len(where)
    return np.argsort(place, kind="stable")


def part_of(y: np.ndarray, size: Size, seed: int) -> np.ndarray:
    """Positions of the samples that are trained with, in increasing order.

    Of a number of samples at least one per class is taken.

    Raises:
        DomadaptError: there are not that many.
    """
    counts = np.unique(y, return_counts=True)[1]
    if size.count == 0:
        return np.arange(len(y))
    if size.per_class and size.count > counts.min():
        raise DomadaptError(
            f"{size} needs {size.count} training samples of each class, and one class has "
            f"{counts.min()}; ask for fewer."
        )
    if not size.per_class and not len(counts) <= size.count <= len(y):
        raise DomadaptError(
            f"A training size lies between the number of classes, {len(counts)}, and that of "
            f"training samples, {len(y)}; got {size}."
        )
    order = nested_order(y, seed)
    if size.per_class:
        taken = [order[y[order] == c][: size.count] for c in np.unique(y)]
        return np.sort(np.concatenate(taken))
    first = [order[y[order] == c][0] for c in np.unique(y)]
    rest = order[~np.isin(order, first)]
    return np.sort(np.concatenate([first, rest[: size.count - len(first)]]))


def check_folds(folds: int, has_test: bool) -> None:
    """Refuse a number of folds that says nothing."""
    if has_test and folds != 1:
        raise DomadaptError("With a test set of its own there are no folds; leave out one of both.")
    if not has_test and folds < 2:
        raise DomadaptError(
            f"Without a test set at least 2 folds are needed to score on what was not trained "
            f"with; got {folds}. Ask for more, or give a labelled test set (--test)."
        )


def read_sizes(texts: Sequence[str]) -> tuple[Size, ...]:
    """Several sizes, each once, the smallest first as far as that is known."""
    sizes = list(dict.fromkeys(read_size(text) for text in texts))
    return tuple(sorted(sizes, key=lambda s: (s.count == 0, not s.per_class, s.count)))
