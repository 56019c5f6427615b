"""ATDOC: target samples take the label on which their nearest target neighbours agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from domadapt.errors import DomadaptError
from domadapt.losses.self_training import neighbour_labels, sharpen, weighted_pseudo_label_loss
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("atdoc")
class ATDOC(Method):
    """ATDOC with neighbourhood aggregation (Liang et al., 2021, arXiv:2007.04171).

    A memory bank holds the latest features and sharpened predictions of every target sample. A
    sample's label is the class that its nearest neighbours in the bank predict on average, and
    weighs as much as they are sure. So the label comes from the target's own structure rather
    than from the classifier, which leans to the source. The weight grows linearly over the run.

    Departures from the authors' code: the bank takes the outputs of the training pass itself,
    before the labels are sought, so that samples of one batch are each other's neighbours at
    once, where the authors make a second pass in evaluation mode after the step; the bank begins
    empty, not with random features; the source loss has no label smoothing.

    Args:
        pseudo_weight: factor of the cross-entropy on the neighbours' labels at the end of the run.
        neighbours: how many neighbours vote.
    """

    trains_on_confidence = True
    ramps = {"pseudo": lambda progress: progress}
    space = {"pseudo_weight": (0.05, 2.0, "log"), "neighbours": [3, 5, 10, 25]}

    def __init__(
        self, network: Network, *, pseudo_weight: float = 0.2, neighbours: int = 5
    ) -> None:
        super().__init__(network)
        if neighbours < 1:
            raise DomadaptError(f"neighbours must be at least 1; got {neighbours}.")
        self.pseudo_weight = pseudo_weight
        self.neighbours = neighbours
        self.bank_z: Tensor
        self.bank_p: Tensor
        self.register_buffer("bank_z", torch.zeros(0, network.n_features))
        self.register_buffer("bank_p", torch.zeros(0, network.n_classes))

    def setup(self, n_source: int, n_target: int) -> None:
        """Room for every target sample's features and predictions; zeros mean none yet."""
        for name in ("bank_z", "bank_p"):
            empty = self.get_buffer(name)
            self.register_buffer(name, empty.new_zeros(n_target, empty.shape[1]))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the neighbours' labels, weighted by how sure they are."""
        if batch.index_t is None:
            raise DomadaptError("atdoc needs index_t: which target samples the batch has.")
        z = out.z_t.detach().to(self.bank_z)
        p = sharpen(out.logits_t.detach().to(self.bank_p).softmax(1))
        # Every process keeps the whole bank.
        index = gathered(batch.index_t)
        self.bank_z[index] = gathered(normalize(z))
        self.bank_p[index] = gathered(p)
        label, confidence = neighbour_labels(
            z, batch.index_t, self.bank_z, self.bank_p, self.neighbours
        )
        return {"pseudo": weighted_pseudo_label_loss(out.logits_t, label, confidence)}


def gathered(x: Tensor) -> Tensor:
    """`x` of all processes, one after the other; all have equally many rows."""
    if not torch.distributed.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
