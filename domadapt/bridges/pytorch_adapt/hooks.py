"""What is inside a hook: its optimiser steps, its losses, the models that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from domadapt.bridges.pytorch_adapt.extra import library, name_of
from domadapt.errors import DomadaptError

_TWO_CLASSIFIERS = "it trains two classifiers, and a network here has one head"
#: Why a hook cannot run, whatever is made of it.
_CANNOT = {
    "ADDAHook": "it trains a second encoder (T) beside one that was trained before; use 'adda'",
    "AdaBNHook": "nothing is minimised in it, and its models must know the domain; use 'adabn'",
    "FinetunerHook": "it freezes the encoder, which `--freeze` does for every method",
    "MCDHook": f"{_TWO_CLASSIFIERS}, and it repeats its generator's step; use 'mcd'",
    "MCDLossHook": _TWO_CLASSIFIERS,
    "MultipleCLossHook": _TWO_CLASSIFIERS,
    "SymNetsDomainLossHook": _TWO_CLASSIFIERS,
    "SymNetsCategoryLossHook": _TWO_CLASSIFIERS,
    "SymNetsEntropyHook": _TWO_CLASSIFIERS,
    "MultiLabelClassifierHook": "it wants several labels of a sample, and a task here has one",
}
#: Parts that have losses and yet are no method: without their opponents they do harm.
_ONE_SIDE = {
    "DomainLossHook": "DANNHook or GANHook",
    "CDANDomainHookD": "CDANHook",
    "CDANDomainHookG": "CDANHook",
}


class Phase:
    """A part of a hook that makes one step: its losses, how they are reduced, what it moves."""

    def __init__(self, hook: Any, reducer: Any, weighter: Any, moves: frozenset[str]) -> None:
        self.hook, self.reducer, self.moves = hook, reducer, moves
        self.swaps_labels = any(getattr(h, "reverse_labels", False) for h in walk(hook))
        self.weights: Mapping[str, float] = getattr(weighter, "weights", {})
        self.scale = float(getattr(weighter, "scale", 1.0))


class Parts(nn.Module):
    """A hook with all modules in and beside it, so that they move, are saved and are resumed."""

    def __init__(self, hook: Any, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.phases = phases_of(hook)
        self.models = nn.ModuleDict(models)
        inside = {id(m): m for h in walk(hook) for m in _members(h) if isinstance(m, nn.Module)}
        self.inside = nn.ModuleList(inside.values())

    def fixed_in(self, phase: Phase) -> set[str]:
        """The models that other phases move and this one does not."""
        moved = {name for other in self.phases for name in other.moves}
        return moved - phase.moves


def phases_of(hook: Any) -> list[Phase]:
    """The optimiser steps in a hook, in their order; a hook without any is one phase."""
    optimizer = library("pytorch_adapt.hooks.optimizer").OptimizerHook
    reducer = library("pytorch_adapt.hooks.reducers").MeanReducer
    found = [h for h in walk(hook) if isinstance(h, optimizer)]
    if not found:
        return [Phase(hook, reducer(), None, frozenset())]
    for h in found:
        if not all(isinstance(name, str) for name in h.optimizers):
            raise DomadaptError(
                f"{name_of(hook)} must be given the names of the models that it moves, such as "
                "opts=['G', 'C', 'D'], in place of optimisers; the Trainer has the only optimiser."
            )
    return [Phase(h.hook, h.reducer, h.weighter, frozenset(h.optimizers)) for h in found]


def losses_of(phase: Phase, given: dict[str, Any]) -> dict[str, Tensor]:
    """The losses of a phase by name: scalars, with the weights that its weighter was given."""
    try:
        outputs, losses = phase.hook(given, {})
        _, losses = phase.reducer({**given, **outputs}, losses)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sizes = f"{len(given['src_imgs_features'])} source and {len(given['target_imgs_features'])}"
        raise DomadaptError(
            f"{name_of(phase.hook)} of pytorch-adapt refused a batch of {sizes} target samples: "
            f"{' '.join(str(error).split())}"
        ) from error
    return {
        name: value.reshape(()) * (phase.weights.get(name, 1.0) * phase.scale)
        for name, value in losses.items()
    }


def walk(hook: Any) -> Iterator[Any]:
    """A hook and all hooks inside it, each once, in the order in which they were made."""
    base = library("pytorch_adapt.hooks.base").BaseHook
    seen: set[int] = set()

    def visit(one: Any) -> Iterator[Any]:
        if id(one) in seen:
            return
        seen.add(id(one))
        yield one
        for member in _members(one):
            if isinstance(member, base):
                yield from visit(member)

    yield from visit(hook)


def _members(hook: Any) -> Iterator[Any]:
    for value in vars(hook).values():
        if isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        else:
            yield value


def refuse(hook: Any, name: str) -> None:
    """Refuse a hook that one network and one step on a sum cannot do justice to."""
    repeat = library("pytorch_adapt.hooks.utils").RepeatHook
    optimizer = library("pytorch_adapt.hooks.optimizer").OptimizerHook
    if name_of(hook) in _ONE_SIDE:
        raise DomadaptError(
            f"{name} is one side of an adversarial game and no method; "
            f"use {_ONE_SIDE[name_of(hook)]}"
        )
    for part in walk(hook):
        for cls in type(part).__mro__:
            if cls.__name__ in _CANNOT:
                within = "" if cls.__name__ == name else f" {cls.__name__} is in it:"
                raise DomadaptError(f"{name} cannot run:{within} {_CANNOT[cls.__name__]}.")
        if isinstance(part, repeat) and part.n > 1:
            steps = [h for h in walk(part) if isinstance(h, optimizer)]
            if steps:
                raise DomadaptError(
                    f"{name} repeats an optimiser's step {part.n} times in each iteration, and the "
                    "Trainer takes one step on the sum of all losses; give it repeat=1."
                )


def asked_models(hook: Any) -> dict[str, list[str]]:
    """The models that a hook calls, each with the names of what it is given."""
    features = library("pytorch_adapt.hooks.features").BaseFeaturesHook
    asked: dict[str, list[str]] = {}
    for part in walk(hook):
        if isinstance(part, features):
            asked.setdefault(part.model_name, []).extend(part.in_keys)
    return asked


def bridged_models(hook: Any) -> set[str]:
    """The models that a hook wants with a bridge (GVB)."""
    bridge = library("pytorch_adapt.hooks.gvb").BridgeAndLogitsHook
    return {part.model_name for part in walk(hook) if isinstance(part, bridge)}


def wants_two_logits(hook: Any) -> bool:
    """Whether its discriminator is to have a logit for each domain."""
    losses = (getattr(part, "d_loss_fn", None) for part in walk(hook))
    return any(isinstance(loss, nn.CrossEntropyLoss) for loss in losses)
