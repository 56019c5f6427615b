"""A hook as a method of this package, written out or by its name."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.bridges.pytorch_adapt.extra import library, name_of
from domadapt.bridges.pytorch_adapt.given import (
    BridgedHead,
    ForVAT,
    OuterProduct,
    Whole,
    fixed_weights,
    live,
)
from domadapt.bridges.pytorch_adapt.hooks import (
    Parts,
    Phase,
    asked_models,
    bridged_models,
    losses_of,
    phases_of,
    refuse,
    walk,
    wants_two_logits,
)
from domadapt.errors import DomadaptError, unknown
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.cdan import WIDEST
from domadapt.network import Discriminator, Network
from domadapt.task import Batch

#: The loss of a hook that takes the place of the source loss.
_CLASSIFICATION = "src_c_loss"
_ON_CONFIDENCE = {"ATDOCHook", "BNMHook", "MCCHook", "TargetEntropyHook"}


class HookMethod(Method):
    """A hook of pytorch-adapt as a method (Musgrave et al., 2022, arXiv:2211.15673).

    A subclass defines `hook`. Each loss that the hook computes is a term, as it is before the
    hook's own average over losses; ``src_c_loss``, where it has one, replaces the source loss. The
    hook is given features and logits of the one joint forward pass, labels of the source, domain
    labels (source 0, target 1), the networks G (features) and C (head), and the modules of its own
    that it asks for (`models`).

    Optimisers. A hook of several phases, each with optimisers of its own, is given instead of them
    the names of the models that the phase moves: ``GANHook(d_opts=["D"], g_opts=["G", "C"])``. In
    a phase, models that only other phases move are held fixed, so one step on the sum of all
    losses has for every model the gradient of its own phases, **at the same weights**. The hook
    alone would step after each phase; a hook that repeats a phase is refused, since no single
    step equals that.

    Other departures: sums instead of means; one optimiser and its learning rates for all; losses
    are computed in float32 under mixed precision; BatchNorm sees the batches as the setting
    ``batch_statistics`` says instead of one domain after the other.

    Args:
        strength: factor of all losses of the hook but the classification loss.
        hidden: width of the discriminator's two hidden layers, where the hook wants one.
    """

    no_neutral = "its losses and their weights are those of a hook of another library"
    space = {"strength": (0.1, 3.0, "log")}

    def __init__(self, network: Network, *, strength: float = 1.0, hidden: int = 256) -> None:
        super().__init__(network)
        self.strength = strength
        self.hidden = hidden
        self.n_target = 0
        self.parts: Parts
        self._seen: tuple[BatchOutputs, dict[str, Tensor]] | None = None

    # To write ---------------------------------------------------------------------------------

    def hook(self) -> Any:
        """The hook, with the names of the models to move where it wants optimisers."""
        raise DomadaptError(
            f"{type(self).__name__} must define hook(), which returns a hook of pytorch-adapt."
        )

    # To override, seldom ----------------------------------------------------------------------

    def models(self, hook: Any) -> dict[str, nn.Module]:
        """The modules that the hook asks for beside G and C, by its names for them.

        D: a `Discriminator` of features, logits or combined features, with a bridge for GVB;
        feature_combiner: the outer product, or its random projection where that is too wide;
        residual_model: ``x + two layers``. ``C_bridge`` is what GVB takes away from the head.
        """
        layers = library("pytorch_adapt.layers")
        asked = asked_models(hook)
        width, classes = self.network.n_features, self.network.n_classes
        found: dict[str, nn.Module] = {}
        product = width * classes
        if "feature_combiner" in asked:
            found["feature_combiner"] = OuterProduct()
            if product > WIDEST:
                product = 1024
                found["feature_combiner"] = layers.RandomizedDotProduct([width, classes], product)
        if "D" in asked:
            n_in = classes if any("_logits" in key for key in asked["D"]) else width
            if "feature_combiner" in asked:
                n_in = product
            found["D"] = Discriminator(n_in, self.hidden)
            if wants_two_logits(hook):
                found["D"] = nn.Sequential(
                    nn.Linear(n_in, self.hidden), nn.ReLU(),
                    nn.Linear(self.hidden, self.hidden), nn.ReLU(),
                    nn.Linear(self.hidden, 2),
                )  # fmt: skip
        if "residual_model" in asked:
            found["residual_model"] = layers.PlusResidual(
                nn.Sequential(nn.Linear(classes, classes), nn.ReLU(), nn.Linear(classes, classes))
            )
        bridged = bridged_models(hook)
        if "D" in bridged:
            found["D"] = layers.ModelWithBridge(found["D"])
        if "C" in bridged:
            found["C_bridge"] = layers.ModelWithBridge(self.network.head).bridge
        return found

    # Provided ---------------------------------------------------------------------------------

    def setup(self, n_source: int, n_target: int) -> None:
        """Make the hook and its modules, from random numbers of their own."""
        self.n_target = n_target
        self.parts = self.auxiliary(self._build)

    def _build(self) -> Parts:
        hook = self.hook()
        refuse(hook, self.name or type(self).__name__)
        models = self.models(hook)
        unknown_models = sorted(set(asked_models(hook)) - {"G", "C", *models})
        if unknown_models:
            raise DomadaptError(
                f"{name_of(hook)} asks for the models {', '.join(unknown_models)}, and it is given "
                f"G and C{''.join(f', {m}' for m in models)}; return the others from models(hook)."
            )
        if "C_bridge" in models and not isinstance(self.network.head, nn.Linear):
            raise DomadaptError(
                f"{name_of(hook)} takes a bridge away from the head, which must be a "
                f"torch.nn.Linear so that both become one layer again; it is "
                f"{name_of(self.network.head)}."
            )
        return Parts(hook, models)

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The hook's own classification loss where it has one, else cross-entropy."""
        losses = self._run(out, batch)
        # `terms` of the same outputs follow; the hook may keep a memory, so it runs once.
        self._seen = (out, losses)
        found = losses.get(_CLASSIFICATION)
        return super().source_loss(out, batch) if found is None else found

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The hook's losses, but for the classification loss, under its names."""
        seen, self._seen = self._seen, None
        losses = seen[1] if seen is not None and seen[0] is out else self._run(out, batch)
        return {name: value for name, value in losses.items() if name != _CLASSIFICATION}

    def weight(self, term: str, progress: float) -> float:
        """The strength, times what a subclass says of the term."""
        return self.strength * super().weight(term, progress)

    def adapted(self) -> Network:
        """The network; a bridge (GVB) is taken away from the head's own weights."""
        if "C_bridge" not in self.parts.models:
            return self.network
        bridge: Any = self.parts.models["C_bridge"]
        network = copy.deepcopy(self.network)
        head: Any = network.head
        with torch.no_grad():
            head.weight -= bridge.weight
            if head.bias is not None:
                head.bias -= bridge.bias
        return network

    def _run(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """All losses of the hook by name."""
        losses: dict[str, Tensor] = {}
        # Hooks refuse to work without gradients, even where nobody wants one.
        with torch.enable_grad(), torch.autocast(out.z_s.device.type, enabled=False):
            for number, phase in enumerate(self.parts.phases, 1):
                given = self._context(phase, out, batch)
                for name, value in losses_of(phase, given).items():
                    losses[f"{name}_phase_{number}" if name in losses else name] = value
        return losses

    def _context(self, phase: Phase, out: BatchOutputs, batch: Batch) -> dict[str, Any]:
        """What a phase of the hook may ask for, by its names."""
        frozen = self.parts.fixed_in(phase)
        own = dict(self.parts.models.items())
        n_s, n_t = len(out.z_s), len(out.z_t)
        if phase.swaps_labels:
            # The hook takes the other domain's labels as they are, so they need this one's number.
            n_s, n_t = n_t, n_s
        given: dict[str, Any] = {
            "src_imgs": batch.x_s,
            "target_imgs": batch.x_t,
            "src_labels": labels(batch),
            "src_domain": torch.zeros(n_s, dtype=torch.long, device=out.z_s.device),
            "target_domain": torch.ones(n_t, dtype=torch.long, device=out.z_t.device),
            "src_sample_idx": batch.index_s,
            "target_sample_idx": batch.index_t,
        }
        bridge = own.get("C_bridge")
        head = self.network.head if bridge is None else BridgedHead(self.network.head, bridge)
        for domain, z, logits in (
            ("src", out.z_s, out.logits_s),
            ("target", out.z_t, out.logits_t),
        ):
            given[f"{domain}_imgs_features"] = live(z, fixed="G" in frozen)
            if bridge is None and not {"G", "C"} & frozen:
                given[f"{domain}_imgs_features_logits"] = live(logits)
        features = self.network.features
        given["G"] = (lambda x: live(features(x), fixed=True)) if "G" in frozen else features
        given["C"] = fixed_weights(head) if "C" in frozen else head
        for name, module in own.items():
            given[name] = fixed_weights(module) if name in frozen else module
        given["combined_model"] = ForVAT(Whole(self.network, bridge))
        return given


# Hooks by name ------------------------------------------------------------------------------------


@functools.cache
def hook_method(name: str) -> type[HookMethod]:
    """The method that runs a hook with its default arguments.

    Raises:
        DomadaptError: pytorch-adapt is not installed; it has no such hook; the hook cannot run
            under one optimiser and one network, or not from its name alone.
    """
    if name not in _hook_classes():
        raise unknown("hook of pytorch-adapt", name, _hook_classes())
    with torch.random.fork_rng(devices=[]):
        # Made once beforehand: a hook that cannot run is refused before any data are read.
        probe = _made(name, 1, 1, 2)
    refuse(probe, name)
    found = {type(h).__name__ for h in walk(probe)}
    losses = {key for phase in phases_of(probe) for key in phase.hook.loss_keys}
    if not losses:
        raise DomadaptError(f"{name} computes no loss; it is a part of which other hooks are made.")

    def hook(self: HookMethod) -> Any:
        """The hook with its default arguments."""
        return _made(name, self.n_target, self.network.n_features, self.network.n_classes)

    about = inspect.getdoc(HookMethod) or ""
    attributes: dict[str, Any] = {
        "__doc__": f"{name} of pytorch-adapt, as it comes.\n\n{about}",
        "__module__": __name__,
        "name": f"pytorch_adapt_{name}",
        "hook": hook,
        "trains_on_confidence": bool(found & _ON_CONFIDENCE),
    }
    if _CLASSIFICATION not in losses:
        # It leaves the source loss alone, so that it combines with any method.
        attributes["source_loss"] = Method.source_loss
    if "ATDOCHook" in found:
        attributes["single_process"] = "its memory of the target is not shared between processes."
    return type(name, (HookMethod,), attributes)


def hook_names() -> list[str]:
    """The hooks that run as ``pytorch_adapt:NAME``."""
    return sorted(name for name in _hook_classes() if not why_not(name))


def why_not(name: str) -> str:
    """Why a hook does not run by its name alone, in words; empty where it does."""
    try:
        hook_method(name)
    except DomadaptError as error:
        return str(error)
    return ""


def _hook_classes() -> dict[str, type[Any]]:
    hooks = library("pytorch_adapt.hooks")
    base = library("pytorch_adapt.hooks.base").BaseHook
    return {n: c for n, c in vars(hooks).items() if inspect.isclass(c) and issubclass(c, base)}


def _made(name: str, n_target: int, width: int, classes: int) -> Any:
    """A hook of this name, its arguments without a default filled in as far as they are known."""
    cls: Any = _hook_classes()[name]
    known: dict[str, Any] = {
        "opts": ["G", "C", "D"],
        "d_opts": ["D"],
        "g_opts": ["G", "C"],
        "c_opts": ["C"],
        "dataset_size": n_target,
        "feature_dim": width,
        "num_classes": classes,
    }
    # Arguments are passed on from class to class as keywords.
    wanted = {
        p.name
        for base in reversed(cls.__mro__[:-1])
        for p in inspect.signature(base.__init__).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name in known
    }
    try:
        return cls(**{key: known[key] for key in wanted})
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise DomadaptError(
            f"{name} cannot be made from its name alone ({error}); write a subclass of "
            "domadapt.bridges.pytorch_adapt.HookMethod whose hook() returns it with its arguments."
        ) from error
