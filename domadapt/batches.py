"""Batches as a pure function of the seed and the step, so that any run can go on anywhere.

Nothing is iterated and nothing remembered: the samples of a step follow from the permutation of
their epoch, and its augmentation from the step's own generator. The number of loader workers and
an interruption therefore change no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from domadapt.data.views import Views
from domadapt.task import Batch, Inputs, Split

_ORDER, _WEAK, _STRONG = 0, 1, 2
_SOURCE, _TARGET, _LABELLED = 0, 1, 2


def generator(*key: int) -> torch.Generator:
    """A generator of random numbers that depends on `key` alone."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


class Order:
    """An endless reshuffled pass over ``n`` samples, with access to any part of it."""

    def __init__(self, n: int, *key: int) -> None:
        self.n = n
        self.key = key
        self._epochs: dict[int, np.ndarray] = {}

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.pop(min(self._epochs))
            g = generator(*self.key, _ORDER, epoch)
            self._epochs[epoch] = torch.randperm(self.n, generator=g).numpy()
        return self._epochs[epoch]

    def part(self, k: int, size: int) -> np.ndarray:
        """The `k`-th run of `size` positions; a run may pass from one epoch into the next."""
        start, parts = k * size, []
        while size > 0:
            epoch, offset = divmod(start, self.n)
            piece = self._permutation(epoch)[offset : offset + size]
            parts.append(piece)
            start, size = start + len(piece), size - len(piece)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Draws:
    """Samples drawn with replacement, each as often as its weight says, as a function of ``k``."""

    def __init__(self, weights: Tensor, *key: int) -> None:
        self.weights = weights
        self.key = key

    def part(self, k: int, size: int) -> np.ndarray:
        """The `k`-th draw of `size` positions."""
        g = generator(*self.key, _ORDER, k)
        drawn: np.ndarray = torch.multinomial(self.weights, size, True, generator=g).numpy()
        return drawn


def balancing_weights(y: Tensor) -> Tensor:
    """Weights under which every class that occurs in `y` ``(n,)`` is drawn equally often."""
    weights: Tensor = 1.0 / torch.bincount(y).clamp_min(1)[y].double()
    return weights


class BatchStream(Dataset[Batch]):
    """The batches of a run by number.

    Args:
        source, target: the training splits; None where the method does not need one.
        views: how raw samples become inputs.
        batch_size_s, batch_size_t: samples of each domain per batch and process.
        strong: whether strongly augmented views are wanted as well.
        seed: the run's seed.
        steps: optimiser steps of the whole run, for `Batch.progress`.
        accumulate: batches per optimiser step.
        rank, world: this process and their number; processes share out each step's samples.
        labelled: target samples that a person labelled, drawn with every batch.
        weights_s, weights_t: how often each sample is drawn; None passes over all in turn.
    """

    def __init__(
        self,
        source: Split | None,
        target: Split | None,
        views: Views,
        *,
        batch_size_s: int,
        batch_size_t: int,
        strong: bool,
        seed: int,
        steps: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        labelled: Split | None = None,
        weights_s: Tensor | None = None,
        weights_t: Tensor | None = None,
    ) -> None:
        self.source, self.target, self.views = source, target, views
        self.labelled = labelled
        self.size_s, self.size_t = batch_size_s, batch_size_t
        self.strong, self.seed = strong, seed
        self.steps, self.accumulate = steps, accumulate
        self.rank, self.world = rank, world
        self.order_s = _order(source, weights_s, seed, _SOURCE)
        self.order_t = _order(target, weights_t, seed, _TARGET)
        self.order_l = _order(labelled, None, seed, _LABELLED)
        self.size_l = 0 if labelled is None else min(len(labelled), batch_size_t)

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def _inputs(self, split: Split, index: np.ndarray, side: int, k: int) -> tuple[Inputs, ...]:
        raw = split.fetch(index)
        # A generator takes longer to make than a batch of vectors.
        x = (
            self.views.weak(raw, generator(self.seed, side, _WEAK, k))
            if self.views.draws
            else self.views.evaluation(raw)
        )
        if not self.strong:
            return (x,)
        return x, self.views.strong(raw, generator(self.seed, side, _STRONG, k))

    def __getitem__(self, number: int) -> Batch:
        k = number * self.world + self.rank
        x_s = x_s_strong = x_t = x_t_strong = None
        y_s: Tensor | None = None
        domain_s: Tensor | None = None
        index_s = index_t = None
        if self.source is not None and self.order_s is not None and self.source.y is not None:
            part = self.order_s.part(k, self.size_s)
            x_s, *more = self._inputs(self.source, part, _SOURCE, k)
            x_s_strong = more[0] if more else None
            index_s = torch.from_numpy(part)
            y_s = self.source.y[index_s]
            if self.source.domain_ids is not None:
                domain_s = self.source.domain_ids[index_s]
        if self.target is not None and self.order_t is not None:
            part = self.order_t.part(k, self.size_t)
            x_t, *more = self._inputs(self.target, part, _TARGET, k)
            x_t_strong = more[0] if more else None
            index_t = torch.from_numpy(part)
        x_l: Inputs | None = None
        y_l: Tensor | None = None
        if self.labelled is not None and self.order_l is not None and self.labelled.y is not None:
            part = self.order_l.part(k, self.size_l)
            x_l = self._inputs(self.labelled, part, _LABELLED, k)[0]
            y_l = self.labelled.y[torch.from_numpy(part)]
        return Batch(
            x_s,
            y_s,
            x_t,
            progress=(number // self.accumulate) / self.steps,
            x_s_strong=x_s_strong,
            x_t_strong=x_t_strong,
            index_s=index_s,
            index_t=index_t,
            domain_s=domain_s,
            x_l=x_l,
            y_l=y_l,
        )


def _order(split: Split | None, weights: Tensor | None, *key: int) -> Order | Draws | None:
    if split is None:
        return None
    return Order(len(split), *key) if weights is None else Draws(weights, *key)


def _same(batch: Any) -> Any:
    return batch


def batch_loader(
    stream: BatchStream, first: int, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """The batches of `stream` from number `first` on, prepared by `workers` processes."""
    loader = DataLoader(
        stream,
        batch_size=None,
        sampler=range(first, len(stream)),
        num_workers=workers,
        collate_fn=_same,
        pin_memory=pin_memory,
        # A generator of its own: making an iterator would draw from the global one.
        generator=torch.Generator(),
    )
    return iter(loader)
