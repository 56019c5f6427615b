"""`tune`: a search over the settings of methods, judged without target labels, with Optuna.

Each method has a study of its own with the same number of trials, all of the same number of steps.
A study can be killed at any moment: a finished trial is never run again, a trial that was under way
goes on from its last checkpoint with the settings it had. Several processes share one study by the
same `out` and `study`; a file lock beside each trial says that somebody works on it, and falls with
its process.
"""

from domadapt.methods.space import LR
from domadapt.tune.found import Found, Tuned, written
from domadapt.tune.run import tune
from domadapt.tune.space import label, search_space

__all__ = ["LR", "Found", "Tuned", "label", "search_space", "tune", "written"]
