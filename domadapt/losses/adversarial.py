"""Losses of domain discriminators, and what a conditional one is given.

They take the discriminator's logits, not the discriminator.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from domadapt.losses.precision import at_least_float32, full_precision


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


def inverted_loss(d_t: Float[Tensor, " n_t"]) -> Float[Tensor, ""]:
    """What a target encoder minimises to be taken for the source: ``mean_t softplus(-d_t)``.

    The cross-entropy of the target under the inverted label, "source". Where the discriminator is
    sure of itself its slope is 1, while that of the reversed `domain_loss` fades to 0.

    Source: Tzeng et al. (2017), arXiv:1702.05464, the loss with inverted labels.
    """
    return softplus(-d_t).mean()


def multilinear(z: Float[Tensor, "n d"], p: Float[Tensor, "n c"]) -> Float[Tensor, "n c*d"]:
    """``p (x) z``: every probability times every feature, sample by sample, as one vector.

    Entry ``k d + j`` is ``p_k z_j``. A discriminator of it sees the features of each class apart.

    Source: Long et al. (2018), arXiv:1705.10667, the multilinear map.
    """
    return (p[:, :, None] * z[:, None, :]).flatten(1)


def randomized_multilinear(
    z: Float[Tensor, "n d"],
    p: Float[Tensor, "n c"],
    r_z: Float[Tensor, "d m"],
    r_p: Float[Tensor, "c m"],
) -> Float[Tensor, "n m"]:
    """``(z R_z) * (p R_p) / sqrt(m)``: `multilinear` in m dimensions instead of ``c d``.

    With entries of the fixed matrices drawn from a distribution of mean 0 and variance 1, inner
    products of two results are unbiased for those of `multilinear`:
    ``E <T(z, p), T(z', p')> = <z, z'> <p, p'>``.

    Source: Long et al. (2018), arXiv:1705.10667, the randomised multilinear map.
    """
    return (z @ r_z) * (p @ r_p) / math.sqrt(r_z.shape[1])


def entropy_weights(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """``1 + exp(-H_i)``, H the entropy of ``softmax(logits)``: between ``1 + 1/c`` and 2.

    Samples that are easy to classify count more. The weights are constants: no gradient passes.

    Source: Long et al. (2018), arXiv:1705.10667, entropy conditioning. The authors' code sends
    a (reversed) gradient through the weights, and adds 1e-5 inside the logarithm; this does
    neither.
    """
    with full_precision(logits):
        log_p = torch.log_softmax(at_least_float32(logits).detach(), dim=1)
        return 1.0 + (log_p.exp() * log_p).sum(1).exp()
