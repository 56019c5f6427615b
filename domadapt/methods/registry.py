"""Methods by name: those of this package are found by scanning it, a person's own by its path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Callable
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
        if other is not None and _home(other) != _home(cls):
            raise DomadaptError(
                f"The method {name!r} is taken by {_home(other)}; choose another name."
            )
        _check_class(cls)
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


def _check_class(cls: type[Any]) -> None:
    """Refuse arguments that could be no settings, and ramps that cannot be called."""
    _, *rest = inspect.signature(cls.__init__).parameters.values()
    for p in rest[1:]:
        if p.kind is p.VAR_KEYWORD:
            continue
        wrong = (
            "is not keyword-only"
            if p.kind is not p.KEYWORD_ONLY
            else "has no default"
            if p.default is p.empty
            else ""
        )
        if wrong:
            raise DomadaptError(
                f"The settings of {cls.__name__} are its keyword-only arguments, each with a "
                f"default (network, *, {p.name}: float = 1.0); {p.name} {wrong}."
            )
    for term, ramp in getattr(cls, "ramps", {}).items():
        if not callable(ramp):
            raise DomadaptError(
                f"The ramps of {cls.__name__} are functions of progress by term, such as "
                f"ramps = {{{term!r}: domadapt.ops.ramp}}; got {ramp!r}."
            )


def _home(cls: type[Any]) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        # Written at a prompt or in a notebook, where a cell is run again and again.
        return cls.__module__


def method_parts(spec: str) -> list[str]:
    """The methods of a combination: ``"dann+mcc"`` has two; a path may hold a plus sign."""
    path, _, rest = spec.rpartition(".py")
    if "+" not in rest and Path(f"{path}.py").is_file():
        return [spec]
    parts = spec.split("+")
    if "" in parts:
        raise DomadaptError(
            f"A combination names a method on each side of every plus sign, such as dann+mcc; got "
            f"{spec!r}."
        )
    return parts


def _scan() -> None:
    package = importlib.import_module("domadapt.methods")
    for module in pkgutil.iter_modules(package.__path__):
        try:
            importlib.import_module(f"domadapt.methods.{module.name}")
        except DomadaptError:
            raise
        except Exception as error:
            raise DomadaptError(
                f"The file methods/{module.name}.py of domadapt could not be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def method_names() -> list[str]:
    """The registered methods, in alphabetical order."""
    _scan()
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class of a method by its name, or by ``path.py`` / ``path.py:name`` for one's own.

    ``pytorch_adapt:CDANHook`` is a hook of that library; see `domadapt.bridges.pytorch_adapt`.
    """
    library, _, hook = name.partition(":")
    if library == "pytorch_adapt":
        from domadapt.bridges.pytorch_adapt import hook_method

        return hook_method(hook)
    _scan()
    own = re.fullmatch(r"(.+\.py)(?::(\w+))?", name)
    if own is not None:
        return _own_method(Path(own[1]), own[2])
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def _own_method(file: Path, chosen: str | None) -> type[Method]:
    # A file that was loaded before may have changed: what it registered then counts no more.
    for name in [n for n, cls in _METHODS.items() if cls.__module__ == _module_name(file)]:
        del _METHODS[name]
    module = load_file(file)
    found = sorted(n for n, cls in _METHODS.items() if cls.__module__ == module.__name__)
    if chosen is not None:
        if chosen not in found:
            raise unknown(f"method in {file}", chosen, found)
        return _METHODS[chosen]
    if len(found) != 1:
        raise DomadaptError(
            f"{file} must register exactly one method, or be given as {file}:name; "
            f"it registers {', '.join(found) or 'none'}."
        )
    return _METHODS[found[0]]


def _module_name(path: Path) -> str:
    # Files of one name in several folders are several modules.
    where = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    return f"_domadapt_file_{path.stem}_{where}"


def load_file(path: Path) -> types.ModuleType:
    """Import a Python file of the person's own."""
    if not path.is_file():
        raise DomadaptError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
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
