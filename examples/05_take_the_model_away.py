"""Adapt, then use the exported model with torch alone, as on a machine without domadapt."""

import argparse
import tempfile
from pathlib import Path

import torch

import domadapt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        network, _ = domadapt.adapt(
            "digits:printed->handwritten",
            method="deep_coral+mcc",
            training={"steps": args.steps},
            out=out,
        )
        print("The run folder:", ", ".join(sorted(p.name for p in out.iterdir())))
        exported = torch.export.load(str(out / "model.pt2")).module()
        images = torch.rand(7, 3, 16, 16)  # values in [0, 1]; normalisation is inside the model
        difference = (exported(images) - network(images)).abs().max()
        print(f"Largest difference of the exported model's logits: {float(difference):.1e}")


if __name__ == "__main__":
    main()
