"""GBC and SFDA: how far apart classes lie, each described by a Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg
from scipy.special import log_softmax, softmax

from domadapt.errors import DomadaptError
from domadapt.transfer.spectrum import class_ids, class_means, feature_array, principal

#: Share of the mean variance below which no variance of a class is taken.
LEAST_VARIANCE = 1e-4


def gbc(features: Any, y: Any, *, dimensions: int = 64, spherical: bool = True) -> float:
    """Gaussian Bhattacharyya coefficient: minus the overlap of classes, summed over their pairs.

    ``-sum_{c < c'} exp(-B(c, c'))`` in the leading principal components, with
    ``B = 1/8 sum_j (m_j - m'_j)^2 / v_j + 1/2 sum_j ln(v_j / sqrt(u_j u'_j))``, m and u the means
    and variances of the two classes and ``v = (u + u') / 2``; with `spherical` a class has one
    variance, the mean of its u.

    Paper: (Pándy et al., 2022, arXiv:2111.12780). Departures: the authors' code counts each pair
    twice, and with one variance per class takes its logarithm once instead of once per component;
    here it is the distance of the Gaussians. No variance is taken below 1e-4 of the mean variance,
    where the code has the absolute floor 1e-4, so that the features' scale does not matter.

    Range: ``[-classes (classes - 1) / 2, 0]``, larger is better.
    Cost: one principal component analysis, and ``classes^2`` times `dimensions`.
    Blind to: the shape of a class: correlated features, several clusters. It nears 0 where many
    dimensions separate all classes, and then tells models apart only in its last digits.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
        dimensions: principal components to keep at most.
        spherical: one variance per class, else one per component.
    """
    if dimensions < 1:
        raise DomadaptError(f"GBC needs at least 1 dimension; got {dimensions}.")
    f = feature_array(features)
    ids, counts = class_ids(y, len(f))
    z = principal(f, count=dimensions)
    means = class_means(z, ids, counts)
    variances = class_means(np.square(z - means[ids]), ids, counts)
    if spherical:
        variances = np.repeat(variances.mean(1, keepdims=True), z.shape[1], axis=1)
    variances = np.maximum(variances, LEAST_VARIANCE * np.square(z).mean())
    overlap = 0.0
    for c in range(len(counts) - 1):
        average = (variances[c] + variances[c + 1 :]) / 2
        apart = np.square(means[c] - means[c + 1 :]) / (8 * average)
        shape = np.log(average) - (np.log(variances[c]) + np.log(variances[c + 1 :])) / 2
        overlap += float(np.exp(-(apart + shape / 2).sum(1)).sum())
    return -overlap


def sfda(features: Any, y: Any) -> float:
    """Self-challenging Fisher discriminant analysis: mean probability of the own class, in [0, 1].

    A linear discriminant with the shrunk within-class covariance ``(1 - q) W + q tr(W) / d I``,
    ``q = exp(-5 l)`` with l the largest eigenvalue of W, gives probabilities p. Each sample is then
    moved towards the mean of the other classes' means, the less sure the more:
    ``p x + (1 - p) m``, p taken through another softmax. The score is the mean probability of the
    own class under a second discriminant of the moved samples with the same q.

    Paper: (Shao et al., 2022, arXiv:2207.03036). Departures from the authors' code: l is exact,
    not three steps of a power iteration; discriminants come from a linear system, which gives the
    same probabilities as their generalised eigenvalue problem.

    Range: [0, 1], larger is better.
    Cost: two passes of ``n d^2`` and two systems of size d: slow for thousands of features.
    Blind to: it saw the samples it is scored on: with as many features as samples it nears 1 for
    any features. q depends on the features' scale: features of large values are not shrunk at all.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
    """
    f = feature_array(features)
    ids, counts = class_ids(y, len(f))
    f = f - f.mean(0)
    means = class_means(f, ids, counts)
    within = _within(f, means, ids)
    d = len(within)
    largest = float(linalg.eigvalsh(within, subset_by_index=[d - 1, d - 1])[0])
    q = max(float(np.exp(-5 * largest)), 1e-10)
    sure = softmax(_discriminant(f, means, within, counts, q), axis=1)
    p = softmax(sure, axis=1)[np.arange(len(f)), ids][:, None]
    others = (means.sum(0) - means) / (len(counts) - 1)
    moved = p * f + (1 - p) * others[ids]
    means = class_means(moved, ids, counts)
    scores = _discriminant(moved, means, _within(moved, means, ids), counts, q)
    return float(np.exp(log_softmax(scores, axis=1)[np.arange(len(f)), ids]).mean())


def _within(f: np.ndarray, means: np.ndarray, ids: np.ndarray) -> np.ndarray:
    centred = f - means[ids]
    scatter: np.ndarray = centred.T @ centred / len(f)
    return scatter


def _discriminant(
    f: np.ndarray, means: np.ndarray, within: np.ndarray, counts: np.ndarray, q: float
) -> np.ndarray:
    """Logits ``(n, classes)`` of a linear discriminant with a shrunk covariance."""
    shrunk = (1 - q) * within
    shrunk.flat[:: len(shrunk) + 1] += q * np.trace(within) / len(within)
    try:
        coefficients = linalg.solve(shrunk, means.T, assume_a="pos")
    except linalg.LinAlgError:
        # Features that do not vary within classes, and no shrinkage to speak of.
        coefficients = linalg.pinvh(shrunk) @ means.T
    offset = -0.5 * np.einsum("cd,dc->c", means, coefficients) + np.log(counts / counts.sum())
    logits: np.ndarray = f @ coefficients + offset
    return logits
