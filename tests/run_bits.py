"""What must not differ between two runs that are said to be the same."""

from __future__ import annotations

from pathlib import Path

from domadapt.checkpoint import load_tensors


def bits(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor of every model in a run's folder, and its predictions."""
    found = {"predictions.csv": (folder / "predictions.csv").read_bytes()}
    for file in folder.rglob("model.safetensors"):
        for name, value in load_tensors(file)[0].items():
            found[f"{file.relative_to(folder)}/{name}"] = value.numpy().tobytes()
    return found
