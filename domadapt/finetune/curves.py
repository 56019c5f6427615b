"""What is read off learning curves: steps to an accuracy, and how much data transfer is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Transferred:
    """What transfer is worth at one training size, in samples.

    Attributes:
        size: D_F, the samples that were fine-tuned with.
        equivalent: D_E, the samples with which training from scratch does as well; the largest
            that was measured where `bound` is "more", the smallest where it is "less".
        bound: "exact" (interpolated), "more" or "less" than measured.
    """

    size: float
    equivalent: float
    bound: str

    @property
    def effective(self) -> float:
        """D_T = D_E - D_F: the data that transfer stands for; negative where it hurts."""
        return self.equivalent - self.size

    def words(self) -> str:
        """The same for a table."""
        if self.bound == "more":
            # Training from scratch did not get there with the largest size that was measured.
            return f"more than {self.effective:,.0f}" if self.effective > 0 else "not measured"
        if self.bound == "less":
            return f"none: from scratch {self.equivalent:,.0f} do better"
        if self.effective <= -0.5:
            return f"{self.effective:,.0f} (from scratch is better)"
        return f"{self.effective:,.0f}"


def data_transferred(
    size: float, accuracy: float, sizes: Sequence[float], scratch: Sequence[float]
) -> Transferred:
    """Effective data transferred, D_T = D_E - D_F (Hernandez et al., 2021, arXiv:2102.01293).

    D_E is where the curve of training from scratch first reaches `accuracy`: linear in the
    logarithm of the size between the measured points, of which each counts as at least as good as
    the smaller ones. The paper asks for equal loss; here it is accuracy on held-out data.

    Args:
        size: the samples that were fine-tuned with.
        accuracy: what that reached.
        sizes: of training from scratch, increasing.
        scratch: the accuracy at each.
    """
    best = -math.inf
    before = (sizes[0], -math.inf)
    for n, value in zip(sizes, scratch, strict=True):
        best = max(best, value)
        if best >= accuracy:
            if n == sizes[0]:
                return Transferred(size, n, "exact" if best == accuracy else "less")
            low, at = before
            share = (accuracy - at) / (best - at)
            return Transferred(size, math.exp(_between(low, n, share)), "exact")
        before = (n, best)
    return Transferred(size, sizes[-1], "more")


def _between(low: float, high: float, share: float) -> float:
    return math.log(low) + share * (math.log(high) - math.log(low))


def steps_to(points: Sequence[tuple[int, float]], level: float) -> int | None:
    """The first measured step at which an accuracy of `level` is reached; None if none.

    Args:
        points: step and accuracy, in order.
        level: the accuracy asked for.
    """
    return next((step for step, value in points if value >= level), None)


def still_rising(points: Sequence[tuple[int, float]], by: float = 0.02) -> bool:
    """Whether the last quarter of a training still gained more than `by` of accuracy.

    Such a training was too short, or too slow, for its end to say what a strategy is worth. The
    gain is counted from the last point measured at or before three quarters of the steps.

    Args:
        points: step and accuracy, in order.
        by: accuracy, as a fraction; below it a gain is taken for noise.
    """
    if len(points) < 2:
        return False
    end, last = points[-1]
    earlier = [value for step, value in points[:-1] if step <= 0.75 * end]
    return bool(earlier) and last - earlier[-1] > by


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 of a single value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
