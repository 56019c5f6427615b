"""OVANet: a classifier "of this class or not" per class learns where the unknown begins."""

from __future__ import annotations

from torch import Tensor

from domadapt.losses.open_set import binary_entropy, hard_negative_loss
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.open_set import OneVsAll, open_network
from domadapt.task import Batch


@register("ovanet")
class OVANet(Method):
    """One-vs-all network for universal adaptation (Saito and Saenko, 2021, arXiv:2104.03344).

    Beside the usual head, a classifier per class says "of this class" or "not". On the source each
    sample teaches the classifier of its own class and that of the wrong class it is most taken for;
    on the target the entropy of all of them is lessened, which draws a sample to a class or away
    from all. A target sample is unknown where the classifier of its predicted class says no: the
    boundary is learnt, and no threshold is chosen. The target may lack source classes as well.

    On a task without unknown classes the usual head alone is kept.

    The factors are those of the authors' code: half the sum of the paper's two source terms, and
    the entropy's mean over the classes where the paper has the sum. Departures: one output per
    class for the difference of the paper's two, which is all that matters of them; no
    normalisation of that layer's weights, which the authors' code has and the paper does not
    mention; source and target samples pass through the network together.

    On the embedded digits, from random weights, it did worse than training on the source alone with
    a threshold (mean H-score 43 against 70 %, `osbp` 89 %): the entropy drew samples of unknown
    classes to known ones, and on two of three pairs known samples away.

    Args:
        ova_weight: factor of the one-vs-all loss on the source.
        entropy_weight: factor of the one-vs-all classifiers' entropy on the target.
    """

    setting = "open set"
    trains_on_confidence = True
    space = {"ova_weight": (0.1, 2.0, "log"), "entropy_weight": (0.01, 1.0, "log")}

    def __init__(
        self, network: Network, *, ova_weight: float = 0.5, entropy_weight: float = 0.1
    ) -> None:
        super().__init__(network)
        self.ova_weight = ova_weight
        self.entropy_weight = entropy_weight
        self.one_vs_all = self.auxiliary(lambda: OneVsAll(network.n_features, network.n_classes))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The one-vs-all loss of the source, and the entropy on the target."""
        return {
            "ova": hard_negative_loss(self.one_vs_all.verdicts(out.z_s), labels(batch)),
            "entropy": binary_entropy(self.one_vs_all.verdicts(out.z_t)),
        }

    def adapted(self) -> Network:
        """The network, with its output "unknown" on a task that has such classes."""
        return open_network(self.network, self.one_vs_all) if self.open_set else self.network
