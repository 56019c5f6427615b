"""Mixtures of target samples as probes of a network: which samples are mixed with which."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

#: The share of the first sample in a mixture: barely the larger one, so that the probe is hard.
SHARE = 0.55


def mixing_pairs(
    predicted: Int[Tensor, " n"], seed: int = 0
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Bool[Tensor, " m"]]:
    """Positions ``a, b`` of samples to mix, and whether a pair shares its predicted class.

    Each sample is paired once with a random one of its own predicted class and once with a random
    one of another; a class of one sample has no pair of the first kind, a network that predicts
    one class only none of the second.
    """
    draw = torch.Generator().manual_seed(seed)
    n = len(predicted)
    first, second, same = [], [], []
    for c in torch.unique(predicted).tolist():
        own = (predicted == c).nonzero().flatten()
        strange = (predicted != c).nonzero().flatten()
        if len(own) > 1:
            # A rotation of a random order pairs no sample with itself.
            order = own[torch.randperm(len(own), generator=draw)]
            first.append(order)
            second.append(order.roll(1))
            same.append(torch.ones(len(own), dtype=torch.bool))
        if len(strange):
            first.append(own)
            second.append(strange[torch.randint(len(strange), (len(own),), generator=draw)])
            same.append(torch.zeros(len(own), dtype=torch.bool))
    if not first:
        none = torch.zeros(0, dtype=torch.long)
        return none, none, torch.zeros(0, dtype=torch.bool)
    assert n > 0
    return torch.cat(first), torch.cat(second), torch.cat(same)
