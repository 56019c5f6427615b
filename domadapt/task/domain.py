"""`Domain`: a data set of one distribution, and the samples in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.regression import value_array

Kind = Literal["image", "vector", "series", "text"]
#: What a `Samples` returns for a list of indices: one tensor ``(n, ...)``; a list of ``n`` tensors
#: where sizes differ (uint8 images ``(3, h, w)``); or a dictionary of tensors (text).
Raw = Tensor | list[Tensor] | dict[str, Tensor]
#: What a network is given: one tensor, or a dictionary of tensors, first dimension the batch.
Inputs = Tensor | dict[str, Tensor]


class Samples(Protocol):
    """Inputs by index, a batch at a time: one at a time costs more than a small network."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int], /) -> Raw: ...


@dataclass(frozen=True, repr=False)
class Domain:
    """A named data set of one distribution.

    Attributes:
        name: what tables and plots call it.
        samples: the inputs. Images are uint8 ``(3, h, w)``, vectors float ``(d,)``, series float
            ``(channels, length)``.
        labels: one per sample, strings or integers; None where there are none. An entry that is
            None, NaN or an empty string is a sample without a label.
        groups: who or what each sample comes from (patient, writer); splits keep groups whole.
        kind: what a sample is, hence which networks and views fit it.
        augment: the name of its augmentation (`domadapt.data.views`), a property of the data:
            a photograph may be mirrored, a digit may not. None takes the kind's default.
        ids: one name per sample, such as its file, for the table of predictions.
        class_names: the classes in order, where the data declare them; otherwise those found,
            numbers in numeric order and words in alphabetical order. Where there are `values`:
            what is measured, one name per column.
        values: measurements ``(n, k)`` in place of labels, for a regression; a row with a NaN is a
            sample without label.
        notes: what a reader of the report should know, such as files that were skipped.
    """

    name: str
    samples: Samples
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    kind: Kind = "vector"
    augment: str | None = None
    ids: Sequence[str] | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    values: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.values is not None:
            if self.labels is not None:
                raise DomadaptError(
                    f"Domain {self.name!r} has both labels and values; give one of the two."
                )
            object.__setattr__(self, "values", value_array(self.values, self.name))
        for what in ("labels", "groups"):
            value = getattr(self, what)
            if value is not None and not isinstance(value, np.ndarray):
                object.__setattr__(self, what, np.asarray(value))
        if not all(hasattr(self.samples, name) for name in ("__len__", "__getitems__")):
            raise DomadaptError(
                f"The samples of a domain need __len__ and __getitems__(indices); those of "
                f"{self.name!r} are of type {type(self.samples).__name__}. Arrays come in by "
                "domadapt.from_arrays(x, y), torch data sets by from_dataset."
            )
        n = len(self.samples)
        if n == 0:
            raise DomadaptError(f"Domain {self.name!r} holds no sample; give at least one.")
        if self.kind not in get_args(Kind):
            raise DomadaptError(
                f"The kind of a domain is one of {', '.join(get_args(Kind))}; got {self.kind!r}."
            )
        for what in ("labels", "values", "groups", "ids"):
            value = getattr(self, what)
            if isinstance(value, np.ndarray) and value.ndim == 0:
                raise DomadaptError(
                    f"{what} must hold one entry per sample; got the single value {value.item()!r}."
                )
            if value is not None and len(value) != n:
                raise DomadaptError(
                    f"Domain {self.name!r} has {n} samples but {len(value)} {what}; every sample "
                    "needs one."
                )
        for what in ("labels", "groups"):
            value = getattr(self, what)
            if value is not None and value.ndim > 1:
                raise DomadaptError(
                    f"{what} must hold one entry per sample; those of {self.name!r} have shape "
                    f"{value.shape}. Give one dimension, such as y[:, 0] or y.argmax(1)."
                )

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        # Not the labels: a target's have no place in a log.
        of = "unlabelled" if self.labels is None and self.values is None else "labelled"
        return f"Domain({self.name}, {self.kind}, {len(self)} samples, {of})"

    def fetch(self, indices: Sequence[int]) -> Raw:
        """The raw inputs at these places."""
        raw = self.samples.__getitems__(indices)
        if isinstance(raw, Tensor | list):
            rows = len(raw)
        elif isinstance(raw, dict):
            rows = len(next(iter(raw.values()), ()))
        else:
            raise DomadaptError(
                "The __getitems__(indices) of samples must return one tensor (n, ...), a list of n "
                f"tensors, or a dictionary of tensors; that of {self.name!r} returned a "
                f"{type(raw).__name__}. Of an array torch.from_numpy makes a tensor."
            )
        if rows != len(indices):
            raise DomadaptError(
                "The __getitems__(indices) of samples must return one row for each index; that of "
                f"{self.name!r} was asked for {len(indices)} and returned {rows}."
            )
        return raw

    def unlabelled(self) -> Domain:
        """The same samples without their labels."""
        return dataclasses.replace(self, labels=None, values=None, class_names=None)


class Pool:
    """Several `Samples` one after the other, for tasks with more than one source domain."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(p) for p in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        index = np.asarray(indices)
        part = np.searchsorted(self.ends, index, side="right")
        rows: list[Any] = [None] * len(index)
        for p in np.unique(part):
            where = np.flatnonzero(part == p)
            start = self.ends[p] - len(self.parts[p])
            got = self.parts[p].__getitems__((index[where] - start).tolist())
            if isinstance(got, dict):
                raise DomadaptError("Several source domains of text are not supported yet.")
            for i, row in zip(where, got, strict=True):
                rows[i] = row
        if all(r.shape == rows[0].shape for r in rows):
            return torch.stack(rows)
        return rows


def pooled(sources: Sequence[Domain]) -> Domain:
    """Several source domains as one, with the name of each in groups and ids."""
    grouped = [d.groups is not None for d in sources]
    if any(grouped) and not all(grouped):
        raise DomadaptError("Either every source domain has groups, or none.")
    groups = None
    if all(grouped):
        groups = np.array([f"{d.name}/{g}" for d in sources for g in d.groups])  # type: ignore[union-attr]
    ids = [
        f"{d.name}/{d.ids[i] if d.ids is not None else i}" for d in sources for i in range(len(d))
    ]
    name = "+".join(d.name for d in sources)
    pool = Pool([d.samples for d in sources])
    return Domain(
        name, pool, groups=groups, ids=ids, kind=sources[0].kind, augment=sources[0].augment
    )
