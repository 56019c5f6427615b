"""Conditional adversarial training: a discriminator of features and predictions together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.losses.adversarial import (
    domain_loss,
    entropy_weights,
    multilinear,
    randomized_multilinear,
)
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch

#: The widest product that is taken whole; above it, fixed random projections take its place.
WIDEST = 4096


class RandomizedMap(nn.Module):
    """The product of features and predictions in `width` dimensions, by fixed random matrices."""

    def __init__(self, n_features: int, n_classes: int, width: int) -> None:
        super().__init__()
        self.r_z: Tensor
        self.r_p: Tensor
        self.register_buffer("r_z", torch.randn(n_features, width))
        self.register_buffer("r_p", torch.randn(n_classes, width))

    def forward(self, z: Tensor, p: Tensor) -> Tensor:
        """`z` ``(n, d)`` and `p` ``(n, c)`` as ``(n, width)``."""
        return randomized_multilinear(z, p, self.r_z, self.r_p)


@register("cdan")
class CDAN(Method):
    """Conditional domain-adversarial network, CDAN+E (Long et al., 2018, arXiv:1705.10667).

    As `dann`, but the discriminator is given the product of each sample's features and class
    probabilities, so that it compares the domains class by class, and sure samples weigh more.
    Where classes times features exceed 4,096, the product is replaced by a random projection of
    it, drawn once. The reversed gradient reaches the features only: the probabilities are
    constants, as in the authors' code, and so are the weights, which there carry a gradient.

    Args:
        domain_weight: factor of the domain loss.
        entropy_weighting: weigh each sample by 1 + exp(-entropy) of its prediction (CDAN+E).
        random_width: dimensions of the random projection, where it is needed.
        hidden: width of the discriminator's two hidden layers.
    """

    space = {"domain_weight": (0.1, 3.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        domain_weight: float = 1.0,
        entropy_weighting: bool = True,
        random_width: int = 1024,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        if random_width < 1:
            raise DomadaptError(f"random_width must be at least 1; got {random_width}.")
        self.domain_weight = domain_weight
        self.entropy_weighting = entropy_weighting
        self.random_width = random_width
        self.hidden = hidden
        n_features, n_classes = network.n_features, network.n_classes
        width = n_features * n_classes
        self.projection: RandomizedMap | None = None
        if width > WIDEST:
            width = random_width
            self.projection = self.auxiliary(lambda: RandomizedMap(n_features, n_classes, width))
        self.discriminator = self.auxiliary(lambda: Discriminator(width, hidden))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's cross-entropy."""
        coefficient = ramp(batch.progress)
        d_s, d_t = self.discriminator.both(
            self._conditioned(reverse_gradient(out.z_s, coefficient), out.logits_s),
            self._conditioned(reverse_gradient(out.z_t, coefficient), out.logits_t),
        )
        if not self.entropy_weighting:
            return {"domain": domain_loss(d_s, d_t)}
        w_s, w_t = entropy_weights(out.logits_s), entropy_weights(out.logits_t)
        return {"domain": domain_loss(d_s, d_t, w_s, w_t)}

    def _conditioned(self, z: Tensor, logits: Tensor) -> Tensor:
        """What the discriminator is given: features and predictions together."""
        p = logits.detach().softmax(1)
        return multilinear(z, p) if self.projection is None else self.projection(z, p)
