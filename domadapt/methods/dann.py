"""Domain-adversarial training: a discriminator behind a gradient reversal."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.adversarial import domain_loss
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("dann")
class DANN(Method):
    """Domain-adversarial neural network (Ganin and Lempitsky, 2015, arXiv:1409.7495).

    A discriminator learns to tell the domains' features apart; its gradient reaches the backbone
    reversed and scaled by ``2 / (1 + exp(-10 p)) - 1``, p the share of the run that is done. The
    discriminator itself learns at full rate from the first step, as in the paper.

    Args:
        domain_weight: factor of the domain loss.
        hidden: width of the discriminator's two hidden layers.
    """

    needs_classes = False
    space = {"domain_weight": (0.1, 3.0, "log")}

    def __init__(self, network: Network, *, domain_weight: float = 1.0, hidden: int = 256) -> None:
        super().__init__(network)
        self.domain_weight = domain_weight
        self.hidden = hidden
        self.discriminator = self.auxiliary(lambda: Discriminator(network.n_features, hidden))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's cross-entropy."""
        coefficient = ramp(batch.progress)
        d_s, d_t = self.discriminator.both(
            reverse_gradient(out.z_s, coefficient), reverse_gradient(out.z_t, coefficient)
        )
        return {"domain": domain_loss(d_s, d_t)}
