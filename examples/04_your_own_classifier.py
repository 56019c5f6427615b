"""You have a trained classifier: keep its backbone and head, and adapt it to new data."""

import argparse

import torch
from torch import nn

import domadapt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.manual_seed(0)

    model = nn.Sequential()  # stands for yours: trained, with its head
    model.add_module("conv", nn.Conv2d(3, 32, 3, stride=2, padding=1))
    model.add_module("norm", nn.BatchNorm2d(32))
    model.add_module("relu", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(4))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(512, 10))

    network = domadapt.Network.from_classifier(model, head="fc")
    adapted, report = domadapt.adapt(
        "digits:handwritten->printed", network, "deep_coral", training={"steps": args.steps}
    )
    print(report.summary())
    print("Layers:", ", ".join(adapted.blocks()))


if __name__ == "__main__":
    main()
