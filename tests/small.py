"""A small task, network and trainer that the tests share: two shifted mixtures of Gaussians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from domadapt.data import from_arrays
from domadapt.data.views import make_views
from domadapt.methods import Method, build_method
from domadapt.network import Network
from domadapt.task import Task
from domadapt.trainer import Trainer
from domadapt.training import Training

N_FEATURES, N_CLASSES = 6, 3


def arrays(n: int = 120, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % N_CLASSES
    x = rng.normal(size=(n, N_FEATURES)).astype(np.float32)
    x[np.arange(n), y] += 3.0
    x[:, -1] += shift
    return x, y


def small_task(target_labels: Any = "true", **options: Any) -> Task:
    x_s, y_s = arrays(seed=1, shift=0.0)
    x_t, y_t = arrays(seed=2, shift=2.0, n=90)
    if isinstance(target_labels, str):
        target_labels = y_t
    return Task(
        from_arrays(x_s, y_s, name="source"),
        from_arrays(x_t, target_labels, name="target"),
        **options,
    )


def small_network(seed: int = 0, dropout: float = 0.0) -> Network:
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Linear(N_FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout)
    )
    return Network(backbone, nn.Linear(16, N_CLASSES))


def small_trainer(
    method: str | Method,
    task: Task | None = None,
    settings: dict[str, Any] | None = None,
    path: Path | None = None,
    dropout: float = 0.0,
    **training: Any,
) -> Trainer:
    given = {"steps": 12, "batch_size": 16, "log_every": 3, "device": "cpu", **training}
    built = method
    if isinstance(method, str):
        built = build_method(method, small_network(dropout=dropout), settings)
    assert isinstance(built, Method)
    views = make_views("vector", None, None, scale=torch.ones(N_FEATURES))
    how = Training(**given)
    return Trainer(built, task or small_task(), views, how, checkpoint_path=path, key="k")


def weights(network: nn.Module) -> torch.Tensor:
    """All parameters and floating buffers as one vector."""
    values = [v.detach().flatten() for v in network.state_dict().values() if v.is_floating_point()]
    return torch.cat(values)


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return torch.equal(weights(a), weights(b))
