"""Small operators that several methods share: gradient reversal, ramps, averages, joined inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.task import Inputs


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0] * -ctx.coefficient, None


def reverse_gradient(x: Float[Tensor, "*shape"], coefficient: float) -> Float[Tensor, "*shape"]:
    """The identity, whose gradient is multiplied by ``-coefficient``.

    Source: Ganin and Lempitsky (2015), arXiv:1409.7495, equations 7 and 8.
    """
    reversed_: Tensor = _ReverseGradient.apply(x, coefficient)
    return reversed_


def ramp(progress: float, steepness: float = 10.0) -> float:
    """``2 / (1 + exp(-steepness * progress)) - 1``: 0 at the start, 0.99991 at the end.

    A function of the share of the run that is done, so that it depends neither on the run's
    length nor on how often a layer was called. Source: Ganin and Lempitsky (2015), section 4.
    """
    return 2.0 / (1.0 + math.exp(-steepness * progress)) - 1.0


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `average` towards `model`: ``a <- decay * a + (1 - decay) * m``.

    Parameters and floating buffers (BatchNorm's statistics) are averaged, integer buffers copied.
    """
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for a, m in pairs:
        if a.is_floating_point():
            a.lerp_(m.to(a.dtype), 1.0 - decay)
        else:
            a.copy_(m)


def batchnorms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of `module`, of whatever kind and mode."""
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in module.modules() if isinstance(m, kind)]


def _batchnorms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in batchnorms(module) if m.training]


def has_batchnorm(module: nn.Module) -> bool:
    """Whether `module` has a BatchNorm layer that uses the statistics of the batch."""
    return bool(_batchnorms(module))


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm normalises by the batch but leaves its running statistics alone."""
    tracking = [m for m in _batchnorms(module) if m.track_running_stats]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True


class RowsError(Exception):
    """A BatchNorm layer was given rows that cannot be told apart by domain."""


@contextmanager
def statistics_by_domain(module: nn.Module, sizes: list[int]) -> Iterator[None]:
    """Within it, BatchNorm normalises each domain of a joined batch by that domain alone.

    The same as one forward pass per domain, running statistics included, up to rounding and in
    the time of one. A layer may be given several rows per sample, as long as those of a sample
    lie together.

    Args:
        module: whose BatchNorm layers in training mode are meant.
        sizes: samples of each domain, in the order of the batch.

    Raises:
        RowsError: a layer was given a number of rows that is no multiple of the samples.
    """
    layers = _batchnorms(module)
    total = sum(sizes)

    def divided(layer: nn.modules.batchnorm._BatchNorm) -> Callable[[Tensor], Tensor]:
        own = layer.forward

        def forward(x: Tensor) -> Tensor:
            rows, rest = divmod(len(x), total)
            if rest or not rows:
                raise RowsError
            return torch.cat([own(part) for part in torch.split(x, [rows * n for n in sizes])])

        return forward

    for layer in layers:
        layer.__dict__["forward"] = divided(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


@contextmanager
def undone_on(error: type[Exception], module: nn.Module) -> Iterator[None]:
    """Put buffers and random numbers back where `error` ends it; the error goes on."""
    buffers = [(b, b.clone()) for b in module.buffers()]
    cuda = {b.device for b, _ in buffers if b.device.type == "cuda"}
    numbers = torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in cuda]
    try:
        yield
    except error:
        for buffer, value in buffers:
            buffer.copy_(value)
        torch.set_rng_state(numbers[0])
        for device, state in numbers[1]:
            torch.cuda.set_rng_state(state, device)
        raise


def restart_statistics(module: nn.Module) -> None:
    """Forget the running statistics of BatchNorm; from now on they average all batches equally.

    That is PyTorch's ``momentum=None``, which stays set. The number of batches is kept with the
    statistics, so that the average goes on exactly after a resume.
    """
    for m in batchnorms(module):
        m.reset_running_stats()
        m.momentum = None


def train_batchnorm_alone(module: nn.Module) -> None:
    """Evaluation mode, without dropout, in which BatchNorm uses the batch's statistics."""
    module.eval()
    for m in batchnorms(module):
        m.train()


def batch_size(x: Inputs) -> int:
    """The number of samples in `x`."""
    return len(x) if isinstance(x, Tensor) else len(next(iter(x.values())))


def join(parts: list[Inputs]) -> Inputs:
    """Several batches as one. Dictionaries are joined field by field, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if len(tensors) == len(parts):
        if len({t.shape[1:] for t in tensors}) > 1:
            raise DomadaptError(
                "Source and target inputs must have one shape; got "
                f"{', '.join(str(tuple(t.shape[1:])) for t in tensors)}. Give the images a size."
            )
        return torch.cat(tensors)
    joined: dict[str, Tensor] = {}
    dicts = [p for p in parts if isinstance(p, dict)]
    if len(dicts) < len(parts) or len({frozenset(d) for d in dicts}) > 1:
        raise DomadaptError(
            "Source and target texts must be of one form, all single texts or all pairs; got the "
            f"fields {' and '.join(', '.join(d) for d in dicts)}."
        )
    for key in dicts[0]:
        fields = [d[key] for d in dicts]
        if fields[0].ndim > 1:
            longest = max(f.shape[1] for f in fields)
            fields = [nn.functional.pad(f, (0, longest - f.shape[1])) for f in fields]
        joined[key] = torch.cat(fields)
    return joined
