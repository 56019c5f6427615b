"""Adversarial discriminative adaptation: a target encoder that imitates a fixed source encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.func import functional_call

from domadapt.errors import DomadaptError
from domadapt.losses.adversarial import domain_loss, inverted_loss
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.task import Batch


@register("adda")
class ADDA(Method):
    """Adversarial discriminative domain adaptation (Tzeng et al., 2017, arXiv:1702.05464).

    First the network learns the source. Then a copy of it, the source encoder, stays as it is, and
    the network becomes the target encoder: it learns to make the discriminator take target
    features for the copy's source features (inverted labels). The head stays as it was, and no
    source loss moves the encoder any more; the curve of the source loss is then that of the copy.
    The curve ``domain`` is the discriminator's own loss throughout.

    The discriminator begins with the second part as well, and must: one that learns during the
    first already tells the domains apart with certainty, and its gradient then tore the target's
    features to pieces (embedded digits). Departures: in the first part BatchNorm sees both domains
    if the setting says so, while in the second each encoder has statistics of its own, the
    source's fixed, as two networks would. The second part goes on with the learning rate of the
    run; the authors' takes a lower one.

    Args:
        start: share of the run that trains on the source, in [0, 1); 0 for a network that is
            already trained on it.
        hidden: width of the discriminator's two hidden layers.
    """

    needs_classes = False
    no_neutral = "After `start` the source loss trains nothing, whatever else is minimised."
    space = {"start": (0.2, 0.8, "linear")}

    def __init__(self, network: Network, *, start: float = 0.5, hidden: int = 256) -> None:
        super().__init__(network)
        if not 0 <= start < 1:
            raise DomadaptError(f"start must lie in [0, 1); got {start}.")
        self.start = start
        self.hidden = hidden
        self.discriminator = self.auxiliary(lambda: Discriminator(network.n_features, hidden))
        self.source = self.auxiliary(lambda: copy.deepcopy(network)).requires_grad_(False)
        self.copied: Tensor
        self.register_buffer("copied", torch.tensor(False))

    def outputs(self, batch: Batch) -> BatchOutputs:
        """The joint pass, or, after `start`, the source through the copy and the target alone."""
        if batch.progress < self.start:
            return super().outputs(batch)
        if batch.x_s is None or batch.x_t is None:
            raise DomadaptError("adda needs source and target samples in every batch.")
        if not self.copied:
            self.source.load_state_dict(self.network.state_dict())
            self.copied.fill_(True)
        with torch.no_grad():
            z_s = self.source.eval().features(batch.x_s)
        z_t = self.network.features(batch.x_t)
        # The source loss reaches the head alone, and `after_step` undoes what that does: several
        # processes expect a gradient of every parameter.
        return BatchOutputs(z_s, z_t, self.network.head(z_s), self.network.head(z_t))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's cross-entropy, with the encoder's own gradient after `start`.

        Before it the value is for the curves: its weight is 0.
        """
        d_s, d_t = self.discriminator.both(out.z_s.detach(), out.z_t.detach())
        value = domain_loss(d_s, d_t)
        if batch.progress >= self.start:
            layers = self.discriminator.layers
            fixed = {name: p.detach() for name, p in layers.named_parameters()}
            fooled = inverted_loss(functional_call(layers, fixed, (out.z_t,)).squeeze(-1))
            # Its gradient without its value: the sum of both losses would tell nothing.
            value = value + fooled - fooled.detach()
        return {"domain": value}

    def weight(self, term: str, progress: float) -> float:
        """1 from `start` on, 0 before."""
        return float(progress >= self.start)

    def after_step(self, progress: float) -> None:
        """After `start`, put the head back."""
        if progress >= self.start:
            self.network.head.load_state_dict(self.source.head.state_dict())
