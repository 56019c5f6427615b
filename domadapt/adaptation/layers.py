"""What adaptation did to each block of the network, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from domadapt.errors import DomadaptError
from domadapt.layers.blocks import blocks_of
from domadapt.layers.cka import domain_cka, linear_cka
from domadapt.layers.probing import activations, probe
from domadapt.network import Network
from domadapt.runs.candidate import Trained
from domadapt.runs.plan import Plan
from domadapt.task import Split

#: Samples that probes learn from, and that they and CKA look at.
MAX_TRAIN, MAX_LOOK = 2000, 1000
ANALYSES = ("layers",)


def check_analyse(analyse: Sequence[str], plan: Plan) -> None:
    """Refuse an analysis that there is not, or that this model does not allow."""
    for what in analyse:
        if what not in ANALYSES:
            raise DomadaptError(f"analyse takes {', '.join(map(repr, ANALYSES))}; got {what!r}.")
    if not analyse:
        return
    if plan.kind == "frozen":
        raise DomadaptError(
            "analyse 'layers' compares the blocks of the backbone before and after adaptation, and "
            "a frozen backbone stays as it is; leave out one of the two."
        )
    blocks_of(plan.make_network(0))


def analysed(
    plan: Plan, before: Trained, after: Trained | None, device: torch.device
) -> dict[str, Any]:
    """Linear probes and linear CKA of every block, as plain data; no target label is read.

    Args:
        plan: the run's.
        before: source_only. after: the adapted candidate; None without one.
        device: where activations are computed.

    Returns:
        "blocks": their names. "probing": for each candidate the score of a linear probe of each
        block, learnt on source_train and scored on source_val. "domains": for each candidate how
        alike source_val and the target are in each block (`domadapt.layers.cka.domain_cka`).
        "before_after": linear CKA of both candidates on "source" and "target". "metric": of the
        probes.
    """
    task = plan.task
    ones = [before] if after is None or after.name == before.name else [before, after]
    names = [b.name for b in blocks_of(before.network)]
    found: dict[str, Any] = {
        "blocks": names,
        "probing": {},
        "domains": {},
        "before_after": {},
        "metric": "r2" if task.regression else "accuracy",
    }
    held: list[dict[str, list[np.ndarray]]] = []
    for one in ones:
        network = one.network
        was = next(network.parameters()).device
        network.to(device)
        at = {"target": _acts(plan, network, task.target_test, MAX_LOOK)}
        if not task.source_free:
            at["source"] = _acts(plan, network, task.source_val, MAX_LOOK)
            train = _acts(plan, network, task.source_train, MAX_TRAIN)
            y, truth = _y(task.source_train, MAX_TRAIN), _y(task.source_val, MAX_LOOK)
            scores = probe(train, y, at["source"], truth, regression=task.regression)
            found["probing"][one.name] = scores
            found["domains"][one.name] = _along(at["source"], at["target"], domain_cka)
        network.to(was)
        held.append(at)
    if len(held) == 2:
        found["before_after"] = {
            key: _along(held[0][key], held[1][key], linear_cka) for key in held[0]
        }
    return found


def _acts(plan: Plan, network: Network, split: Split, most: int) -> list[np.ndarray]:
    blocks = blocks_of(network)
    return activations(network, blocks, split, plan.views, max_samples=most)


def _y(split: Split, most: int) -> np.ndarray:
    """The labels of the samples that `activations` looks at."""
    assert split.y is not None
    y: np.ndarray = split.y.numpy()
    if len(y) <= most:
        return y
    return y[np.unique(np.linspace(0, len(y) - 1, most).astype(int))]


def _along(a: Sequence[np.ndarray], b: Sequence[np.ndarray], measure: Any) -> list[float]:
    t = torch.from_numpy
    return [measure(t(x), t(y)) for x, y in zip(a, b, strict=True)]
