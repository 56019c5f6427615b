"""Search budgets: trials of a method that are drawn beforehand and are cells like all others.

Trial 0 has the settings as they are given. The others are points of an additive recurrence
``u_t = (u_0 + t a) mod 1`` in the unit cube of what is searched, with ``a_j = g^-j`` and g the
positive root of ``g^(d+1) = g + 1`` (for d = 1 the golden ratio): they fill the cube more evenly
than independent draws, and every beginning of the sequence does so. The offset ``u_0`` follows from
the seed of the search, the method and the name of the setting, by a hash. So trial t is the same on
every task, machine and day, whatever the number of trials: more of them leave the finished ones as
they are, and all can run at once. What Optuna's sampler learns from one trial for the next
(`domadapt.tune`) is given up for that. Searching at random is a strong baseline where few settings
matter (Bergstra and Bengio, 2012, Journal of Machine Learning Research 13).

On every task one trial is chosen without target labels (`domadapt.benchmark.trials`), by what all
of them did with the first seed; the chosen one alone is then run with the other seeds. T trials of
S seeds cost T + S - 1 trainings per task, where a choice for every seed would cost T times S. The
price: the spread over seeds is that of training, and not that of the search.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from domadapt.errors import DomadaptError, unknown
from domadapt.methods.registry import method_class, method_parts
from domadapt.methods.space import LR, LR_REACH, Choices, Range, method_space, trains
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cell
from domadapt.selection.registry import get_validator

if TYPE_CHECKING:
    from domadapt.benchmark.suite import Entry, Suite

#: Digits of a drawn number, so that machines whose logarithms differ in the last bit agree.
DIGITS = 6


@dataclass(frozen=True)
class Search:
    """How many settings of a method are tried, and by what one of them is chosen.

    Attributes:
        trials: how many, the settings as they are given among them.
        validator: the score without target labels whose largest value is chosen.
        lr: whether the learning rate is searched as well, from a tenth of the suite's to ten times
            it. That of a method with nothing else to search, such as source_only, always is.
        seed: of the draws.
    """

    trials: int
    validator: str = "class_ami"
    lr: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        get_validator(self.validator)
        for name, least in (("trials", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise DomadaptError(
                    f"{name} of a search are a whole number from {least} on; got {value!r}."
                )
        if type(self.lr) is not bool:
            raise DomadaptError(f"lr of a search is true or false; got {self.lr!r}.")


def read_search(given: Any) -> Search | None:
    """The search of a suite or a method, from a table ``{trials = 8, validator = "..."}``."""
    if given is None or isinstance(given, Search):
        return given
    known = ("trials", "validator", "lr", "seed")
    if not isinstance(given, Mapping) or "trials" not in given:
        raise DomadaptError(
            "A search is a table with a number of trials, such as {trials = 8, validator = "
            f'"class_ami"}}; got {given!r}.'
        )
    for key in given:
        if key not in known:
            raise unknown("key of a search", key, known)
    return Search(**given)


def searched_of(entry: Entry, search: Search) -> dict[str, Range | Choices]:
    """What is searched of a method, but what the suite gives: its `space`, and the learning rate.

    The learning rate, `domadapt.methods.space.LR`, is searched as a factor on the suite's.
    """
    found = method_space(entry.method, entry.given or ())
    if (search.lr or not found) and trains(entry.method):
        found[LR] = Range(1 / LR_REACH, LR_REACH, log=True)
    return found


def drawn(space: Mapping[str, Range | Choices], trial: int, seed: int, name: str) -> dict[str, Any]:
    """The values of a trial, 1 the first; see the module for the sequence.

    Args:
        space: what is searched.
        trial: its number.
        seed: of the search.
        name: of the method.
    """
    root = _root(len(space))
    found = {}
    for j, (key, given) in enumerate(space.items(), 1):
        said = hashlib.sha256(f"{seed}:{name}:{key}".encode()).digest()
        offset = int.from_bytes(said[:6], "big") / 2**48
        found[key] = _value(given, (offset + trial * root**-j) % 1.0)
    return found


def _root(d: int) -> float:
    """The positive root of ``x^(d+1) = x + 1``."""
    x = 2.0
    for _ in range(64):
        x = (1 + x) ** (1 / (d + 1))
    return x


def _value(given: Range | Choices, u: float) -> Any:
    """The value at the share u of a range in [0, 1)."""
    if isinstance(given, Choices):
        return given.values[int(u * len(given.values))]
    low, high = float(given.low), float(given.high)
    whole = isinstance(given.low, int) and isinstance(given.high, int)
    if whole:
        # Every whole number has a piece of the range.
        low, high = low - 0.5, high + 0.5
    if given.log:
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    else:
        value = low + u * (high - low)
    if whole:
        return min(max(round(value), int(given.low)), int(given.high))
    return float(f"{value:.{DIGITS}g}")


def scaled(lr: float, factor: float) -> float:
    """A learning rate times the factor of a trial."""
    return lr if factor == 1 else float(f"{lr * factor:.{DIGITS}g}")


def expanded(suite: Suite) -> tuple[Entry, ...]:
    """The methods of a checked suite, each that is searched as its trials."""
    found: list[Entry] = []
    for entry in suite.methods:
        assert not isinstance(entry, str)
        search = entry.search or suite.search
        if entry.oracle or entry.baseline or search is None or search.trials == 1:
            found.append(entry)
            continue
        space = searched_of(entry, search)
        name = "+".join(method_class(part).name for part in method_parts(entry.method))
        # Where there is nothing to search, the settings as they are given are all there is.
        for trial in range(search.trials if space else 1):
            values = {} if trial == 0 else drawn(space, trial, search.seed, name)
            factor = values.pop(LR, 1.0)
            found.append(
                replace(
                    entry,
                    settings={**entry.settings, **values},
                    name=f"{entry.name}#{trial}",
                    search=search,
                    of=entry.name,
                    trial=trial,
                    lr_factor=factor,
                )
            )
    names = [entry.name for entry in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DomadaptError(
            f"{twice[0]!r} is what a trial of the search is called; choose another name for that "
            "method."
        )
    return tuple(found)


def start_of(entries: Sequence[Entry]) -> Entry:
    """source_only as it is given: source-free methods go on from it, trial or not."""
    return next(
        entry for entry in entries if (entry.of or entry.name) == BASELINE and not entry.trial
    )


def to_run(
    cells: Sequence[Cell], suite: Suite, chosen: Collection[tuple[str, str]] = ()
) -> list[Cell]:
    """The cells that are to be run, once it is known which trials are chosen, or before that.

    All trials are run with the first seed, those that are chosen with every seed.

    Args:
        cells: all cells of the suite.
        suite: with its seeds.
        chosen: the task and the cells' name of the chosen trials.
    """
    assert isinstance(suite.seeds, tuple)
    trials = {entry.name for entry in expanded(suite) if entry.trial is not None}
    kept = [
        cell
        for cell in cells
        if cell.method not in trials
        or cell.seed == suite.seeds[0]
        or (cell.task, cell.method) in chosen
    ]
    keys = {cell.key for cell in kept} | {key for cell in kept for key in cell.needs}
    return [cell for cell in cells if cell.key in keys]


def most_to_come(suite: Suite) -> int:
    """How many cells there will be at most once trials are chosen: those of the other seeds."""
    assert isinstance(suite.seeds, tuple)
    searched = {entry.of for entry in expanded(suite) if entry.trial is not None}
    # source_only as it is given comes beside its chosen trial, where others go on from it.
    rows = len(searched) + (BASELINE in searched)
    return rows * len(suite.tasks) * (len(suite.seeds) - 1)
