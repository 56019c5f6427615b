"""Pseudo-labels: how they are chosen and learnt from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError


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
