"""Default settings of training: one set per kind of backbone, never per task.

They were chosen with labels on the embedded digits pairs only, and hold for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from domadapt.errors import unknown
from domadapt.settings import Setting, parse_setting, settings_of
from domadapt.strategies.spec import read_strategy
from domadapt.training import Training

BackboneKind = Literal["scratch", "pretrained", "transformer", "frozen"]

TRAINING: dict[BackboneKind, dict[str, Any]] = {
    # Small networks that start from random weights.
    "scratch": {"optimizer": "adamw", "lr": 1e-3, "steps": 1000, "batch_size": 64},
    # Convolution nets with pre-trained weights: the field's recipe, new layers ten times as fast.
    "pretrained": {
        "optimizer": "sgd",
        "lr": 1e-3,
        "head_lr_multiple": 10.0,
        "weight_decay": 1e-3,
        "schedule": "inverse",
        "steps": 3000,
        "batch_size": 32,
        "workers": 2,
    },
    # Pre-trained transformers.
    "transformer": {
        "optimizer": "adamw",
        "lr": 2e-5,
        "head_lr_multiple": 10.0,
        "weight_decay": 1e-2,
        "warmup": 0.1,
        "clip": 1.0,
        "steps": 1500,
        "batch_size": 32,
        "workers": 2,
    },
    # A bottleneck and a head on features that were computed once. Its one BatchNorm sees both
    # domains as one batch, unlike those of a network that trains all through: chosen on the digits
    # as rows of pixels (`benchmarks/accuracy.py digits-rows`).
    "frozen": {
        "optimizer": "adamw",
        "lr": 1e-3,
        "steps": 1500,
        "batch_size": 64,
        "batch_statistics": "joint",
    },
}

#: Strategies that leave a transformer's weights as they are bear, and need, a higher rate. Adapters
#: and low-rank updates learn as fast as the head, hence with 1e-3; with 2e-4 a MiniLM had learnt
#: little of book reviews in the steps that full fine-tuning needs.
LIGHT_LR = 1e-4
_LIGHT = ("adapters", "lora", "bitfit")

#: Width of the layer between backbone and head, by kind of backbone; None for none.
BOTTLENECK: dict[BackboneKind, int | None] = {
    "scratch": None,
    "pretrained": 256,
    "transformer": 256,
    "frozen": 512,
}


def training_for(kind: BackboneKind, given: Mapping[str, Any] | None = None) -> Training:
    """The default `Training` of a kind of backbone with the `given` settings over it."""
    known = training_settings()
    values = dict(TRAINING[kind])
    asked = str((given or {}).get("finetune", "full"))
    if kind == "transformer" and read_strategy(asked).base in _LIGHT:
        values["lr"] = LIGHT_LR
    for name, value in (given or {}).items():
        if name not in known:
            raise unknown("training setting", name, known)
        values[name] = parse_setting(known[name], value)
    return Training(**values)


def training_settings() -> dict[str, Setting]:
    """The settings of `Training` by name, with their types and help."""
    hints = settings_of(Training, keyword_only=False)
    return {f.name: hints[f.name] for f in fields(Training)}
