"""A suite: which methods are compared on which tasks, with which seeds, model and training."""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from domadapt.adaptation.request import name_of, settings_of_method, spec_of
from domadapt.benchmark.baselines import NOT_ADAPTED, ZERO_SHOT, read_zero_shot
from domadapt.benchmark.search import Search, expanded, read_search
from domadapt.data import catalogue
from domadapt.data.table import EXTENSIONS
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError, unknown
from domadapt.methods import method_class, method_names, method_parts
from domadapt.methods.registry import load_file
from domadapt.report.report import BASELINE
from domadapt.selection.registry import get_validator
from domadapt.task import Task

#: The upper bound: source_only's loss on labelled target samples. It bears the stamp `oracle`.
UPPER = "target_only"
ORACLE = "oracle"
#: By which scores a table may be ranked.
METRICS = ("accuracy", "per_class_mean", "macro_f1")
#: How a target may be scored: on the unlabelled samples trained with, or on others.
PROTOCOLS = ("transductive", "inductive")
_MODEL = (
    "name",
    "weights",
    "head",
    "freeze",
    "bottleneck",
    "image_size",
    "augment",
    "checkpoint",
    "max_length",
    "pooling",
)


#: What methods are made for that need another kind of task, or rows of features.
NEED_MORE = ("closed form", "multi-source", "open set", "text")


@dataclass(frozen=True)
class Entry:
    """A method of a suite.

    Attributes:
        method: a name, a combination (``"cdan+mcc"``) or ``"path.py"``, as for `adapt`.
        settings: those that differ from its defaults.
        name: what tables call it; empty: the method's own name.
        search: how many settings are tried for its row, and by what they are chosen; None: as the
            suite says. What `settings` names is not searched. See `domadapt.benchmark.search`.
        given: which settings were given; filled in by `Suite.checked`.
        of, trial, lr_factor: of a trial, the method's name, the trial's number, and its factor on
            the learning rate; filled in by `domadapt.benchmark.search.expanded`.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    name: str = ""
    search: Search | None = None
    given: tuple[str, ...] | None = None
    of: str = ""
    trial: int | None = None
    lr_factor: float = 1.0

    @property
    def oracle(self) -> bool:
        """Whether it sees target labels."""
        return self.method == UPPER

    @property
    def baseline(self) -> bool:
        """Whether it adapts nothing and trains no network: `domadapt.benchmark.baselines`."""
        return self.method in NOT_ADAPTED


@dataclass(frozen=True)
class Suite:
    """What is compared. `source_only` and `target_only` are always among the methods.

    Attributes:
        name: what tables call it.
        tasks: names of tasks (``domadapt list tasks``), patterns of them (``"digits:*->*"``), or
            ``"path.py:function"``, which returns a `Task`.
        methods: names, or `Entry` with settings and a search. Of what is not said here nothing is
            tuned. ``"*"`` stands for every registered method that takes any model and a target
            whose classes are the source's or some of them.
        seeds: of weights, order, augmentation and dropout; a number n stands for 0 to n - 1.
        model: ``name``, ``weights``, ``checkpoint``, ``head``, ``freeze``, ``bottleneck``,
            ``image_size``, ``augment``, ``max_length``, ``pooling``, as for `adapt`; the same for
            all.
        training: settings of `Training` that differ from the default of the kind of backbone; the
            same for all.
        validators: the label-free scores that pick a candidate in the leaderboard, beside the
            verdict; all scores are recorded whatever is named here.
        metric: by which the leaderboard ranks.
        checkpoints: at how many evenly spaced steps of each training, the last among them, the
            network is looked at, to show the last checkpoint, those that validators choose and the
            best in hindsight side by side; 0: at the last alone. It changes no weight. Each look
            but the last costs the pass and the scores of an evaluation, once training is over;
            until then its weights lie on the disk. Cells with and without looks are different
            ones, as the latter lack what the former keep. The upper bound is not looked at.
        search: the search of every method that names none of its own, source_only too, in TOML
            ``search = {trials = 8, validator = "class_ami"}``; None: nothing is searched. Every
            trial is a cell; on each task one is chosen without target labels by what the first seed
            gave, and makes the method's row with all seeds. The upper bound is not searched, and
            source-free methods go on from source_only as it is given. See
            `domadapt.benchmark.search`.
        folder: where relative paths begin.
        about: a sentence for the leaderboard, such as the protocol.
        zero_shot: ``{model = "...", prompt = "a photo of a {}."}``: a row of a CLIP model, by its
            folder or its name on the hub, that reads the names of the classes; see
            `domadapt.benchmark.baselines`. The row "linear_probe" stands among the methods.
        protocol: "transductive" or "inductive", against which published figures are held; empty:
            as the catalogue has each task.
    """

    name: str
    tasks: Sequence[str]
    methods: Sequence[str | Entry]
    seeds: int | Sequence[int] = 3
    model: Mapping[str, Any] = field(default_factory=dict, hash=False)
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    validators: Sequence[str] = ("information_maximisation", "ensv")
    metric: str = "accuracy"
    folder: Path = Path()
    about: str = ""
    protocol: str = ""
    zero_shot: Mapping[str, str] = field(default_factory=dict, hash=False)
    checkpoints: int = 0
    search: Search | None = None

    def checked(self) -> Suite:
        """The same with everything filled in: entries, seeds, task names; mistakes are refused."""
        if not self.name or not isinstance(self.name, str):
            raise DomadaptError('A suite needs a name; give name = "...".')
        if self.metric not in METRICS:
            raise unknown("metric of a suite", str(self.metric), METRICS)
        for validator in _strings("validators", self.validators):
            get_validator(validator)
        if self.protocol not in ("", *PROTOCOLS):
            raise unknown("protocol of a suite", str(self.protocol), PROTOCOLS)
        if type(self.checkpoints) is not int or self.checkpoints < 0:
            raise DomadaptError(
                "checkpoints of a suite are a number of looks at each training, 0 for none; got "
                f"{self.checkpoints!r}."
            )
        folder = Path(self.folder)
        zero_shot = read_zero_shot(self.zero_shot, folder)
        training_for("scratch", self.training)
        if "seed" in self.training:
            raise DomadaptError(
                "A suite's seeds are given as seeds, for all methods; take seed out of training."
            )
        checked = replace(
            self,
            search=read_search(self.search),
            tasks=_tasks(_strings("tasks", self.tasks), folder),
            methods=_entries(self.methods, folder, zero_shot),
            zero_shot=zero_shot,
            seeds=_seeds(self.seeds),
            model=_model(self.model, folder),
            training=dict(self.training),
            validators=tuple(self.validators),
            folder=folder,
        )
        # Names and spaces of the trials are seen to before anything is run.
        expanded(checked)
        return checked


def read_suite(path: Path | str) -> Suite:
    """The suite of a TOML file, checked; its relative paths begin where it lies.

    Raises:
        DomadaptError: there is no such file, it is no TOML, or something in it cannot be used.
    """
    file = Path(path)
    if not file.is_file():
        near = [p.stem for p in file.parent.glob("*.toml")] if file.parent.is_dir() else []
        guess = difflib.get_close_matches(file.stem, near, n=1)
        hint = f" Did you mean {file.parent / guess[0]}.toml?" if guess else ""
        raise DomadaptError(f"A suite is a TOML file; there is no {file}.{hint}")
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DomadaptError(f"{file} is no TOML file: {error}.") from error
    known = [f.name for f in fields(Suite) if f.name != "folder"]
    for key in said:
        if key not in known:
            raise unknown("key of a suite", key, known)
    for key in ("tasks", "methods"):
        if key not in said:
            raise DomadaptError(f"A suite needs {key}; {file} has none.")
    if isinstance(said.get("model"), str):
        said["model"] = {"name": said["model"]}
    said["methods"] = [_read_entry(m) for m in _listed("methods", said["methods"])]
    return Suite(**{"name": file.stem, **said, "folder": file.parent}).checked()


def load_task_of(spec: str, data_root: Path | str | None = None) -> Task:
    """The task of a suite: one of the catalogue, or what ``path.py:function`` returns."""
    file, function = _own(spec)
    if file is None:
        return catalogue.task(spec, data_root)
    module = load_file(file)
    make = getattr(module, function, None)
    if not callable(make):
        have = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"function in {file}", function, have)
    task = make()
    if not isinstance(task, Task):
        raise DomadaptError(f"{spec} must return a Task; it returned {type(task).__name__}.")
    return task


def title_of(spec: str) -> str:
    """What tables call a task: its name, or the function of a file."""
    file, function = _own(spec)
    return spec if file is None else f"{file.stem}:{function}"


def _own(spec: str) -> tuple[Path | None, str]:
    file, colon, function = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return Path(file), function
    if spec.endswith(".py"):
        raise DomadaptError(f"A task of a file is given as path.py:function; got {spec!r}.")
    return None, ""


def _read_entry(said: Any) -> str | Entry:
    if isinstance(said, str):
        return said
    if not isinstance(said, dict) or not isinstance(said.get("method"), str):
        raise DomadaptError(
            "A method of a suite is a name, or a table {method = ..., settings = {...}, name = "
            f"..., search = {{trials = ...}}}}; got {said!r}."
        )
    for key in said:
        if key not in ("method", "settings", "name", "search"):
            raise unknown("key of a method", key, ("method", "settings", "name", "search"))
    if not isinstance(said.get("settings", {}), dict):
        raise DomadaptError(f"settings are a table, one key each; got {said['settings']!r}.")
    search = read_search(said.get("search"))
    return Entry(said["method"], said.get("settings", {}), str(said.get("name", "")), search)


def _entries(
    given: Sequence[str | Entry], folder: Path, zero_shot: Mapping[str, str]
) -> tuple[Entry, ...]:
    """All methods with all their settings: source_only first, target_only last."""
    fixed: list[Entry] = []
    found = []
    for one in _all_named(_listed("methods", given)):
        entry = Entry(one) if isinstance(one, str) else one
        if not isinstance(entry, Entry):
            raise DomadaptError(f"A method of a suite is a name or an Entry; got {one!r}.")
        if entry.oracle:
            if entry.settings or entry.search:
                raise DomadaptError(
                    f"{UPPER} takes no settings and no search; it is trained as {BASELINE}."
                )
            continue
        if entry.baseline:
            fixed += [_fixed(entry, zero_shot)]
            continue
        method = "+".join(_resolved(part, folder) for part in method_parts(entry.method))
        settings = settings_of_method(method, entry.settings)
        own = tuple(entry.settings) if entry.given is None else entry.given
        name, search = entry.name or name_of(method), read_search(entry.search)
        found.append(Entry(method, settings, name, search, own))
    if zero_shot and not any(e.method == ZERO_SHOT for e in fixed):
        fixed.append(Entry(ZERO_SHOT, zero_shot, ZERO_SHOT))
    plain = [e for e in found if e.name == BASELINE]
    if any(e.method != BASELINE for e in plain):
        raise DomadaptError(f"{BASELINE} is the name of the baseline; choose another.")
    if not plain:
        plain = [Entry(BASELINE, settings_of_method(BASELINE, None), BASELINE, given=())]
    entries = (*plain, *(e for e in found if e.name != BASELINE), *fixed, Entry(UPPER, {}, UPPER))
    names = [e.name for e in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DomadaptError(
            f"Methods of a suite need different names; {twice[0]!r} occurs twice. Give one a name: "
            f'{{method = "{twice[0]}", name = "...", settings = {{...}}}}.'
        )
    return entries


def _all_named(given: Sequence[Any]) -> list[Any]:
    """The entries with ``"*"`` written out, without the names that stand there themselves."""
    others = {one if isinstance(one, str) else getattr(one, "method", one) for one in given}
    every = [n for n in method_names() if method_class(n).setting not in NEED_MORE]
    found: list[Any] = []
    for one in given:
        found += [n for n in every if n not in others] if one == "*" else [one]
    return found


def _fixed(entry: Entry, zero_shot: Mapping[str, str]) -> Entry:
    """A row that adapts nothing, under its own name, which tables stamp."""
    own = zero_shot if entry.method == ZERO_SHOT else {}
    if dict(entry.settings) not in ({}, dict(own)) or entry.name not in ("", entry.method):
        raise DomadaptError(
            f"{entry.method} takes no settings and no other name in the list of methods; give it "
            f'as "{entry.method}".'
        )
    if entry.method == ZERO_SHOT and not zero_shot:
        raise DomadaptError(
            f"{ZERO_SHOT} needs a CLIP model; give the suite zero_shot = {{model = ...}}."
        )
    return Entry(entry.method, own, entry.method)


def _tasks(given: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The names of the tasks, patterns written out."""
    found: list[str] = []
    for spec in given:
        file, function = _own(spec)
        if file is not None:
            found.append(f"{_resolved(str(file), folder)}:{function}")
        elif "*" in spec:
            known = [entry.name for entry in catalogue.tasks()]
            fitting = [name for name in known if fnmatch.fnmatchcase(name, spec)]
            if not fitting:
                near = difflib.get_close_matches(spec, known, n=1)
                hint = f" Did you mean those like {near[0]!r}?" if near else ""
                raise DomadaptError(
                    f"No named task is like {spec!r}.{hint} `domadapt list tasks` names them all."
                )
            found += fitting
        elif any(side.strip().lower().endswith(EXTENSIONS) for side in spec.split("->")):
            raise DomadaptError(
                f"Files become a task of a suite by a function that returns it; got {spec!r}. Name "
                "one as file.py:function (an example stands in benchmarks/README.md)."
            )
        else:
            # Names are looked up where the data are; spelling aside they are the same task.
            found.append("->".join(side.strip() for side in spec.split("->")))
    distinct = list(dict.fromkeys(found))
    titles = [title_of(spec) for spec in distinct]
    if len(set(titles)) < len(titles):
        twice = next(t for t in titles if titles.count(t) > 1)
        raise DomadaptError(f"Two tasks of the suite are called {twice!r}; rename one of them.")
    return tuple(distinct)


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    seeds = range(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(seeds, Sequence) or not all(type(s) is int and s >= 0 for s in seeds):
        raise DomadaptError(
            f"seeds are a number of seeds, or a list of whole numbers from 0 on; got {given!r}."
        )
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise DomadaptError(f"A suite needs one seed or more, each once; got {given!r}.")
    return tuple(seeds)


def _model(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise DomadaptError(
            f"A suite's model is a table, such as {{name = 'lenet'}}; got {given!r}."
        )
    for key in given:
        if key not in _MODEL:
            raise unknown("key of a suite's model", key, _MODEL)
    model = dict(given)
    if isinstance(model.get("name"), str):
        file, colon, function = model["name"].rpartition(":")
        if colon and file.endswith(".py"):
            model["name"] = f"{_resolved(file, folder)}:{function}"
    for key in ("weights", "checkpoint"):
        if isinstance(model.get(key), str) and (folder / model[key]).exists():
            model[key] = str((folder / model[key]).resolve())
    spec_of_model(model)
    return model


def spec_of_model(model: Mapping[str, Any]) -> Any:
    """The `ModelSpec` of a suite's model."""
    given = dict(model)
    return spec_of(given.pop("name", None), checkpoint_file=given.pop("checkpoint", None), **given)


def _resolved(spec: str, folder: Path) -> str:
    """A spec whose path begins in `folder`; one that is no path as it is."""
    file, dot, name = spec.partition(".py")
    if not dot:
        return spec
    path = folder / f"{file}.py"
    if not path.is_file():
        raise DomadaptError(f"There is no file {path}.")
    return f"{path.resolve()}{name}"


def _listed(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise DomadaptError(f"A suite needs {what} as a list of one or more; got {given!r}.")
    return given


def _strings(what: str, given: Any) -> Sequence[str]:
    if what == "validators" and not given:
        return ()
    wrong = [one for one in _listed(what, given) if not isinstance(one, str)]
    if wrong:
        own = " Files of yours become a task by file.py:function." if what == "tasks" else ""
        raise DomadaptError(f"{what} of a suite are names; got {wrong[0]!r}.{own}")
    return tuple(given)
