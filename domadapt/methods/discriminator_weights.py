"""The odds of a domain classifier: source rows are weighted before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, double, from_double
from domadapt.task import Batch


@register("discriminator_weights")
class DiscriminatorWeights(Method):
    """Weights by a domain classifier (Bickel et al., 2007, doi:10.1145/1273496.1273507).

    Before training, a logistic regression learns to tell the rows of the domains apart, and its
    odds weigh each source row by how much it looks like a target row
    (`domadapt.closed_form.DiscriminatorWeights`, which says when it fails). The source loss is then
    ``mean_i w_i CE_i``, with weights divided by their mean over all rows, so that its size is that
    of the ordinary one.

    Args:
        C: inverse strength of the classifier's L2 penalty; a smaller one evens the weights out.
        max_iter: the most steps of its solver.
    """

    setting = "closed form"
    closed_form = True
    no_neutral = "The weights follow from the rows, and no setting makes all of them 1."
    space = {"C": (1e-4, 10.0, "log")}

    def __init__(self, network: Network, *, C: float = 1.0, max_iter: int = 1000) -> None:
        super().__init__(network)
        self.C = C
        self.max_iter = max_iter
        self.row_weights: Tensor

    def setup(self, n_source: int, n_target: int) -> None:
        """A weight for each source row."""
        self.register_buffer("row_weights", torch.ones(n_source))

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """Weigh the source's rows; they stay where they are."""
        from domadapt.closed_form import DiscriminatorWeights as Transformer

        transformer = Transformer(C=self.C, max_iter=self.max_iter)
        weights = transformer.fit(double(x_s), X_target=double(x_t)).weights_
        self.row_weights.copy_(from_double(weights / weights.mean()))
        return Features()

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The weighted mean of the cross-entropy of the source logits."""
        loss = cross_entropy(out.logits_s, labels(batch), reduction="none")
        return (self.row_weights[batch.index_s] * loss).mean()
