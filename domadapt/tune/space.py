"""What is searched of a method: its `space`, as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domadapt.errors import DomadaptError
from domadapt.methods import method_class, method_parts
from domadapt.methods.combine import method_settings
from domadapt.settings import Setting, parse_setting

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


#: The learning rate among the searched parameters; no setting of a method has a name like it.
LR = "training.lr"
#: It is searched from the default divided by this to the default times this.
LR_REACH = 10.0


def label(method: str) -> str:
    """What a method or combination is called, whether it is named or given as a file."""
    return "+".join(method_class(part).name for part in method_parts(method))


def search_space(
    method: str, fixed: Sequence[str] = (), lr: float | None = None
) -> dict[str, BaseDistribution]:
    """What is searched of a method: the `space` of its class or its parts, but what is `fixed`.

    A range of a whole-number setting is one of whole numbers. `lr` is the default learning rate
    where that is searched, and not None.

    Raises:
        DomadaptError: the space names something that is no setting, or a range or choice that the
            setting cannot take.
    """
    from optuna.distributions import FloatDistribution

    parts = method_parts(method)
    known = method_settings(method)
    found: dict[str, BaseDistribution] = {}
    for part in parts:
        cls = method_class(part)
        for own, given in cls.space.items():
            key = own if len(parts) == 1 else f"{cls.name}.{own}"
            if key not in known:
                raise _wrong_space(method, own, "the method has no such setting")
            if key not in fixed:
                found[key] = _distribution(method, known[key], given)
    if lr is not None and any(method_class(part).trains for part in parts):
        found[LR] = FloatDistribution(lr / LR_REACH, lr * LR_REACH, log=True)
    return found


def _distribution(method: str, setting: Setting, given: Any) -> BaseDistribution:
    """One entry of a method's `space` as Optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def fits(value: Any) -> Any:
        try:
            return parse_setting(setting, value)
        except DomadaptError as error:
            raise _wrong_space(method, setting.name, str(error).rstrip(".")) from error

    if isinstance(given, list):
        if not given:
            raise _wrong_space(method, setting.name, "the list of choices is empty")
        return CategoricalDistribution([fits(value) for value in given])
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
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _wrong_space(method: str, setting: str, why: str) -> DomadaptError:
    return DomadaptError(
        f"The space of {method} cannot be searched: {setting}: {why}. Mend the class attribute "
        "`space`, or fix that setting."
    )


@dataclass(frozen=True)
class Space:
    """What is searched of one method."""

    label: str
    method: str
    fixed: dict[str, Any]
    searched: dict[str, BaseDistribution]

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All settings with these values of the searched ones."""
        own = {k: v for k, v in params.items() if k != LR}
        return all_settings(self.method, {**self.fixed, **own})

    def defaults(self, lr: float) -> dict[str, Any] | None:
        """The parameters of the first trial; None where a default lies outside the space."""
        known = all_settings(self.method, self.fixed)
        params = {k: lr if k == LR else known[k] for k in self.searched}
        for key, distribution in self.searched.items():
            if params[key] is None or not _holds_value(distribution, params[key]):
                return None
        return params


def _holds_value(distribution: BaseDistribution, value: Any) -> bool:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return bool(distribution.low <= value <= distribution.high)


def all_settings(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """As `adapt` has them, so that it finds a trial's candidate to be its own."""
    known = method_settings(method)
    values = {name: setting.default for name, setting in known.items()}
    return values | {name: parse_setting(known[name], value) for name, value in given.items()}
