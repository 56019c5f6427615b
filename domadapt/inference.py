"""A network over a whole split, in evaluation mode and without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from domadapt.data.views import Views
from domadapt.evaluation import Outputs
from domadapt.network import Network
from domadapt.task import Inputs, Split


def to_device(x: Inputs, device: torch.device) -> Inputs:
    """Inputs of either form on `device`."""
    if isinstance(x, Tensor):
        return x.to(device)
    return {k: v.to(device) for k, v in x.items()}


def inputs_of(split: Split, views: Views, batch_size: int = 256) -> Iterator[Inputs]:
    """The evaluation views of a split in order, a batch at a time."""
    for start in range(0, len(split), batch_size):
        yield views.evaluation(split.fetch(np.arange(start, min(start + batch_size, len(split)))))


@torch.no_grad()
def outputs_of(
    network: Network,
    split: Split,
    views: Views,
    *,
    device: torch.device | None = None,
    batch_size: int = 256,
    max_features: int | None = None,
    seed: int = 0,
) -> Outputs:
    """Logits of every sample of a split, and its features.

    Features are kept for a random subsample of `max_features` rows where the split is larger:
    memory then does not grow with the split. The network's mode is restored. Tokenised texts pass
    in the order of their lengths, 32 at a time, so that little is padded.
    """
    place = device or next(network.parameters()).device
    was = network.training
    network.eval()
    n = len(split)
    keep = torch.arange(n)
    if max_features is not None and n > max_features:
        draw = torch.Generator().manual_seed(seed)
        keep = torch.randperm(n, generator=draw)[:max_features].sort().values
    lengths = getattr(split.domain.samples, "lengths", None)
    order = torch.arange(n)
    if lengths is not None:
        order = torch.from_numpy(np.argsort(lengths[split.indices], kind="stable"))
        split, batch_size = replace(split, indices=split.indices[order]), min(batch_size, 32)
    kept = torch.isin(order, keep)
    logits, features, start = [], [], 0
    for x in inputs_of(split, views, batch_size):
        z = network.features(to_device(x, place))
        logits.append(network.head(z).float().cpu())
        features.append(z[kept[start : start + len(z)].to(place)].float().cpu())
        start += len(z)
    network.train(was)
    back = torch.argsort(order)
    back_kept = torch.argsort(order[kept])
    return Outputs(
        torch.cat(logits)[back],
        torch.cat(features)[back_kept],
        split.y,
        None if len(keep) == n else keep,
    )
