"""`adapt`: from a task to an adapted model, its report and its folder."""

from __future__ import annotations

import copy
import datetime
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from accelerate.state import PartialState
from torch import Tensor, nn

from domadapt import checkpoint
from domadapt.defaults import BOTTLENECK, training_for
from domadapt.errors import DomadaptError
from domadapt.evaluation import (
    Outputs,
    confidence,
    domain_shift,
    evaluate,
    gain_interval,
    in_fifths,
    labels_for_plot,
    pairs_for_plot,
)
from domadapt.export import export_onnx, export_pt2
from domadapt.inference import outputs_of
from domadapt.methods import (
    build_method,
    method_class,
    method_names,
    method_parts,
    method_settings,
)
from domadapt.network import Network
from domadapt.open_set import BelowThreshold, rule_of
from domadapt.regression import drawn_pairs
from domadapt.report.embedding import embedding
from domadapt.report.page import render
from domadapt.report.report import BASELINE, Candidate, Report, describe, versions
from domadapt.runs.candidate import Progress, Trained, check_source, train_candidate
from domadapt.runs.plan import ModelSpec, Plan, keep_source, make_plan, spec_dict
from domadapt.runs.saved import (
    CONFIG,
    CONFIG_SCHEMA,
    EXPORT,
    OWN_RULE,
    PAGE,
    PREDICTIONS,
    REPORT,
    is_regression,
    prediction_table,
    read_config,
    save_model,
    value_table,
)
from domadapt.selection.validators import label_free, source_val_error
from domadapt.settings import parse_setting
from domadapt.task import UNKNOWN, Domain, Split, Task
from domadapt.trainer import Trainer, is_main_process, make_accelerator
from domadapt.training import Training

#: The method where none is named.
DEFAULT_METHOD = "mcc"
#: Features kept per domain for shift measures and t-SNE.
MAX_FEATURES = 2000


#: Temporary names under which `checkpoint.write_atomically`, and safetensors within it, write.
_HALF_WRITTEN = re.compile(
    r"\..+\.(safetensors|json|html|csv|pt2|onnx|npy)\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}"
)
#: The parts of a run beside the training of its candidates.
PREPARING, MEASURING, WRITING = "preparing data", "measuring", "writing the report"


class Adapted(NamedTuple):
    """The adapted network, a plain module in evaluation mode, and the run's report."""

    network: Network
    report: Report


@dataclass(frozen=True)
class _Measured:
    """A candidate with what its network says of the splits."""

    candidate: Candidate
    network: Network
    predictions: dict[str, Tensor]


def adapt(
    task: Task | str | tuple[Domain, Domain] | Domain,
    model: str | nn.Module | None = None,
    method: str = DEFAULT_METHOD,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    weights: str | None = None,
    checkpoint_file: str | Path | None = None,
    head: str | None = None,
    freeze: bool = False,
    bottleneck: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    seed: int = 0,
    export: Sequence[str] = ("pt2",),
    track: str | None = None,
    resume: bool = False,
    look: bool = True,
    progress: Progress | None = None,
    command: str | None = None,
    request: Mapping[str, Any] | None = None,
) -> Adapted:
    """Adapt a model to unlabelled target data.

    Two models are trained from the same initial weights with the same data order, augmentation
    and number of steps: `source_only`, which never sees a target sample, and `method`. The last
    step is kept, not the best. Target labels, if there are any, are read once, after training, to
    score `target_test`. A source-free method goes on from the trained source_only; where the task
    has no source, from the model of `checkpoint_file`, which then is the baseline as it stands.

    Args:
        task: a `Task`, a pair of domains, or a name such as ``"digits:printed->handwritten"``; a
            single (target) domain where `checkpoint_file` is a run folder and `method` source-free.
        model: a backbone's name, ``"path.py:function"``, a backbone module that returns features,
            or a `Network`. None takes the default of the kind of data.
        method: a method's name, a combination (``"dann+mcc"``), or ``"path.py"``.
        out: folder for the run (model, report, predictions, export); None writes nothing.
        settings: the method's own settings; of a combination as ``"part.setting"``.
        training: settings of `Training` that differ from the default of the kind of backbone.
        weights: pre-trained weights of a named backbone: a file, or ``"DEFAULT"`` from a hub.
        checkpoint_file: a trained classifier of the named architecture, head included.
        head: the dotted name of the head within a whole classifier.
        freeze: adapt on features that the backbone computes once.
        bottleneck: width of the layer between backbone and head; 0 for none.
        image_size: side that images are brought to.
        augment: the augmentation, where the data's own is not wanted.
        seed: of weights, order, augmentation and dropout.
        export: what to write beside the weights: ``"pt2"``, ``"onnx"``.
        track: "tensorboard" or "wandb": send the learning curves there, through accelerate.
        resume: go on with the run in `out`.
        look: compute t-SNE maps and measures of shift for the report.
        progress: is told of stages and losses.
        command: what repeats the run, for the report.
        request: kept as ``run.json`` once all of it was accepted, for `domadapt adapt --resume`.

    Raises:
        DomadaptError: a setting, file or label that cannot be used; it says which and what to do.
    """
    task = _as_task(task, checkpoint_file)
    folder = None if out is None else Path(out)
    check_folder(folder, resume)
    _check_given(task, export, track, folder, seed, image_size)
    name = model if isinstance(model, str) else None
    module = model if isinstance(model, nn.Module) else None
    spec = _spec(
        name,
        weights=weights,
        checkpoint_file=checkpoint_file,
        head=head,
        freeze=freeze,
        bottleneck=bottleneck,
        image_size=image_size,
        augment=augment,
    )
    names = candidate_names(method)
    overrides = {**(training or {}), "seed": seed}
    device = make_accelerator(training_for("scratch", overrides)).device
    if progress is not None:
        progress.stage(PREPARING, 0)
    cache = None if folder is None else folder / "cache"
    plan = make_plan(task, spec, module, cache, device)
    how = training_for(plan.kind, overrides)
    # A wrong setting is refused before anything is trained or written.
    _check_method(plan, method, settings, how)
    if folder is not None:
        _open(folder, request)

    wanted = [(BASELINE, _settings(BASELINE, None)), (method, _settings(method, settings))]
    trained = []
    for own, (one, given) in zip(names, wanted[-len(names) :], strict=True):
        place = None if folder is None else folder / "candidates" / own
        if one == BASELINE and task.source_free:
            # The model that was brought along is the baseline, as it is.
            trained.append(Trained(one, one, given, plan.make_network(seed).eval(), {}, 0.0, False))
            continue
        start = trained[0].network if trained else None
        trained.append(train_candidate(plan, one, given, how, place, progress, track, start))
    if progress is not None:
        progress.stage(MEASURING, 0)
    measured = [_measure(t, plan, device, seed, look) for t in trained]
    chosen = measured[-1]
    report = Report(
        task=describe(task),
        chosen=chosen.candidate.name,
        candidates=[m.candidate for m in measured],
        model={
            "backbone": plan.spec.name,
            "parameters": sum(p.numel() for p in chosen.network.parameters()),
            "input": _shape(plan),
            **{k: v for k, v in spec_dict(plan.spec).items() if k != "name"},
            **_unknown(chosen.network),
        },
        training=asdict(how),
        method=dict(trained[-1].settings),
        versions=versions(),
        seed=seed,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        warnings=_warnings(trained, measured, task),
    )
    if folder is not None and is_main_process():
        if progress is not None:
            progress.stage(WRITING, 0)
        report = _save(folder, plan, task, chosen, report, export)
    return Adapted(chosen.network, report)


def check(
    task: Task,
    model: str | None = None,
    method: str = DEFAULT_METHOD,
    *,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    export: Sequence[str] = ("pt2",),
    track: str | None = None,
    **spec: Any,
) -> str:
    """What `adapt` would do with the same arguments, in words; refuses what it would refuse.

    A frozen backbone's features are not computed, and nothing is written.
    """
    _check_given(task, export, track, Path(), seed, spec.get("image_size"))
    names = candidate_names(method)
    if spec.get("freeze") and spec.get("bottleneck") is None:
        spec["bottleneck"] = BOTTLENECK["frozen"]
    plan = make_plan(task, _spec(model, **{**spec, "freeze": False}))
    kind = "frozen" if spec.get("freeze") else plan.kind
    how = training_for(kind, {**(training or {}), "seed": seed})
    # A frozen backbone's features are not there yet for a closed-form method to be fitted on.
    network = _check_method(plan, method, settings, how, fitted=not spec.get("freeze"))
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"Task       {task!r}",
        f"{'Outputs' if task.regression else 'Classes'}    {', '.join(task.output_names)}",
        f"Model      {plan.spec.name} ({kind}), {parameters:,} parameters, input {_shape(plan)}",
        f"Candidates {', '.join(names)}, seed {seed}",
        "Training   " + ", ".join(f"{k}={v}" for k, v in asdict(how).items()),
        "Scoring    "
        + (
            f"on {len(task.target_test)} labelled target samples, after training"
            if task.has_test_labels
            else "none: the target has no labels"
        ),
    ]
    return "\n".join(lines)


def _spec(
    name: str | None,
    *,
    weights: str | None = None,
    checkpoint_file: str | Path | None = None,
    head: str | None = None,
    freeze: bool = False,
    bottleneck: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
) -> ModelSpec:
    file = None if checkpoint_file is None else str(checkpoint_file)
    return ModelSpec(name, weights, file, head, freeze, bottleneck, image_size, augment)


def without_source(target: Domain, run: str | Path, **options: Any) -> Task:
    """The task of adapting the model of a finished run to `target` without source data."""
    config = read_config(Path(run))
    options = {**options, "regression": is_regression(config)}
    return Task(None, target, class_names=config["class_names"], **options)


def _as_task(
    task: Task | str | tuple[Domain, Domain] | Domain, checkpoint_file: str | Path | None
) -> Task:
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


def candidate_names(method: str) -> list[str]:
    """What the candidates of a run with this method are called; the last one is kept."""
    own = "+".join(method_class(part).name for part in method_parts(method))
    return [BASELINE] if own == BASELINE else [BASELINE, own]


def parts_of_run(method: str) -> list[str]:
    """What a run with this method tells of, in order."""
    return [PREPARING, *candidate_names(method), MEASURING, WRITING]


def _settings(method: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """All settings of a method: those given, and the defaults of the others."""
    known = method_settings(method)
    values = {name: setting.default for name, setting in known.items()}
    return values | {k: parse_setting(known[k], v) for k, v in (given or {}).items()}


def _check_method(
    plan: Plan,
    method: str,
    settings: Mapping[str, Any] | None,
    how: Training,
    fitted: bool = True,
) -> Network:
    """Refuse settings and needs that cannot be met; returns a network as it would be trained."""
    built = build_method(method, plan.make_network(how.seed), settings)
    check_source(plan, built.name, built.needs_source, started=True)
    network = copy.deepcopy(built.network)
    Trainer(built, plan.task, plan.views, how).rehearse(fitted)
    return network


def check_folder(folder: Path | None, resume: bool) -> None:
    """Refuse to go on with what is no unfinished run, and to write over one."""
    if resume and (folder is None or not folder.is_dir()):
        raise DomadaptError(f"Only a run's folder can be gone on with; there is none at {folder}.")
    if folder is None:
        return
    if resume and (folder / CONFIG).exists():
        raise DomadaptError(
            f"The run in {folder} is finished: nothing is left to do. `domadapt predict {folder} "
            "DATA` uses its model; for another run choose another folder."
        )
    if not resume and any((folder / held).exists() for held in ("run.json", "candidates", CONFIG)):
        raise DomadaptError(
            f"{folder} already holds a run. Choose another folder with --out, go on with it "
            f"(--resume {folder}), or delete it."
        )


def _check_given(
    task: Task,
    export: Sequence[str],
    track: str | None,
    folder: Path | None,
    seed: int,
    image_size: int | None,
) -> None:
    if seed < 0:
        raise DomadaptError(f"seed must not be negative; got {seed}.")
    if image_size is not None and task.kind != "image":
        raise DomadaptError(
            f"image_size is for images, and {task.name} has data of kind {task.kind!r}; leave it "
            "out."
        )
    strange = sorted(set(export) - {"pt2", "onnx"})
    if strange:
        raise DomadaptError(f"export takes 'pt2' and 'onnx'; got {strange[0]!r}.")
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


def _open(folder: Path, request: Mapping[str, Any] | None) -> None:
    """Make a run's folder, keep what was asked for, and drop what a killed run half wrote."""
    # No process may look for an older run after the first has begun to write this one.
    PartialState().wait_for_everyone()
    if not is_main_process():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.rglob(".*"):
            if _HALF_WRITTEN.fullmatch(file.name):
                file.unlink()
        if request is not None:
            checkpoint.write_json(folder / "run.json", request)
    except OSError as error:
        raise DomadaptError(
            f"The run needs a folder that can be written to; {folder} cannot "
            f"({error.strerror}). Choose another with --out."
        ) from error


def _unknown(network: Network) -> dict[str, str]:
    """When the network calls a sample unknown, for the report; nothing where it never does."""
    rule = rule_of(network)
    return {} if rule is None else {UNKNOWN: rule.said()}


def _shape(plan: Plan) -> list[int]:
    if not isinstance(plan.example, Tensor):
        return []
    return list(plan.example.shape[1:])


def _measure(
    trained: Trained,
    plan: Plan,
    device: torch.device,
    seed: int,
    look: bool,
) -> _Measured:
    task, views, network = plan.task, plan.views, trained.network.to(device)

    def says(split: Split) -> Outputs:
        return outputs_of(network, split, views, device=device, max_features=MAX_FEATURES)

    source_val = None if task.source_free else says(task.source_val)
    test = says(task.target_test)
    predictions = {"target_test": _predicted(task, test)}
    if not task.transductive:
        predictions = {"target_train": _predicted(task, says(task.target_train))} | predictions
    scores = evaluate(task, test)
    shown = None
    if look and not (task.regression and task.source_free):
        as_classes = in_fifths if task.regression else (lambda _, outputs: outputs)
        val = None if source_val is None else as_classes(task, source_val)
        at_hand = labels_for_plot(task, range(len(task.target_test)))
        shown = embedding(val, as_classes(task, test), at_hand, seed)
    candidate = Candidate(
        name=trained.name,
        method=trained.method,
        settings=trained.settings,
        history=trained.history,
        seconds=trained.seconds,
        label_free=source_val_error(source_val)
        if task.regression
        else label_free(source_val, test),
        target=None if scores is None else scores.to_dict(),
        shift=domain_shift(source_val.z, test.z, seed) if look and source_val else {},
        confidence={}
        if task.regression
        else {
            **({"source_val": confidence(source_val)} if source_val else {}),
            "target": confidence(test),
        },
        embedding=shown,
        values=_values(task, source_val, test, seed) if task.regression else {},
        warnings=list(trained.warnings),
    )
    return _Measured(candidate, plan.compose(network.cpu()).eval(), predictions)


def _predicted(task: Task, outputs: Outputs) -> Tensor:
    """Class probabilities, or the values of a regression."""
    return outputs.logits if task.regression else outputs.logits.softmax(1)


def _values(task: Task, source_val: Outputs | None, test: Outputs, seed: int) -> dict[str, Any]:
    """Predicted and true values that the page draws, where true ones are known."""
    found: dict[str, Any] = {}
    if source_val is not None and source_val.y is not None:
        found["source_val"] = drawn_pairs(source_val.logits, source_val.y.numpy(), seed)
    target = pairs_for_plot(task, test, seed)
    return found if target is None else {**found, "target_test": target}


def _unlearnt(method: str) -> str:
    """What a loss on the source's own samples may mean."""
    if any(method_class(part).closed_form for part in method_parts(method)):
        return "it learnt from source samples fitted to the target; these are as they were."
    return "it may have unlearnt the task."


def _value_warnings(measured: list[_Measured], task: Task) -> list[str]:
    """Those of `_warnings` that compare both models, for a regression."""
    said = []
    before, after = measured[0], measured[-1]
    name = after.candidate.name
    errors = [m.candidate.label_free.get("source_val_mae", 0.0) for m in (before, after)]
    if errors[1] > 1.25 * errors[0]:
        said.append(
            f"{name}'s mean absolute error on the source's validation samples is {errors[1]:.4g}, "
            f"source_only's {errors[0]:.4g}: {_unlearnt(after.candidate.method)}"
        )
    spread = [m.predictions["target_test"].std(0) for m in (before, after)]
    share = float((spread[1] / spread[0].clamp_min(1e-30)).min())
    if share < 0.5:
        said.append(
            f"{name}'s predictions on the target vary by only {100 * share:.0f} % of what "
            "source_only's vary by: it may have collapsed to one value."
        )
    interval = gain_interval(
        task, before.predictions["target_test"], after.predictions["target_test"]
    )
    if interval is not None and interval[0] <= 0 <= interval[1]:
        said.append(
            f"The difference between source_only and {name} is within chance: on these "
            f"{len(task.target_test)} samples the 95 % interval of what the mean absolute error "
            f"lost reaches from {interval[0]:+.3g} to {interval[1]:+.3g}."
        )
    return said


def _warnings(trained: list[Trained], measured: list[_Measured], task: Task) -> list[str]:
    """What a reader must not miss, from evidence that needs no target label."""
    said = [f"{t.name}: {sentence}" for t in trained for sentence in t.warnings]
    before, after = measured[0].candidate.label_free, measured[-1].candidate.label_free
    name = trained[-1].name
    if len(measured) > 1 and task.regression:
        said += _value_warnings(measured, task)
    elif len(measured) > 1:
        drop = before.get("source_val_accuracy", 0.0) - after.get("source_val_accuracy", 0.0)
        if drop > 0.05:
            said.append(
                f"{name} lost {100 * drop:.0f} points of accuracy on the source's validation "
                f"samples: {_unlearnt(trained[-1].method)}"
            )
        if after["effective_classes"] < 0.5 * before["effective_classes"]:
            said.append(
                f"{name} predicts {after['effective_classes']:.1f} classes in effect, source_only "
                f"{before['effective_classes']:.1f}: it may have collapsed."
            )
        interval = gain_interval(
            task, measured[0].predictions["target_test"], measured[-1].predictions["target_test"]
        )
        if interval is not None and interval[0] <= 0 <= interval[1]:
            said.append(
                f"The difference between source_only and {name} is within chance: on these "
                f"{len(task.target_test)} samples its 95 % interval reaches from "
                f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} points."
            )
    if trained[-1].trains_on_confidence:
        said.append(
            f"{name} trains on its own confidence: high probabilities say little about how often "
            "it is right."
        )
        if isinstance(rule_of(trained[-1].network), BelowThreshold):
            made = [n for n in method_names() if method_class(n).setting == "open set"]
            said.append(
                f"{name} becomes sure of nearly every sample, so that few fall below the threshold "
                f"and are called unknown. Made for unknown classes: {', '.join(made)}."
            )
    if not task.has_test_labels:
        said.append(
            "The target has no labels: whether adapting helped cannot be measured here. Label a "
            "few dozen random target samples and give them as the test set."
        )
    return said


def _save(
    folder: Path,
    plan: Plan,
    task: Task,
    chosen: _Measured,
    report: Report,
    export: Sequence[str],
) -> Report:
    network = chosen.network
    unknown = save_model(folder, network, task)
    only_export = plan.spec.name == "module" or unknown.get(UNKNOWN) == OWN_RULE
    makers = {"pt2": (export_pt2, EXPORT), "onnx": (export_onnx, "model.onnx")}
    for what in sorted({*export, "pt2"} if only_export else set(export)):
        make, file = makers[what]
        try:
            make(network, plan.example, folder / file)
        except DomadaptError as error:
            # A model that cannot be exported is trained all the same: nothing of it is thrown away.
            report = replace(report, warnings=[*report.warnings, f"{file} is missing: {error}"])
    tables = []
    for split in (task.target_train, task.target_test):
        if split.name in chosen.predictions:
            p = chosen.predictions[split.name]
            if task.regression:
                table = value_table(split.ids(), p, task.class_names)
            else:
                table = prediction_table(split.ids(), p, task.output_names)
            table.insert(1, "split", split.name)
            tables.append(table)
    csv = pd.concat(tables).to_csv(index=False)
    checkpoint.write_text(folder / PREDICTIONS, csv)
    checkpoint.write_text(folder / REPORT, report.to_json())
    checkpoint.write_text(folder / PAGE, render(report))
    config = {
        "schema": CONFIG_SCHEMA,
        "kind": task.kind,
        "task": task.name,
        **({"task_type": "regression"} if task.regression else {}),
        "class_names": list(task.class_names),
        **unknown,
        "model": {
            "spec": spec_dict(plan.spec),
            "input": _shape(plan),
            **keep_source(plan.spec, folder / "source"),
        },
        "views": plan.input_views.config(),
        "columns": getattr(task.example.domain.samples, "columns", None),
        "method": {"name": report.candidates[-1].method, "settings": report.method},
        "training": report.training,
        "seed": report.seed,
        "versions": report.versions,
    }
    # Written last: a folder that has it is a finished run.
    checkpoint.write_json(folder / CONFIG, config)
    return report
