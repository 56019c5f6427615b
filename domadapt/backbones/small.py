"""Small networks of our own, which start from random weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from domadapt.errors import DomadaptError


def mlp(example: Tensor, width: int = 256) -> nn.Module:
    """Two hidden layers of `width` units, each with BatchNorm and ReLU, for vectors ``(n, d)``."""
    d = example.flatten(1).shape[1]
    return nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(d, width), nn.BatchNorm1d(width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
    )


def lenet(example: Tensor, channels: int = 32, width: int = 128) -> nn.Module:
    """Three blocks of convolution, BatchNorm, pooling and ReLU, and a layer of `width` units.

    For small images ``(n, c, h, w)``, 8 to 64 pixels a side: a LeNet with 3 x 3 filters.
    """
    if example.ndim != 4 or min(example.shape[2:]) < 8:
        raise DomadaptError(
            f"lenet takes images of at least 8 x 8 pixels; got inputs {tuple(example.shape[1:])}."
        )
    sizes = (example.shape[1], channels, 2 * channels, 2 * channels)
    # ReLU after the pooling: the same values and gradients to the bit, of a quarter of the numbers.
    blocks = [
        nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.MaxPool2d(2), nn.ReLU()
        )
        for i, o in pairwise(sizes)
    ]
    flat = sizes[-1] * (example.shape[2] // 8) * (example.shape[3] // 8)
    last = nn.Sequential(nn.Flatten(), nn.Linear(flat, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(*blocks, last)


def conv1d(example: Tensor) -> nn.Module:
    """Three blocks of 1-D convolution for series ``(n, channels, length)``, averaged over time.

    The network of AdaTime (Ragab et al., 2023, arXiv:2203.08321) in its sizes for human activity:
    kernels 5, 8, 8; widths 64, 128, 128; dropout 0.5 after the first block.
    """
    if example.ndim != 3:
        raise DomadaptError(
            f"conv1d takes series (channels, length); got inputs {tuple(example.shape[1:])}."
        )

    def block(i: int, o: int, kernel: int, dropout: float) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(i, o, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(o),
            nn.MaxPool1d(2, padding=1),
            nn.ReLU(),  # after the pooling, as in `lenet`
            nn.Dropout(dropout) if dropout else nn.Identity(),
        )

    return nn.Sequential(
        block(example.shape[1], 64, 5, 0.5),
        block(64, 128, 8, 0.0),
        block(128, 128, 8, 0.0),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def features(example: Tensor) -> nn.Module:
    """None: for vectors that are features already; a bottleneck and a head follow."""
    return nn.Flatten()


SMALL: dict[str, Callable[[Tensor], nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "conv1d": conv1d,
    "features": features,
}
