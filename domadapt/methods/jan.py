"""Joint adaptation network: features and predictions aligned together."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from domadapt.losses.mmd import joint_mmd
from domadapt.losses.precision import at_least_float32
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.ops import ramp
from domadapt.task import Batch


@register("jan")
class JAN(Method):
    """Joint adaptation network (Long et al., 2017, arXiv:1605.06636).

    Adds the joint MMD of features and softmax outputs: the kernel of two samples is the product of
    a mixture of Gaussians on the features and one Gaussian on the class probabilities. See
    `domadapt.losses.mmd.joint_mmd`. Its weight rises from 0 as
    ``2 / (1 + exp(-10 p)) - 1``, p the share of the run that is done.

    Departures: the unbiased estimate over all pairs, for any two batch sizes, where the paper
    trains with a linear-time one. The adversarial version (JAN-A) is left out. The size of the
    features does not matter.

    Args:
        jmmd_weight: factor of the joint discrepancy.
        kernels: number of Gaussian kernels on the features, their bandwidths a factor of 2 apart.
        label_scale: bandwidth of the kernel on the class probabilities; 1.68 is the authors'.
        estimator: "unbiased" (may be negative on a batch) or "biased".
    """

    ramps = {"jmmd": ramp}
    space = {"jmmd_weight": (0.1, 10.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        jmmd_weight: float = 1.0,
        kernels: int = 5,
        label_scale: float = 1.68,
        estimator: Literal["unbiased", "biased"] = "unbiased",
    ) -> None:
        super().__init__(network)
        self.jmmd_weight = jmmd_weight
        self.kernels = kernels
        self.label_scale = label_scale
        self.estimator: Literal["unbiased", "biased"] = estimator

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The joint discrepancy of features and predictions."""
        value = joint_mmd(
            out.z_s,
            out.z_t,
            at_least_float32(out.logits_s).softmax(1),
            at_least_float32(out.logits_t).softmax(1),
            estimator=self.estimator,
            kernels=self.kernels,
            label_scale=self.label_scale,
        )
        return {"jmmd": value}
