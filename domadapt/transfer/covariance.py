"""H-score, its regularised form, and TransRate: from covariances of features and class means."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

from domadapt.errors import DomadaptError
from domadapt.transfer.spectrum import class_ids, feature_array, indicators, spectrum


def h_score(features: Any, y: Any) -> float:
    """``tr(cov(f)^+ cov(E[f | y]))``: the share of the whitened variance that classes explain.

    With U the left singular vectors of the centred features it is
    ``sum over classes of |U^T 1_c|^2 / n_c``, which is how it is computed: the pseudo-inverse
    leaves out singular values below the precision of the decomposition.

    Paper: (Bao et al., 2019, arXiv:2212.10082, doi:10.1109/ICIP.2019.8803726).
    Range: ``[0, min(classes - 1, rank)]``, larger is better.
    Cost: ``n d^2`` with the smaller of n and d squared.
    Blind to: everything where there are as many features as samples: it then is ``classes - 1``
    for any features whatever. It grows with d on noise alone (by about ``(classes - 1) d / n``),
    so it favours wide models. Take `regularized_h_score`.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
    """
    f = feature_array(features)
    ids, counts = class_ids(y, len(f))
    found = spectrum(f - f.mean(0), indicators(ids, len(counts)))
    return float((np.square(found.projections) / counts).sum())


def regularized_h_score(features: Any, y: Any) -> float:
    """H-score with a shrunk covariance: ``(1 - q) tr(cov_q(f)^-1 cov(E[f | y]))``.

    ``cov_q = (1 - q) S + q tr(S) / d I`` with S the covariance (divided by n) and q the share of
    shrinkage by Ledoit and Wolf (2004), doi:10.1016/S0047-259X(03)00096-4, which tends to 0 with
    many samples and to 1 with few.

    Paper: (Ibrahim et al., 2021, arXiv:2110.06893). The covariance of the class means is divided
    by ``n - 1``, as in released implementations.
    Range: at least 0, larger is better.
    Cost: ``n d^2`` with the smaller of n and d squared.
    Blind to: separation that is not linear; anything that fine-tuning changes.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
    """
    f = feature_array(features)
    n, d = f.shape
    ids, counts = class_ids(y, n)
    f = f - f.mean(0)
    found = spectrum(f, indicators(ids, len(counts)))
    s2 = found.squares[:, None]
    q = _shrinkage(f, found.squares)
    shrunk = (1 - q) * s2 / n + q * found.squares.sum() / (n * d)
    between = s2 * np.square(found.projections) / counts
    return float((1 - q) / (n - 1) * (between / shrunk).sum())


def _shrinkage(f: np.ndarray, squares: np.ndarray) -> float:
    """Ledoit and Wolf's share q of centred features with these squared singular values."""
    n, d = f.shape
    mean = squares.sum() / (n * d)
    second = np.square(squares).sum() / n**2
    spread = second / d - mean**2
    noise = (np.square(np.square(f).sum(1)).sum() / n - second) / (n * d)
    return 0.0 if spread <= 0 else float(np.clip(noise / spread, 0.0, 1.0))


def transrate(features: Any, y: Any, *, eps: float = 1e-4, weighted: bool = False) -> float:
    """Coding rate of the features minus the mean coding rate within classes.

    ``R(Z) - mean_c R(Z_c)`` with ``R(Z) = 1/2 ln det(I + Z^T Z / (n eps))`` and Z centred over all
    samples: an approximation of the mutual information of features and labels.

    Paper: (Huang et al., 2022, arXiv:2106.09362). With `weighted` a class counts by its samples,
    ``n_c / n``, as a conditional entropy does; by default all classes count alike, as in released
    implementations; with classes of one size the two are equal.
    Range: the real numbers, larger is better.
    Cost: ``n d^2``, and for each class its own ``n_c d^2``, the smaller of the two squared.
    Blind to: nothing is normalised: it depends on the features' scale (`eps` is absolute) and grows
    with their number, so that models of other widths are hardly comparable.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
        eps: the distortion that the code allows.
        weighted: weigh classes by their samples.
    """
    if not eps > 0:
        raise DomadaptError(f"The distortion eps of TransRate must be positive; got {eps}.")
    f = feature_array(features)
    ids, counts = class_ids(y, len(f))
    f = f - f.mean(0)
    rates = np.array([_rate(f[ids == c], eps) for c in range(len(counts))])
    within = np.average(rates, weights=counts if weighted else None)
    return _rate(f, eps) - float(within)


def _rate(z: np.ndarray, eps: float) -> float:
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    gram /= len(z) * eps
    gram.flat[:: len(gram) + 1] += 1.0
    # Half the log-determinant of a positive definite matrix: its Cholesky factor's diagonal.
    factor = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    return float(np.log(np.diag(factor)).sum())
