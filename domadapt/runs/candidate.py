"""One trained model of a run: trained once, resumed exactly, never trained again."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from domadapt import checkpoint
from domadapt.curves import History, Log
from domadapt.errors import DomadaptError
from domadapt.inference import outputs_of
from domadapt.methods import build_method, is_source_free
from domadapt.methods.registry import method_class, method_names, method_parts
from domadapt.network import Network
from domadapt.open_set import closed_network, open_network, rule_from, rule_of, with_threshold
from domadapt.runs.plan import Plan, spec_dict
from domadapt.strategies.adapters import restore_adapters
from domadapt.strategies.self_supervised import begun
from domadapt.strategies.tuning import prepare
from domadapt.trainer import Trainer, Watch
from domadapt.training import Training

#: Files of a candidate's folder.
WEIGHTS, STATE, RESULT = "model.safetensors", "checkpoint.safetensors", "result.json"
#: The weights that were kept on the way, one file per look.
LOOKS = "look-*.safetensors"


class Progress(Protocol):
    """What a run tells while it works."""

    def stage(self, name: str, steps: int) -> None:
        """A part of the run begins; `steps` is 0 where its length is unknown."""

    def log(self, point: Log) -> None:
        """A point of the learning curves of the part under way."""


@dataclass(frozen=True)
class Trained:
    """A candidate after training: the network that `Plan.task` is for, and how it came about.

    `warnings` are the doctor's findings, in words; `stopped` says why training ended early.
    """

    name: str
    method: str
    settings: dict[str, Any]
    network: Network
    history: History
    seconds: float
    trains_on_confidence: bool
    warnings: tuple[str, ...] = ()
    stopped: str = ""


def method_source_hash(spec: str) -> str:
    """A hash of the source files of a method, so that a changed method is another cell."""
    digest = hashlib.sha256()
    for name in method_parts(spec):
        cls = method_class(name)
        try:
            digest.update(Path(inspect.getfile(cls)).read_bytes())
        except (OSError, TypeError):
            # Written at a prompt or in a notebook: it has no file.
            digest.update(f"{cls.__module__}.{cls.__qualname__}".encode())
    return digest.hexdigest()[:16]


def _shared(plan: Plan, training: Training, folder: Path | None) -> Path | None:
    """Where the self-supervised weights lie that all candidates of a seed begin with."""
    if folder is None:
        return None
    said = [training.asked(), spec_dict(plan.spec), plan.views.config(), plan.task.fingerprint()]
    text = json.dumps([*said, torch.__version__], sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder.parent / f"self-supervised-{key}.safetensors"


def candidate_key(plan: Plan, method: str, settings: Mapping[str, Any], training: Training) -> str:
    """The hash of all that decides a candidate's weights on one machine."""
    # Where and how often is logged, and by how many workers data come, changes no weight.
    idle = ("workers", "checkpoint_every", "device")
    said = {
        "method": method,
        "source": method_source_hash(method),
        "settings": dict(settings),
        "training": {k: v for k, v in training.asked().items() if k not in idle},
        "model": spec_dict(plan.spec),
        "views": plan.views.config(),
        "data": plan.task.fingerprint(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_source(plan: Plan, name: str, needs_source: bool, started: bool) -> None:
    """Refuse a method that needs source data where there are none, or a trained model."""
    if plan.task.source_free and needs_source:
        free = [n for n in method_names() if not method_class(n).needs_source]
        raise DomadaptError(
            f"{name} needs labelled source data, and this task has only a trained model; give the "
            f"source, or choose a source-free method: {', '.join(free)}."
        )
    if not (needs_source or started or plan.task.source_free):
        raise DomadaptError(
            f"{name} is source-free: it goes on from a network trained on the source; give one as "
            "start."
        )


def train_candidate(
    plan: Plan,
    method: str,
    settings: Mapping[str, Any],
    training: Training,
    folder: Path | None = None,
    progress: Progress | None = None,
    track: str | None = None,
    start: Network | None = None,
    watch: Watch | None = None,
    looks: int = 0,
) -> Trained:
    """Train one method from the seed's initial network, or take up what its folder holds.

    A source-free method goes on from `start`, a network that was trained on the source; where the
    task itself has no source, the plan's network is that.

    On a task with unknown classes the network that is kept says "unknown" as well: by itself where
    the method is made for that, else below a threshold (`domadapt.open_set.with_threshold`).

    Where `watch` sees during training that it is hopeless, it ends there (`Trainer.fit`).

    With `looks` the folder also keeps the weights at that many evenly spaced steps, of which the
    last are those of the candidate (`looks_back` reads them). The candidate is the same bit for
    bit.

    The folder ends with the weights and ``result.json``, written last: a candidate that has it is
    finished. Before that it may hold a checkpoint, from which training goes on.

    Raises:
        DomadaptError: a source-free method was given no trained network; or what the folder holds
            was made with other settings, other data or another version of torch or of the method.
    """
    network = plan.make_network(training.seed)
    if start is not None and is_source_free(method):
        network = closed_network(copy.deepcopy(start)).train()
    elif folder is None or not (folder / RESULT).exists():
        if progress is not None and training.self_supervised != "none":
            progress.stage(f"self-supervised training, {training.self_supervised}", 0)
        network = begun(network, plan.task, plan.views, training, _shared(plan, training, folder))
    prepare(network, training.finetune, plan.example, training.seed)
    built = build_method(method, network, settings)
    check_source(plan, built.name, built.needs_source, start is not None)
    name = built.name
    key = candidate_key(plan, method, settings, training) if folder is not None else ""
    if progress is not None:
        progress.stage(name, training.steps)
    if folder is not None and (folder / RESULT).exists():
        result = checkpoint.read_json(folder / RESULT)
        if result.get("key") != key:
            raise DomadaptError(
                f"{folder} was trained with other settings, data or versions; go on with the same, "
                "or begin a run in another folder."
            )
        state, _ = checkpoint.load_tensors(folder / WEIGHTS)
        network = plan.make_network(training.seed)
        restore_adapters(network, state)
        if result.get("unknown") is not None:
            network = _opened(network, result["unknown"], state)
        checkpoint.load_module_state(network, state, folder / WEIGHTS)
        return Trained(
            name,
            method,
            dict(settings),
            network.eval(),
            result["history"],
            result["seconds"],
            built.trains_on_confidence,
            tuple(result["warnings"]),
            result.get("stopped", ""),
        )
    trainer = Trainer(
        built,
        plan.task,
        plan.views,
        training,
        checkpoint_path=None if folder is None else folder / STATE,
        key=key,
        track=track,
        track_folder=folder,
    )

    def keep(step: int, seen: Network) -> None:
        assert folder is not None
        rule = rule_of(seen)
        about = {"key": key, "step": step, "unknown": None if rule is None else rule.rule}
        path = folder / LOOKS.replace("*", f"{step:09}")
        checkpoint.save_tensors(path, checkpoint.module_state(seen), about)

    if looks and folder is None:
        raise DomadaptError("Looks on the way need a folder that keeps their weights; give one.")
    adapted = trainer.fit(
        None if progress is None else progress.log, watch, keep if looks else None, looks
    )
    if plan.task.open_set:
        known = outputs_of(adapted, plan.task.source_val, plan.views)
        adapted = with_threshold(adapted, known.logits, plan.task.n_classes)
    adapted = adapted.cpu()
    rule = rule_of(adapted)
    seconds = trainer.history["seconds"][-1] if trainer.history else 0.0
    if folder is not None and trainer.accelerator.is_main_process:
        checkpoint.save_tensors(folder / WEIGHTS, checkpoint.module_state(adapted), {"key": key})
        result = {
            "key": key,
            "method": method,
            "settings": dict(settings),
            "seconds": seconds,
            "unknown": None if rule is None else rule.rule,
            "warnings": list(trainer.doctor.sentences),
            "stopped": trainer.stopped,
            "history": trainer.history,
        }
        checkpoint.write_json(folder / RESULT, result)
        (folder / STATE).unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()
    return Trained(
        name,
        method,
        dict(settings),
        adapted,
        trainer.history,
        seconds,
        built.trains_on_confidence,
        trainer.doctor.sentences,
        trainer.stopped,
    )


def looks_back(plan: Plan, seed: int, folder: Path) -> Iterator[tuple[int, Network]]:
    """The networks that `train_candidate` kept on the way, by step, the last one not among them.

    On a task with unknown classes each gets a threshold of its own, as the last one has.
    """
    blank = plan.make_network(seed)
    for path in sorted(folder.glob(LOOKS)):
        state, about = checkpoint.load_tensors(path)
        network = copy.deepcopy(blank)
        restore_adapters(network, state)
        if about["unknown"] is not None:
            network = _opened(network, about["unknown"], state)
        checkpoint.load_module_state(network, state, path)
        if plan.task.open_set:
            known = outputs_of(network, plan.task.source_val, plan.views)
            network = with_threshold(network, known.logits, plan.task.n_classes)
        yield int(about["step"]), network.eval()


def _opened(network: Network, rule: str, state: Mapping[str, Tensor]) -> Network:
    """`network` with the output "unknown" that the weights `state` have."""
    prefix = "head.unknown."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return open_network(network, rule_from(rule, own))
