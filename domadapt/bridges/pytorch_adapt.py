"""Hooks and validators of pytorch-adapt under this trainer, this label firewall and this report.

Needs the extra: ``pip install 'domadapt[pytorch-adapt]'``. Nothing of it is imported before a hook
or a validator is asked for. `--method pytorch_adapt:DANNHook` runs a hook as it comes; a hook with
arguments is a subclass of `HookMethod` in a file of one's own. `validator` makes scores of
`domadapt.evaluation.Outputs`.

How its losses relate to those of this package, on the same tensors (the tests show each):

- Its weighters take the mean of a phase's losses, a sum is minimised here; weights given to a
  weighter are kept.
- `DANNHook`: ``src_domain_loss + target_domain_loss`` is twice `losses.adversarial.domain_loss`
  of the negated domain logits, because there the source is 0 and here it is 1, and a half is
  missing there. Its reversal has the constant weight 1 where `dann` ramps up from 0.
- `CDANHook`: two phases instead of a reversal. The discriminator's losses are as above, on the
  outer product of features and predictions. The encoder lowers the cross-entropy of the *swapped*
  labels: at a sample with domain logit d that is the reversed gradient times ``exp(-d)`` of a
  source and ``exp(d)`` of a target sample, so it does not fade where the discriminator is sure.
  The predictions carry a gradient there; `cdan` takes them as constants.
- `CDANEHook`: its entropy weights are divided by their maximum, those of `domain_loss` by their
  sum, so a domain's loss there is smaller by ``mean w / max w``.
- `MCCLoss`: `losses.prediction.mcc`; its temperature is 1 by default where that of `mcc` is 2.5.
- `MMDLoss(mmd_type="quadratic")`: `losses.mmd.mmd` with the unbiased estimator. There the scale is
  the median over the pairs of source samples, each with itself included, and one kernel stands
  alone; here it is the median over both domains, with five kernels. The default there is "linear",
  which pairs neighbours in the batch and so needs two batches of one size.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from domadapt.errors import DomadaptError, unknown
from domadapt.evaluation import Outputs
from domadapt.losses.adversarial import multilinear
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.cdan import WIDEST
from domadapt.network import Discriminator, Network
from domadapt.task import Batch

#: The loss of a hook that takes the place of the source loss.
_CLASSIFICATION = "src_c_loss"

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
_ON_CONFIDENCE = {"ATDOCHook", "BNMHook", "MCCHook", "TargetEntropyHook"}


def _library(module: str) -> Any:
    """A module of the extra, imported when it is wanted."""
    try:
        with warnings.catch_warnings():
            # Its torchmetrics imports pkg_resources, which warns that it will go.
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise DomadaptError(
            f"{module} could not be imported ({error}); install the extra with `pip install "
            "'domadapt[pytorch-adapt]'`, which is pytorch-adapt==0.0.83 with 'setuptools<81', the "
            "last that have the pkg_resources it imports."
        ) from error


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
        self.parts: _Parts
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
        layers = _library("pytorch_adapt.layers")
        asked = _asked(hook)
        width, classes = self.network.n_features, self.network.n_classes
        found: dict[str, nn.Module] = {}
        product = width * classes
        if "feature_combiner" in asked:
            found["feature_combiner"] = _OuterProduct()
            if product > WIDEST:
                product = 1024
                found["feature_combiner"] = layers.RandomizedDotProduct([width, classes], product)
        if "D" in asked:
            n_in = classes if any("_logits" in key for key in asked["D"]) else width
            if "feature_combiner" in asked:
                n_in = product
            found["D"] = Discriminator(n_in, self.hidden)
            if _wants_two_logits(hook):
                found["D"] = nn.Sequential(
                    nn.Linear(n_in, self.hidden), nn.ReLU(),
                    nn.Linear(self.hidden, self.hidden), nn.ReLU(),
                    nn.Linear(self.hidden, 2),
                )  # fmt: skip
        if "residual_model" in asked:
            found["residual_model"] = layers.PlusResidual(
                nn.Sequential(nn.Linear(classes, classes), nn.ReLU(), nn.Linear(classes, classes))
            )
        bridged = _bridged(hook)
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

    def _build(self) -> _Parts:
        hook = self.hook()
        _refuse(hook, self.name or type(self).__name__)
        models = self.models(hook)
        unknown_models = sorted(set(_asked(hook)) - {"G", "C", *models})
        if unknown_models:
            raise DomadaptError(
                f"{_name(hook)} asks for the models {', '.join(unknown_models)}, and it is given G "
                f"and C{''.join(f', {m}' for m in models)}; return the others from models(hook)."
            )
        if "C_bridge" in models and not isinstance(self.network.head, nn.Linear):
            raise DomadaptError(
                f"{_name(hook)} takes a bridge away from the head, which must be a torch.nn.Linear "
                f"so that both become one layer again; it is {_name(self.network.head)}."
            )
        return _Parts(hook, models)

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
                for name, value in _losses_of(phase, given).items():
                    losses[f"{name}_phase_{number}" if name in losses else name] = value
        return losses

    def _context(self, phase: _Phase, out: BatchOutputs, batch: Batch) -> dict[str, Any]:
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
        head = self.network.head if bridge is None else _Bridged(self.network.head, bridge)
        for domain, z, logits in (
            ("src", out.z_s, out.logits_s),
            ("target", out.z_t, out.logits_t),
        ):
            given[f"{domain}_imgs_features"] = _live(z, fixed="G" in frozen)
            if bridge is None and not {"G", "C"} & frozen:
                given[f"{domain}_imgs_features_logits"] = _live(logits)
        features = self.network.features
        given["G"] = (lambda x: _live(features(x), fixed=True)) if "G" in frozen else features
        given["C"] = _fixed(head) if "C" in frozen else head
        for name, module in own.items():
            given[name] = _fixed(module) if name in frozen else module
        given["combined_model"] = _ForVAT(_Whole(self.network, bridge))
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
    _refuse(probe, name)
    found = {type(h).__name__ for h in _walk(probe)}
    losses = {key for phase in _phases(probe) for key in phase.hook.loss_keys}
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
    hooks = _library("pytorch_adapt.hooks")
    base = _library("pytorch_adapt.hooks.base").BaseHook
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


# A hook's inside ----------------------------------------------------------------------------------


class _Phase:
    """A part of a hook that makes one step: its losses, how they are reduced, what it moves."""

    def __init__(self, hook: Any, reducer: Any, weighter: Any, moves: frozenset[str]) -> None:
        self.hook, self.reducer, self.moves = hook, reducer, moves
        self.swaps_labels = any(getattr(h, "reverse_labels", False) for h in _walk(hook))
        self.weights: Mapping[str, float] = getattr(weighter, "weights", {})
        self.scale = float(getattr(weighter, "scale", 1.0))


class _Parts(nn.Module):
    """A hook with all modules in and beside it, so that they move, are saved and are resumed."""

    def __init__(self, hook: Any, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.phases = _phases(hook)
        self.models = nn.ModuleDict(models)
        inside = {id(m): m for h in _walk(hook) for m in _members(h) if isinstance(m, nn.Module)}
        self.inside = nn.ModuleList(inside.values())

    def fixed_in(self, phase: _Phase) -> set[str]:
        """The models that other phases move and this one does not."""
        moved = {name for other in self.phases for name in other.moves}
        return moved - phase.moves


def _phases(hook: Any) -> list[_Phase]:
    """The optimiser steps in a hook, in their order; a hook without any is one phase."""
    optimizer = _library("pytorch_adapt.hooks.optimizer").OptimizerHook
    reducer = _library("pytorch_adapt.hooks.reducers").MeanReducer
    found = [h for h in _walk(hook) if isinstance(h, optimizer)]
    if not found:
        return [_Phase(hook, reducer(), None, frozenset())]
    for h in found:
        if not all(isinstance(name, str) for name in h.optimizers):
            raise DomadaptError(
                f"{_name(hook)} must be given the names of the models that it moves, such as "
                "opts=['G', 'C', 'D'], in place of optimisers; the Trainer has the only optimiser."
            )
    return [_Phase(h.hook, h.reducer, h.weighter, frozenset(h.optimizers)) for h in found]


def _losses_of(phase: _Phase, given: dict[str, Any]) -> dict[str, Tensor]:
    """The losses of a phase by name: scalars, with the weights that its weighter was given."""
    try:
        outputs, losses = phase.hook(given, {})
        _, losses = phase.reducer({**given, **outputs}, losses)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sizes = f"{len(given['src_imgs_features'])} source and {len(given['target_imgs_features'])}"
        raise DomadaptError(
            f"{_name(phase.hook)} of pytorch-adapt refused a batch of {sizes} target samples: "
            f"{' '.join(str(error).split())}"
        ) from error
    return {
        name: value.reshape(()) * (phase.weights.get(name, 1.0) * phase.scale)
        for name, value in losses.items()
    }


def _walk(hook: Any) -> Iterator[Any]:
    """A hook and all hooks inside it, each once, in the order in which they were made."""
    base = _library("pytorch_adapt.hooks.base").BaseHook
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


def _refuse(hook: Any, name: str) -> None:
    """Refuse a hook that one network and one step on a sum cannot do justice to."""
    repeat = _library("pytorch_adapt.hooks.utils").RepeatHook
    optimizer = _library("pytorch_adapt.hooks.optimizer").OptimizerHook
    if _name(hook) in _ONE_SIDE:
        raise DomadaptError(
            f"{name} is one side of an adversarial game and no method; use {_ONE_SIDE[_name(hook)]}"
        )
    for part in _walk(hook):
        for cls in type(part).__mro__:
            if cls.__name__ in _CANNOT:
                within = "" if cls.__name__ == name else f" {cls.__name__} is in it:"
                raise DomadaptError(f"{name} cannot run:{within} {_CANNOT[cls.__name__]}.")
        if isinstance(part, repeat) and part.n > 1:
            steps = [h for h in _walk(part) if isinstance(h, optimizer)]
            if steps:
                raise DomadaptError(
                    f"{name} repeats an optimiser's step {part.n} times in each iteration, and the "
                    "Trainer takes one step on the sum of all losses; give it repeat=1."
                )


def _asked(hook: Any) -> dict[str, list[str]]:
    """The models that a hook calls, each with the names of what it is given."""
    features = _library("pytorch_adapt.hooks.features").BaseFeaturesHook
    asked: dict[str, list[str]] = {}
    for part in _walk(hook):
        if isinstance(part, features):
            asked.setdefault(part.model_name, []).extend(part.in_keys)
    return asked


def _bridged(hook: Any) -> set[str]:
    bridge = _library("pytorch_adapt.hooks.gvb").BridgeAndLogitsHook
    return {part.model_name for part in _walk(hook) if isinstance(part, bridge)}


def _wants_two_logits(hook: Any) -> bool:
    losses = (getattr(part, "d_loss_fn", None) for part in _walk(hook))
    return any(isinstance(loss, nn.CrossEntropyLoss) for loss in losses)


def _name(thing: Any) -> str:
    return type(thing).__name__


# What a hook is given -----------------------------------------------------------------------------


def _live(x: Tensor, fixed: bool = False) -> Tensor:
    """`x` in float32 and with a gradient, as hooks demand; `fixed`: the gradient ends here."""
    x = x.float()
    return x if x.requires_grad and not fixed else x.detach().requires_grad_()


def _fixed(module: nn.Module) -> Callable[..., Any]:
    """`module` with weights that get no gradient, while what it is given does."""
    values = {name: p.detach() for name, p in module.named_parameters()}
    return lambda *x: functional_call(module, values, x)


class _OuterProduct(nn.Module):
    """Every probability times every feature of a sample: the multilinear map of CDAN."""

    def forward(self, z: Tensor, p: Tensor) -> Tensor:
        """`z` ``(n, d)``, `p` ``(n, c)`` to ``(n, d c)``."""
        return multilinear(z, p)


class _Bridged(nn.Module):
    """The head less its bridge, as GVB's classifier."""

    def __init__(self, head: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.head, self.bridge = head, bridge

    def forward(self, z: Tensor, return_bridge: bool = False) -> Any:
        """Logits, and on request what was taken away."""
        bridge = self.bridge(z)
        logits = self.head(z) - bridge
        return (logits, bridge) if return_bridge else logits


class _Whole(nn.Module):
    """Inputs to logits. It holds each weight once, or `_fixed` could not put them back."""

    def __init__(self, network: Network, bridge: nn.Module | None) -> None:
        super().__init__()
        self.network, self.bridge = network, bridge

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        z = self.network.features(x)
        logits: Tensor = self.network.head(z)
        return logits if self.bridge is None else logits - self.bridge(z)


class _ForVAT:
    """A model for the loss of VAT, which calls ``backward`` and ``zero_grad`` by itself.

    BatchNorm uses its running statistics, as that loss wants, and is put back afterwards. While
    the loss searches for a perturbation (its input has a gradient) the weights have none, so that
    nothing is added to the gradients of the step under way, and nothing needs to be cleared.
    """

    def __init__(self, model: _Whole) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training]
        for m in norms:
            m.eval()
        try:
            logits: Tensor = (_fixed(self.model) if x.requires_grad else self.model)(x)
        finally:
            for m in norms:
                m.train()
        return logits

    def apply(self, change: Callable[[nn.Module], Any]) -> None:
        """Nothing: BatchNorm's mode is set where it matters."""

    def zero_grad(self) -> None:
        """Nothing: the search leaves no gradient, and the step's own must stay."""


# Validators ---------------------------------------------------------------------------------------

#: What a validator needs so that its defaults work without faiss.
_NEIGHBOURS = ("KNNValidator", "TargetKNNValidator")
_SPLITS = ("src_train", "src_val", "target_train", "target_val")


class Score:
    """A validator of pytorch-adapt as a function of `Outputs`; larger is better.

    Features that are known of a part of a split only (`Outputs.rows`) restrict a validator that
    looks at features to that part. Labels of the target are never passed on, whatever they are.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def __call__(
        self, source_val: Outputs, target: Outputs, source_train: Outputs | None = None
    ) -> float:
        """The score of a candidate.

        Args:
            source_val: the source's validation split, with its labels.
            target: unlabelled target samples.
            source_train: the source's training split; None lets `source_val` stand in where a
                validator asks for it.

        Raises:
            DomadaptError: the validator asks for what it may not have (labels of the target, other
                splits), or cannot work with these outputs.
        """
        wanted = list(self.validator.required_data)
        strange = sorted(set(wanted) - set(_SPLITS))
        if strange:
            raise DomadaptError(
                f"{_name(self.validator)} asks for the splits {', '.join(strange)}; there are "
                f"{', '.join(_SPLITS)}."
            )
        splits = {
            "src_train": source_val if source_train is None else source_train,
            "src_val": source_val,
            "target_train": target,
            "target_val": target,
        }
        narrow = _looks_at_features(self.validator)
        given = {key: _split(splits[key], key.startswith("src"), narrow) for key in wanted}
        # Clustering begins at random, and a score must be the same twice; nobody else's numbers
        # are touched.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            with torch.no_grad():
                score = self.validator(**given)
        except (AssertionError, ImportError, KeyError, TypeError, ValueError, NameError) as error:
            raise DomadaptError(
                f"{_name(self.validator)} of pytorch-adapt cannot score these outputs: "
                f"{_name(error)}: {' '.join(str(error).split())}"
            ) from error
        finally:
            np.random.set_state(state)  # noqa: NPY002
        if isinstance(score, tuple):
            score = score[0]
        # What it returns as a score is the information that nearest neighbours have of the domain,
        # which the paper makes small (Shi and Sha, 2012, arXiv:1206.6438).
        return -float(score) if _name(self.validator) == "ISTValidator" else float(score)


def validator(which: str | Any, **arguments: Any) -> Score:
    """A validator of pytorch-adapt, by name with its arguments or as one that was made already.

    Defaults that do not work are replaced: `MMDValidator` gets ``mmd_type="quadratic"`` (its own
    default raises, and "linear" would want as many source as target samples), and the validators
    that look for neighbours get a search in torch (theirs needs faiss). The sign of
    `ISTValidator` is turned, so that more is better. `DeepEmbeddedValidator` needs a
    ``temp_folder`` and pytorch-ignite.

    Raises:
        DomadaptError: pytorch-adapt is not installed; there is no such validator; it cannot be
            made from these arguments.
    """
    base = _library("pytorch_adapt.validators").BaseValidator
    if not isinstance(which, str):
        if not isinstance(which, base) or arguments:
            raise DomadaptError(
                "validator takes a name with arguments, or a validator of pytorch-adapt alone; got "
                f"{_name(which)}{' with arguments' if arguments else ''}."
            )
        return Score(which)
    known = _validator_classes()
    if which not in known:
        raise unknown("validator of pytorch-adapt", which, known)
    if which == "MMDValidator":
        arguments["mmd_kwargs"] = {"mmd_type": "quadratic", **(arguments.get("mmd_kwargs") or {})}
    if which in _NEIGHBOURS:
        distance = _library("pytorch_metric_learning.distances").LpDistance
        search = _library("pytorch_metric_learning.utils.inference").CustomKNN
        arguments.setdefault("knn_func", search(distance(normalize_embeddings=False)))
        # Never called for a measure of neighbours, and its default needs faiss as well.
        arguments.setdefault("kmeans_func", _no_clustering)
        arguments.setdefault("device", torch.device("cpu"))
    try:
        return Score(known[which](**arguments))
    except (KeyError, TypeError, ValueError) as error:
        raise DomadaptError(
            f"{which} cannot be made from these arguments ({', '.join(arguments) or 'none'}): "
            f"{error}"
        ) from error


def validator_names() -> list[str]:
    """The validators of pytorch-adapt."""
    return sorted(_validator_classes())


def _validator_classes() -> dict[str, type[Any]]:
    module = _library("pytorch_adapt.validators")
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, module.BaseValidator) and cls.__name__ == name
        and not inspect.isabstract(cls)
    }  # fmt: skip


def _no_clustering(*_: Any) -> None:
    raise DomadaptError("This measure clusters; give kmeans_func.")


def _looks_at_features(one: Any) -> bool:
    if getattr(one, "layer", None) == "features":
        return True
    inner = [
        *getattr(one, "validators", {}).values(),
        *filter(None, [getattr(one, "validator", 0)]),
    ]
    return any(_looks_at_features(v) for v in inner)


def _split(outputs: Outputs, source: bool, narrow: bool) -> dict[str, Tensor]:
    """What a validator gets of a split, under its names."""
    rows = torch.arange(len(outputs.z)) if outputs.rows is None else outputs.rows
    logits = outputs.logits[rows] if narrow else outputs.logits
    given = {
        "features": outputs.z,
        "logits": logits,
        "preds": logits.softmax(1),
        "domain": torch.full((len(logits),), 0 if source else 1),
    }
    if source and outputs.y is not None:
        given["labels"] = outputs.y[rows] if narrow else outputs.y
    return given
