"""Probabilities that mean what they say: one temperature, and the classes' shares of the target.

What is fitted here is fitted on labelled source samples. It makes the probabilities right on the
source; on the target they are right as far as the network errs there as it does on the source,
which `Calibration.trust` weighs in words.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.network import Calibrated
from domadapt.selection.evidence import Evidence

#: Bins of the calibration error.
BINS = 15
#: The smallest and the largest temperature that are considered.
BOUNDS = (0.05, 20.0)
#: The least class share of the target that a correction assumes.
LEAST_SHARE = 1e-6
#: Calibration errors on the source up to this are called small.
SMALL_ECE = 0.05
#: A mean confidence further than this from the estimated accuracy is pointed out.
GAP = 0.1


@dataclass(frozen=True)
class Calibration:
    """How the logits of a network become probabilities, and how far to trust those.

    Attributes:
        temperature: logits are divided by it.
        prior_s: class shares of the source, where the probabilities are corrected for those of the
            target; else None.
        prior_t: class shares of the target to which they are corrected, or None.
        ece_before: expected calibration error on source validation without the temperature, in
            [0, 1]; None where there is no labelled source validation.
        ece_after: the same with the temperature, which was fitted on the same samples.
        trust: how far to trust the probabilities on the target, in words.
    """

    temperature: float
    prior_s: list[float] | None
    prior_t: list[float] | None
    ece_before: float | None
    ece_after: float | None
    trust: str

    def offset(self, classes: int) -> Float[Tensor, " c"]:
        """What is added to the scaled logits, ``log prior_t / prior_s``; zeros without correction.

        Bayes' rule under label shift, as `losses.label_shift.corrected` has it for probabilities.
        A share of the target below `LEAST_SHARE` counts as that, so that logits stay finite.
        """
        if self.prior_s is None or self.prior_t is None:
            return torch.zeros(classes)
        prior_s, prior_t = torch.tensor(self.prior_s), torch.tensor(self.prior_t)
        return (prior_t.clamp_min(LEAST_SHARE) / prior_s.clamp_min(LEAST_SHARE)).log()

    def probabilities(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """``softmax(logits / temperature + offset)`` in float64."""
        return (logits.double() / self.temperature + self.offset(logits.shape[1])).softmax(1)

    def apply(self, model: nn.Module, classes: int) -> Calibrated:
        """The model with calibrated logits."""
        return Calibrated(model, self.temperature, self.offset(classes))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it."""
        return dataclasses.asdict(self)


def fit_temperature(
    logits: Float[Tensor, "n c"],
    y: Int[Tensor, " n"],
    bounds: tuple[float, float] = BOUNDS,
) -> float:
    """The temperature T with which ``softmax(logits / T)`` fits held-out labels best.

    Minimises ``mean_i -log softmax(l_i / T)[y_i]`` over T within `bounds`. The mean is convex in
    1 / T, so the zero of its slope is found by bisection.

    Source: Guo et al. (2017), arXiv:1706.04599. Departure: each label counts for
    ``1 - 1 / (n + 1)`` and the rest is spread evenly over the classes, as if one of n + 1 samples
    had been labelled by chance (the idea of Platt's smoothed targets). Where every sample is
    classified rightly the paper's minimum lies at T = 0, which would make the network certain of
    anything; here it stays where the samples' number warrants it.

    Args:
        logits: of held-out samples.
        y: their class ids.
        bounds: the smallest and the largest temperature.

    Raises:
        DomadaptError: no sample, or logits that are not finite.
    """
    _check(logits, y)
    if not 0 < bounds[0] < bounds[1]:
        raise DomadaptError(f"`bounds` of a temperature must be positive and rising; got {bounds}.")
    values = logits.double()
    n, classes = values.shape
    chance = 1.0 / (n + 1)
    truth = torch.nn.functional.one_hot(y.long(), classes).double() * (1 - chance)
    # mean over samples of what the smoothed label gives to each logit
    reached = float(((truth + chance / classes) * values).sum(1).mean())

    def slope(inverse: float) -> float:
        return float(((inverse * values).softmax(1) * values).sum(1).mean()) - reached

    low, high = 1.0 / bounds[1], 1.0 / bounds[0]
    if slope(low) >= 0:
        return bounds[1]
    if slope(high) <= 0:
        return bounds[0]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2.0 / (low + high)


def expected_calibration_error(
    p: Float[Tensor, "n c"], y: Int[Tensor, " n"], bins: int = BINS
) -> float:
    """``sum_b |B_b| / n |accuracy(B_b) - confidence(B_b)|`` over bins of equal width, in [0, 1].

    Bin b holds the samples whose largest probability lies in ``((b - 1) / bins, b / bins]``.
    Source: Naeini et al. (2015), doi:10.1609/aaai.v29i1.9602; Guo et al. (2017), arXiv:1706.04599.

    Args:
        p: class probabilities.
        y: class ids.
        bins: how many bins of [0, 1].

    Raises:
        DomadaptError: no sample, or fewer than one bin.
    """
    _check(p, y)
    if bins < 1:
        raise DomadaptError(f"A calibration error needs at least one bin; got {bins}.")
    confidence, predicted = p.double().max(1)
    right: Bool[Tensor, " n"] = predicted == y
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    # |B| |accuracy - confidence| is the absolute sum of the differences within the bin.
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, place, right.double() - confidence)
    return float(gaps.abs().sum()) / len(p)


def class_shares(y: Int[Tensor, " n"], classes: int) -> Float[Tensor, " c"]:
    """Shares of the classes among labels, each class counted once more than it occurs; float64.

    The extra count keeps the share of a class positive that a small validation split lacks.
    """
    counts = torch.bincount(y.long(), minlength=classes).double() + 1.0
    return counts / counts.sum()


def calibrate(
    evidence: Evidence,
    *,
    prior_t: Float[Tensor, " c"] | None = None,
    accuracy: float | None = None,
) -> Calibration:
    """The calibration of a candidate from its source validation.

    Args:
        evidence: the candidate's.
        prior_t: class shares of the target, where a label shift was found (`shift.detect_shift`):
            the probabilities are corrected for them by Bayes' rule. They are not where the method
            trains on its own confidence: such predictions follow the target's shares already, and
            would be corrected twice.
        accuracy: estimated target accuracy, if there is one: the words weigh it against the mean
            confidence.

    Returns:
        Temperature 1 and no errors where there is no labelled source validation.
    """
    held = evidence.source_val
    if held is None or held.y is None:
        return Calibration(
            1.0,
            None,
            None,
            None,
            None,
            "These probabilities are not calibrated, because there is no labelled source "
            "validation: read them as an order of certainty, not as shares of right answers.",
        )
    temperature = fit_temperature(held.logits, held.y)
    before = expected_calibration_error(held.logits.double().softmax(1), held.y)
    after = expected_calibration_error((held.logits.double() / temperature).softmax(1), held.y)
    corrects = prior_t is not None and not evidence.trains_on_confidence
    prior_s = class_shares(held.y, evidence.classes)
    found = Calibration(
        temperature,
        prior_s.tolist() if corrects else None,
        prior_t.tolist() if corrects and prior_t is not None else None,
        before,
        after,
        "",
    )
    confidence = float(found.probabilities(evidence.target.logits).max(1).values.mean())
    words = _trust(after, confidence, accuracy, evidence.trains_on_confidence, corrects)
    return dataclasses.replace(found, trust=words)


def _trust(ece: float, confidence: float, accuracy: float | None, own: bool, corrects: bool) -> str:
    """How far to trust calibrated probabilities on the target."""
    said = [
        f"On held-out source samples they are off by {100 * ece:.1f} points on average"
        + ("." if ece <= SMALL_ECE else ", a large error even there.")
    ]
    if corrects:
        said.append("They are corrected for the target's estimated class shares.")
    if own:
        said.append(
            "The method raises its own confidence on the target, so that they are probably too "
            "high there: use them to order samples, not as chances of being right."
        )
    else:
        said.append(
            "On the target they are as good only as far as the network errs there as on the "
            "source, which cannot be checked without labels."
        )
    if accuracy is not None and abs(confidence - accuracy) > GAP:
        said.append(
            f"There the mean confidence is {100 * confidence:.0f} % and the estimated accuracy "
            f"{100 * accuracy:.0f} %: they are too "
            f"{'high' if confidence > accuracy else 'low'} by about "
            f"{100 * abs(confidence - accuracy):.0f} points."
        )
    return " ".join(said)


def _check(values: Tensor, y: Tensor) -> None:
    if values.ndim != 2 or len(values) == 0 or tuple(y.shape) != (len(values),):
        raise DomadaptError(
            "Calibration needs at least one sample, a row of values (n, classes) and a label for "
            f"each; got values of shape {tuple(values.shape)} and labels of {tuple(y.shape)}."
        )
    if not bool(torch.isfinite(values).all()):
        raise DomadaptError(
            "Calibration needs finite values; some are NaN or infinite. The training diverged: "
            "lower the learning rate."
        )
    if int(y.min()) < 0 or int(y.max()) >= values.shape[1]:
        raise DomadaptError(
            f"Labels must lie between 0 and {values.shape[1] - 1}; got {int(y.min())} to "
            f"{int(y.max())}."
        )
