"""What may be searched of a method: the `space` of its class, checked against its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.methods.combine import method_settings
from domadapt.methods.registry import method_class, method_parts
from domadapt.settings import Setting, parse_setting

#: The learning rate among the searched parameters; no setting of a method has a name like it.
LR = "training.lr"
#: It is searched from the default divided by this to the default times this.
LR_REACH = 10.0


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, evenly spread or so by their logarithm.

    Two whole numbers are a range of whole numbers.
    """

    low: int | float
    high: int | float
    log: bool


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]


def method_space(method: str, fixed: Sequence[str] = ()) -> dict[str, Range | Choices]:
    """What is searched of a method or combination by setting, but what is `fixed`.

    Raises:
        DomadaptError: the space names something that is no setting, or a range or choice that the
            setting cannot take.
    """
    parts = method_parts(method)
    known = method_settings(method)
    found: dict[str, Range | Choices] = {}
    for part in parts:
        cls = method_class(part)
        for own, given in cls.space.items():
            key = own if len(parts) == 1 else f"{cls.name}.{own}"
            if key not in known:
                raise _wrong_space(method, own, "the method has no such setting")
            if key not in fixed:
                found[key] = range_of(method, known[key], given)
    return found


def trains(method: str) -> bool:
    """Whether any part of a method minimises something, so that a learning rate matters."""
    return any(method_class(part).trains for part in method_parts(method))


def range_of(method: str, setting: Setting, given: Any) -> Range | Choices:
    """What is searched of one setting, as the class says it; refused where it cannot be."""

    def fits(value: Any) -> Any:
        try:
            return parse_setting(setting, value)
        except DomadaptError as error:
            raise _wrong_space(method, setting.name, str(error).rstrip(".")) from error

    if isinstance(given, list):
        if not given:
            raise _wrong_space(method, setting.name, "the list of choices is empty")
        return Choices(tuple(fits(value) for value in given))
    if not (isinstance(given, tuple) and len(given) == 3 and given[2] in ("log", "linear")):
        wanted = '(low, high, "log" or "linear") or a list of choices is required'
        raise _wrong_space(method, setting.name, f"{wanted}; got {given!r}")
    low, high, log = fits(given[0]), fits(given[1]), given[2] == "log"
    if not low < high or (log and not low > 0):
        raise _wrong_space(
            method,
            setting.name,
            f"low must be below high{' and above 0' if log else ''}; got {given!r}",
        )
    if isinstance(low, int) and isinstance(high, int):
        return Range(low, high, log)
    return Range(float(low), float(high), log)


def _wrong_space(method: str, setting: str, why: str) -> DomadaptError:
    return DomadaptError(
        f"The space of {method} cannot be searched: {setting}: {why}. Mend the class attribute "
        "`space`, or fix that setting."
    )
