"""Checkpoints of one training side by side: what was seen at each look on the way.

The weights of every look are kept while the network trains (`domadapt.runs.candidate`) and are
asked here, once training is over: first for what needs no target label, then for the accuracies,
which bear `oracle`, as a checkpoint that is chosen by them was chosen with target labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from domadapt.benchmark.suite import METRICS, ORACLE
from domadapt.network import Network
from domadapt.runs.candidate import Trained, looks_back
from domadapt.runs.plan import Plan
from domadapt.selection.evidence import Evidence, gather, together
from domadapt.selection.registry import validators
from domadapt.selection.validators import scores_of


def looks_at(
    trained: Trained,
    plan: Plan,
    seed: int,
    place: Path,
    device: torch.device,
    scored: Callable[[Network], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """What every look saw, in the order of the steps, the end of training last; as plain data.

    Each has its ``step``, the ``scores`` of all validators without target labels, and, stamped
    ``oracle``, the target accuracies. A validator that compares candidates compares the looks of
    this training with each other.

    Args:
        trained: the finished candidate.
        plan: what it was trained on.
        seed: of its initial network.
        place: the folder with what it kept on the way.
        device: where the networks are asked.
        scored: the scores of a network on the labelled target.
    """
    last = int(trained.history.get("step", [0])[-1])
    found: list[dict[str, Any]] = []
    seen: list[Evidence] = []

    def look(step: int, network: Network) -> None:
        one = replace(trained, name=f"step {step}", network=network.to(device))
        evidence = gather(one, plan.task, plan.views, device=device)
        scores = scores_of(evidence)
        metrics = scored(network)
        known = {name: metrics[name] for name in METRICS if name in metrics}
        found.append({"step": step, "scores": scores, ORACLE: known})
        # Networks and the largest split are let go: only one of them is held at a time.
        seen.append(replace(evidence, mixed=None, source_train=None))

    for step, network in looks_back(plan, seed, place):
        look(step, network)
    look(last, trained.network)
    comparing = [name for name, one in validators().items() if "others" in one.needs]
    for one, evidence in zip(found, together(seen), strict=True):
        one["scores"] |= scores_of(evidence, comparing)
    return found
