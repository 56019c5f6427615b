"""Deep CORAL: features aligned by their covariances."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.coral import coral
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("deep_coral")
class DeepCORAL(Method):
    """Deep CORAL (Sun and Saenko, 2016, arXiv:1607.01719).

    Adds the squared distance between the covariances of the domains' features. The paper applies
    it to the last layer's outputs; here it acts on the features that the head classifies.

    Args:
        coral_weight: factor of the distance. The paper sets it such that the distance and the
            source loss are of like size at the end of training.
    """

    needs_classes = False
    space = {"coral_weight": (1.0, 1000.0, "log")}

    def __init__(self, network: Network, *, coral_weight: float = 100.0) -> None:
        super().__init__(network)
        self.coral_weight = coral_weight

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The distance between the covariances."""
        return {"coral": coral(out.z_s, out.z_t)}
