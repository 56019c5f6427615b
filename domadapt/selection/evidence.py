"""`Evidence`: all that a validator, an estimate or the guard may look at of one candidate.

It is made of what a network says. Target labels have no field here and are refused where an
`Outputs` brings them, so that nothing that reads evidence can have seen one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from domadapt.data.views import Views
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.inference import outputs_of, to_device
from domadapt.methods import is_source_free
from domadapt.network import Network
from domadapt.task import Split, Task

#: Samples of a split that evidence is made of, at most; a seeded draw of a larger one.
MAX_SAMPLES = 4_000

#: ``mixed(a, b, share)``: the logits of ``share x_a + (1 - share) x_b`` for positions of target
#: samples, in the order of ``Evidence.target``.
Mixed = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Evidence:
    """What is known of one candidate without target labels.

    Attributes:
        name: how the run calls the candidate.
        target: its outputs on unlabelled target samples; the same samples for every candidate.
        source_val: its outputs on the source's validation samples, with their labels; None where
            there is no source.
        source_train: the same of source training samples, for weights between the domains.
        others: target logits of every candidate of the run by name, this one among them.
        twin: target logits of the same candidate trained with another seed, if it was.
        mixed: its logits for mixtures of target inputs; None where inputs cannot be mixed (text).
        trains_on_confidence: whether its method raises its own confidence.
        trains_on_source: whether its method trains on source samples, as all but source-free ones.
    """

    name: str
    target: Outputs
    source_val: Outputs | None = None
    source_train: Outputs | None = None
    others: dict[str, Tensor] | None = None
    twin: Tensor | None = None
    mixed: Mixed | None = None
    trains_on_confidence: bool = False
    trains_on_source: bool = True

    def __post_init__(self) -> None:
        if self.target.y is not None:
            raise DomadaptError(
                "Evidence must not hold target labels, and these target outputs bring them; leave "
                "them out (y=None)."
            )
        if len(self.target.logits) == 0:
            raise DomadaptError("Evidence needs at least one target sample; got none.")
        for what in ("source_val", "source_train"):
            given = getattr(self, what)
            if given is not None and (given.y is None or len(given.y) == 0):
                raise DomadaptError(f"Evidence needs the labels of {what}; there are none.")

    @property
    def classes(self) -> int:
        """How many outputs the network has."""
        return int(self.target.logits.shape[1])

    @property
    def p(self) -> Tensor:
        """Class probabilities ``(n, classes)`` of the target samples, float64."""
        return self.target.logits.double().softmax(1)


class _Candidate(Protocol):
    """What `gather` reads of a trained candidate (`domadapt.runs.candidate.Trained`)."""

    @property
    def name(self) -> str: ...
    @property
    def network(self) -> Network: ...
    @property
    def method(self) -> str: ...
    @property
    def trains_on_confidence(self) -> bool: ...


def gather(
    candidate: _Candidate,
    task: Task,
    views: Views,
    *,
    device: torch.device | None = None,
    most: int = MAX_SAMPLES,
) -> Evidence:
    """The evidence on one trained candidate: a pass over source and unlabelled target samples.

    Larger splits are represented by `most` samples, the same ones for every candidate of a task.
    """
    network = candidate.network
    target = some(task.target_train, most)

    def says(split: Split) -> Outputs:
        return outputs_of(network, split, views, device=device)

    example = views.evaluation(target.fetch([0]))
    return Evidence(
        name=candidate.name,
        target=says(target),
        source_val=None if task.source_free else says(some(task.source_val, most)),
        source_train=None if task.source_free else says(some(task.source_train, most)),
        mixed=mixer(network, target, views, device) if isinstance(example, Tensor) else None,
        trains_on_confidence=candidate.trains_on_confidence,
        trains_on_source=not is_source_free(candidate.method),
    )


def together(found: list[Evidence]) -> list[Evidence]:
    """The candidates of one run, each told of what all of them say of the target."""
    said = {evidence.name: evidence.target.logits for evidence in found}
    shapes = {tuple(logits.shape) for logits in said.values()}
    if len(said) < len(found) or len(shapes) > 1:
        raise DomadaptError(
            "Candidates that are compared need different names and logits of one shape, on the "
            f"same target samples; got the names {', '.join(e.name for e in found)} and the shapes "
            f"{', '.join(map(str, sorted(shapes)))}."
        )
    return [replace(evidence, others=said) for evidence in found]


def some(split: Split, most: int, seed: int = 0) -> Split:
    """At most `most` samples of a split, drawn once by the seed and kept in order."""
    if len(split) <= most:
        return split
    rows = np.sort(np.random.default_rng(seed).permutation(len(split))[:most])
    y = None if split.y is None else split.y[torch.from_numpy(rows)]
    return Split(split.name, split.domain, split.indices[rows], y)


def mixer(network: Network, target: Split, views: Views, device: torch.device | None) -> Mixed:
    """The network's logits for mixtures of the evaluation views of target samples."""

    @torch.no_grad()
    def mixed(a: Tensor, b: Tensor, share: float) -> Tensor:
        place = device or next(network.parameters()).device
        was = network.training
        network.eval()
        said = []
        for rows_a, rows_b in zip(torch.split(a, 256), torch.split(b, 256), strict=True):
            x = [views.evaluation(target.fetch(rows.numpy())) for rows in (rows_a, rows_b)]
            if not isinstance(x[0], Tensor) or not isinstance(x[1], Tensor):
                raise DomadaptError("Only inputs that are tensors can be mixed.")
            both = to_device(share * x[0] + (1 - share) * x[1], place)
            said.append(network(both).float().cpu())
        network.train(was)
        return torch.cat(said)

    return mixed
