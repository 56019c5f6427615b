"""What is searched of a method: its `space`, as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domadapt.methods import method_class, method_parts
from domadapt.methods.combine import method_settings
from domadapt.methods.space import LR, LR_REACH, Choices, Range, method_space, trains
from domadapt.settings import parse_setting

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def label(method: str) -> str:
    """What a method or combination is called, whether it is named or given as a file."""
    return "+".join(method_class(part).name for part in method_parts(method))


def search_space(
    method: str, fixed: Sequence[str] = (), lr: float | None = None
) -> dict[str, BaseDistribution]:
    """What is searched of a method: its `space` (`method_space`), but what is `fixed`.

    A range of a whole-number setting is one of whole numbers. `lr` is the default learning rate
    where that is searched, and not None.

    Raises:
        DomadaptError: the space names something that is no setting, or a range or choice that the
            setting cannot take.
    """
    from optuna.distributions import FloatDistribution

    found = {key: _distribution(given) for key, given in method_space(method, fixed).items()}
    if lr is not None and trains(method):
        found[LR] = FloatDistribution(lr / LR_REACH, lr * LR_REACH, log=True)
    return found


def _distribution(given: Range | Choices) -> BaseDistribution:
    """One entry of a method's `space` as Optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(given, Choices):
        return CategoricalDistribution(given.values)
    if isinstance(given.low, int) and isinstance(given.high, int):
        return IntDistribution(given.low, given.high, log=given.log)
    return FloatDistribution(given.low, given.high, log=given.log)


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
