"""What a study is asked for."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from domadapt.defaults import BackboneKind, training_for
from domadapt.errors import DomadaptError, unknown
from domadapt.layers.reinitialise import Reset
from domadapt.regression import strata
from domadapt.training import Training

#: Every study by name, and what it asks.
STUDIES = {
    "progressive": "the first k blocks kept, the others re-initialised, for every k",
    "localised": "a window of blocks re-initialised, wherever it stands",
    "inverse": "all blocks but a window re-initialised",
    "permutation": "blocks exchanged with others of the same shape, in random orders",
    "probing": "a linear probe of each block of the frozen network",
    "anb": "the first k blocks copied and frozen, the others re-initialised",
    "anb+": "the same with the copied blocks fine-tuned, which is the progressive study",
    "criticality": "each block of the fine-tuned network taken back towards its initial values",
    "cka": "likeness of representations: before and after fine-tuning, and of two domains",
}
#: What is done where nothing is asked.
USUAL = ("progressive", "localised", "probing")
FULL = "full"
#: Steps of one fine-tuning where neither these nor epochs are given.
STEPS = 300
CLASS_METRICS = ("accuracy", "macro_f1", "per_class_mean", "auroc")
VALUE_METRICS = ("r2", "spearman")


@dataclass(frozen=True)
class Settings:
    """All that decides a study but its model and data.

    Attributes:
        studies: which; see `STUDIES`.
        sizes: how many training samples: numbers, or "full" for all there are.
        seeds: of head, re-initialisation, draw of the samples and order of the batches.
        how: see `domadapt.layers.reinitialise.Reset`.
        window: blocks in a window of the localised and the inverse study.
        blocks: names of the backbone's modules that are the blocks; None takes its own.
        orders: how many random orders of the blocks.
        metric: what is scored on held-out samples, larger is better; None takes accuracy, of a
            regression R².
        training: settings of `domadapt.training.Training` over the defaults of the kind of
            backbone.
        epochs: passes over the training samples in place of steps.
        alphas, noise, tolerance: of `domadapt.layers.criticality`.
        unbiased: of `domadapt.layers.cka`.
    """

    studies: tuple[str, ...] = USUAL
    sizes: tuple[int | str, ...] = (FULL,)
    seeds: tuple[int, ...] = (0, 1, 2)
    how: Reset = field(default_factory=Reset)
    window: int = 1
    blocks: tuple[str, ...] | None = None
    orders: int = 5
    metric: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    epochs: float | None = None
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    noise: float = 0.0
    tolerance: float = 0.01
    unbiased: bool = True

    def __post_init__(self) -> None:
        for study in self.studies:
            if study not in STUDIES:
                raise unknown("study", study, STUDIES)
        if not self.studies or not self.sizes or not self.seeds:
            raise DomadaptError("A study of layers needs at least one study, size and seed.")
        for what in ("studies", "sizes", "seeds"):
            if len(set(getattr(self, what))) < len(getattr(self, what)):
                raise DomadaptError(f"{what} must differ; got {_list(getattr(self, what))}.")
        for size in self.sizes:
            if size != FULL and (isinstance(size, str) or size < 2):
                raise DomadaptError(
                    f"A size is 'full' or a number of training samples from 2 on; got {size!r}."
                )
        if any(seed < 0 for seed in self.seeds):
            raise DomadaptError(f"seeds must not be negative; got {_list(self.seeds)}.")
        if self.epochs is not None and ("steps" in self.training or not self.epochs > 0):
            raise DomadaptError("Give steps, or epochs above 0; not both.")
        if "seed" in self.training:
            raise DomadaptError("The seeds of a study are its own: give seeds, not a seed.")
        if self.orders < 1:
            raise DomadaptError(f"orders must be at least 1; got {self.orders}.")
        if self.noise < 0 or self.tolerance < 0:
            raise DomadaptError("noise and tolerance must not be negative.")
        rising = all(a < b for a, b in zip(self.alphas, self.alphas[1:], strict=False))
        if not rising or len(self.alphas) < 2 or self.alphas[0] < 0 or self.alphas[-1] != 1:
            raise DomadaptError(f"alphas must rise to 1, from 0 on; got {_list(self.alphas)}.")

    def training_of(self, kind: BackboneKind, size: int, seed: int) -> Training:
        """How one variant is fine-tuned: the defaults of the kind, a stated number of steps."""
        # Worker processes cost a short training more than they bring; they change no bit.
        given = {"steps": STEPS, "workers": 0, **self.training}
        how = training_for(kind, given)
        if self.epochs is not None:
            per_pass = math.ceil(size / (how.batch_size * how.accumulate))
            how = replace(how, steps=max(1, round(self.epochs * per_pass)))
        return replace(how, seed=seed)

    def checked_metric(self, regression: bool) -> str:
        """The metric, where there is such for these labels."""
        known = VALUE_METRICS if regression else CLASS_METRICS
        if self.metric is None:
            return known[0]
        if self.metric not in known:
            near = difflib.get_close_matches(self.metric, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise DomadaptError(
                f"A study of {'measurements' if regression else 'classes'} is scored by one of "
                f"{', '.join(known)}; got {self.metric!r}.{hint}"
            )
        return self.metric


def drawn(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Positions of `size` samples drawn at random, each class with its share, at least one of each.

    Shares are rounded by largest remainder, so that there are exactly `size`, or one per class
    where that is more. Of measurements each tenth keeps its share.

    Args:
        labels: class ids ``(n,)`` or values ``(n, k)``.
        size: how many; all where there are no more.
        seed: of the draw.
    """
    n = len(labels)
    if size >= n:
        return np.arange(n)
    groups, counts = np.unique(strata(labels), return_counts=True)
    shares = size * counts / n
    kept = np.maximum(np.floor(shares).astype(int), 1)
    for i in np.argsort(-(shares - np.floor(shares)), kind="stable"):
        if kept.sum() >= size:
            break
        kept[i] += kept[i] < counts[i] and shares[i] > kept[i]
    while kept.sum() > max(size, len(groups)):
        kept[np.argmax(kept)] -= 1
    rng = np.random.default_rng([seed, n, size])
    stratum = strata(labels)
    parts = [
        rng.permutation(np.flatnonzero(stratum == group))[:count]
        for group, count in zip(groups, kept, strict=True)
    ]
    found: np.ndarray = np.sort(np.concatenate(parts))
    return found


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
