"""A small sample of what a cell's network makes of both domains, kept for maps of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.inference import outputs_of
from domadapt.network import Network
from domadapt.runs.plan import Plan
from domadapt.selection.evidence import some

#: File of a cell; rows of each domain and principal components that it holds, at most.
SAMPLE = "sample.npz"
ROWS, COMPONENTS = 200, 50


@dataclass(frozen=True)
class Sample:
    """Features of both domains with a class for each row.

    Attributes:
        z_s, z_t: features ``(n_s, c)`` and ``(n_t, c)``, as principal components of both together.
        label_s: class ids of the source rows.
        predicted_t: class ids that the network says of the target rows; true ones are not kept.
        class_names: in the order of the ids.
    """

    z_s: Tensor
    z_t: Tensor
    label_s: np.ndarray
    predicted_t: np.ndarray
    class_names: list[str]


def keep_sample(network: Network, plan: Plan, device: torch.device, path: Path) -> None:
    """Keep features of at most 200 samples of ``source_val`` and of ``target_test`` each.

    They are kept as their first 50 principal components, of both domains together, divided by the
    largest value, in half precision: 40 KB whatever the network, and the same neighbours but for
    rounding. The samples are the same for every method. Nothing is kept where a feature is not
    finite.
    """
    task = plan.task
    source, target = (
        outputs_of(network, some(split, ROWS), plan.views, device=device)
        for split in (task.source_val, task.target_test)
    )
    z = torch.cat([source.z, target.z]).double()
    if source.y is None or not bool(z.isfinite().all()):
        return
    z = z - z.mean(0)
    if z.shape[1] > COMPONENTS:
        u, s, _ = torch.linalg.svd(z, full_matrices=False)
        z = (u * s)[:, :COMPONENTS]
    z = z / z.abs().max().clamp_min(1e-300)
    kept: dict[str, Any] = {
        "z": z.numpy().astype(np.float16),
        "label_s": source.y.numpy().astype(np.int32),
        "predicted_t": target.logits.argmax(1).numpy().astype(np.int32),
        "class_names": np.array(task.output_names, dtype=np.str_),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **kept)


def read_sample(path: Path) -> Sample:
    """The sample that a cell kept."""
    with np.load(path, allow_pickle=False) as kept:
        z = torch.from_numpy(kept["z"].astype(np.float32))
        n_s = len(kept["label_s"])
        return Sample(
            z_s=z[:n_s],
            z_t=z[n_s:],
            label_s=kept["label_s"],
            predicted_t=kept["predicted_t"],
            class_names=[str(name) for name in kept["class_names"]],
        )
