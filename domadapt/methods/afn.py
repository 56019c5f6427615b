"""Adaptive feature norm: features of both domains are made longer, step by step."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.norms import norm_step
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("afn")
class AFN(Method):
    """Stepwise adaptive feature norm (Xu et al., 2019, arXiv:1811.07456).

    Adds ``mean (|z| - r - step)^2`` of both domains, r the sample's own norm taken as a constant:
    each feature is asked to be a step longer than it is. The paper holds that features with small
    norms are the ones that transfer badly. The logged value is the constant ``2 step^2``; only its
    gradient does anything.

    **The step is in units of the features.** The default, the authors', suits norms of 10 and
    more, as a layer of a hundred units with BatchNorm has. For features 100 times smaller it
    outweighs the source loss, for features 100 times larger it does next to nothing: set `step`
    to a few hundredths of the usual norm.

    Departures: the authors' norm-preserving dropout is a matter of the network and left out, as
    is the entropy term that they add on some data sets, and the variant with one norm for all
    samples (HAFN).

    Args:
        norm_weight: factor of the norms' term.
        step: how much longer than it is each feature is to be.
    """

    needs_classes = False
    space = {"norm_weight": (0.005, 0.5, "log"), "step": (0.1, 10.0, "log")}

    def __init__(self, network: Network, *, norm_weight: float = 0.05, step: float = 1.0) -> None:
        super().__init__(network)
        self.norm_weight = norm_weight
        self.step = step

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The step of the norms, of both domains."""
        return {"norm": norm_step(out.z_s, self.step) + norm_step(out.z_t, self.step)}
