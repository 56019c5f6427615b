"""Scores of features ``z`` and of how predictions lie in them: pure formulas, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def effective_rank(z: Float[Tensor, "n d"]) -> float:
    """``exp(H(sigma / sum sigma))`` over the singular values of z: 1 to min(n, d).

    0 where all features are 0.
    """
    z = z.double()
    # The eigenvalues of the smaller product are their squares, in a fraction of the time; what
    # rounding alone leaves of an eigenvalue that is 0 is cut off.
    squares = torch.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z)
    least = len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
    sigma = torch.where(squares > least, squares, 0.0).sqrt()
    total = sigma.sum()
    if float(total) == 0.0:
        return 0.0
    return float(torch.special.entr(sigma / total).sum().exp())


def cluster_agreement(
    z: Float[Tensor, "n d"], predicted: Int[Tensor, " n"], classes: int, seed: int = 0
) -> float:
    """Adjusted mutual information of predicted classes and k-means clusters of z, k = `classes`.

    1 where they are the same partition, about 0 where they are independent. 0 where one class only
    is predicted: by its formula a single class in a single cluster would agree perfectly.

    k-means starts from a seeded k-means++ draw and clusters the distinct rows, weighted by how
    often each occurs, in sorted order: the result does not depend on the order of the samples.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    if len(torch.unique(predicted)) < 2:
        return 0.0
    distinct, place, count = torch.unique(
        z.double(), dim=0, return_inverse=True, return_counts=True
    )
    clusters = KMeans(min(classes, len(distinct)), n_init=1, random_state=seed).fit(
        distinct.numpy(), sample_weight=count.double().numpy()
    )
    return float(adjusted_mutual_info_score(predicted.numpy(), clusters.labels_[place.numpy()]))


def reverse_accuracy(
    z_t: Float[Tensor, "n_t d"],
    predicted: Int[Tensor, " n_t"],
    z_s: Float[Tensor, "n_s d"],
    y_s: Int[Tensor, " n_s"],
) -> float:
    """Accuracy on the source of a classifier of target features with predicted classes, in [0, 1].

    The classifier is the nearest class mean, each feature divided by its standard deviation over
    the target (a constant one is left as it is). Classes that are never predicted have no mean and
    are never answered; with one class it is the share of that class in the source.
    """
    z_t, z_s = z_t.double(), z_s.double()
    mean, scale = z_t.mean(0), z_t.std(0, correction=0)
    # What varies by less than the precision of float32 is constant.
    scale = torch.where(scale > 1e-6 * z_t.abs().amax(0), scale, 1.0)
    known, place = torch.unique(predicted, return_inverse=True)
    own = torch.nn.functional.one_hot(place, len(known)).double()
    means = own.T @ ((z_t - mean) / scale) / own.sum(0)[:, None]
    nearest = torch.cdist((z_s - mean) / scale, means).argmin(1)
    return float((known[nearest] == y_s).double().mean())
