"""Losses on unlabelled predictions alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        weight = 1.0 + torch.exp(-_entropies(log_p).detach())
        weight = len(p) * weight / weight.sum()
        confusion = (p * weight[:, None]).T @ p
        # A class that nobody predicts, to the last bit, has an empty row: no confusion.
        confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-30)
        return (confusion.sum() - confusion.trace()) / confusion.shape[1]


def entropy(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Mean entropy of the predictions: ``1/n sum_i H(p_i)``, ``H(p) = -sum_c p_c log p_c``.

    In nats, in [0, log c]: 0 where every sample has one certain class, whichever it is. All
    samples in one class are therefore as good as the right ones.

    Source: Grandvalet and Bengio (2004), Advances in Neural Information Processing Systems 17.
    """
    with full_precision(logits):
        return _entropies(torch.log_softmax(at_least_float32(logits), dim=1)).mean()


def infomax(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Minus the mutual information of samples and predicted classes, so that less is better.

    ``mean_i H(p_i) - H(mean_i p_i)``: certain predictions, and classes that are equally frequent
    in the batch. In [-log c, 0]: the lower end where each sample has one certain class and all
    classes are equally frequent, 0 where all samples have the same prediction, certain or not.

    Sources: Shi and Sha (2012), arXiv:1206.6438, section 3; Liang et al. (2020),
    arXiv:2002.08546, equations 3 and 4.
    """
    with full_precision(logits):
        log_p = torch.log_softmax(at_least_float32(logits), dim=1)
        # The mean's logarithm from the logarithms: no class's share underflows to 0.
        log_mean = torch.logsumexp(log_p, dim=0) - math.log(len(log_p))
        return _entropies(log_p).mean() - _entropies(log_mean[None]).squeeze(0)


def bnm(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Minus the nuclear norm of the batch's predictions: ``-|P|_* / n``, ``P = softmax(logits)``.

    ``|P|_*`` is the sum of P's singular values. It grows both with certainty and with the number
    of classes that are predicted. In [-sqrt(min(n, c) / n), -1/sqrt(n c)]: the lower end is
    reached by certain predictions, equally many of each class (of n classes where n < c), the
    upper end by uniform ones.

    The gradient of ``|P|_*`` is ``U V^T`` over the singular values that differ from 0, the
    subgradient of least norm: finite where singular values coincide or vanish.

    Source: Cui et al. (2020), arXiv:2003.12237. The authors' code divides by the number of
    singular values, ``min(n, c)``, where their paper and this divide by n.
    """
    with full_precision(logits):
        p = torch.softmax(at_least_float32(logits), dim=1)
        if not bool(torch.isfinite(p).all()):
            # A decomposition of such numbers would be an error of LAPACK's; this is a NaN loss.
            return p.sum()
        norm: Tensor = _NuclearNorm.apply(p)
        return -norm / len(p)


class _NuclearNorm(torch.autograd.Function):
    """The sum of the singular values, with its subgradient of least norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        # What rounding alone may leave of a singular value that is 0.
        own = s > max(x.shape) * torch.finfo(s.dtype).eps * s[:1]
        ctx.save_for_backward((u * own) @ vh)
        return s.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (subgradient,) = ctx.saved_tensors
        return grads[0] * subgradient


def _entropies(log_p: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The entropy of each row, from the logarithms of its probabilities."""
    return -(log_p.exp() * log_p).sum(1)
