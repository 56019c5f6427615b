"""`adapt`: a task in; an adapted model, its report and its folder out."""

from domadapt.adaptation.folder import check_folder
from domadapt.adaptation.request import (
    DEFAULT_METHOD,
    candidate_names,
    cost_in_words,
    parts_of_run,
    without_source,
)
from domadapt.adaptation.run import Adapted, adapt, check

__all__ = [
    "DEFAULT_METHOD",
    "Adapted",
    "adapt",
    "candidate_names",
    "check",
    "check_folder",
    "cost_in_words",
    "parts_of_run",
    "without_source",
]
