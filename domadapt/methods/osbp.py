"""Open-set adaptation by backpropagation: the network may keep a target sample or reject it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from domadapt.errors import DomadaptError
from domadapt.losses.open_set import boundary_loss, unknown_log_odds
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.open_set import ExtraOutput, open_network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("osbp")
class OSBP(Method):
    """Open-set adaptation by backpropagation (Saito et al., 2018, arXiv:1804.10427).

    The classifier has one class more, "unknown". It learns to give every target sample the
    probability `threshold` of being unknown; the features, whose gradient is reversed, learn the
    opposite: to move each sample to one side of that boundary, among the known classes or beyond.
    Every source class is expected to occur in the target.

    The cross-entropy of the classes and unknown together is that of the classes alone (the usual
    source loss) plus ``softplus(v)``, with v the log-odds of unknown: the term ``known``. So the
    factors 1 and 1 are the paper's objective, and 0 and 0 are training on the source alone.

    On a task without unknown classes the outputs of the classes alone are kept. Departures: the
    reversed gradient grows with the run's progress, as in `dann`, where the authors' code has its
    full strength from the first step. With that the features of a network trained from random
    weights went to the far side of the boundary before the classes were learnt (embedded digits:
    three of four samples of known class were rejected). Source and target samples pass through the
    network together; where the head has several layers, unknown has one linear layer on the
    features.

    Args:
        known_weight: factor of the source samples' loss of not being unknown.
        boundary_weight: factor of the target samples' cross-entropy with the threshold.
        threshold: the probability of unknown that the classifier aims at, between 0 and 1.
    """

    setting = "open set"
    space = {"boundary_weight": (0.1, 3.0, "log"), "threshold": (0.3, 0.7, "linear")}

    def __init__(
        self,
        network: Network,
        *,
        known_weight: float = 1.0,
        boundary_weight: float = 1.0,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(network)
        if not 0 < threshold < 1:
            raise DomadaptError(f"threshold must lie between 0 and 1; got {threshold}.")
        self.known_weight = known_weight
        self.boundary_weight = boundary_weight
        self.threshold = threshold
        self.unknown = self.auxiliary(lambda: ExtraOutput(network.n_features))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Source samples are not unknown; target samples are pushed to the boundary, or from it."""
        z_t = reverse_gradient(out.z_t, ramp(batch.progress))
        logits_t = self.network.head(z_t)
        v_s = unknown_log_odds(out.logits_s, self.unknown(out.z_s, out.logits_s))
        v_t = unknown_log_odds(logits_t, self.unknown(z_t, logits_t))
        return {"known": softplus(v_s).mean(), "boundary": boundary_loss(v_t, self.threshold)}

    def adapted(self) -> Network:
        """The network, with its output "unknown" on a task that has such classes."""
        return open_network(self.network, self.unknown) if self.open_set else self.network
