"""Importance weighted adversarial nets: one discriminator weights the other's source samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from domadapt.losses.adversarial import domain_loss
from domadapt.losses.prediction import entropy
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("iwan")
class IWAN(Method):
    """Importance weighted adversarial nets (Zhang et al., 2018, arXiv:1803.09210).

    For a target that lacks some of the source's classes. An auxiliary discriminator, from which
    no gradient reaches the features, says how likely a sample is of the source; a source sample
    that it is sure of has no like in the target. ``w = 1 - D(z)``, divided by its mean over the
    batch's source samples, weights the source side of the domain loss of a second discriminator,
    whose gradient is reversed as in `dann`. The mean entropy of the target predictions is added.

    The paper first trains a source network, keeps it fixed for the source side and the weights,
    and adapts a copy for the target; here one network serves both, and is trained on the source
    loss throughout. The reversed gradient grows with the run's progress, as in `dann`. On partial
    Office-31 features the `entropy` method by itself does as well (``benchmarks/partial.py``).

    BatchNorm sees both domains as one batch, whatever ``batch_statistics`` says: with fewer classes
    the target has another mean, and without it what tells the missing classes apart would be lost.

    Args:
        domain_weight: factor of the weighted domain loss.
        entropy_weight: factor of the mean entropy of the target predictions.
        hidden: width of both discriminators' two hidden layers.
    """

    setting = "partial"
    joins_domains = True
    trains_on_confidence = True
    space = {"domain_weight": (0.1, 3.0, "log"), "entropy_weight": (0.01, 1.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        domain_weight: float = 1.0,
        entropy_weight: float = 0.1,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        self.domain_weight = domain_weight
        self.entropy_weight = entropy_weight
        self.hidden = hidden
        two = self.auxiliary(
            lambda: nn.ModuleList(Discriminator(network.n_features, hidden) for _ in range(2))
        )
        self.discriminator, self.judge = cast(Iterable[Discriminator], two)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The weighted domain loss, the auxiliary discriminator's own, and the target's entropy."""
        judged_s, judged_t = self.judge.both(out.z_s.detach(), out.z_t.detach())
        coefficient = ramp(batch.progress)
        d_s, d_t = self.discriminator.both(
            reverse_gradient(out.z_s, coefficient), reverse_gradient(out.z_t, coefficient)
        )
        return {
            "domain": domain_loss(d_s, d_t, importance(judged_s.detach())),
            "judge": domain_loss(judged_s, judged_t),
            "entropy": entropy(out.logits_t),
        }


def importance(d_s: Tensor) -> Tensor:
    """Weights ``(n,)`` of mean 1 in proportion to ``1 - sigmoid(d_s)``, which may be tiny."""
    return len(d_s) * torch.softmax(logsigmoid(-d_s.float()), dim=0)
