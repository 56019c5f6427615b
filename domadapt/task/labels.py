"""From the labels of domains to class ids, or to the values of a regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domadapt.errors import DomadaptError
from domadapt.regression import known
from domadapt.task.domain import Domain

#: What is said of target samples of a class that the source lacks, where that is asked.
UNKNOWN = "unknown"


def canonical(label: object) -> str | None:
    """A label as the label map knows it: ``3``, ``3.0`` and ``"3"`` are one; None where missing."""
    if label is None or label == "":
        return None
    if isinstance(label, float | np.floating):
        if np.isnan(label):
            return None
        if float(label).is_integer():
            return str(int(label))
    return str(label)


def label_ids(domain: Domain, class_names: Sequence[str], extra_classes: str) -> np.ndarray | None:
    """The labels of a domain as ids of given classes; None where it has none.

    -1 for a sample without a label and, where `extra_classes` is "unscored", for one of a class
    that is not among `class_names`; where it is "unknown", that one has the id after the last.
    """
    if domain.labels is None:
        return None
    number = {name: i for i, name in enumerate(class_names)}
    named = [canonical(v) for v in domain.labels]
    strange = sorted({v for v in named if v is not None and v not in number})
    if strange and extra_classes == "error":
        raise DomadaptError(
            f"{domain.name!r} has labels that the source lacks: {', '.join(strange)}. The source's "
            f"classes are {', '.join(class_names)}. Rename or remove them, leave them out of "
            "the scores (extra_classes='unscored', --extra-classes unscored), or have them told "
            "apart as one class (extra_classes='unknown', --extra-classes unknown)."
        )
    other = len(class_names) if extra_classes == "unknown" else -1
    return np.array([number.get(v, other) if v is not None else -1 for v in named])


def class_order(names: set[str]) -> tuple[str, ...]:
    """Class names in order: numbers by value, words by the alphabet."""
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def labels_alike(sources: Sequence[Domain], others: Sequence[Domain], regression: bool) -> bool:
    """Whether labels are measurements; refuses classes here and measurements there."""
    if regression and any(d.values is None for d in sources):
        raise DomadaptError(
            "The source of a regression must have values: from_arrays(x, y, regression=True), "
            "or Domain(..., values=y)."
        )
    measured = regression or any(d.values is not None for d in sources)
    for d in (*sources, *others):
        if (d.labels if measured else d.values) is not None:
            raise DomadaptError(
                "The labels of all domains must be classes, or of all measurements (regression="
                f"True in from_arrays, from_table and load); those of {d.name!r} are "
                f"{'classes' if measured else 'measurements'}, and the task is a "
                f"{'regression' if measured else 'classification'}."
            )
    return measured


def source_values(sources: Sequence[Domain]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the outputs, and the values of all sources."""
    y: list[np.ndarray] = []
    for d in sources:
        if d.values is None:
            raise DomadaptError(
                f"The source must be labelled; {d.name!r} has no values. Give a label column "
                "(--label-column) or an array y."
            )
        missing = np.flatnonzero(~known(d.values))
        if len(missing):
            raise DomadaptError(
                f"Every source sample needs a value; sample {missing[0]} of {d.name!r} has "
                "none. Drop it or fill it in."
            )
        y.append(d.values)
    widths = {v.shape[1] for v in y}
    if len(widths) > 1:
        raise DomadaptError(
            f"All sources must have as many outputs; got {', '.join(map(str, sorted(widths)))}."
        )
    k = widths.pop()
    numbered = tuple(f"value {i + 1}" for i in range(k)) if k > 1 else ("value",)
    names = sources[0].class_names or numbered
    if len(names) != k:
        raise DomadaptError(
            f"class_names must name each of the {k} outputs; got {len(names)} names."
        )
    return tuple(names), np.concatenate(y)


def source_labels(sources: Sequence[Domain]) -> list[str]:
    """The labels of all sources, one after the other; refuses a sample without."""
    labels: list[str] = []
    for d in sources:
        if d.labels is None:
            raise DomadaptError(
                f"The source must be labelled; {d.name!r} has no labels. Give class folders, "
                "a label column (--label-column) or an array y."
            )
        named = [canonical(v) for v in d.labels]
        if None in named:
            raise DomadaptError(
                f"Every source sample needs a label; sample {named.index(None)} of "
                f"{d.name!r} has none. Drop it or label it."
            )
        labels += [v for v in named if v is not None]
    return labels


def source_classes(sources: Sequence[Domain], labels: list[str]) -> tuple[str, ...]:
    """The classes that the sources declare, else those of `labels` in order."""
    found = set(labels)
    declared = sources[0].class_names
    if declared is not None:
        empty = [c for c in declared if c not in found]
        if empty:
            raise DomadaptError(
                f"The source class(es) {', '.join(empty)} have no sample: nothing can be "
                "learnt of them. Remove the class or add samples."
            )
        extra = found - set(declared)
        if not extra:
            return tuple(declared)
    if len(found) < 2:
        raise DomadaptError(
            "A classifier needs at least 2 source classes; all labels of the source are "
            f"{', '.join(map(repr, sorted(found)))}. Is it the column or folder that was meant?"
        )
    return class_order(found)
