"""What was asked of `adapt`: read, filled in, and refused where it cannot be done."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.hf import is_hf
from domadapt.methods import (
    build_method,
    method_class,
    method_parts,
    method_settings,
    read_settings,
)
from domadapt.network import Network
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import check_source
from domadapt.runs.plan import ModelSpec, Plan
from domadapt.runs.saved import is_regression, read_config
from domadapt.selection.portfolio import AUTO, VERSION, Budget, Entry, cost, portfolio, seeds_of
from domadapt.strategies.self_supervised import check_self_supervised
from domadapt.strategies.tuning import prepare
from domadapt.task import Domain, Task
from domadapt.trainer import Trainer
from domadapt.training import Training

#: The method where none is named.
DEFAULT_METHOD = AUTO
#: The parts of a run beside the training of its candidates.
PREPARING, MEASURING, WRITING = "preparing data", "measuring", "writing the report"


@dataclass(frozen=True)
class Wanted:
    """A candidate that is to be trained: its name, method, all settings, and its seed's rank."""

    name: str
    method: str
    settings: dict[str, Any]


def spec_of(
    name: str | None,
    *,
    weights: str | None = None,
    checkpoint_file: str | Path | None = None,
    head: str | None = None,
    freeze: bool = False,
    bottleneck: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    export: Sequence[str] = (),
) -> ModelSpec:
    """The model as asked for.

    What is to leave as a classifier of Hugging Face has that classifier's form, unless a person
    says otherwise: its pooling, and nothing between that and the head.
    """
    file = None if checkpoint_file is None else str(checkpoint_file)
    if "hf" in export and is_hf(name):
        bottleneck, pooling = bottleneck or 0, pooling or "hf"
    return ModelSpec(
        name, weights, file, head, freeze, bottleneck, image_size, augment, max_length, pooling
    )


def check_leaves(plan: Plan, export: Sequence[str]) -> None:
    """Refuse, before training, a model that cannot leave as a classifier of Hugging Face."""
    if "hf" not in export:
        return
    from domadapt.hf.saving import cannot_leave

    why = cannot_leave(plan.spec.name, plan.spec.pooling, plan.spec.bottleneck)
    if plan.task.open_set:
        why = "no classifier of Hugging Face has an output that a threshold makes"
    if why:
        raise DomadaptError(f"The export 'hf' is not possible: {why}.")


def without_source(target: Domain, run: str | Path, **options: Any) -> Task:
    """The task of adapting the model of a finished run to `target` without source data."""
    config = read_config(Path(run))
    options = {**options, "regression": is_regression(config)}
    return Task(None, target, class_names=config["class_names"], **options)


def as_task(
    task: Task | str | tuple[Domain, Domain] | Domain, checkpoint_file: str | Path | None
) -> Task:
    """The task of whatever form `adapt` takes one in."""
    if isinstance(task, Domain) and checkpoint_file is not None:
        return without_source(task, checkpoint_file)
    if isinstance(task, str):
        from domadapt.data import load_task

        return load_task(task)
    if isinstance(task, tuple):
        return Task(*task)
    if not isinstance(task, Task):
        raise DomadaptError(
            "adapt takes a Task, a pair of domains or a task's name; got "
            f"{type(task).__name__}. Make one: Task(from_arrays(x_s, y_s), from_arrays(x_t))."
        )
    return task


def wanted(
    task: Task, method: str, given: Mapping[str, Any] | None, budget: Budget
) -> list[Wanted]:
    """The candidates of a run, `source_only` first.

    Raises:
        DomadaptError: settings were given without the method that they are of.
    """
    if method == AUTO and given:
        raise DomadaptError(
            f"{next(iter(given))} is a setting of one method, and auto tries several with their "
            "defaults; name the method (--method), or leave the setting out."
        )
    tried = tried_methods(task, method, given, budget)
    adapted = [Wanted(name_of(m), m, settings_of_method(m, own)) for m, own in tried]
    if adapted[0].name == BASELINE:
        return adapted
    return [Wanted(BASELINE, BASELINE, settings_of_method(BASELINE, None)), *adapted]


def tried_methods(
    task: Task, method: str, given: Mapping[str, Any] | None, budget: Budget
) -> tuple[Entry, ...]:
    """The methods beside source_only, with the settings that were given or that auto gives."""
    return portfolio(task, budget) if method == AUTO else ((method, dict(given or {})),)


def name_of(method: str) -> str:
    """What the candidate of a method is called."""
    return "+".join(method_class(part).name for part in method_parts(method))


def candidate_names(task: Task, method: str, budget: Budget = "standard") -> list[str]:
    """What the candidates of a run are called, `source_only` first."""
    tried = [name for name, _ in tried_methods(task, method, None, budget)]
    return [BASELINE, *(n for n in map(name_of, tried) if n != BASELINE)]


def parts_of_run(task: Task, method: str, budget: Budget = "standard") -> list[str]:
    """What a run with this method tells of, in order."""
    return [PREPARING, *candidate_names(task, method, budget), MEASURING, WRITING]


def settings_of_method(method: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """All settings of a method: those given, and the defaults of the others."""
    values = {name: setting.default for name, setting in method_settings(method).items()}
    return values | read_settings(method, given)


def check_method(
    plan: Plan,
    method: str,
    settings: Mapping[str, Any] | None,
    how: Training,
    fitted: bool = True,
) -> Network:
    """Refuse settings and needs that cannot be met; returns a network as it would be trained."""
    network = prepare(plan.make_network(how.seed), how.finetune, plan.example, how.seed)
    check_self_supervised(how, plan.task, network)
    built = build_method(method, network, settings)
    check_source(plan, built.name, built.needs_source, started=True)
    network = copy.deepcopy(built.network)
    Trainer(built, plan.task, plan.views, how).rehearse(fitted)
    return network


def check_given(
    task: Task,
    export: Sequence[str],
    track: str | None,
    folder: Path | None,
    seed: int,
    image_size: int | None,
) -> None:
    """Refuse arguments that no task or model is needed to judge."""
    if seed < 0:
        raise DomadaptError(f"seed must not be negative; got {seed}.")
    if image_size is not None and task.kind != "image":
        raise DomadaptError(
            f"image_size is for images, and {task.name} has data of kind {task.kind!r}; leave it "
            "out."
        )
    strange = sorted(set(export) - {"pt2", "onnx", "hf"})
    if strange:
        raise DomadaptError(f"export takes 'pt2', 'onnx' and 'hf'; got {strange[0]!r}.")
    missing = [p for p in ("onnx", "onnxscript") if importlib.util.find_spec(p) is None]
    if "onnx" in export and missing:
        raise DomadaptError("ONNX export needs the extra: pip install 'domadapt[onnx]'.")
    if track is None:
        return
    if track not in ("tensorboard", "wandb"):
        raise DomadaptError(f"Curves go to 'tensorboard' or 'wandb'; got {track!r}.")
    if importlib.util.find_spec(track) is None:
        raise DomadaptError(
            f"Logging with {track} needs its package: pip install 'domadapt[tracking]'."
        )
    if folder is None:
        raise DomadaptError(f"Logging with {track} needs a folder for its files; give out.")


def cost_in_words(task: Task, method: str, budget: Budget) -> str:
    """What a run costs before it starts, against training on the source alone."""
    names = candidate_names(task, method, budget)
    tried = tuple(name for name, _ in tried_methods(task, method, None, budget))
    seeds = seeds_of(budget) if method == AUTO else 1
    times = cost(tried, seeds)
    trainings = len(names) * seeds
    said = f"{trainings} trainings ({', '.join(names)}"
    said += f"; portfolio {VERSION}, budget {budget})" if method == AUTO else ")"
    return said if times is None else f"{said}, about {times:.0f} times one of source_only"
