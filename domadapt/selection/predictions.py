"""Scores of a prediction matrix: formulas on target logits ``(n, classes)``, in float64.

``p_i = softmax(logits_i)`` is a row of P, ``q`` the mean row, ``H`` the entropy in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Temperature of the soft neighbourhoods (Saito et al., 2021).
SND_TEMPERATURE = 0.05
#: Exponent of MaNo's norm, and the largest criterion at which its Taylor form is used.
MANO_POWER = 4
MANO_THRESHOLD = 5.0


def accuracy(logits: Float[Tensor, "n c"], y: Int[Tensor, " n"]) -> float:
    """Share of samples whose largest logit is their class, in [0, 1]."""
    return float((logits.argmax(1) == y).double().mean())


def mean_entropy(logits: Float[Tensor, "n c"]) -> float:
    """``mean_i H(p_i)`` in nats: 0 (certain) to log(classes)."""
    log_p = logits.double().log_softmax(1)
    return float(-(log_p.exp() * log_p).sum(1).mean())


def entropy_of_mean(logits: Float[Tensor, "n c"]) -> float:
    """``H(q)`` in nats: 0 where one class has all, log(classes) where all have the same."""
    return float(torch.special.entr(logits.double().softmax(1).mean(0)).sum())


def mutual_information(logits: Float[Tensor, "n c"]) -> float:
    """``H(q) - mean_i H(p_i)`` in nats, 0 to log(min(n, classes))."""
    return entropy_of_mean(logits) - mean_entropy(logits)


def class_count(logits: Float[Tensor, "n c"]) -> float:
    """``exp(H(q))``: the effective number of predicted classes, 1 to classes."""
    return math.exp(entropy_of_mean(logits))


def nuclear_norm(logits: Float[Tensor, "n c"]) -> float:
    """``|P|_* / sqrt(min(n, c) n)``: the sum of P's singular values, in (0, 1].

    1 for certain predictions, equally many of each class; ``1 / sqrt(min(n, c))`` for certain
    predictions of one class; ``1 / sqrt(c min(n, c))``, the least value, for uniform ones.
    """
    p = logits.double().softmax(1)
    n, c = p.shape
    return float(torch.linalg.svdvals(p).sum()) / math.sqrt(min(n, c) * n)


def softmax_correlation(logits: Float[Tensor, "n c"]) -> float:
    """``tr(C) / |C|_F`` with ``C = P^T P``: sqrt(c) times the cosine of C and the identity.

    In [1, sqrt(c)]. 1 where all rows of P are equal, be they certain or uniform; sqrt(c) for
    certain predictions, equally many of each class.
    """
    p = logits.double().softmax(1)
    correlation = p.T @ p
    return float(correlation.trace() / correlation.norm())


def neighbourhood_density(
    logits: Float[Tensor, "n c"], temperature: float = SND_TEMPERATURE, block: int = 512
) -> float:
    """``mean_i H(softmax_{j != i}(cos(p_i, p_j) / temperature))`` in nats, 0 to log(n - 1).

    Large where each sample has many others with much the same prediction. Rows of the ``(n, n)``
    matrix are made `block` at a time.
    """
    p = torch.nn.functional.normalize(logits.double().softmax(1), dim=1)
    total = 0.0
    for first in range(0, len(p), block):
        rows = torch.arange(first, min(first + block, len(p)))
        closeness = p[rows] @ p.T / temperature
        closeness[torch.arange(len(rows)), rows] = -torch.inf
        total += float(torch.special.entr(closeness.softmax(1)).sum())
    return total / len(p)


def mano(
    logits: Float[Tensor, "n c"], power: int = MANO_POWER, threshold: float = MANO_THRESHOLD
) -> float:
    """``(mean_{i,k} Q_ik^power)^(1/power)`` of normalised logits Q, in [1/c, c^(-1/power)].

    Rows of Q are ``v(logits_i) / sum_k v(logits_i)_k``. ``v = exp``, hence the softmax, where the
    criterion ``-mean_{i,k} log p_ik`` is above the threshold; else logits are taken for badly
    calibrated and ``v(a) = 1 + a + a^2 / 2``, which grows more slowly.
    """
    a = logits.double()
    log_p = a.log_softmax(1)
    if float(-log_p.mean()) > threshold:
        q = log_p.exp()
    else:
        v = 1 + a + a.square() / 2
        q = v / v.sum(1, keepdim=True)
    return float(q.pow(power).mean().pow(1 / power))


def mean_probabilities(several: Iterable[Float[Tensor, "n c"]]) -> Float[Tensor, "n c"]:
    """The mean of the softmax of several networks' logits, float64.

    Networks with a NaN or infinite logit are left out: one that diverged must not decide for all.
    """
    sound = [logits.double().softmax(1) for logits in several if bool(logits.isfinite().all())]
    return torch.stack(sound).mean(0)


def mixture_accuracies(
    mixed: Float[Tensor, "m c"], dominant: Int[Tensor, " m"], same: Bool[Tensor, " m"]
) -> tuple[float | None, float | None]:
    """Shares of mixtures that get the class predicted for their larger part: intra, inter.

    Intra over the pairs that share their predicted class, inter over the others; each in [0, 1],
    None where there is no such pair. The paper ranks the candidates by each and adds the ranks.
    """
    hit = (mixed.argmax(1) == dominant).double()
    intra, inter = (float(hit[of].mean()) if bool(of.any()) else None for of in (same, ~same))
    return intra, inter
