"""Parts of a task's samples: how they are drawn, and whether they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.regression import strata
from domadapt.task.domain import Domain, Raw


@dataclass(frozen=True)
class Split:
    """Part of a task's samples; ``y`` is None for everything of the target.

    ``y`` holds class ids ``(n,)``, or, of a regression, float32 values ``(n, k)``.
    """

    name: str
    domain: Domain
    indices: np.ndarray
    y: Tensor | None = None
    domain_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, positions: Sequence[int] | np.ndarray) -> Raw:
        """The raw inputs at these positions within the split."""
        return self.domain.fetch(self.indices[np.asarray(positions)].tolist())

    def ids(self) -> list[str]:
        """The names of its samples: those of the domain, or their row numbers."""
        known = self.domain.ids
        return [str(known[i]) if known is not None else str(i) for i in self.indices]


@dataclass(frozen=True)
class Oracle:
    """Labelled target splits, disjoint from each other. Whatever used one is called `oracle`."""

    target_train: Split
    target_val: Split
    target_test: Split


def hold_out(
    n: int, fraction: float, rng: np.random.Generator, y: np.ndarray | None, groups: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Divide ``0..n-1`` into (kept, held out); whole groups, else the same share of each class.

    Of values the same share of each tenth of them.
    """
    if groups is not None:
        names, member = np.unique([str(g) for g in groups], return_inverse=True)
        if len(names) < 2:
            raise DomadaptError(
                f"Splits keep groups whole, which takes at least 2 groups; there is {len(names)}. "
                "Give more groups, or none."
            )
        order = rng.permutation(len(names))
        size = np.bincount(member)[order].cumsum()
        held = order[: max(1, min(int((size <= fraction * n).sum()), len(names) - 1))]
        out = np.isin(member, held)
        return np.flatnonzero(~out), np.flatnonzero(out)
    stratum = np.zeros(n, dtype=np.int64) if y is None else strata(y)
    held_out = []
    for c in np.unique(stratum):
        where = rng.permutation(np.flatnonzero(stratum == c))
        # A class of one sample stays whole in what is kept: it can be learnt but not validated.
        held_out.append(where[: min(round(fraction * len(where)), len(where) - 1)])
    out_index = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(n), out_index), out_index


def same_samples(a: Domain, b: Domain) -> bool:
    """Whether two domains look like one: as long, and equal in eight places."""
    if len(a) != len(b):
        return False
    some = np.unique(np.linspace(0, len(a) - 1, 8).astype(int)).tolist()

    def rows(d: Domain) -> list[Tensor]:
        raw = d.fetch(some)
        return list(raw.values()) if isinstance(raw, dict) else list(raw)

    return all(torch.equal(x, y) for x, y in zip(rows(a), rows(b), strict=True))


def share_samples(few: Domain, many: Domain) -> bool:
    """Whether one of (at most 16 of) the samples of `few` is among those of `many`."""

    def prints(d: Domain, index: Sequence[int]) -> set[bytes]:
        raw = d.fetch(list(index))
        if isinstance(raw, dict):
            rows = [
                torch.cat([f.flatten().double() for f in row])
                for row in zip(*raw.values(), strict=True)
            ]
        else:
            rows = list(raw)
        return {row.contiguous().numpy().tobytes() for row in rows}

    wanted = prints(few, np.unique(np.linspace(0, len(few) - 1, 16).astype(int)).tolist())
    starts = range(0, len(many), 256)
    return any(wanted & prints(many, range(s, min(s + 256, len(many)))) for s in starts)


def check_shapes(domains: Sequence[Domain]) -> None:
    """Refuse rows or series of different shapes."""
    if domains[0].kind not in ("vector", "series"):
        return
    shapes = []
    for d in domains:
        raw = d.fetch([0])
        shapes.append(None if isinstance(raw, dict) else tuple(raw[0].shape))
    for d, shape in zip(domains, shapes, strict=True):
        if shape != shapes[0]:
            raise DomadaptError(
                f"Source and target must have the same features: a sample of "
                f"{domains[0].name!r} has shape {shapes[0]}, one of {d.name!r} {shape}."
            )
