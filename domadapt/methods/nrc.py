"""NRC: without the source, a sample is drawn to the predictions of its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from domadapt.errors import DomadaptError
from domadapt.losses.source_free import imbalance, nearest, neighbourhood, reciprocal_affinity
from domadapt.methods.base import BatchOutputs, Method, TargetView
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("nrc")
class NRC(Method):
    """Neighbourhood reciprocity clustering (Yang et al., 2021, arXiv:2110.04202), source-free.

    Features and predictions of the whole target are kept in memory and renewed with every batch.
    Each sample is asked to agree with its neighbours among them, fully with those that have it
    among their own neighbours, a little with the others and with the neighbours' neighbours, and
    with its own stored prediction; predictions on the whole are to be balanced over the classes.
    The whole network learns.

    The sample itself is taken out of its neighbours' neighbours and has the paper's L_self to
    itself; the authors' code leaves it in, without that term. Departures: a sample is left out of
    its own neighbours by its position and not for being the nearest, so that duplicates count;
    the numbers of neighbours stay the same throughout (the code raises them halfway on one data
    set), and are those of its largest data set; the source model is trained as all models here,
    without label smoothing and weight normalisation.

    Args:
        neighbours: how many nearest neighbours a sample has.
        second_neighbours: how many of its own each of these has.
        affinity: weight of a neighbour that is not mutual, and of the neighbours' neighbours.
        neighbours_weight: factor of the agreement with the neighbours.
        expanded_weight: factor of the agreement with the neighbours' neighbours.
        self_weight: factor of the agreement with the stored prediction.
        imbalance_weight: factor of the balance over the classes.
    """

    setting = "source-free"
    needs_source = False
    refreshes = 1
    trains_on_confidence = True
    single_process = "each process would keep a memory of the target of its own."
    space = {"neighbours": (2, 10, "linear"), "affinity": (0.03, 0.3, "log")}

    def __init__(
        self,
        network: Network,
        *,
        neighbours: int = 5,
        second_neighbours: int = 5,
        affinity: float = 0.1,
        neighbours_weight: float = 1.0,
        expanded_weight: float = 1.0,
        self_weight: float = 1.0,
        imbalance_weight: float = 1.0,
    ) -> None:
        super().__init__(network)
        for key, value in (("neighbours", neighbours), ("second_neighbours", second_neighbours)):
            if value < 1:
                raise DomadaptError(f"{key} must be at least 1; got {value}.")
        if not 0 <= affinity <= 1:
            raise DomadaptError(f"affinity must lie in [0, 1]; got {affinity}.")
        self.neighbours = neighbours
        self.second_neighbours = second_neighbours
        self.affinity = affinity
        self.neighbours_weight = neighbours_weight
        self.expanded_weight = expanded_weight
        self.self_weight = self_weight
        self.imbalance_weight = imbalance_weight
        self.z_bank: Tensor
        self.p_bank: Tensor
        self.register_buffer("z_bank", torch.empty(0, network.n_features))
        self.register_buffer("p_bank", torch.empty(0, network.n_classes))

    def setup(self, n_source: int, n_target: int) -> None:
        """Room for the features and predictions of every target sample."""
        if n_target < 2:
            raise DomadaptError(
                f"nrc needs at least 2 target samples, which are each other's neighbours; got "
                f"{n_target}."
            )
        for bank in ("z_bank", "p_bank"):
            old: Tensor = getattr(self, bank)
            self.register_buffer(bank, old.new_zeros(n_target, old.shape[1]))

    def refresh(self, target: TargetView, progress: float) -> None:
        """Fill the memory, once, with what the source's network says of the target."""
        self.z_bank.copy_(normalize(target.z.float(), dim=1))
        self.p_bank.copy_(target.logits.float().softmax(1))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """Disagreement with the neighbours, theirs, and oneself; imbalance of the classes."""
        own = batch.index_t
        if own is None:
            raise DomadaptError("nrc needs index_t: which target samples the batch has.")
        p = out.logits_t.float().softmax(1)
        self.z_bank[own] = normalize(out.z_t.detach().float(), dim=1)
        self.p_bank[own] = p.detach()
        first = nearest(out.z_t, self.z_bank, own, self.neighbours)
        flat = first.flatten()
        second = nearest(self.z_bank[flat], self.z_bank, flat, self.second_neighbours)
        second = second.view(*first.shape, -1)
        faint = self.affinity * (second != own[:, None, None]).flatten(1).float()
        return {
            "neighbours": neighbourhood(
                p, self.p_bank[first], reciprocal_affinity(own, second, self.affinity)
            ),
            "expanded": neighbourhood(p, self.p_bank[second.flatten(1)], faint),
            "self": neighbourhood(p, self.p_bank[own][:, None], torch.ones_like(p[:, :1])),
            "imbalance": imbalance(p),
        }
