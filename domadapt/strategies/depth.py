"""How deep a parameter lies: the stem at 0, the backbone's blocks from 1, head and bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from domadapt.network import Network


@dataclass(frozen=True)
class Depths:
    """The parameters of a network by depth.

    Attributes:
        blocks: names of the backbone's blocks that have parameters, from the input on; block
            number k is at depth k + 1.
        of: depth of each parameter by its ``id``. 0 is what comes before the first block (a stem,
            embeddings); what comes after the last one (a final norm) counts with the last; head
            and bottleneck lie one above it.
    """

    blocks: tuple[str, ...]
    of: dict[int, int]

    @property
    def top(self) -> int:
        """The depth of head and bottleneck."""
        return len(self.blocks) + 1


def depths(network: Network) -> Depths:
    """The depths of a network's parameters, its blocks as `Network.blocks` names them.

    What stands outside the blocks is placed by the order in which modules were made. A backbone
    without blocks is one block.
    """
    blocks = {n: m for n, m in network.blocks().items() if _has_parameters(m)}
    if not blocks and _has_parameters(network.backbone):
        blocks = {"backbone": network.backbone}
    of: dict[int, int] = {}
    for number, block in enumerate(blocks.values(), 1):
        for parameter in block.parameters():
            of.setdefault(id(parameter), number)
    below = 0
    for parameter in network.backbone.parameters():
        if id(parameter) in of:
            # After the first block comes what is reckoned to the last.
            below = len(blocks)
        else:
            of[id(parameter)] = below
    for parameter in network.parameters():
        of.setdefault(id(parameter), len(blocks) + 1)
    return Depths(tuple(blocks), of)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
