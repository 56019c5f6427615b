"""FixMatch: confident predictions for weak target views are the labels of strong ones."""

from __future__ import annotations

from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32
from domadapt.losses.self_training import pseudo_label_loss
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("fixmatch")
class FixMatch(Method):
    """FixMatch (Sohn et al., 2020, arXiv:2001.07685), with the target as the unlabelled data.

    The predicted class of a weak view of a target sample is the label of its strong view, where
    the prediction's probability reaches a fixed threshold. Nothing is learnt from the target as
    long as no prediction does. `adamatch` measures the threshold by the source's confidence and
    aligns the class proportions as well.

    Departures from the paper: the last weights are kept, not their running average (which the
    training setting ``ema`` keeps); target batches are as large as the source's unless the run
    says otherwise (the paper takes seven times as many); strong views are those of this package.
    BatchNorm sees the weak views in one pass and the strong ones in another.

    Args:
        pseudo_weight: factor of the cross-entropy on strong views.
        threshold: probability that a prediction must reach to become a label.
    """

    needs_strong = True
    trains_on_confidence = True
    space = {"pseudo_weight": (0.3, 3.0, "log"), "threshold": (0.7, 0.98, "linear")}

    def __init__(
        self, network: Network, *, pseudo_weight: float = 1.0, threshold: float = 0.95
    ) -> None:
        super().__init__(network)
        if not 0 <= threshold < 1:
            raise DomadaptError(f"threshold must lie in [0, 1); got {threshold}.")
        self.pseudo_weight = pseudo_weight
        self.threshold = threshold

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of strong target views with the confident labels of the weak ones."""
        confidence, label = at_least_float32(out.logits_t.detach()).softmax(1).max(1)
        selected = confidence >= self.threshold
        return {"pseudo": pseudo_label_loss(out.logits_t_strong, label, selected)}
