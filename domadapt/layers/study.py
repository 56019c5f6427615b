"""`layers`: from a model and data to what each of its blocks is worth."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import domadapt
from domadapt import checkpoint
from domadapt.benchmark.cells import IDLE, _labels
from domadapt.devices import make_accelerator
from domadapt.errors import DomadaptError
from domadapt.layers.arrangement import (
    Arrangement,
    copied,
    inverse,
    localised,
    permutations,
    progressive,
)
from domadapt.layers.blocks import Block, blocks_of
from domadapt.layers.results import LayerStudy, Row
from domadapt.layers.settings import FULL, Settings
from domadapt.layers.subject import Subject, task_for, weights_hash
from domadapt.layers.work import LOOK, PROBE, TUNE, LayerWork
from domadapt.network import Network
from domadapt.report.report import versions
from domadapt.runs import engine
from domadapt.runs.cell import Cell, Cells
from domadapt.task import Domain

#: Seconds between two lines about a study that is under way.
EVERY = 10.0
WHOLE, SCRATCH = "whole", "scratch"


@dataclass(frozen=True)
class Planned:
    """A cell and what its result means; several may share one cell.

    `size` is the number of samples; study and position are those of `Row`.
    """

    study: str
    position: int
    size: int
    cell: Cell


def layers(
    model: str | Network,
    source: Domain,
    target: Domain | None = None,
    *,
    out: Path | str,
    settings: Settings | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    val_fraction: float = 0.2,
    extra_classes: bool = False,
    processes: int | None = None,
    threads: int = 1,
    retry: bool = False,
    say: Callable[[str], None] | None = None,
) -> LayerStudy:
    """Study which blocks of a pre-trained network a downstream task makes use of.

    For every variant the network gets a new head, some of its blocks are re-initialised, and all of
    it is fine-tuned; the score on held-out samples says what is lost. (Tamkin et al., 2020,
    arXiv:2004.14975), with these departures: any network instead of BERT; the training defaults of
    its kind of backbone; a stated number of steps for all sizes, so that few samples are passed
    more often; a subset keeps the shares of the classes; probes are solved to the end on averages
    over positions; biases of re-initialised blocks are zero and weights the model's own by default
    (see `domadapt.layers.reinitialise.Reset` for what the authors did).

    Cells that are finished in `out` are not run again; several calls may share it.

    Args:
        model: a backbone with its weights (``resnet20=weights.th``), ``file.py:function``, the
            folder of a run, or a `Network`.
        source: the labelled downstream data; a part is held out for the scores.
        target: data of another domain. Its labels, if any, are only scored.
        out: the folder of the cells; a study that is asked for again goes on.
        settings: what is studied.
        image_size: side that images are brought to; None leaves it to the model.
        augment: augmentation while fine-tuning; None takes the data's own.
        max_length: where texts are cut, in tokens.
        pooling: of an encoder of Hugging Face: "mean" or "first".
        val_fraction: the share of the source that is held out.
        extra_classes: whether target samples of other classes are left unscored, not refused.
        processes: how many work at once; None works in this one. They are spawned: in a script call
            it under ``if __name__ == "__main__":``.
        threads: of each process.
        retry: run failed cells again.
        say: is told how far it is.

    Raises:
        DomadaptError: something that cannot be studied, or no cell with a result.
    """
    settings = settings or Settings()
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DomadaptError(f"out needs a folder, and {folder} is a file; give another name.")
    if threads < 1 or (processes is not None and processes < 1):
        raise DomadaptError(
            f"processes and threads must be at least 1; got {processes} and {threads}."
        )
    tell = say or (lambda text: None)
    task = task_for(source, target, val_fraction, extra_classes)
    settings.checked_metric(task.regression)
    work = LayerWork(
        model, task, settings, image_size, augment, max_length, pooling, target is not None
    )
    subject = work.subject()
    first = subject.make(0)
    blocks = blocks_of(first, settings.blocks)
    sizes, notes = _sizes(settings, len(subject.task.source_train))
    threads_used = threads if processes is not None else torch.get_num_threads()
    shared = _shared(subject, settings, first, blocks, work, threads_used)
    work = replace(work, name=_hash([shared, asdict(settings), settings.blocks])[:16])
    planned, orders = plan_of(subject, settings, blocks, sizes, shared, notes)
    cells = Cells(folder)
    if retry:
        cells.forget_failures()
    wanted = list({p.cell.key: p.cell for p in planned}.values())
    _run(cells, wanted, work, processes, threads, tell)
    found = _gather(cells, planned)
    rows, looks, failures = found
    if not rows and not looks:
        raise DomadaptError(f"No cell of the study has a result: {next(iter(failures), 'none')}")
    part = sum(p.numel() for p in first.backbone.parameters())
    done = [cells.result(c.key) for c in wanted if cells.finished(c.key)]
    study = LayerStudy(
        model=subject.name,
        data=source.name,
        target=None if target is None else target.name,
        metric=settings.checked_metric(subject.task.regression),
        blocks=tuple(b.name for b in blocks),
        parameters=tuple(b.parameters for b in blocks),
        outside=part - sum(b.parameters for b in blocks),
        samples=len(subject.task.source_train),
        held_out=len(subject.task.source_val),
        sizes=tuple(sizes),
        seeds=settings.seeds,
        studies=settings.studies,
        window=settings.window,
        initialisation=_begins(settings, subject),
        settings=_told(settings, subject, sizes),
        rows=rows,
        orders=tuple(a.order for a in orders),
        looks=looks,
        notes=(*notes, *failures, *subject.task.notes),
        seconds=sum(float(r.get("wall_seconds", 0.0)) for r in done),
        cpu_seconds=sum(float(r.get("cpu_seconds", 0.0)) for r in done),
        versions=versions(),
    )
    checkpoint.write_text(folder / "layers.json", study.to_json())
    return study


def _sizes(settings: Settings, samples: int) -> tuple[list[int], list[str]]:
    """Numbers of training samples, the largest first, and what was left out."""
    sizes, notes = [], []
    for size in settings.sizes:
        count = samples if isinstance(size, str) else size
        if count > samples:
            notes.append(
                f"{count:,} training samples were asked for, and there are {samples:,}; that size "
                "is left out."
            )
        elif count not in sizes:
            sizes.append(count)
    if not sizes:
        raise DomadaptError(
            f"There are {samples:,} training samples, fewer than every size that was asked for "
            f"({', '.join(map(str, settings.sizes))}); give smaller ones, or {FULL!r}."
        )
    return sorted(sizes, reverse=True), notes


def _shared(
    subject: Subject,
    settings: Settings,
    network: Network,
    blocks: Sequence[Block],
    work: LayerWork,
    threads: int,
) -> dict[str, Any]:
    """What all cells of a study have in common."""
    task = subject.task
    how = settings.training_of(subject.kind, len(task.source_train), 0)
    return {
        "model": weights_hash(network),
        "blocks": [b.name for b in blocks],
        "data": task.fingerprint(),
        "labels_oracle": _labels(task) if work.two and task.has_test_labels else None,
        "views": subject.views.config(),
        **({} if work.pooling is None else {"pooling": work.pooling}),
        "metric": settings.checked_metric(task.regression),
        "device": make_accelerator(how).device.type,
        "threads": threads,
        "torch": torch.__version__,
        "domadapt": domadapt.__version__,
    }


def plan_of(
    subject: Subject,
    settings: Settings,
    blocks: Sequence[Block],
    sizes: Sequence[int],
    shared: dict[str, Any],
    notes: list[str],
) -> tuple[list[Planned], list[Arrangement]]:
    """All cells of a study by what they mean, and the orders of the permutation study.

    A variant that two studies have in common (nothing re-initialised, say) is one cell. What cannot
    be studied is told in `notes`.
    """
    n, window, title = len(blocks), settings.window, f"{subject.task.name} with {subject.name}"
    samples = len(subject.task.source_train)
    variants: dict[str, list[tuple[int, Arrangement]]] = {WHOLE: [(0, Arrangement())]}
    orders: list[Arrangement] = []
    fresh = subject.fresh is not None or settings.how.init != "own"
    again = {"localised", "inverse", "progressive", "anb", "anb+"} & set(settings.studies)
    if again:
        every = Arrangement(reset=tuple(range(n)), outside=True)
        variants[SCRATCH] = [(0, every)]
    for study in settings.studies:
        if study == "progressive":
            variants[study] = list(enumerate(progressive(n)))
        elif study in ("localised", "inverse"):
            made = (localised if study == "localised" else inverse)(n, window)
            variants[study] = list(enumerate(made))
        elif study in ("anb", "anb+"):
            variants[study] = list(enumerate(copied(n, study == "anb"), 1))
        elif study == "permutation":
            try:
                orders = permutations(blocks, settings.orders)
            except DomadaptError as error:
                if len(settings.studies) == 1:
                    raise
                notes.append(str(error))
            variants[study] = list(enumerate(orders))
            if 0 < len(orders) < settings.orders:
                notes.append(f"The blocks have only {len(orders)} other orders, not more.")
    if set(settings.studies) <= {"probing", "criticality", "cka"}:
        variants.clear()
    planned = []
    for size in sizes:
        for seed in settings.seeds:
            count = None if size == samples else size
            how = settings.training_of(subject.kind, size, seed)
            training = {k: v for k, v in asdict(how).items() if k not in IDLE}
            own = {**shared, "size": count}
            for study, entries in variants.items():
                for position, variant in entries:
                    begins: Any = None
                    if variant.reset or variant.outside:
                        begins = {**asdict(settings.how), "anew": fresh}
                    config = {
                        "does": TUNE,
                        **own,
                        "variant": _listed(variant),
                        "how": begins,
                        "training": training,
                    }
                    name = f"{study} {position}, {size:,} samples"
                    planned.append(Planned(study, position, size, Cell(title, name, seed, config)))
            if "probing" in settings.studies:
                config = {"does": PROBE, **own, "activations": _hash(shared)[:16]}
                cell = Cell(title, f"probing, {size:,} samples", seed, config)
                planned.append(Planned("probing", 0, size, cell))
            looks = [s for s in settings.studies if s in ("criticality", "cka")]
            if looks:
                config = {
                    "does": LOOK,
                    **own,
                    "variant": _listed(Arrangement()),
                    "training": training,
                    "studies": looks,
                    "alphas": list(settings.alphas),
                    "noise": settings.noise,
                    "tolerance": settings.tolerance,
                    "unbiased": settings.unbiased,
                }
                cell = Cell(title, f"{' and '.join(looks)}, {size:,} samples", seed, config)
                planned.append(Planned("looks", 0, size, cell))
    return planned, orders


def _listed(variant: Arrangement) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(variant).items()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _run(
    cells: Cells,
    wanted: Sequence[Cell],
    work: LayerWork,
    processes: int | None,
    threads: int,
    tell: Callable[[str], None],
) -> None:
    """Run what is left, here or in processes, with a line now and then."""
    begun, last = time.monotonic(), 0.0
    before = sum(cells.finished(cell.key) for cell in wanted)
    tell(f"{len(wanted)} cells, {before} of them finished.")

    def look() -> None:
        nonlocal last
        if time.monotonic() - last < EVERY:
            return
        last = time.monotonic()
        done = sum(cells.finished(cell.key) for cell in wanted)
        if done > before:
            left = (len(wanted) - done) * (last - begun) / (done - before) / 60
            tell(f"{done} of {len(wanted)} cells, about {left:.0f} min left.")

    if processes is None:
        for cell in engine.shared(cells, wanted):
            cells.perform(cell, work)
            look()
        return
    gpus = torch.cuda.device_count() if work.settings.training.get("device") != "cpu" else 0
    engine.run(cells, wanted, work, processes=processes, threads=threads, gpus=gpus, look=look)


def _gather(
    cells: Cells, planned: Sequence[Planned]
) -> tuple[tuple[Row, ...], tuple[dict[str, Any], ...], list[str]]:
    """Scores, looks, and why cells failed, of all that were planned."""
    rows: list[Row] = []
    looks: list[dict[str, Any]] = []
    failures: dict[str, None] = {}
    for p in planned:
        found = cells.result(p.cell.key)
        if found["error"] is not None:
            failures[f"{p.cell.method}, seed {p.cell.seed}, failed: {found['error']}"] = None
        elif p.cell.config["does"] == PROBE:
            rows += [
                Row("probing", i + 1, p.size, p.cell.seed, s) for i, s in enumerate(found["scores"])
            ]
        elif p.cell.config["does"] == LOOK:
            parts: dict[str, Any] = {k: found[k] for k in ("criticality", "cka") if k in found}
            looks.append({"size": p.size, "seed": p.cell.seed, **parts})
        else:
            rows.append(
                Row(p.study, p.position, p.size, p.cell.seed, found["score"], found["target"])
            )
    return tuple(rows), tuple(looks), list(failures)


def _begins(settings: Settings, subject: Subject) -> str:
    """What re-initialised blocks begin with, in words."""
    said = settings.how.sentence()
    if settings.how.init == "own":
        how = "as the model was built anew" if subject.fresh is not None else "by its own modules"
        said = f"{said} ({how})"
    return said


def _told(settings: Settings, subject: Subject, sizes: Sequence[int]) -> dict[str, Any]:
    """Settings and training, for the page."""
    said = asdict(settings)
    said["training"] = {
        str(size): {
            k: v
            for k, v in asdict(settings.training_of(subject.kind, size, 0)).items()
            if k not in IDLE
        }
        for size in sizes
    }
    return {**said, "kind": subject.kind, "views": subject.views.config()}
