"""Tent: the scales and shifts of BatchNorm learn to be certain, while the target passes by."""

from __future__ import annotations

from torch import Tensor

from domadapt import ops
from domadapt.errors import DomadaptError
from domadapt.losses.prediction import entropy
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("tent")
class Tent(Method):
    """Test-time entropy minimisation (Wang et al., 2021, arXiv:2006.10726), source-free.

    Batches are normalised by their own statistics, and one step of each lowers the mean entropy of
    its predictions by the scales and shifts of BatchNorm alone. With small batches, or batches of
    few classes, both the statistics and the gradient mislead.

    Departure from the paper and the authors' code, which score each batch as it comes, always by
    its own statistics: here the running statistics become the target's, averaged over the
    batches, so that the network that is kept carries the adaptation in evaluation mode. Dropout
    is off, which the code leaves on.

    Args:
        entropy_weight: factor of the mean entropy.
        passes: how often the target passes through the network.
    """

    setting = "test-time"
    needs_source = False
    needs_batchnorm = True
    online = True
    single_process = "the statistics would be those of the samples that one process has seen."
    trains_on_confidence = True

    def __init__(self, network: Network, *, entropy_weight: float = 1.0, passes: int = 1) -> None:
        super().__init__(network)
        if passes < 1:
            raise DomadaptError(f"passes must be at least 1; got {passes}.")
        self.entropy_weight = entropy_weight
        self.passes = passes
        network.requires_grad_(False)
        for layer in ops.batchnorms(network):
            layer.requires_grad_(True)

    def setup(self, n_source: int, n_target: int) -> None:
        """Forget the source's statistics."""
        ops.restart_statistics(self.network)

    def steps_for(self, asked: int, per_pass: int) -> int:
        """As many as the passes take, whatever was asked for."""
        return self.passes * per_pass

    def outputs(self, batch: Batch) -> BatchOutputs:
        """One pass through the network, in which only BatchNorm leaves evaluation mode."""
        if self.training:
            ops.train_batchnorm_alone(self.network)
        return super().outputs(batch)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Mean entropy of the batch's predictions."""
        return {"entropy": entropy(out.logits_t)}
