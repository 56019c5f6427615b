"""domadapt: adapt a model to unlabelled target data, know whether it helped, and see why.

The public names are imported on first use, so that ``import domadapt`` and
``domadapt --help`` do not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from domadapt.adaptation import adapt as adapt
    from domadapt.data import from_arrays as from_arrays
    from domadapt.data import from_dataset as from_dataset
    from domadapt.data import from_folder as from_folder
    from domadapt.data import from_hub_dataset as from_hub_dataset
    from domadapt.data import from_loader as from_loader
    from domadapt.data import from_table as from_table
    from domadapt.data import from_texts as from_texts
    from domadapt.data import load as load
    from domadapt.data import load_task as load_task
    from domadapt.errors import DomadaptError as DomadaptError
    from domadapt.estimator import DomainAdaptationClassifier as DomainAdaptationClassifier
    from domadapt.methods import Method as Method
    from domadapt.methods import register as register
    from domadapt.network import Network as Network
    from domadapt.runs.saved import load_run as load_run
    from domadapt.runs.saved import predict as predict
    from domadapt.task import Batch as Batch
    from domadapt.task import Domain as Domain
    from domadapt.task import Task as Task

_HOME = {
    "adapt": "adaptation",
    "Batch": "task",
    "Domain": "task",
    "Task": "task",
    "DomadaptError": "errors",
    "DomainAdaptationClassifier": "estimator",
    "Method": "methods",
    "register": "methods",
    "Network": "network",
    "from_arrays": "data",
    "from_dataset": "data",
    "from_folder": "data",
    "from_hub_dataset": "data",
    "from_loader": "data",
    "from_table": "data",
    "from_texts": "data",
    "load": "data",
    "load_task": "data",
    "load_run": "runs.saved",
    "predict": "runs.saved",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'domadapt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"domadapt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
