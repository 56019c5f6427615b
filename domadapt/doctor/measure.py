"""One examination: an extra pass over a batch that leaves no trace in the training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from domadapt import ops
from domadapt.doctor.evidence import Point, Telling, Term
from domadapt.methods import BatchOutputs, Method
from domadapt.methods.base import Losses
from domadapt.network import Discriminator
from domadapt.task import Batch, Inputs

#: Terms that learn from labels; all others adapt.
SUPERVISED = ("source", "labelled")
#: A gradient this small beside the source's is none.
NOTHING = 1e-9
#: A term whose gradient is so many times the source's largest is looked at more closely.
TOO_MUCH = 30.0

Gradients = Sequence[Tensor | None]


@contextmanager
def untouched(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it anything may pass through the method; afterwards it is as before, bit for bit.

    Random numbers (torch, NumPy, Python), buffers, parameters that are not trained (a teacher),
    gradients, modes and plain attributes are put back. Contents of plain containers are not:
    state is parameters and buffers.
    """
    modules = list(method.modules())
    attributes = [dict(m.__dict__) for m in modules]
    registered = [dict(m._buffers) for m in modules]
    fixed = [p for p in method.parameters() if not p.requires_grad]
    kept = [(t, t.detach().clone()) for t in [*method.buffers(), *fixed]]
    gradients = [(p, p.grad) for p in method.parameters()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is watched, not used)
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, before, buffers in zip(modules, attributes, registered, strict=True):
            for name in module.__dict__.keys() - before.keys():
                del module.__dict__[name]
            for name, value in before.items():
                # Only what was changed is set: torch.compile watches these dictionaries.
                if module.__dict__.get(name) is not value:
                    module.__dict__[name] = value
            now = module._buffers
            if now.keys() != buffers.keys() or any(now[k] is not v for k, v in buffers.items()):
                now.clear()
                now.update(buffers)
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


class _Watch:
    """What the modules are given and say during the pass."""

    def __init__(self, method: Method) -> None:
        #: Discriminators by name, with their answers in the order of the calls.
        self.answers: dict[str, list[Tensor]] = {}
        #: Inputs' channel means over the first and over the last rows, by BatchNorm layer.
        self.inputs: dict[str, list[Tensor]] = {}
        self.layers: dict[str, nn.modules.batchnorm._BatchNorm] = {}
        self.scales: dict[str, Tensor] = {}
        self.handles = []
        for name, module in method.named_modules():
            if isinstance(module, Discriminator):
                hook = self._answer(name)
                self.handles.append(module.register_forward_hook(hook))
        normalising = {id(m) for m in ops.batchnorms(method.network)}
        for name, module in method.network.named_modules():
            if id(module) in normalising and module.running_var is not None:
                self.handles.append(module.register_forward_pre_hook(self._input(name)))

    def _answer(self, name: str) -> Any:
        def keep(_: nn.Module, __: Any, d: Tensor) -> None:
            if d.requires_grad:
                self.answers.setdefault(name, []).append(d)

        return keep

    def _input(self, name: str) -> Any:
        def keep(layer: Any, args: Any) -> None:
            if len(self.inputs.setdefault(name, [])) < 2:
                self.inputs[name].append(args[0].detach())
                self.scales.setdefault(name, (layer.running_var + layer.eps).sqrt())

        return keep

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()


def measure(
    method: Method,
    batch: Batch,
    step: int,
    *,
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    scale: float = 1.0,
    closer: bool = True,
    source_norm: float = 0.0,
) -> Point:
    """Examine the method as it is on one batch.

    One forward pass, and a backward pass for the source loss and for each adaptation term.

    Args:
        method: in training mode; it is left as it is.
        batch: what the next step will train on.
        step: of the run.
        device: where the method is.
        optimizer: what trains it.
        autocast: the precision of the training.
        scale: what losses are multiplied by before their backward pass (fp16).
        closer: whether suspicious terms are evaluated a few times more, without the network.
        source_norm: the largest gradient norm of the source loss so far.
    """
    eager = torch.compiler.set_stance("force_eager")
    with untouched(method, device), eager:
        watch = _Watch(method)
        try:
            with torch.set_grad_enabled(method.trains), autocast or nullcontext():
                out = method.outputs(batch)
                gaps = _gaps(watch, batch)
                losses = method.losses(out, batch)
        finally:
            watch.stop()
        classes = _classes(out) if method.network.spread is None else {}
        point = Point(step, batch.progress, gaps=gaps, **classes)
        if not losses.total.requires_grad:
            return point
        orphans = _orphans(method, losses.total, optimizer)
        point = replace(point, orphans=orphans, age=_age(optimizer))
        return _gradients(method, batch, out, losses, watch, point, scale, closer, source_norm)


def _gradients(
    method: Method,
    batch: Batch,
    out: BatchOutputs,
    losses: Losses,
    watch: _Watch,
    point: Point,
    scale: float,
    closer: bool,
    source_norm: float,
) -> Point:
    network = method.network
    parts = (network.normalize, network.backbone, network.bottleneck)
    encoder = [p for part in parts for p in part.parameters() if p.requires_grad]
    inside = {id(p) for p in encoder}
    others = [p for p in method.parameters() if p.requires_grad and id(p) not in inside]
    answers = [(name, d) for name, ds in watch.answers.items() for d in ds]
    logits = [d for _, d in answers]

    known = [v for k, v in losses.terms.items() if k in SUPERVISED and v.requires_grad]
    supervised: Tensor | None = sum(known[1:], known[0]) if known else None
    source = None
    # Without a term there is nothing to compare the source's gradient with.
    if supervised is not None and encoder and len(losses.terms) > len(known):
        source = _norm(_grad(supervised, encoder, scale), scale)
        source_norm = max(source, source_norm)
    total: list[Tensor | None] = [None] * len(encoder)
    terms: dict[str, Term] = {}
    pulls: dict[int, Tensor] = {}
    for name, value in losses.terms.items():
        if name in SUPERVISED:
            continue
        weight = losses.weights[name]
        term = Term(float(value.detach()), weight, value.requires_grad, ramp=_ramp(method, name))
        if weight != 0 and value.requires_grad:
            found = _grad(value, [*encoder, *others, *logits], scale * weight)
            mine = found[: len(encoder)]
            total = [_plus(a, b) for a, b in zip(total, mine, strict=True)]
            at_logits = found[len(encoder) + len(others) :]
            term = replace(
                term,
                encoder=_norm(mine, scale),
                others=_norm(found[len(encoder) : len(encoder) + len(others)], scale),
            )
            judged = [i for i, g in enumerate(at_logits) if g is not None and bool((g != 0).any())]
            pulls |= {i: -at_logits[i].sign() for i in judged}  # type: ignore[union-attr]
            if judged and closer:
                term = _opposed(term, method, name, out, batch, [answers[i][0] for i in judged])
        if closer and weight != 0 and encoder:
            if term.encoder <= NOTHING * source_norm and term.others <= NOTHING * source_norm:
                term = replace(term, rescaled=_rescaled(method, name, out, batch))
            elif source_norm > 0 and term.encoder > TOO_MUCH * source_norm:
                term = replace(term, growth=_growth(method, name, out, batch))
        terms[name] = term
    tellings = _tellings(watch.answers, pulls, batch)
    adaptation = _norm(total, scale)
    return replace(point, terms=terms, source=source, adaptation=adaptation, tellings=tellings)


def _grad(value: Tensor, inputs: Sequence[Tensor], factor: float) -> Gradients:
    if not inputs:
        return []
    return torch.autograd.grad(factor * value, inputs, retain_graph=True, allow_unused=True)


def _norm(gradients: Gradients, scale: float = 1.0) -> float:
    known = [g for g in gradients if g is not None]
    return float(nn.utils.get_total_norm(known)) / scale if known else 0.0


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


# The batch ----------------------------------------------------------------------------------------


def _sizes(batch: Batch) -> tuple[int, int]:
    def size(x: Inputs | None) -> int:
        return 0 if x is None else ops.batch_size(x)

    return size(batch.x_s), size(batch.x_t)


def _classes(out: BatchOutputs) -> dict[str, Any]:
    """Effective number of classes predicted on each domain's part of the batch."""
    found: dict[str, Any] = {}
    for name, logits in (("classes_s", out.logits_s), ("classes_t", out.logits_t)):
        if logits is not None:
            p = logits.detach().float().softmax(1).mean(0)
            found |= {name: float(torch.special.entr(p).sum().exp()), "n_classes": len(p)}
    return found


def _gaps(watch: _Watch, batch: Batch) -> dict[str, float]:
    """How far apart source and target lie before each BatchNorm layer."""
    n_s, n_t = _sizes(batch)
    found: dict[str, float] = {}
    if not n_s or not n_t:
        return found
    for name, calls in watch.inputs.items():
        first = calls[0]
        n_l = 0 if batch.x_l is None else ops.batch_size(batch.x_l)
        views, rest = divmod(len(first), n_s + n_t)
        if views and rest in (0, n_l):
            # All source samples, perhaps in several views, come before those of the target.
            x_s, x_t = first[: views * n_s], first[views * n_s :]
        elif len(calls) == 2 and len(first) == n_s and len(calls[1]) >= n_t:
            x_s, x_t = calls
        else:
            continue
        apart = (_means(x_s) - _means(x_t)) / watch.scales[name].float()
        found[name] = float(apart.square().mean().sqrt())
    return found


def _means(x: Tensor) -> Tensor:
    """Mean of each channel (dimension 1)."""
    return x.float().transpose(0, 1).flatten(1).mean(1)


def _paired(calls: Sequence[Tensor], batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """A discriminator's answers, source and target: of one call for both, or of two in turn."""
    n_s, n_t = _sizes(batch)
    queue, pairs = list(calls), []
    while queue:
        d = queue.pop(0)
        if len(d) == n_s + n_t:
            pairs.append((d[:n_s], d[n_s:]))
        elif queue and len(d) <= n_s and len(queue[0]) == n_t:
            pairs.append((d, queue.pop(0)))
        elif n_t < len(d) < n_s + n_t:  # of some of several source domains, and the target
            pairs.append((d[:-n_t], d[-n_t:]))
    return pairs


def _tellings(
    answers: dict[str, list[Tensor]], pulls: dict[int, Tensor], batch: Batch
) -> dict[str, Telling]:
    """Each discriminator's verdicts; `pulls` are directions by number of the answer."""
    found, number = {}, 0
    for name, calls in answers.items():
        said = [d.detach().float() for d in calls]
        moved = [pulls.get(number + i, d * math.nan) for i, d in enumerate(said)]
        number += len(calls)
        pairs, ways = _paired(said, batch), _paired(moved, batch)
        if pairs:
            d_s, d_t = (torch.cat(d) for d in zip(*pairs, strict=True))
            accuracy = 0.5 * ((d_s > 0).float().mean() + (d_t <= 0).float().mean())
            # A call that no term learns from has no direction.
            up = [torch.cat(u).float().nanmean() for u in zip(*ways, strict=True)]
            pull_s, pull_t = (None if u.isnan() else float(u) for u in up)
            found[name] = Telling(float(accuracy), pull_s, pull_t)
    return found


# A closer look ------------------------------------------------------------------------------------


def _parts(out: BatchOutputs) -> dict[str, Tensor]:
    """The fields of `out` that hold something, without gradient and in float32 at least."""
    found = {k: v.detach() for k, v in vars(out).items() if isinstance(v, Tensor)}
    return {k: v.float() if v.element_size() < 4 else v for k, v in found.items()}


def _value(method: Method, name: str, out: BatchOutputs, batch: Batch) -> Tensor | None:
    """A term of other outputs, with the same random numbers each time."""
    torch.manual_seed(0)
    try:
        return method.terms(out, batch).get(name)
    except (RuntimeError, ValueError, IndexError):
        # What a method says of outputs that training would never give it is not held against it.
        return None


def _opposed(
    term: Term, method: Method, name: str, out: BatchOutputs, batch: Batch, rivals: list[str]
) -> Term:
    """Whether a step of the features down the term makes its discriminators' loss worse.

    Features and logits are moved by ``-+ e g``, g the term's gradient at them. To first order the
    discriminators' loss L changes by ``-e g . grad L``. With ``g = -c grad L`` (a gradient
    reversed with coefficient c) the term itself rises by ``e |g|^2 / c``, which gives c.
    """
    leaves = {k: v.clone().requires_grad_() for k, v in _parts(out).items()}
    value = _value(method, name, replace(out, **leaves), batch)
    if value is None or not value.requires_grad:
        return term
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    moves = {k: g for (k, _), g in zip(leaves.items(), found, strict=True) if g is not None}
    length = _norm(list(moves.values()))
    if length == 0 or not math.isfinite(length):
        return replace(term, reversal=0.0)
    size = math.sqrt(sum(float(leaves[k].detach().float().square().sum()) for k in moves))
    e = 1e-2 * size / length
    said, own = [], []
    for sign in (-1.0, 1.0):
        moved = {k: leaves[k].detach() + sign * e * g for k, g in moves.items()}
        watch = _Watch(method)
        try:
            value = _value(method, name, replace(out, **moved), batch)
        finally:
            watch.stop()
        if value is None:
            return term
        said.append(float(value.detach().double()))
        losses = _domain_losses({k: watch.answers[k] for k in rivals if k in watch.answers}, batch)
        own.append(losses)
    # A step down the term minus a step up, halved.
    rise, worse = 0.5 * (said[0] - said[1]), 0.5 * (own[0] - own[1])
    # Where only one domain learns (inverted labels) it is another loss, not a reversed gradient.
    both = all(any(f"_{d}" in k and bool(g.any()) for k, g in moves.items()) for d in "st")
    reversal = e * length**2 / rise if both and rise != 0 else None
    middle = 0.5 * (own[0] + own[1])
    return replace(term, reversal=reversal, rival=worse / middle if middle > 0 else None)


def _domain_losses(answers: dict[str, list[Tensor]], batch: Batch) -> float:
    """The plain cross-entropy of all discriminators."""
    pairs = [pair for calls in answers.values() for pair in _paired(calls, batch)]
    return sum(
        0.5 * float((softplus(-d_s.detach()).mean() + softplus(d_t.detach()).mean()).double())
        for d_s, d_t in pairs
    )


def _rescaled(method: Method, name: str, out: BatchOutputs, batch: Batch) -> float | None:
    """How much a term changes when the features are scaled."""
    parts = _parts(out)
    with torch.no_grad():
        before = _value(method, name, replace(out, **parts), batch)
        if before is None:
            return None
        largest = 0.0
        for factor in (1e-4, 1e-2, 0.1, 10.0, 1e2, 1e4):
            scaled = {k: factor * v if k.startswith("z") else v for k, v in parts.items()}
            value = _value(method, name, replace(out, **scaled), batch)
            if value is not None:
                change = abs(float(value - before)) / max(abs(float(before)), 1e-12)
                largest = max(largest, change)
    return largest


def _growth(method: Method, name: str, out: BatchOutputs, batch: Batch) -> float | None:
    """A term's value over its mean on both halves of the batch."""
    n_s, n_t = _sizes(batch)
    if n_s < 4 or n_t < 4:
        return None

    def half(value: Any, field: str, second: bool) -> Any:
        if isinstance(value, dict):
            return {k: half(v, field, second) for k, v in value.items()}
        if not isinstance(value, Tensor) or field in ("x_l", "y_l", "logits_l"):
            return value
        middle = len(value) // 2
        return value[middle:] if second else value[:middle]

    out = replace(out, **_parts(out))
    with torch.no_grad():
        whole = _value(method, name, out, batch)
        parts = []
        for second in (False, True):
            o = replace(out, **{k: half(v, k, second) for k, v in vars(out).items()})
            b = replace(batch, **{k: half(v, k, second) for k, v in vars(batch).items()})
            parts.append(_value(method, name, o, b))
    if whole is None or parts[0] is None or parts[1] is None:
        return None
    both = 0.5 * abs(float((parts[0] + parts[1]).detach()))
    # A hook of another library may have a gradient all the same.
    return abs(float(whole.detach())) / max(both, 1e-12)


# The optimiser ------------------------------------------------------------------------------------


def _orphans(
    method: Method, total: Tensor, optimizer: torch.optim.Optimizer | None
) -> tuple[str, ...]:
    """Names of the parameters behind a loss that no group of the optimiser has."""
    if optimizer is None:
        return ()
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): name for name, p in method.named_parameters()}
    found = (p for p in _leaves(total) if isinstance(p, nn.Parameter) and id(p) not in known)
    return tuple(sorted(names.get(id(p), f"a parameter of shape {tuple(p.shape)}") for p in found))


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors that a backward pass from `value` would give a gradient."""
    stack, seen, found = [value.grad_fn], set(), []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack += [n for n, _ in node.next_functions]
    return found


def _age(optimizer: torch.optim.Optimizer | None) -> float | None:
    """The steps that the optimiser's state remembers; None where it keeps no such state."""
    if optimizer is None:
        return None
    states = list(optimizer.state.values())
    counts = [float(s["step"]) for s in states if "step" in s]
    if counts:
        return max(counts)
    adaptive = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) > 0
    return 0.0 if adaptive and not states else None


def _ramp(method: Method, term: str) -> tuple[float, float] | None:
    """A term's weight at both ends of the run, where the method declares a ramp for it."""
    owner, _, own = term.partition(".")
    part = getattr(method, "methods", {}).get(owner) if own else None
    if part is not None:
        return _ramp(part, own)
    if term not in method.ramps:
        return None
    return method.weight(term, 0.0), method.weight(term, 0.999)
