"""A network that a function in a file of one's own returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError, unknown
from domadapt.methods.registry import load_file


def is_own(name: str) -> bool:
    """Whether a name is that of a function in a file."""
    return ".py:" in name or name.endswith(".py")


def call_own(name: str, n_classes: int | None) -> tuple[nn.Module, Preprocessing | None]:
    """What a person's own function returns: a module, and its preprocessing if it says one."""
    path, _, attribute = name.rpartition(":")
    if not path.endswith(".py"):
        raise DomadaptError(
            f"A model of one's own is given as path.py:function; got {name!r} without a function."
        )
    module = load_file(Path(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise unknown(f"function in {path}", attribute, known)
    takes = inspect.signature(function).parameters
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    must = {n for n, p in takes.items() if p.default is p.empty and p.kind in single}
    if must - {"n_classes"}:
        raise DomadaptError(
            f"The function {name} may take no argument, or n_classes; it requires "
            f"{', '.join(sorted(must))}."
        )
    given = {}
    if "n_classes" in takes and n_classes is not None:
        given["n_classes"] = n_classes
    elif must:
        # Only the preprocessing is wanted where the number of classes is not known.
        given["n_classes"] = 2
    try:
        made: Any = function(**given)
    except DomadaptError:
        raise
    except Exception as error:
        raise DomadaptError(f"{name} failed: {type(error).__name__}: {error}") from error
    asked: Any = None
    if isinstance(made, tuple) and len(made) == 2:
        made, asked = made
    if not isinstance(made, nn.Module):
        raise DomadaptError(
            f"{name} must return a torch.nn.Module, or one and its preprocessing; it returned "
            f"{type(made).__name__}."
        )
    if isinstance(asked, Mapping):
        fields = list(inspect.signature(Preprocessing).parameters)
        for key in asked:
            if key not in fields:
                raise unknown("preprocessing field", str(key), fields)
        asked = Preprocessing(**asked)
    if asked is not None and not isinstance(asked, Preprocessing):
        raise DomadaptError(
            f"The preprocessing of {name} must be a dictionary with size, resize, mean and std; "
            f"got {type(asked).__name__}."
        )
    return made, asked
