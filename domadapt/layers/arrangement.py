"""Which blocks of a network stay as they were pre-trained: the variants that are fine-tuned."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from domadapt.batches import generator
from domadapt.errors import DomadaptError
from domadapt.layers.blocks import Block
from domadapt.layers.reinitialise import STD, Reset, owner_of, reinitialise
from domadapt.network import Network

_RESET, _OUTSIDE = 11, 12


@dataclass(frozen=True)
class Arrangement:
    """What is done to a pre-trained network before it is fine-tuned.

    Attributes:
        reset: numbers of the blocks that are re-initialised.
        frozen: numbers of the blocks that stay as they are while the rest is trained; with any, all
            of the backbone that is no block stays as well.
        order: where not empty, block i gets the weights of block ``order[i]``.
        outside: whether what is no block is re-initialised, too: nothing of the backbone is left.
    """

    reset: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    outside: bool = False


def progressive(n: int) -> list[Arrangement]:
    """Entry k keeps the first k of n blocks and re-initialises the rest, k from 0 to n."""
    return [Arrangement(reset=tuple(range(k, n))) for k in range(n + 1)]


def localised(n: int, window: int = 1) -> list[Arrangement]:
    """Entry s re-initialises the blocks s to s + window - 1; there are n - window + 1."""
    return [Arrangement(reset=part) for part in windows(n, window)]


def inverse(n: int, window: int = 1) -> list[Arrangement]:
    """Entry s keeps the blocks s to s + window - 1 alone."""
    return [
        Arrangement(reset=tuple(i for i in range(n) if i not in part))
        for part in windows(n, window)
    ]


def windows(n: int, window: int) -> list[tuple[int, ...]]:
    """All runs of `window` neighbours among n blocks, in order."""
    if not 1 <= window <= n:
        raise DomadaptError(f"A window holds between 1 and all {n} blocks; got {window}.")
    return [tuple(range(s, s + window)) for s in range(n - window + 1)]


def copied(n: int, frozen: bool) -> list[Arrangement]:
    """Entry k - 1 copies the first k of n blocks, k from 1 to n, and re-initialises the rest.

    With `frozen` AnB of (Yosinski et al., 2014, arXiv:1411.1792), else AnB+, in which the copied
    blocks are fine-tuned and which is therefore the progressive study.
    """
    return [
        Arrangement(tuple(range(k, n)), tuple(range(k)) if frozen else ()) for k in range(1, n + 1)
    ]


def permutations(blocks: Sequence[Block], count: int, seed: int = 0) -> list[Arrangement]:
    """Different random orders of the blocks; each goes to the place of one that is alike.

    Alike are blocks of one class whose parameters and statistics have the same names and shapes.

    Raises:
        DomadaptError: no two blocks are alike.
    """
    kinds: dict[object, list[int]] = {}
    for i, block in enumerate(blocks):
        kinds.setdefault(_kind(block), []).append(i)
    alike = [members for members in kinds.values() if len(members) > 1]
    if not alike:
        raise DomadaptError(
            "Permuting blocks needs two of one shape, and every block of this network has a shape "
            "of its own; leave out the study 'permutation'."
        )
    draw = generator(seed, _RESET, len(blocks))
    found: dict[tuple[int, ...], None] = {}
    same = tuple(range(len(blocks)))
    for _ in range(50 * count):
        order = list(same)
        for members in alike:
            drawn = torch.randperm(len(members), generator=draw).tolist()
            for place, i in zip(members, drawn, strict=True):
                order[place] = members[i]
        if tuple(order) != same:
            found[tuple(order)] = None
        if len(found) == count:
            break
    return [Arrangement(order=order) for order in found]


def _kind(block: Block) -> object:
    return tuple(
        (type(m).__name__, tuple((k, tuple(v.shape)) for k, v in m.state_dict().items()))
        for m in block.modules
    )


def arranged(
    network: Network,
    blocks: Sequence[Block],
    arrangement: Arrangement,
    how: Reset,
    seed: int,
    fresh: Mapping[str, nn.Module] | None = None,
) -> Network:
    """Apply an arrangement to a network in place, and return it.

    The random numbers of a block depend on the seed and on its number alone, so that a block which
    two arrangements re-initialise begins alike in both.

    Args:
        network: pre-trained, with a new head.
        blocks: of this network.
        arrangement: what to do.
        how: see `domadapt.layers.reinitialise.Reset`.
        seed: of the numbers that are drawn.
        fresh: the modules of a backbone like this one with random weights, by name; for "own".
    """
    if arrangement.order:
        _exchange(blocks, arrangement.order)
    names = {id(m): name for name, m in network.backbone.named_modules()}
    owner = owner_of(network.backbone.modules())

    def anew(module: nn.Module, draw: torch.Generator) -> None:
        new = None if fresh is None else fresh[names[id(module)]]
        reinitialise(module, how, draw, fresh=new, owner=owner)

    for i in arrangement.reset:
        draw = generator(seed, _RESET, i)
        for module in blocks[i].modules:
            anew(module, draw)
    if arrangement.outside:
        draw = generator(seed, _OUTSIDE)
        for module in _outside(network.backbone, blocks):
            anew(module, draw)
        _tokens_anew(network.backbone, blocks, draw, fresh)
    if arrangement.frozen:
        _freeze(network, blocks, arrangement.frozen)
    return network


def _exchange(blocks: Sequence[Block], order: Sequence[int]) -> None:
    states = [
        [{k: v.clone() for k, v in m.state_dict().items()} for m in block.modules]
        for block in blocks
    ]
    for i, j in enumerate(order):
        for module, state in zip(blocks[i].modules, states[j], strict=True):
            module.load_state_dict(state)


def _inside(blocks: Sequence[Block]) -> set[int]:
    return {id(part) for block in blocks for m in block.modules for part in m.modules()}


def _outside(backbone: nn.Module, blocks: Sequence[Block]) -> list[nn.Module]:
    """The largest modules of the backbone that hold no block and lie in none."""
    inside = _inside(blocks)

    def search(module: nn.Module) -> list[nn.Module]:
        if id(module) in inside:
            return []
        if not any(id(part) in inside for part in module.modules()):
            return [module]
        return [found for child in module.children() for found in search(child)]

    return search(backbone)


@torch.no_grad()
def _tokens_anew(
    backbone: nn.Module,
    blocks: Sequence[Block],
    draw: torch.Generator,
    fresh: Mapping[str, nn.Module] | None,
) -> None:
    """Parameters of the modules around the blocks themselves, such as a class token.

    No module knows how these begin; where the backbone could not be built anew, they are drawn with
    a deviation of 0.02, as transformers do it.
    """
    inside = _inside(blocks)
    for name, module in backbone.named_modules():
        if id(module) in inside or not any(id(part) in inside for part in module.modules()):
            continue
        for key, p in module.named_parameters(recurse=False):
            if fresh is not None:
                p.copy_(fresh[name].get_parameter(key))
            else:
                p.copy_(torch.nn.init.trunc_normal_(torch.empty(p.shape), std=STD, generator=draw))


def _freeze(network: Network, blocks: Sequence[Block], frozen: Sequence[int]) -> None:
    """Fix all of the backbone but the blocks that are trained: weights, statistics and dropout."""
    trained = _inside([b for i, b in enumerate(blocks) if i not in frozen])
    kept = {id(p) for i, b in enumerate(blocks) if i not in frozen for p in _weights(b)}
    for p in network.backbone.parameters():
        p.requires_grad_(id(p) in kept)
    for module in network.backbone.modules():
        around = any(id(part) in trained for part in module.modules())
        if not around:
            module.eval()
            # Whoever calls train() on the network leaves this part as it is.
            vars(module)["train"] = types.MethodType(_stay, module)


def _weights(block: Block) -> list[nn.Parameter]:
    return [p for module in block.modules for p in module.parameters()]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
