"""Invariants of methods with a discriminator: who learns what, and who pulls which way."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.methods import Method
from domadapt.selftest.equation import added
from domadapt.selftest.graph import leaves
from domadapt.selftest.invariant import invariant, require
from domadapt.selftest.subject import Subject, discriminators
from domadapt.task import Batch


def _adversarial(subject: Subject) -> bool:
    return subject.adversarial


def _rivals(method: Method) -> list[nn.Parameter]:
    return [p for d in discriminators(method) for p in d.parameters()]


def telling(method: Method, batch: Batch) -> Tensor:
    """The loss that the discriminators minimise: that of the critic's steps, or their terms.

    Without the terms' weights, which may be 0 for a part of the run.
    """
    if method.critic_steps:
        torch.manual_seed(1)
        with torch.no_grad():
            out = method.outputs(batch)
        torch.manual_seed(1)
        return method.critic_loss(out, batch)
    rivals = {id(p) for p in _rivals(method)}
    torch.manual_seed(1)
    found = [
        value
        for value in method.terms(method.outputs(batch), batch).values()
        if any(id(leaf) in rivals for leaf in leaves(value))
    ]
    require(bool(found), "no term and no critic_loss reaches the discriminator")
    return torch.stack(found).sum()


def _verdicts(method: Method, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Domain logits and the gradient of `telling` at them, for every call that teaches."""
    rivals = {id(p) for p in _rivals(method)}
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, d: Tensor) -> None:
        if any(id(leaf) in rivals for leaf in leaves(d)):
            d.retain_grad()
            seen.append(d)

    handles = [d.register_forward_hook(keep) for d in discriminators(method)]
    telling(method, batch).backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    # A call whose logits carry no gradient serves another end, such as a gradient's penalty.
    return [(d.detach(), d.grad) for d in seen if d.grad is not None]


@invariant(_adversarial)
def domain_labels(subject: Subject) -> None:
    """In every discriminator descent raises source logits and lowers target logits."""
    for progress in (0.0, 0.9):
        method = subject.ready()
        pulls: dict[str, list[Tensor]] = {"source": [], "target": []}
        for d, gradient in _verdicts(method, subject.batch(7, 5, progress=progress)):
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


@invariant(_adversarial)
def opposite_pulls(subject: Subject) -> None:
    """A step of the discriminator lowers its loss, and a step of the encoder raises it."""
    method, batch = subject.ready(), subject.batch(progress=0.9)
    subject.take_steps(method, 8)
    encoder = [p for p in method.network.backbone.parameters() if p.requires_grad]
    before = telling(method, batch)
    moves: dict[str, tuple[list[Any], Tensor]] = {
        "discriminator": (_rivals(method), before),
        "encoder": (encoder, added(method, batch)),
    }
    start = copy.deepcopy(method.state_dict())
    for side, (parameters, loss) in moves.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        moves[side] = ([(p, g) for p, g in zip(parameters, gradients, strict=True)], loss)
    for side, (pairs, _) in moves.items():
        with torch.no_grad():
            for p, g in pairs:
                if g is not None:
                    p -= 1e-3 * g
        change = float(telling(method, batch).detach() - before.detach())
        method.load_state_dict(start)
        if side == "discriminator":
            require(change < 0, f"a step of the discriminator changes its loss by {change:.3g}")
        else:
            require(
                change > 0,
                f"a step of the encoder changes the discriminator's loss by {change:.3g}; it must "
                "raise it: is the gradient reversal missing?",
            )


@invariant(_adversarial)
def tells_apart(subject: Subject) -> None:
    """With the encoder held still, the discriminators learn what can be told apart."""
    method = subject.ready()
    batch = subject.batch(30, 30, progress=0.0, gap=6.0)
    own = {id(p) for p in method.network.parameters()}
    optimizer = torch.optim.Adam([p for p in method.parameters() if id(p) not in own], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        telling(method, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # Source comes first, in one call for both domains or in one for each.
    logits = torch.cat([d.flatten() for d, _ in _verdicts(method, batch)])
    truth = torch.tensor([True] * 30 + [False] * 30).repeat(len(logits) // 60)
    # A critic's logits have no zero of their own.
    threshold = logits.median() if method.critic_steps else 0.0
    right = float(((logits > threshold) == truth).float().mean())
    require(right > 0.9, f"after 100 steps {right:.0%} of the domain logits are right; 90% is due")
