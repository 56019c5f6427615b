"""Losses and labels for adapting without the source: centroids and neighbours in the target."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision


@torch.no_grad()
def centroid_labels(z: Float[Tensor, "n d"], p: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """Each sample's class by its nearest class centroid, cosine distance, in two rounds.

    The first centroids are the means of all features weighted by their predictions, ``mu_k =
    sum_i p_ik z_i / sum_i p_ik``; the second those of the labels that the first gave. A class
    that is nowhere the most probable (first round), or that got no sample (second), has no
    centroid and labels nothing.

    Source: Liang et al. (2020), arXiv:2002.08546, section 3. The authors' code appends
    a 1 to every feature and scales it to length 1 before averaging; this, as the paper, averages
    the features themselves. That classes without samples are left out is as in that code.

    Args:
        z: features of the whole target.
        p: predicted probabilities of the same samples.
    """
    with full_precision(z):
        z, p = at_least_float32(z), at_least_float32(p).to(z.device)
        direction = normalize(z, dim=1)
        n_classes = p.shape[1]
        share, label = p, p.argmax(1)
        for _ in range(2):
            empty = torch.bincount(label, minlength=n_classes) == 0
            # Length does not matter to the cosine: the sum points where the mean does.
            centroid = normalize((share.T @ z) / share.sum(0)[:, None].clamp_min(1e-30), dim=1)
            label = (direction @ centroid.T).masked_fill(empty, -math.inf).argmax(1)
            share = one_hot(label, n_classes).to(z.dtype)
        return label


@torch.no_grad()
def nearest(
    z: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], own: Int[Tensor, " n"], k: int
) -> Int[Tensor, "n k"]:
    """Positions in `bank` of each row's k nearest by cosine, the row's own position left out.

    Of fewer than k others all are given, so that the result may have fewer columns.

    Args:
        z: features, of any length.
        bank: features of length 1.
        own: where in the bank each row of `z` itself stands.
        k: how many, at least 1.

    Raises:
        DomadaptError: a `k` below 1.
    """
    if k < 1:
        raise DomadaptError(f"k must be at least 1; got {k}.")
    with full_precision(z):
        closeness = normalize(at_least_float32(z), dim=1) @ at_least_float32(bank).T
        closeness[torch.arange(len(z), device=z.device), own] = -math.inf
        return closeness.topk(min(k, len(bank) - 1), dim=1).indices


@torch.no_grad()
def reciprocal_affinity(
    own: Int[Tensor, " n"], second: Int[Tensor, "n k m"], otherwise: float = 0.1
) -> Float[Tensor, "n k"]:
    """1 where a sample stands among the neighbours of its neighbour, else `otherwise`.

    Source: Yang et al. (2021), arXiv:2110.04202, section 3.

    Args:
        own: positions of the samples.
        second: positions of the neighbours of each of their k neighbours.
        otherwise: affinity of a neighbour that does not return the relation.
    """
    mutual = (second == own[:, None, None]).any(2)
    return torch.where(mutual, 1.0, otherwise)


def neighbourhood(
    p: Float[Tensor, "n c"], near: Float[Tensor, "n k c"], affinity: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """``-1/n sum_i sum_k A_ik <p_i, s_ik>``: predictions disagree with those of their neighbours.

    In ``[-max_i sum_k A_ik, 0]``; least where a sample and all its neighbours are given the same
    class with certainty.

    Source: Yang et al. (2021), arXiv:2110.04202: their L_N and L_E; L_self, which compares a
    sample with its own stored prediction, is the case of one neighbour of affinity 1.

    Args:
        p: predicted probabilities.
        near: stored predictions of the neighbours; no gradient flows into them.
        affinity: A.
    """
    with full_precision(p):
        agreement = (at_least_float32(near.detach()) * at_least_float32(p)[:, None]).sum(2)
        return -(affinity.to(agreement.dtype) * agreement).sum(1).mean()


def imbalance(p: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """``KL(mean_i p_i || uniform) = log c - H(mean_i p_i)``: how unevenly classes are predicted.

    In [0, log c]: 0 where the mean prediction is uniform, the upper end where all samples are
    given one class.

    Source: Yang et al. (2021), arXiv:2110.04202, their L_div. The authors' code leaves out
    the constant log c.
    """
    with full_precision(p):
        mean = at_least_float32(p).mean(0)
        # x log x is 0 at x = 0, and its gradient must not be infinite there.
        return (mean * mean.clamp_min(1e-30).log()).sum() + math.log(p.shape[1])
