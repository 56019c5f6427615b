"""What each block of a network holds, read by a linear classifier of its pooled activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domadapt.data.views import Views
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of, to_device
from domadapt.layers.blocks import Block
from domadapt.network import Network
from domadapt.task import Inputs, Split
from domadapt.transfer.probe import held_out_probe


def attends(network: nn.Module) -> bool:
    """Whether a network works on tokens: it has attention layers."""
    return any("Attention" in type(m).__name__ for m in network.modules())


@torch.no_grad()
def activations(
    network: Network,
    blocks: Sequence[Block],
    split: Split,
    views: Views,
    *,
    batch_size: int = 256,
    max_samples: int | None = None,
    device: torch.device | None = None,
) -> list[np.ndarray]:
    """The pooled output of every block for every sample of a split, in one pass.

    Evaluation mode, no augmentation. Maps are averaged over positions, series over time, tokens
    over those that the attention mask does not hide.

    Args:
        network: the network.
        blocks: its blocks.
        split: the samples.
        views: how raw samples become inputs.
        batch_size: samples that pass at once.
        max_samples: look at no more than so many, evenly spaced over the split.
        device: where it is computed; None leaves the network where it is.

    Returns:
        For each block float32 ``(n, width of the block)``.
    """
    if device is not None:
        network.to(device)
    place = next(network.parameters()).device
    if max_samples is not None and len(split) > max_samples:
        some = np.unique(np.linspace(0, len(split) - 1, max_samples).astype(int))
        y = None if split.y is None else split.y[torch.from_numpy(some)]
        split = Split(split.name, split.domain, split.indices[some], y)
    tokens = attends(network.backbone)
    caught: dict[int, Tensor] = {}

    def catch(i: int) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            # A module that is called several times (a shared ReLU) counts where it comes first.
            caught.setdefault(i, _first(out))

        return hook

    hooks = [b.modules[-1].register_forward_hook(catch(i)) for i, b in enumerate(blocks)]
    rows: list[list[np.ndarray]] = [[] for _ in blocks]
    was = network.training
    network.eval()
    try:
        for x in inputs_of(split, views, batch_size):
            caught.clear()
            network.features(to_device(x, place))
            for i, block in enumerate(blocks):
                if i not in caught:
                    raise DomadaptError(
                        f"The block {block.name!r} takes no part in the forward pass of the "
                        "backbone; leave it out (--blocks)."
                    )
                rows[i].append(_pooled(caught[i], x, tokens).float().cpu().numpy())
    finally:
        network.train(was)
        for handle in hooks:
            handle.remove()
    return [np.concatenate(found) for found in rows]


def _first(out: Any) -> Tensor:
    while not isinstance(out, Tensor):
        out = next(iter(out.values())) if isinstance(out, dict) else out[0]
    return out


def _pooled(z: Tensor, x: Inputs, tokens: bool) -> Tensor:
    """One row per sample of a block's output."""
    if z.ndim == 2:
        return z
    if z.ndim == 3 and (tokens or isinstance(x, dict)):
        mask = x.get("attention_mask") if isinstance(x, dict) else None
        if mask is None or mask.shape != z.shape[:2]:
            return z.mean(1)
        weight = mask.to(z)[..., None]
        return (z * weight).sum(1) / weight.sum(1).clamp_min(1)
    if z.ndim == 4 and tokens and z.shape[-1] > z.shape[1]:
        # Swin keeps channels last.
        return z.mean((1, 2))
    return z.flatten(2).mean(2)


def probe(
    train: Sequence[np.ndarray],
    y: np.ndarray,
    test: Sequence[np.ndarray],
    truth: np.ndarray,
    *,
    regression: bool = False,
) -> list[float]:
    """The held-out score of a linear probe of each block.

    Accuracy of a penalised logistic regression, of measurements the R² of a ridge; see
    `domadapt.transfer.probe.held_out_probe`. The paper trains its probes as it fine-tunes, with
    early stopping; these are solved to the end.

    Args:
        train: activations of the training samples, by block. y: their labels.
        test: those of the held-out ones. truth: theirs.
        regression: whether labels are measurements.
    """
    return [
        held_out_probe(a, y, b, truth, regression=regression)
        for a, b in zip(train, test, strict=True)
    ]
