"""Losses on unlabelled predictions alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def mcc(logits: Float[Tensor, "n c"], temperature: float = 2.5) -> Float[Tensor, ""]:
    """Minimum class confusion: how much the classes' predictions overlap within a batch.

    ``P = softmax(logits / T)``; each sample weighs ``w_i = n (1 + exp(-H_i)) / sum_j (1 +
    exp(-H_j))``, ``H`` the entropy of its row of P, taken as a constant; ``M = P^T diag(w) P``
    with every row divided by its sum; the value is the sum of M outside its diagonal, divided by
    the number of classes. In [0, 1 - 1/c]: 0 where each sample has one certain class, the upper
    end where all rows of P are uniform.

    Source: Jin et al. (2020), arXiv:1912.03699, equations 2 to 6. The authors' code takes the
    weights as constants too, and adds 1e-5 inside the logarithm of the entropy, which this
    does not.

    Args:
        logits: of unlabelled samples.
        temperature: T; above 1 it tames over-confident predictions.

    Raises:
        DomadaptError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise DomadaptError(f"temperature must be positive; got {temperature}.")
    with full_precision(logits):
        log_p = torch.log_softmax(at_least_float32(logits) / temperature, dim=1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(1).detach()
        weight = 1.0 + torch.exp(-entropy)
        weight = len(p) * weight / weight.sum()
        confusion = (p * weight[:, None]).T @ p
        # A class that nobody predicts, to the last bit, has an empty row: no confusion.
        confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-30)
        return (confusion.sum() - confusion.trace()) / confusion.shape[1]
