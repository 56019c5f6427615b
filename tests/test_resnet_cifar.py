"""The residual networks for CIFAR: their size, their shortcuts, and real weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from domadapt.backbones import backbone_names, build_backbone, preprocessing_of
from domadapt.errors import DomadaptError
from domadapt.resnet_cifar import Block, ResNetCifar

DATA = os.environ.get("DOMADAPT_DATA")


@pytest.mark.parametrize(("n", "count"), [(3, 269_722), (9, 853_018)])
def test_sizes_are_those_of_the_table(n: int, count: int) -> None:
    # By hand: 27·16 + 32 in the stem; 9·w² and 2w per convolution of width w and its BatchNorm,
    # 9·w·w/2 where the width doubles; 650 in the head. arXiv:1512.03385, table 6: 0.27 M, 0.85 M.
    stem = 27 * 16 + 32
    stages = sum(9 * w * w * 2 * n + 4 * w * n for w in (16, 32, 64))
    narrower = 9 * 32 * 16 + 9 * 64 * 32
    assert stem + stages - narrower + 650 == count
    assert sum(p.numel() for p in ResNetCifar(n).parameters()) == count


@torch.no_grad()
def test_a_shortcut_takes_every_second_pixel_and_pads_with_zeros() -> None:
    block = Block(4, 8, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 6, 6)
    z = block(x)
    wanted = torch.zeros(2, 8, 3, 3)
    for i in range(3):
        for j in range(3):
            wanted[:, 2:6, i, j] = x[:, :, 2 * i, 2 * j]
    assert torch.equal(z, wanted)


def test_by_name() -> None:
    x = torch.rand(2, 3, 32, 32)
    made = build_backbone("resnet20", x)
    assert made.kind == "scratch"
    assert made.head is None
    assert made.module(x).shape == (2, 64)
    assert "resnet56" in dict(backbone_names())
    asked = preprocessing_of("resnet20", "weights.th")
    assert asked is not None
    assert asked.size == (32, 32)
    assert asked.mean is not None
    plain = preprocessing_of("resnet20")
    assert plain is not None
    assert plain.mean is None
    with pytest.raises(DomadaptError, match="8 x 8"):
        build_backbone("resnet20", torch.rand(2, 3, 4, 4))
    with pytest.raises(DomadaptError, match="must be a file"):
        build_backbone("resnet20", x, weights="DEFAULT")


@pytest.mark.skipif(DATA is None, reason="needs DOMADAPT_DATA: the weights of CIFAR's ResNets")
@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_real_weights(name: str) -> None:
    file = Path(str(DATA)) / "models" / name
    if not file.is_file():
        pytest.skip(f"the weights {name} are not there")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = name.partition("-")[0]
    made = build_backbone(model, x, weights=str(file))
    assert made.kind == "pretrained"
    raw = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(
        made.module.state_dict()["layer3.2.conv2.weight"], raw["module.layer3.2.conv2.weight"]
    )
    whole = build_backbone(model, x, checkpoint=file, n_classes=10)
    assert whole.head is not None
    assert torch.equal(whole.head.weight, raw["module.linear.weight"])
