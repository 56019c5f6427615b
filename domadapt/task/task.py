"""`Task`: what is learnt from what, and the label firewall."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.regression import check_spread, known
from domadapt.task.domain import Domain, Kind
from domadapt.task.domain import pooled as pooled_of
from domadapt.task.labels import (
    UNKNOWN,
    canonical,
    label_ids,
    labels_alike,
    source_classes,
    source_labels,
    source_values,
)
from domadapt.task.splits import Oracle, Split, check_shapes, hold_out, same_samples, share_samples


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
        self.regression = labels_alike(sources, (target, test, *more), regression)
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
        check_shapes((*sources, target, test, *more))
        if target_test is not None and same_samples(target, target_test):
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
            self.class_names, y = source_values(sources)
        else:
            labels = source_labels(sources)
            self.class_names = source_classes(sources, labels)
            number = {c: i for i, c in enumerate(self.class_names)}
            y = np.array([number[c] for c in labels])
        pooled = sources[0] if len(sources) == 1 else pooled_of(sources)
        self._note_missing_classes(sources)
        rng = np.random.default_rng(split_seed)
        train, val = hold_out(len(pooled), val_fraction, rng, y, pooled.groups)
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
        if share_samples(domain, test):
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
        train, val = hold_out(
            len(seen), 0.4 if self.transductive else 0.2, rng, labels[seen], groups
        )
        train, val = seen[train], seen[val]

        def split(name: str, domain: Domain, y: np.ndarray, index: np.ndarray) -> Split:
            return Split(f"oracle_{name}", domain.unlabelled(), index, torch.from_numpy(y[index]))

        if self.transductive:
            groups = None if target.groups is None else target.groups[val]
            one, two = hold_out(len(val), 0.5, rng, labels[val], groups)
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
