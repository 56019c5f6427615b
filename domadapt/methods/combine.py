"""Methods by name with their settings, and several at once: ``dann+mcc`` adds the terms of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from domadapt.errors import DomadaptError, unknown
from domadapt.methods.base import BatchOutputs, Method, TargetView
from domadapt.methods.registry import method_class, method_parts
from domadapt.network import Network
from domadapt.rows import Features
from domadapt.settings import Setting, parse_setting, settings_of
from domadapt.task import Batch


class Combination(Method):
    """The terms of several methods over one forward pass, each under its method's name.

    One forward pass and one source loss are kept: at most one of the methods may define its own.
    """

    def __init__(self, network: Network, parts: Mapping[str, Method]) -> None:
        super().__init__(network)
        own = [
            name
            for name, part in parts.items()
            if type(part).source_loss is not Method.source_loss
            or type(part).outputs is not Method.outputs
        ]
        if len(own) > 1:
            raise DomadaptError(
                f"{' and '.join(own)} each define the source loss, and only one can; "
                "combine one of them with the others."
            )
        if not all(m.needs_source and m.needs_target for m in parts.values()):
            alone = [n for n, m in parts.items() if not (m.needs_source and m.needs_target)]
            raise DomadaptError(f"{', '.join(alone)} cannot be combined: it runs alone.")
        fitted = [n for n, m in parts.items() if m.closed_form]
        if len(fitted) > 1:
            raise DomadaptError(
                f"{' and '.join(fitted)} are each fitted on the rows before training, and only one "
                "can be; combine one of them with the others."
            )
        self.parts = torch.nn.ModuleDict(parts)
        self.methods = dict(parts)
        self.loss_of = parts[own[0]] if own else None
        several = list(parts.values())
        # Needs are those of any part; reasons are joined.
        self.name = "+".join(parts)
        self.needs_strong = any(m.needs_strong for m in several)
        self.needs_batchnorm = any(m.needs_batchnorm for m in several)
        self.joins_domains = any(m.joins_domains for m in several)
        self.needs_classes = any(m.needs_classes for m in several)
        self.needs_source_val = any(m.needs_source_val for m in several)
        self.fitted = parts[fitted[0]] if fitted else None
        self.closed_form = bool(fitted)
        self.critics = [m for m in several if m.critic_steps]
        self.critic_steps = max(m.critic_steps for m in several)
        self.needs_target_outputs = any(m.needs_target_outputs for m in several)
        self.trains_on_confidence = any(m.trains_on_confidence for m in several)
        self.no_neutral = " ".join(m.no_neutral for m in several).strip()
        self.single_process = " ".join(m.single_process for m in several).strip()
        # The parts are asked at the most frequent of their rhythms; each keeps to its own.
        self.refreshes = max(m.refreshes for m in several)
        clash = {m.refreshes for m in several if m.refreshes}
        if len(clash) > 1:
            raise DomadaptError(
                f"{self.name} cannot be combined: its parts refresh at different rhythms "
                f"({', '.join(map(str, sorted(clash)))} times a run)."
            )

    def outputs(self, batch: Batch) -> BatchOutputs:
        """The forward pass of the part which defines one, else the usual one."""
        if self.loss_of is None:
            return super().outputs(batch)
        self.loss_of.batch_statistics = self.batch_statistics
        return self.loss_of.outputs(batch)

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """That of the part which defines one, else the usual one."""
        part = self.loss_of
        return super().source_loss(out, batch) if part is None else part.source_loss(out, batch)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The terms of every part, as ``part.term``."""
        return {
            f"{name}.{term}": value
            for name, part in self.methods.items()
            for term, value in part.terms(out, batch).items()
        }

    def weight(self, term: str, progress: float) -> float:
        """The weight that the part itself gives its term."""
        name, _, own = term.partition(".")
        return self.methods[name].weight(own, progress)

    def critic_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The sum of those of the parts, which have modules of their own each."""
        return torch.stack([part.critic_loss(out, batch) for part in self.critics]).sum()

    def setup(self, n_source: int, n_target: int) -> None:
        """As in `Method`, for every part."""
        for part in self.methods.values():
            part.n_domains = self.n_domains
            part.open_set = self.open_set
            part.setup(n_source, n_target)

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """As in `Method`, by the part that is fitted on the rows."""
        if self.fitted is None:
            return super().fit_features(x_s, y_s, x_t)
        return self.fitted.fit_features(x_s, y_s, x_t)

    def refresh(self, target: TargetView, progress: float) -> None:
        """As in `Method`, for every part that asks for it."""
        for part in self.methods.values():
            if part.refreshes:
                part.refresh(target, progress)

    def after_step(self, progress: float) -> None:
        """As in `Method`, for every part."""
        for part in self.methods.values():
            part.after_step(progress)

    def adapted(self) -> Network:
        """The network of the one part that keeps another (an averaged teacher), if any does."""
        kept = [n for n in (m.adapted() for m in self.methods.values()) if n is not self.network]
        return kept[0] if kept else self.network


def method_settings(spec: str) -> dict[str, Setting]:
    """The settings of a method or combination; those of a combination as ``part.setting``."""
    names = method_parts(spec)
    if len(names) == 1:
        return settings_of(method_class(spec))
    return {
        f"{method_class(name).name}.{key}": setting
        for name in names
        for key, setting in settings_of(method_class(name)).items()
    }


def is_source_free(spec: str) -> bool:
    """Whether a method goes on from a trained network without any source data."""
    return not any(method_class(part).needs_source for part in method_parts(spec))


def read_settings(spec: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of a method by name, brought to their types; a wrong one is refused."""
    known = method_settings(spec)
    given = {}
    for key, value in (settings or {}).items():
        if key not in known:
            if not known:
                raise DomadaptError(f"The method {spec!r} takes no settings; got {key!r}.")
            raise unknown(f"setting of {spec}", key, known)
        given[key] = parse_setting(known[key], value)
    return given


def build_method(spec: str, network: Network, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name, path or combination, with settings by name (``part.setting`` there)."""
    given = read_settings(spec, settings)
    names = method_parts(spec)
    if len(names) == 1:
        return _made(method_class(spec), network, given)
    parts = {}
    for name in names:
        cls = method_class(name)
        if cls.name in parts:
            raise DomadaptError(f"{cls.name} stands twice in {spec!r}.")
        prefix = f"{cls.name}."
        mine = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        parts[cls.name] = _made(cls, network, mine)
    return Combination(network, parts)


def _made(cls: type[Method], network: Network, settings: Mapping[str, Any]) -> Method:
    """`cls` with its settings; one whose ``__init__`` leaves out that of `Method` is refused."""
    try:
        method = cls(network, **settings)
        network_is_there = isinstance(getattr(method, "network", None), Network)
    except AttributeError as error:
        # As torch says it of a module that is assigned too early.
        if "Module.__init__" not in str(error):
            raise
        network_is_there = False
    if not network_is_there:
        raise DomadaptError(
            f"{cls.__name__}.__init__ must begin with super().__init__(network), which keeps the "
            "network and lets torch see the method's own modules."
        )
    return method
