"""Training on the source alone: the baseline of every comparison."""

from __future__ import annotations

from torch import Tensor

from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("source_only")
class SourceOnly(Method):
    """Cross-entropy on the labelled source; no target sample is seen.

    Args:
        joint_forward: pass target samples through the network as well, without any loss on them.
            BatchNorm then sees both domains, as it does in every other method: the yardstick of
            what a method's terms alone contribute. The baseline that is reported never sets it.
    """

    needs_target = False
    needs_classes = False
    loss_tells = True

    def __init__(self, network: Network, *, joint_forward: bool = False) -> None:
        super().__init__(network)
        self.joint_forward = joint_forward
        if joint_forward:
            self.needs_target = True

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Nothing is added."""
        return {}
