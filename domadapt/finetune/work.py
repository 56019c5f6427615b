"""One training of a comparison: a strategy, a size, a fold and a seed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt import checkpoint
from domadapt.defaults import BackboneKind, training_for
from domadapt.evaluation import metrics
from domadapt.finetune.heads import SeveralHeads, alone, is_shared, joined, outputs_of_head
from domadapt.finetune.splits import part_of, read_size
from domadapt.inference import outputs_of
from domadapt.layers.reinitialise import Reset, owner_of, reinitialise
from domadapt.layers.subject import Subject, subject_of
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cell, Cells
from domadapt.strategies.tuning import Tuning, prepare
from domadapt.task import Domain, Split, Task
from domadapt.trainer import Trainer
from domadapt.training import Training
from domadapt.transfer.models import labels_of
from domadapt.transfer.probe import _folds

#: The candidate that transfers nothing: the same network with its weights as before any training.
SCRATCH = "scratch"
#: Steps of a training where none are said; few enough to compare many.
STEPS = 500
#: Settings that say how fast a network learns: they suit what it starts from, and no other.
PACE = (
    "optimizer",
    "lr",
    "head_lr_multiple",
    "momentum",
    "weight_decay",
    "schedule",
    "warmup",
)
#: How often a network is scored on the way.
LOOKS = 20


@dataclass(frozen=True)
class Fold:
    """Labelled training samples and those that are scored, never one in both."""

    train: Split
    test: Split


@dataclass(frozen=True)
class FineTuneWork:
    """Computes the cells of a comparison, in whatever process it is sent to.

    Attributes:
        domain: the labelled data.
        test: labelled data that are scored alone; None divides `domain` into folds.
        model: of `domadapt.layers.subject.subject_of`.
        training: settings that differ from the defaults.
        folds: how many; 1 with `test`.
        image_size, augment, max_length, pooling: as of `domadapt.runs.plan.ModelSpec`.
        split_seed: of the folds and of the order in which samples are taken.
        also: other labelled data sets, which a shared encoder learns from as well (`heads`).
        scratch_lr: the learning rate of training from scratch; None for its default.
    """

    domain: Domain
    test: Domain | None
    model: str | Network
    training: Mapping[str, Any]
    folds: int
    image_size: int | None = None
    augment: str | None = None
    split_seed: int = 0
    max_length: int | None = None
    pooling: str | None = None
    also: tuple[Domain, ...] = ()
    scratch_lr: float | None = None

    def task(self) -> Task:
        """The labelled data as a task; its splits are not those of a comparison."""
        if self.test is None:
            return Task(self.domain, self.domain.unlabelled(), name=self.domain.name)
        name = f"{self.domain.name}, scored on {self.test.name}"
        return Task(self.domain, self.domain.unlabelled(), target_test=self.test, name=name)

    def shared_task(self) -> Task:
        """The labelled data with all others, for a shared encoder; theirs are the first samples."""
        return joined([self.domain, *self.also], self.test)

    def subject(self, task: Task) -> Subject:
        """The pre-trained network for it."""
        return subject_of(
            self.model,
            task,
            image_size=self.image_size,
            augment=self.augment,
            max_length=self.max_length,
            pooling=self.pooling,
        )

    def fold(self, task: Task, number: int) -> Fold:
        """What is trained with and what is scored; each sample is scored in one fold."""
        inputs, y = task.source_train.domain, torch.from_numpy(labels_of(task))

        def split(name: str, index: np.ndarray) -> Split:
            zeros = torch.zeros(len(index), dtype=torch.long)
            return Split(name, inputs, index, y[index], zeros)

        if self.test is not None:
            everything = split("source_train", np.arange(len(y)))
            truth = task._labels_for_evaluate()
            assert truth is not None
            scored = np.flatnonzero(truth >= 0)
            test = dataclasses.replace(
                task.target_test,
                name="source_val",
                indices=task.target_test.indices[scored],
                y=torch.from_numpy(truth[scored]),
            )
            return Fold(everything, test)
        parts = _folds(len(y), y.numpy(), self.domain.groups, self.folds, False, self.split_seed)
        train, held = parts[number]
        return Fold(split("source_train", train), split("source_val", held))

    def how(self, kind: BackboneKind, method: str, seed: int) -> Training:
        """The settings of a training; from scratch those of a network that begins at random.

        How fast is asked for with fine-tuning in mind: a rate that suits SGD on pre-trained weights
        would ruin AdamW from scratch, and make fine-tuning look the better for it.
        """
        # Processes share the cores already: none of them needs workers of its own.
        given = {"steps": STEPS, "workers": 0, **self.training, "seed": seed}
        if method == SCRATCH:
            kept = {k: v for k, v in given.items() if k not in PACE}
            own = {} if self.scratch_lr is None else {"lr": self.scratch_lr}
            return training_for("scratch", {**kept, **own, "finetune": "full"})
        return training_for(kind, {**given, "finetune": alone(method)})

    def network(self, subject: Subject, method: str, how: Training) -> Network:
        """The network before training."""
        network = subject.make(how.seed)
        if method == SCRATCH:
            return from_scratch(network, subject, how.seed)
        example = subject.views.evaluation(subject.task.example.fetch([0, 1]))
        return prepare(network, alone(method), example, how.seed)

    def __call__(self, cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        """Train and score a cell; its result as plain data."""
        asked = cell.config
        data, shared = self.task(), is_shared(cell.method)
        subject = self.subject(self.shared_task() if shared else data)
        # Of texts these are tokens.
        task = subject.task
        fold = self.fold(data if shared else task, asked["fold"])
        assert fold.train.y is not None
        size = read_size(asked["size"])
        index = part_of(fold.train.y.numpy(), size, self.split_seed + asked["fold"])
        part = dataclasses.replace(
            fold.train, indices=fold.train.indices[index], y=fold.train.y[index]
        )
        count, outputs = len(part), torch.arange(data.n_classes)
        if shared:
            outputs = outputs_of_head(task, self.domain.name, data.class_names)
            part, fold = self._with_others(task, part, fold, outputs)
        small = copy.copy(task)
        small.source_train, small.source_val = part, fold.test
        how = self.how(subject.kind, cell.method, cell.seed)
        network = self.network(subject, cell.method, how)
        state, seen = room / "state.safetensors", room / "seen.json"
        curve: list[list[float]] = checkpoint.read_json(seen) if seen.exists() else []
        method = SeveralHeads(network, task) if shared else build_method(BASELINE, network, {})
        trainer = Trainer(
            method, small, subject.views, how, checkpoint_path=state, key=f"cell {cell.key}"
        )

        def scored(found: Network) -> dict[str, float]:
            out = outputs_of(found, fold.test, subject.views, max_features=2)
            assert fold.test.y is not None
            y = torch.searchsorted(outputs, fold.test.y) if shared else fold.test.y
            return metrics(out.logits.cpu()[:, outputs], y, data.class_names)

        def look(step: int, found: Network) -> None:
            # What a run that was killed saw after its last checkpoint it sees again.
            curve[:] = [point for point in curve if point[0] < step]
            curve.append([step, scored(found)["accuracy"]])
            checkpoint.write_json(seen, curve)

        # A look before the first step: what the pre-trained network knows with its new head.
        if not curve and not state.exists():
            was = network.training
            look(0, network.eval())
            network.train(was)
        tuned = trainer.fit(look=look, looks=LOOKS)
        final = scored(tuned)
        said = Tuning(tuned, Training(finetune="full"), trainer.steps).describe()
        if trainer.tuning is not None:
            said = trainer.tuning.describe()
        return {
            "metrics": final,
            "curve": [*curve, [trainer.steps, final["accuracy"]]],
            "samples": count,
            "scored": len(fold.test),
            "trained": said["trained"],
            "parameters": said["of"],
            "seconds": trainer.history["seconds"][-1],
            "training": asdict(how),
        }

    def _with_others(
        self, task: Task, part: Split, fold: Fold, outputs: Tensor
    ) -> tuple[Split, Fold]:
        """The samples of a fold and all of the other data sets, as samples of the joined task."""
        assert part.y is not None
        assert fold.test.y is not None
        inputs = task.source_train.domain
        others = np.arange(len(self.domain), len(inputs))
        y = torch.from_numpy(labels_of(task))
        train = Split(
            "source_train",
            inputs,
            np.concatenate([part.indices, others]),
            torch.cat([outputs[part.y], y[others]]),
            torch.zeros(len(part) + len(others), dtype=torch.long),
        )
        scored = task.target_test.domain if self.test is not None else inputs
        test = dataclasses.replace(fold.test, domain=scored, y=outputs[fold.test.y])
        return train, Fold(train, test)


def from_scratch(network: Network, subject: Subject, seed: int) -> Network:
    """The same network with everything it had learnt taken from it, in place.

    Weights as the model begins, biases 0, normalisation layers reset; its inputs stay normalised as
    they were.
    """
    draw = torch.Generator().manual_seed(seed + 7)
    fresh = None if subject.fresh is None else subject.fresh(seed)[""]
    owner = owner_of(network.backbone.modules())
    reinitialise(network.backbone, Reset(), draw, fresh=fresh, owner=owner)
    reinitialise(network.bottleneck, Reset(), draw, owner=owner)
    return network
