"""What is done for one cell: train it, score it, keep what a verdict needs."""

from __future__ import annotations

import copy
import hashlib
import importlib
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domadapt import checkpoint
from domadapt.benchmark import baselines
from domadapt.benchmark.cells import training_of
from domadapt.benchmark.looks import looks_at
from domadapt.benchmark.sample import SAMPLE, keep_sample
from domadapt.benchmark.search import expanded, start_of
from domadapt.benchmark.suite import ORACLE, Entry, Suite, load_task_of, spec_of_model, title_of
from domadapt.devices import make_accelerator
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs, Scores, evaluate, score
from domadapt.inference import outputs_of
from domadapt.memory import give_back_freed_memory
from domadapt.methods import is_source_free
from domadapt.methods.registry import method_parts
from domadapt.network import Network
from domadapt.report.report import BASELINE, versions
from domadapt.runs.candidate import LOOKS, RESULT, Trained, candidate_key, train_candidate
from domadapt.runs.cell import Cell, Cells
from domadapt.runs.plan import Plan, make_plan, spec_dict
from domadapt.selection.evidence import MAX_SAMPLES, Evidence, gather, some
from domadapt.selection.guard import feature_rank
from domadapt.selection.scores import source_val_accuracy
from domadapt.selection.validators import scores_of
from domadapt.task import Split, Task
from domadapt.training import Training

#: Files of a finished cell beside its result: what the network says, its curves, and the trained
#: candidate where others may go on from it.
OUTPUTS, HISTORY, CANDIDATE = "outputs.npz", "history.json", "candidate"
#: What a result says of its own cell.
WHO = ("schema", "key", "task", "method", "seed", "config")
#: The plan of the task that this process was last at, by what it is of.
_latest: list[tuple[tuple[str, ...], Plan]] = []


@dataclass(frozen=True)
class SuiteWork:
    """Computes the cells of a suite, in whatever process it is sent to.

    Attributes:
        suite: a checked suite.
        data_root: the folder of the catalogue's data sets.
    """

    suite: Suite
    data_root: str | None = None

    def __call__(self, cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
        """Train and score a cell; its result as plain data."""
        begun = time.perf_counter()
        plan = self._plan(cell.task, cells)
        prepared = time.perf_counter() - begun
        entry = self._entry(cell.method)
        if entry.baseline:
            return self._fixed(cell, entry, plan, made, cells)
        how = training_of(self.suite, plan.kind, cell.seed, entry.lr_factor)
        device = make_accelerator(how).device
        begin_memory(device)
        trained, place = self._train(cell, entry, plan, how, room, cells)
        first = _weights_hash(plan.make_network(cell.seed))
        trained.network.to(device)
        scored = _scored(trained, plan, device, entry.oracle)
        found: dict[str, Any] = {"scores": {}}
        if not entry.oracle:
            evidence = gather(trained, plan.task, plan.views, device=device)
            _keep_outputs(evidence, made / OUTPUTS)
            assert isinstance(self.suite.seeds, tuple)
            if cell.seed == self.suite.seeds[0]:
                # Maps are of one seed; a folder of thousands of cells stays small.
                keep_sample(trained.network, plan, device, made / SAMPLE)
            found["scores"] = scores_of(evidence)
            found["feature_rank"] = feature_rank(evidence.target.z)
            found["trains_on_source"] = evidence.trains_on_source
            val = evidence.source_val
        else:
            # The same samples that evidence looks at.
            part = some(plan.task.source_val, MAX_SAMPLES)
            val = outputs_of(trained.network, part, plan.views, device=device)
        assert val is not None
        # Before the looks, which are no part of what a method costs.
        peak = peak_memory(device)
        if self.suite.checkpoints and not entry.oracle:
            found["looks"] = looks_at(
                trained,
                plan,
                cell.seed,
                place,
                device,
                lambda network: _metrics(
                    _scored(replace(trained, network=network), plan, device, oracle=False)
                ),
            )
        checkpoint.write_json(made / HISTORY, trained.history)
        if entry.name == self._start().name:
            shutil.copytree(place, made / CANDIDATE, ignore=shutil.ignore_patterns(LOOKS))
        trained.network.cpu()
        steps = trained.history.get("step", [0])[-1]
        return {
            **found,
            ORACLE: entry.oracle,
            "scored_on": f"{ORACLE}_target_test" if entry.oracle else "target_test",
            "metrics": _metrics(scored) | {"source_val_accuracy": source_val_accuracy(val)},
            "seconds": trained.seconds,
            "wall_seconds": time.perf_counter() - begun - prepared,
            "steps": int(steps),
            "peak_memory": peak,
            "parameters": sum(p.numel() for p in trained.network.parameters()),
            "initial_weights": first,
            "settings": {k: str(v) for k, v in trained.settings.items()},
            "training": asdict(how),
            "model": spec_dict(plan.spec),
            "trains_on_confidence": trained.trains_on_confidence,
            "warnings": list(trained.warnings),
            "stopped": trained.stopped,
            "versions": versions(),
        }

    # What an engine over several machines asks (`domadapt.runs.ray_server.Travelling`).

    @property
    def shares_cache(self) -> bool:
        """Whether features of a frozen backbone are kept for all."""
        return bool(spec_of_model(self.suite.model).freeze)

    def files(self) -> list[str]:
        """The person's own files and folders that the suite names."""
        entries = [e for e in self.suite.methods if isinstance(e, Entry)]
        said = [*self.suite.tasks, *(e.method for e in entries), *self.suite.model.values()]
        said += [value for e in entries for value in e.settings.values()]
        found = [path for spec in said if isinstance(spec, str) for path in paths_in(spec)]
        return list(dict.fromkeys(found))

    def moved(self, places: Mapping[str, str]) -> SuiteWork:
        """The same where these files lie elsewhere."""

        def there(spec: Any) -> Any:
            for path in sorted(places, key=len, reverse=True):
                spec = spec.replace(path, places[path]) if isinstance(spec, str) else spec
            return spec

        methods = [
            replace(
                e, method=there(e.method), settings={k: there(v) for k, v in e.settings.items()}
            )
            for e in self.suite.methods
            if isinstance(e, Entry)
        ]
        tasks = tuple(there(spec) for spec in self.suite.tasks)
        model = {key: there(value) for key, value in self.suite.model.items()}
        suite = replace(self.suite, tasks=tasks, methods=tuple(methods), model=model)
        return replace(self, suite=suite)

    def prepare(self, cell: Cell, cells: Cells) -> None:
        """Make the plan of a cell's task, and see that data and device are those of the cell.

        Raises:
            DomadaptError: this machine lacks something, or has other data or another device.
        """
        if _latest and _latest[0][0] == self._known(cell.task, cells):
            return
        task = self._load(cell.task)
        if task.fingerprint() != cell.config["data"]:
            raise DomadaptError(
                f"its data of {cell.task} are not those of the machine that runs the benchmark"
            )
        device = make_accelerator(training_of(self.suite, "frozen", 0)).device.type
        if device != cell.config["device"]:
            raise DomadaptError(
                f"it trains on {device}, and cells are to be trained on {cell.config['device']} "
                "(see --gpus-per-cell)"
            )
        self._plan(cell.task, cells, task)

    def _known(self, title: str, cells: Cells) -> tuple[str, ...]:
        return (str(cells.folder.resolve()), self.suite.name, title)

    def _load(self, title: str) -> Task:
        spec = next(spec for spec in self.suite.tasks if title_of(spec) == title)
        return load_task_of(spec, self.data_root)

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in expanded(self.suite) if entry.name == name)

    def _start(self) -> Entry:
        return start_of(expanded(self.suite))

    def _plan(self, title: str, cells: Cells, task: Task | None = None) -> Plan:
        """The plan of a task, which all methods and seeds share; made once for a task."""
        known = self._known(title, cells)
        if _latest and _latest[0][0] == known:
            return _latest[0][1]
        _latest.clear()
        task = task or self._load(title)
        model = spec_of_model(self.suite.model)
        if not model.freeze:
            plan = make_plan(task, model)
        else:
            device = make_accelerator(training_of(self.suite, "frozen", 0)).device
            # Whoever comes second finds the features of the first.
            with cells.alone("features"):
                plan = make_plan(task, model, cache=cells.folder / "cache", device=device)
        _latest.append((known, plan))
        return plan

    def _fixed(
        self, cell: Cell, entry: Entry, plan: Plan, made: Path, cells: Cells
    ) -> dict[str, Any]:
        """The result of a row that adapts nothing."""
        checkpoint.write_json(made / HISTORY, {})
        if cell.needs:
            # It has no seed of its own.
            first = cells.result(cell.needs[0])
            return {k: first[k] for k in first if k not in WHO}
        begun = time.perf_counter()
        device = make_accelerator(training_of(self.suite, "frozen", 0)).device
        begin_memory(device)
        if entry.method == baselines.ZERO_SHOT:
            task = self._load(cell.task)
            said = baselines.zero_shot(task, **entry.settings, device=device)
        else:
            task = plan.task
            spec = spec_of_model(self.suite.model)
            if not spec.freeze:
                with cells.alone("features"):
                    frozen = replace(spec, freeze=True)
                    plan = make_plan(task, frozen, cache=cells.folder / "cache", device=device)
            said = baselines.linear_probe(plan, cell.seed)
        scores = evaluate(task, Outputs(said.test, said.test[:0]))
        assert isinstance(scores, Scores)
        return {
            "scores": {},
            ORACLE: False,
            "adapted": False,
            "scored_on": "target_test",
            "metrics": _metrics(scores) | {"source_val_accuracy": source_val_accuracy(said.val)},
            "seconds": said.seconds,
            "wall_seconds": time.perf_counter() - begun,
            "steps": 0,
            "peak_memory": peak_memory(device),
            "parameters": said.parameters,
            "settings": {k: str(v) for k, v in said.settings.items()},
            "model": spec_dict(plan.spec),
            "warnings": [],
            "versions": versions(),
        }

    def _train(
        self, cell: Cell, entry: Entry, plan: Plan, how: Training, room: Path, cells: Cells
    ) -> tuple[Trained, Path]:
        """The trained candidate and its folder, in which an interrupted training goes on."""
        plain = self._start().settings
        if entry.oracle:
            plan = replace(plan, task=with_target_labels_oracle(plan.task))
            method, settings = BASELINE, plain
        else:
            method, settings = entry.method, entry.settings
        start = None
        if is_source_free(method):
            place = cells.place(cell.needs[0]) / CANDIDATE
            first = training_of(self.suite, plan.kind, cell.seed)
            key = candidate_key(plan, BASELINE, plain, first)
            if checkpoint.read_json(place / RESULT).get("key") != key:
                # It was trained where the model's file lies elsewhere: the same bits, once more.
                place = room / key
            start = train_candidate(plan, BASELINE, plain, first, place).network
        place = room / candidate_key(plan, method, settings, how)
        looks = 0 if entry.oracle else self.suite.checkpoints
        done = train_candidate(plan, method, settings, how, place, start=start, looks=looks)
        return done, place


def paths_in(spec: str) -> list[str]:
    """The absolute paths in a spec such as ``/a/mine.py:name+mcc`` that are files or folders."""
    if Path(spec).is_absolute() and Path(spec).exists():
        return [spec]
    parts = [spec.rpartition(":")[0], spec, *method_parts(spec)]
    files = [part.partition(".py")[0] + ".py" for part in parts if ".py" in part]
    found = [file for file in files if Path(file).is_absolute() and Path(file).is_file()]
    return list(dict.fromkeys(found))


def with_target_labels_oracle(task: Task) -> Task:
    """The task whose source is the labelled training part of the target: for `target_only` alone.

    Its test samples are never among these (`Task.oracle`).
    """
    oracle = task.oracle()
    labelled = copy.copy(task)
    labelled.source_train, labelled.source_val = oracle.target_train, oracle.target_val
    return labelled


def _scored(trained: Trained, plan: Plan, device: torch.device, oracle: bool) -> Scores:
    """Scores on target_test; of the oracle on that part of it which it did not train with."""

    def says(split: Split) -> Any:
        return outputs_of(trained.network, split, plan.views, device=device, max_features=2)

    if not oracle:
        scores = evaluate(plan.task, says(plan.task.target_test))
        assert isinstance(scores, Scores)
        return scores
    test = plan.task.oracle().target_test
    assert test.y is not None
    task = plan.task
    return score(says(test).logits, test.y, task.output_names, open_set=task.open_set)


def _metrics(scores: Scores) -> dict[str, float]:
    """The numbers among the scores."""
    found = {k: v for k, v in scores.to_dict().items() if isinstance(v, int | float)}
    return {k: float(v) for k, v in found.items()}


def _keep_outputs(evidence: Evidence, path: Path) -> None:
    """What guard and choice look at, beside the rank of the features, which is a number."""
    assert evidence.source_val is not None
    assert evidence.source_val.y is not None
    kept: dict[str, Any] = {
        "target_logits": evidence.target.logits.float().numpy(),
        "val_logits": evidence.source_val.logits.float().numpy(),
        "val_y": evidence.source_val.y.numpy(),
    }
    with path.open("wb") as file:
        np.savez(file, **kept)


def _weights_hash(network: Network) -> str:
    digest = hashlib.sha256()
    for value in checkpoint.module_state(network).values():
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def begin_memory(device: torch.device) -> None:
    """Forget earlier peaks, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    give_back_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peaks in bytes: of the process, and of the GPU where there is one.

    On Linux since `begin_memory`; elsewhere over the life of the process, which may have run other
    cells before.
    """
    peak = 0
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                peak = 1024 * int(line.split()[1])
    if peak == 0:
        # Not everywhere; in KiB but on macOS.
        resource = importlib.import_module("resource")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    gpu = {"gpu": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    return {"process": peak, **gpu}
