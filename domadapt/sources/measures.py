"""Similarity of two distributions, and diversity of one, over terms.

The measures of Ruder and Plank (2017, arXiv:1707.05246), section 3. Distributions are vectors
``(k,)`` of shares that sum to 1; logarithms are natural.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Num

from domadapt.errors import DomadaptError

#: Order of the Rényi divergence and entropy, as in the paper.
ALPHA = 0.99

Shares = Float[np.ndarray, " k"]


def shares(counts: Num[np.ndarray, " k"]) -> Shares:
    """Counts or weights, none below 0, divided by their sum.

    Raises:
        DomadaptError: a negative or infinite one, or nothing at all.
    """
    values: np.ndarray = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
        raise DomadaptError("A distribution needs finite counts of 0 or more, one per term.")
    total = values.sum()
    if total == 0:
        raise DomadaptError("A distribution needs at least one term that occurs; all counts are 0.")
    found: np.ndarray = values / total
    return found


def _pair(p: Shares, q: Shares) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(p) != np.shape(q):
        raise DomadaptError(
            f"Two distributions are compared over the same terms; got {np.size(p)} and "
            f"{np.size(q)}."
        )
    return shares(p), shares(q)


def jensen_shannon(p: Shares, q: Shares) -> float:
    """``H((p + q) / 2) - (H(p) + H(q)) / 2``, in [0, ln 2]; 0 for equal distributions."""
    p, q = _pair(p, q)
    value = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return max(0.0, float(value))


def renyi_divergence(p: Shares, q: Shares, alpha: float = ALPHA) -> float:
    """``log(sum p^a q^(1 - a)) / (a - 1)``, at least 0; inf where no term is in both.

    With `alpha` below 1 no smoothing is needed.
    """
    if not 0 < alpha < 1:
        raise DomadaptError(f"The order of the divergence lies between 0 and 1; got {alpha}.")
    p, q = _pair(p, q)
    total = float((p**alpha * q ** (1 - alpha)).sum())
    return math.inf if total == 0 else max(0.0, math.log(total) / (alpha - 1))


def bhattacharyya(p: Shares, q: Shares) -> float:
    """``-log(sum sqrt(p q))``, at least 0; inf where no term is in both."""
    p, q = _pair(p, q)
    total = float(np.sqrt(p * q).sum())
    return math.inf if total == 0 else max(0.0, -math.log(total))


def cosine(p: Shares, q: Shares) -> float:
    """``p q / (|p| |q|)``, in [0, 1]; larger is nearer."""
    p, q = _pair(p, q)
    return float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q)))


def euclidean(p: Shares, q: Shares) -> float:
    """``|p - q|``, in [0, sqrt 2]."""
    p, q = _pair(p, q)
    return float(np.linalg.norm(p - q))


def variational(p: Shares, q: Shares) -> float:
    """``sum |p - q|``, the variational or L1 distance, in [0, 2]."""
    p, q = _pair(p, q)
    return float(np.abs(p - q).sum())


def entropy(p: Shares) -> float:
    """Shannon's ``-sum p log p``, in nats."""
    p = shares(p)
    known = p[p > 0]
    return float(-(known * np.log(known)).sum())


def simpson(p: Shares) -> float:
    """``1 - sum p^2``: the chance that two draws are of different terms (Gini-Simpson).

    The paper names ``sum p^2``, which falls as diversity grows; here larger is more diverse, as of
    all other measures.
    """
    p = shares(p)
    return float(1 - (p**2).sum())


def renyi_entropy(p: Shares, alpha: float = ALPHA) -> float:
    """``log(sum p^a) / (1 - a)``, in nats."""
    if not 0 < alpha < 1:
        raise DomadaptError(f"The order of the entropy lies between 0 and 1; got {alpha}.")
    p = shares(p)
    return float(np.log((p[p > 0] ** alpha).sum()) / (1 - alpha))


def quadratic_entropy(p: Shares, vectors: Float[np.ndarray, "k d"]) -> float:
    """Rao's ``sum_ij d_ij p_i p_j`` with ``d_ij = 1 - cos(v_i, v_j)``; a zero vector is 1 from all.

    With unit vectors u it is ``1 - |sum p u|^2``.
    """
    p = shares(p)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    alone = float((p[norms[:, 0] == 0] ** 2).sum())  # the distance of a term to itself is 0
    mean = p @ units
    return float(1 - mean @ mean - alone)


def types(counts: Num[np.ndarray, " k"]) -> int:
    """How many terms occur."""
    return int((np.asarray(counts) > 0).sum())


def type_token_ratio(counts: Num[np.ndarray, " k"]) -> float:
    """Terms that occur over all occurrences; it falls with the amount of data."""
    return types(counts) / float(np.asarray(counts).sum())


#: Name -> function, and whether larger is nearer.
SIMILARITY = {
    "Jensen-Shannon": (jensen_shannon, False),
    "Rényi": (renyi_divergence, False),
    "Bhattacharyya": (bhattacharyya, False),
    "cosine": (cosine, True),
    "Euclidean": (euclidean, False),
    "variational": (variational, False),
}
