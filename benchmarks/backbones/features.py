"""No backbone: for data that are features already, such as ``office31-features``.

    domadapt adapt office31-features:amazon "office31-features:webcam" \\
        --model benchmarks/backbones/features.py:features --freeze

With ``--freeze`` they are then treated as the features of a frozen backbone of one's own: one scale
for all of them, a bottleneck, a head.
"""

from __future__ import annotations

from torch import nn


def features() -> tuple[nn.Module, dict[str, tuple[float, ...]]]:
    """The identity; stating mean 0 and deviation 1 says that the features have their scale."""
    return nn.Identity(), {"mean": (0.0,), "std": (1.0,)}
