"""Invariants of methods with a discriminator or critic: who learns what, who pulls which way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.methods import Method
from domadapt.selftest.equation import added
from domadapt.selftest.graph import leaves
from domadapt.selftest.invariant import NotKept, invariant, require
from domadapt.selftest.subject import Subject, discriminators
from domadapt.task import Batch


def _adversarial(subject: Subject) -> bool:
    return subject.adversarial


def _rivals(method: Method) -> list[nn.Parameter]:
    """The parameters of the discriminators, or else of whatever takes the critic's steps."""
    own = {id(p) for p in method.network.parameters()}
    found = [p for d in discriminators(method) for p in d.parameters()]
    return found or [p for p in method.parameters() if id(p) not in own and p.requires_grad]


def telling(method: Method, batch: Batch) -> Tensor | None:
    """What the discriminators minimise: the sum of the losses that reach them.

    Without weights, which may be 0 for a while; None where no loss reaches a discriminator yet.
    """
    torch.manual_seed(1)
    losses = list(method.terms(method.outputs(batch), batch).values())
    if method.critic_steps:
        with torch.no_grad():
            out = method.outputs(batch)
        torch.manual_seed(1)
        losses.append(method.critic_loss(out, batch))
    rivals = {id(p) for p in _rivals(method)}
    found = [loss for loss in losses if any(id(leaf) in rivals for leaf in leaves(loss))]
    return torch.stack(found).sum() if found else None


def _told(method: Method, batch: Batch) -> Tensor:
    value = telling(method, batch)
    if value is None:
        raise NotKept(f"no loss reaches the discriminator at progress {batch.progress}")
    return value


def _verdicts(method: Method, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Domain logits and the gradient of `telling` at them, for every call that teaches."""
    rivals = {id(p) for p in _rivals(method)}
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, d: Tensor) -> None:
        if any(id(leaf) in rivals for leaf in leaves(d)):
            d.retain_grad()
            seen.append(d)

    handles = [d.register_forward_hook(keep) for d in discriminators(method)]
    _told(method, batch).backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    # A call whose logits carry no gradient serves another end, such as a gradient's penalty.
    return [(d.detach(), d.grad) for d in seen if d.grad is not None]


@invariant(_adversarial)
def domain_labels(subject: Subject) -> None:
    """In every discriminator descent raises source logits and lowers target logits."""
    for progress in (0.0, 0.9):
        method, batch = subject.ready(), subject.batch(7, 5, progress=progress)
        if progress == 0 and telling(method, batch) is None:
            continue  # it begins later
        pulls: dict[str, list[Tensor]] = {"source": [], "target": []}
        for d, gradient in _verdicts(method, batch):
            n = len(d)
            require(n in (5, 7, 12), f"a discriminator was given {n} of 7 source and 5 target")
            if n != 5:
                pulls["source"].append(gradient[:7])
            if n != 7:
                pulls["target"].append(gradient[-5:])
        for domain, sign in (("source", -1), ("target", 1)):
            found = torch.cat([p.flatten() for p in pulls[domain]] or [torch.zeros(1)])
            require(
                bool((found * sign > 0).all()),
                f"at progress {progress} descent does not {'raise' if sign < 0 else 'lower'} all "
                f"{domain} logits: the domains must have opposite labels, 1 for the source",
            )


@invariant(lambda subject: subject.adversarial or subject.probe.critic_steps > 0)
def opposite_pulls(subject: Subject) -> None:
    """A step of the discriminator lowers its loss, and a step of the encoder raises it."""
    method, batch = subject.ready(), subject.batch(progress=0.9)
    subject.take_steps(method, 8)
    state = copy.deepcopy(method.state_dict())
    before = float(_told(method, batch).detach())

    def change(parameters: list[nn.Parameter], loss: Tensor) -> float:
        """How the discriminator's loss changes by a step of descent of `loss`, then undone.

        Of a set length, so that what a small gradient does is not lost in rounding.
        """
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                if g is not None and norm > 0:
                    p.sub_(g, alpha=1e-2 / norm)
        after = float(_told(method, batch).detach())
        method.load_state_dict(state)
        return after - before

    own = change(_rivals(method), _told(method, batch))
    require(own < 0, f"a step of the discriminator changes its loss by {own:.3g}")
    encoder = [p for p in method.network.backbone.parameters() if p.requires_grad]
    other = change(encoder, added(method, batch))
    require(
        other > 0,
        f"a step of the encoder changes the discriminator's loss by {other:.3g}; it must raise it: "
        "is the gradient reversal missing?",
    )


@invariant(_adversarial)
def tells_apart(subject: Subject) -> None:
    """With the encoder held still, the discriminators learn what can be told apart."""
    method = subject.ready()
    # From the first step, whatever the reversal's ramp does; or from when it begins.
    batch = subject.batch(30, 30, progress=0.0, gap=6.0)
    if telling(method, batch) is None:
        batch = replace(batch, progress=0.9)
    own = {id(p) for p in method.network.parameters()}
    optimizer = torch.optim.Adam([p for p in method.parameters() if id(p) not in own], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        _told(method, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # Source comes first, in one call for both domains or in one for each.
    logits = torch.cat([d.flatten() for d, _ in _verdicts(method, batch)])
    truth = torch.tensor([True] * 30 + [False] * 30).repeat(len(logits) // 60)
    # A critic's logits have no zero of their own.
    threshold = logits.median() if method.critic_steps else 0.0
    right = float(((logits > threshold) == truth).float().mean())
    require(right > 0.9, f"after 100 steps {right:.0%} of the domain logits are right; 90% is due")
