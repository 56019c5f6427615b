"""LogME: how probable labels are under a Bayesian linear model of the features."""

from __future__ import annotations

from typing import Any

import numpy as np

from domadapt.errors import DomadaptError
from domadapt.transfer.spectrum import (
    Spectrum,
    class_ids,
    feature_array,
    indicators,
    spectrum,
)

#: As in the authors' code: the most steps of the fixed point, when it has settled, and what keeps
#: the two precisions finite where a fit is perfect.
STEPS, SETTLED, FLOOR = 11, 1e-3, 1e-5


def logme(features: Any, y: Any, *, regression: bool = False) -> float:
    r"""Maximum log evidence per sample of linear models of the labels, averaged over classes.

    For each class (one-hot) or measured quantity y: weights ``w ~ N(0, 1/a)``, noise of precision
    b, and ``max over a, b of log p(y | F, a, b) / n``. With ``F = U S V^T`` of rank k,
    ``x = U^T y``, ``r0 = |y|^2 - |x|^2`` and ``t = a / b`` the fixed point is

        ``g = sum s^2 / (s^2 + t)``, ``m = sum s^2 x^2 / (s^2 + t)^2``,
        ``r = sum x^2 / (1 + s^2 / t)^2 + r0``, ``a = g / m``, ``b = (n - g) / r``

    and the evidence ``k/2 ln a + n/2 ln b - 1/2 sum ln(a + b s^2) - b/2 r - a/2 m - n/2 ln 2 pi``.

    Paper: (You et al., 2021, arXiv:2102.11005); the fixed point: (You et al., 2021,
    arXiv:2110.10545). Start, floor and stopping rule are those of the authors' code. Departures
    from that code: it counts ``d/2 ln a`` where only k terms of the next sum exist, so that with
    more features than samples (k < d) its values are wrong, often by 10 and more; here that term
    is k/2, which is exact for every rank. The decomposition is made once for all classes and the
    fixed point runs for all of them together.

    Range: the real numbers, larger is better; comparable among models on the same samples only.
    Cost: ``n d^2`` with the smaller of n and d squared; classes cost next to nothing.
    Blind to: anything that fine-tuning changes; classes that are separable but not linearly;
    features are not centred and there is no bias column, so that a constant offset helps or hurts.
    It rewards scale-free fit, not accuracy: see the linear probe.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)`` of any type; with `regression` numbers ``(n,)`` or ``(n, c)``.
        regression: whether labels are measurements.

    Raises:
        DomadaptError: features or labels that cannot be used.
    """
    f = feature_array(features)
    if regression:
        targets = measurements(y, len(f)).T
        squared = np.square(targets).sum(1)
        found = spectrum(f, targets)
    else:
        ids, counts = class_ids(y, len(f))
        squared = counts.astype(np.float64)
        found = spectrum(f, indicators(ids, len(counts)))
    return float(_evidence(found, squared, len(f)).mean())


def measurements(y: Any, n: int) -> np.ndarray:
    """Numbers ``(n, c)``, one row per sample.

    Raises:
        DomadaptError: no numbers, another shape, or one that is not finite.
    """
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    try:
        values = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DomadaptError(
            f"The labels of a regression must be numbers ({error}); for classes leave out "
            "regression=True."
        ) from error
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != n or values.shape[1] == 0:
        raise DomadaptError(
            f"The labels of a regression must have shape ({n},) or ({n}, c); got {np.shape(y)}."
        )
    if not np.isfinite(values).all():
        raise DomadaptError("Measurements must be finite; leave out samples without one.")
    return values


def _evidence(found: Spectrum, squared: np.ndarray, n: int) -> np.ndarray:
    """Log evidence per sample of each target ``(c,)``; `squared` is ``|y|^2`` of each."""
    s = found.squares[:, None]
    x2 = np.square(found.projections)
    # Rounding may leave less than nothing of a target that the features fit exactly.
    r0 = np.maximum(squared - x2.sum(0), 0.0)
    c = x2.shape[1]
    a, b, m, r = (np.ones(c) for _ in range(4))
    active = np.arange(c)
    for _ in range(STEPS):
        t = a[active] / b[active]
        inverse = 1.0 / (s + t)
        g = (s * inverse).sum(0)
        x2_t = x2[:, active] * inverse * inverse
        m[active] = (s * x2_t).sum(0)
        r[active] = t * t * x2_t.sum(0) + r0[active]
        a[active] = g / (m[active] + FLOOR)
        b[active] = (n - g) / (r[active] + FLOOR)
        moved = np.abs(a[active] / b[active] - t) / t
        active = active[moved > SETTLED]
        if len(active) == 0:
            break
    evidence: np.ndarray = (
        len(s) * np.log(a)
        + n * np.log(b)
        - np.log(a + b * s).sum(0)
        - b * r
        - a * m
        - n * np.log(2 * np.pi)
    ) / (2 * n)
    return evidence
