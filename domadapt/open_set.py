"""Networks with one output more than the source has classes: "unknown".

For targets with classes that the source lacks. A method made for them returns such a network
itself; the network of any other is given a threshold (`with_threshold`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from domadapt.network import Network

#: The share of the source's validation samples that a threshold accepts at least.
ACCEPTED = 0.95
#: The largest threshold. A network that fits its source well reaches more on nearly all of the
#: source, and where the domains differ on hardly any sample of the target: on the embedded digits,
#: where this was chosen, the share alone rejected up to 9 of 10 samples of known classes.
SURE = 0.9


class Rule(Protocol):
    """What the unknown part of a head has beside being a module."""

    #: How a run's folder calls it.
    rule: str

    def __call__(self, z: Tensor, logits: Tensor) -> Tensor:
        """The logit ``(n,)`` of "unknown" for features ``(n, d)`` and logits ``(n, classes)``."""

    def said(self) -> str:
        """When a sample is called unknown, in words."""


def log_odds(logits: Tensor) -> Tensor:
    """``log p / (1 - p)`` of the largest probability, ``(n, classes) -> (n,)``.

    As exact for a sure prediction as for an unsure one, where p itself is 1 in float32.
    """
    return logits.amax(1) - _others(logits)


def _others(logits: Tensor) -> Tensor:
    """``log sum_c exp logit_c`` over all classes but the one with the largest logit."""
    return logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf).logsumexp(1)


class BelowThreshold(nn.Module):
    """Unknown where the largest class probability p is below a threshold t.

    The logit is ``log(t / (1 - t)) + log sum exp`` of all logits but the largest, so that unknown
    has the odds ``t (1 - p) / ((1 - t) p)`` against the class: 1 at the threshold, and the less
    the surer the network is.

    Args:
        threshold: ``log(t / (1 - t))``.
    """

    rule = "below_threshold"
    threshold: Tensor

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float32))

    def forward(self, z: Tensor, logits: Tensor) -> Tensor:
        """The logit of unknown, ``(n,)``."""
        return _others(logits) + self.threshold

    def said(self) -> str:
        """When a sample is called unknown."""
        t = float(self.threshold.double().sigmoid())
        return (
            f"where the largest probability is below {t:.3g}, which at least {ACCEPTED:.0%} of the "
            "source's validation samples reach"
        )

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> BelowThreshold:
        """A module that `state` fits."""
        return cls()


class ExtraOutput(nn.Module):
    """Unknown as one more class of a linear classifier."""

    rule = "extra_output"

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, 1)

    def forward(self, z: Tensor, logits: Tensor) -> Tensor:
        """The logit of unknown, ``(n,)``."""
        found: Tensor = self.linear(z).squeeze(1)
        return found

    def said(self) -> str:
        """When a sample is called unknown."""
        return "where the classifier's output for unknown is the largest"

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> ExtraOutput:
        """A module that `state` fits."""
        return cls(state["linear.weight"].shape[1])


class OneVsAll(nn.Module):
    """Unknown where the classifier "of this class or not" of the predicted class says not.

    The logit is the predicted class's own minus that classifier's, so that the odds of unknown
    against the class are those of "not".
    """

    rule = "one_vs_all"

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, n_classes)

    def verdicts(self, z: Tensor) -> Tensor:
        """One logit per class ``(n, classes)``, positive for "of this class"."""
        found: Tensor = self.linear(z)
        return found

    def forward(self, z: Tensor, logits: Tensor) -> Tensor:
        """The logit of unknown, ``(n,)``."""
        top = logits.max(1, keepdim=True)
        return (top.values - self.verdicts(z).gather(1, top.indices)).squeeze(1)

    def said(self) -> str:
        """When a sample is called unknown."""
        return "where the one-vs-all classifier of the predicted class says no"

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> OneVsAll:
        """A module that `state` fits."""
        n_classes, n_features = state["linear.weight"].shape
        return cls(n_features, n_classes)


_RULES = {r.rule: r for r in (BelowThreshold, ExtraOutput, OneVsAll)}


class OpenHead(nn.Module):
    """A head with one logit more: ``z (n, d) -> (n, classes + 1)``, the last one "unknown".

    Args:
        closed: the head of the classes.
        unknown: makes the last logit of the features and the logits of the classes.
    """

    def __init__(self, closed: nn.Module, unknown: nn.Module) -> None:
        super().__init__()
        self.unknown = unknown
        self.closed = closed

    def forward(self, z: Tensor) -> Tensor:
        """Logits of the classes and of unknown."""
        logits = self.closed(z)
        return torch.cat([logits, self.unknown(z, logits).unsqueeze(1)], 1)


def open_network(network: Network, unknown: nn.Module) -> Network:
    """`network`, its modules shared, with the output "unknown" that the rule `unknown` makes."""
    return _with_head(network, OpenHead(network.head, unknown))


def closed_network(network: Network) -> Network:
    """`network` without the output "unknown", its modules shared; itself where it has none."""
    head = network.head
    return _with_head(network, head.closed) if isinstance(head, OpenHead) else network


def _with_head(network: Network, head: nn.Module) -> Network:
    made = copy.copy(network)
    made._modules = {**network._modules, "head": head}
    # Its own mode alone: the modules in it are shared, and keep theirs.
    head.training = network.training
    return made


def with_threshold(network: Network, logits: Tensor, n_classes: int) -> Network:
    """`network` with a threshold below which it says unknown; as it is where it already says so.

    The threshold is the largest that at least `ACCEPTED` of some samples reach, and `SURE` at most.

    Args:
        network: its modules are shared.
        logits: its word ``(n, outputs)`` on those samples: the source's validation split.
        n_classes: the number of classes; with other than so many outputs it says unknown already.
    """
    if logits.shape[1] != n_classes:
        return network
    margins = log_odds(logits.double()).sort().values
    reached = float(margins[int((1 - ACCEPTED) * len(margins) + 1e-9)])
    return open_network(network, BelowThreshold(min(reached, math.log(SURE / (1 - SURE)))))


def rule_of(network: nn.Module) -> Rule | None:
    """The unknown part of an open network; None of any other."""
    head = network.head if isinstance(network, Network) else None
    return head.unknown if isinstance(head, OpenHead) else None  # type: ignore[return-value]


def rule_from(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    """The unknown part that `Rule.rule` and its tensors tell of; it does not hold them yet."""
    return _RULES[name].like(state)
