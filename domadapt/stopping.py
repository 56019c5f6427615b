"""Stopping by a loss on samples held out from training: no label of the target is needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domadapt import checkpoint
from domadapt.data.views import Views
from domadapt.errors import DomadaptError
from domadapt.methods import Method, method_class, method_names
from domadapt.task import Batch, Inputs, Split, Task

#: How often a run is looked at, evenly spaced, the last step included.
LOOKS = 20
#: Samples of each domain that the loss is taken of, at most.
MAX_SAMPLES = 512


class LowestLoss:
    """Keeps the network whose loss on held-out samples was lowest, and says when to stop waiting.

    The loss is the method's own weighted sum, in evaluation mode and with the weights of the last
    step, over ``source_val`` and, where the method reads the target, as many samples of
    ``target_train``: for `source_only` the usual early stopping, for `udalm` the mixed loss of the
    paper (Karouzos et al., 2021, arXiv:2104.07078, section 3), whose hidden words are drawn anew
    and the same ones at each look.

    Args:
        method: of which it must be known that its loss tells (`Method.loss_tells`).
        task: what it trains on; its target labels are not reachable from here.
        views: how raw samples become inputs.
        patience: looks in a row without a new lowest after which to stop.
        steps: of the whole run.
        batch_size: samples of each domain at a time.

    Raises:
        DomadaptError: the method's loss says nothing of how good the network is.
    """

    def __init__(
        self, method: Method, task: Task, views: Views, patience: int, steps: int, batch_size: int
    ) -> None:
        if not method.loss_tells:
            able = ", ".join(n for n in method_names() if method_class(n).loss_tells)
            raise DomadaptError(
                f"patience stops where the losses of a method are lowest on held-out samples, and "
                f"those of {method.name} say nothing of how good its network is; leave patience "
                f"out, or choose one of {able}."
            )
        self.method, self.task, self.views = method, task, views
        self.patience, self.steps, self.batch_size = patience, steps, batch_size
        self.lowest, self.step, self.waited = math.inf, 0, 0
        self._best: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Whether it has waited long enough."""
        return self.waited >= self.patience

    def due(self, step: int) -> bool:
        """Whether there is a look after this many steps."""
        looks = min(LOOKS, self.steps)
        return step * looks // self.steps != (step - 1) * looks // self.steps

    def look(self, step: int, device: torch.device) -> float:
        """Measure the loss, remember the network if it is a new lowest, and return the loss."""
        loss = self._loss(device)
        if loss < self.lowest:
            self.lowest, self.step, self.waited = loss, step, 0
            state = checkpoint.module_state(self.method.network)
            self._best = {k: v.detach().clone() for k, v in state.items()}
        else:
            self.waited += 1
        return loss

    def restore(self, network: nn.Module) -> None:
        """Give the network the weights of the lowest loss."""
        if self._best:
            checkpoint.load_module_state(network, self._best, "The network of the lowest loss")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps of it: tensors and numbers."""
        # Infinity is no number of JSON.
        lowest = self.lowest if self._best else None
        return self._best, {"lowest": lowest, "step": self.step, "waited": self.waited}

    def load(self, tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._best = tensors
        self.lowest = math.inf if said["lowest"] is None else said["lowest"]
        self.step, self.waited = said["step"], said["waited"]

    @torch.no_grad()
    def _loss(self, device: torch.device) -> float:
        method, task = self.method, self.task
        source = _first(task.source_val)
        target = _first(task.target_train) if method.needs_target else None
        n = len(source) if target is None else min(len(source), len(target))
        was, total = method.training, 0.0
        method.eval()
        try:
            for k, first in enumerate(range(0, n, self.batch_size)):
                size = min(self.batch_size, n - first)
                batch = self._batch(task, source[first : first + size], target, first, k)
                batch = batch.to(device)
                total += size * float(method(batch).total)
        finally:
            method.train(was)
        return total / n

    def _batch(
        self, task: Task, rows: np.ndarray, target: np.ndarray | None, first: int, k: int
    ) -> Batch:
        y = task.source_val.y
        assert y is not None
        x_t: Inputs | None = None
        if target is not None:
            x_t = self._inputs(task.target_train, target[first : first + len(rows)])
        # Progress decides weights, here those of the end, and what each batch draws by chance.
        x_s = self._inputs(task.source_val, rows)
        return Batch(x_s, y[torch.from_numpy(rows)], x_t, progress=1.0 - 1e-6 * (k + 1))

    def _inputs(self, split: Split, rows: np.ndarray) -> Inputs:
        return self.views.evaluation(split.fetch(rows))


def _first(split: Split) -> np.ndarray:
    """At most `MAX_SAMPLES` positions of a split, drawn once and for all runs alike."""
    order = np.random.default_rng(0).permutation(len(split))
    return order[:MAX_SAMPLES].astype(np.int64)
