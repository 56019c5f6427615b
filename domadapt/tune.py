"""`tune`: a search over the settings of methods, judged without target labels, with Optuna.

Each method has a study of its own with the same number of trials, all of the same number of steps.
A study can be killed at any moment: a finished trial is never run again, a trial that was under way
goes on from its last checkpoint with the settings it had. Several processes share one study by the
same `out` and `study`; a file lock beside each trial says that somebody works on it, and falls with
its process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from accelerate.state import PartialState
from torch import nn

from domadapt import checkpoint
from domadapt.adaptation import adapt, check_folder, without_source
from domadapt.data import load_task
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs, evaluate
from domadapt.inference import outputs_of
from domadapt.methods import build_method, is_source_free, method_class, method_parts
from domadapt.methods.combine import method_settings
from domadapt.network import Network
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import (
    RESULT,
    WEIGHTS,
    Progress,
    Trained,
    candidate_key,
    check_source,
    method_source_hash,
    train_candidate,
)
from domadapt.runs.plan import ModelSpec, Plan, make_plan, spec_dict
from domadapt.runs.saved import CONFIG
from domadapt.selection.evidence import Evidence, gather, together
from domadapt.selection.guard import guard
from domadapt.selection.registry import Validator, get_validator
from domadapt.settings import Setting, parse_setting
from domadapt.task import Domain, Task
from domadapt.trainer import Trainer, make_accelerator
from domadapt.training import Training

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: The learning rate among the searched parameters; no setting of a method has a name like it.
LR = "training.lr"
#: It is searched from the default divided by this to the default times this.
LR_REACH = 10.0
#: What guides the sampler where the validator compares all candidates and so comes at the end.
GUIDE = "information_maximisation"
#: Trials of a study that are drawn at random before the sampler learns from them.
STARTUP = 5
#: Files of the folder: who keeps trials there; what was found; every trial.
OWNER, FOUND, TRIALS = "tune.json", "tuned.json", "trials.csv"
#: What a trial's folder holds beside the candidate.
EVIDENCE = "evidence.safetensors"
_MADE_WITH, _OWNER, _PLACE = "domadapt:made_with", "domadapt:owner", "domadapt:folder"
_SCHEMA = 1


@dataclass(frozen=True)
class Found:
    """The best candidate of one method.

    Attributes:
        method: the method or combination; "source_only" is always there.
        settings: all its settings.
        searched: those of them that were searched, with the value found, and `LR` if it was.
        score: of the validator; larger is better. None where no candidate is left.
        trials: how many were run, of which `set_aside` by the guard and `failed`.
        number: of the trial; None for source_only as it stands.
        folder: where that candidate lies; None where there is none.
        target_accuracy: of the candidate as it was trained, where labels exist; they are read once
            all is chosen.
    """

    method: str
    settings: dict[str, Any]
    searched: dict[str, Any]
    score: float | None
    trials: int
    set_aside: int
    failed: int
    number: int | None
    folder: Path | None
    target_accuracy: float | None = None


@dataclass(frozen=True)
class Tuned:
    """What a search found: the best of each method, the best of them, and its network.

    `network` is a plain module in evaluation mode, as it was trained; `folder` is the run folder
    that holds it, with the calibration of its probabilities.
    """

    rows: list[Found]
    chosen: Found
    validator: str
    network: Network
    folder: Path

    def table(self) -> pd.DataFrame:
        """A row for each method, best first; what was read from labels says so in its name."""
        rows = []
        for row in self.rows:
            line = {
                "method": row.method,
                "settings": _in_words(row),
                self.validator: row.score,
                "trials": row.trials,
                "set aside": row.set_aside,
                "failed": row.failed,
            }
            if any(r.target_accuracy is not None for r in self.rows):
                line["target accuracy (labels, after the choice)"] = row.target_accuracy
            rows.append(line)
        return pd.DataFrame(rows)


def _in_words(row: Found) -> str:
    """The settings found, those that were not searched left out."""
    if row.folder is None:
        return "none: every trial failed or was set aside"
    return ", ".join(f"{k}={written(v)}" for k, v in row.searched.items()) or "defaults"


def written(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tune(
    task: Task | str | tuple[Domain, Domain] | Domain,
    model: str | nn.Module | None = None,
    methods: Sequence[str] | str = ("mcc",),
    *,
    out: str | Path,
    trials: int = 20,
    validator: str = "ensv",
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
        validator: the objective; see `domadapt.selection.registry`.
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
    }
    file = None if checkpoint_file is None else str(checkpoint_file)
    spec = ModelSpec(model if isinstance(model, str) else None, checkpoint=file, **arguments)
    overrides = {**(training or {}), "seed": seed}
    device = make_accelerator(training_for("scratch", overrides)).device
    module = model if isinstance(model, nn.Module) else None
    plan = make_plan(task, spec, module, folder / "cache", device)
    search = _Search(folder, plan, device, overrides, objective, trials, seed, progress, tell)
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


def label(method: str) -> str:
    """What a method or combination is called, whether it is named or given as a file."""
    return "+".join(method_class(part).name for part in method_parts(method))


def search_space(
    method: str, fixed: Sequence[str] = (), lr: float | None = None
) -> dict[str, BaseDistribution]:
    """What is searched of a method: the `space` of its class or its parts, but what is `fixed`.

    A range of a whole-number setting is one of whole numbers. `lr` is the default learning rate
    where that is searched, and not None.

    Raises:
        DomadaptError: the space names something that is no setting, or a range or choice that the
            setting cannot take.
    """
    from optuna.distributions import FloatDistribution

    parts = method_parts(method)
    known = method_settings(method)
    found: dict[str, BaseDistribution] = {}
    for part in parts:
        cls = method_class(part)
        for own, given in cls.space.items():
            key = own if len(parts) == 1 else f"{cls.name}.{own}"
            if key not in known:
                raise _wrong_space(method, own, "the method has no such setting")
            if key not in fixed:
                found[key] = _distribution(method, known[key], given)
    if lr is not None and any(method_class(part).trains for part in parts):
        found[LR] = FloatDistribution(lr / LR_REACH, lr * LR_REACH, log=True)
    return found


def _distribution(method: str, setting: Setting, given: Any) -> BaseDistribution:
    """One entry of a method's `space` as Optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def fits(value: Any) -> Any:
        try:
            return parse_setting(setting, value)
        except DomadaptError as error:
            raise _wrong_space(method, setting.name, str(error).rstrip(".")) from error

    if isinstance(given, list):
        if not given:
            raise _wrong_space(method, setting.name, "the list of choices is empty")
        return CategoricalDistribution([fits(value) for value in given])
    if not (isinstance(given, tuple) and len(given) == 3 and given[2] in ("log", "linear")):
        wanted = '(low, high, "log" or "linear") or a list of choices is required'
        raise _wrong_space(method, setting.name, f"{wanted}; got {given!r}")
    low, high, log = fits(given[0]), fits(given[1]), given[2] == "log"
    if not low < high or (log and not low > 0):
        raise _wrong_space(
            method,
            setting.name,
            f"low must be below high{' and above 0' if log else ''}; got {given!r}",
        )
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _wrong_space(method: str, setting: str, why: str) -> DomadaptError:
    return DomadaptError(
        f"The space of {method} cannot be searched: {setting}: {why}. Mend the class attribute "
        "`space`, or fix that setting."
    )


@dataclass(frozen=True)
class _Space:
    """What is searched of one method."""

    label: str
    method: str
    fixed: dict[str, Any]
    searched: dict[str, BaseDistribution]

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All settings with these values of the searched ones."""
        own = {k: v for k, v in params.items() if k != LR}
        return _all_settings(self.method, {**self.fixed, **own})

    def defaults(self, lr: float) -> dict[str, Any] | None:
        """The parameters of the first trial; None where a default lies outside the space."""
        known = _all_settings(self.method, self.fixed)
        params = {k: lr if k == LR else known[k] for k in self.searched}
        for key, distribution in self.searched.items():
            if params[key] is None or not _holds_value(distribution, params[key]):
                return None
        return params


def _holds_value(distribution: BaseDistribution, value: Any) -> bool:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return bool(distribution.low <= value <= distribution.high)


def _all_settings(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """As `adapt` has them, so that it finds a trial's candidate to be its own."""
    known = method_settings(method)
    values = {name: setting.default for name, setting in known.items()}
    return values | {name: parse_setting(known[name], value) for name, value in given.items()}


def _spaces(
    search: _Search,
    methods: Mapping[str, str],
    fixed: Mapping[str, Mapping[str, Any]],
    tune_lr: bool,
) -> dict[str, _Space]:
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
        network = search.plan.make_network(search.seed)
        built = build_method(method, network, given)
        check_source(search.plan, built.name, built.needs_source, started=True)
        Trainer(built, search.plan.task, search.plan.views, search.training({})).rehearse()
        searched = search_space(method, list(given), lr if tune_lr or own == BASELINE else None)
        if not searched:
            raise DomadaptError(_nothing_to_search(own, built.trains, bool(given), tune_lr))
        found[own] = _Space(own, method, dict(given), searched)
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


class _Search:
    """What the trials of a search share, and the folder and studies they are kept in."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        device: torch.device,
        overrides: Mapping[str, Any],
        validator: Validator,
        trials: int,
        seed: int,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        self.overrides, self.trials, self.seed = dict(overrides), trials, seed
        self.validator = validator
        self.late = "others" in validator.needs
        self.guide = get_validator(GUIDE) if self.late else validator
        self.progress, self.say = progress, say
        self.studies: dict[str, Study] = {}

    # Training and judging ---------------------------------------------------------------------

    def training(self, params: Mapping[str, Any]) -> Training:
        """The settings of training of a trial."""
        lr = {"lr": params[LR]} if LR in params else {}
        return training_for(self.plan.kind, {**self.overrides, **lr})

    def place(self, method: str, settings: Mapping[str, Any], how: Training) -> Path:
        """The folder of a candidate, by the hash of all that decides its weights."""
        return self.folder / "trials" / candidate_key(self.plan, method, settings, how)

    def trained(self, method: str, settings: Mapping[str, Any], how: Training) -> Trained:
        """A candidate: trained, gone on with, or taken up where it is finished."""
        plan = self.plan
        if plan.task.source_free and method == BASELINE:
            network = plan.make_network(self.seed).eval()
            return Trained(method, method, dict(settings), network, {}, 0.0, False)
        start = None
        if is_source_free(method) and not plan.task.source_free:
            # As `adapt` does: from source_only with the same settings of training.
            start = self.trained(BASELINE, _all_settings(BASELINE, {}), how).network
        place = self.place(method, settings, how)
        # Who comes second waits, and takes up what the first has trained.
        with self.alone(place.name):
            return train_candidate(plan, method, settings, how, place, self.progress, None, start)

    def evidence(self, trained: Trained, name: str) -> Evidence:
        """What the guard and a validator may know of a candidate."""
        # It stays there: evidence asks it more (mixtures) when a validator does.
        trained.network.to(self.device)
        found = gather(trained, self.plan.task, self.plan.views, device=self.device)
        return replace(found, name=name)

    def plan_in_words(self, spaces: Mapping[str, _Space]) -> str:
        """What the search will cost and go by."""
        n, steps = len(spaces), self.training({}).steps
        by = f"Judged by {self.validator.name}"
        if self.late:
            by += (
                f", at the end, over all candidates; until then {self.guide.name} guides the search"
            )
        lines = [
            f"{n} method{'s' * (n > 1)} x {self.trials} trials x {steps} steps, and source_only.",
            f"{by}. No target label is read before all is chosen.",
        ]
        for space in spaces.values():
            names = ", ".join("the learning rate" if k == LR else k for k in space.searched)
            alone = " alone: there is nothing else" if space.label == BASELINE else ""
            lines.append(f"{space.label}: searches {names}{alone}.")
        return "\n".join(lines)

    def train_baseline(self) -> None:
        """Train source_only with its defaults, and refuse a validator that lacks its evidence."""
        settings, how = _all_settings(BASELINE, {}), self.training({})
        self.baseline = self.evidence(self.trained(BASELINE, settings, how), BASELINE)
        broken = guard(self.baseline, self.baseline)
        if broken:
            raise DomadaptError(
                f"source_only, with which candidates are compared, is broken: {'; '.join(broken)}. "
                "Lower the learning rate."
            )
        for one in (self.guide, self.validator):
            one.score(together([self.baseline])[0])

    def judge(self, space: _Space, trial: FrozenTrial) -> dict[str, Any]:
        """Run a trial: its score, or why it has none."""
        settings, how = space.settings(trial.params), self.training(trial.params)
        try:
            trained = self.trained(space.method, settings, how)
            evidence = self.evidence(trained, f"{space.label} {trial.number}")
            reasons = guard(evidence, self.baseline)
            if reasons:
                return {"set_aside": "; ".join(reasons), "seconds": trained.seconds}
            score = self.guide.score(evidence)
            if not math.isfinite(score):
                return {"failed": f"its {self.guide.name} is {score}", "seconds": trained.seconds}
            target = {"logits": evidence.target.logits, "z": evidence.target.z.half()}
            place = self.place(space.method, settings, how)
            checkpoint.save_tensors(place / EVIDENCE, target, {"candidate": place.name})
        except (ValueError, RuntimeError, ArithmeticError) as error:
            # A candidate that diverges or does not fit the memory is an answer about its settings;
            # a full disk (OSError) is none, and stops the search.
            own = isinstance(error, DomadaptError)
            return {"failed": str(error) if own else f"{type(error).__name__}: {error}"}
        return {"score": score, "seconds": trained.seconds}

    # The studies ------------------------------------------------------------------------------

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """No other process of this search does the same meanwhile."""
        from filelock import FileLock

        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "locks" / f"{what}.lock"):
            yield

    def open(self, where: str | Path | None, name: str, spaces: Mapping[str, _Space]) -> None:
        """Open or begin a study for each method; refuse one that was made for something else."""
        import optuna

        with self.alone("proposing"), _quiet():
            owner = self._owner()
            storage = _storage(self.folder / "study.db" if where is None else where)
            for own, space in spaces.items():
                study = optuna.create_study(
                    storage=storage,
                    study_name=f"{name}/{own}",
                    direction="maximize",
                    load_if_exists=True,
                )
                made_with = self._made_with(space)
                attributes = study.user_attrs
                if _MADE_WITH not in attributes:
                    if study.get_trials(deepcopy=False):
                        raise DomadaptError(
                            f"The study {study.study_name!r} was not begun by domadapt; choose "
                            "another name (--study-name) or another --study."
                        )
                    study.set_user_attr(_OWNER, owner)
                    study.set_user_attr(_PLACE, str(self.folder.resolve()))
                    study.set_user_attr(_MADE_WITH, made_with)
                else:
                    _check_same(study.study_name, attributes[_MADE_WITH], made_with)
                    if attributes.get(_OWNER) != owner:
                        raise DomadaptError(
                            f"The study {study.study_name!r} keeps its trials in "
                            f"{attributes.get(_PLACE)}, and --out is {self.folder}; give that "
                            "folder, another --study-name, or another --study."
                        )
                self.studies[own] = study

    def _owner(self) -> str:
        """What the studies know this folder by, wherever it is mounted."""
        file = self.folder / OWNER
        if not file.exists():
            checkpoint.write_json(file, {"schema": _SCHEMA, "id": uuid.uuid4().hex})
        owner: str = checkpoint.read_json(file)["id"]
        return owner

    def _made_with(self, space: _Space) -> dict[str, str]:
        """What decides a study's trials, in words or as a hash; the number of trials does not."""
        idle = ("workers", "checkpoint_every", "device", "log_every")
        how = {k: v for k, v in asdict(self.training({})).items() if k not in idle}
        digest = hashlib.sha256()
        for value in checkpoint.module_state(self.plan.make_network(self.seed)).values():
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return {
            "schema": str(_SCHEMA),
            "task": self.plan.task.fingerprint(),
            "model": json.dumps(spec_dict(self.plan.spec), sort_keys=True),
            "initial weights": digest.hexdigest()[:16],
            "views": json.dumps(self.plan.views.config(), sort_keys=True, default=str),
            "training": ", ".join(f"{k}={v}" for k, v in how.items()),
            "method": method_source_hash(space.method),
            "space": "; ".join(f"{k}: {v}" for k, v in sorted(space.searched.items())),
            "fixed settings": json.dumps(space.fixed, sort_keys=True, default=str),
            "validator": self.validator.name,
            "torch": torch.__version__,
        }

    def run(self, space: _Space) -> None:
        """Run trials of a method until as many as asked for are finished, by whomever."""
        study = self.studies[space.label]
        while True:
            claimed = self._claim(study, space)
            if claimed is not None:
                trial, lock = claimed
                try:
                    self._finish(study, space, trial, self.judge(space, trial))
                finally:
                    lock.release()
            elif all(t.state.is_finished() for t in self.all_trials(study)):
                return
            else:
                # Others are at the last ones; one of them may be killed yet.
                time.sleep(0.5)

    def all_trials(self, study: Study) -> list[FrozenTrial]:
        """Those of a study, in order, as they are now."""
        return study.get_trials(deepcopy=False)

    def _claim(self, study: Study, space: _Space) -> tuple[FrozenTrial, BaseFileLock] | None:
        """A trial that nobody works on, begun or new; None where there is none to be had."""
        from filelock import FileLock, Timeout
        from optuna.trial import TrialState, create_trial

        def locked(number: int) -> BaseFileLock:
            own = hashlib.sha256(study.study_name.encode()).hexdigest()[:8]
            lock = FileLock(self.folder / "locks" / f"{own}-{number}.lock")
            lock.acquire(timeout=0)
            return lock

        with self.alone("proposing"):
            known = self.all_trials(study)
            for trial in known:
                if trial.state != TrialState.RUNNING:
                    continue
                try:
                    lock = locked(trial.number)
                except Timeout:
                    continue
                # Whoever had it may have finished it since the states were read.
                trial = self.all_trials(study)[trial.number]
                if trial.state == TrialState.RUNNING:
                    return trial, lock
                lock.release()
            if len(known) >= self.trials:
                return None
            params = self._propose(study, space)
            lock = locked(len(known))
            # In one transaction with its settings: a trial either is not there or is whole.
            study.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=space.searched)
            )
            return self.all_trials(study)[len(known)], lock

    def _propose(self, study: Study, space: _Space) -> dict[str, Any]:
        """The settings of the next trial: a function of its number and the finished trials."""
        import optuna
        from optuna.trial import TrialState, create_trial

        number = len(self.all_trials(study))
        defaults = space.defaults(self.training({}).lr)
        if number == 0 and defaults is not None:
            return defaults
        said = f"{self.seed}/{study.study_name}/{number}".encode()
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP,
            seed=int.from_bytes(hashlib.sha256(said).digest()[:4], "big"),
        )
        with _quiet():
            # A study in memory sees finished trials alone, so that one that was killed and one that
            # was not propose the same. To the sampler, failures are trials worse than all others.
            draft = optuna.create_study(direction="maximize", sampler=sampler)
            for trial in self.all_trials(study):
                if trial.state.is_finished():
                    good = trial.state == TrialState.COMPLETE
                    draft.add_trial(
                        create_trial(
                            state=TrialState.COMPLETE if good else TrialState.PRUNED,
                            value=trial.value if good else None,
                            params=trial.params,
                            distributions=trial.distributions,
                        )
                    )
            return dict(draft.ask(fixed_distributions=space.searched).params)

    def _finish(
        self, study: Study, space: _Space, trial: FrozenTrial, judged: Mapping[str, Any]
    ) -> None:
        """Keep how a trial ended, and say so."""
        from optuna.trial import Trial, TrialState

        with _quiet():
            notes = Trial(study, trial._trial_id)
            for key, value in judged.items():
                notes.set_user_attr(key, value)
            if "score" in judged:
                study.tell(trial.number, judged["score"])
            else:
                state = TrialState.PRUNED if "set_aside" in judged else TrialState.FAIL
                study.tell(trial.number, state=state)
        settings = ", ".join(f"{k}={written(v)}" for k, v in trial.params.items())
        if "score" in judged:
            ended = f"{self.guide.name} {judged['score']:.4f}"
        elif "set_aside" in judged:
            ended = f"set aside: {judged['set_aside']}"
        else:
            ended = f"failed: {judged['failed']}"
        self.say(f"{space.label} {trial.number + 1}/{self.trials}  {settings}  {ended}")

    # The end ----------------------------------------------------------------------------------

    def candidates(self, spaces: Mapping[str, _Space]) -> list[_Candidate]:
        """source_only as it stands, and every trial that the guard let pass."""
        from optuna.trial import TrialState

        settings, how = _all_settings(BASELINE, {}), self.training({})
        place = self.place(BASELINE, settings, how)
        value = self.guide.score(self.baseline)
        found = [_Candidate(BASELINE, BASELINE, settings, {}, -1, place, value)]
        for own, space in spaces.items():
            for trial in self.all_trials(self.studies[own]):
                if trial.state == TrialState.COMPLETE:
                    settings, how = space.settings(trial.params), self.training(trial.params)
                    place = self.place(space.method, settings, how)
                    value, params = float(trial.value or 0.0), dict(trial.params)
                    found.append(
                        _Candidate(own, space.method, settings, params, trial.number, place, value)
                    )
        return found

    def scores(self, candidates: Sequence[_Candidate]) -> dict[Path, float]:
        """The validator's score of each candidate, by its folder."""
        if not self.late:
            return {c.folder: c.value for c in candidates}
        # Trials of the same settings are one candidate, which has one vote.
        several = {c.folder: c for c in candidates}
        evidence = together([self._kept(c) for c in several.values()])
        if self.validator.lacks(evidence[0]):
            evidence = together([self._gathered(c) for c in several.values()])
        return {
            place: self.validator.score(one) for place, one in zip(several, evidence, strict=True)
        }

    def _kept(self, candidate: _Candidate) -> Evidence:
        """What was kept of a trial: what it says of the target."""
        if not (candidate.folder / EVIDENCE).exists():
            return self._gathered(candidate)
        said, _ = checkpoint.load_tensors(candidate.folder / EVIDENCE)
        return Evidence(candidate.name, Outputs(said["logits"], said["z"].float()))

    def _gathered(self, candidate: _Candidate) -> Evidence:
        how = self.training(candidate.params)
        trained = self.trained(candidate.method, candidate.settings, how)
        return self.evidence(trained, candidate.name)

    def best(self, spaces: Mapping[str, _Space]) -> list[Found]:
        """The best candidate of each method, the best of all first; no label is read."""
        from optuna.trial import TrialState

        candidates = self.candidates(spaces)
        scores = self.scores(candidates)
        rows = []
        for own in dict.fromkeys([BASELINE, *spaces]):
            states = [TrialState.COMPLETE]
            if own in spaces:
                states = [t.state for t in self.all_trials(self.studies[own])]
            # Of equal ones what the guide prefers, then the first, which has the defaults.
            mine = [c for c in candidates if c.label == own]
            top = max(mine, key=lambda c: (scores[c.folder], c.value, -c.number), default=None)
            rows.append(
                Found(
                    method=own,
                    settings={} if top is None else top.settings,
                    searched={} if top is None else top.params,
                    score=None if top is None else scores[top.folder],
                    trials=len(states),
                    set_aside=states.count(TrialState.PRUNED),
                    failed=states.count(TrialState.FAIL),
                    number=None if top is None or top.number < 0 else top.number,
                    folder=None if top is None else top.folder,
                )
            )
        return sorted(rows, key=lambda r: -math.inf if r.score is None else r.score, reverse=True)

    def with_accuracy(self, row: Found, method: str) -> Found:
        """The row with its accuracy on the target, where the task has labels to measure it by."""
        task = self.plan.task
        if row.folder is None or not task.has_test_labels:
            return row
        trained = self.trained(method, row.settings, self.training(row.searched))
        network = trained.network.to(self.device)
        said = outputs_of(network, task.target_test, self.plan.views, device=self.device)
        found = evaluate(task, said)
        network.cpu()
        return replace(row, target_accuracy=getattr(found, "accuracy", None))

    def hand_over(self, row: Found, method: str) -> None:
        """Put the trained candidates where `adapt` looks for them, so that it trains them no more.

        It takes them only if they are what it would train, to the last setting.
        """
        (self.folder / CONFIG).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "candidates", ignore_errors=True)
        how = self.training(row.searched)
        wanted = {BASELINE: self.place(BASELINE, _all_settings(BASELINE, {}), how)}
        if row.folder is not None:
            wanted[label(method)] = row.folder
        for own, held in wanted.items():
            if (held / RESULT).exists():
                place = self.folder / "candidates" / own
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(held / WEIGHTS, place / WEIGHTS)
                checkpoint.write_text(place / RESULT, (held / RESULT).read_text(encoding="utf-8"))

    def holds(self, row: Found) -> bool:
        """Whether the folder is already the finished run of this candidate."""
        if not ((self.folder / CONFIG).exists() and (self.folder / FOUND).exists()):
            return False
        return bool(checkpoint.read_json(self.folder / FOUND)["chosen"] == _place(row))

    def write(self, rows: Sequence[Found], spaces: Mapping[str, _Space]) -> None:
        """Keep the rows, and a table of every trial."""
        lines = []
        for own in spaces:
            for trial in self.all_trials(self.studies[own]):
                line = {"method": own, "trial": trial.number, "state": trial.state.name}
                lines.append(
                    line | trial.user_attrs | {f"set:{k}": v for k, v in trial.params.items()}
                )
        checkpoint.write_text(self.folder / TRIALS, pd.DataFrame(lines).to_csv(index=False))
        found = {
            "schema": _SCHEMA,
            "validator": self.validator.name,
            "guided_by": self.guide.name,
            "chosen": _place(rows[0]),
            "rows": [{**asdict(row), "folder": _place(row)} for row in rows],
        }
        checkpoint.write_json(self.folder / FOUND, found)


@dataclass(frozen=True)
class _Candidate:
    """A trained candidate that may be chosen; `number` is -1 for source_only as it stands."""

    label: str
    method: str
    settings: dict[str, Any]
    params: dict[str, Any]
    number: int
    folder: Path
    value: float

    @property
    def name(self) -> str:
        """Its name among all candidates."""
        return self.label if self.number < 0 else f"{self.label} {self.number}"


def _place(row: Found) -> str | None:
    return None if row.folder is None else row.folder.name


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


def _check_same(study: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a study that was begun for something else."""
    other = [k for k in now if then.get(k) != now[k]]
    if other:
        said = "; ".join(f"{k} was {_differing(then.get(k, 'none'), now[k])}" for k in other[:3])
        raise DomadaptError(
            f"The study {study!r} was made with other {', '.join(other)} than asked for now "
            f"({said}). Ask for the same, or begin another one: another --out, or, in a database, "
            "another --study-name as well."
        )


def _differing(then: str, now: str) -> str:
    """Two long texts by the parts in which they differ."""
    old, new = then.split(", "), now.split(", ")
    if len(old) == len(new) > 1:
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        return f"{', '.join(a for a, _ in pairs)}, now {', '.join(b for _, b in pairs)}"
    return f"{then}, now {now}"


def _storage(where: str | Path) -> BaseStorage:
    """A SQLite file, or a database by its URL."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    url = str(where)
    options: dict[str, Any] = {}
    if "://" not in url:
        Path(url).resolve().parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{Path(url).resolve()}"
        # Several processes write to the file in turns.
        options = {"engine_kwargs": {"connect_args": {"timeout": 120}}}
    try:
        return RDBStorage(url, **options)
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DomadaptError(
            f"--study takes a file or the URL of a database such as sqlite:///tune.db, whose "
            f"driver is installed; {where} cannot be opened ({reason})."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notes on what it does; its warnings are heard."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
