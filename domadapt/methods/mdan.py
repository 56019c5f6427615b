"""Multi-source adversarial adaptation: one discriminator per source domain, the worst foremost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt.errors import DomadaptError
from domadapt.losses.adversarial import domain_loss
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("mdan")
class MDAN(Method):
    """Multisource domain adversarial network (Zhao et al., 2018, arXiv:1705.09684).

    Each source domain k has a discriminator between it and the target, with loss ``d_k`` and a
    reversed gradient as in `dann`, and a source loss ``l_k`` of its own. With ``mu`` the
    `domain_weight`, training descends the smooth maximum of the paper's bounds,
    ``1/gamma log sum_k exp(gamma (l_k - mu d_k))``: the gradients of ``l_k`` and ``mu d_k`` are
    averaged with weights ``softmax_k gamma (l_k - mu d_k)``, so that a domain counts the more, the
    worse it is classified and the more easily it is told from the target. A source domain without
    a sample in the batch counts for nothing there.

    With one source domain it is `dann`. The weights follow the paper's bound, which a domain that
    is easily told apart makes larger; the authors' code adds ``mu d_k`` instead of taking it away.
    It also takes ``mu = 0.01`` without a ramp; here the reversed gradient grows with the run's
    progress and mu is 1, as in `dann`.

    Args:
        domain_weight: factor of the domain losses, mu.
        gamma: how much the worst domain counts above the others; 0 weighs all alike.
        hidden: width of the two hidden layers of each discriminator.
    """

    setting = "multi-source"
    space = {"domain_weight": (0.1, 3.0, "log"), "gamma": (1.0, 30.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        domain_weight: float = 1.0,
        gamma: float = 10.0,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        if not gamma >= 0:
            raise DomadaptError(f"gamma must be at least 0; got {gamma}.")
        self.domain_weight = domain_weight
        self.gamma = gamma
        self.hidden = hidden
        self.discriminators = self._built(1)

    def setup(self, n_source: int, n_target: int) -> None:
        """One discriminator per source domain."""
        known = len(self.discriminators)
        self.discriminators.extend(list(self._built(self.n_domains))[known:])

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The domains' cross-entropies, averaged with their weights."""
        if self.n_domains == 1:
            return super().source_loss(out, batch)
        source = self._source(out, batch)
        with torch.no_grad():
            domain = self._domain(out, batch)
        return (self._weights(source, domain, batch) * source).sum()

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The discriminators' cross-entropies, averaged with the weights of their domains."""
        domain = self._domain(out, batch)
        weights = self._weights(self._source(out, batch), domain, batch)
        return {"domain": (weights * domain).sum()}

    def _built(self, n: int) -> nn.ModuleList:
        width, hidden = self.network.n_features, self.hidden
        return self.auxiliary(lambda: nn.ModuleList(Discriminator(width, hidden) for _ in range(n)))

    def _source(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The mean cross-entropy of each source domain, 0 where it has no sample."""
        which = _domains(batch)
        loss = cross_entropy(out.logits_s, labels(batch), reduction="none")
        mine = nn.functional.one_hot(which, self.n_domains).to(loss.dtype)
        return (mine * loss[:, None]).sum(0) / mine.sum(0).clamp_min(1.0)

    def _domain(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The cross-entropy of each source domain's discriminator, 0 where it has no sample."""
        which, coefficient = _domains(batch), ramp(batch.progress)
        sizes = which.bincount(minlength=self.n_domains).tolist()
        z_t = reverse_gradient(out.z_t, coefficient)
        losses = []
        several = cast(Iterable[Discriminator], self.discriminators)
        for k, (discriminator, size) in enumerate(zip(several, sizes, strict=True)):
            if size:
                z_s = reverse_gradient(out.z_s[which == k], coefficient)
                losses.append(domain_loss(*discriminator.both(z_s, z_t)))
            else:
                # Several processes must find every parameter in every step's graph.
                losses.append(0.0 * discriminator(z_t).float().sum())
        return torch.stack(losses)

    def _weights(self, source: Tensor, domain: Tensor, batch: Batch) -> Tensor:
        """The share of each source domain in this step; a constant."""
        bound = source.detach().float() - self.domain_weight * domain.detach().float()
        sizes = _domains(batch).bincount(minlength=self.n_domains)
        return torch.softmax((self.gamma * bound).masked_fill(sizes == 0, -torch.inf), dim=0)


def _domains(batch: Batch) -> Tensor:
    """The source domain of each source sample of a batch."""
    return torch.zeros_like(labels(batch)) if batch.domain_s is None else batch.domain_s
