"""Invariants of the sum that a step minimises, its weights and its gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.methods import Method
from domadapt.selftest.graph import Constants, leaves, reversals, slope
from domadapt.selftest.invariant import invariant, require
from domadapt.selftest.subject import Subject, discriminators, terms_of
from domadapt.task import Batch

#: ``2 / (1 + exp(-10)) - 1``: where the paper's ramp ends (Ganin and Lempitsky, 2015).
END_OF_RAMP = 0.99991


def _adapts(subject: Subject) -> bool:
    return subject.adapts


def _trains(subject: Subject) -> bool:
    return subject.probe.trains


@invariant(_trains)
def weighted_sum(subject: Subject) -> None:
    """What is minimised is the source loss plus each term times its weight."""
    losses = subject.ready()(subject.batch(progress=0.4))
    require(losses.terms.keys() == losses.weights.keys(), "terms and weights differ in name")
    expected = sum(losses.weights[k] * float(v.detach()) for k, v in losses.terms.items())
    total = float(losses.total.detach())
    require(
        math.isclose(total, expected, rel_tol=1e-5, abs_tol=1e-6),
        f"the total is {total:.6g}, and the weighted sum of the terms {expected:.6g}",
    )
    require(losses.weights.get("source", 1.0) == 1.0, "the source loss must have the weight 1")


@invariant(_trains)
def schedules(subject: Subject) -> None:
    """Ramps follow progress alone, steadily, and a reversal that grows begins at 0."""
    _follows_progress_alone(subject)
    method = subject.ready()
    curves: dict[str, list[float]] = {}
    for tenth in range(11):
        for name, value in _schedule(method, subject.batch(progress=tenth / 10)).items():
            curves.setdefault(name, []).append(value)
    for name, curve in curves.items():
        shown = ", ".join(f"{v:.3g}" for v in curve)
        require(all(map(math.isfinite, curve)), f"{name} is not finite over the run: {shown}")
        steady = curve in (sorted(curve), sorted(curve, reverse=True))
        require(steady, f"{name} goes up and down over the run: {shown}")
        if name.startswith("the reversal"):
            first, last = curve[0], curve[-1]
            require(min(curve) >= 0, f"{name} has a negative coefficient, which undoes it: {shown}")
            require(
                first == last or abs(first) < 1e-6,
                f"{name} varies but does not begin at 0: {shown}",
            )
            require(
                first == last or not 0.9 < last <= 1 or abs(last - END_OF_RAMP) < 1e-4,
                f"{name} ends at {last:.5f}, and the paper's ramp, domadapt.ops.ramp, at "
                f"{END_OF_RAMP}",
            )


def _schedule(method: Method, batch: Batch) -> dict[str, float]:
    """The weights of the terms, and the coefficients of gradient reversals."""
    losses = method(batch)
    found = {f"the weight of {term}": w for term, w in losses.weights.items()}
    for i, node in enumerate(sorted(reversals(losses.total), key=lambda n: n.coefficient)):
        found[f"the reversal {i + 1}"] = float(node.coefficient)
    return found


def _follows_progress_alone(subject: Subject) -> None:
    method, batch = subject.ready(), subject.batch(progress=0.5)
    state = copy.deepcopy(method.state_dict())

    def look() -> tuple[dict[str, float], dict[str, Tensor]]:
        torch.manual_seed(1)
        schedule = _schedule(method, batch)
        torch.manual_seed(1)
        method.load_state_dict(state)
        return schedule, {k: v.detach() for k, v in method(batch).terms.items()}

    schedule, terms = look()
    for call in range(20):
        method(subject.batch(progress=0.04 * call))
        method.after_step(0.04 * call)
    again, terms_again = look()
    for name, value in schedule.items():
        require(
            name in again and again[name] == value,
            f"{name} was {value:.6g} at half the run, and {again.get(name, math.nan):.6g} there "
            "after 20 more batches: it must be a function of batch.progress",
        )
    for name, tensor in terms.items():
        require(
            torch.equal(tensor, terms_again[name]),
            f"the term {name} differs after 20 more batches, with the state put back: something "
            "that counts is kept outside parameters and buffers",
        )


def added(method: Method, batch: Batch) -> Tensor:
    """The weighted sum of what the method adds to the source loss."""
    terms = terms_of(method, batch)
    require(bool(terms), f"terms() returned nothing at progress {batch.progress}")
    return torch.stack(list(terms.values())).sum()


@invariant(_adapts)
def reaches_encoder(subject: Subject) -> None:
    """The gradient of what is added reaches the backbone, finite and not 0."""
    method = subject.ready()
    value = added(method, subject.batch(progress=0.9))
    require(value.requires_grad, "what is added carries no gradient: it was computed under no_grad")
    parameters = [p for p in method.network.backbone.parameters() if p.requires_grad]
    require(bool(parameters), "no parameter of the backbone is trained")
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    found = [g for g in gradients if g is not None]
    require(len(found) == len(gradients), "what is added does not depend on all of the backbone")
    require(all(bool(g.isfinite().all()) for g in found), "the backbone's gradient is not finite")
    # The last ones: the bias of a linear layer before BatchNorm has no gradient by nature.
    require(all(bool(g.abs().max() > 0) for g in found[-2:]), "the backbone's gradient is 0")


@invariant(_adapts)
def differences(subject: Subject) -> None:
    """Each term's gradient is its slope by finite differences, opposite where it is reversed."""
    try:
        torch.set_default_dtype(torch.float64)
        _differences(subject, (1e-5, 1e-4, 1e-3), tolerance=0.01)
    except RuntimeError:
        # A method may compute in float32 throughout; differences are less exact then.
        torch.set_default_dtype(torch.float32)
        _differences(subject, (1e-3, 3e-3, 1e-2), tolerance=0.05)


def _differences(subject: Subject, steps: Sequence[float], tolerance: float) -> None:
    method, batch = subject.ready(), subject.batch(progress=0.9)
    for name in terms_of(method, batch):
        _check_slope(method, batch, name, steps, tolerance)


def _check_slope(
    method: Method, batch: Batch, name: str, steps: Sequence[float], tolerance: float
) -> None:
    """Compare the gradient of one term at the backbone with finite differences along it."""
    parameters = [p for p in method.network.backbone.parameters() if p.requires_grad]
    buffers = [(b, b.clone()) for b in method.buffers()]

    def term() -> Tensor:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        return terms_of(method, batch)[name]

    constants = Constants()
    with constants, _calls(method) as verdicts:
        value = term()
    if not value.requires_grad:
        return
    contested = _contested(method, value, verdicts, parameters)
    real = _gradient(value, parameters)
    for node in reversals(value):
        node.coefficient = -1.0
    plain = _gradient(value, parameters)
    norm = float(plain.norm())
    if norm == 0:
        return
    parts = torch.split(plain / norm, [p.numel() for p in parameters])
    direction = [d.view_as(p) for d, p in zip(parts, parameters, strict=True)]
    slopes = [slope(term, constants, parameters, direction, step) for step in steps]
    found = min(slopes, key=lambda s: abs(s - norm))
    agrees = abs(found - norm) < tolerance * norm
    if contested:
        # Somebody's own reversal is seen by its sign alone.
        require(
            float(real @ plain) < 0 if agrees else found < 0,
            f"the backbone descends the term {name} together with the discriminator that "
            "minimises it: the gradient reversal is missing or undone",
        )
    else:
        require(
            agrees,
            f"the slope of the term {name} along its gradient is {found:.4g}, and the gradient "
            f"says {norm:.4g}; a reversal must be domadapt.ops.reverse_gradient",
        )


def _contested(
    method: Method, value: Tensor, verdicts: Sequence[Tensor], encoder: Sequence[Tensor]
) -> bool:
    """Whether `value` teaches a discriminator on features that carry their gradient."""
    rivals = {id(p) for d in discriminators(method) for p in d.parameters()}
    reached = {id(leaf) for leaf in leaves(value)}
    for verdict in verdicts:
        through = {id(leaf) for leaf in leaves(verdict)} & reached
        if through & rivals and through & {id(p) for p in encoder}:
            return True
    return False


@contextmanager
def _calls(method: Method) -> Iterator[list[Tensor]]:
    """What the discriminators answer within it."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, d: Tensor) -> None:
        seen.append(d)

    handles = [d.register_forward_hook(keep) for d in discriminators(method)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    parts = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
    ]
    return torch.cat([g.flatten() for g in parts])
