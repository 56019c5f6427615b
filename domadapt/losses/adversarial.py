"""Losses of domain discriminators. They take the discriminator's logits, not the discriminator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def domain_loss(
    d_s: Float[Tensor, " n_s"],
    d_t: Float[Tensor, " n_t"],
    w_s: Float[Tensor, " n_s"] | None = None,
    w_t: Float[Tensor, " n_t"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of a discriminator that says "source" (1) or "target" (0).

    ``L = 1/2 [ mean_s softplus(-d_s) + mean_t softplus(d_t) ]``, each mean weighted by `w_s`,
    `w_t` where given (weights are normalised to sum to 1 within their domain). The domains count
    equally whatever their batch sizes; chance level is ``log 2``.

    Source: Ganin and Lempitsky (2015), arXiv:1409.7495, equation 6.
    """
    loss_s = binary_cross_entropy_with_logits(d_s, torch.ones_like(d_s), reduction="none")
    loss_t = binary_cross_entropy_with_logits(d_t, torch.zeros_like(d_t), reduction="none")
    mean_s = loss_s.mean() if w_s is None else (w_s * loss_s).sum() / w_s.sum()
    mean_t = loss_t.mean() if w_t is None else (w_t * loss_t).sum() / w_t.sum()
    return 0.5 * (mean_s + mean_t)
