"""Pseudo-labels: how they are chosen and learnt from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


def pseudo_label_loss(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], mask: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """``1/n sum_i mask_i CE(logits_i, labels_i)``: cross-entropy of the selected samples.

    The sum is divided by all n samples, selected or not, so that a batch with few confident
    samples counts little and one with none is exactly 0. Labels of unselected samples are not
    read; any number may stand there.

    Source: Sohn et al. (2020), arXiv:2001.07685, equation 4.
    """
    safe = torch.where(mask, labels, torch.zeros_like(labels))
    each = cross_entropy(logits, safe, reduction="none")
    return torch.where(mask, each, torch.zeros_like(each)).mean()


def class_thresholds(p: Float[Tensor, "n c"], portion: float) -> Float[Tensor, " c"]:
    """For each class the confidence that the surest `portion` of its predictions reach.

    Of the ``m_c`` samples whose most probable class is c, the threshold is the
    ``max(1, floor(portion m_c))``-th largest probability. A class that is nowhere the most
    probable gets infinity: nothing is selected for it.

    Source: Zou et al. (2018), arXiv:1810.07911, algorithm 1. The authors' code selects nothing
    where ``floor`` gives 0; here at least the surest sample of a class is kept.

    Args:
        p: class probabilities. portion: share of each class to select, in (0, 1].
    """
    if not 0 < portion <= 1:
        raise DomadaptError(f"portion must lie in (0, 1]; got {portion}.")
    confidence, predicted = p.max(1)
    thresholds = torch.full_like(p[0], torch.inf)
    for c in range(p.shape[1]):
        own = confidence[predicted == c]
        if len(own):
            rank = max(1, int(portion * len(own)))
            thresholds[c] = own.topk(rank).values[-1]
    return thresholds


def class_balanced_labels(
    p: Float[Tensor, "n c"], thresholds: Float[Tensor, " c"]
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Labels ``argmax_c p_c / k_c``, selected where that ratio is at least 1.

    Dividing by its threshold k lets a hard class, whose probabilities are low throughout, win
    over an easy one. Returns the labels and which of them are selected.

    Source: Zou et al. (2018), arXiv:1810.07911, equation 6.
    """
    ratio, label = (p / thresholds).max(1)
    return label, ratio >= 1


def align_distribution(
    p: Float[Tensor, "n c"], wanted: Float[Tensor, " c"], present: Float[Tensor, " c"]
) -> Float[Tensor, "n c"]:
    """Predictions whose mean is moved from `present` to `wanted`: ``p wanted / present``, rows
    summing to 1.

    Source: Berthelot et al. (2021), arXiv:2106.04732, section 3.3; 1e-6 is added to both means
    as in the authors' code.
    """
    moved = p * ((wanted + 1e-6) / (present + 1e-6))
    return moved / moved.sum(1, keepdim=True)


def relative_threshold(p_s: Float[Tensor, "n c"], share: float) -> Float[Tensor, ""]:
    """`share` times the mean confidence on the source: what a target sample must reach.

    Source: Berthelot et al. (2021), arXiv:2106.04732, section 3.4.
    """
    return share * p_s.amax(1).mean()


def interpolate_logits(
    joint: Float[Tensor, "n c"], alone: Float[Tensor, "n c"], share: Float[Tensor, "n c"]
) -> Float[Tensor, "n c"]:
    """``share joint + (1 - share) alone``, entry by entry.

    `joint` and `alone` are the source logits when BatchNorm sees both domains and the source
    only; with shares drawn from [0, 1) the source loss asks for the same answer at every point
    between.

    Source: Berthelot et al. (2021), arXiv:2106.04732, section 3.2.
    """
    return alone + share * (joint - alone)


def consistency_loss(
    logits: Float[Tensor, "n c"], p_teacher: Float[Tensor, "n c"], mask: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Squared difference of a student's and a teacher's probabilities, where `mask` allows it.

    ``1/n sum_i mask_i 1/c sum_k (softmax(logits_i)_k - p_ik)^2``: a mean over the classes and
    over all samples, selected or not. In [0, 2/c]; 0 for equal probabilities. No gradient passes
    to the teacher.

    Source: French et al. (2018), arXiv:1706.05208, section 3.
    """
    with full_precision(logits):
        p = torch.softmax(at_least_float32(logits), dim=1)
        each = (p - p_teacher.detach()).square().mean(1)
        return torch.where(mask, each, torch.zeros_like(each)).mean()


def class_balance_loss(logits: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the mean prediction q with equal classes, summed over classes.

    ``-sum_k [1/c log q_k + (1 - 1/c) log(1 - q_k)]``, ``q = 1/n sum_i softmax(logits_i)``; 1e-6 is
    added inside the logarithms, as in the authors' code. Least, but not 0, where all q are 1/c.

    Source: French et al. (2018), arXiv:1706.05208, section 3.
    """
    with full_precision(logits):
        q = torch.softmax(at_least_float32(logits), dim=1).mean(0)
        share = 1.0 / len(q)
        return -(share * (q + 1e-6).log() + (1 - share) * (1 - q + 1e-6).log()).sum()


def weighted_pseudo_label_loss(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], weight: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """``sum_i w_i CE(logits_i, labels_i) / sum_i w_i`` for weights of at least 0; 0 if all are 0.

    Source: Liang et al. (2021), arXiv:2007.04171.
    """
    each = cross_entropy(logits, labels, reduction="none")
    return (weight * each).sum() / weight.sum().clamp_min(1e-12)


def sharpen(p: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Sharpened and class-balanced predictions ``p_ik^2 / (1/n sum_j p_jk^2)``.

    Squares favour the certain; the division lets a class that is seldom predicted weigh as much
    as a frequent one. Rows do not sum to 1; every column has the mean 1 (or 0 where all of its
    entries are 0).

    Source: Liang et al. (2021), arXiv:2007.04171. The authors' code divides by the sum over the
    batch; with the mean, entries from batches of different sizes compare.
    """
    squares = p.square()
    return squares / squares.mean(0).clamp_min(1e-30)


def neighbour_labels(
    z: Float[Tensor, "n d"],
    index: Int[Tensor, " n"],
    bank_z: Float[Tensor, "m d"],
    bank_p: Float[Tensor, "m c"],
    k: int,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Labels by the nearest entries of a memory bank, and how sure they are.

    ``q_i = 1/k sum_j p_j`` over the k entries whose features have the largest cosine with z_i,
    the sample's own left out; the label is ``argmax q_i``, its confidence ``max q_i``. Entries
    whose p is 0 throughout are empty and nobody's neighbour; where fewer than k are there, the
    missing ones count as 0 (a confidence of 0: no neighbour at all).

    Source: Liang et al. (2021), arXiv:2007.04171, the variant with neighbourhood aggregation.

    Args:
        z: features. index: each sample's own entry in the bank.
        bank_z: the bank's features, of length 1. bank_p: its predictions, at least 0.
        k: the number of neighbours.
    """
    if k < 1:
        raise DomadaptError(f"The number of neighbours must be at least 1; got {k}.")
    with full_precision(z):
        # The length of z changes no order.
        closeness = at_least_float32(z) @ bank_z.T
        closeness[:, bank_p.sum(1) == 0] = -torch.inf
        closeness.scatter_(1, index[:, None], -torch.inf)
        near, who = closeness.topk(min(k, len(bank_z)), dim=1)
        found = torch.where(
            (near > -torch.inf)[..., None], bank_p[who], torch.zeros_like(bank_p[0])
        )
        confidence, label = (found.sum(1) / k).max(1)
        return label, confidence
