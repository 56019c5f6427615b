"""The methods that ``--method auto`` tries, by budget and by what the task allows."""

from __future__ import annotations

from typing import Any, Literal, get_args

from domadapt.errors import DomadaptError, unknown
from domadapt.methods.registry import method_parts
from domadapt.methods.table import measured
from domadapt.task import Task

#: In place of a method's name: train a portfolio and choose.
AUTO = "auto"
#: Named by every report; it changes whenever a portfolio does.
VERSION = "1"
Budget = Literal["quick", "standard", "thorough"]
#: A method with the settings that differ from its defaults.
Entry = tuple[str, dict[str, Any]]
_STANDARD: tuple[Entry, ...] = (
    ("dan", {}),
    ("mcc", {}),
    ("infomax", {"infomax_weight": 0.1}),
    ("shot", {}),
)
#: Beside source_only, which is always a candidate: a method that aligns the domains, two that
#: sharpen predictions, and one that goes on without the source. Chosen on digits and HAR tasks.
PORTFOLIO: dict[Budget, tuple[Entry, ...]] = {
    "quick": _STANDARD[2:],
    "standard": _STANDARD,
    "thorough": _STANDARD,
}
#: What goes on from a trained model, where a task brings no source.
SOURCE_FREE: tuple[Entry, ...] = (("adabn", {}), ("shot", {}))
#: What learns to say "unknown", where the target may have classes of its own.
OPEN_SET: tuple[Entry, ...] = (("dann", {}), ("ovanet", {}))


def portfolio(task: Task, budget: Budget) -> tuple[Entry, ...]:
    """The methods that auto trains beside source_only on a task.

    Raises:
        DomadaptError: there is no such budget, or the task is a regression, for which there is no
            criterion to choose by.
    """
    if budget not in get_args(Budget):
        raise unknown("budget", str(budget), get_args(Budget))
    if task.regression:
        raise DomadaptError(
            "auto chooses by class probabilities, and the labels of this task are measurements; "
            "name a method: --method dan, deep_coral or dann."
        )
    if task.source_free:
        return SOURCE_FREE
    return OPEN_SET if task.open_set else PORTFOLIO[budget]


def seeds_of(budget: Budget) -> int:
    """How many times each candidate is trained: twice where their disagreement is wanted."""
    return 2 if budget == "thorough" else 1


def cost(methods: tuple[str, ...], seeds: int = 1) -> float | None:
    """What training them costs in units of one source_only; None where a figure is missing."""
    known = measured()
    parts = [known.get(part, {}).get("cost") for m in methods for part in method_parts(m)]
    if any(part is None for part in parts):
        return None
    return seeds * (1.0 + sum(float(part) for part in parts if part is not None))
