"""Partial adversarial adaptation: source classes that the target lacks count for less."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from domadapt.errors import DomadaptError
from domadapt.losses.prediction import entropy
from domadapt.methods.base import BatchOutputs, Method, TargetView, labels
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("pada")
class PADA(Method):
    """Partial adversarial domain adaptation (Cao et al., 2018, arXiv:1808.04205).

    For a target that lacks some of the source's classes. The weight of class c is the mean target
    prediction of c, divided by the largest such mean. A source sample counts with the weight of
    its class in the source loss, which is divided by the batch's sum of weights, and on the
    source side of the domain loss of `dann`, which is not, as in the authors' code:
    ``1/2 [ mean_s w softplus(-d_s) + mean_t softplus(d_t) ]``. The weights are renewed ten times a
    run; until the first renewal after the start all are 1.

    Two departures. The mean entropy of the target predictions is added, as in `iwan`: unsure
    predictions spread over classes that the target lacks, whose weights then stay, and a class
    that is missed at first loses its weight and is missed for good. Without it (`entropy_weight`
    0, as in the paper) the method fell below training on the source alone, on one of two partial
    tasks of the embedded digits and on partial Office-31 features; there the `entropy` method by
    itself does as well as this one (``benchmarks/partial.py``). The reversed gradient grows with
    the run's progress, as in `dann`, instead of with the number of steps.

    BatchNorm sees both domains as one batch, whatever ``batch_statistics`` says: with fewer classes
    the target has another mean, and without it what tells the missing classes apart would be lost.

    Args:
        domain_weight: factor of the domain loss.
        entropy_weight: factor of the mean entropy of the target predictions.
        class_weight: how far the classes' weights are followed: 1 as in the paper, 0 not at all;
            between them each is drawn towards 1.
        hidden: width of the discriminator's two hidden layers.
    """

    setting = "partial"
    joins_domains = True
    trains_on_confidence = True
    refreshes = 10
    space = {"domain_weight": (0.1, 3.0, "log"), "entropy_weight": (0.01, 1.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        domain_weight: float = 1.0,
        entropy_weight: float = 0.1,
        class_weight: float = 1.0,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        if not 0 <= class_weight <= 1:
            raise DomadaptError(f"class_weight must lie between 0 and 1; got {class_weight}.")
        self.domain_weight = domain_weight
        self.entropy_weight = entropy_weight
        self.class_weight = class_weight
        self.hidden = hidden
        self.discriminator = self.auxiliary(lambda: Discriminator(network.n_features, hidden))
        self.classes: Tensor
        self.register_buffer("classes", torch.ones(network.n_classes))

    def refresh(self, target: TargetView, progress: float) -> None:
        """Renew the classes' weights from the mean target prediction."""
        # An untrained network has nothing to say of the target's classes.
        if progress > 0:
            self.classes.copy_(class_shares(target.logits))

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """Cross-entropy, each sample with the weight of its class."""
        if self.class_weight == 0:
            return super().source_loss(out, batch)
        w = self._weights(batch)
        loss = cross_entropy(out.logits_s, labels(batch), reduction="none")
        return (w * loss).sum() / w.sum()

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The domain loss, its source side weighted by class, and the target's entropy."""
        coefficient = ramp(batch.progress)
        d_s, d_t = self.discriminator.both(
            reverse_gradient(out.z_s, coefficient), reverse_gradient(out.z_t, coefficient)
        )
        domain = 0.5 * ((self._weights(batch) * softplus(-d_s)).mean() + softplus(d_t).mean())
        return {"domain": domain, "entropy": entropy(out.logits_t)}

    def _weights(self, batch: Batch) -> Tensor:
        return torch.lerp(torch.ones_like(self.classes), self.classes, self.class_weight)[
            labels(batch)
        ]


def class_shares(logits: Tensor) -> Tensor:
    """Mean predictions ``(classes,)`` of `logits` ``(n, classes)``, divided by the largest.

    Never quite 0, so that a batch of absent classes alone still has a weighted mean.
    """
    mean = logits.float().softmax(1).mean(0)
    return (mean / mean.max()).clamp_min(1e-6)
