"""What is done for one cell of a study: fine-tune a variant, probe the blocks, or look at a
fine-tuned network.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domadapt.checkpoint import write_atomically
from domadapt.devices import make_accelerator
from domadapt.evaluation import Outputs, evaluate, score
from domadapt.inference import outputs_of
from domadapt.layers.arrangement import Arrangement, arranged
from domadapt.layers.blocks import Block, blocks_of
from domadapt.layers.cka import domain_cka, linear_cka
from domadapt.layers.criticality import criticality, curve, state_of
from domadapt.layers.probing import activations, probe
from domadapt.layers.settings import Settings, drawn
from domadapt.layers.subject import Subject, subject_of
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.regression import score_values
from domadapt.runs.cell import Cell, Cells
from domadapt.task import Split, Task
from domadapt.trainer import Trainer

#: Samples that CKA looks at, at most.
MAX_CKA = 1000
TUNE, PROBE, LOOK = "fine-tune", "probe", "look"
_latest: list[tuple[tuple[str, ...], Subject]] = []


@dataclass(frozen=True)
class LayerWork:
    """Computes the cells of a study, in whatever process it is sent to.

    Attributes:
        model: see `domadapt.layers.subject.subject_of`.
        task: the downstream task.
        settings: of the study.
        image_size, augment, max_length, pooling: see `domadapt.layers.subject.subject_of`.
        two: whether the target is a domain of its own.
        name: tells this study from others in one process.
    """

    model: str | Network
    task: Task
    settings: Settings
    image_size: int | None = None
    augment: str | None = None
    max_length: int | None = None
    pooling: str | None = None
    two: bool = False
    name: str = ""

    def __call__(self, cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        """The result of a cell as plain data."""
        begun, used = time.perf_counter(), time.process_time()
        subject = self._subject(cells)
        does = {TUNE: self._tune, PROBE: self._probe, LOOK: self._look}
        found = does[cell.config["does"]](cell, subject, room, cells)
        return {
            **found,
            "wall_seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - used,
        }

    def _subject(self, cells: Cells) -> Subject:
        """The subject, which all cells of a process share."""
        known = (str(cells.folder.resolve()), self.name)
        if not _latest or _latest[0][0] != known:
            _latest[:] = [(known, self.subject())]
        return _latest[0][1]

    def subject(self) -> Subject:
        """Make the subject."""
        return subject_of(
            self.model,
            self.task,
            image_size=self.image_size,
            augment=self.augment,
            max_length=self.max_length,
            pooling=self.pooling,
        )

    def _arranged(self, cell: Cell, subject: Subject) -> tuple[Network, tuple[Block, ...]]:
        """The network as this cell's variant begins."""
        network = subject.make(cell.seed)
        blocks = blocks_of(network, self.settings.blocks)
        said: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in cell.config["variant"].items()
        }
        variant = Arrangement(**said)
        fresh = None
        if self.settings.how.init == "own" and subject.fresh is not None:
            fresh = subject.fresh(cell.seed)
        arranged(network, blocks, variant, self.settings.how, cell.seed, fresh)
        return network, blocks

    def _trained(self, cell: Cell, subject: Subject, network: Network, room: Path) -> Trainer:
        task = part_of(subject.task, cell.config["size"], cell.seed)
        size = len(task.source_train)
        how = self.settings.training_of(subject.kind, size, cell.seed)
        trainer = Trainer(
            build_method("source_only", network, {}),
            task,
            subject.views,
            how,
            checkpoint_path=room / "checkpoint.safetensors",
            key=cell.key,
        )
        trainer.fit()
        return trainer

    def _tune(self, cell: Cell, subject: Subject, room: Path, cells: Cells) -> dict[str, Any]:
        network, _ = self._arranged(cell, subject)
        trainer = self._trained(cell, subject, network, room)
        measure = self._measure(subject, network)
        losses = trainer.history.get("loss/source", [])
        return {
            "score": measure(subject.task.source_val),
            "target": self._on_target(subject, network),
            "loss": losses[-1] if losses else None,
            "seconds": trainer.history["seconds"][-1],
            "steps": trainer.step,
        }

    def _measure(self, subject: Subject, network: Network) -> Callable[[Split], float]:
        """The metric of a network on labelled held-out samples of the source."""
        task = subject.task
        metric = self.settings.checked_metric(task.regression)

        def measure(split: Split) -> float:
            out = outputs_of(network, split, subject.views, max_features=2)
            return metric_of(task, metric, out)

        return measure

    def _on_target(self, subject: Subject, network: Network) -> float | None:
        task = subject.task
        if not (self.two and task.has_test_labels):
            return None
        out = outputs_of(network, task.target_test, subject.views, max_features=2)
        found = evaluate(task, out)
        value = getattr(found, self.settings.checked_metric(task.regression))
        return None if value is None else float(value)

    def _probe(self, cell: Cell, subject: Subject, room: Path, cells: Cells) -> dict[str, Any]:
        """Linear probes; the activations are computed once for all sizes and seeds."""
        path = cells.folder / "cache" / f"activations-{cell.config['activations']}.npz"
        with cells.alone("activations"):
            if not path.exists():
                network = subject.make(0)
                blocks = blocks_of(network, self.settings.blocks)
                device = make_accelerator(self.settings.training_of(subject.kind, 2, 0)).device
                held: dict[str, np.ndarray] = {}
                for split in (subject.task.source_train, subject.task.source_val):
                    rows = activations(network, blocks, split, subject.views, device=device)
                    held |= {f"{split.name}-{i}": z for i, z in enumerate(rows)}
                write_atomically(path, lambda p: _save(p, held))
        with np.load(path, allow_pickle=False) as file:
            count = sum(name.startswith("source_val-") for name in file.files)
            train = [file[f"source_train-{i}"] for i in range(count)]
            test = [file[f"source_val-{i}"] for i in range(count)]
        task = subject.task
        y, truth = _labels(task.source_train), _labels(task.source_val)
        size = cell.config["size"]
        keep = drawn(y, len(y) if size is None else size, cell.seed)
        some = [z[keep] for z in train]
        return {"scores": probe(some, y[keep], test, truth, regression=task.regression)}

    def _look(self, cell: Cell, subject: Subject, room: Path, cells: Cells) -> dict[str, Any]:
        """Criticality and CKA of a network that is fine-tuned with all of its blocks."""
        network, blocks = self._arranged(cell, subject)
        before = copy.deepcopy(network)
        start = [state_of(block) for block in blocks]
        trainer = self._trained(cell, subject, network, room)
        start = [{k: v.to(trainer.accelerator.device) for k, v in s.items()} for s in start]
        found: dict[str, Any] = {}
        if "criticality" in cell.config["studies"]:
            measure = self._measure(subject, network)
            s = self.settings
            curves = [
                curve(
                    block,
                    theta,
                    lambda: measure(subject.task.source_val),
                    alphas=s.alphas,
                    noise=s.noise,
                    seed=cell.seed,
                )
                for block, theta in zip(blocks, start, strict=True)
            ]
            critical = [criticality(s.alphas, c, s.tolerance) for c in curves]
            found["criticality"] = {"curves": curves, "critical": critical}
        if "cka" in cell.config["studies"]:
            before.to(trainer.accelerator.device)
            found["cka"] = compare(before, network, subject, self.settings, two=self.two)
        return found


def compare(
    before: Network, after: Network, subject: Subject, settings: Settings, *, two: bool
) -> dict[str, list[float] | None]:
    """CKA of each block: of two networks on the same samples, and of two domains in each network.

    Args:
        before, after: networks of one architecture.
        subject: the task and its views.
        settings: names of the blocks, and which estimate.
        two: whether the target is a domain of its own.

    Returns:
        "source" and "target": of both networks on held-out source samples and on target samples;
        "domains_before" and "domains_after": of the domains in each. Those with the target are None
        where there is none.
    """
    task = subject.task
    held: dict[str, list[list[np.ndarray]]] = {}
    splits = {"source": task.source_val} | ({} if not two else {"target": task.target_test})
    for name, split in splits.items():
        held[name] = [
            activations(
                network,
                blocks_of(network, settings.blocks),
                split,
                subject.views,
                max_samples=MAX_CKA,
            )
            for network in (before, after)
        ]

    def along(a: list[np.ndarray], b: list[np.ndarray], measure: Any) -> list[float]:
        t = torch.from_numpy
        return [measure(t(x), t(y), unbiased=settings.unbiased) for x, y in zip(a, b, strict=True)]

    found: dict[str, list[float] | None] = {
        name: along(both[0], both[1], linear_cka) for name, both in held.items()
    }
    found.setdefault("target", None)
    for i, when in enumerate(("before", "after")):
        found[f"domains_{when}"] = (
            None if not two else along(held["source"][i], held["target"][i], domain_cka)
        )
    return found


def metric_of(task: Task, metric: str, out: Outputs) -> float:
    """A metric of outputs on a labelled split of the source; NaN where it is undefined."""
    assert out.y is not None
    if task.regression:
        value = getattr(score_values(out.logits, out.y.numpy(), task.class_names), metric)
    else:
        value = getattr(score(out.logits, out.y, task.class_names), metric)
    return float("nan") if value is None else float(value)


def part_of(task: Task, size: int | None, seed: int) -> Task:
    """The task with `size` of its training samples, drawn by the seed; all where None."""
    if size is None:
        return task
    split = task.source_train
    keep = drawn(_labels(split), size, seed)
    at = torch.from_numpy(keep)
    part = copy.copy(task)
    part.source_train = replace(
        split,
        indices=split.indices[keep],
        y=None if split.y is None else split.y[at],
        domain_ids=None if split.domain_ids is None else split.domain_ids[at],
    )
    return part


def _labels(split: Split) -> np.ndarray:
    assert split.y is not None
    found: np.ndarray = split.y.numpy()
    return found


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        kept: dict[str, Any] = dict(arrays)
        np.savez(file, **kept)
