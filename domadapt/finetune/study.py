"""`finetune`: strategies measured on labelled data, and the best of them as a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import domadapt
from domadapt.errors import DomadaptError
from domadapt.finetune.curves import (
    Transferred,
    data_transferred,
    mean_and_spread,
    steps_to,
)
from domadapt.finetune.heads import SHARED, alone, is_shared
from domadapt.finetune.splits import ALL, check_folds, part_of, read_sizes
from domadapt.finetune.work import SCRATCH, FineTuneWork
from domadapt.layers.subject import weights_hash
from domadapt.network import Network
from domadapt.runs import engine
from domadapt.runs.cell import Cell, Cells
from domadapt.strategies.spec import read_strategy
from domadapt.strategies.tuning import tuning_of
from domadapt.task import Domain
from domadapt.transfer.models import labels_of

#: Sizes that `compare` measures where none are said.
SIZES = ("1/class", "5/class", "20/class", ALL)
SCHEMA = 1
#: The share of the accuracy of training from scratch that steps are counted to.
NEAR = 0.95
#: What changes no result.
_IDLE = ("workers", "checkpoint_every", "device", "seed")


@dataclass(frozen=True)
class Row:
    """One strategy at one training size, over all folds and seeds.

    Attributes:
        strategy: its text, or "scratch".
        size: as it was asked for.
        samples: mean number trained with.
        accuracies: of each fold and seed on what was held out.
        macro_f1: mean.
        trained, parameters: how many parameters train, and how many there are.
        seconds: mean time of a training.
        curve: steps, and the mean accuracy at each.
        steps_to: median of the first steps at which the asked accuracy was measured; None where
            half of the trainings never reached it. reached: how many did.
        transferred: what transfer is worth; None of training from scratch, or without it.
    """

    strategy: str
    size: str
    samples: float
    accuracies: tuple[float, ...]
    macro_f1: float
    trained: int
    parameters: int
    seconds: float
    curve: tuple[tuple[int, float], ...]
    steps_to: float | None = None
    reached: int = 0
    transferred: Transferred | None = None

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and standard deviation over folds and seeds."""
        return mean_and_spread(self.accuracies)


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        domain, test: names of the data; `test` is None where folds were scored.
        model: as it was asked for.
        classes: their number. samples: of the labelled data. folds, seeds: how many.
        level: the accuracy that steps are counted to; None for `NEAR` of that which training from
            scratch ends with at the same size.
        rows: strategies as they were asked for, training from scratch last, by size.
        training: the settings of each strategy.
        failures: trainings that failed, with their reasons.
        notes: what a reader should know.
    """

    domain: str
    test: str | None
    model: str
    classes: int
    samples: int
    folds: int
    seeds: int
    level: float | None
    rows: tuple[Row, ...]
    training: dict[str, dict[str, Any]]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def strategies(self) -> list[str]:
        """The strategies in order, training from scratch among them."""
        return list(dict.fromkeys(row.strategy for row in self.rows))

    @property
    def sizes(self) -> list[str]:
        """The training sizes in order."""
        return list(dict.fromkeys(row.size for row in self.rows))

    def row(self, strategy: str, size: str) -> Row | None:
        """What is known of a strategy at a size."""
        return next((r for r in self.rows if (r.strategy, r.size) == (strategy, size)), None)

    def best(self, size: str | None = None, shared: bool = True) -> Row:
        """The fine-tuned row of the highest mean accuracy, at the largest size by default.

        `shared`: whether those that share an encoder with other data sets are looked at, too.
        """
        at = size or self.sizes[-1]
        found = [r for r in self.rows if r.size == at and r.strategy != SCRATCH]
        found = [r for r in found if shared or not is_shared(r.strategy)]
        return max(found, key=lambda r: r.accuracy[0])

    def to_json(self) -> str:
        """All of it, with its schema version."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"


def finetune(
    domain: Domain,
    model: str | Network,
    strategies: Sequence[str] = ("full", "lp_ft"),
    *,
    out: str | Path,
    test: Domain | None = None,
    compare: bool = False,
    sizes: Sequence[str] | None = None,
    folds: int | None = None,
    seeds: int = 1,
    level: float | None = None,
    training: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    also: Sequence[Domain] = (),
    scratch_lr: float | None = None,
    split_seed: int = 0,
    processes: int | None = None,
    retry: bool = False,
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Fine-tune a pre-trained network by several strategies, and measure each on held-out data.

    With `compare`, training from scratch stands beside them, over several training sizes. A sample
    that is scored is never trained with: labelled `test` data, or folds that take turns, groups
    whole. Nothing is chosen by what is scored; the last step counts. Each training is a cell that
    is not run again; processes are spawned, so in a script call it under
    ``if __name__ == "__main__":``.

    Args:
        domain: labelled data.
        model: a backbone with its weights (``resnet20=weights.th``), ``file.py:function``, the
            folder of a run, or a `Network`; it gets a new head.
        strategies: see `domadapt.strategies.spec`.
        out: the folder of the cells.
        test: labelled data to score on, in place of folds.
        compare: train from scratch as well, over `sizes`.
        sizes: "all", numbers of samples, or numbers of each class ("5/class"). Every smaller set is
            part of the larger ones.
        folds: by default 3; 1 with `test`.
        seeds: how many trainings of each cell's kind, of weights, order and augmentation.
        level: the accuracy that steps are counted to; by default 95 % of what training from scratch
            ends with at the same size.
        training: settings of `Training`. How fast (`domadapt.finetune.work.PACE`: optimiser, rates,
            schedule, decay) is of the strategies alone; the others are of all, from scratch too.
        image_size, augment, max_length, pooling: as of `adapt`.
        also: other labelled data sets, whose classes need have nothing in common with those of
            `domain`. Each strategy is then measured a second time with an encoder that learns from
            all of them, a head for each ("full (shared)"); all scores are of `domain`. For the
            networks themselves see `domadapt.finetune.share_encoder`.
        scratch_lr: the learning rate of training from scratch; by default that of a network with
            random weights.
        split_seed: of the folds and of what smaller sets hold.
        processes: how many at a time; by default one per core.
        retry: run failed cells again.
        say: is told how far it is.

    Raises:
        DomadaptError: a model without pre-trained weights, no labels, measurements in place of
            classes, a size that there are not samples for, an unknown strategy.
    """
    tell = say or (lambda _: None)
    work, wanted = planned(
        domain,
        model,
        strategies,
        test=test,
        compare=compare,
        sizes=sizes,
        folds=folds,
        seeds=seeds,
        training=training,
        image_size=image_size,
        augment=augment,
        max_length=max_length,
        pooling=pooling,
        also=also,
        scratch_lr=scratch_lr,
        split_seed=split_seed,
    )
    if level is not None and not 0 < level <= 1:
        raise DomadaptError(f"The accuracy to count steps to lies in (0, 1]; got {level}.")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DomadaptError(f"out needs a folder, and {folder} is a file; give another name.")
    cells = Cells(folder)
    if retry:
        cells.forget_failures()
    gpus = torch.cuda.device_count() if work.training.get("device") != "cpu" else 0
    many = engine.divided(1, gpus) if processes is None else processes
    told = -1

    def look() -> None:
        nonlocal told
        done = sum(cells.finished(cell.key) for cell in wanted)
        if done != told:
            told = done
            tell(f"{done} of {len(wanted)} trainings are done.")

    look()
    engine.run(cells, wanted, work, processes=many, gpus=gpus, look=look)
    return gathered(cells, wanted, work, seeds, level)


def planned(
    domain: Domain,
    model: str | Network,
    strategies: Sequence[str],
    *,
    test: Domain | None = None,
    compare: bool = False,
    sizes: Sequence[str] | None = None,
    folds: int | None = None,
    seeds: int = 1,
    training: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    also: Sequence[Domain] = (),
    scratch_lr: float | None = None,
    split_seed: int = 0,
) -> tuple[FineTuneWork, list[Cell]]:
    """The cells of a comparison and what computes them; refuses what could not be done."""
    if domain.values is not None:
        raise DomadaptError(
            "finetune compares classifiers, and the labels of these data are measurements; for "
            "those use adapt with --finetune."
        )
    if domain.labels is None:
        raise DomadaptError(
            f"finetune needs labels, and {domain.name!r} has none; give class folders, "
            "--label-column, or an array y."
        )
    if test is not None and test.labels is None:
        raise DomadaptError(f"The test set {test.name!r} has no labels to score by; give them.")
    texts = list(dict.fromkeys(strategies))
    if not texts or SCRATCH in texts:
        raise DomadaptError(
            "Name at least one strategy, such as full or lp_ft; training from scratch comes with "
            "--compare by itself."
        )
    for text in texts:
        read_strategy(text)
    if (training or {}).get("self_supervised", "none") != "none":
        raise DomadaptError(
            "Self-supervised training is on the unlabelled target of an adaptation, which there is "
            "none of here; leave --self-supervised out, or use adapt."
        )
    if scratch_lr is not None and not compare:
        raise DomadaptError(
            "scratch_lr is of training from scratch, which only a comparison has; give --compare "
            "as well, or leave it out."
        )
    if seeds < 1:
        raise DomadaptError(f"seeds must be at least 1; got {seeds}.")
    many = (1 if test is not None else 3) if folds is None else folds
    check_folds(many, test is not None)
    work = FineTuneWork(
        domain,
        test,
        model,
        dict(training or {}),
        many,
        image_size,
        augment,
        split_seed,
        max_length,
        pooling,
        tuple(also),
        scratch_lr,
    )
    asked = read_sizes(sizes or (SIZES if compare else (ALL,)))
    task = work.task()
    subject = work.subject(task)
    counted = labels_of(task) if test is not None else _smallest(work)
    able = []
    for size in asked:
        try:
            part_of(counted, size, split_seed)
        except DomadaptError:
            if sizes:
                raise
            continue
        able.append(size)
    together = [text + SHARED for text in texts] if also else []
    names = [*texts, *together, *([SCRATCH] if compare else [])]
    shared = {
        "what": "finetune",
        "data": task.fingerprint(),
        "weights": weights_hash(subject.make(0)),
        "views": subject.views.config(),
        "folds": many,
        "split_seed": split_seed,
        "torch": torch.__version__,
        "domadapt": domadapt.__version__,
    }
    others = {"also": work.shared_task().fingerprint()} if also else {}
    found = []
    for name in names:
        # Refused before anything is trained: a network that the strategy is not for.
        how = work.how(subject.kind, name, 0)
        tuning_of(work.network(subject, name, how), how, how.steps, alone(name))
        said = {k: v for k, v in how.asked().items() if k not in _IDLE}
        given = {**shared, **others} if is_shared(name) else shared
        for size in able:
            for fold in range(many):
                for seed in range(seeds):
                    config = {**given, "training": said, "size": str(size), "fold": fold}
                    found.append(Cell(f"{task.name}, {size}, fold {fold}", name, seed, config))
    return work, found


def in_words(wanted: Sequence[Cell]) -> str:
    """What the cells of a comparison are, without doing them."""
    methods = list(dict.fromkeys(cell.method for cell in wanted))
    sizes = list(dict.fromkeys(str(cell.config["size"]) for cell in wanted))
    folds = len({cell.config["fold"] for cell in wanted})
    seeds = len({cell.seed for cell in wanted})
    lines = [
        f"Trainings  {len(wanted)}: {len(methods)} ways x {len(sizes)} sizes x {folds} folds x "
        f"{seeds} seeds",
        f"Sizes      {', '.join(sizes)}",
    ]
    for name in methods:
        how = next(cell.config["training"] for cell in wanted if cell.method == name)
        said = ", ".join(f"{k}={v}" for k, v in how.items())
        lines.append(f"{name:<10} {said}")
    return "\n".join(lines)


def _smallest(work: FineTuneWork) -> np.ndarray:
    """Labels of the fold with the fewest training samples of some class."""
    task = work.task()
    ys = [work.fold(task, i).train.y for i in range(work.folds)]
    arrays = [y.numpy() for y in ys if y is not None]
    return min(arrays, key=lambda y: (np.bincount(y).min(), len(y)))


def gathered(
    cells: Cells, wanted: Sequence[Cell], work: FineTuneWork, seeds: int, level: float | None
) -> Comparison:
    """The comparison that finished cells amount to."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    failures = []
    for cell in wanted:
        result = cells.result(cell.key)
        if result["error"] is not None:
            failures.append((cell.title, str(result["error"])))
            continue
        groups.setdefault((cell.method, cell.config["size"]), []).append(result)
    if not groups:
        raise DomadaptError(f"No training has a result; the first failed: {failures[0][1]}")
    names = list(dict.fromkeys(cell.method for cell in wanted))
    sizes = list(dict.fromkeys(str(cell.config["size"]) for cell in wanted))
    rows = [
        _row(name, size, groups[name, size])
        for name in names
        for size in sizes
        if (name, size) in groups
    ]
    rows = [_compared(row, rows, groups[row.strategy, row.size], level) for row in rows]
    task = work.task()
    name = work.model if isinstance(work.model, str) else type(work.model.backbone).__name__
    training = {
        name: groups[next(k for k in groups if k[0] == name)][0]["training"]
        for name in names
        if any(k[0] == name for k in groups)
    }
    notes = [*work.domain.notes]
    rates = {n: f"{t['optimizer']} at {t['lr']:g}" for n, t in training.items()}
    if len(set(rates.values())) > 1:
        said = "; ".join(f"{n} {rate}" for n, rate in rates.items())
        notes.append(
            f"Each trains at the rate for what it starts from ({said}). The defaults are tuned to "
            "no data set; --optimizer, --lr and the like set those of fine-tuning, --scratch-lr "
            "that of training from scratch."
        )
    if work.also:
        named = ", ".join(domain.name for domain in work.also)
        notes.append(
            f"Shared encoders learn from {named} as well, a head for each, in as many steps of as "
            f"many samples: fewer of each batch are of {work.domain.name} then."
        )
    if work.test is None:
        notes.append(
            "Spreads are standard deviations over folds and seeds; the training parts of folds "
            "overlap, so they are no confidence intervals."
        )
    return Comparison(
        work.domain.name,
        None if work.test is None else work.test.name,
        name,
        task.n_classes,
        len(work.domain),
        work.folds,
        seeds,
        level,
        tuple(rows),
        training,
        tuple(failures),
        tuple(notes),
    )


def _row(name: str, size: str, results: Sequence[Mapping[str, Any]]) -> Row:
    steps = [int(step) for step, _ in results[0]["curve"]]
    curves = [[float(v) for _, v in r["curve"]] for r in results]
    same = all(len(c) == len(steps) for c in curves)
    mean = [float(v) for v in np.mean(curves if same else curves[:1], axis=0)]
    return Row(
        name,
        size,
        float(np.mean([r["samples"] for r in results])),
        tuple(float(r["metrics"]["accuracy"]) for r in results),
        float(np.mean([r["metrics"]["macro_f1"] for r in results])),
        int(results[0]["trained"]),
        int(results[0]["parameters"]),
        float(np.mean([r["seconds"] for r in results])),
        tuple(zip(steps, mean, strict=True)),
    )


def _compared(
    row: Row, rows: Sequence[Row], results: Sequence[Mapping[str, Any]], level: float | None
) -> Row:
    """A row with what it is worth beside training from scratch."""
    scratch = {r.size: r for r in rows if r.strategy == SCRATCH}
    at = level
    if at is None and row.size in scratch:
        at = NEAR * scratch[row.size].accuracy[0]
    if at is not None:
        curves = [[(int(s), float(v)) for s, v in r["curve"]] for r in results]
        found = [steps_to(curve, at) for curve in curves]
        known = [float(step) for step in found if step is not None]
        # The median over all trainings, those that never got there counted as the slowest.
        ranked = sorted([*known, *[np.inf] * (len(found) - len(known))])
        median = float(np.median(ranked)) if known else np.inf
        steps = median if np.isfinite(median) else None
        row = dataclasses.replace(row, steps_to=steps, reached=len(known))
    if row.strategy == SCRATCH or not scratch:
        return row
    points = sorted((r.samples, r.accuracy[0]) for r in scratch.values())
    worth = data_transferred(
        row.samples, row.accuracy[0], [n for n, _ in points], [v for _, v in points]
    )
    return dataclasses.replace(row, transferred=worth)


def save_model(
    comparison: Comparison,
    domain: Domain,
    model: str | Network,
    out: Path,
    *,
    training: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    seed: int = 0,
) -> str:
    """Train the best strategy on the labelled data and keep it as a run in ``out/model``.

    Those that share an encoder with other data are left aside (`share_encoder`). A fifth of the
    data is held out, as in every run, for calibration. Returns the strategy.
    """
    from domadapt.adaptation import adapt
    from domadapt.finetune.work import STEPS

    chosen = comparison.best(shared=False).strategy
    folder = out / "model"
    if (folder / "config.json").exists():
        return chosen
    work = FineTuneWork(
        domain,
        None,
        model,
        dict(training or {}),
        2,
        image_size,
        augment,
        max_length=max_length,
        pooling=pooling,
    )
    task = work.task()
    named = isinstance(model, str) and not Path(model).is_dir()
    name, _, weights = str(model).partition("=")
    adapt(
        task,
        name if named else work.subject(task).make(seed),
        "source_only",
        out=folder,
        weights=(weights or None) if named else None,
        bottleneck=0 if named else None,
        training={"steps": STEPS, **(training or {}), "finetune": chosen},
        image_size=image_size,
        augment=augment,
        max_length=max_length,
        pooling=pooling,
        seed=seed,
        look=False,
        resume=folder.exists(),
    )
    return chosen


def trained_in_words(row: Row) -> str:
    """How many parameters train, with their share."""
    return f"{row.trained:,} ({100 * row.trained / row.parameters:.1f} %)"
