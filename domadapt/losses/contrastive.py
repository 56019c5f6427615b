"""Contrastive learning without labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def nt_xent(
    z_a: Float[Tensor, "n d"], z_b: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross-entropy of two views of the same n samples.

    The mean over all 2n views i, with j the other view of i, of
    ``-log(exp(cos(z_i, z_j) / t) / sum_{k != i} exp(cos(z_i, z_k) / t))``. SimCLR (Chen et al.,
    2020, arXiv:2002.05709), equation 1.

    Args:
        z_a: projections of the one view. z_b: of the other, in the same order.
        temperature: t.
    """
    n = len(z_a)
    z = normalize(torch.cat([z_a, z_b]), dim=1)
    logits = (z @ z.T / temperature).float()
    # A view is not its own partner.
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return cross_entropy(logits, partner)
