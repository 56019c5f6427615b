"""Deep adaptation network: features aligned by their maximum mean discrepancy."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from domadapt.losses.mmd import mmd
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("dan")
class DAN(Method):
    """Deep adaptation network (Long et al., 2015, arXiv:1502.02791).

    Adds the multi-kernel MMD between the domains, summed over layers. The paper aligns the last
    three fully connected layers of AlexNet; here they are the features and, on request, the
    logits. See `domadapt.losses.mmd.mmd` for the kernels.

    Args:
        mmd_weight: factor of the discrepancy.
        kernels: number of Gaussian kernels, their bandwidths a factor of 2 apart.
        estimator: "unbiased" (as in the paper; may be negative on a batch) or "biased".
        layers: what is aligned: "features", or "both" features and logits.
    """

    needs_classes = False
    space = {"mmd_weight": (0.1, 10.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        mmd_weight: float = 1.0,
        kernels: int = 5,
        estimator: Literal["unbiased", "biased"] = "unbiased",
        layers: Literal["features", "both"] = "features",
    ) -> None:
        super().__init__(network)
        self.mmd_weight = mmd_weight
        self.kernels = kernels
        self.estimator: Literal["unbiased", "biased"] = estimator
        self.layers = layers

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The discrepancy of the aligned layers."""
        value = self._mmd(out.z_s, out.z_t)
        if self.layers == "both":
            value = value + self._mmd(out.logits_s, out.logits_t)
        return {"mmd": value}

    def _mmd(self, s: Tensor, t: Tensor) -> Tensor:
        return mmd(s, t, estimator=self.estimator, kernels=self.kernels)
