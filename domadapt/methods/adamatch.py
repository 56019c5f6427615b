"""AdaMatch: weak views label strong ones, with class proportions and confidence of the source."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt import ops
from domadapt.errors import DomadaptError
from domadapt.losses.self_training import (
    align_distribution,
    interpolate_logits,
    pseudo_label_loss,
    relative_threshold,
)
from domadapt.methods.base import BatchOutputs, Method, labels
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


def cosine_ramp(progress: float) -> float:
    """``1/2 - cos(min(pi, 2 pi progress)) / 2``: 0 at the start, 1 from the middle of the run on.

    Source: Berthelot et al. (2021), arXiv:2106.04732, section 3.5.
    """
    return 0.5 - 0.5 * math.cos(min(math.pi, 2 * math.pi * progress))


@register("adamatch")
class AdaMatch(Method):
    """AdaMatch (Berthelot et al., 2021, arXiv:2106.04732).

    The prediction for a weak view of a target sample, its class proportions aligned with those
    predicted on the source, is the label of the strong view, where its confidence reaches
    `threshold` times the mean confidence on the source. Source logits are drawn at random between
    those of a pass over both domains and of one over the source alone, which differ by BatchNorm;
    in a network without BatchNorm the second pass would be the same and is left out. For the sake
    of this, BatchNorm sees both domains as one batch here, whatever ``batch_statistics`` says.

    As in the authors' code, labels are hard, the source loss is the mean over both views, and
    only the pass over both domains moves BatchNorm's statistics. Departures from that code: class
    proportions are those of the batch, not of the last ones too; the last weights are kept, not
    their running average; source and target batches have the sizes of the run's settings (the
    authors take three times as many target samples).

    Args:
        pseudo_weight: factor of the target loss.
        threshold: share of the source's mean confidence that a label must reach.
    """

    needs_strong = True
    joins_domains = True
    trains_on_confidence = True
    ramps = {"pseudo": cosine_ramp}
    no_neutral = (
        "adamatch's source loss includes strong views and interpolated logits, so that with "
        "weight 0 it still differs from source_only."
    )
    space = {"pseudo_weight": (0.3, 3.0, "log"), "threshold": (0.7, 1.0, "linear")}

    def __init__(
        self, network: Network, *, pseudo_weight: float = 1.0, threshold: float = 0.9
    ) -> None:
        super().__init__(network)
        if not threshold > 0:
            raise DomadaptError(f"threshold must be positive; got {threshold}.")
        self.pseudo_weight = pseudo_weight
        self.threshold = threshold

    def outputs(self, batch: Batch) -> BatchOutputs:
        """One pass over both views of both domains, and one over the source for its logits."""
        views = (batch.x_s, batch.x_t, batch.x_s_strong, batch.x_t_strong)
        x_s, x_t, x_s_strong, x_t_strong = views
        if x_s is None or x_t is None or x_s_strong is None or x_t_strong is None:
            raise DomadaptError("adamatch needs weak and strong views of source and target.")
        both_s = ops.join([x_s, x_s_strong])
        z_s, z_t, logits_s, logits_t = self._view(both_s, ops.join([x_t, x_t_strong]))
        if ops.has_batchnorm(self.network):
            with ops.kept_statistics(self.network):
                alone = self.network(both_s)
            logits_s = interpolate_logits(logits_s, alone, torch.rand_like(logits_s))
        (z_s, z_s_strong), (z_t, z_t_strong) = z_s.chunk(2), z_t.chunk(2)
        (logits_s, logits_s_strong), (logits_t, logits_t_strong) = (
            logits_s.chunk(2),
            logits_t.chunk(2),
        )
        weak = BatchOutputs(z_s, z_t, logits_s, logits_t)
        return replace(
            weak,
            z_s_strong=z_s_strong,
            z_t_strong=z_t_strong,
            logits_s_strong=logits_s_strong,
            logits_t_strong=logits_t_strong,
        )

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """Cross-entropy of the source, mean of its weak and strong views."""
        y = labels(batch)
        return 0.5 * (cross_entropy(out.logits_s, y) + cross_entropy(out.logits_s_strong, y))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of strong target views with the labels of the weak ones."""
        p_s = out.logits_s.detach().float().softmax(1)
        p_t = out.logits_t.detach().float().softmax(1)
        aligned = align_distribution(p_t, p_s.mean(0), p_t.mean(0))
        confidence, label = aligned.max(1)
        selected = confidence >= relative_threshold(p_s, self.threshold)
        return {"pseudo": pseudo_label_loss(out.logits_t_strong, label, selected)}
