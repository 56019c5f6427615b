"""Invariants of a method's settings, its docstring and its parameters."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.methods import Method
from domadapt.methods.space import range_of
from domadapt.optimizers import parameter_groups
from domadapt.selftest import small
from domadapt.selftest.graph import leaves
from domadapt.selftest.invariant import invariant, require
from domadapt.selftest.subject import Subject
from domadapt.settings import Setting
from domadapt.task import Batch
from domadapt.training import Training


def _single(subject: Subject) -> bool:
    return len(subject.classes) == 1


@invariant()
def builds(subject: Subject) -> None:
    """It is built with its defaults, and one batch passes through it before training."""
    subject.trainer().rehearse()
    steps = subject.probe.steps_for(12, 4)
    require(
        isinstance(steps, int) and steps >= 1,
        f"steps_for(12, 4) must be a whole number of at least 1; got {steps!r}",
    )


@invariant(_single)
def settings(subject: Subject) -> None:
    """Each setting is stored under its own name, and explained under Args."""
    for name, setting in subject.settings.items():
        require(setting.default is not inspect.Parameter.empty, f"{name} has no default")
        kept = getattr(subject.probe, name, inspect.Parameter.empty)
        require(
            kept is not inspect.Parameter.empty and kept == setting.default,
            f"the setting {name} is not kept under its name",
        )
        require(bool(setting.help), f"{name} has no line under Args in the docstring")
    strange = sorted(set(subject.probe.space) - set(subject.settings))
    require(not strange, f"space has {', '.join(strange)}, which is no setting")
    for name, given in subject.probe.space.items():
        try:
            range_of(subject.name, subject.settings[name], given)
        except DomadaptError as error:
            require(False, str(error))


@invariant()
def settings_used(subject: Subject) -> None:
    """Each setting changes something: losses, state, or the network that is kept."""
    for name, setting in subject.settings.items():
        others = list(alternatives(setting, subject.probe.space.get(name)))
        # Some settings matter only where there are several sources, or features by the thousand.
        worlds: tuple[dict[str, Any], ...] = ({}, {"sources": 2}, {"width": 1500})
        require(
            not others
            or any(_changes(subject, {name: value}, world) for world in worlds for value in others),
            f"the setting {name} changes nothing; tried {', '.join(map(repr, others))}",
        )


def alternatives(setting: Setting, space: Any = None) -> Iterable[Any]:
    """Values of a setting other than its default; none for free text."""
    default, choices = setting.default, typing.get_args(setting.type)
    kinds = choices or (setting.type,)
    found: list[Any] = list(space) if isinstance(space, list) else []
    if typing.get_origin(setting.type) is typing.Literal:
        found += choices
    elif bool in kinds:
        found += [True, False]
    elif float in kinds or int in kinds:
        if isinstance(space, tuple):
            found += space[:2]
        d = 1.0 if default is None else default
        found += [d / 2, d * 2, d + 1, 1, 0, 0.9 * d, d - 1, d / 100, d * 100, 0.01]
        if float not in kinds:
            found = [int(v) for v in found]
    return [v for v in dict.fromkeys(found) if v != default]


def _changes(subject: Subject, settings: dict[str, Any], world: dict[str, Any]) -> bool:
    """Whether a short run leaves something else than with the defaults."""
    plain = subject.run(**world)
    try:
        return not plain.equals(subject.run(settings, **world))
    except (DomadaptError, ArithmeticError, IndexError, RuntimeError, ValueError):
        return False  # a value that is refused says nothing


@invariant(lambda subject: subject.name != "source_only")
def paper(subject: Subject) -> None:
    """The docstring names the paper as (Authors, YEAR, arXiv:NUMBER) or with doi:."""
    for cls in subject.classes:
        found = re.search(r"\b(19|20)\d\d, (arXiv:\d{4}\.\d{4,5}|doi:)", cls.__doc__ or "")
        require(
            found is not None,
            f"the docstring of {cls.__name__} names no paper as (Authors, YEAR, arXiv:NUMBER)",
        )


@invariant()
def own_randomness(subject: Subject) -> None:
    """Building it draws no global random number, so that the network's are the same without it."""
    network = subject.world.trained_network()

    def states() -> tuple[Any, ...]:
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002
        return torch.get_rng_state().tolist(), repr(numpy)

    before = states()
    subject.build(network=network).setup(2 * small.POOL, small.POOL)
    for one, two, whose in zip(before, states(), ("torch", "NumPy"), strict=True):
        require(
            one == two,
            f"building it draws from {whose}'s global generator; build modules in self.auxiliary",
        )


@invariant()
def parameters(subject: Subject) -> None:
    """Each parameter that a loss reaches is in exactly one group of the optimiser."""
    method = subject.ready()
    own = {id(p) for p in method.network.parameters()}
    seen: dict[int, str] = {}
    for name, p in method.named_parameters(remove_duplicate=False):
        # The parts of a combination share its network.
        require(
            id(p) not in seen or (id(p) in own and not _single(subject)),
            f"the parameter {name} is also known as {seen.get(id(p))}: it would stand twice",
        )
        seen.setdefault(id(p), name)
    inside = {i for i, name in seen.items() if name.startswith("network.")}
    require(own == inside, "the network must be kept as self.network and nowhere else")
    if not method.trains:
        return
    groups = parameter_groups(method, Training(head_lr_multiple=10.0, lr=0.1))
    listed = [id(p) for group in groups for p in group["params"]]
    for i, name in seen.items():
        wanted = 1 if method.get_parameter(name).requires_grad else 0
        require(
            listed.count(i) == wanted,
            f"the parameter {name} is in {listed.count(i)} groups of the optimiser, not {wanted}",
        )
    backbone = {id(p) for p in method.network.backbone.parameters()}
    for group in groups:
        for p in group["params"]:
            rate = 0.1 if id(p) in backbone else 1.0
            require(group["lr"] == rate, f"{seen[id(p)]} has the learning rate {group['lr']}")
            decays = group["weight_decay"] > 0
            require(decays == (p.ndim > 1), f"the weight decay of {seen[id(p)]} is wrong")
    batch = subject.batch(progress=0.9)
    once, twice = _reached(method, batch), _reached(method, batch)
    # A tensor made for one batch alone, such as the points of a gradient penalty, is no matter.
    reached = [leaf for leaf in once if any(leaf is other for other in twice)]
    for leaf in reached:
        require(
            id(leaf) in listed,
            f"a loss reaches a tensor of shape {tuple(leaf.shape)} that is no parameter of the "
            "method, so that no optimiser moves it; keep modules as attributes of the method and "
            "tensors as nn.Parameter",
        )
    met = {id(leaf) for leaf in reached}
    idle = [seen[i] for i in listed if i not in own | met]
    require(not idle, f"no loss reaches {', '.join(idle)}")


def _reached(method: Method, batch: Batch) -> list[Tensor]:
    """What the losses of a batch hand their gradients to."""
    found = leaves(method(batch).total)
    if method.critic_steps:
        with torch.no_grad():
            out = method.outputs(batch)
        found += leaves(method.critic_loss(out, batch))
    return found
