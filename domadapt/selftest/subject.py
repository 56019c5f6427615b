"""A method under test: built, prepared and run on the small task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from domadapt.methods import Method, build_method, method_class, method_parts, method_settings
from domadapt.network import Discriminator, Network
from domadapt.selftest import small
from domadapt.settings import Setting, settings_of
from domadapt.task import Batch
from domadapt.trainer import Trainer


@dataclass(frozen=True)
class Left:
    """What a run leaves: the network it keeps, the method with its state, the learning curves."""

    kept: Network
    method: Method
    curves: dict[str, list[float]]

    @classmethod
    def of(cls, trainer: Trainer, kept: Network) -> Left:
        """Of a run that is done."""
        curves = {k: v for k, v in trainer.history.items() if k != "seconds"}
        return cls(kept, trainer.method, curves)

    def equals(self, other: Left) -> bool:
        """Whether everything is the same, bit for bit."""
        return (
            repr(self.curves) == repr(other.curves)
            and small.same_bits(self.kept, other.kept)
            and small.same_bits(self.method, other.method)
        )


class Subject:
    """A method under test, which is built anew as often as an invariant wants.

    Args:
        method: a name, a combination, ``file.py``, or a class that need not be registered.
    """

    def __init__(self, method: str | type[Method]) -> None:
        self.method = method
        self._runs: dict[str, Left] = {}
        self.classes: tuple[type[Method], ...]
        self.settings: dict[str, Setting]
        if isinstance(method, str):
            self.classes = tuple(method_class(part) for part in method_parts(method))
            self.settings = method_settings(method)
            self.name = "+".join(cls.name for cls in self.classes)
        else:
            self.classes, self.settings = (method,), settings_of(method)
            self.name = method.name or method.__name__

    @cached_property
    def world(self) -> Any:
        """The small task and networks: `small`, or `small_text` for a method of texts alone."""
        if not any(cls.needs_text for cls in self.classes):
            return small
        from domadapt.selftest import small_text

        return small_text

    def build(
        self, settings: Mapping[str, Any] | None = None, network: Network | None = None
    ) -> Method:
        """The method over `network`, by default the small one that knows the source."""
        network = self.world.trained_network() if network is None else network
        if isinstance(self.method, str):
            return build_method(self.method, network, settings)
        return self.method(network, **(settings or {}))

    def ready(
        self, settings: Mapping[str, Any] | None = None, network: Network | None = None
    ) -> Method:
        """The method as it is before a step in the middle of a run."""
        return self.world.prepare(self.build(settings, network))

    def batch(self, n_s: int = 12, n_t: int = small.POOL, **more: Any) -> Batch:
        """`small.make_batch` without what the method says it does not need."""
        return self.needed(self.world.make_batch(n_s, n_t, **more))

    def needed(self, batch: Batch) -> Batch:
        """`batch` without what the method says it does not need."""
        without: dict[str, None] = {}
        if not self.probe.needs_source:
            without |= dict.fromkeys(("x_s", "y_s", "x_s_strong", "index_s", "domain_s"))
        if not self.probe.needs_target:
            without |= dict.fromkeys(("x_t", "x_t_strong", "index_t"))
        if not self.probe.needs_strong:
            without |= dict.fromkeys(("x_s_strong", "x_t_strong"))
        return replace(batch, **without)  # type: ignore[arg-type]

    def trainer(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        labels: Any = "true",
        sources: int = 1,
        width: int = 16,
        dropout: float = 0.3,
        path: Path | None = None,
        **training: Any,
    ) -> Trainer:
        """A run of 8 steps on `small.small_task`, whose batches hold more target than source."""
        method = self.build(settings, self.world.trained_network(dropout, width))
        task = self.world.small_task(labels, sources)
        given = {"steps": 8, "log_every": 2, "target_batch_size": 24, "lr": 1e-2, **training}
        trainer: Trainer = self.world.small_trainer(method, task, path=path, **given)
        return trainer

    def run(self, settings: Mapping[str, Any] | None = None, **how: Any) -> Left:
        """What such a run leaves; without settings it is run once for all who ask."""
        key = repr(how)
        if settings or key not in self._runs:
            trainer = self.trainer(settings, **how)
            left = Left.of(trainer, trainer.fit())
            if settings:
                return left
            self._runs[key] = left
        return self._runs[key]

    def take_steps(self, method: Method, steps: int = 4) -> None:
        """A few large steps by hand, on batches of different sizes."""
        moved = [p for p in method.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(moved, lr=0.1) if method.trains else None
        own = {id(p) for p in method.network.parameters()}
        critic = torch.optim.SGD([p for p in moved if id(p) not in own] or moved, lr=1e-3)
        for step in range(steps):
            batch = self.batch(12 + step, small.POOL - step, progress=0.3 + 0.1 * step)
            torch.manual_seed(step)
            if optimizer is None:
                method(batch)
            else:
                for _ in range(method.critic_steps):
                    with torch.no_grad():
                        out = method.outputs(batch)
                    method.critic_loss(out, batch).backward()  # type: ignore[no-untyped-call]
                    critic.step()
                    critic.zero_grad()
                method(batch).total.backward()
                optimizer.step()
                optimizer.zero_grad()
            method.after_step(batch.progress)

    @cached_property
    def probe(self) -> Method:
        """One of its kind, to be asked what it needs; it is never trained."""
        return self.build()

    @property
    def weights(self) -> list[str]:
        """The settings that weigh a term."""
        return [key for key in self.settings if key.endswith("_weight")]

    @property
    def adapts(self) -> bool:
        """Whether it adds a term at all; `source_only` and closed-form methods do not."""
        return self.probe.trains and not self.probe.closed_form and self.name != "source_only"

    @property
    def adversarial(self) -> bool:
        """Whether it has a module that tells domains apart."""
        return bool(discriminators(self.probe))


def discriminators(method: Method) -> list[Discriminator]:
    """The modules of a method that tell domains apart."""
    return [m for m in method.modules() if isinstance(m, Discriminator)]


def terms_of(method: Method, batch: Batch) -> dict[str, Tensor]:
    """What the method adds to the source loss, term by term, weighted; draws are the same."""
    torch.manual_seed(1)
    terms = method.terms(method.outputs(batch), batch)
    return {name: method.weight(name, batch.progress) * value for name, value in terms.items()}
