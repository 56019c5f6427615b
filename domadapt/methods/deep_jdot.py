"""DeepJDOT: source labels carried to the target by optimal transport of each batch."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.transport import (
    coupling,
    feature_cost,
    label_cost,
    transport_cost,
    unit_cost,
)
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.ops import ramp
from domadapt.task import Batch


@register("deep_jdot")
class DeepJDOT(Method):
    """Deep joint distribution optimal transport (Damodaran et al., 2018, arXiv:1803.10081).

    Each step couples the source and target samples of the batch by exact optimal transport with
    the cost ``feature_weight |z_s - z_t|^2 / m + label_weight CE(y_s, p_t)``, then, with the
    coupling as a constant, adds both parts of that cost to the source loss: coupled features draw
    near, and target samples learn the labels that are coupled to them. m is the batch's mean of
    ``|z_s - z_t|^2``, a constant. Both weights rise as ``2 / (1 + exp(-10 p)) - 1``, p the share
    of the run that is done.

    Departures: the paper does not divide by m, so that its weights (0.001 for the features and
    0.0001 for the labels in the authors' code for SVHN) mean something else with every width and
    size of features; here they do not. It starts from a network that was trained on the source,
    where here the weights begin at 0. It draws source batches with equally many samples of each
    class; here they come as they are, and since a coupling gives the target batch the labels of
    the source batch, small batches and different class shares make wrong labels: prefer batches
    of several samples per class. The authors' code couples by ``|y_s - p_t|^2``; here, as in the
    paper, the cost that is coupled is the cost that is minimised.

    Args:
        feature_weight: factor of the transported features' distance, relative to their mean
            distance; also its part in the coupling.
        label_weight: factor of the transported labels' cross-entropy; also its part in the
            coupling.
    """

    trains_on_confidence = True
    ramps = {"feature": ramp, "label": ramp}
    space = {"feature_weight": (0.1, 10.0, "log"), "label_weight": (0.01, 1.0, "log")}

    def __init__(
        self, network: Network, *, feature_weight: float = 1.0, label_weight: float = 0.1
    ) -> None:
        super().__init__(network)
        self.feature_weight = feature_weight
        self.label_weight = label_weight

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The transported distance of the features and cross-entropy of the labels."""
        features = feature_cost(out.z_s, out.z_t)
        features = features / unit_cost(features)
        classes = label_cost(labels(batch), out.logits_t)
        plan = coupling(self.feature_weight * features + self.label_weight * classes)
        return {
            "feature": transport_cost(plan, features),
            "label": transport_cost(plan, classes),
        }
