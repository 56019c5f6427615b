"""`tune`: a search over the settings of methods, judged without target labels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from torch import nn

from domadapt.adaptation import adapt, check_folder, without_source
from domadapt.adaptation.request import check_leaves, spec_of
from domadapt.data import load_task
from domadapt.defaults import training_for
from domadapt.devices import make_accelerator
from domadapt.errors import DomadaptError
from domadapt.methods import build_method
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import (
    Progress,
    check_source,
)
from domadapt.runs.plan import make_plan
from domadapt.selection.registry import get_validator
from domadapt.strategies.tuning import prepare
from domadapt.task import Domain, Task
from domadapt.trainer import Trainer
from domadapt.tune.found import Tuned
from domadapt.tune.search import OWNER, Search
from domadapt.tune.space import Space, label, search_space


def tune(
    task: Task | str | tuple[Domain, Domain] | Domain,
    model: str | nn.Module | None = None,
    methods: Sequence[str] | str = ("mcc",),
    *,
    out: str | Path,
    trials: int = 20,
    validator: str = "class_ami",
    study: str | Path | None = None,
    name: str = "domadapt",
    tune_lr: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
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
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    command: str | None = None,
) -> Tuned:
    """Search the settings of methods without target labels, and keep the best model as a run.

    A trial is one training with settings from the method's `space`, the first with the defaults,
    the others proposed by Optuna's TPE (Bergstra et al., 2011, "Algorithms for Hyper-Parameter
    Optimization"), which is seeded by `seed` and the trial's number. All trials share data, order
    and initial weights. The guard sets broken candidates aside; among the others, and source_only
    with its defaults, the validator's highest score is chosen. A validator that compares all
    candidates (it needs ``others``, as ensv does) is computed at the end over all of them; until
    then information_maximisation guides the sampler.

    source_only is always a candidate. It has nothing to search but the learning rate: that is
    searched, by as many trials as the others get, where `tune_lr` is set or source_only is named.

    Calling it again with the same arguments goes on where it stopped; more `trials` extend the
    study. Where labels exist, the accuracy of each method's best candidate is measured once all is
    chosen.

    Args:
        task: a `Task`, a pair of domains, or a name such as ``"digits:printed->handwritten"``.
        model: as of `adapt`.
        methods: names, combinations (``"dann+mcc"``) or paths; each gets the same budget.
        out: folder of the trials, and, at the end, of the run with the chosen model.
        trials: of each method.
        validator: the objective; see `domadapt.selection.registry`. By default the single criterion
            with the smallest regret on the digits and HAR tasks of benchmarks/selection.py.
        study: a file (SQLite), or the URL of a database that Optuna can use; None: in `out`.
        name: what the studies are called there, followed by the method.
        tune_lr: search the learning rate as well, from a tenth of its default to ten times it.
        settings: those that are fixed and not searched, by method as it is named in `methods`.
        training: settings of `Training` that differ from the default of the kind of backbone.
        weights: as of `adapt`, like all that follows and is not named here.
        checkpoint_file: as of `adapt`.
        head: as of `adapt`.
        freeze: as of `adapt`; features are computed once for all trials.
        bottleneck: as of `adapt`.
        image_size: as of `adapt`.
        augment: as of `adapt`.
        max_length: as of `adapt`.
        pooling: as of `adapt`.
        seed: of every trial, and of the sampler.
        export: as of `adapt`.
        progress: is told of stages and losses.
        say: is told in a line what is done and how each trial ended.
        command: what repeats the search, for the report.

    Raises:
        DomadaptError: a method with nothing to search, a validator that is unknown or lacks what it
            needs, a study that was made for something else, a missing package, and what `adapt`
            refuses.
    """
    tell = say or (lambda _: None)
    _check_surroundings()
    if trials < 1:
        raise DomadaptError(f"trials must be at least 1; got {trials}.")
    objective = get_validator(validator)
    names = [methods] if isinstance(methods, str) else list(methods)
    labels = {label(method): method for method in names}
    if not names or len(labels) < len(names):
        raise DomadaptError(
            f"tune needs one method or several different ones; got {', '.join(names) or 'none'}."
        )
    fixed = {label(method): dict(given) for method, given in (settings or {}).items()}
    strange = sorted(fixed.keys() - labels.keys())
    if strange:
        raise DomadaptError(
            f"settings are given for {strange[0]!r}, which is not among the methods; name one of "
            f"{', '.join(labels)}."
        )
    if tune_lr and "lr" in (training or {}):
        raise DomadaptError(
            "The learning rate is given, and it is to be searched as well; leave out one of lr "
            "(--lr) and tune_lr (--tune-lr)."
        )
    task = _as_task(task, checkpoint_file)
    folder = Path(out)
    _check_folder(folder)
    arguments: dict[str, Any] = {
        "weights": weights,
        "head": head,
        "freeze": freeze,
        "bottleneck": bottleneck,
        "image_size": image_size,
        "augment": augment,
        "max_length": max_length,
        "pooling": pooling,
    }
    named = model if isinstance(model, str) else None
    spec = spec_of(named, checkpoint_file=checkpoint_file, export=export, **arguments)
    overrides = {**(training or {}), "seed": seed}
    device = make_accelerator(training_for("scratch", overrides)).device
    module = model if isinstance(model, nn.Module) else None
    plan = make_plan(task, spec, module, folder / "cache", device)
    check_leaves(plan, export)
    search = Search(folder, plan, device, overrides, objective, trials, seed, progress, tell)
    spaces = _spaces(search, labels, fixed, tune_lr)
    search.open(study, name, spaces)
    tell(search.plan_in_words(spaces))
    search.train_baseline()
    for space in spaces.values():
        search.run(space)
    with search.alone("choosing"):
        rows = search.best(spaces)
        best = rows[0]
        by_label = {BASELINE: BASELINE} | {s.label: s.method for s in spaces.values()}
        method, how = by_label[best.method], search.training(best.searched)
        if not search.holds(best):
            tell(f"Chosen: {best.method}. Writing the run to {folder}.")
            search.hand_over(best, method)
            adapt(
                task,
                model,
                method,
                out=folder,
                settings=best.settings,
                training={**overrides, "lr": how.lr},
                keep="adapted",
                checkpoint_file=checkpoint_file,
                seed=seed,
                export=export,
                resume=True,
                progress=progress,
                command=command,
                **arguments,
            )
        rows = [search.with_accuracy(row, by_label[row.method]) for row in rows]
        search.write(rows, spaces)
    trained = search.trained(method, best.settings, how)
    network = plan.compose(trained.network.cpu()).eval()
    return Tuned(rows, rows[0], objective.name, network, folder)


def _as_task(
    task: Task | str | tuple[Domain, Domain] | Domain, checkpoint_file: str | Path | None
) -> Task:
    if isinstance(task, Domain) and checkpoint_file is not None:
        task = without_source(task, checkpoint_file)
    elif isinstance(task, str):
        task = load_task(task)
    elif isinstance(task, tuple):
        task = Task(*task)
    if not isinstance(task, Task):
        raise DomadaptError(
            f"tune takes a Task, a pair of domains or a task's name; got {type(task).__name__}."
        )
    if task.regression:
        raise DomadaptError(
            "tune chooses by class probabilities, and the labels of this task are measurements, "
            "for which there is no validator; adapt with settings of your own (domadapt adapt)."
        )
    return task


def _check_surroundings() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise DomadaptError("tune needs Optuna, an extra: pip install 'domadapt[optuna]'.")
    if PartialState().num_processes > 1:
        raise DomadaptError(
            "A trial of tune is trained by one process. Instead of a launcher, start the same "
            "command several times with one --out and --study: they share the trials."
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds a run and no search."""
    if not (folder / OWNER).exists():
        check_folder(folder, resume=False)


def _spaces(
    search: Search,
    methods: Mapping[str, str],
    fixed: Mapping[str, Mapping[str, Any]],
    tune_lr: bool,
) -> dict[str, Space]:
    """What is searched of each method; refuses what cannot be trained or has nothing to search."""
    lr = search.training({}).lr
    wanted = dict(methods)
    if tune_lr and not search.plan.task.source_free:
        wanted = {BASELINE: BASELINE} | wanted
    if BASELINE in wanted and "lr" in search.overrides:
        raise DomadaptError(
            "source_only has nothing to search but the learning rate, and that is given; leave out "
            "lr (--lr), or source_only, which is a candidate anyway."
        )
    found = {}
    for own, method in wanted.items():
        given = fixed.get(own, {})
        how, plan = search.training({}), search.plan
        network = prepare(plan.make_network(search.seed), how.finetune, plan.example, search.seed)
        built = build_method(method, network, given)
        check_source(search.plan, built.name, built.needs_source, started=True)
        Trainer(built, search.plan.task, search.plan.views, search.training({})).rehearse()
        searched = search_space(method, list(given), lr if tune_lr or own == BASELINE else None)
        if not searched:
            raise DomadaptError(_nothing_to_search(own, built.trains, bool(given), tune_lr))
        found[own] = Space(own, method, dict(given), searched)
    return found


def _nothing_to_search(method: str, trains: bool, some_fixed: bool, tune_lr: bool) -> str:
    why = "all its searched settings are fixed" if some_fixed else "its class names no `space`"
    if not trains:
        more = "it minimises nothing, so that a learning rate would change nothing; leave it out"
    elif tune_lr:
        more = "leave it out"
    else:
        more = "search its learning rate (--tune-lr, in Python tune_lr=True), or leave it out"
    return f"{method} has nothing to search: {why}; {more}."
