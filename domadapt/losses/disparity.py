"""How much two classifiers over the same features differ, which bounds the target's error."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def margin_disparity(
    logits_s: Float[Tensor, "n_s c"],
    other_s: Float[Tensor, "n_s c"],
    logits_t: Float[Tensor, "n_t c"],
    other_t: Float[Tensor, "n_t c"],
    gamma: float = 4.0,
) -> Float[Tensor, ""]:
    """What the auxiliary classifier of MDD minimises.

    ``gamma mean_s [-log q_i(y_i)] + mean_t [-log(1 - q_j(y_j))]`` with ``q = softmax(other)`` and
    ``y = argmax(logits)``: it repeats the classifier's prediction on the source and contradicts it
    on the target. The classifier's predictions are labels, through which no gradient passes. The
    second logarithm is taken of the sum over the other classes, so that it stays finite and keeps
    its gradient however sure `other` is.

    Source: Zhang et al. (2019), arXiv:1904.05801, the combined cross-entropy. The authors' code
    bounds ``1 - q`` from below instead, where the gradient ends.

    Args:
        logits_s, logits_t: of the classifier. other_s, other_t: of the auxiliary one.
        gamma: weight of the source; ``log gamma`` is the margin.

    Raises:
        DomadaptError: fewer than two classes; a gamma that is not positive.
    """
    if logits_s.shape[1] < 2:
        raise DomadaptError(
            f"The margin disparity needs at least 2 classes; got {logits_s.shape[1]}."
        )
    if not gamma > 0:
        raise DomadaptError(f"gamma must be positive; got {gamma}.")
    with full_precision(other_s):
        agree = cross_entropy(at_least_float32(other_s), logits_s.argmax(1))
        log_q = torch.log_softmax(at_least_float32(other_t), dim=1)
        own = torch.zeros_like(log_q, dtype=torch.bool)
        own.scatter_(1, logits_t.argmax(1, keepdim=True), True)
        # log(1 - q(y)) as the sum of the other classes: exact where q(y) rounds to 1.
        differ = -torch.logsumexp(log_q.masked_fill(own, -torch.inf), dim=1).mean()
        return gamma * agree + differ


def classifier_discrepancy(
    one: Float[Tensor, "n c"], two: Float[Tensor, "n c"]
) -> Float[Tensor, ""]:
    """``mean_ik |p_ik - q_ik|`` with ``p = softmax(one)``, ``q = softmax(two)``; in [0, 2/c].

    Source: Saito et al. (2018), arXiv:1712.02560, the discrepancy loss.
    """
    with full_precision(one):
        p, q = (torch.softmax(at_least_float32(x), dim=1) for x in (one, two))
        return (p - q).abs().mean()
