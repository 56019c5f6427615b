"""What the scores share: checked arrays, class indicators, and one decomposition of the features.

Everything is float64: a score is compared in its last digits, and features come in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, sparse

from domadapt.errors import DomadaptError


def feature_array(features: Any) -> np.ndarray:
    """Features as float64 ``(n, d)``.

    Raises:
        DomadaptError: another shape, fewer than two samples, or a value that is not finite.
    """
    if hasattr(features, "detach"):
        features = features.detach().cpu().numpy()
    try:
        f = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DomadaptError(f"Features must be numbers (n, d); got others ({error}).") from error
    if f.ndim != 2 or len(f) < 2 or f.shape[1] == 0:
        raise DomadaptError(
            f"Features must have shape (n, d) with at least 2 samples; got {f.shape}. Flatten or "
            "average maps of features first."
        )
    if not np.isfinite(f).all():
        raise DomadaptError(
            "Features must be finite; some are NaN or infinite. Check the model's inputs and "
            "weights."
        )
    return f


def class_ids(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of any type as ids ``(n,)`` from 0, and the number of samples of each class.

    Raises:
        DomadaptError: not one label per sample, a missing one, or fewer than two classes.
    """
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise DomadaptError(
            f"y must hold one class per sample, shape ({n},); got {labels.shape}. For measurements "
            "there are logme(regression=True) and linear_probe(regression=True)."
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DomadaptError("Every sample needs a label; some are NaN. Leave those samples out.")
    names, ids, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DomadaptError(f"A score of classes needs at least 2 of them; got {len(names)}.")
    return ids, counts


def indicators(ids: np.ndarray, n_classes: int) -> sparse.csr_matrix:
    """The classes as rows of zeros and ones, sparse ``(classes, n)``."""
    n = len(ids)
    order = np.argsort(ids, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=n_classes))])
    return sparse.csr_matrix((np.ones(n), order, ends), shape=(n_classes, n))


def class_means(f: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean features ``(classes, d)`` of each class."""
    sums: np.ndarray = indicators(ids, len(counts)) @ f
    return sums / counts[:, None]


@dataclass(frozen=True)
class Spectrum:
    """The features' singular values and what the targets are in their left singular vectors.

    With ``F = U S V^T`` of rank k: ``squares`` is the diagonal of ``S^2 (k,)``, ``projections`` is
    ``U^T Y (k, c)``.
    """

    squares: np.ndarray
    projections: np.ndarray


def spectrum(f: np.ndarray, targets: np.ndarray | sparse.csr_matrix) -> Spectrum:
    """One decomposition of `f` ``(n, d)`` for all `targets` ``(c, n)``.

    The eigenvectors of the smaller of ``F^T F`` and ``F F^T`` give it; of a tall matrix U itself is
    never formed: ``U^T Y = S^-1 V^T (F^T Y)``. That squares the singular values, so that those
    below ``sqrt(max(n, d) eps)``, about 1e-6, of the largest are lost; they count as 0.

    Raises:
        DomadaptError: all features are 0.
    """
    n, d = f.shape
    tall = d <= n
    values, vectors = linalg.eigh(f.T @ f if tall else f @ f.T, driver="evd")
    keep = values > max(n, d) * np.finfo(np.float64).eps * values[-1]
    if values[-1] <= 0 or not keep.any():
        raise DomadaptError(
            "The features are all equal (0 after centring, where a score centres them); a model "
            "that maps everything to one point cannot be scored."
        )
    values, vectors = values[keep], vectors[:, keep]
    if tall:
        inner = (targets @ f) @ vectors
        return Spectrum(values, inner.T / np.sqrt(values)[:, None])
    return Spectrum(values, (targets @ vectors).T)


def principal(f: np.ndarray, count: int | None = None, energy: float | None = None) -> np.ndarray:
    """Centred features in their leading principal components ``(n, k)``.

    Args:
        f: features ``(n, d)``.
        count: at most so many components.
        energy: as few as hold this share of the variance.
    """
    centred = f - f.mean(0)
    n, d = f.shape
    tall = d <= n
    gram = centred.T @ centred if tall else centred @ centred.T
    values, vectors = linalg.eigh(gram, driver="evd")
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[0] <= 0:
        raise DomadaptError(
            "The features of all samples are equal; a model that maps everything to one point "
            "cannot be scored."
        )
    k = int((values > max(n, d) * np.finfo(np.float64).eps * values[0]).sum())
    if energy is not None:
        share = np.cumsum(values[:k]) / values[:k].sum()
        # Rounding must not add a component where the share is met.
        k = min(k, int(np.searchsorted(share, energy - 1e-12)) + 1)
    if count is not None:
        k = min(k, count)
    if tall:
        return centred @ vectors[:, :k]
    return vectors[:, :k] * np.sqrt(values[:k])
