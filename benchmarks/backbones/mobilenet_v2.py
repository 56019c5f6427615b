"""MobileNetV2 1.0 with its ImageNet weights, as a backbone of a person's own.

    domadapt adapt AMAZON WEBCAM --model benchmarks/backbones/mobilenet_v2.py:mobilenet_v2 --freeze

The weights are read from ``$DOMADAPT_DATA/models/mobilenet_v2_imagenet.safetensors``. They are
TensorFlow's: its convolutions of stride 2 pad at the right and the bottom alone, and its batch
norms are folded into scale and shift, so that the statistics are no statistics. Images are resized
straight to 224 x 224: so the features agree best with those kept for Office-31, which were computed
from the originals (cosine 0.99 on average; 0.93 with a resize to 256 and a crop).
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models


class SameConv2d(nn.Conv2d):
    """A 3 x 3 convolution of stride 2 that pads as TensorFlow does for inputs of even sides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class MobileNetV2(nn.Module):
    """Images ``(n, 3, 224, 224)`` to features ``(n, 1280)``; its batch norms stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = models.mobilenet_v2(num_classes=1001).features
        for parent in list(self.features.modules()):
            for name, conv in list(parent.named_children()):
                if isinstance(conv, nn.Conv2d) and conv.stride == (2, 2):
                    same = SameConv2d(
                        conv.in_channels,
                        conv.out_channels,
                        conv.kernel_size,
                        stride=2,
                        groups=conv.groups,
                        bias=False,
                    )
                    setattr(parent, name, same)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean(dim=(2, 3))

    def train(self, mode: bool = True) -> MobileNetV2:
        """Training mode for all but the batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def mobilenet_v2() -> tuple[nn.Module, dict[str, object]]:
    """The network with its weights, and what it asks of its images."""
    root = os.environ.get("DOMADAPT_DATA")
    if not root:
        raise ValueError("set DOMADAPT_DATA to the folder that holds models/")
    model = MobileNetV2()
    state = load_file(Path(root) / "models" / "mobilenet_v2_imagenet.safetensors")
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in state.items()
        if k.startswith("features.")
    }
    model.load_state_dict(state)
    # Values in [-1, 1].
    return model, {"size": (224, 224), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
