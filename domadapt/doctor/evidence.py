"""What the doctor knows: numbers of one point of a run, and of all points so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Term:
    """One adaptation term at one point.

    Attributes:
        value: of the term, unweighted.
        weight: that it has now.
        attached: whether it has a gradient at all, be it 0.
        encoder: norm of its weighted gradient on the encoder's parameters.
        others: the same on all other trainable parameters (head, discriminator).
        ramp: its weight at the first step and at the last, where the method declares a ramp.
        rival: how much the discriminators' own loss rises, relative to it, when the features take
            a small step down this term: positive where the encoder works against them. None where
            the term has no discriminator, or no gradient at the features.
        reversal: the factor of the reversed gradient: 0 where none reaches the features, negative
            where it is not reversed; None where the term has no discriminator.
        rescaled: largest relative change of the value when the features are scaled by 1e-4 to 1e4;
            measured only where the gradient has vanished.
        growth: the value over that of half the batch; measured only where the term dominates.
    """

    value: float
    weight: float
    attached: bool
    encoder: float = 0.0
    others: float = 0.0
    ramp: tuple[float, float] | None = None
    rival: float | None = None
    reversal: float | None = None
    rescaled: float | None = None
    growth: float | None = None


@dataclass(frozen=True)
class Telling:
    """How one discriminator tells a batch's domains apart.

    Attributes:
        accuracy: mean of the shares of source and of target samples that are told right; 0.5 is
            chance.
        pull_s, pull_t: mean direction in which its training moves the source's and the target's
            logits, 1 where all are raised and -1 where all are lowered; None where it is not
            trained by a term.
    """

    accuracy: float
    pull_s: float | None = None
    pull_t: float | None = None


@dataclass(frozen=True)
class Point:
    """One examination.

    Attributes:
        step, progress: when it was.
        terms: the adaptation terms by name.
        source: norm of the gradient of the source loss on the encoder's parameters.
        adaptation: the same of the weighted sum of the adaptation terms.
        tellings: the discriminators by name.
        classes_s, classes_t: effective number of classes predicted on the batch's source and
            target, ``exp(H(mean_i p_i))``.
        n_classes: how many there are; 0 of a regression.
        gaps: how far the batch means of source and target lie apart before each BatchNorm layer,
            root mean square over channels in units of the running standard deviation.
        orphans: parameters that get a gradient and are in no group of the optimiser.
        age: steps that the optimiser's state remembers; None where it keeps no count.
        numpy_moved: whether NumPy's global random numbers were drawn from since training began.
    """

    step: int
    progress: float
    terms: dict[str, Term] = field(default_factory=dict)
    source: float | None = None
    adaptation: float = 0.0
    tellings: dict[str, Telling] = field(default_factory=dict)
    classes_s: float | None = None
    classes_t: float | None = None
    n_classes: int = 0
    gaps: dict[str, float] = field(default_factory=dict)
    orphans: tuple[str, ...] = ()
    age: float | None = None
    numpy_moved: bool = False

    @property
    def share(self) -> float:
        """The share of the encoder's gradient that comes from adaptation, in [0, 1]."""
        return _share(self.adaptation, self.source)

    @property
    def worst_gap(self) -> tuple[str, float] | None:
        """The BatchNorm layer before which the domains lie farthest apart."""
        return max(self.gaps.items(), key=lambda item: item[1], default=None)

    def columns(self) -> dict[str, float]:
        """What of it goes into the learning curves."""
        found: dict[str, float] = {}
        if self.source is not None and self.terms:
            found["doctor/adaptation_share"] = self.share
            if len(self.terms) > 1:
                shares = {
                    f"doctor/share/{k}": _share(t.encoder, self.source)
                    for k, t in self.terms.items()
                }
                found |= shares
        for name, term in self.terms.items():
            if term.reversal is not None:
                found[f"doctor/reversal/{name}"] = term.reversal
        for name, telling in self.tellings.items():
            found[f"doctor/discriminator_accuracy/{name}"] = telling.accuracy
        if self.classes_t is not None:
            found["doctor/effective_classes"] = self.classes_t
        if self.worst_gap is not None:
            found["doctor/batchnorm_gap"] = self.worst_gap[1]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Point:
        """What `dataclasses.asdict` made of it, after a passage through JSON."""
        terms = {
            name: Term(**{**t, "ramp": None if t["ramp"] is None else tuple(t["ramp"])})
            for name, t in data["terms"].items()
        }
        tellings = {name: Telling(**t) for name, t in data["tellings"].items()}
        orphans = tuple(data["orphans"])
        return cls(**{**data, "terms": terms, "tellings": tellings, "orphans": orphans})


def _share(part: float, source: float | None) -> float:
    whole = part + (source or 0.0)
    return part / whole if source is not None and whole > 0 else math.nan


@dataclass(frozen=True)
class Evidence:
    """A run so far.

    Attributes:
        points: the examinations in order, at least one.
        history: the learning curves so far.
        lr: the learning rate now.
        last: whether the run has no further examination.
        confident: whether the method trains on its own confidence, and may wait for it.
    """

    points: tuple[Point, ...]
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    lr: float = math.nan
    last: bool = False
    confident: bool = False

    @property
    def now(self) -> Point:
        """The latest examination."""
        return self.points[-1]

    @property
    def guess(self) -> float:
        """The source loss of a network that says the same of every sample.

        ``log(classes)``, or, of measurements in standard deviations, 1.
        """
        return math.log(self.now.n_classes) if self.now.n_classes > 1 else 1.0

    @property
    def source(self) -> float:
        """The largest gradient that the source loss had on the encoder."""
        return max((p.source for p in self.points if p.source is not None), default=0.0)

    def logged(self, term: str) -> Sequence[float]:
        """The logged means of a term."""
        return self.history.get(f"loss/{term}", ())

    def course(self, term: str) -> list[Term]:
        """A term over the points at which it had a weight."""
        found = [p.terms[term] for p in self.points if term in p.terms]
        return [t for t in found if t.weight != 0]
