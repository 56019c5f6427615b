"""What a block becomes when its pre-training is taken from it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.layers.blocks import is_norm

Init = Literal["own", "released", "bert", "permute"]
Biases = Literal["zero", "keep"]
Norms = Literal["reset", "keep"]
#: Spread of BERT's initial weights; the released code meant to draw with it.
STD = 0.02
#: What the weights become, in words.
IN_WORDS = {
    "own": "weights drawn as the model draws its own before any training",
    "released": f"weights from a normal distribution of deviation {STD} cut at ±{STD * 0.04:g}, "
    "so near zero, as the released code of the paper has it",
    "bert": f"weights from a normal distribution of deviation {STD} cut at ±{2 * STD:g}",
    "permute": "weights in random order, each tensor within itself",
}


@dataclass(frozen=True)
class Reset:
    """How a block is re-initialised.

    Attributes:
        init: "own": as the model itself begins, by a freshly built network where there is one,
            else by ``_init_weights`` (transformers) or ``reset_parameters`` (torch). "released":
            ``0.02 N(0, 1)`` cut at ``±0.04`` deviations, hence ``±0.0008`` with deviation 0.00046,
            which is what the authors' code does: it gives bounds as values where its function reads
            them as deviations.
            "bert": the same cut at two deviations, as the paper says. "permute": the weights of
            each tensor in random order.
        biases: set to zero, or kept.
        norms: "reset": scale 1, shift 0, running mean 0 and variance 1; or kept with their
            statistics.
    """

    init: Init = "own"
    biases: Biases = "zero"
    norms: Norms = "reset"

    def __post_init__(self) -> None:
        for name, kind in (("init", Init), ("biases", Biases), ("norms", Norms)):
            if getattr(self, name) not in get_args(kind):
                raise DomadaptError(
                    f"{name} is one of {', '.join(get_args(kind))}; got {getattr(self, name)!r}."
                )

    def sentence(self) -> str:
        """The same in words."""
        biases = {"zero": "biases zero", "keep": "biases kept"}[self.biases]
        norms = {
            "reset": "normalisation layers at scale 1, shift 0, their running statistics forgotten",
            "keep": "normalisation layers kept with their statistics",
        }[self.norms]
        return f"{IN_WORDS[self.init]}; {biases}; {norms}"


def reinitialise(
    module: nn.Module,
    how: Reset,
    generator: torch.Generator,
    *,
    fresh: nn.Module | None = None,
    owner: nn.Module | None = None,
) -> None:
    """Re-initialise a module in place (Tamkin et al., 2020, arXiv:2004.14975).

    Weights are all parameters of modules that do not normalise, but for the one-dimensional ones
    called bias. The paper's code redraws the weights of linear layers alone; here those of
    convolutions and embeddings within the block as well.

    Args:
        module: a block, or a part of one.
        how: the initialisation.
        generator: the random numbers; the global ones stay as they are.
        fresh: the same module with random weights, where it could be built; for "own".
        owner: what may know how to initialise it: a module with ``_init_weights``; for "own".

    Raises:
        DomadaptError: "own" of a module that does not say how it begins.
    """
    values = None
    if how.init == "own":
        new = _begun(module, generator, owner) if fresh is None else fresh
        values = {name: p.detach() for name, p, _ in _parameters(new)}
    with torch.no_grad():
        for name, p, kind in _parameters(module):
            if kind == "weight":
                p.copy_(_drawn(p, how.init, generator) if values is None else values[name])
            elif kind == "bias" and how.biases == "zero":
                p.zero_()
        if how.norms == "reset":
            for part in module.modules():
                if is_norm(part):
                    _reset_norm(part)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Name, parameter and kind ("weight", "bias" or "norm") of each parameter, once."""
    seen: set[int] = set()
    for where, part in module.named_modules():
        for name, p in part.named_parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            bias = p.ndim <= 1 and "bias" in name
            kind = "norm" if is_norm(part) else "bias" if bias else "weight"
            yield f"{where}.{name}", p, kind


def _drawn(p: Tensor, init: Init, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU, so that every device has the same numbers.
    if init == "permute":
        order = torch.randperm(p.numel(), generator=generator).to(p.device)
        return p.detach().flatten()[order].view_as(p)
    cut = STD * 0.04 if init == "released" else 2 * STD
    new = torch.empty(p.shape)
    return nn.init.trunc_normal_(new, 0.0, STD, -cut, cut, generator=generator).to(p)


def _reset_norm(norm: nn.Module) -> None:
    for name, p in norm.named_parameters(recurse=False):
        p.fill_(0.0 if "bias" in name or name == "beta" else 1.0)
    running: Any = getattr(norm, "reset_running_stats", None)
    if callable(running):
        running()


def _begun(module: nn.Module, generator: torch.Generator, owner: nn.Module | None) -> nn.Module:
    """A copy of the module as it would begin, by its own word or that of its owner."""
    new = copy.deepcopy(module)
    for _, p, _ in _parameters(new):
        # What transformers has loaded it marks, and leaves alone from then on.
        vars(p).pop("_is_hf_initialized", None)
        if p.is_floating_point():
            nn.init.constant_(p, torch.nan)
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in new.modules():
            _begin(part, owner)
    left = [n for n, p, kind in _parameters(new) if kind == "weight" and torch.isnan(p).any()]
    if left:
        raise DomadaptError(
            f"The initialisation of {left[0].lstrip('.')!r} is unknown: its module has no "
            "reset_parameters. Choose another initialisation (--init permute), or give the model "
            "by a name under which it can be built anew."
        )
    return new


def _begin(part: nn.Module, owner: nn.Module | None) -> None:
    own = [p for p in part.parameters(recurse=False) if p.is_floating_point()]
    if not own:
        return
    told: Any = getattr(owner, "_init_weights", None)
    if callable(told):
        told(part)
    for name in ("reset_parameters", "_reset_parameters"):
        does: Any = getattr(part, name, None)
        if callable(does) and any(bool(torch.isnan(p).any()) for p in own):
            does()


def owner_of(modules: Sequence[nn.Module] | Iterator[nn.Module]) -> nn.Module | None:
    """The first of some modules that knows how to initialise its parts, as transformers' do."""
    return next((m for m in modules if callable(getattr(m, "_init_weights", None))), None)
