"""`Domain`, `Task` and `Batch`: what is learnt from what, and the label firewall.

A `Task` is where target labels end. It keeps those of ``target_test`` for
`domadapt.evaluation.evaluate` and hands out nothing else, except through `Task.oracle`, whose
name marks every result that used it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.regression import check_spread, known, strata, value_array

Kind = Literal["image", "vector", "series", "text"]
#: What a `Samples` returns for a list of indices: one tensor ``(n, ...)``; a list of ``n`` tensors
#: where sizes differ (uint8 images ``(3, h, w)``); or a dictionary of tensors (text).
Raw = Tensor | list[Tensor] | dict[str, Tensor]
#: What is said of target samples of a class that the source lacks, where that is asked.
UNKNOWN = "unknown"
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
                    f"Domain {self.name!r} has {n} samples but {len(value)} {what}; "
                    f"give one of the {what} per sample."
                )

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        # Not the labels: a target's have no place in a log.
        of = "unlabelled" if self.labels is None and self.values is None else "labelled"
        return f"Domain({self.name}, {self.kind}, {len(self)} samples, {of})"

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


@dataclass(frozen=True)
class Split:
    """Part of a task's samples; ``y`` is None for everything of the target.

    ``y`` holds class ids ``(n,)``, or, of a regression, float32 values ``(n, k)``.
    """

    name: str
    domain: Domain
    indices: np.ndarray
    y: Tensor | None = None
    domain_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, positions: Sequence[int] | np.ndarray) -> Raw:
        """The raw inputs at these positions within the split."""
        return self.domain.samples.__getitems__(self.indices[np.asarray(positions)].tolist())

    def ids(self) -> list[str]:
        """The names of its samples: those of the domain, or their row numbers."""
        known = self.domain.ids
        return [str(known[i]) if known is not None else str(i) for i in self.indices]


@dataclass(frozen=True)
class Batch:
    """One step's data. There is no ``y_t``: no method can cheat.

    ``x`` is a tensor or a dictionary of tensors; source and target sizes may differ. A part that
    the method did not ask for is None.

    Attributes:
        x_s: source inputs. y_s: their class ids ``(n_s,)``, or, of a regression, float32 values
            ``(n_s, k)``. x_t: target inputs.
        progress: step / total steps, in [0, 1).
        x_s_strong, x_t_strong: strongly augmented views of the same samples.
        index_s, index_t: positions within ``source_train`` and ``target_train``.
        domain_s: which source domain each source sample comes from.
        x_l, y_l: target samples that a person labelled, declared as such.
    """

    x_s: Inputs | None
    y_s: Tensor | None
    x_t: Inputs | None
    progress: float
    x_s_strong: Inputs | None = None
    x_t_strong: Inputs | None = None
    index_s: Tensor | None = None
    index_t: Tensor | None = None
    domain_s: Tensor | None = None
    x_l: Inputs | None = None
    y_l: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `f` applied to every tensor in it."""

        def over(value: Any) -> Any:
            if isinstance(value, Tensor):
                return f(value)
            return {k: f(v) for k, v in value.items()} if isinstance(value, Mapping) else value

        fields = dataclasses.fields(self)
        return Batch(**{field.name: over(getattr(self, field.name)) for field in fields})

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (the data loader calls this)."""
        return self.map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Oracle:
    """Labelled target splits, disjoint from each other. Whatever used one is called `oracle`."""

    target_train: Split
    target_val: Split
    target_test: Split


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


def _same_samples(a: Domain, b: Domain) -> bool:
    """Whether two domains look like one: as long, and equal in eight places."""
    if len(a) != len(b):
        return False
    some = np.unique(np.linspace(0, len(a) - 1, 8).astype(int)).tolist()

    def rows(d: Domain) -> list[Tensor]:
        raw = d.samples.__getitems__(some)
        return list(raw.values()) if isinstance(raw, dict) else list(raw)

    return all(torch.equal(x, y) for x, y in zip(rows(a), rows(b), strict=True))


def _share_samples(few: Domain, many: Domain) -> bool:
    """Whether one of (at most 16 of) the samples of `few` is among those of `many`."""

    def prints(d: Domain, index: Sequence[int]) -> set[bytes]:
        raw = d.samples.__getitems__(list(index))
        if isinstance(raw, dict):
            rows = [
                torch.cat([f.flatten().double() for f in row])
                for row in zip(*raw.values(), strict=True)
            ]
        else:
            rows = list(raw)
        return {row.contiguous().numpy().tobytes() for row in rows}

    wanted = prints(few, np.unique(np.linspace(0, len(few) - 1, 16).astype(int)).tolist())
    starts = range(0, len(many), 256)
    return any(wanted & prints(many, range(s, min(s + 256, len(many)))) for s in starts)


def _hold_out(
    n: int, fraction: float, rng: np.random.Generator, y: np.ndarray | None, groups: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Divide ``0..n-1`` into (kept, held out); whole groups, else the same share of each class.

    Of values the same share of each tenth of them.
    """
    if groups is not None:
        names, member = np.unique([str(g) for g in groups], return_inverse=True)
        if len(names) < 2:
            raise DomadaptError(
                f"Splits keep groups whole, which takes at least 2 groups; there is {len(names)}. "
                "Give more groups, or none."
            )
        order = rng.permutation(len(names))
        size = np.bincount(member)[order].cumsum()
        held = order[: max(1, min(int((size <= fraction * n).sum()), len(names) - 1))]
        out = np.isin(member, held)
        return np.flatnonzero(~out), np.flatnonzero(out)
    stratum = np.zeros(n, dtype=np.int64) if y is None else strata(y)
    held_out = []
    for c in np.unique(stratum):
        where = rng.permutation(np.flatnonzero(stratum == c))
        # A class of one sample stays whole in what is kept: it can be learnt but not validated.
        held_out.append(where[: min(round(fraction * len(where)), len(where) - 1)])
    out_index = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(n), out_index), out_index


class Task:
    """Source domain(s), a target domain, and fixed splits of both.

    ``source_train`` and ``source_val`` are labelled; ``target_train`` and ``target_test`` hand out
    inputs alone. The label map comes from the source only. Without `target_test` the task is
    *transductive*: it is scored on the unlabelled target samples it trained with, as is usual for
    small sets. With it, the task is *inductive*.

    Args:
        source: one labelled domain, or several.
        target: the target domain; its labels, if it has any, serve `evaluate` alone (transductive)
            or nothing (inductive).
        target_test: another labelled sample of the target domain, for scoring.
        name: what tables call the task; by default ``source->target``.
        val_fraction: share of the source kept for validation.
        extra_classes: what to do with labelled target samples of a class that the source lacks:
            "error" refuses them, "unscored" trains with them but leaves them out of every score,
            "unknown" makes the task an *open set*: models have one output more, "unknown", and
            these samples are scored as that class.
        split_seed: seed of the splits, apart from the seed of training.
        target_labelled: a few labelled samples of the target domain to train with, declared as
            such (semi-supervised adaptation). They must not be among those that are scored.
        class_names: only of a task without source (``source=None``): the classes of the trained
            model, in the order of its outputs. ``source_train`` and ``source_val`` are then empty.
        regression: only of a task without source: its outputs are measurements, and `class_names`
            name these.

    A source with `Domain.values` makes a *regression*: ``class_names`` then are the names of what
    is measured, one per output of the network.
    """

    def __init__(
        self,
        source: Domain | Sequence[Domain] | None,
        target: Domain,
        *,
        target_test: Domain | None = None,
        target_labelled: Domain | None = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        val_fraction: float = 0.2,
        extra_classes: Literal["error", "unscored", "unknown"] = "error",
        split_seed: int = 0,
        regression: bool = False,
    ) -> None:
        sources = (source,) if isinstance(source, Domain) else tuple(source or ())
        if (source is None) != (class_names is not None):
            raise DomadaptError(
                "The classes of a task are those of its source; class_names are for a task without "
                "one (source=None), and needed there."
            )
        if not sources and class_names is None:
            raise DomadaptError("A task needs at least one source domain; none was given.")
        if not 0 < val_fraction < 1:
            raise DomadaptError(f"val_fraction must lie between 0 and 1; got {val_fraction}.")
        if extra_classes not in ("error", "unscored", "unknown"):
            raise DomadaptError(
                f"extra_classes must be 'error', 'unscored' or 'unknown'; got {extra_classes!r}."
            )
        #: Whether the target may have classes that the source lacks, all called "unknown".
        self.open_set = extra_classes == "unknown"
        if self.open_set and not sources:
            raise DomadaptError(
                "extra_classes='unknown' needs the source: its validation samples say from which "
                "confidence on a class is believed. Give the source, or leave such samples out of "
                "the scores (extra_classes='unscored')."
            )
        test = target if target_test is None else target_test
        more = () if target_labelled is None else (target_labelled,)
        kinds = {d.kind for d in (*sources, target, test, *more)}
        if len(kinds) > 1:
            raise DomadaptError(
                f"Source and target must be of one kind of data; got {', '.join(sorted(kinds))}."
            )
        #: Whether labels are measurements.
        self.regression = self._labels_alike(sources, (target, test, *more), regression)
        if self.open_set and self.regression:
            raise DomadaptError(
                "extra_classes='unknown' is for classes, and this task's labels are measurements; "
                "leave it out."
            )
        first = sources[0] if sources else target
        self.kind: Kind = first.kind
        self.augment = first.augment
        self.transductive = target_test is None
        self.name = name or f"{'+'.join(d.name for d in sources) or 'model'}->{target.name}"
        self.source_names = tuple(d.name for d in sources)
        self.target_name = target.name
        self.notes: list[str] = [f"{d.name}: {note}" for d in sources for note in d.notes]
        self.notes += [f"{target.name}: {note}" for note in target.notes]
        if target_test is not None:
            self.notes += [f"{test.name} (test): {note}" for note in test.notes]
        if self.regression and extra_classes != "error":
            raise DomadaptError(
                "extra_classes are for classes, and this is a regression; leave it out."
            )
        self._check_shapes((*sources, target, test, *more))
        if target_test is not None and _same_samples(target, target_test):
            raise DomadaptError(
                f"The test set {target_test.name!r} holds the very samples of the target "
                f"{target.name!r}, which are trained with. Leave the test set out (the task is "
                "then called transductive), or give other samples."
            )

        if class_names is not None:
            self.class_names = tuple(class_names)
            nothing = (target.unlabelled(), np.arange(0), torch.zeros(0, dtype=torch.long))
            self.source_train = Split("source_train", *nothing)
            self.source_val = Split("source_val", *nothing)
        else:
            self._split_source(sources, val_fraction, split_seed)
        if self.open_set and UNKNOWN in self.class_names:
            raise DomadaptError(
                f"The source has a class called {UNKNOWN!r}, which is what extra_classes='unknown' "
                "calls the classes that it lacks; rename it."
            )
        number = {c: i for i, c in enumerate(self.class_names)}
        self.target_train = Split("target_train", target.unlabelled(), np.arange(len(target)))
        self.target_test = Split("target_test", test.unlabelled(), np.arange(len(test)))
        self.target_labelled = None
        if target_labelled is not None:
            self.target_labelled = self._labelled_target(target_labelled, test)
        self.__test_labels = self._target_labels(test, number, extra_classes)
        self.__oracle = (target, test, number, split_seed)

    def _split_source(
        self, sources: Sequence[Domain], val_fraction: float, split_seed: int
    ) -> None:
        """Set the classes and the labelled splits."""
        if self.regression:
            self.class_names, y = self._source_values(sources)
        else:
            labels = self._source_labels(sources)
            self.class_names = self._classes(sources, labels)
            number = {c: i for i, c in enumerate(self.class_names)}
            y = np.array([number[c] for c in labels])
        pooled = sources[0] if len(sources) == 1 else self._pool(sources)
        self._note_missing_classes(sources)
        rng = np.random.default_rng(split_seed)
        train, val = _hold_out(len(pooled), val_fraction, rng, y, pooled.groups)
        measured = self.regression
        if len(val) == 0 and not measured and len(self.class_names) > len(pooled) // 2:
            raise DomadaptError(
                f"The source {pooled.name!r} has {len(self.class_names)} different labels in "
                f"{len(pooled)} samples: they look like measurements, and labels must be classes. "
                "Give classes, several samples of each; or say that they are measurements "
                "(--task-type regression, in Python from_arrays(x, y, regression=True))."
            )
        if len(val) == 0:
            raise DomadaptError(
                f"The source {pooled.name!r} has {len(pooled)} samples, too few to keep "
                f"{val_fraction:.0%} {'' if self.regression else 'of each class '}for validation; "
                f"give more samples{'' if self.regression else ' per class'}."
            )
        which = np.repeat(np.arange(len(sources)), [len(d) for d in sources])

        def labelled(split: str, index: np.ndarray) -> Split:
            of = torch.from_numpy
            return Split(split, pooled.unlabelled(), index, of(y[index]), of(which[index]))

        self.source_train = labelled("source_train", train)
        self.source_val = labelled("source_val", val)
        if measured:
            check_spread(y[train], self.class_names, pooled.name)
            return
        absent = sorted(set(self.class_names) - {self.class_names[i] for i in y[train]})
        if absent:
            raise DomadaptError(
                f"No source training sample of class {', '.join(absent)} is left after the split; "
                "give more samples of it, or more groups."
            )

    def _note_missing_classes(self, sources: Sequence[Domain]) -> None:
        """Say which of several sources lacks classes: a misspelt label looks like that."""
        for d in sources if len(sources) > 1 and not self.regression else ():
            assert d.labels is not None
            lacks = sorted(set(self.class_names) - {str(canonical(v)) for v in d.labels})
            if lacks:
                self.notes.append(f"{d.name}: has no sample of the class(es) {', '.join(lacks)}.")

    def _labelled_target(self, domain: Domain, test: Domain) -> Split:
        """The declared labelled target samples; refuses those that are scored as well."""
        y = domain.values if self.regression else label_ids(domain, self.class_names, "error")
        if y is None or not known(y).all():
            raise DomadaptError(
                f"Every sample of target_labelled needs a label; {domain.name!r} has some without. "
                "Drop them: without label they belong to the target."
            )
        if _share_samples(domain, test):
            raise DomadaptError(
                "Labelled target samples that are trained with must not be scored, and some of "
                f"{domain.name!r} are also in {test.name!r}; take them out of one of the two."
            )
        of = torch.from_numpy
        return Split("target_labelled", domain.unlabelled(), np.arange(len(domain)), of(y))

    @property
    def n_classes(self) -> int:
        """The number of classes of the source; in a regression that of the outputs."""
        return len(self.class_names)

    def units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``(k,)`` of a regression's source; 0 and 1 without one."""
        y = self.source_train.y
        if y is None or len(y) == 0:
            return torch.zeros(self.n_classes), torch.ones(self.n_classes)
        return y.double().mean(0).float(), y.double().std(0, correction=0).float()

    @property
    def _counted(self) -> str:
        return ("output" if self.n_classes == 1 else "outputs") if self.regression else "classes"

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the outputs of a trained model stand for: the classes, then "unknown" if asked."""
        return (*self.class_names, UNKNOWN) if self.open_set else self.class_names

    @property
    def source_free(self) -> bool:
        """Whether there is a trained model in place of source samples."""
        return len(self.source_train) == 0

    @property
    def example(self) -> Split:
        """The split that shows what inputs are like: the source's, where there is one."""
        return self.target_train if self.source_free else self.source_train

    @property
    def has_test_labels(self) -> bool:
        """Whether `evaluate` has anything to score with."""
        return self.__test_labels is not None

    def __repr__(self) -> str:
        how = "transductive" if self.transductive else "inductive"
        return (
            f"Task({self.name}, {how}, {self.n_classes} {self._counted}, "
            f"source {len(self.source_train)}+{len(self.source_val)}, "
            f"target {len(self.target_train)}, test {len(self.target_test)})"
        )

    def mapped(self, f: Callable[[Domain], Domain]) -> Task:
        """The same splits and labels over other inputs, such as cached features.

        `f` is called once per distinct domain (source, target, separate test set) and returns one
        of the same length, in the same order.
        """
        made: dict[int, Domain] = {}

        def over(split: Split) -> Split:
            old = split.domain
            if id(old.samples) not in made:
                made[id(old.samples)] = f(old)
            new = dataclasses.replace(made[id(old.samples)], name=old.name, ids=old.ids)
            return dataclasses.replace(split, domain=new)

        task = copy.copy(self)
        task.source_train, task.source_val = over(self.source_train), over(self.source_val)
        task.target_train, task.target_test = over(self.target_train), over(self.target_test)
        if self.target_labelled is not None:
            task.target_labelled = over(self.target_labelled)
        task.kind = task.example.domain.kind
        task.augment = task.example.domain.augment
        return task

    def oracle(self) -> Oracle:
        """The one marked door to target labels: for `target_only` and oracle selection.

        Its three splits never share a sample, so that what is selected with ``target_val`` is not
        scored on it. In a transductive task they are 60, 20 and 20 percent of the target.
        """
        target, test, number, seed = self.__oracle
        inputs, test_inputs = self.target_train.domain, self.target_test.domain
        labels = self._target_labels(target, number, "unscored")
        if labels is None:
            raise DomadaptError(f"The target {target.name!r} has no labels: there is no oracle.")
        rng = np.random.default_rng(seed)
        seen = np.flatnonzero(known(labels))
        groups = None if target.groups is None else target.groups[seen]
        train, val = _hold_out(
            len(seen), 0.4 if self.transductive else 0.2, rng, labels[seen], groups
        )
        train, val = seen[train], seen[val]

        def split(name: str, domain: Domain, y: np.ndarray, index: np.ndarray) -> Split:
            return Split(f"oracle_{name}", domain.unlabelled(), index, torch.from_numpy(y[index]))

        if self.transductive:
            groups = None if target.groups is None else target.groups[val]
            one, two = _hold_out(len(val), 0.5, rng, labels[val], groups)
            val, test_index, test_labels = val[one], val[two], labels
        else:
            kept = self.__test_labels
            if kept is None:
                raise DomadaptError(f"The test set {test.name!r} has no labels.")
            test_index, test_labels = np.flatnonzero(known(kept)), kept
        return Oracle(
            split("target_train", inputs, labels, train),
            split("target_val", inputs, labels, val),
            split("target_test", test_inputs, test_labels, test_index),
        )

    def _labels_for_evaluate(self) -> np.ndarray | None:
        """Class ids of ``target_test`` (-1: not scored), or values ``(n, k)``.

        For `domadapt.evaluation` alone.
        """
        return self.__test_labels

    def fingerprint(self) -> str:
        """A hash of what is trained on: sizes, source labels, and some samples of each split."""
        digest = hashlib.sha256(repr((self.class_names, self.kind, self.transductive)).encode())
        splits = [self.source_train, self.source_val, self.target_train, self.target_test]
        if self.target_labelled is not None:
            splits.append(self.target_labelled)
        for split in splits:
            digest.update(f"{split.name}:{len(split)}".encode())
            if len(split) == 0:
                continue
            if split.y is not None:
                digest.update(split.y.numpy().tobytes())
            if split is self.source_val and self.open_set:
                digest.update(UNKNOWN.encode())
            some = np.unique(np.linspace(0, len(split) - 1, 16).astype(int))
            raw = split.fetch(some)
            for x in raw.values() if isinstance(raw, dict) else raw:
                digest.update(x.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @staticmethod
    def _check_shapes(domains: Sequence[Domain]) -> None:
        if domains[0].kind not in ("vector", "series"):
            return
        shapes = []
        for d in domains:
            raw = d.samples.__getitems__([0])
            shapes.append(None if isinstance(raw, dict) else tuple(raw[0].shape))
        for d, shape in zip(domains, shapes, strict=True):
            if shape != shapes[0]:
                raise DomadaptError(
                    f"Source and target must have the same features: a sample of "
                    f"{domains[0].name!r} has shape {shapes[0]}, one of {d.name!r} {shape}."
                )

    @staticmethod
    def _labels_alike(
        sources: Sequence[Domain], others: Sequence[Domain], regression: bool
    ) -> bool:
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

    @staticmethod
    def _source_values(sources: Sequence[Domain]) -> tuple[tuple[str, ...], np.ndarray]:
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

    @staticmethod
    def _source_labels(sources: Sequence[Domain]) -> list[str]:
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

    @staticmethod
    def _classes(sources: Sequence[Domain], labels: list[str]) -> tuple[str, ...]:
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
                f"A classifier needs at least 2 source classes; found {', '.join(sorted(found))}."
            )
        return class_order(found)

    @staticmethod
    def _pool(sources: Sequence[Domain]) -> Domain:
        grouped = [d.groups is not None for d in sources]
        if any(grouped) and not all(grouped):
            raise DomadaptError("Either every source domain has groups, or none.")
        groups = None
        if all(grouped):
            groups = np.array([f"{d.name}/{g}" for d in sources for g in d.groups])  # type: ignore[union-attr]
        ids = [
            f"{d.name}/{d.ids[i] if d.ids is not None else i}"
            for d in sources
            for i in range(len(d))
        ]
        name = "+".join(d.name for d in sources)
        pool = Pool([d.samples for d in sources])
        return Domain(
            name, pool, groups=groups, ids=ids, kind=sources[0].kind, augment=sources[0].augment
        )

    def _target_labels(
        self, domain: Domain, number: Mapping[str, int], extra: str
    ) -> np.ndarray | None:
        if self.regression:
            ids = domain.values
            if ids is not None and ids.shape[1] != self.n_classes:
                raise DomadaptError(
                    f"The target must be measured as the source is: {self.n_classes} "
                    f"{self._counted} ({', '.join(self.class_names)}); {domain.name!r} has "
                    f"{ids.shape[1]}."
                )
        else:
            ids = label_ids(domain, tuple(number), extra)
        return ids if ids is not None and known(ids).any() else None
