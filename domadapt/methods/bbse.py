"""Label-shift correction: source classes count as often as the target seems to have them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from domadapt.errors import DomadaptError
from domadapt.losses.label_shift import bbse_weights, confusion_matrix
from domadapt.methods.base import BatchOutputs, Method, TargetView, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("bbse")
class BBSE(Method):
    """Black-box shift estimation (Lipton et al., 2018, arXiv:1802.03916).

    For a target whose classes look as in the source and are otherwise frequent. From the confusion
    on the source's validation split and the mean prediction on the target follow weights ``w_c``,
    the target's share of class c over the source's (`domadapt.losses.label_shift.bbse_weights`).
    The term is what they change in the source loss, ``mean_i (w_{y_i} - 1) CE_i``: with factor 1
    the sum of both is the weighted source loss of the paper; a smaller factor holds the weights
    nearer to 1, as Azizzadenesheli et al. (2019, arXiv:1903.09734) advise for few samples. The
    term may be negative.

    The paper trains a predictor, estimates once, and trains anew; here the weights are 1 until
    `start` and are renewed with the network under training ten times a run, which the estimate
    allows: it holds for any predictor that tells the classes apart.

    It corrects for frequencies alone. Where the classes' looks differ as well, the mean prediction
    is no guide to them: on partial digits, print to handwriting, it fell below training on the
    source alone. There `pada` and `iwan` are meant.

    Args:
        shift_weight: factor of the term: how far the weights are followed.
        start: the share of the run from which on weights are estimated.
        soft: whether probabilities are added up rather than decisions counted.
    """

    setting = "label shift"
    needs_source_val = True
    refreshes = 10
    space = {"shift_weight": (0.0, 1.0, "linear")}

    def __init__(
        self,
        network: Network,
        *,
        shift_weight: float = 1.0,
        start: float = 0.1,
        soft: bool = False,
    ) -> None:
        super().__init__(network)
        if not 0 <= start < 1:
            raise DomadaptError(f"start must be at least 0 and below 1; got {start}.")
        self.shift_weight = shift_weight
        self.start = start
        self.soft = soft
        self.classes: Tensor
        self.register_buffer("classes", torch.ones(network.n_classes))

    def refresh(self, target: TargetView, progress: float) -> None:
        """Estimate the classes' weights anew."""
        if progress < self.start:
            return
        if target.source_val is None:
            raise DomadaptError("bbse needs the network's word on source_val; got none.")
        p_s, p_t = self._said(target.source_val.logits), self._said(target.logits)
        w = bbse_weights(confusion_matrix(p_s, target.source_val.y), p_t.mean(0))
        self.classes.copy_(w)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """What the classes' weights change in the source loss."""
        y = labels(batch)
        loss = cross_entropy(out.logits_s, y, reduction="none")
        return {"shift": ((self.classes[y] - 1.0) * loss).mean()}

    def _said(self, logits: Tensor) -> Tensor:
        """Predictions ``(n, classes)``: probabilities, or one-hot decisions."""
        p = logits.double().softmax(1)
        return p if self.soft else one_hot(p.argmax(1), p.shape[1]).double()
