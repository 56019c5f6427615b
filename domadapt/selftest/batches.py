"""Invariants over batches of every kind: sizes, classes, precision, scale, order, texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

from domadapt.methods import Method
from domadapt.network import Network
from domadapt.selftest import small
from domadapt.selftest.invariant import invariant, require
from domadapt.selftest.subject import Subject
from domadapt.task import Batch

SIZES = ((5, 30), (30, 5), (2, 2))
POLICIES: tuple[Literal["joint", "separate"], ...] = ("joint", "separate")
SCALES = (0.01, 1.0, 100.0)


def check_finite(method: Method, batch: Batch, where: str, learns: bool = True) -> None:
    """Losses are finite scalars, their gradients finite; the head `learns` from the source."""
    losses = method(batch)
    for term, value in losses.terms.items():
        require(value.ndim == 0, f"{where}: the term {term} is no scalar")
        require(bool(value.isfinite()), f"{where}: the term {term} is {float(value.detach())}")
    if not method.trains:
        return
    if losses.total.requires_grad:
        losses.total.backward()
    if method.critic_steps:
        with torch.no_grad():
            out = method.outputs(batch)
        loss = method.critic_loss(out, batch)
        require(bool(loss.isfinite()), f"{where}: critic_loss is {float(loss.detach())}")
        loss.backward()  # type: ignore[no-untyped-call]
    for key, parameter in method.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require(finite, f"{where}: the gradient of {key} is not finite")
    if method.needs_source and learns:
        head = next(method.network.head.parameters())
        moves = head.grad is not None and bool(head.grad.abs().max() > 0)
        require(moves, f"{where}: the head has no gradient")


@invariant()
def batch_sizes(subject: Subject) -> None:
    """Source and target batches may have any sizes, down to two of each."""
    for policy in POLICIES:
        for sizes in SIZES:
            method = subject.ready()
            method.batch_statistics = policy
            where = f"with {sizes[0]} source and {sizes[1]} target samples, {policy} statistics"
            check_finite(method, subject.batch(*sizes), where)


@invariant()
def missing_class(subject: Subject) -> None:
    """A class may be missing in the source batch."""
    y_s = torch.tensor([0, 2] * 6)
    check_finite(subject.ready(), subject.batch(y_s=y_s), "without source samples of class 1")


@invariant(lambda subject: subject.probe.needs_source)
def several_sources(subject: Subject) -> None:
    """The source may be several domains."""
    method = subject.world.prepare(subject.build(), n_domains=2)
    batch = replace(subject.batch(), domain_s=torch.arange(12) // 3 % 2)
    check_finite(method, batch, "with two source domains")


@invariant()
def mixed_precision(subject: Subject) -> None:
    """In bfloat16 the terms are finite and near those in full precision."""
    found = []
    for on in (True, False):
        method, batch = subject.ready(), subject.batch()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            losses = method(batch)
        require(bool(losses.total.isfinite()), f"the total is {float(losses.total.detach())}")
        found.append({k: float(v.detach()) for k, v in losses.terms.items()})
    for key, exact in found[1].items():
        require(
            abs(found[0][key] - exact) <= max(0.15 * abs(exact), 0.05),
            f"the term {key} is {found[0][key]:.4g} in bfloat16 and {exact:.4g} in float32",
        )


class Scaled(nn.Module):
    """A backbone whose features are multiplied by a number."""

    def __init__(self, backbone: nn.Module, scale: float) -> None:
        super().__init__()
        self.backbone, self.scale = backbone, scale

    def forward(self, x: Tensor) -> Tensor:
        """The features, multiplied."""
        z: Tensor = self.backbone(x) * self.scale
        return z


@invariant(lambda subject: not subject.probe.needs_text)
def feature_scale(subject: Subject) -> None:
    """Losses and gradients are finite for features of a hundredth and a hundred times the size."""
    for scale in SCALES:
        network = subject.world.trained_network()
        network.backbone = Scaled(network.backbone, scale)
        method = subject.ready(network=network)
        # Logits as large leave the source loss nothing to teach.
        check_finite(method, subject.batch(), f"with features times {scale:g}", learns=False)


@invariant(lambda subject: subject.probe.needs_source)
def source_order(subject: Subject) -> None:
    """The order of the source samples in a batch does not matter."""
    batch = subject.batch()
    # No sample stays where it was.
    order = torch.tensor([8, 0, 5, 9, 7, 4, 2, 10, 3, 1, 11, 6])

    def shuffled(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: value[order] for key, value in x.items()}
        return None if x is None else x[order]

    keys = ("x_s", "y_s", "x_s_strong", "index_s", "domain_s")
    mixed = replace(batch, **{key: shuffled(getattr(batch, key)) for key in keys})
    with _even_draws():
        plain, other = (subject.ready()(b).terms for b in (batch, mixed))
    for key, value in plain.items():
        require(
            torch.allclose(other[key], value, rtol=1e-4, atol=1e-6),
            f"the term {key} is {float(value.detach()):.6g}, and "
            f"{float(other[key].detach()):.6g} with the source samples in another order",
        )


@contextmanager
def _even_draws() -> Iterator[None]:
    """Within it `torch.rand_like` gives 1/2 throughout, so that no draw clings to a position."""
    with mock.patch.object(torch, "rand_like", lambda x, **_: torch.full_like(x, 0.5)):
        yield


class Words(nn.Module):
    """The mean of the embeddings of a text's words, padding left out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Features ``(n, 8)`` of ``input_ids`` and ``attention_mask`` ``(n, words)``."""
        mask = x["attention_mask"][..., None]
        pooled = (self.table(x["input_ids"]) * mask).sum(1) / mask.sum(1)
        z: Tensor = self.norm(pooled)
        return z


@invariant(lambda subject: not subject.probe.needs_text)
def texts(subject: Subject) -> None:
    """Source and target texts may differ in length."""

    def words(n: int, length: int) -> dict[str, Tensor]:
        ids = torch.randint(1, 50, (n, length))
        return {"input_ids": ids, "attention_mask": torch.ones(n, length, dtype=torch.long)}

    torch.manual_seed(0)
    network = Network(Words(), nn.Linear(8, small.N_CLASSES))
    method = subject.build(network=network)
    method.setup(2 * small.POOL, small.POOL)
    batch = replace(
        subject.world.make_batch(6, 4),
        x_s=words(6, 9),
        x_t=words(4, 5),
        x_s_strong=words(6, 7),
        x_t_strong=words(4, 8),
    )
    check_finite(method.train(), subject.needed(batch), "with texts")
