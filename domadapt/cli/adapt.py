"""``domadapt adapt``: train, adapt, judge; or go on with a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from domadapt.cli.common import (
    DataRoot,
    GroupColumn,
    LabelColumn,
    Metric,
    TextColumn,
    app,
    check_metric,
    column_of_texts,
    is_table,
    load,
    say,
)
from domadapt.cli.flags import method_flags, training_flags
from domadapt.errors import DomadaptError
from domadapt.hf import PREFIX, is_hf

if TYPE_CHECKING:
    from domadapt.task import Domain, Task


@app.command()
@training_flags
def adapt(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Labelled source data: a folder of images or texts by class, a table (CSV, "
            "Parquet, JSON lines), .npz, or collection:domain. Left out with --from RUN and a "
            "source-free method."
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
        str,
        typer.Option(
            help="Method, combination (dann+mcc), or file.py; see `list methods`. auto: try a few "
            "and choose without target labels."
        ),
    ] = "auto",
    budget: Annotated[
        Literal["quick", "standard", "thorough"],
        typer.Option(help="How much auto tries: 3 trainings, 5, or 5 with two seeds each."),
    ] = "standard",
    keep: Annotated[
        Literal["chosen", "adapted"],
        typer.Option(
            help="Keep the model of the verdict, which may be the source-only one, or the adapted "
            "one in any case.",
            rich_help_panel="Output",
        ),
    ] = "chosen",
    model: Annotated[
        str | None,
        typer.Option(
            help="Backbone; see `list models`, or hf:NAME or hf:FOLDER, file.py:function. Default: "
            "by kind of data."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/first"),
    target_test: Annotated[
        str | None, typer.Option(help="Labelled target data to score on.", rich_help_panel="Data")
    ] = None,
    label_column: LabelColumn = None,
    text_column: TextColumn = None,
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
            help="Augmentation: photo, glyph, vector, series, tokens, none. Default: the data's "
            "own.",
            rich_help_panel="Data",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Where texts are cut, in tokens. Default: 128, or the model's limit.",
            rich_help_panel="Data",
        ),
    ] = None,
    pooling: Annotated[
        Literal["mean", "first", "hf"] | None,
        typer.Option(
            help="How a model hf:... makes one vector of a sample; hf: as its own classifier does. "
            "Default: mean for texts; hf for images and with --export hf.",
            rich_help_panel="Model",
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
        typer.Option(
            help="pt2 (always made), onnx, or hf: a folder that transformers loads.",
            rich_help_panel="Output",
        ),
    ] = None,
    log_with: Annotated[
        Literal["tensorboard", "wandb"] | None,
        typer.Option(help="Send the curves to a tracker.", rich_help_panel="Output"),
    ] = None,
    analyse: Annotated[
        list[str] | None,
        typer.Option(
            help="layers: what a linear probe reads in each block, and how alike each block is "
            "between the domains and before and after adaptation.",
            rich_help_panel="Output",
        ),
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
    from domadapt.selection.portfolio import AUTO

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
        if target is None and from_ is not None and (method == AUTO or is_source_free(method)):
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
            "text_column": text_column,
            "group_column": group_column,
            "data_root": None if data_root is None else str(data_root),
            "extra_classes": extra_classes,
            "task_type": task_type,
            "arguments": {
                "model": None if model is None else _own_file(model),
                "method": AUTO
                if method == AUTO
                else "+".join(_own_file(part) for part in method_parts(method)),
                "settings": dict(method_flags),
                "budget": budget,
                "keep": keep,
                "training": {k: v for k, v in training.items() if v is not None},
                "weights": weights,
                "checkpoint_file": None if from_ is None else str(from_),
                "head": head,
                "freeze": freeze,
                "bottleneck": bottleneck,
                "image_size": image_size,
                "augment": augment,
                "max_length": max_length,
                "pooling": pooling,
                "seed": seed,
                "export": sorted({"pt2", *(export or [])}),
                "track": log_with,
                **({} if analyse is None else {"analyse": sorted(set(analyse))}),
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
    """A file or folder of one's own by its whole path, so that a run can be gone on with."""
    if is_hf(spec):
        place = Path(spec.removeprefix(PREFIX)).expanduser()
        return f"{PREFIX}{place.resolve()}" if place.is_dir() else spec
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
    from domadapt.adaptation import check, check_folder, cost_in_words, parts_of_run
    from domadapt.devices import is_main_process
    from domadapt.progress import make_progress

    arguments = request["arguments"]
    check_folder(out, resume)
    task = make_task(request)
    check_metric(request["metric"], task.open_set, task.regression)
    chosen = (task, arguments["method"], arguments["budget"])
    parts = parts_of_run(*chosen)
    if dry_run:
        say(check(task, **arguments))
    if is_main_process():
        for note in task.notes:
            say(f"Note: {note}")
    if dry_run:
        say(f"Nothing was done. The run would go to {out}.")
        return
    if is_main_process():
        say(f"To do: {cost_in_words(*chosen)}.")
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
        say(f"Interrupted{more}", error=True)
        raise typer.Exit(130) from None
    if is_main_process():
        say(report.summary())
        metric = request["metric"]
        if metric not in (None, "accuracy", "mae"):
            for candidate in report.candidates:
                value = (candidate.target or {}).get(metric)
                if value is not None:
                    say(f"  {candidate.name}: {metric.replace('_', ' ')} {value:.3f}")
        say(f"Open {out / 'report.html'} to look; `domadapt predict {out} DATA` uses the model.")


def make_task(request: dict[str, Any]) -> Task:
    """The task of a request: the only reading of SOURCE, TARGET and --target-test."""
    from domadapt.task import Task

    root = None if request["data_root"] is None else Path(request["data_root"])
    several = [request["source"], *request.get("also_source", [])]
    more = [request["target"], request["target_test"], request.get("target_labelled")]
    some_table = any(is_table(place) for place in (*several, *more) if place is not None)

    text_column = request.get("text_column")
    arguments = request["arguments"]
    model = arguments.get("model") or arguments.get("checkpoint_file")
    text_column = column_of_texts(text_column, model)

    def read(place: str, **more: Any) -> Domain:
        # The label column is the tables' affair; it is refused where there is no table at all.
        label = request["label_column"] if is_table(place) or not some_table else None
        return load(
            place,
            label,
            request["group_column"],
            root,
            regression=regression,
            text_column=text_column,
            **more,
        )

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
