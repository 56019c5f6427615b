"""What `small` has, in words: texts of two domains and an encoder of them, for methods of texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt.data.tokens import TokenSamples
from domadapt.data.views import make_views
from domadapt.methods import Method, build_method
from domadapt.network import Network
from domadapt.selftest import small
from domadapt.selftest.small import N_CLASSES, POOL, arrays
from domadapt.task import Batch, Domain, Task
from domadapt.trainer import Trainer

__all__ = ["N_CLASSES", "POOL", "arrays"]

#: Tokens: padding, the start of a text and the mask, six words of each class, and the rest.
PADDING, START, MASK, FIRST, OF_CLASS, WORDS, LENGTH = 0, 1, 2, 3, 6, 40, 12


def tokens(y: np.ndarray, domain: int, seed: int) -> np.ndarray:
    """Tokens ``(n, LENGTH)``, -1 beyond a text's end: words of its class and of its domain."""
    rng = np.random.default_rng(seed)
    own = FIRST + OF_CLASS * y[:, None] + rng.integers(OF_CLASS, size=(len(y), LENGTH))
    first = FIRST + OF_CLASS * N_CLASSES
    common = rng.integers(first + 5 * domain, WORDS - 5 * (1 - domain), size=own.shape)
    found = np.where(rng.random(own.shape) < 0.4, own, common)
    found[:, 0], found[:, 1] = START, own[:, 1]
    lengths = rng.integers(6, LENGTH + 1, size=len(y))
    found[np.arange(LENGTH)[None] >= lengths[:, None]] = -1
    return found.astype(np.int32)


def domain(n: int, which: int, labels: Any, name: str, seed: int) -> Domain:
    """`n` texts of classes that take turns."""
    samples = TokenSamples(tokens(np.arange(n) % N_CLASSES, which, seed)[None], PADDING)
    labels = None if labels is None else np.asarray(labels)
    return Domain(name, samples, labels, kind="text")


def small_task(target_labels: Any = "true", sources: int = 1, **options: Any) -> Task:
    """As `small.small_task`."""
    names = [(f"source{i or ''}", 1 + 2 * i) for i in range(sources)]
    given = [domain(120, 0, np.arange(120) % N_CLASSES, name, seed) for name, seed in names]
    if isinstance(target_labels, str):
        target_labels = np.arange(90) % N_CLASSES
    return Task(given, domain(90, 1, target_labels, "target", 2), **options)


def small_network(seed: int = 0, dropout: float = 0.0, width: int = 16) -> Network:
    """A BERT of one layer; untrained."""
    from transformers import BertConfig, BertModel

    from domadapt.hf.encoder import Encoder

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        pad_token_id=PADDING,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = BertModel(config, add_pooling_layer=False).to(torch.get_default_dtype())
    encoder = Encoder(model, "mean", PADDING)
    encoder.masking = (MASK, (PADDING, START, MASK))
    return Network(encoder, nn.Linear(width, N_CLASSES))


def trained_network(dropout: float = 0.0, width: int = 16) -> Network:
    """`small_network` after training on the source."""
    network = small_network(dropout=dropout, width=width)
    network.load_state_dict(_trained_state(width))
    return network


@cache
def _trained_state(width: int) -> Mapping[str, Tensor]:
    network = small_network(width=width)
    y = torch.arange(120) % N_CLASSES
    x = samples(120, 0, y)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(20):
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
    **training: Any,
) -> Trainer:
    """As `small.small_trainer`."""
    if isinstance(method, str):
        method = build_method(method, small_network(dropout=dropout), settings)
    views = make_views("text", None, None)
    return small.small_trainer(method, task or small_task(), path=path, views=views, **training)


def samples(n: int, domain: int, y: Tensor | None = None, gap: float = 2.0) -> dict[str, Tensor]:
    """Tokens of texts of the source (domain 0) or of the target (1)."""
    classes = np.arange(n) % N_CLASSES if y is None else y.numpy()
    return TokenSamples(tokens(classes, domain, 17 + domain)[None], PADDING).__getitems__(range(n))


def make_batch(
    n_s: int = 12,
    n_t: int = POOL,
    progress: float = 0.5,
    y_s: Tensor | None = None,
    gap: float = 2.0,
) -> Batch:
    """As `small.make_batch`; strong views are texts of the same classes."""
    plain = small.make_batch(n_s, n_t, progress, y_s, gap)
    y_s = plain.y_s
    x_t = {k: v[:n_t] for k, v in samples(POOL, 1).items()}
    x_s = samples(n_s, 0, y_s)
    return replace(plain, x_s=x_s, x_t=x_t, x_s_strong=x_s, x_t_strong=x_t)


def prepare(method: Method, progress: float = 0.5, n_domains: int = 1) -> Method:
    """As the Trainer does before a step."""
    method.n_domains = n_domains
    method.setup(2 * POOL, POOL)
    return method.train()
