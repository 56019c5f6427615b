"""Devices, processes and mixed precision, by accelerate."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState

from domadapt.errors import DomadaptError
from domadapt.training import Training


def make_accelerator(
    training: Training, track: str | None = None, folder: Path | None = None
) -> Accelerator:
    """Devices, processes, mixed precision and tracker, as accelerate finds or was told."""
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise DomadaptError("precision 'fp16' needs a GPU, and none was found; use 'bf16' or 'no'.")
    if training.device == "cuda" and not torch.cuda.is_available():
        raise DomadaptError("device 'cuda' was asked for, and torch finds no CUDA device.")
    on_cpu = _on_cpu(training.device)
    # accelerate keeps one state per Python process; a second run may want another precision.
    AcceleratorState._reset_state(
        PartialState._shared_state.get("_cpu") != on_cpu and not torch.distributed.is_initialized()
    )
    if track is not None and importlib.util.find_spec(track) is None:
        raise DomadaptError(
            f"Logging with {track} needs its package: pip install 'domadapt[tracking]'."
        )
    return Accelerator(
        log_with=track,
        project_dir=None if folder is None else str(folder),
        mixed_precision=training.precision,
        cpu=on_cpu,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=True)],
    )


def _on_cpu(device: str) -> bool:
    """Whether to keep to the CPU, by the setting, by the launcher, or for want of anything else.

    Unless it is told so, accelerate leaves several processes on the CPU without a connection.
    """
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return device == "cpu" or told or (several and not torch.accelerator.is_available())


def is_main_process() -> bool:
    """Whether this is the process that writes files and speaks."""
    if PartialState._shared_state:
        return bool(PartialState().is_main_process)
    # accelerate's state is not made here: it would settle on a device before one is chosen.
    return int(os.environ.get("RANK", "0")) == 0
