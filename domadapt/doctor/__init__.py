"""The doctor: looks at a run a few times, off the hot path, and says what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from domadapt.doctor.evidence import Evidence, Point
from domadapt.doctor.findings import FINDINGS, Finding
from domadapt.doctor.measure import measure
from domadapt.methods import Method
from domadapt.task import Batch

__all__ = ["POINTS", "Doctor", "Evidence", "Finding", "Point"]

#: Examinations of a run, evenly spaced, the first at its first step. One costs about as much as two
#: steps, so that a run of 1,000 steps takes some 1.5 % longer.
POINTS = 8
#: A method with more terms than this, which cost a backward pass each, has every second one.
MANY = 2
#: A short run has fewer: at most one in so many steps.
SPACING = 5


class Doctor:
    """Examines a method eight times a run and keeps what it finds.

    An examination is one extra pass over the batch at hand and a few backward passes; it changes
    nothing of the training, not one bit (`domadapt.doctor.measure.untouched`).

    Args:
        method: what is trained.
        steps: of the whole run.
        closer: whether suspicious terms may be evaluated once more; not with several processes,
            which would then not all take part in what a method gathers.
    """

    def __init__(self, method: Method, steps: int, closer: bool = True) -> None:
        self.method, self.steps, self.closer = method, steps, closer
        self.planned = min(POINTS, -(-steps // SPACING))
        self.points: list[Point] = []
        self.findings: dict[str, Finding] = {}
        self._numpy: tuple[int, int] | None = None
        self._columns: dict[str, float] = {}
        self._news: list[str] = []

    def due(self, step: int) -> bool:
        """Whether this step has an examination."""
        turn = self._turn(step)
        return turn != self._turn(step - 1) and turn % self._every == 0

    def _turn(self, step: int) -> int:
        return step * self.planned // self.steps

    @property
    def _every(self) -> int:
        return 2 if self.points and len(self.points[-1].terms) > MANY else 1

    def examine(
        self,
        batch: Batch,
        step: int,
        *,
        device: torch.device,
        optimizer: torch.optim.Optimizer | None = None,
        history: Mapping[str, Sequence[float]] | None = None,
        autocast: AbstractContextManager[Any] | None = None,
        scale: float = 1.0,
    ) -> Point:
        """Look at the method on `batch`, and at the run so far; returns what was measured.

        Args:
            batch: what the step will train on.
            step: its number.
            device: where the method is.
            optimizer: what trains it.
            history: the learning curves so far.
            autocast: the precision of the training.
            scale: what losses are multiplied by before their backward pass (fp16).
        """
        if self._numpy is None:
            self._numpy = _numpy_state()
        known = max((p.source for p in self.points if p.source is not None), default=0.0)
        point = measure(
            self.method,
            batch,
            step,
            device=device,
            optimizer=optimizer,
            autocast=autocast,
            scale=scale,
            closer=self.closer,
            source_norm=known,
        )
        point = dataclasses.replace(point, numpy_moved=_numpy_state() != self._numpy)
        self.points.append(point)
        self._columns |= point.columns()
        groups = [] if optimizer is None else optimizer.param_groups
        rate = max((float(g["lr"]) for g in groups), default=float("nan"))
        self.judge(
            Evidence(
                tuple(self.points),
                history or {},
                rate,
                self._turn(step) + self._every >= self.planned,
                self.method.trains_on_confidence,
            )
        )
        return point

    def judge(self, evidence: Evidence) -> None:
        """Keep every finding of a kind that was not yet made."""
        for look in FINDINGS:
            finding = look(evidence)
            if finding is not None and finding.name not in self.findings:
                self.findings[finding.name] = finding
                self._news.append(finding.sentence)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that was found, in words."""
        return tuple(f.sentence for f in self.findings.values())

    def columns(self) -> dict[str, float]:
        """What was measured since it was last asked for, for the learning curves."""
        columns, self._columns = self._columns, {}
        return columns

    def news(self) -> tuple[str, ...]:
        """The sentences since they were last asked for."""
        news, self._news = tuple(self._news), []
        return news

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as plain data."""
        return {
            "points": [dataclasses.asdict(p) for p in self.points],
            "findings": [dataclasses.asdict(f) for f in self.findings.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.points = [Point.from_dict(p) for p in state["points"]]
        self.findings = {f["name"]: Finding(**f) for f in state["findings"]}


def _numpy_state() -> tuple[int, int]:
    """NumPy's global generator, as two numbers."""
    state: Any = np.random.get_state()  # noqa: NPY002 (it is watched, not used)
    return hash(state[1].tobytes()), int(state[2])
