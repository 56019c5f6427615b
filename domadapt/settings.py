"""Settings derived from signatures: their types, defaults and help, and values read from text."""

from __future__ import annotations

import inspect
import math
import re
import typing
from dataclasses import dataclass
from typing import Any

from domadapt.errors import DomadaptError


@dataclass(frozen=True)
class Setting:
    """One keyword argument of a method: its configuration, its flag, its row in the help."""

    name: str
    type: Any
    default: Any
    help: str = ""


def settings_of(cls: type[Any], keyword_only: bool = True) -> dict[str, Setting]:
    """The (keyword-only) arguments of a class's ``__init__``: types, defaults and help."""
    hints = typing.get_type_hints(cls.__init__)
    text = inspect.getdoc(cls) or ""
    found = {}
    for p in inspect.signature(cls.__init__).parameters.values():
        if p.name == "self" or (keyword_only and p.kind is not p.KEYWORD_ONLY):
            continue
        said = re.search(rf"^ +{p.name}: (.+(?:\n {{5,}}.+)*)", text, re.MULTILINE)
        help_ = " ".join(said[1].split()) if said else ""
        found[p.name] = Setting(p.name, hints.get(p.name, str), p.default, help_)
    return found


def parse_setting(setting: Setting, value: Any) -> Any:
    """A value from the command line or a file as the setting's type; a wrong one is refused."""
    choices = typing.get_args(setting.type)
    literal = typing.get_origin(setting.type) is typing.Literal
    kinds = choices if choices and not literal else (setting.type,)

    def wrong(wanted: str) -> DomadaptError:
        return DomadaptError(f"{setting.name} must be {wanted}; got {value!r}.")

    if literal:
        if value not in choices:
            raise wrong(f"one of {', '.join(map(repr, choices))}")
        return value
    if value is None or (value == "none" and type(None) in kinds):
        if type(None) in kinds:
            return None
        raise wrong("given")
    if bool in kinds:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "1", "false", "no", "0"):
            return str(value).lower() in ("true", "yes", "1")
        raise wrong("true or false")
    for kind, wanted in ((int, "a whole number"), (float, "a number")):
        if kind in kinds and not (kind is int and float in kinds):
            try:
                number = kind(value) if not isinstance(value, bool) else None
            except (TypeError, ValueError, OverflowError):
                number = None
            if number is None or (kind is int and isinstance(value, float) and number != value):
                raise wrong(wanted)
            if not math.isfinite(number):
                raise wrong("a finite number")
            return number
    return str(value)
