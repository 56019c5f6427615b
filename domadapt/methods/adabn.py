"""AdaBN: the statistics of BatchNorm become the target's; nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from domadapt import ops
from domadapt.errors import DomadaptError
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("adabn")
class AdaBN(Method):
    """Adaptive batch normalisation (Li et al., 2016, arXiv:1603.04779), source-free.

    The mean and variance of every BatchNorm layer are replaced by those of the target; weights
    stay. The target passes through the network once, and the statistics are the averages over
    the batches. A batch passes normalised by its own statistics, so that a deep layer sees what
    small batches make of the layers before it: larger batches are more exact.

    Departures from the paper: it averages over all images with a running sum of each layer; here
    a layer's variance is the average of the batches' unbiased variances, whose expectation is the
    same. Dropout is off meanwhile, as it is where the statistics are used.

    Args:
        passes: how often the target passes through the network.
    """

    setting = "test-time"
    needs_source = False
    needs_batchnorm = True
    needs_classes = False
    trains = False
    online = True
    single_process = "the statistics would be those of the samples that one process has seen."
    no_neutral = "adabn has no loss and no weight; it changes what the source's network was."

    def __init__(self, network: Network, *, passes: int = 1) -> None:
        super().__init__(network)
        if passes < 1:
            raise DomadaptError(f"passes must be at least 1; got {passes}.")
        self.passes = passes

    def setup(self, n_source: int, n_target: int) -> None:
        """Forget the source's statistics."""
        ops.restart_statistics(self.network)

    def steps_for(self, asked: int, per_pass: int) -> int:
        """As many as the passes take, whatever was asked for."""
        return self.passes * per_pass

    @torch.no_grad()
    def outputs(self, batch: Batch) -> BatchOutputs:
        """One pass through the network, in which only BatchNorm leaves evaluation mode."""
        if self.training:
            ops.train_batchnorm_alone(self.network)
        return super().outputs(batch)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Nothing: the pass through the network was all."""
        return {}
