"""Maximum classifier discrepancy: two heads that disagree where the target lies off the source."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.losses.disparity import classifier_discrepancy
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.mdd import second_head
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.ops import reverse_gradient
from domadapt.task import Batch


@register("mcd")
class MCD(Method):
    """Maximum classifier discrepancy (Saito et al., 2018, arXiv:1712.02560).

    The network's head and a second one both learn the source; on the target they learn to differ
    as much as they can, and the features to let them differ as little as possible. The paper takes
    turns: one step of the heads, then four of the features. Here both sides move in every step,
    the gradient being reversed between them. The second head has one hidden layer; the network
    that is kept has the first head, which is trained like the second.

    Args:
        discrepancy_weight: factor of the heads' difference on the target.
        second_weight: factor of the second head's cross-entropy on the source.
        hidden: width of the second head's hidden layer.
    """

    space = {"discrepancy_weight": (0.1, 10.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        discrepancy_weight: float = 1.0,
        second_weight: float = 1.0,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        self.discrepancy_weight = discrepancy_weight
        self.second_weight = second_weight
        self.hidden = hidden
        self.second = self.auxiliary(lambda: second_head(network, hidden))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The second head's source loss, and how much the heads differ on the target."""
        # Reversed behind the heads and again before them: the heads climb, the features descend.
        z_t = reverse_gradient(out.z_t, 1.0)
        one, two = (reverse_gradient(head(z_t), 1.0) for head in (self.network.head, self.second))
        return {
            "second": cross_entropy(self.second(out.z_s), labels(batch)),
            "discrepancy": classifier_discrepancy(one, two),
        }
