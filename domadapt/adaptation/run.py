"""`adapt`: from a task to an adapted model, its report and its folder."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from domadapt.adaptation.folder import check_folder, keep_failure, open_folder, save
from domadapt.adaptation.layers import analysed, check_analyse
from domadapt.adaptation.measure import Measured, measure, shape_of, unknown_of
from domadapt.adaptation.request import (
    DEFAULT_METHOD,
    MEASURING,
    PREPARING,
    WRITING,
    Wanted,
    as_task,
    check_given,
    check_leaves,
    check_method,
    cost_in_words,
    spec_of,
    wanted,
)
from domadapt.adaptation.warnings import warnings_of
from domadapt.defaults import BOTTLENECK, training_for
from domadapt.devices import is_main_process, make_accelerator
from domadapt.errors import Diverged, DomadaptError
from domadapt.evaluation import Outputs, evaluate
from domadapt.network import Network
from domadapt.report.report import BASELINE, Report, describe, versions
from domadapt.runs.candidate import Progress, Trained, candidate_key, train_candidate
from domadapt.runs.plan import Plan, make_plan, spec_dict
from domadapt.runs.saved import failure
from domadapt.selection.calibration import Calibration, calibrate
from domadapt.selection.evidence import Evidence, gather, some, together
from domadapt.selection.guard import hopeless
from domadapt.selection.portfolio import AUTO, VERSION, Budget, seeds_of
from domadapt.selection.validators import scores_of
from domadapt.selection.verdict import Verdict, judge
from domadapt.strategies.tuning import check_frozen, in_words, prepare, tuning_of
from domadapt.task import Domain, Task
from domadapt.training import Training

#: Which model a run keeps: the one that the verdict chooses, or the adapted one whatever it says.
Keep = Literal["chosen", "adapted"]
#: Target samples that are looked at to see during training whether it is hopeless.
WATCHED = 500


class Adapted(NamedTuple):
    """The kept network, a plain module in evaluation mode, and the run's report."""

    network: Network
    report: Report

    def __repr__(self) -> str:
        # Not the network's own, of many lines, behind which nobody sees the report.
        return f"Adapted(network, {self.report!r})"


@dataclass(frozen=True)
class _Judged:
    """The candidates of a run with the evidence on them, and what follows from it."""

    trained: list[Trained]
    evidence: list[Evidence]
    verdict: Verdict | None


#: Passes over the source from which on a dry run says that they are many.
MANY_PASSES = 200


def adapt(
    task: Task | str | tuple[Domain, Domain] | Domain,
    model: str | nn.Module | None = None,
    method: str = DEFAULT_METHOD,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    budget: Budget = "standard",
    keep: Keep = "chosen",
    weights: str | None = None,
    checkpoint_file: str | Path | None = None,
    head: str | None = None,
    freeze: bool = False,
    bottleneck: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    seed: int = 0,
    export: Sequence[str] = ("pt2",),
    track: str | None = None,
    resume: bool = False,
    look: bool = True,
    analyse: Sequence[str] = (),
    progress: Progress | None = None,
    command: str | None = None,
    request: Mapping[str, Any] | None = None,
) -> Adapted:
    """Adapt a model to unlabelled target data, and choose what to keep without target labels.

    All candidates are trained from the same initial weights with the same data order, augmentation
    and number of steps: `source_only`, which never sees a target sample, and `method`, or with
    "auto" a small portfolio of methods. Of each the last step counts, not the best. Then
    `domadapt.selection` sets broken ones aside, chooses one, estimates its accuracy and calibrates
    its probabilities. Target labels, if there are any, are read once, after that, to score
    `target_test`. A source-free method goes on from the trained source_only; where the task has no
    source, from the model of `checkpoint_file`, which then is the baseline as it stands.

    Args:
        task: a `Task`, a pair of domains, or a name such as ``"digits:printed->handwritten"``; a
            single (target) domain where `checkpoint_file` is a run folder and `method` source-free.
        model: a backbone's name, ``"path.py:function"``, a backbone module that returns features,
            or a `Network`. None takes the default of the kind of data.
        method: "auto", a method's name, a combination (``"dann+mcc"``), or ``"path.py"``.
        out: folder for the run (model, report, predictions, export); None writes nothing.
        settings: the method's own settings; of a combination as ``"part.setting"``.
        training: settings of `Training` that differ from the default of the kind of backbone.
        budget: how much auto tries: "quick", "standard", or "thorough" (each candidate twice, with
            two seeds).
        keep: "chosen": the model of the verdict, which may be the source-only one; "adapted": the
            adapted one (the best-ranked of several), whatever the verdict.
        weights: pre-trained weights of a named backbone: a file, or ``"DEFAULT"`` from a hub.
        checkpoint_file: a trained classifier of the named architecture, head included.
        head: the dotted name of the head within a whole classifier.
        freeze: adapt on features that the backbone computes once.
        bottleneck: width of the layer between backbone and head; 0 for none.
        image_size: side that images are brought to.
        augment: the augmentation, where the data's own is not wanted.
        max_length: where texts are cut, in tokens; None takes 128, or the model's limit.
        pooling: of a model ``"hf:..."``: "mean", "first", or "hf", its own classifier's. None
            takes "mean" for texts and "hf" for images, with a trained head and for export "hf".
        seed: of weights, order, augmentation and dropout.
        export: what to write beside the weights: ``"pt2"``, ``"onnx"``, and of a model
            ``"hf:..."`` also ``"hf"``, a folder that transformers loads as a classifier.
        track: "tensorboard" or "wandb": send the learning curves there, through accelerate.
        resume: go on with the run in `out`.
        look: compute t-SNE maps and measures of shift for the report.
        analyse: what the report says beside that: ``"layers"``, linear probes and CKA of each
            block, of both domains and before and after adaptation.
        progress: is told of stages and losses.
        command: what repeats the run, for the report.
        request: kept as ``run.json`` once all of it was accepted, for `domadapt adapt --resume`.

    Raises:
        DomadaptError: a setting, file or label that cannot be used; it says which and what to do.
    """
    task = as_task(task, checkpoint_file)
    folder = None if out is None else Path(out)
    check_folder(folder, resume)
    check_given(task, export, track, folder, seed, image_size)
    _check_keep(keep)
    name = model if isinstance(model, str) else None
    module = model if isinstance(model, nn.Module) else None
    spec = spec_of(
        name,
        weights=weights,
        checkpoint_file=checkpoint_file,
        head=head,
        freeze=freeze,
        bottleneck=bottleneck,
        image_size=image_size,
        augment=augment,
        max_length=max_length,
        pooling=pooling,
        export=export,
    )
    candidates = wanted(task, method, settings, budget)
    overrides = {**(training or {}), "seed": seed}
    device = make_accelerator(training_for("scratch", overrides)).device
    if progress is not None:
        progress.stage(PREPARING, 0)
    cache = None if folder is None else folder / "cache"
    plan = make_plan(task, spec, module, cache, device)
    check_leaves(plan, export)
    check_analyse(analyse, plan)
    how = training_for(plan.kind, overrides)
    # A wrong setting is refused before anything is trained or written.
    candidates, unfit = _checked(plan, candidates, how, method == AUTO)
    second = replace(how, seed=seed + 1) if method == AUTO and seeds_of(budget) > 1 else None
    if folder is not None:
        open_folder(folder, request, _keys(plan, candidates, (how, second), folder))

    twins: dict[str, Trained] = {}
    try:
        trained, failed = _train(plan, candidates, how, folder, progress, track, method == AUTO)
        if second is not None:
            place = None if folder is None else folder / "second-seed"
            again, _ = _train(plan, candidates, second, place, progress, track, True)
            twins = {t.name: t for t in again}
    except Diverged as error:
        if folder is None:
            raise
        keep_failure(folder, str(error))
        raise Diverged(f"{error} The folder of the run may stay the same.") from error
    if progress is not None:
        progress.stage(MEASURING, 0)
    judged = _judge(plan, trained, twins, failed, device)
    kept, shown = _kept(judged, keep)
    calibration = _calibration(judged, kept)
    measured = []
    for one in trained:
        looked_at = look and one.name in (BASELINE, kept, shown)
        found = measure(one, plan, device, seed, looked_at)
        measured.append(_with_evidence(found, judged))
    layers = None
    if "layers" in analyse:
        after = next((t for t in trained if t.name == shown), None)
        layers = analysed(plan, trained[0], after, device)
    chosen = next(m for m in measured if m.candidate.name == kept)
    if calibration is not None:
        chosen = _calibrated(chosen, calibration, task)
        measured = [chosen if m.candidate.name == kept else m for m in measured]
    verdict = None if judged.verdict is None else judged.verdict.to_dict()
    if verdict is not None:
        verdict |= {
            "kept": kept,
            "calibration": None if calibration is None else calibration.to_dict(),
            "portfolio": VERSION if method == AUTO else None,
            "budget": budget if method == AUTO else None,
            "left_out": {**unfit, **failed},
        }
    report = Report(
        task=describe(task),
        chosen=kept,
        candidates=[m.candidate for m in measured],
        model={
            "backbone": plan.spec.name,
            "parameters": sum(p.numel() for p in chosen.network.parameters()),
            "input": shape_of(plan),
            **{k: v for k, v in spec_dict(plan.spec).items() if k != "name"},
            **unknown_of(chosen.network),
            **_tuned(plan, how),
        },
        training=asdict(how),
        method=dict(chosen.candidate.settings),
        versions=versions(plan.spec.name, how.finetune),
        seed=seed,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        warnings=warnings_of(trained, measured, task, shown),
        verdict=verdict,
        layers=layers,
    )
    if folder is not None and is_main_process():
        if progress is not None:
            progress.stage(WRITING, 0)
        report = save(folder, plan, task, chosen, report, export, calibration)
    return Adapted(chosen.network, report)


def check(
    task: Task,
    model: str | None = None,
    method: str = DEFAULT_METHOD,
    *,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    budget: Budget = "standard",
    keep: Keep = "chosen",
    seed: int = 0,
    export: Sequence[str] = ("pt2",),
    track: str | None = None,
    analyse: Sequence[str] = (),
    **spec: Any,
) -> str:
    """What `adapt` would do with the same arguments, in words; refuses what it would refuse.

    A frozen backbone's features are not computed, and nothing is written.
    """
    check_given(task, export, track, Path(), seed, spec.get("image_size"))
    _check_keep(keep)
    candidates = wanted(task, method, settings, budget)
    if spec.get("freeze") and spec.get("bottleneck") is None and "hf" not in export:
        spec["bottleneck"] = BOTTLENECK["frozen"]
    plan = make_plan(task, spec_of(model, **{**spec, "freeze": False}, export=export))
    check_leaves(plan, export)
    check_analyse(analyse, replace(plan, kind="frozen") if spec.get("freeze") else plan)
    kind = "frozen" if spec.get("freeze") else plan.kind
    how = training_for(kind, {**(training or {}), "seed": seed})
    if spec.get("freeze"):
        check_frozen(how.finetune)
    # A frozen backbone's features are not there yet for a closed-form method to be fitted on.
    fitted = not spec.get("freeze")
    candidates, unfit = _checked(plan, candidates, how, method == AUTO, fitted)
    network = prepare(plan.make_network(seed), how.finetune, plan.example, seed)
    tuning = tuning_of(network, how, how.steps, method)
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"Task       {task!r}",
        f"{'Outputs' if task.regression else 'Classes'}    {', '.join(task.output_names)}",
        f"Model      {plan.spec.name} ({kind}), {parameters:,} parameters, input "
        + (str(shape_of(plan)) if shape_of(plan) else "texts"),
        *([] if tuning is None else [f"Tuning     {in_words(tuning.describe())}"]),
        f"Candidates {', '.join(c.name for c in candidates)}, seed {seed}",
        *([f"Cost       {cost_in_words(task, method, budget)}"] if method == AUTO else []),
        *(f"Left out   {name}: {reason}" for name, reason in unfit.items()),
        "Training   " + ", ".join(f"{k}={v}" for k, v in asdict(how).items()),
        *([] if task.source_free else [f"Passes     {passes_in_words(task, how)}"]),
        "Scoring    "
        + (
            f"on {len(task.target_test)} labelled target samples, after training"
            if task.has_test_labels
            else "none: the target has no labels"
        ),
    ]
    return "\n".join(lines)


def _tuned(plan: Plan, how: Training) -> dict[str, Any]:
    """Which strategy of fine-tuning was used, and how many parameters trained; nothing for full."""
    network = prepare(plan.make_network(how.seed), how.finetune, plan.example, how.seed)
    tuning = tuning_of(network, how, how.steps, how.finetune)
    if tuning is None:
        return {}
    said = tuning.describe()
    return {"finetune": said["strategy"], "trained_parameters": said["trained"]}


def _check_keep(keep: str) -> None:
    if keep not in ("chosen", "adapted"):
        raise DomadaptError(f"keep must be 'chosen' or 'adapted'; got {keep!r}.")


def _checked(
    plan: Plan, candidates: list[Wanted], how: Training, auto: bool, fitted: bool = True
) -> tuple[list[Wanted], dict[str, str]]:
    """The candidates that can be trained; a named method that cannot is refused, auto goes on."""
    fit, unfit = [], {}
    for one in candidates:
        try:
            if not (one.name == BASELINE and plan.task.source_free):
                check_method(plan, one.method, one.settings, how, fitted)
        except DomadaptError as error:
            if not auto or one.name == BASELINE:
                raise
            unfit[one.name] = str(error)
        else:
            fit.append(one)
    return fit, unfit


def _keys(
    plan: Plan, candidates: list[Wanted], how: Sequence[Training | None], folder: Path
) -> set[str]:
    """The keys of what is to be trained, where the folder may hold some of it already."""
    if not failure(folder):
        return set()
    return {
        candidate_key(plan, one.method, one.settings, training)
        for one in candidates
        for training in how
        if training is not None
    }


def _train(
    plan: Plan,
    candidates: list[Wanted],
    how: Training,
    folder: Path | None,
    progress: Progress | None,
    track: str | None,
    auto: bool,
) -> tuple[list[Trained], dict[str, str]]:
    """Every candidate, trained; with auto those that diverge are left out, with their reason."""
    trained: list[Trained] = []
    failed: dict[str, str] = {}
    watch = None
    for one in candidates:
        if one.name == BASELINE and plan.task.source_free:
            # The model that was brought along is the baseline, as it is.
            network = plan.make_network(how.seed).eval()
            trained.append(Trained(one.name, one.method, one.settings, network, {}, 0.0, False))
            continue
        place = None if folder is None else folder / "candidates" / one.name
        start = trained[0].network if trained else None
        try:
            found = train_candidate(
                plan, one.method, one.settings, how, place, progress, track, start, watch
            )
        except DomadaptError as error:
            if not auto or one.name == BASELINE:
                raise
            failed[one.name] = str(error)
            continue
        trained.append(found)
        if auto and one.name == BASELINE and not plan.task.regression:
            watch = hopeless(found.network, some(plan.task.target_train, WATCHED), plan.views)
    return trained, failed


def _judge(
    plan: Plan,
    trained: list[Trained],
    twins: Mapping[str, Trained],
    failed: Mapping[str, str],
    device: torch.device,
) -> _Judged:
    """The evidence on the candidates and the verdict; neither for a regression."""
    if plan.task.regression:
        return _Judged(trained, [], None)
    found = []
    for one in trained:
        one.network.to(device)
        evidence = gather(one, plan.task, plan.views, device=device)
        if one.name in twins:
            second = gather(twins[one.name], plan.task, plan.views, device=device)
            evidence = replace(evidence, twin=second.target.logits)
        found.append(evidence)
    found = together(found)
    stopped = {t.name: t.stopped for t in trained if t.stopped}
    return _Judged(trained, found, judge(found, BASELINE, plan.task.output_names, stopped))


def _kept(judged: _Judged, keep: Keep) -> tuple[str, str]:
    """The names of the candidate that is kept, and of the adapted one that is shown beside it."""
    names = [t.name for t in judged.trained]
    adapted = [n for n in names if n != BASELINE]
    if judged.verdict is None or not adapted:
        return names[-1], names[-1]
    ranked = [n for n in judged.verdict.ranking if n != BASELINE] or adapted
    kept = judged.verdict.chosen if keep == "chosen" else ranked[0]
    return kept, kept if kept != BASELINE else ranked[0]


def _calibration(judged: _Judged, kept: str) -> Calibration | None:
    """How the kept model's logits become probabilities."""
    if judged.verdict is None:
        return None
    evidence = next(e for e in judged.evidence if e.name == kept)
    estimate = judged.verdict.estimates.get(kept)
    return calibrate(
        evidence,
        prior_t=judged.verdict.prior_t,
        accuracy=None if estimate is None else estimate.accuracy,
    )


def _with_evidence(measured: Measured, judged: _Judged) -> Measured:
    """A measured candidate with its scores, the guard's reasons and its estimate."""
    if judged.verdict is None:
        return measured
    name = measured.candidate.name
    evidence = next(e for e in judged.evidence if e.name == name)
    estimate = judged.verdict.estimates.get(name)
    candidate = replace(
        measured.candidate,
        scores=scores_of(evidence),
        set_aside=judged.verdict.set_aside.get(name, []),
        estimate=None if estimate is None else estimate.to_dict(),
    )
    return replace(measured, candidate=candidate)


def _calibrated(measured: Measured, calibration: Calibration, task: Task) -> Measured:
    """A candidate whose predictions on the target bear the calibration."""
    predictions = {
        split: calibration.probabilities(p.clamp_min(1e-300).log()).float()
        for split, p in measured.predictions.items()
    }
    if calibration.prior_t is None or measured.candidate.target is None:
        return replace(measured, predictions=predictions)
    # Corrected class shares change decisions: what leaves is what is scored.
    logits = predictions["target_test"].clamp_min(1e-300).log()
    scores = evaluate(task, Outputs(logits, logits[:0]))
    assert scores is not None
    candidate = replace(measured.candidate, target=scores.to_dict())
    return replace(measured, candidate=candidate, predictions=predictions)


def passes_in_words(task: Task, how: Training) -> str:
    """How often training goes over the source, which many steps on few samples do too often."""
    count = len(task.source_train)
    passes = how.steps * how.batch_size * how.accumulate / count
    many = "; fewer --steps may do" if passes > MANY_PASSES else ""
    return f"{passes:.3g} over the {count:,} labelled training samples{many}"
