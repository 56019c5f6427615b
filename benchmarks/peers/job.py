"""What every library is given, and how it takes turns with the others."""

from __future__ import annotations

import copy
import gc
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domadapt.curves import Log
from domadapt.data import load_task
from domadapt.inference import inputs_of
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.task import Split
from domadapt.training import Training

#: The methods that are compared, and the name and settings that each has here. CDAN stands twice,
#: without and with the weights by entropy: the libraries' defaults differ.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dann": ("dann", {}),
    "cdan": ("cdan", {"entropy_weighting": False}),
    "cdan+e": ("cdan", {}),
    "dan": ("dan", {}),
    "mcc": ("mcc", {}),
    "deep_coral": ("deep_coral", {}),
}
#: The factor of the covariances' distance and the temperature of MCC: the defaults of domadapt.
CORAL_WEIGHT, TEMPERATURE = 100.0, 2.5


def resident(field: str) -> float | None:
    """This process's memory in MiB, now ("VmRSS") or at most so far ("VmHWM"); None off Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(x for x in status.read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


class Turn:
    """Blocks of steps, each begun when the driver says so and reported to it by a line.

    Without a driver (`block` 0) nothing is measured and nothing waits. What is measured is the
    time of the clock on the wall and that of the processor, of the steps and of making batches.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self.steps = 0
        self._started = self._loading = np.zeros(2)

    @staticmethod
    def now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def begin(self, **said: Any) -> None:
        """Tell the driver `said` and wait for its word."""
        if not self.block:
            return
        gc.collect()
        print(json.dumps(said), flush=True)
        if not sys.stdin.readline():
            sys.exit("The driver is gone.")
        self._loading = np.zeros(2)
        self._started = self.now()

    def count(self, steps: int = 1) -> None:
        """So many steps were taken."""
        self.steps += steps
        if self.block and self.steps % self.block == 0:
            wall, cpu = (self.now() - self._started).tolist()
            loading, loading_cpu = self._loading.tolist()
            self.begin(
                step=self.steps, wall=wall, cpu=cpu, wall_loading=loading, cpu_loading=loading_cpu
            )

    def on_log(self, log: Log) -> None:
        """`count` as the Trainer tells of its steps."""
        self.count(log.step - self.steps)

    def loaded(self, since: np.ndarray) -> None:
        """A batch was made, beginning at `since`."""
        self._loading = self._loading + self.now() - since

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; what it takes to make them is measured."""
        source = iter(batches)
        while True:
            since = self.now()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.loaded(since)
            yield batch

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, measured, each of them a step."""
        for batch in self.timed(batches):
            try:
                yield batch
            finally:
                # Also where the loop is left: the step was taken.
                self.count()


class Outer(nn.Module):
    """The product of features and probabilities, whole."""

    def forward(self, z: Tensor, p: Tensor) -> Tensor:
        return (z.unsqueeze(2) * p.unsqueeze(1)).flatten(1)


@dataclass
class Job:
    """One method on one task, from the same weights and the same tensors for every library.

    Peers are given float tensors, so that they convert nothing while they train.
    """

    method: str
    plan: Plan
    training: Training
    network: Network
    turn: Turn
    x_s: Tensor
    y_s: Tensor
    x_t: Tensor

    @property
    def discriminator(self) -> nn.Module:
        """A discriminator with the weights that domadapt's begins with."""
        return self._ours().get_submodule("discriminator")

    @property
    def combiner(self) -> nn.Module:
        """The product of features and probabilities; the projection of it where it is wide."""
        return self._ours().projection or Outer()

    def _ours(self) -> Any:
        name, settings = METHODS[self.method]
        torch.manual_seed(self.training.seed)
        return build_method(name, copy.deepcopy(self.network), settings)


def prepare(task: str, model: dict[str, Any]) -> Plan:
    """Data and network, as a user of domadapt asks for them."""
    return make_plan(load_task(task), ModelSpec(**model, augment="none"))


def make_job(plan: Plan, method: str, training: Training, block: int = 0) -> Job:
    """The job of one method, its weights by the seed of `training`."""
    y_s = plan.task.source_train.y
    assert y_s is not None
    x_s, x_t = inputs(plan.task.source_train, plan), inputs(plan.task.target_train, plan)
    network = plan.make_network(training.seed).train()
    if x_s.ndim == 4:
        # The layout that the Trainer gives a convolution net; a line for a user of a peer.
        network.to(memory_format=torch.channels_last)
    torch.manual_seed(training.seed)
    return Job(method, plan, training, network, Turn(block), x_s, y_s, x_t)


def inputs(split: Split, plan: Plan) -> Tensor:
    """A split as one tensor."""
    parts = list(inputs_of(split, plan.views))
    assert all(isinstance(part, Tensor) for part in parts)
    return torch.cat(parts)  # type: ignore[arg-type]
