"""Minimum class confusion: target predictions that do not mix classes."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.prediction import mcc
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("mcc")
class MCC(Method):
    """Minimum class confusion (Jin et al., 2020, arXiv:1912.03699).

    Adds the share of class confusion in the target predictions of a batch. It sees no feature
    and no source sample, so it goes with any other method.

    Args:
        mcc_weight: factor of the class confusion.
        temperature: what the target logits are divided by before the softmax.
    """

    trains_on_confidence = True
    space = {"mcc_weight": (0.1, 3.0, "log"), "temperature": (1.0, 5.0, "linear")}

    def __init__(
        self, network: Network, *, mcc_weight: float = 1.0, temperature: float = 2.5
    ) -> None:
        super().__init__(network)
        self.mcc_weight = mcc_weight
        self.temperature = temperature

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The class confusion of the target predictions."""
        return {"mcc": mcc(out.logits_t, self.temperature)}
