"""Optimisers, and which parameter trains at which rate."""

from __future__ import annotations

from typing import Any

import torch

from domadapt.errors import DomadaptError
from domadapt.methods import Method
from domadapt.strategies.tuning import Tuning
from domadapt.training import Training


def parameter_groups(
    method: Method, training: Training, tuning: Tuning | None = None
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group: backbone, new layers, the method's own.

    A strategy (`tuning`) says which never train and scales their rates.
    """
    network = method.network
    backbone = {id(p) for p in network.backbone.parameters()}
    groups: dict[tuple[float, float, int], dict[str, Any]] = {}
    for parameter in method.parameters():
        if not parameter.requires_grad or (tuning and not tuning.trains(parameter)):
            continue
        new = id(parameter) not in backbone or (tuning is not None and tuning.inserted(parameter))
        rate = training.lr * (training.head_lr_multiple if new else 1.0)
        # Shrinking biases and the scales of normalisation layers regularises nothing.
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        phase = 0
        if tuning is not None:
            rate *= tuning.scale(parameter)
            decay = decay if tuning.decays(parameter) else 0.0
            # A fused optimiser wants all of a group to have taken equally many steps.
            phase = tuning.joins(parameter)
        empty = {"params": [], "lr": rate, "weight_decay": decay}
        group = groups.setdefault((rate, decay, phase), empty)
        group["params"].append(parameter)
    if not groups:
        raise DomadaptError("The network has no trainable parameter; unfreeze some of it.")
    for group in groups.values():
        group["initial_lr"] = group["lr"]
    return list(groups.values())


def make_optimizer(
    method: Method, training: Training, tuning: Tuning | None = None
) -> torch.optim.Optimizer:
    """The optimiser of the settings over `parameter_groups`."""
    groups = parameter_groups(method, training, tuning)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, fused=True)
    return torch.optim.SGD(
        groups,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        fused=True,
    )
