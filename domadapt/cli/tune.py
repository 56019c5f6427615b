"""``domadapt tune``: search the settings of methods without target labels."""

from __future__ import annotations

import inspect
import shlex
import sys
import time
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domadapt.cli.adapt import _own_file, adapt, make_task
from domadapt.cli.common import app, say
from domadapt.cli.flags import known_flags
from domadapt.defaults import training_settings
from domadapt.errors import DomadaptError

if TYPE_CHECKING:
    from domadapt.curves import Log
    from domadapt.tune import Tuned

#: Options that mean here what they mean in ``adapt``: of the data, and of the model and the run.
_DATA = (
    "source",
    "target",
    "also_source",
    "target_labelled",
    "target_test",
    "label_column",
    "text_column",
    "group_column",
    "data_root",
    "extra_classes",
)
_MODEL = (
    "model",
    "weights",
    "from_",
    "head",
    "freeze",
    "bottleneck",
    "image_size",
    "augment",
    "max_length",
    "pooling",
    "export",
    "seed",
)
#: Settings given as flags, by method; they are fixed and not searched.
_fixed: dict[str, dict[str, Any]] = {}
#: Seconds between two lines about a training that is under way.
_EVERY = 60.0


def _flags_of_adapt(command: Any) -> Any:
    """Give a command the options of ``adapt`` for data, model and training, before its own."""
    signature, hints = inspect.signature(command), typing.get_type_hints(command, None, None, True)
    own = [
        p.replace(annotation=hints[p.name])
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    theirs = inspect.signature(adapt).parameters
    first = [theirs[name] for name in ("source", "target")]
    rest = [theirs[n] for n in (*_DATA[2:], *_MODEL, *training_settings()) if n not in _names(own)]
    shown = [p.replace(kind=p.KEYWORD_ONLY) for p in (*first, *own, *rest)]

    def run(**given: Any) -> None:
        command(**given)

    # typer reads the signature; it is data here, made of both kinds of options.
    unique = list({p.name: p for p in shown}.values())
    vars(run)["__signature__"] = signature.replace(parameters=unique)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in unique}
    return run


def _names(parameters: list[inspect.Parameter]) -> set[str]:
    return {p.name for p in parameters}


@app.command()
@_flags_of_adapt
def tune(
    method: Annotated[
        str,
        typer.Option(help="Methods or combinations with commas between them: dann,mcc,dann+mcc."),
    ] = "mcc",
    trials: Annotated[int, typer.Option(help="Trials of each method.")] = 20,
    validator: Annotated[
        str, typer.Option(help="What is to be largest, judged without target labels.")
    ] = "class_ami",
    tune_lr: Annotated[
        bool, typer.Option("--tune-lr", help="Search the learning rate too, source_only's as well.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the trials and of the run with the chosen model.")
    ] = Path("runs/tuned"),
    study: Annotated[
        str | None,
        typer.Option(help="File, or URL of a database, of the trials. Default: study.db in --out."),
    ] = None,
    study_name: Annotated[
        str, typer.Option(help="What the studies are called in a database.")
    ] = "domadapt",
    **given: Any,
) -> None:
    """Search the settings of methods without target labels, and keep the best model.

    Settings of a method given as flags (--temperature 2; of one of several methods
    --mcc.temperature 2) are fixed; those that its `space` names are searched. The same command
    goes on with a search that was interrupted; several at once share the trials.
    """
    from domadapt.methods import method_parts
    from domadapt.tune import tune as search

    if given["target"] is None and given["from_"] is not None:
        given["source"], given["target"] = None, given["source"]
    if given["target"] is None or (given["source"] is None and given["from_"] is None):
        raise DomadaptError(
            "tune needs SOURCE and TARGET, such as `domadapt tune digits:printed "
            "digits:handwritten --method dann,mcc`, or TARGET alone with --from RUN and "
            "source-free methods."
        )
    start = None if given["from_"] is None else str(given["from_"])
    request = {k: given[k] for k in _DATA} | {"also_source": given["also_source"] or []}
    task = make_task({**request, "arguments": {"model": given["model"], "checkpoint_file": start}})
    for note in task.notes:
        say(f"Note: {note}")
    lasting = {m: "+".join(map(_own_file, method_parts(m))) for m in method.split(",")}
    model = given["model"]
    try:
        found = search(
            task,
            None if model is None else _own_file(model),
            list(lasting.values()),
            out=out,
            trials=trials,
            validator=validator,
            study=study,
            name=study_name,
            tune_lr=tune_lr,
            settings={lasting[m]: values for m, values in _fixed.items()},
            training={k: given[k] for k in training_settings() if given.get(k) is not None},
            checkpoint_file=start,
            export=sorted({"pt2", *(given["export"] or [])}),
            progress=_Pace(),
            say=lambda text: say(text, error=True),
            command=shlex.join(["domadapt", *sys.argv[1:]]),
            **{k: given[k] for k in _MODEL if k not in ("model", "from_", "export")},
        )
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on from here.", error=True)
        raise typer.Exit(130) from None
    _show(found)
    say(f"The first row is the model in {out}: open {out / 'report.html'} to look;")
    say(f"`domadapt predict {out} DATA` uses it. Every trial stands in {out / 'trials.csv'}.")


class _Pace:
    """A line a minute about a training that takes longer."""

    def __init__(self) -> None:
        self.name, self.last = "", time.monotonic()

    def stage(self, name: str, steps: int) -> None:
        """Begin a part."""
        self.name, self.last = name, time.monotonic()

    def log(self, point: Log) -> None:
        """Say how far it is, if the last line is old."""
        if time.monotonic() - self.last >= _EVERY:
            self.last = time.monotonic()
            say(f"  {self.name} step {point.step} of {point.steps}", error=True)


def _show(found: Tuned) -> None:
    from rich.console import Console
    from rich.table import Table

    table = found.table()
    rows = [["" if v is None or v != v else _short(v) for v in row] for row in table.to_numpy()]
    if not sys.stdout.isatty():
        for row in (list(table.columns), *rows):
            print("\t".join(row))
        return
    shown = Table(*table.columns)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def take_settings(argv: list[str]) -> list[str]:
    """Take the flags that fix settings of the methods out of `argv`; what is left is typer's."""
    _fixed.clear()
    chosen = "mcc"
    for i, word in enumerate(argv):
        if word == "--method" and i + 1 < len(argv):
            chosen = argv[i + 1]
        elif word.startswith("--method="):
            chosen = word.partition("=")[2]
    if "--help" in argv:
        return argv
    from domadapt.methods import method_settings

    taken = {*inspect.signature(tune).parameters}
    holders: dict[str, list[tuple[str, str]]] = {}
    for method in chosen.split(","):
        for key in method_settings(method):
            if key in taken:
                raise DomadaptError(
                    f"{method} has a setting {key!r}, which is the name of a flag of tune; rename "
                    "the setting."
                )
            for flag in (key, f"{method}.{key}"):
                holders.setdefault(flag, []).append((method, key))
    known_flags.extend(f"--{flag.replace('_', '-')}" for flag in holders)
    kept, rest = [], iter(argv)
    for word in rest:
        flag, _, value = word.removeprefix("--").partition("=")
        # A method's name may hold underscores, and a flag is written with hyphens.
        name = next((h for h in holders if h.replace("_", "-") == flag.replace("_", "-")), None)
        if not word.startswith("--") or name is None:
            kept.append(word)
            continue
        if "=" not in word:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise DomadaptError(f"{word} needs a value.")
        for method, key in holders[name]:
            _fixed.setdefault(method, {})[key] = value
    return kept
