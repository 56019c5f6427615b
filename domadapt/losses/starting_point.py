"""The pull of a network's weights to where they began."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def l2_sp(
    tuned: Sequence[Tensor],
    starts: Sequence[Tensor],
    new: Sequence[Tensor],
    alpha: float,
    beta: float,
) -> Tensor:
    """``alpha / 2 * |w - w0|^2 + beta / 2 * |v|^2``, a scalar; the gradient is alpha (w - w0).

    L2-SP (Li et al., 2018, arXiv:1802.01483), equation 6.

    Args:
        tuned: pre-trained weights ``w``, of any shapes.
        starts: their values ``w0`` at the start, of the same shapes.
        new: weights ``v`` of layers that were not pre-trained.
        alpha: strength of the pull to the start.
        beta: strength of the pull of new layers to 0.
    """
    to_start = [(w - w0).square().sum() for w, w0 in zip(tuned, starts, strict=True)]
    to_zero = [v.square().sum() for v in new]
    total = torch.zeros((), device=(*tuned, *new)[0].device) if tuned or new else torch.zeros(())
    if to_start:
        total = total + alpha / 2 * torch.stack(to_start).sum()
    if to_zero:
        total = total + beta / 2 * torch.stack(to_zero).sum()
    return total
