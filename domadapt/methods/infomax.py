"""Information maximisation: target predictions that are certain one by one, and varied together."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.prediction import infomax
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("infomax")
class InfoMax(Method):
    """Information maximisation on the target (Shi and Sha, 2012, arXiv:1206.6438).

    Maximises the mutual information ``I = H(mean p) - mean H(p)`` of target samples and their
    predicted classes, both parts at equal weight. The term `infomax` is ``-I``: it is minimised
    and never positive. Its first part keeps `entropy` from its collapse and supposes that all
    classes are about equally frequent in the target; where they are not, it pulls the
    predictions towards equal shares all the same.

    The paper learns a linear projection in which target samples are classified by their nearest
    source neighbours; here, as in (Liang et al., 2020, arXiv:2002.08546), the network's own
    predictions on a batch take their place.

    Args:
        infomax_weight: factor of the negative mutual information.
    """

    trains_on_confidence = True
    space = {"infomax_weight": (0.03, 3.0, "log")}

    def __init__(self, network: Network, *, infomax_weight: float = 1.0) -> None:
        super().__init__(network)
        self.infomax_weight = infomax_weight

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The negative mutual information of the batch's target samples and their classes."""
        return {"infomax": infomax(out.logits_t)}
