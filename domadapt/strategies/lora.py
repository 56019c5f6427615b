"""LoRA through peft: low-rank updates beside the layers of a backbone, merged at the end."""

from __future__ import annotations

import copy
import importlib.util
import re
from typing import Any

import torch
from torch import nn

from domadapt.errors import DomadaptError
from domadapt.network import Network

#: Layers of attention that the paper updates: queries and values, by the names they go by.
_ATTENTION = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "qkv")


def has_lora(network: Network) -> bool:
    """Whether the network has low-rank updates that are not merged."""
    return any("lora_" in name for name, _ in network.backbone.named_parameters())


def lora_targets(backbone: nn.Module) -> list[str]:
    """The layers that are updated: queries and values of attention where there are any, else every
    linear layer and convolution.
    """
    able = {
        name: module
        for name, module in backbone.named_modules()
        if name
        and (
            isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1)
        )
    }
    attention = [n for n in able if n.rpartition(".")[2] in _ATTENTION]
    return attention or list(able)


def insert_lora(network: Network, rank: int, seed: int) -> None:
    """Put updates ``2 B A`` of this rank beside the layers of `lora_targets`, in place.

    LoRA (Hu et al., 2022, arXiv:2106.09685), with alpha twice the rank. ``B`` begins at zero, so
    that the function of the network is unchanged. A network that has some keeps them.

    Raises:
        DomadaptError: peft is not installed, or no layer can be updated.
    """
    if has_lora(network):
        return
    if importlib.util.find_spec("peft") is None:
        raise DomadaptError("LoRA needs the package peft: pip install 'domadapt[peft]'.")
    targets = lora_targets(network.backbone)
    if not targets:
        raise DomadaptError(
            "LoRA updates linear layers and convolutions of a backbone, and this one has none; "
            "choose another strategy, or leave out --freeze."
        )
    from peft import LoraConfig, inject_adapter_in_model

    trained = {n for n, p in network.backbone.named_parameters() if p.requires_grad}
    pattern = "|".join(re.escape(name) for name in targets)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 1_000_003 + 31) % 2**63)
        inject_adapter_in_model(config, network.backbone)
    for name, parameter in network.backbone.named_parameters():
        # What trains is said elsewhere, once, for all strategies.
        old = name.replace(".base_layer.", ".")
        parameter.requires_grad_("lora_" in name or old in trained)


def merged(network: Network) -> Network:
    """The network with its updates added into the weights: a plain one again, a copy if it had
    some.
    """
    if not has_lora(network):
        return network
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = copy.deepcopy(network)
    for name, module in list(network.backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(network.backbone.get_submodule(owner), leaf, layer.get_base_layer())
    return network
