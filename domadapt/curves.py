"""Learning curves: what one point of them is, and what is gathered for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Learning curves by name: "step", "seconds", "lr", "loss/<term>" (raw), "weight/<term>",
#: "doctor/<what>", NaN but at the points that follow an examination, and with ``patience``
#: "loss/held_out", NaN but where it was measured.
History = dict[str, list[float]]


@dataclass(frozen=True)
class Log:
    """One point of the learning curves; `warnings` are what the doctor found since the last."""

    step: int
    steps: int
    losses: dict[str, float]
    weights: dict[str, float]
    lr: float
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass
class Window:
    """Losses since the last point of the curves, left on their device until then."""

    steps: list[dict[str, Tensor]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, terms: dict[str, Tensor], weights: dict[str, float]) -> None:
        """Take the losses of one step, and the weights that they had."""
        self.steps.append({name: value.detach() for name, value in terms.items()})
        self.weights = weights

    def close(self) -> tuple[dict[str, float], str | None]:
        """Mean of each term, and the term that was the first to be NaN or infinite, if any.

        A term counts over the steps that have it: a method may begin with one later.
        """
        steps, self.steps = self.steps, []
        names = list(dict.fromkeys(name for terms in steps for name in terms))
        if not names:
            # Nothing is minimised: batches only pass through the network.
            return {}, None
        values = [torch.stack([terms[n] for terms in steps if n in terms]) for n in names]
        numbers = torch.stack([v.float().mean() for v in values]).tolist()
        means = dict(zip(names, numbers, strict=True))
        if all(math.isfinite(mean) for mean in numbers):
            return means, None
        # One bad step spoils the weights and with them all terms of the next: the first one counts.
        bad = (n for terms in steps for n, v in terms.items() if not torch.isfinite(v).all())
        return means, next(bad, names[0])


def look_steps(steps: int, looks: int) -> list[int]:
    """The steps after which a run is looked at: ``ceil(k steps / looks)``, the last one included.

    A run of fewer steps than looks is looked at after each.
    """
    return sorted({-(-k * steps // looks) for k in range(1, looks + 1)})
