"""Losses for targets with classes that the source lacks: one-vs-all classifiers, one more class.

Computed in float32 at least.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from domadapt.losses.precision import at_least_float32


def hard_negative_loss(
    verdicts: Float[Tensor, "n classes"], y: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """One-vs-all loss of each sample's own class and of the class it is most taken for wrongly.

    ``mean_i [ -log p_i(y_i) + max_{c != y_i} -log(1 - p_i(c)) ]`` with
    ``p_i(c) = sigmoid(verdict_ic)``. Only the hardest of the wrong classes counts, so that the
    boundary of a class is learnt from its nearest neighbours however many classes there are.

    Source: Saito and Saenko (2021), arXiv:2104.03344, equation 1.

    Args:
        verdicts: a logit per class, positive for "of this class"; at least 2 classes.
        y: class ids.
    """
    v = at_least_float32(verdicts)
    own = v.gather(1, y.unsqueeze(1)).squeeze(1)
    hardest = v.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    return (softplus(-own) + softplus(hardest)).mean()


def binary_entropy(verdicts: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """Mean entropy of one-vs-all classifiers in nats, over samples and classes: 0 to log 2.

    ``H(p) = -p log p - (1 - p) log(1 - p)`` with ``p = sigmoid(verdict)``.

    Source: Saito and Saenko (2021), arXiv:2104.03344, equation 2, which adds the classes up; the
    authors' code takes their mean, as here.
    """
    v = at_least_float32(verdicts)
    # H = softplus(v) - v sigmoid(v), without the logarithm of a probability that is 0.
    return (softplus(v) - v * v.sigmoid()).mean()


def unknown_log_odds(
    logits: Float[Tensor, "n classes"], unknown: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Log-odds of the last of ``classes + 1`` classes: ``unknown - log sum_c exp logit_c``.

    Their sigmoid is the softmax probability of "unknown".
    """
    return at_least_float32(unknown) - at_least_float32(logits).logsumexp(1)


def boundary_loss(log_odds: Float[Tensor, " n"], threshold: float = 0.5) -> Float[Tensor, ""]:
    """Cross-entropy of the probability u of "unknown" with a fixed share of it.

    ``mean_i [ -t log u_i - (1 - t) log(1 - u_i) ]`` with ``u = sigmoid(log_odds)``: least, with
    the entropy of t, where every u is t.

    Source: Saito et al. (2018), arXiv:1804.10427, equation 2.

    Args:
        log_odds: of "unknown".
        threshold: t, strictly between 0 and 1.
    """
    v = at_least_float32(log_odds)
    return (threshold * softplus(-v) + (1 - threshold) * softplus(v)).mean()
