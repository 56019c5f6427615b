"""The cells of a suite, each with the configuration that decides its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import domadapt
from domadapt.benchmark import baselines
from domadapt.benchmark.search import expanded, scaled, start_of
from domadapt.benchmark.suite import (
    UPPER,
    Entry,
    Suite,
    load_task_of,
    spec_of_model,
    title_of,
)
from domadapt.defaults import training_for
from domadapt.devices import make_accelerator
from domadapt.errors import DomadaptError
from domadapt.methods import is_source_free
from domadapt.methods.registry import method_parts
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import method_source_hash
from domadapt.runs.cell import Cell
from domadapt.runs.plan import make_plan
from domadapt.task import Task
from domadapt.training import Training

#: They change how often something is written or how fast data come, and no weight.
IDLE = ("workers", "checkpoint_every", "device", "seed")


def cells_of(
    suite: Suite,
    *,
    threads: int = 1,
    data_root: Path | str | None = None,
    device: str | None = None,
) -> list[Cell]:
    """All cells of a checked suite: of each task source_only first, as others go on from it.

    Every task is loaded once, for the fingerprint of its data. `device` is the type of device that
    cells are trained on; None: the one that is found here.

    Raises:
        DomadaptError: a task, model or setting that cannot be used, or a target without labels.
    """
    entries = expanded(suite)
    start = start_of(entries)
    assert isinstance(suite.seeds, tuple)
    found = []
    for spec in suite.tasks:
        task = load_task_of(spec, data_root)
        shared = _shared(suite, task, threads, device)
        sources: dict[int, str] = {}
        looked: dict[str, str] = {}
        for entry in entries:
            own = _own(entry)
            # The upper bound is trained as source_only is.
            own |= {"settings": _plain(start.settings)} if entry.oracle else {}
            if suite.checkpoints and not (entry.oracle or entry.baseline):
                # Only where there are any, so that cells without them stay what they were.
                own["checkpoints"] = suite.checkpoints
            if entry.lr_factor != 1:
                own["lr_factor"] = entry.lr_factor
                lr = scaled(shared["training"]["lr"], entry.lr_factor)
                own["training"] = {**shared["training"], "lr": lr}
            for seed in suite.seeds:
                needs: tuple[str, ...] = ()
                if entry.baseline:
                    needs = (same,) if (same := looked.get(entry.method)) else ()
                elif not entry.oracle and is_source_free(entry.method):
                    needs = (sources[seed],)
                config = {**shared, **own, "goes_on_from": list(needs)}
                cell = Cell(title_of(spec), entry.name, seed, config, needs)
                found.append(cell)
                if entry.method == baselines.ZERO_SHOT:
                    # Without a seed of its own: the others take over what the first has found.
                    looked.setdefault(entry.method, cell.key)
                if entry is start:
                    sources[seed] = cell.key
    return found


class Planned(NamedTuple):
    """A cell of a suite by its names and its key, as tables need it."""

    task: str
    method: str
    seed: int
    key: str


def planned(cells: Sequence[Cell]) -> list[Planned]:
    """The names and keys of cells."""
    return [Planned(cell.task, cell.method, cell.seed, cell.key) for cell in cells]


def training_of(suite: Suite, kind: Any, seed: int, lr_factor: float = 1.0) -> Training:
    """How every method of a suite is trained, but for the learning rate where that is searched."""
    how = training_for(kind, {**suite.training, "seed": seed})
    return replace(how, lr=scaled(how.lr, lr_factor))


def _shared(suite: Suite, task: Task, threads: int, device: str | None) -> dict[str, Any]:
    """What all cells of a task have in common."""
    if task.regression:
        raise DomadaptError(
            f"A benchmark compares classifiers, and the labels of {task.name} are measurements; "
            "give tasks with classes."
        )
    if not task.has_test_labels:
        raise DomadaptError(
            f"A benchmark needs a target with labels to score by, and that of {task.name} has "
            "none; without labels use `domadapt adapt`, which judges without them."
        )
    spec = spec_of_model(suite.model)
    plan = make_plan(task, replace(spec, freeze=False))
    kind = "frozen" if spec.freeze else plan.kind
    names = {entry.method: entry for entry in suite.methods if isinstance(entry, Entry)}
    baselines.check_baselines(names, task, kind, plan.spec.name)
    how = training_of(suite, "frozen" if spec.freeze else plan.kind, 0)
    return {
        "data": task.fingerprint(),
        "labels_oracle": _labels(task),
        "model": _shown({**asdict(spec), "name": plan.spec.name}),
        "training": {k: v for k, v in how.asked().items() if k not in IDLE},
        "views": plan.views.config(),
        "device": device or make_accelerator(how).device.type,
        "threads": threads,
        "torch": torch.__version__,
        "domadapt": domadapt.__version__,
    }


def _own(entry: Entry) -> dict[str, Any]:
    """What makes a method's cells its own; of a file its name, as its content is hashed."""
    if entry.oracle:
        return {"method": UPPER, "source": method_source_hash(BASELINE), "oracle": True}
    if entry.baseline:
        said = baselines.identity(entry.settings)
        source = hashlib.sha256(Path(baselines.__file__).read_bytes()).hexdigest()[:16]
        return {"method": entry.method, "source": source, "settings": said, "oracle": False}
    parts = [_file_name(part) for part in method_parts(entry.method)]
    return {
        "method": "+".join(parts),
        "source": method_source_hash(entry.method),
        "settings": _plain(entry.settings),
        "oracle": False,
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: v if isinstance(v, int | float | str | None) else str(v) for k, v in settings.items()
    }


def _file_name(spec: str) -> str:
    """A spec without the folder of its file: that may lie elsewhere on another machine."""
    file, dot, name = spec.partition(".py")
    return f"{Path(file).name}{dot}{name}" if dot else spec


def _shown(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model without folders, its files by their content."""
    found = dict(model)
    for key in ("name", "weights", "checkpoint"):
        value = found[key]
        if not isinstance(value, str):
            continue
        file, dot, _ = value.partition(".py")
        path = Path(file + dot)
        if path.is_dir():
            path = path / "model.safetensors"
        if path.is_file():
            found[f"{key}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            found[key] = _file_name(value) if dot else Path(value).name
    return found


def _labels(task: Task) -> str:
    """A hash of the target's labels: scores made with others are other scores."""
    digest = hashlib.sha256()
    oracle = task.oracle()
    for split in (oracle.target_train, oracle.target_val, oracle.target_test):
        assert split.y is not None
        digest.update(split.indices.astype("int64").tobytes())
        digest.update(split.y.numpy().astype("int64").tobytes())
    return digest.hexdigest()[:16]
