"""Module criticality: how far one block can be taken back before the network fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from domadapt.batches import generator
from domadapt.layers.blocks import Block

#: The grid of the way from the initial values (0) to the final ones (1).
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_NOISE = 13


def state_of(block: Block) -> dict[str, Tensor]:
    """A copy of the parameters and statistics of a block."""
    return {
        f"{i}.{k}": v.detach().clone()
        for i, module in enumerate(block.modules)
        for k, v in module.state_dict().items()
    }


@contextmanager
def rewound(
    block: Block,
    start: Mapping[str, Tensor],
    alpha: float,
    *,
    noise: float = 0.0,
    draw: torch.Generator | None = None,
) -> Iterator[None]:
    """A block at ``(1 - alpha) theta_0 + alpha theta_F + noise u`` while the context lasts.

    ``theta_F`` are its values now; parameters and running statistics alike are taken back. ``u`` is
    standard normal and falls on parameters alone.

    Args:
        block: of a trained network.
        start: ``theta_0``, of `state_of`.
        alpha: 0 is the initial value, 1 the final one.
        noise: deviation of the noise.
        draw: its random numbers, needed where there is noise.
    """
    final = state_of(block)
    learnt = {f"{i}.{k}" for i, m in enumerate(block.modules) for k, _ in m.named_parameters()}
    mixed = {}
    for key, value in final.items():
        new = value
        if value.is_floating_point() and alpha != 1:
            new = torch.lerp(start[key].to(value), value, alpha)
        if noise and key in learnt:
            new = new + noise * torch.randn(value.shape, generator=draw).to(value)
        mixed[key] = new
    _put(block, mixed)
    try:
        yield
    finally:
        _put(block, final)


def _put(block: Block, state: Mapping[str, Tensor]) -> None:
    for i, module in enumerate(block.modules):
        prefix = f"{i}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        module.load_state_dict(own)


def curve(
    block: Block,
    start: Mapping[str, Tensor],
    measure: Callable[[], float],
    *,
    alphas: Sequence[float] = ALPHAS,
    noise: float = 0.0,
    draws: int = 3,
    seed: int = 0,
) -> list[float]:
    """What `measure` says of the network with the block rewound to each alpha.

    With noise the mean over `draws` of it.
    """
    found = []
    for alpha in alphas:
        values = []
        for number in range(draws if noise else 1):
            with rewound(block, start, alpha, noise=noise, draw=generator(seed, _NOISE, number)):
                values.append(measure())
        found.append(sum(values) / len(values))
    return found


def criticality(alphas: Sequence[float], values: Sequence[float], tolerance: float = 0.01) -> float:
    """The least alpha from which on the score stays within `tolerance` of that at alpha 1.

    0: the block can be put back to its initial value at no loss; 1: it cannot be moved at all. The
    critical interval of (Zhang et al., 2022, arXiv:1902.01996) and of (Chatterji et al., 2020,
    arXiv:1912.00528), whose measure ``alpha^2 |theta_F - theta_0|^2 / sigma^2`` has the largest
    noise ``sigma`` as well: here noise is fixed, and none by default. The papers bound the training
    error; here the score on held-out samples.

    Args:
        alphas: rising, the last one 1.
        values: the score at each.
        tolerance: how much may be lost.
    """
    least = alphas[-1]
    for alpha, value in zip(reversed(alphas), reversed(values), strict=True):
        if value < values[-1] - tolerance:
            break
        least = alpha
    return least
