"""Batch nuclear-norm maximisation: target predictions that are certain and of many classes."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.prediction import bnm
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("bnm")
class BNM(Method):
    """Batch nuclear-norm maximisation (Cui et al., 2020, arXiv:2003.12237).

    Adds ``-|P|_* / n``, P the target predictions of a batch of n. The norm can tell at most n
    classes apart, so the target batch should not be smaller than the number of classes.

    The authors' code divides by ``min(n, classes)`` instead of n, as does the weight of 1 that
    they give there; see `domadapt.losses.prediction.bnm`.

    Args:
        bnm_weight: factor of the negative nuclear norm.
    """

    trains_on_confidence = True
    space = {"bnm_weight": (0.1, 3.0, "log")}

    def __init__(self, network: Network, *, bnm_weight: float = 1.0) -> None:
        super().__init__(network)
        self.bnm_weight = bnm_weight

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The negative nuclear norm of the target predictions, per sample."""
        return {"bnm": bnm(out.logits_t)}
