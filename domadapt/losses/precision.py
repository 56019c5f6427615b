"""Losses that subtract nearly equal numbers are computed in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 where it is a half-precision tensor, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which mixed precision is off on `x`'s device."""
    return torch.autocast(x.device.type, enabled=False)
