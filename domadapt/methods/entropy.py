"""Conditional entropy minimisation: target predictions that are certain."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.prediction import entropy
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("entropy")
class Entropy(Method):
    """Entropy minimisation on the target (Grandvalet and Bengio, 2004).

    Used for domain adaptation as one of two terms by (Long et al., 2016, arXiv:1602.04433).

    **It can collapse**: the entropy is least as well where every target sample gets one and the
    same class, and nothing in it holds against that but the source loss. `infomax` and `bnm` ask
    for certainty and for many classes at once; take this one as a part of a combination, or as
    the baseline that they are measured by.

    Args:
        entropy_weight: factor of the mean entropy; the larger, the sooner it collapses.
    """

    trains_on_confidence = True
    space = {"entropy_weight": (0.01, 1.0, "log")}

    def __init__(self, network: Network, *, entropy_weight: float = 0.1) -> None:
        super().__init__(network)
        self.entropy_weight = entropy_weight

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The mean entropy of the target predictions."""
        return {"entropy": entropy(out.logits_t)}
