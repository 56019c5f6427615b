"""domadapt: the Trainer as it comes, with its checks, curves and doctor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.trainer import Trainer
from peers import job as jobs
from peers.job import METHODS, Job, Turn


class WatchedTrainer(Trainer):
    """The Trainer with its batches timed: of the measurement, so not of a user's lines."""

    turn: Turn

    def _batches(self, step: int | None = None) -> Any:
        return self.turn.timed(super()._batches(step))


def train(job: Job) -> Network:
    name, settings = METHODS[job.method]
    method = build_method(name, job.network, settings)
    trainer = WatchedTrainer(method, job.plan.task, job.plan.views, job.training)
    trainer.turn = job.turn
    return trainer.fit(job.turn.on_log)


def train_together(job: Job) -> Network:
    """BatchNorm sees both domains as one batch, as it does in skada: a setting here."""
    job.training = replace(job.training, batch_statistics="joint")
    return train(job)


#: The code of each method, for the count of lines; here data and network belong to it.
CODE = dict.fromkeys(METHODS, (jobs.prepare, train))
