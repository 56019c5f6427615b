"""Kernel mean matching: source rows are weighted before training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, double, from_double
from domadapt.task import Batch


@register("kmm")
class KMM(Method):
    """Kernel mean matching (Huang et al., 2006, doi:10.7551/mitpress/7503.003.0080).

    Before training, each source row gets a weight ``w_i`` such that the source's weighted mean in
    the kernel's space is the target's (`domadapt.closed_form.KMM`, which says when it fails). The
    source loss is then ``mean_i w_i CE_i``, with weights divided by their mean over all rows, so
    that its size is that of the ordinary one. Memory grows as ``n_s^2``. For a covariate shift
    alone: on features of Office-31, Amazon to Webcam, one seed, it had 58 %, `source_only` 72 %.

    Args:
        kernel: "rbf" (``exp(-gamma |x - x'|^2)``) or "linear".
        gamma: the rbf kernel's; none takes 1 over the median squared distance between rows.
        weight_max: the largest weight, at least 1 (``max_weight`` of the transformer).
        slack: how far the mean weight may be from 1 before the division; none takes
            ``(sqrt(n_s) - 1) / sqrt(n_s)``.
        max_iter: the most gradient steps.
        tol: the relative change of the weights in a step at which to stop.
    """

    setting = "closed form"
    closed_form = True
    no_neutral = "The weights follow from the rows, and no setting makes all of them 1."
    space = {"weight_max": (1.0, 1000.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        kernel: Literal["rbf", "linear"] = "rbf",
        gamma: float | None = None,
        weight_max: float = 1000.0,
        slack: float | None = None,
        max_iter: int = 10_000,
        tol: float = 1e-6,
    ) -> None:
        super().__init__(network)
        self.kernel = kernel
        self.gamma = gamma
        self.weight_max = weight_max
        self.slack = slack
        self.max_iter = max_iter
        self.tol = tol
        self.row_weights: Tensor

    def setup(self, n_source: int, n_target: int) -> None:
        """A weight for each source row."""
        self.register_buffer("row_weights", torch.ones(n_source))

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """Weigh the source's rows; they stay where they are."""
        from domadapt.closed_form import KMM as Transformer

        transformer = Transformer(
            kernel=self.kernel,
            gamma=self.gamma,
            max_weight=self.weight_max,
            slack=self.slack,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        weights = transformer.fit(double(x_s), X_target=double(x_t)).weights_
        self.row_weights.copy_(from_double(weights / weights.mean()))
        return Features()

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The weighted mean of the cross-entropy of the source logits."""
        loss = cross_entropy(out.logits_s, labels(batch), reduction="none")
        return (self.row_weights[batch.index_s] * loss).mean()
