"""The command line: thin, by typer. A person's mistake ends in one sentence and exit code 2.

Flags of training are derived from `Training`, flags of a method from its signature, so that both
are written down once. torch is imported by the commands that need it, not by ``--help``.
"""

from __future__ import annotations

import difflib
import inspect
import json
import shlex
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from domadapt.defaults import training_settings
from domadapt.errors import DomadaptError

if TYPE_CHECKING:
    from domadapt.runs.saved import SavedRun
    from domadapt.task import Domain, Task

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt a model to unlabelled target data, know whether it helped, and see why.",
)

ClassMetric = Literal[
    "accuracy",
    "macro_f1",
    "per_class_mean",
    "auroc",
    "known_accuracy",
    "unknown_accuracy",
    "h_score",
]
ValueMetric = Literal["mae", "rmse", "r2", "spearman"]
Metric = Literal[ClassMetric, ValueMetric]
DataArgument = Annotated[
    str,
    typer.Argument(
        help="Image folder, CSV or Parquet table, .npz or .npy arrays, or collection:domain."
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the labels.", rich_help_panel="Data"),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="Column that names who or what a row comes from; splits keep groups whole.",
        rich_help_panel="Data",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the catalogue's data sets; else the variable DOMADAPT_DATA.",
        rich_help_panel="Data",
    ),
]


def _say(text: str, error: bool = False) -> None:
    from rich.console import Console

    Console(stderr=error, highlight=False, soft_wrap=True).print(text, markup=False)


def _write(path: Path, text: str) -> None:
    from domadapt import checkpoint

    try:
        checkpoint.write_text(path, text)
    except OSError as error:
        raise DomadaptError(
            f"{path} cannot be written ({error.strerror}); choose another file with -o."
        ) from error


def _load(
    spec: str, label_column: str | None, group_column: str | None, root: Path | None, **more: Any
) -> Domain:
    from domadapt.data import load

    if not _is_table(spec):
        # Only tables have columns; arrays of the same width are as good.
        more = {**more, "columns": None}
    return load(spec, label_column=label_column, group_column=group_column, data_root=root, **more)


def _is_table(spec: str) -> bool:
    from domadapt.data.table import EXTENSIONS

    return spec.lower().endswith(EXTENSIONS)


def _make_task(request: dict[str, Any]) -> Task:
    """The task of a request: the only reading of SOURCE, TARGET and --target-test."""
    from domadapt.task import Task

    root = None if request["data_root"] is None else Path(request["data_root"])
    several = [request["source"], *request.get("also_source", [])]
    more = [request["target"], request["target_test"], request.get("target_labelled")]
    some_table = any(_is_table(place) for place in (*several, *more) if place is not None)

    def read(place: str, **more: Any) -> Domain:
        # The label column is the tables' affair; it is refused where there is no table at all.
        label = request["label_column"] if _is_table(place) or not some_table else None
        return _load(place, label, request["group_column"], root, regression=regression, **more)

    options: dict[str, Any] = {"extra_classes": request["extra_classes"]}
    regression = request.get("task_type") == "regression"
    if request["source"] is None:
        from domadapt.adaptation import without_source
        from domadapt.runs.saved import is_regression, read_config

        regression = is_regression(read_config(Path(request["arguments"]["checkpoint_file"])))
        target = read(request["target"])
        if request["target_test"] is not None:
            options["target_test"] = read(request["target_test"])
        return without_source(target, request["arguments"]["checkpoint_file"], **options)
    sources = [read(place, labelled=True) for place in several]
    asked = getattr(sources[0].samples, "columns", None)
    target = read(request["target"], columns=asked)
    for name in ("target_test", "target_labelled"):
        if request.get(name) is not None:
            labelled = {"labelled": True} if name == "target_labelled" else {}
            options[name] = read(request[name], columns=asked, **labelled)
    return Task(sources if len(sources) > 1 else sources[0], target, **options)


def _training_flags(command: Any) -> Any:
    """Give a command one option per setting of `Training`."""
    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    kept = [
        p.replace(annotation=hints[p.name])
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    taken = {p.name for p in kept}
    for setting in training_settings().values():
        if setting.name in taken:
            continue
        kind: Any = setting.type
        if type(None) not in typing.get_args(kind) or typing.get_origin(kind) is Literal:
            kind = kind | None if not isinstance(kind, str) else kind
        default = "none" if setting.default is None else setting.default
        option = typer.Option(
            help=f"{setting.help} (scratch default: {default})", rich_help_panel="Training"
        )
        kept.append(
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind, option],
            )
        )

    def run(**given: Any) -> None:
        command(**given)

    shown = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept]
    # typer reads the signature; it is data here, made of both kinds of options.
    vars(run)["__signature__"] = signature.replace(parameters=shown)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in kept}
    return run


#: Values of the method's own flags, taken from the command line before typer reads the rest.
_method_flags: dict[str, Any] = {}
#: All flags that the chosen method has, for the suggestion where one is misspelt.
_known_flags: list[str] = []
#: What typer raises where it cannot use a command line; typer has no public name for it.
_UsageError: Any = typer.BadParameter.__mro__[1]


@app.command()
@_training_flags
def adapt(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Labelled source data; left out with --from RUN and a source-free method."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Argument(help="Target data; labels, if any, serve evaluation alone.")
    ] = None,
    also_source: Annotated[
        list[str] | None,
        typer.Option(help="One more source domain; repeat for several.", rich_help_panel="Data"),
    ] = None,
    target_labelled: Annotated[
        str | None,
        typer.Option(
            help="A few labelled target samples to train with; they are never scored.",
            rich_help_panel="Data",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Method, combination (dann+mcc), or file.py; see `list methods`.")
    ] = "mcc",
    model: Annotated[
        str | None, typer.Option(help="Backbone; see `list models`. Default: by kind of data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/first"),
    target_test: Annotated[
        str | None, typer.Option(help="Labelled target data to score on.", rich_help_panel="Data")
    ] = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    data_root: DataRoot = None,
    extra_classes: Annotated[
        Literal["error", "unscored", "unknown"],
        typer.Option(
            help="Labelled target samples of classes that the source lacks: refused; left out of "
            'the scores; or one class more, "unknown", that models learn to tell (open set).',
            rich_help_panel="Data",
        ),
    ] = "error",
    task_type: Annotated[
        Literal["classification", "regression"],
        typer.Option(
            help="Whether labels are classes or measurements (of several columns: a,b).",
            rich_help_panel="Data",
        ),
    ] = "classification",
    image_size: Annotated[
        int | None, typer.Option(help="Side images are brought to.", rich_help_panel="Data")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Augmentation: photo, glyph, vector, series, none. Default: the data's own.",
            rich_help_panel="Data",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Pre-trained weights: a file, or DEFAULT.", rich_help_panel="Model"),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Your trained classifier, head included: weights or a run folder.",
            rich_help_panel="Model",
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Name of the head in a whole classifier.", rich_help_panel="Model"),
    ] = None,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Adapt on features computed once.", rich_help_panel="Model"),
    ] = False,
    bottleneck: Annotated[
        int | None,
        typer.Option(help="Width of the layer before the head; 0: none.", rich_help_panel="Model"),
    ] = None,
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="Metric that the closing line shows beside the usual ones.",
            rich_help_panel="Output",
        ),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(help="pt2 (always made) or onnx.", rich_help_panel="Output"),
    ] = None,
    log_with: Annotated[
        Literal["tensorboard", "wandb"] | None,
        typer.Option(help="Send the curves to a tracker.", rich_help_panel="Output"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done.", rich_help_panel="Output")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    **training: Any,
) -> None:
    """Adapt a model to unlabelled target data.

    Give --method X with --help for the settings of X.
    """
    from domadapt.methods import is_source_free, method_parts

    if resume is not None:
        others = [a for a in sys.argv[1:] if a.startswith("--") and not a.startswith("--resume")]
        if others or source is not None:
            given = others[0] if others else source
            raise DomadaptError(
                f"--resume takes everything from the run itself; {given} cannot be changed. Start "
                "a new run for that."
            )
        out = resume
        request = _request_of(resume)
    else:
        if target is None and from_ is not None and is_source_free(method):
            source, target = None, source
        elif source is None or target is None:
            raise DomadaptError(
                "adapt needs SOURCE and TARGET, such as `domadapt adapt digits:printed "
                "digits:handwritten`, or TARGET alone with --from RUN and a source-free method, or "
                "--resume FOLDER."
            )
        request = {
            "command": shlex.join(["domadapt", *sys.argv[1:]]),
            "source": source,
            "target": target,
            "target_test": target_test,
            "also_source": also_source or [],
            "target_labelled": target_labelled,
            "label_column": label_column,
            "group_column": group_column,
            "data_root": None if data_root is None else str(data_root),
            "extra_classes": extra_classes,
            "task_type": task_type,
            "arguments": {
                "model": None if model is None else _own_file(model),
                "method": "+".join(_own_file(part) for part in method_parts(method)),
                "settings": dict(_method_flags),
                "training": {k: v for k, v in training.items() if v is not None},
                "weights": weights,
                "checkpoint_file": None if from_ is None else str(from_),
                "head": head,
                "freeze": freeze,
                "bottleneck": bottleneck,
                "image_size": image_size,
                "augment": augment,
                "seed": seed,
                "export": sorted({"pt2", *(export or [])}),
                "track": log_with,
            },
            "metric": metric,
        }
    _adapt(request, out, resume is not None, dry_run)


def _request_of(folder: Path) -> dict[str, Any]:
    """What a run that is to go on was asked for."""
    from domadapt import checkpoint
    from domadapt.adaptation import check_folder

    check_folder(folder, resume=True)
    file = folder / "run.json"
    if not file.exists():
        raise DomadaptError(
            f"{folder} holds no run to go on with: it has no run.json. Start one with "
            f"`domadapt adapt SOURCE TARGET --out {folder}`."
        )
    request = checkpoint.read_json(file)
    if not isinstance(request, dict) or "arguments" not in request:
        raise DomadaptError(f"{file} was not written by `domadapt adapt`; start a new run.")
    return request


def _own_file(spec: str) -> str:
    """A file of one's own by its whole path, so that a run can be gone on with from anywhere."""
    path, is_file, rest = spec.rpartition(".py")
    file = Path(f"{path}.py")
    return f"{file.resolve()}{rest}" if is_file and file.is_file() else spec


def _lasting(request: dict[str, Any]) -> dict[str, Any]:
    """The request with paths that hold wherever it is gone on with from."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or not Path(path).exists() else str(Path(path).resolve())

    names = ("source", "target", "target_test", "target_labelled", "data_root")
    kept: dict[str, Any] = {k: absolute(request[k]) for k in names}
    kept["also_source"] = [absolute(place) for place in request["also_source"]]
    arguments = dict(request["arguments"])
    files = {k: absolute(arguments[k]) for k in ("weights", "checkpoint_file")}
    return {**request, **kept, "arguments": {**arguments, **files}}


def _adapt(request: dict[str, Any], out: Path, resume: bool, dry_run: bool) -> None:
    from domadapt.adaptation import adapt as run
    from domadapt.adaptation import check, check_folder, parts_of_run
    from domadapt.progress import make_progress
    from domadapt.trainer import is_main_process

    arguments = request["arguments"]
    check_folder(out, resume)
    parts = parts_of_run(arguments["method"])
    task = _make_task(request)
    _check_metric(request["metric"], task.open_set, task.regression)
    if dry_run:
        _say(check(task, **arguments))
    if is_main_process():
        for note in task.notes:
            _say(f"Note: {note}")
    if dry_run:
        _say(f"Nothing was done. The run would go to {out}.")
        return
    try:
        with make_progress(parts, quiet=not is_main_process()) as progress:
            _, report = run(
                task,
                out=out,
                resume=resume,
                progress=progress,
                command=request["command"],
                request=None if resume else _lasting(request),
                **arguments,
            )
    except KeyboardInterrupt:
        begun = (out / "run.json").exists()
        more = f"; go on with `domadapt adapt --resume {out}`." if begun else "; nothing was kept."
        _say(f"Interrupted{more}", error=True)
        raise typer.Exit(130) from None
    if is_main_process():
        _say(report.summary())
        metric = request["metric"]
        if metric not in (None, "accuracy", "mae"):
            for candidate in report.candidates:
                value = (candidate.target or {}).get(metric)
                if value is not None:
                    _say(f"  {candidate.name}: {metric.replace('_', ' ')} {value:.3f}")
        _say(f"Open {out / 'report.html'} to look; `domadapt predict {out} DATA` uses the model.")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: DataArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file; else the terminal.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The probability of every class as well.")
    ] = False,
    online: Annotated[
        bool,
        typer.Option("--online", help="Go on adapting, batch by batch (runs of tent and adabn)."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples at a time; default: 256, online that of the run.")
    ] = None,
    label_column: LabelColumn = None,
    data_root: DataRoot = None,
) -> None:
    """Predict the classes, or values, of new data with a run's adapted model."""
    from domadapt.runs.saved import load_run, prediction_table, value_table
    from domadapt.runs.saved import predict as probabilities

    saved = load_run(run)
    if per_class and saved.regression:
        raise DomadaptError("--per-class is for classes; this run is a regression. Leave it out.")
    domain = _load(
        data, label_column, None, data_root, columns=saved.config.get("columns"), labelled=False
    )
    p = probabilities(saved, domain, batch_size, online=online)
    ids = [str(i) for i in (domain.ids if domain.ids is not None else range(len(domain)))]
    if saved.regression:
        table = value_table(ids, p, saved.class_names)
    else:
        table = prediction_table(ids, p, saved.class_names, per_class)
    csv = table.to_csv(index=False)
    if output is None:
        sys.stdout.write(csv)
    else:
        _write(output, csv)
        _say(f"{len(domain)} predictions in {output}.")
    for note in domain.notes:
        _say(f"Note: {note}", error=True)


def _check_metric(metric: str | None, open_set: bool, regression: bool) -> None:
    """Refuse a metric that there is not for such labels."""
    if metric is None:
        return
    known = typing.get_args(ValueMetric if regression else ClassMetric)
    if metric not in known:
        raise DomadaptError(
            f"The labels are {'measurements' if regression else 'classes'}, for which there is no "
            f"{metric}; choose one of {', '.join(known)}."
        )
    if metric in ("known_accuracy", "unknown_accuracy", "h_score") and not open_set:
        raise DomadaptError(
            f"{metric} is of models with the output 'unknown'; adapt with --extra-classes unknown, "
            "or choose another metric."
        )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: DataArgument,
    label_column: LabelColumn = None,
    data_root: DataRoot = None,
    extra_classes: Annotated[
        Literal["error", "unscored", "unknown"] | None,
        typer.Option(
            help="Samples of a class that the model does not know; default: of an open-set run "
            "unknown, else error."
        ),
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="Print this metric's value alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a run's adapted model on labelled data."""
    from domadapt.evaluation import score
    from domadapt.runs.saved import class_ids, load_run
    from domadapt.runs.saved import predict as probabilities

    saved = load_run(run)
    _check_metric(metric, saved.open_set, saved.regression)
    columns, regression = saved.config.get("columns"), saved.regression
    domain = _load(
        data, label_column, None, data_root, columns=columns, labelled=True, regression=regression
    )
    if regression:
        _evaluate_values(saved, domain, metric, as_json)
        return
    y = class_ids(saved, domain, extra_classes)
    p = probabilities(saved, domain)
    found = score(p, y, saved.class_names, open_set=saved.open_set).to_dict()
    if metric is not None:
        value = found.get(metric)
        _say(f"{value:.6f}" if value is not None else "undefined")
        return
    if as_json:
        _say(json.dumps(found))
        return
    for name in typing.get_args(ClassMetric)[: None if saved.open_set else 4]:
        value = found.get(name)
        _say(f"{name.replace('_', ' '):<16} {'undefined' if value is None else f'{value:.4f}'}")
    _say(f"{'samples':<16} {found['n']}")
    rows = zip(saved.class_names, found["per_class"], strict=True)
    for name, value in rows:
        _say(f"  {name:<20} {'no sample' if value is None else f'{value:.4f}'}")


def _evaluate_values(saved: SavedRun, domain: Domain, metric: str | None, as_json: bool) -> None:
    """What `evaluate` says of a run that is a regression."""
    from domadapt.regression import score_values, written
    from domadapt.runs.saved import predict as values
    from domadapt.runs.saved import true_values

    y = true_values(domain, saved.class_names)
    found = score_values(values(saved, domain), y, saved.class_names).to_dict()
    if metric is not None:
        _say(f"{found[metric]:.9g}" if found[metric] is not None else "undefined")
        return
    if as_json:
        _say(json.dumps(found))
        return
    several = found["per_output"] if len(found["per_output"]) > 1 else []
    for row in (found, *several):
        if "name" in row:
            _say(row["name"])
        for name in typing.get_args(ValueMetric):
            _say(f"{'  ' * ('name' in row)}{name:<15} {written(row[name])}")
    _say(f"{'samples':<15} {found['n']}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; else report.html there.")
    ] = None,
) -> None:
    """Draw a run's page again from its report.json, without training."""
    from domadapt.report.page import render
    from domadapt.report.report import Report

    loaded = Report.load(run)
    page = output or (run if run.is_dir() else run.parent) / "report.html"
    _write(page, render(loaded))
    _say(loaded.summary())
    _say(f"Page: {page}")


@app.command("list")
def list_(
    what: Annotated[Literal["methods", "models", "tasks"], typer.Argument()],
    long: Annotated[
        bool,
        typer.Option("--long", help="Methods: paper, defaults, cost and measured accuracy too."),
    ] = False,
    data_root: DataRoot = None,
) -> None:
    """List what can be chosen: methods, models or tasks."""
    from rich.console import Console
    from rich.table import Table

    heads, rows = _listing(what, data_root, long)
    if not sys.stdout.isatty():
        for row in (heads, *rows):
            print("\t".join(row))
        return
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _listing(
    what: str, root: Path | None, long: bool
) -> tuple[list[str], Iterable[tuple[str, ...]]]:
    if what == "methods":
        from domadapt.methods import table

        known = table.rows()
        heads = ["method", "what it is", "setting", "needs"]
        short = [(r.name, r.what, r.setting, r.needs) for r in known]
        if not long:
            return heads, short
        heads += ["paper", "defaults", "cost of a step", "digits %"]
        more = [
            (f"{r.paper} {r.link}".strip(), r.defaults, table.cost_text(r), table.digits_text(r))
            for r in known
        ]
        return heads, [(*a, *b) for a, b in zip(short, more, strict=True)]
    if what == "models":
        from domadapt.backbones import backbone_names

        return ["model", "what it is"], backbone_names()
    from domadapt.data.catalogue import tasks

    return ["task", "what it is", "classes", "from", "at hand"], [
        (t.name, t.what, str(t.classes), t.origin, "yes" if t.at_hand else "no")
        for t in tasks(root)
    ]


@app.command()
def selftest(
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method, combination or file.py; may be repeated. Default: all."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say what each invariant means, and the time taken.")
    ] = False,
) -> None:
    """Check that methods keep what every method must keep, on data of their own.

    Exit code 1 where something is not kept.
    """
    import torch

    from domadapt.methods import method_names
    from domadapt.selftest import Subject, table

    # Several threads add up in another order now and then; bits are compared here.
    torch.set_num_threads(1)
    subjects = [Subject(spec) for spec in method or method_names()]
    width = max(len(subject.name) for subject in subjects) + 1
    _say("\n".join([*table.legend(verbose), "", table.columns(width)]))
    broken: list[str] = []
    for subject in subjects:
        findings = list(table.examine(subject))
        _say(table.row(findings, width, verbose))
        broken += table.reasons(findings)
    _say("")
    if broken:
        _say("\n".join(broken))
        raise typer.Exit(1)
    _say(f"{len(subjects)} method{'s' * (len(subjects) > 1)}: everything is kept.")


def _take_method_flags(argv: list[str]) -> list[str]:
    """Take the flags of the chosen method out of `argv`; what is left is typer's."""
    _method_flags.clear()
    _known_flags.clear()
    if not argv or argv[0] != "adapt":
        return argv
    chosen = None
    for i, word in enumerate(argv):
        if word == "--method" and i + 1 < len(argv):
            chosen = argv[i + 1]
        elif word.startswith("--method="):
            chosen = word.partition("=")[2]
    asks_help = "--help" in argv
    if chosen is None and asks_help:
        return argv
    from domadapt.methods import method_settings

    settings = method_settings(chosen or "mcc")
    taken = {*training_settings(), *inspect.signature(adapt).parameters} & settings.keys()
    if taken:
        raise DomadaptError(
            f"{chosen} has a setting {sorted(taken)[0]!r}, which is the name of a flag of adapt; "
            "rename the setting."
        )
    _known_flags.extend(f"--{name.replace('_', '-')}" for name in settings)
    if chosen is not None and asks_help:
        _method_help(chosen, settings)
        raise typer.Exit
    kept, rest = [], iter(argv)
    for word in rest:
        flag, _, value = word.removeprefix("--").partition("=")
        name = flag.replace("-", "_")
        if not word.startswith("--") or name not in settings:
            kept.append(word)
            continue
        if "=" not in word:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise DomadaptError(
                    f"{word} needs a value, such as {word} {settings[name].default}."
                )
        _method_flags[name] = value
    return kept


def _method_help(name: str, settings: dict[str, Any]) -> None:
    from domadapt.methods import method_class, method_parts

    for part in method_parts(name):
        _say(inspect.getdoc(method_class(part)) or "")
    _say("")
    _say(f"Settings of {name} (beside those of `domadapt adapt --help`):")
    for key, setting in settings.items():
        kind = getattr(setting.type, "__name__", str(setting.type))
        _say(f"  --{key.replace('_', '-')} <{kind}>  default {setting.default}")
        if setting.help:
            _say(f"      {setting.help}")
    if not settings:
        _say("  none")


def _sentence(error: Any, argv: list[str]) -> str:
    """What typer cannot use, in one sentence: what was given, what is allowed, where to look."""
    where = "domadapt" if error.ctx is None else error.ctx.command_path
    more = f"See `{where} --help`."
    option = getattr(error, "option_name", None)
    if option is not None:
        known = [flag for p in error.ctx.command.params for flag in p.opts] + _known_flags
        near = difflib.get_close_matches(option, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"`{where}` has no option {option}.{hint} {more}"
    text = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    flags = getattr(getattr(error, "param", None), "opts", [])
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        given = value if equals else following
        if flag in flags and given and given not in text:
            text = f"{text}; got {given!r}"
    return f"{text}{'' if text.endswith('?') else '.'} {more}"


def main() -> None:
    """The entry point of ``domadapt``."""
    argv = sys.argv[1:] or ["--help"]
    code: Any = 2
    try:
        rest = _take_method_flags(argv)
        code = app(args=rest, prog_name="domadapt", standalone_mode=False)
    except typer.Exit as end:
        code = end.exit_code
    except DomadaptError as error:
        _say(f"Error: {error}", error=True)
    except _UsageError as error:
        _say(f"Error: {_sentence(error, argv)}", error=True)
    except OSError as error:
        # A full disk, a folder that may not be written to: nothing that a traceback explains.
        _say(f"Error: {error.strerror or error}: {error.filename}.", error=True)
    except (KeyboardInterrupt, typer.Abort):
        _say("Interrupted.", error=True)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
