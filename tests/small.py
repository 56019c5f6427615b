"""The small task, network and trainer that the tests share, which the self-test ships."""

import json
from pathlib import Path

import torch
from torch import nn

from domadapt.network import Calibrated
from domadapt.selftest.small import (
    N_CLASSES,
    N_FEATURES,
    POOL,
    arrays,
    make_batch,
    prepare,
    same_bits,
    samples,
    small_network,
    small_task,
    small_trainer,
    trained_network,
    weights,
)

__all__ = [
    "N_CLASSES",
    "N_FEATURES",
    "POOL",
    "arrays",
    "calibrated",
    "make_batch",
    "prepare",
    "same_bits",
    "samples",
    "small_network",
    "small_task",
    "small_trainer",
    "trained_network",
    "weights",
]


def calibrated(folder: Path, network: nn.Module) -> Calibrated:
    """The network of a run with the calibration that its folder holds."""
    held = json.loads((folder / "config.json").read_text())["calibration"]
    return Calibrated(network, held["temperature"], torch.tensor(held["offset"])).eval()
