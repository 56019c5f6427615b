"""SHOT: without the source, features move until the source's head is sure of them."""

from __future__ import annotations

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.prediction import infomax
from domadapt.losses.self_training import pseudo_label_loss
from domadapt.losses.source_free import centroid_labels
from domadapt.methods.base import BatchOutputs, Method, TargetView
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("shot")
class SHOT(Method):
    """Source hypothesis transfer (Liang et al., 2020, arXiv:2002.08546), source-free.

    The head is frozen. The rest learns to make each prediction certain and all of them together
    diverse, and to agree with labels from the nearest class centroid of the whole target, which
    are made anew several times a run.

    Departures: the paper trains the source model with label smoothing, and with weight
    normalisation in the head and BatchNorm in the bottleneck; here it is trained as all models
    are. As in the paper, and unlike in the authors' code, centroids are means of the features
    themselves (see `domadapt.losses.source_free.centroid_labels`). The learning rate of the
    backbone and the schedule are those of the run.

    Args:
        information_weight: factor of the mean entropy minus the entropy of the mean prediction.
        pseudo_weight: factor of the cross-entropy with the centroids' labels.
        rounds: how many times over the run the labels are made.
    """

    setting = "source-free"
    needs_source = False
    trains_on_confidence = True
    space = {"pseudo_weight": (0.03, 1.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        information_weight: float = 1.0,
        pseudo_weight: float = 0.3,
        rounds: int = 15,
    ) -> None:
        super().__init__(network)
        if rounds < 1:
            raise DomadaptError(f"rounds must be at least 1; got {rounds}.")
        self.information_weight = information_weight
        self.pseudo_weight = pseudo_weight
        self.rounds = self.refreshes = rounds
        network.head.requires_grad_(False)
        self.pseudo_labels: Tensor
        self.register_buffer("pseudo_labels", torch.empty(0, dtype=torch.long))

    def setup(self, n_source: int, n_target: int) -> None:
        """Room for one label per target sample; -1 means none."""
        self.register_buffer("pseudo_labels", self.pseudo_labels.new_full((n_target,), -1))

    def refresh(self, target: TargetView, progress: float) -> None:
        """Label every target sample by its nearest centroid."""
        self.pseudo_labels.copy_(centroid_labels(target.z, target.logits.float().softmax(1)))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Minus the mutual information, and cross-entropy with the labels of the centroids."""
        if batch.index_t is None:
            raise DomadaptError("shot needs index_t: which target samples the batch has.")
        label = self.pseudo_labels[batch.index_t]
        known = label >= 0
        return {
            "information": infomax(out.logits_t),
            "pseudo": pseudo_label_loss(out.logits_t, label, known),
        }
