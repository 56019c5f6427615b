"""The blocks of a network, as the studies number them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from domadapt.errors import DomadaptError
from domadapt.network import Network

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class Block:
    """A part of a backbone that is kept, re-initialised or frozen as one.

    Attributes:
        name: of its first module with parameters, within the backbone.
        modules: the modules, in order; what the last one returns is what the block returns.
    """

    name: str
    modules: tuple[nn.Module, ...]

    @property
    def parameters(self) -> int:
        """How many numbers it has learnt."""
        return sum(p.numel() for module in self.modules for p in module.parameters())


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: torch's own kinds, and any whose class ends in "Norm"."""
    name = type(module).__name__.rstrip("0123456789d")
    return isinstance(module, _NORMS) or name.endswith("Norm")


def blocks_of(network: Network, names: Sequence[str] | None = None) -> tuple[Block, ...]:
    """The transferable blocks of a network in order.

    They are those of `Network.blocks`. A normalisation layer, or a module without parameters,
    belongs to the block before it, as neither is worth re-initialising alone; what stands in front
    of the first block with parameters is left out. So are the embeddings of tokens, which the paper
    keeps in every variant.

    Args:
        network: the network.
        names: modules of the backbone that are to be the blocks, in order, in place of its own.

    Raises:
        DomadaptError: a name that the backbone does not have, one without parameters, one inside
            another, or fewer than two blocks.
    """
    if names is not None:
        return _named(network, names)
    found: list[tuple[str, list[nn.Module]]] = []
    for name, module in network.blocks().items():
        bare = not any(True for _ in module.parameters())
        if found and (bare or is_norm(module)):
            found[-1][1].append(module)
        elif not bare and (found or not _embeds(module)):
            found.append((name, [module]))
    if len(found) < 2:
        raise DomadaptError(
            f"A study of layers needs at least 2 blocks with parameters; the network has "
            f"{len(found)}. Name them (--blocks), modules of the backbone in order."
        )
    return tuple(Block(name, tuple(modules)) for name, modules in found)


def _embeds(module: nn.Module) -> bool:
    """Whether a module looks up tokens and does nothing else with weights but normalise."""
    kinds = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    looks_up = any(isinstance(m, nn.Embedding) for m in kinds)
    return looks_up and all(isinstance(m, nn.Embedding) or is_norm(m) for m in kinds)


def _named(network: Network, names: Sequence[str]) -> tuple[Block, ...]:
    known = dict(network.backbone.named_modules())
    for name in names:
        if not name or name not in known:
            tops = ", ".join(list(network.blocks())[:8])
            raise DomadaptError(f"The backbone has no module {name!r}; some that it has: {tops}.")
        if not any(True for _ in known[name].parameters()):
            raise DomadaptError(f"The block {name!r} has no parameters; leave it out.")
    if len(names) < 2 or len(set(names)) < len(names):
        raise DomadaptError(
            f"A study of layers needs at least 2 different blocks; got {', '.join(names)}."
        )
    for a in names:
        for b in names:
            if a != b and b.startswith(f"{a}."):
                raise DomadaptError(f"The block {b!r} lies inside {a!r}; name one of the two.")
    return tuple(Block(name, (known[name],)) for name in names)
