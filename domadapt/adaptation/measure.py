"""What is measured of a trained candidate, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from domadapt.evaluation import (
    Outputs,
    confidence,
    domain_shift,
    evaluate,
    in_fifths,
    labels_for_plot,
    pairs_for_plot,
)
from domadapt.inference import outputs_of
from domadapt.network import Network
from domadapt.open_set import rule_of
from domadapt.regression import drawn_pairs
from domadapt.report.embedding import embedding
from domadapt.report.report import Candidate
from domadapt.runs.candidate import Trained
from domadapt.runs.plan import Plan
from domadapt.selection.validators import label_free, source_val_error
from domadapt.task import UNKNOWN, Split, Task

#: Features kept per domain for shift measures and t-SNE.
MAX_FEATURES = 2000


@dataclass(frozen=True)
class Measured:
    """A candidate with what its network says of the splits."""

    candidate: Candidate
    network: Network
    predictions: dict[str, Tensor]


def measure(
    trained: Trained,
    plan: Plan,
    device: torch.device,
    seed: int,
    look: bool,
) -> Measured:
    """A trained candidate's scores, curves and, where `look`, its map and measures of shift."""
    task, views, network = plan.task, plan.views, trained.network.to(device)

    def says(split: Split) -> Outputs:
        return outputs_of(network, split, views, device=device, max_features=MAX_FEATURES)

    source_val = None if task.source_free else says(task.source_val)
    test = says(task.target_test)
    predictions = {"target_test": _predicted(task, test)}
    if not task.transductive:
        predictions = {"target_train": _predicted(task, says(task.target_train))} | predictions
    scores = evaluate(task, test)
    shown = None
    if look and not (task.regression and task.source_free):
        as_classes = in_fifths if task.regression else (lambda _, outputs: outputs)
        val = None if source_val is None else as_classes(task, source_val)
        at_hand = labels_for_plot(task, range(len(task.target_test)))
        shown = embedding(val, as_classes(task, test), at_hand, seed)
    candidate = Candidate(
        name=trained.name,
        method=trained.method,
        settings=trained.settings,
        history=trained.history,
        seconds=trained.seconds,
        label_free=source_val_error(source_val)
        if task.regression
        else label_free(source_val, test),
        target=None if scores is None else scores.to_dict(),
        shift=domain_shift(source_val.z, test.z, seed) if look and source_val else {},
        confidence={}
        if task.regression
        else {
            **({"source_val": confidence(source_val)} if source_val else {}),
            "target": confidence(test),
        },
        embedding=shown,
        values=_values(task, source_val, test, seed) if task.regression else {},
        warnings=list(trained.warnings),
    )
    return Measured(candidate, plan.compose(network.cpu()).eval(), predictions)


def _predicted(task: Task, outputs: Outputs) -> Tensor:
    """Class probabilities in float64, or the values of a regression.

    A temperature may still make something of a probability that float32 would round to 0.
    """
    return outputs.logits if task.regression else outputs.logits.double().softmax(1)


def _values(task: Task, source_val: Outputs | None, test: Outputs, seed: int) -> dict[str, Any]:
    """Predicted and true values that the page draws, where true ones are known."""
    found: dict[str, Any] = {}
    if source_val is not None and source_val.y is not None:
        found["source_val"] = drawn_pairs(source_val.logits, source_val.y.numpy(), seed)
    target = pairs_for_plot(task, test, seed)
    return found if target is None else {**found, "target_test": target}


def unknown_of(network: Network) -> dict[str, str]:
    """When the network calls a sample unknown, for the report; nothing where it never does."""
    rule = rule_of(network)
    return {} if rule is None else {UNKNOWN: rule.said()}


def shape_of(plan: Plan) -> list[int]:
    """The shape of one input of the network; empty for text."""
    if not isinstance(plan.example, Tensor):
        return []
    return list(plan.example.shape[1:])
