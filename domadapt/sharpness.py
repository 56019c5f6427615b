"""Smooth training on the source: SDAT (Rangwani et al., 2022, arXiv:2206.08213), `Training.sam`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from domadapt import ops
from domadapt.methods import Method
from domadapt.task import Batch


def climb(
    method: Method,
    batch: Batch,
    radius: float,
    autocast: Callable[[], AbstractContextManager[None]],
) -> list[tuple[nn.Parameter, Tensor]]:
    """Move the network to where its source loss is worst within a radius.

    ``w + rho g / |g|``, g the gradient of the source loss on this process's batch (eq. 2 of Foret
    et al., 2021, arXiv:2010.01412, with p = 2). As in the authors' code of SDAT, the whole sum of
    losses then takes its gradient there, while only the source loss chose the direction.

    Args:
        method: its network moves; the network's running statistics stay.
        batch: what the source loss is taken of.
        radius: rho.
        autocast: the precision that training has.

    Returns:
        The parameters that moved with their values before, for `descend`.
    """
    moved = [p for p in method.network.parameters() if p.requires_grad]
    with autocast(), ops.kept_statistics(method.network):
        loss = method.source_loss(method.outputs(batch), batch)
    found = torch.autograd.grad(loss, moved, allow_unused=True)
    pairs = [(p, g) for p, g in zip(moved, found, strict=True) if g is not None]
    norm = torch.stack([g.square().sum() for _, g in pairs]).sum().sqrt().clamp_min(1e-12)
    kept = [(p, p.detach().clone()) for p, _ in pairs]
    with torch.no_grad():
        for p, g in pairs:
            p.add_(g * (radius / norm))
    return kept


def descend(climbed: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Put parameters back to their values before `climb`."""
    with torch.no_grad():
        for parameter, before in climbed:
            parameter.copy_(before)
