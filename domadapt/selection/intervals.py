"""Sampling errors of shares: intervals that hold whatever the share."""

from __future__ import annotations

import math

from domadapt.errors import DomadaptError

#: The quantile of the normal distribution that leaves 5 % above it: two-sided 90 %.
Z90 = 1.6448536269514722


def wilson(share: float, n: int, z: float = Z90) -> tuple[float, float]:
    """Wilson's interval of a share seen on n samples, within [0, 1].

    The shares p with ``|share - p| <= z sqrt(p (1 - p) / n)``; never empty, also at 0 and 1.
    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953.

    Raises:
        DomadaptError: no sample, or a share outside [0, 1].
    """
    if n < 1 or not 0 <= share <= 1:
        raise DomadaptError(
            f"An interval needs a share between 0 and 1 and at least one sample; got {share} of "
            f"{n} samples."
        )
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def expit(value: float) -> float:
    """``1 / (1 + exp(-value))``, the share of these log odds."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))
