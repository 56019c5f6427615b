"""The residual networks for CIFAR, small enough to fine-tune on a laptop."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import pad

from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError

#: Blocks per stage by name; a network has ``6 n + 2`` layers.
DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
#: What the weights that are commonly found were trained with: ImageNet's statistics at 32 x 32.
PREPROCESSING = Preprocessing((32, 32), None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HEAD = "linear"


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters (option A).

    Where the resolution halves, the shortcut takes every second pixel and fills up the channels
    with zeros, half of them on either side.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.more = stride, (n_out - n_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(n, n_in, h, w)`` to ``(n, n_out, h / stride, w / stride)``."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.stride != 1 or self.more:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return cast(Tensor, (out + x).relu())


class ResNetCifar(nn.Module):
    """A classifier of 32 x 32 images: a convolution, three stages of `n` blocks, a linear layer.

    (He et al., 2016, arXiv:1512.03385), section 4.2: widths 16, 32, 64, shortcuts of option A. The
    names of its parameters are those of the weights that are commonly found.
    """

    def __init__(self, n: int, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, n, 1)
        self.layer2 = _stage(16, 32, n, 2)
        self.layer3 = _stage(32, 64, n, 2)
        self.linear = nn.Linear(64, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, 3, h, w)``; without its head, features of 64."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(n_in: int, n_out: int, n: int, stride: int) -> nn.Sequential:
    first = Block(n_in, n_out, stride)
    return nn.Sequential(first, *(Block(n_out, n_out, 1) for _ in range(n - 1)))


def resnet_cifar(name: str, n_classes: int | None, example: Tensor) -> nn.Module:
    """The named network with random weights, as a classifier of `n_classes`."""
    if min(example.shape[2:]) < 8:
        raise DomadaptError(
            f"{name} takes images of at least 8 x 8 pixels; got inputs {tuple(example.shape[1:])}."
        )
    return ResNetCifar(DEPTHS[name], n_classes or 10)
