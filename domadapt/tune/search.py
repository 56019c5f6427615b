"""The trials of a search, and the folder and studies that they are kept in."""

from __future__ import annotations

import hashlib
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

from domadapt import checkpoint
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs, evaluate
from domadapt.inference import outputs_of
from domadapt.methods import is_source_free
from domadapt.methods.space import LR
from domadapt.report.report import BASELINE
from domadapt.runs.candidate import (
    RESULT,
    WEIGHTS,
    Progress,
    Trained,
    candidate_key,
    method_source_hash,
    train_candidate,
)
from domadapt.runs.plan import Plan, spec_dict
from domadapt.runs.saved import CONFIG
from domadapt.selection.evidence import Evidence, gather, together
from domadapt.selection.guard import guard
from domadapt.selection.registry import Validator, get_validator
from domadapt.training import Training
from domadapt.tune.found import Found, place_of, written
from domadapt.tune.space import Space, all_settings, label
from domadapt.tune.storage import check_same, open_storage, quiet

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from optuna import Study
    from optuna.trial import FrozenTrial

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


class Search:
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
            start = self.trained(BASELINE, all_settings(BASELINE, {}), how).network
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

    def plan_in_words(self, spaces: Mapping[str, Space]) -> str:
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
        settings, how = all_settings(BASELINE, {}), self.training({})
        self.baseline = self.evidence(self.trained(BASELINE, settings, how), BASELINE)
        broken = guard(self.baseline, self.baseline)
        if broken:
            raise DomadaptError(
                f"source_only, with which candidates are compared, is broken: {'; '.join(broken)}. "
                "Lower the learning rate."
            )
        for one in (self.guide, self.validator):
            one.score(together([self.baseline])[0])

    def judge(self, space: Space, trial: FrozenTrial) -> dict[str, Any]:
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

    def open(self, where: str | Path | None, name: str, spaces: Mapping[str, Space]) -> None:
        """Open or begin a study for each method; refuse one that was made for something else."""
        import optuna

        with self.alone("proposing"), quiet():
            owner = self._owner()
            storage = open_storage(self.folder / "study.db" if where is None else where)
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
                    check_same(study.study_name, attributes[_MADE_WITH], made_with)
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

    def _made_with(self, space: Space) -> dict[str, str]:
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

    def run(self, space: Space) -> None:
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

    def _claim(self, study: Study, space: Space) -> tuple[FrozenTrial, BaseFileLock] | None:
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

    def _propose(self, study: Study, space: Space) -> dict[str, Any]:
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
        with quiet():
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
        self, study: Study, space: Space, trial: FrozenTrial, judged: Mapping[str, Any]
    ) -> None:
        """Keep how a trial ended, and say so."""
        from optuna.trial import Trial, TrialState

        with quiet():
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

    def candidates(self, spaces: Mapping[str, Space]) -> list[Candidate]:
        """source_only as it stands, and every trial that the guard let pass."""
        from optuna.trial import TrialState

        settings, how = all_settings(BASELINE, {}), self.training({})
        place = self.place(BASELINE, settings, how)
        value = self.guide.score(self.baseline)
        found = [Candidate(BASELINE, BASELINE, settings, {}, -1, place, value)]
        for own, space in spaces.items():
            for trial in self.all_trials(self.studies[own]):
                if trial.state == TrialState.COMPLETE:
                    settings, how = space.settings(trial.params), self.training(trial.params)
                    place = self.place(space.method, settings, how)
                    value, params = float(trial.value or 0.0), dict(trial.params)
                    found.append(
                        Candidate(own, space.method, settings, params, trial.number, place, value)
                    )
        return found

    def scores(self, candidates: Sequence[Candidate]) -> dict[Path, float]:
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

    def _kept(self, candidate: Candidate) -> Evidence:
        """What was kept of a trial: what it says of the target."""
        if not (candidate.folder / EVIDENCE).exists():
            return self._gathered(candidate)
        said, _ = checkpoint.load_tensors(candidate.folder / EVIDENCE)
        return Evidence(candidate.name, Outputs(said["logits"], said["z"].float()))

    def _gathered(self, candidate: Candidate) -> Evidence:
        how = self.training(candidate.params)
        trained = self.trained(candidate.method, candidate.settings, how)
        return self.evidence(trained, candidate.name)

    def best(self, spaces: Mapping[str, Space]) -> list[Found]:
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
        wanted = {BASELINE: self.place(BASELINE, all_settings(BASELINE, {}), how)}
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
        return bool(checkpoint.read_json(self.folder / FOUND)["chosen"] == place_of(row))

    def write(self, rows: Sequence[Found], spaces: Mapping[str, Space]) -> None:
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
            "chosen": place_of(rows[0]),
            "rows": [{**asdict(row), "folder": place_of(row)} for row in rows],
        }
        checkpoint.write_json(self.folder / FOUND, found)


@dataclass(frozen=True)
class Candidate:
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
