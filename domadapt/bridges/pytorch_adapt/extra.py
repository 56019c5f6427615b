"""The extra itself: its modules, imported when they are wanted."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from domadapt.errors import DomadaptError


def library(module: str) -> Any:
    """A module of the extra, imported when it is wanted."""
    try:
        with warnings.catch_warnings():
            # Its torchmetrics imports pkg_resources, which warns that it will go.
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise DomadaptError(
            f"{module} could not be imported ({error}); install the extra with `pip install "
            "'domadapt[pytorch-adapt]'`, which is pytorch-adapt==0.0.83 with 'setuptools<81', the "
            "last that have the pkg_resources it imports."
        ) from error


def name_of(thing: Any) -> str:
    """The name of what something is."""
    return type(thing).__name__
