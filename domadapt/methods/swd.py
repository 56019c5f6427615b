"""Features aligned by their sliced Wasserstein distance."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from domadapt.losses.transport import feature_cost, sliced_wasserstein, unit_cost
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


@register("swd")
class SWD(Method):
    """Sliced Wasserstein distance (Bonneel et al., 2015, doi:10.1007/s10851-014-0506-3).

    Adds the squared sliced Wasserstein distance between the domains' features: they are projected
    on random lines, and on each line the sorted samples are matched. It is relative to the mean
    squared distance m between a source and a target sample of the batch, taken as a constant:
    ``d SW^2 / m``, d the width. So neither size nor width of the features matters; the value is
    0 for equal samples and about 1 for two domains that are two points.

    **This is not the method of Lee et al. (2019, arXiv:1903.04064)**, which brought slicing to
    domain adaptation: theirs measures the distance between the predictions of two classifiers, and
    makes it large and small in turn. Here there is one classifier and no adversary; the distance
    is that of Rabin et al. (2011, doi:10.1007/978-3-642-24785-9_37) between the domains.

    The lines follow from the share of the run that is done: a run that is taken up again has the
    same ones, so has each of several processes, and no other random number is disturbed.

    Args:
        swd_weight: factor of the relative distance.
        projections: number of random lines, new ones in each step.
    """

    needs_classes = False
    space = {"swd_weight": (0.1, 10.0, "log")}

    def __init__(
        self, network: Network, *, swd_weight: float = 1.0, projections: int = 128
    ) -> None:
        super().__init__(network)
        self.swd_weight = swd_weight
        self.projections = projections

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The relative distance of the features."""
        width = out.z_s.shape[1]
        # A generator keeps 32 bits of its seed; the checksum spreads those of the progress.
        seed = zlib.crc32(repr(float(batch.progress)).encode())
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(width, self.projections, generator=generator)
        distance = sliced_wasserstein(out.z_s, out.z_t, directions.to(out.z_s.device))
        return {"swd": distance * (width / unit_cost(feature_cost(out.z_s, out.z_t)))}
