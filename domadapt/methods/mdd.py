"""Margin disparity discrepancy: a second classifier that contradicts the first on the target."""

from __future__ import annotations

from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.losses.disparity import margin_disparity
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch


@register("mdd")
class MDD(Method):
    """Margin disparity discrepancy (Zhang et al., 2019, arXiv:1904.05801).

    An auxiliary classifier of the same features agrees with the network's head on the source and
    disagrees with it on the target; the features learn, through a reversed gradient, to leave no
    room for that. The reversal grows from 0 to `reversal` over the run; in the authors' code it
    grows over a fixed number of steps. There both classifiers have one hidden layer; here the
    auxiliary one has, and the network's head is what it is.

    Args:
        disparity_weight: factor of the auxiliary classifier's loss.
        gamma: weight of the source in that loss; its logarithm is the margin.
        reversal: factor of the reversed gradient at the end of the run.
        hidden: width of the auxiliary classifier's hidden layer.
    """

    space = {"disparity_weight": (0.1, 3.0, "log"), "reversal": (0.03, 1.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        disparity_weight: float = 1.0,
        gamma: float = 4.0,
        reversal: float = 0.1,
        hidden: int = 1024,
    ) -> None:
        super().__init__(network)
        if not reversal > 0:
            raise DomadaptError(
                f"reversal must be above 0, or the features would learn nothing; got {reversal}."
            )
        self.disparity_weight = disparity_weight
        self.gamma = gamma
        self.reversal = reversal
        self.hidden = hidden
        self.other = self.auxiliary(lambda: second_head(network, hidden))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """What the auxiliary classifier minimises."""
        coefficient = self.reversal * ramp(batch.progress)
        other_s = self.other(reverse_gradient(out.z_s, coefficient))
        other_t = self.other(reverse_gradient(out.z_t, coefficient))
        value = margin_disparity(out.logits_s, other_s, out.logits_t, other_t, self.gamma)
        return {"disparity": value}


def second_head(network: Network, hidden: int) -> nn.Sequential:
    """Another classifier of the network's features, with one hidden layer."""
    return nn.Sequential(
        nn.Linear(network.n_features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, network.n_classes),
    )
