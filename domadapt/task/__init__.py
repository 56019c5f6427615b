"""`Domain`, `Task` and `Batch`: what is learnt from what, and the label firewall.

A `Task` is where target labels end. It keeps those of ``target_test`` for
`domadapt.evaluation.evaluate` and hands out nothing else, except through `Task.oracle`, whose
name marks every result that used it.
"""

from domadapt.task.batch import Batch
from domadapt.task.domain import Domain, Inputs, Kind, Pool, Raw, Samples
from domadapt.task.labels import UNKNOWN, canonical, class_order, label_ids
from domadapt.task.splits import Oracle, Split
from domadapt.task.task import Task

__all__ = [
    "UNKNOWN",
    "Batch",
    "Domain",
    "Inputs",
    "Kind",
    "Oracle",
    "Pool",
    "Raw",
    "Samples",
    "Split",
    "Task",
    "canonical",
    "class_order",
    "label_ids",
]
