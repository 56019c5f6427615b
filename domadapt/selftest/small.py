"""A task, networks and batches that take milliseconds: two shifted mixtures of Gaussians."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt.data import from_arrays
from domadapt.data.views import Views, make_views
from domadapt.methods import Method, SourceView, TargetView, build_method
from domadapt.network import Network
from domadapt.task import Batch, Task
from domadapt.trainer import Trainer
from domadapt.training import Training

N_FEATURES, N_CLASSES = 6, 3
#: Target samples that batches made by hand are taken from; their source has twice as many.
POOL = 30


def mixture(y: np.ndarray, shift: float, seed: int) -> np.ndarray:
    """One Gaussian per class, three deviations along a feature of its own; the last is shifted."""
    x = np.random.default_rng(seed).normal(size=(len(y), N_FEATURES)).astype(np.float32)
    x[np.arange(len(y)), y] += 3.0
    x[:, -1] += shift
    return x


def arrays(n: int = 120, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`n` samples of classes that take turns, and these classes."""
    y = np.arange(n) % N_CLASSES
    return mixture(y, shift, seed), y


def small_task(target_labels: Any = "true", sources: int = 1, **options: Any) -> Task:
    """120 samples of each source and 90 of the target, whose labels are `target_labels`."""
    given = [arrays(seed=1 + 2 * i, shift=0.5 * i) for i in range(sources)]
    x_t, y_t = arrays(seed=2, shift=2.0, n=90)
    if isinstance(target_labels, str):
        target_labels = y_t
    return Task(
        [from_arrays(x, y, name=f"source{i or ''}") for i, (x, y) in enumerate(given)],
        from_arrays(x_t, target_labels, name="target"),
        **options,
    )


def small_network(seed: int = 0, dropout: float = 0.0, width: int = 16) -> Network:
    """A linear layer, BatchNorm, ReLU and dropout; untrained."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Linear(N_FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)
    )
    return Network(backbone, nn.Linear(width, N_CLASSES))


def trained_network(dropout: float = 0.0, width: int = 16) -> Network:
    """`small_network` after training on the source: what source-free methods are given.

    The others get it as well: a method that acts where predictions are sure has something to do.
    """
    network = small_network(dropout=dropout, width=width)
    network.load_state_dict(_trained_state(width))
    return network


@cache
def _trained_state(width: int) -> Mapping[str, Tensor]:
    network = small_network(width=width)
    x, y = (torch.from_numpy(a) for a in arrays(seed=1, shift=0.0))
    x = x.to(torch.get_default_dtype())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return copy.deepcopy(network.state_dict())


def small_trainer(
    method: str | Method,
    task: Task | None = None,
    settings: Mapping[str, Any] | None = None,
    path: Path | None = None,
    dropout: float = 0.0,
    views: Views | None = None,
    **training: Any,
) -> Trainer:
    """A run of 12 steps over `small_task`, on the CPU."""
    given = {"steps": 12, "batch_size": 16, "log_every": 3, "device": "cpu", **training}
    built = method
    if isinstance(built, str):
        built = build_method(built, small_network(dropout=dropout), settings)
    views = views or make_views("vector", None, None, scale=torch.ones(N_FEATURES))
    how = Training(**given)
    return Trainer(built, task or small_task(), views, how, checkpoint_path=path, key="k")


def samples(n: int, domain: int, y: Tensor | None = None, gap: float = 2.0) -> Tensor:
    """Inputs of the source (domain 0) or of the target (1), whose last feature lies `gap` off."""
    classes = np.arange(n) % N_CLASSES if y is None else y.numpy()
    x = torch.from_numpy(mixture(classes, gap * domain, seed=17 + domain))
    return x.to(torch.get_default_dtype())


def make_batch(
    n_s: int = 12,
    n_t: int = POOL,
    progress: float = 0.5,
    y_s: Tensor | None = None,
    gap: float = 2.0,
) -> Batch:
    """The first `n_t` samples of the target pool, and source samples of the classes `y_s`."""
    y_s = torch.arange(n_s) % N_CLASSES if y_s is None else y_s
    x_s, x_t = samples(n_s, 0, y_s, gap), samples(POOL, 1, gap=gap)[:n_t]
    noise = torch.Generator().manual_seed(3)
    return Batch(
        x_s,
        y_s,
        x_t,
        progress,
        x_s_strong=x_s + 0.3 * torch.randn(x_s.shape, generator=noise),
        x_t_strong=x_t + 0.3 * torch.randn(x_t.shape, generator=noise),
        index_s=torch.arange(n_s),
        index_t=torch.arange(n_t),
        domain_s=torch.zeros(n_s, dtype=torch.long),
    )


def prepare(method: Method, progress: float = 0.5, n_domains: int = 1) -> Method:
    """As the Trainer does before a step: set up, and refreshed by the network's own word."""
    method.n_domains = n_domains
    method.setup(2 * POOL, POOL)
    if method.closed_form:
        y_s = torch.arange(2 * POOL) % N_CLASSES
        method.fit_features(samples(2 * POOL, 0, y_s), y_s, samples(POOL, 1))
    if method.refreshes:
        network = copy.deepcopy(method.network).eval()
        y = torch.arange(POOL) % N_CLASSES
        with torch.no_grad():
            z_s, z_t = network.features(samples(POOL, 0, y)), network.features(samples(POOL, 1))
            val = SourceView(network.head(z_s), z_s, y) if method.needs_source_val else None
            method.refresh(TargetView(network.head(z_t), z_t, val), progress)
    return method.train()


def weights(network: nn.Module) -> Tensor:
    """All parameters and floating buffers as one vector."""
    values = [v.detach().flatten() for v in network.state_dict().values() if v.is_floating_point()]
    return torch.cat(values)


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same numbers, bit for bit."""
    return torch.equal(weights(a), weights(b))


def same_parameters(a: nn.Module, b: nn.Module) -> bool:
    """The same without buffers, such as BatchNorm's running statistics."""
    ones, others = dict(a.named_parameters()), dict(b.named_parameters())
    return ones.keys() == others.keys() and all(torch.equal(ones[k], others[k]) for k in ones)
