"""Several labelled data sets, one encoder: a head for each, trained together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.layers.subject import subject_of
from domadapt.methods.base import BatchOutputs, labels
from domadapt.methods.source_only import SourceOnly
from domadapt.network import Network
from domadapt.strategies.tuning import prepare
from domadapt.task import Batch, Domain, Task, canonical
from domadapt.trainer import Trainer

#: What follows a strategy whose encoder is shared with other data sets.
SHARED = " (shared)"
#: What stands between the name of a data set and that of its class; no name has it.
_OF = "\x1f"


def alone(strategy: str) -> str:
    """The strategy without the word that its encoder is shared."""
    return strategy.removesuffix(SHARED)


def is_shared(strategy: str) -> bool:
    """Whether a strategy shares its encoder with other data sets."""
    return strategy.endswith(SHARED)


def joined(domains: Sequence[Domain], test: Domain | None = None) -> Task:
    """One task of several labelled data sets, whose classes are those of all, told apart by name.

    Its source holds their samples one data set after the other.

    Args:
        domains: the data sets, each with classes of its own.
        test: labelled data of the first one's classes, to score on.

    Raises:
        DomadaptError: two of one name, or one without classes.
    """
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names):
        raise DomadaptError(
            f"Data sets that share an encoder need different names; got {', '.join(names)}."
        )
    for domain in domains:
        if domain.labels is None or domain.values is not None:
            raise DomadaptError(
                f"Data sets that share an encoder need classes, each its own; {domain.name!r} has "
                "none."
            )
    several = [_named(domain, domain.name) for domain in domains]
    first = several[0]
    scored = None if test is None else _named(test, first.name)
    # Groups hold folds together, which are made of the first alone.
    bare = [dataclasses.replace(domain, groups=None) for domain in several]
    return Task(bare, first.unlabelled(), target_test=scored, name=domains[0].name)


def _named(domain: Domain, of: str) -> Domain:
    assert domain.labels is not None
    known = [canonical(label) for label in domain.labels]
    named = [None if label is None else f"{of}{_OF}{label}" for label in known]
    return dataclasses.replace(domain, labels=np.array(named, dtype=object), class_names=None)


def outputs_of_head(task: Task, name: str, classes: Sequence[str]) -> Tensor:
    """Which outputs of a network for `joined` data are those of one data set, in its order."""
    number = {c: i for i, c in enumerate(task.class_names)}
    return torch.tensor([number[f"{name}{_OF}{c}"] for c in classes])


class SeveralHeads(SourceOnly):
    """Cross-entropy of each sample among the classes of its own data set (hard parameter sharing;
    Caruana, 1997, doi:10.1023/A:1007379606734).

    The rows of the network's linear head that belong to one data set are its head: what a head says
    of samples of other data sets is not looked at.

    Args:
        network: with an output for each class of all data sets.
        task: of `joined`.
    """

    name = "several_heads"

    def __init__(self, network: Network, task: Task) -> None:
        super().__init__(network)
        names = [c.partition(_OF)[0] for c in task.class_names]
        order = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.owner: Tensor
        self.register_buffer("owner", torch.tensor([order[name] for name in names]))

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """Mean over the batch; the logits of other heads take no part."""
        y = labels(batch)
        strange = self.owner[y][:, None] != self.owner[None]
        return cross_entropy(out.logits_s.masked_fill(strange, -torch.inf), y)


def head_of(network: Network, outputs: Tensor) -> Network:
    """The network with the head of one data set alone; the encoder is a copy.

    Raises:
        DomadaptError: its head is no linear layer.
    """
    whole = network.head
    if not isinstance(whole, nn.Linear):
        raise DomadaptError(
            f"Several heads are rows of one torch.nn.Linear; this head is a {type(whole).__name__}."
        )
    own = copy.deepcopy(network)
    own.head = nn.Linear(whole.in_features, len(outputs), bias=whole.bias is not None)
    with torch.no_grad():
        own.head.weight.copy_(whole.weight[outputs])
        if whole.bias is not None:
            own.head.bias.copy_(whole.bias[outputs])
    return own.eval()


def share_encoder(
    domains: Sequence[Domain],
    model: str | Network,
    *,
    strategy: str = "full",
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Network]:
    """Train one pre-trained encoder for several labelled data sets at once, a head for each.

    Batches are drawn from all samples alike, so that a data set counts as much as it has samples.

    Args:
        domains: the data sets, of one kind; their classes need have nothing in common.
        model: see `domadapt.finetune.finetune`.
        strategy: which parameters train (`domadapt.strategies.spec`).
        training: settings of `Training`.
        seed: of weights, order and augmentation.
        options: ``image_size``, ``augment``, ``max_length`` and ``pooling``, as of `finetune`.

    Returns:
        The network of each data set by its name; their encoders are equal.

    Raises:
        DomadaptError: data sets of one name or without classes, or a model that cannot be tuned.
    """
    subject = subject_of(model, joined(domains), **options)
    task = subject.task
    given = {"steps": 500, **(training or {}), "finetune": strategy, "seed": seed}
    how = training_for(subject.kind, given)
    example = subject.views.evaluation(task.example.fetch([0, 1]))
    network = prepare(subject.make(seed), strategy, example, seed)
    trained = Trainer(SeveralHeads(network, task), task, subject.views, how).fit()
    found = {}
    for domain in domains:
        own = Task(domain, domain.unlabelled()).class_names
        found[domain.name] = head_of(trained, outputs_of_head(task, domain.name, own))
    return found
