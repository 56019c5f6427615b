"""Mean teacher: the network agrees on the target with the running average of itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32
from domadapt.losses.self_training import class_balance_loss, consistency_loss
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("mean_teacher")
class MeanTeacher(Method):
    """Self-ensembling for domain adaptation (French et al., 2018, arXiv:1706.05208).

    The teacher's weights are a running average of the network's. Where the teacher is confident
    about the weak view of a target sample, the network's probabilities for the strong view are
    drawn towards the teacher's by their squared difference. A second term keeps the predicted
    classes equally frequent; it counts in proportion to the share of confident samples. **The
    teacher is the model that is kept**, as in the authors' code.

    As there, the teacher sees target samples only: its BatchNorm normalises by them, and its
    running statistics, which the kept model has, are those of the target.

    Departures: both views of the paper are drawn alike, here one is weak and one strong; the
    teacher of the last step is kept, where the authors keep that of the epoch with the most
    confident samples.

    Args:
        consistency_weight: factor of the squared difference.
        balance_weight: factor of the class balance; the authors' 0.005 within a term that they
            multiply by 3.
        threshold: probability that the teacher's prediction must exceed to be followed.
        decay: share of the teacher's old weights that each step keeps.
    """

    needs_strong = True
    trains_on_confidence = True
    space = {
        "consistency_weight": (0.3, 30.0, "log"),
        "balance_weight": (0.001, 0.1, "log"),
        "threshold": (0.7, 0.98, "linear"),
    }

    def __init__(
        self,
        network: Network,
        *,
        consistency_weight: float = 3.0,
        balance_weight: float = 0.015,
        threshold: float = 0.968,
        decay: float = 0.99,
    ) -> None:
        super().__init__(network)
        if not 0 <= threshold < 1:
            raise DomadaptError(f"threshold must lie in [0, 1); got {threshold}.")
        if not 0 <= decay < 1:
            raise DomadaptError(f"decay must lie in [0, 1); got {decay}.")
        self.consistency_weight = consistency_weight
        self.balance_weight = balance_weight
        self.threshold = threshold
        self.decay = decay
        self.teacher = self.auxiliary(lambda: copy.deepcopy(network)).requires_grad_(False)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Squared difference to the teacher, and the class balance, of strong target views."""
        if batch.x_t is None:
            raise DomadaptError("mean_teacher needs target samples: the batch has none.")
        with torch.no_grad():
            p = at_least_float32(self.teacher(batch.x_t)).softmax(1)
        confident = p.amax(1) > self.threshold
        share = confident.to(p.dtype).mean()
        return {
            "consistency": consistency_loss(out.logits_t_strong, p, confident),
            "balance": share * class_balance_loss(out.logits_t_strong),
        }

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher's weights, not its BatchNorm statistics, towards the network's."""
        pairs = zip(self.teacher.parameters(), self.network.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight.to(average.dtype), 1.0 - self.decay)

    def adapted(self) -> Network:
        """The teacher."""
        return self.teacher
