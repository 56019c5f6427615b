"""Methods by name: those of this package are found by scanning it, a person's own by its path."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from domadapt.errors import DomadaptError, unknown

if TYPE_CHECKING:
    from domadapt.methods.base import Method

_METHODS: dict[str, type[Method]] = {}
C = TypeVar("C", bound="type[Any]")


def register(name: str) -> Callable[[C], C]:
    """Make a `Method` known by `name`, its paper's acronym in lower case."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DomadaptError(
            f"A method's name consists of a-z, 0-9 and _, beginning with a letter; got {name!r}."
        )

    def add(cls: C) -> C:
        other = _METHODS.get(name)
        # The same file may be loaded twice (by path, by a test); another file may not take a name.
        if other is not None and inspect.getfile(other) != inspect.getfile(cls):
            raise DomadaptError(
                f"The method {name!r} is taken by {inspect.getfile(other)}; choose another name."
            )
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


def _scan() -> None:
    package = importlib.import_module("domadapt.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"domadapt.methods.{module.name}")


def method_names() -> list[str]:
    """The registered methods, in alphabetical order."""
    _scan()
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class of a method by its name, or by ``path.py`` / ``path.py:name`` for one's own."""
    _scan()
    if ".py" in name:
        path, _, chosen = name.partition(".py")
        file = Path(path + ".py")
        module = load_file(file)
        chosen = chosen.removeprefix(":")
        here = [n for n, cls in _METHODS.items() if cls.__module__ == module.__name__]
        found = sorted(here)
        if chosen:
            if chosen not in found:
                raise unknown(f"method in {file}", chosen, found)
            return _METHODS[chosen]
        if len(found) != 1:
            raise DomadaptError(
                f"{file} must register exactly one method, or be given as {file}:name; "
                f"it registers {', '.join(found) or 'none'}."
            )
        return _METHODS[found[0]]
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def load_file(path: Path) -> types.ModuleType:
    """Import a Python file of the person's own."""
    if not path.is_file():
        raise DomadaptError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"_domadapt_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DomadaptError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except DomadaptError:
        raise
    except Exception as error:
        raise DomadaptError(
            f"{path} could not be imported: {type(error).__name__}: {error}"
        ) from error
    return module


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
            except (TypeError, ValueError):
                number = None
            if number is None or (kind is int and isinstance(value, float) and number != value):
                raise wrong(wanted)
            return number
    return str(value)
