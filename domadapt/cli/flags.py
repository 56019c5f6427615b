"""Flags that no command writes down: of training, and of the chosen method."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from domadapt.cli.common import say
from domadapt.defaults import training_settings
from domadapt.errors import DomadaptError

#: Values of the method's own flags, taken from the command line before typer reads the rest.
method_flags: dict[str, Any] = {}
#: All flags that the chosen method has, for the suggestion where one is misspelt.
known_flags: list[str] = []


def training_flags(command: Any) -> Any:
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


def check_names(method: str, settings: Iterable[str]) -> None:
    """Refuse a method whose settings are called as flags of `adapt` are."""
    from domadapt.cli.adapt import adapt

    taken = {*training_settings(), *inspect.signature(adapt).parameters} & {*settings}
    if taken:
        raise DomadaptError(
            f"{method} has a setting {sorted(taken)[0]!r}, which is the name of a flag of adapt; "
            "rename the setting."
        )


def take_method_flags(argv: list[str]) -> list[str]:
    """Take the flags of the chosen method out of `argv`; what is left is typer's."""
    method_flags.clear()
    known_flags.clear()
    if argv[:1] == ["tune"]:
        from domadapt.cli.tune import take_settings

        return take_settings(argv)
    if not argv or argv[0] != "adapt":
        return argv
    chosen = None
    for i, word in enumerate(argv):
        if word == "--method" and i + 1 < len(argv):
            chosen = argv[i + 1]
        elif word.startswith("--method="):
            chosen = word.partition("=")[2]
    asks_help = "--help" in argv
    if chosen in (None, "auto") and asks_help:
        return argv
    from domadapt.methods import method_settings

    settings = method_settings(chosen) if chosen not in (None, "auto") else {}
    check_names(str(chosen), settings)
    known_flags.extend(f"--{name.replace('_', '-')}" for name in settings)
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
        method_flags[name] = value
    return kept


def _method_help(name: str, settings: dict[str, Any]) -> None:
    from domadapt.methods import method_class, method_parts

    for part in method_parts(name):
        say(inspect.getdoc(method_class(part)) or "")
    say("")
    say(f"Settings of {name} (beside those of `domadapt adapt --help`):")
    for key, setting in settings.items():
        kind = getattr(setting.type, "__name__", str(setting.type))
        say(f"  --{key.replace('_', '-')} <{kind}>  default {setting.default}")
        if setting.help:
            say(f"      {setting.help}")
    if not settings:
        say("  none")
