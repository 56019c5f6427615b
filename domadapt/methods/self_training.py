"""Class-balanced self-training: the surest target predictions of each class become labels."""

from __future__ import annotations

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.self_training import (
    class_balanced_labels,
    class_thresholds,
    pseudo_label_loss,
)
from domadapt.methods.base import BatchOutputs, Method, TargetView
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("self_training")
class SelfTraining(Method):
    """Class-balanced self-training, CBST (Zou et al., 2018, arXiv:1810.07911).

    Several times a run the whole target is predicted; the surest portion of each predicted class
    gets that class as its label until the next round, and joins the source loss at equal weight
    per sample. The portion grows from round to round. The paper trains on the source to the end
    before its first round; here that is the first part of the run, set by `start`.

    Args:
        pseudo_weight: factor of the cross-entropy on pseudo-labels.
        start: share of the run that trains on the source alone, in [0, 1).
        first_portion: share of each class that is labelled in the first round.
        last_portion: the same in the last round.
        rounds: how many times over the whole run the target is predicted; those before `start`
            label nothing.
    """

    trains_on_confidence = True
    space = {"pseudo_weight": (0.1, 3.0, "log"), "last_portion": (0.3, 0.9, "linear")}

    def __init__(
        self,
        network: Network,
        *,
        pseudo_weight: float = 1.0,
        start: float = 0.2,
        first_portion: float = 0.2,
        last_portion: float = 0.5,
        rounds: int = 10,
    ) -> None:
        super().__init__(network)
        if rounds < 1:
            raise DomadaptError(f"rounds must be at least 1; got {rounds}.")
        if not 0 <= start < 1:
            raise DomadaptError(f"start must lie in [0, 1); got {start}.")
        if start > 1 - 1 / rounds + 1e-9:
            raise DomadaptError(
                f"With {rounds} rounds the last begins at {1 - 1 / rounds:.3g} of the run, before "
                f"start = {start}: no sample would ever be labelled. Raise rounds or lower start."
            )
        if not 0 < first_portion <= last_portion <= 1:
            raise DomadaptError(
                "The portions must satisfy 0 < first_portion <= last_portion <= 1; got "
                f"{first_portion} and {last_portion}."
            )
        self.pseudo_weight = pseudo_weight
        self.start = start
        self.first_portion = first_portion
        self.last_portion = last_portion
        self.rounds = self.refreshes = rounds
        self.pseudo_labels: Tensor
        self.register_buffer("pseudo_labels", torch.empty(0, dtype=torch.long))

    def setup(self, n_source: int, n_target: int) -> None:
        """Room for one label per target sample; -1 means none."""
        unlabelled = torch.full((n_target,), -1, device=self.pseudo_labels.device)
        self.register_buffer("pseudo_labels", unlabelled)

    def portion(self, progress: float) -> float:
        """The share of each class to label: linear from `start` to the last round."""
        last = 1 - 1 / self.rounds
        done = (progress - self.start) / (last - self.start) if last > self.start else 1.0
        share = min(max(done, 0.0), 1.0)
        return self.first_portion + share * (self.last_portion - self.first_portion)

    def refresh(self, target: TargetView, progress: float) -> None:
        """Label the surest target samples of each class anew."""
        # Rounding must not put off the round that falls on `start` itself.
        if progress < self.start - 1e-9:
            return
        p = target.logits.float().softmax(1)
        label, selected = class_balanced_labels(p, class_thresholds(p, self.portion(progress)))
        self.pseudo_labels.copy_(torch.where(selected, label, torch.full_like(label, -1)))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on the labelled target samples of the batch."""
        if batch.index_t is None:
            raise DomadaptError("self_training needs index_t: which target samples the batch has.")
        label = self.pseudo_labels[batch.index_t]
        return {"pseudo": pseudo_label_loss(out.logits_t, label, label >= 0)}
