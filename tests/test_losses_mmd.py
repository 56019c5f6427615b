"""MMD against loops, constants and what its theory says."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from domadapt.errors import DomadaptError
from domadapt.losses.mmd import median_distance, mmd, squared_distances

Estimator = Literal["biased", "unbiased"]
ESTIMATORS: list[Estimator] = ["biased", "unbiased"]


def draw(n: int, d: int = 5, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def by_loops(
    s: Tensor, t: Tensor, estimator: Estimator, kernels: int, scale: float | None
) -> float:
    pooled = torch.cat([s, t]).numpy()
    apart = [float(((a - b) ** 2).sum()) for a, b in itertools.combinations(pooled, 2)]
    g = sorted(apart)[(len(apart) - 1) // 2] if scale is None else scale
    exponents = [u - kernels // 2 + (1 - kernels % 2) for u in range(kernels)]

    def k(a: np.ndarray, b: np.ndarray) -> float:
        d = float(((a - b) ** 2).sum())
        return sum(math.exp(-d / (2**u * g)) for u in exponents) / kernels

    def mean(x: Tensor, y: Tensor, skip: bool) -> float:
        pairs = [
            k(a, b)
            for i, a in enumerate(x.numpy())
            for j, b in enumerate(y.numpy())
            if not (skip and i == j)
        ]
        return sum(pairs) / len(pairs)

    alone = estimator == "unbiased"
    return mean(s, s, alone) + mean(t, t, alone) - 2 * mean(s, t, False)


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("kernels", [1, 4, 5])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_agrees_with_loops(estimator: Estimator, kernels: int, scale: float | None) -> None:
    s, t = draw(6), draw(9, shift=0.7, seed=1)
    value = mmd(s, t, estimator=estimator, kernels=kernels, scale=scale)
    assert float(value) == pytest.approx(by_loops(s, t, estimator, kernels, scale), rel=1e-9)


def test_hand_constant() -> None:
    # One kernel of g = 1 on a line: s = {0, 1}, t = {2, 3}.
    s, t = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    e = [math.exp(-(d**2)) for d in range(4)]
    cross = (2 * e[2] + e[1] + e[3]) / 4
    for estimator, within in (("biased", (1 + e[1]) / 2), ("unbiased", e[1])):
        value = mmd(s, t, estimator=estimator, kernels=1, scale=1.0)  # type: ignore[arg-type]
        assert float(value) == pytest.approx(2 * within - 2 * cross, rel=1e-6)


def test_biased_is_zero_for_equal_samples_and_never_negative() -> None:
    x = draw(20)
    assert float(mmd(x, x.clone(), estimator="biased")) == pytest.approx(0.0, abs=1e-12)
    assert float(mmd(x.float(), x.float(), estimator="biased")) == pytest.approx(0.0, abs=1e-6)
    values = [mmd(draw(8, seed=i), draw(5, seed=50 + i), estimator="biased") for i in range(20)]
    assert min(values) > 0


def test_unbiased_has_mean_zero_for_equal_distributions() -> None:
    values = torch.stack([mmd(draw(16, seed=2 * i), draw(24, seed=2 * i + 1)) for i in range(400)])
    error = float(values.std()) / 20
    assert abs(float(values.mean())) < 3 * error
    assert 0.3 < float((values < 0).double().mean()) < 0.8
    # The same measure tells that the biased one is not.
    biased = [
        mmd(draw(16, seed=2 * i), draw(24, seed=2 * i + 1), estimator="biased") for i in range(400)
    ]
    assert float(torch.stack(biased).mean()) > 10 * error


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_symmetry_and_order(estimator: Estimator) -> None:
    s, t = draw(7), draw(11, shift=0.5, seed=1)
    value = mmd(s, t, estimator=estimator)
    torch.testing.assert_close(mmd(t, s, estimator=estimator), value)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mmd(s.flip(0), t[order], estimator=estimator), value)


def test_grows_with_the_shift() -> None:
    values = [float(mmd(draw(60), draw(60, shift=c, seed=1))) for c in (0.0, 0.3, 1.0, 3.0)]
    assert values == sorted(values)
    assert values[-1] > 0.5


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size_of_features(size: float, dtype: torch.dtype) -> None:
    """One step down the gradient, scaled to the features, brings the domains nearer."""
    s = (size * draw(40)).to(dtype).requires_grad_()
    t = (size * draw(30, shift=1.0, seed=1)).to(dtype)
    value = mmd(s, t)
    assert value.dtype == torch.float32
    reference = float(mmd(draw(40), draw(30, shift=1.0, seed=1)))
    assert float(value.detach()) == pytest.approx(reference, rel=0.03)
    (gradient,) = torch.autograd.grad(value, s)
    # The gradient is inversely proportional to the size, neither faded nor exploded.
    assert 0.01 < float(gradient.float().norm()) * size < 1.0
    moved = s.detach().float() - size**2 * 60 * gradient.float()
    assert float(mmd(moved, t.float())) < 0.9 * float(value.detach())


def test_far_from_the_origin() -> None:
    s, t = draw(40).float() + 300.0, draw(40, shift=1.0, seed=1).float() + 300.0
    exact = float(mmd(draw(40), draw(40, shift=1.0, seed=1)))
    assert float(mmd(s, t)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("kernels", [1, 5])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient(estimator: Estimator, kernels: int) -> None:
    s, t = draw(4, 3).requires_grad_(), draw(5, 3, shift=0.5, seed=1).requires_grad_()
    f = lambda a, b: mmd(a, b, estimator=estimator, kernels=kernels, scale=2.5)  # noqa: E731
    assert torch.autograd.gradcheck(f, (s, t))


def test_no_gradient_through_the_bandwidth() -> None:
    s, t = draw(8).requires_grad_(), draw(8, shift=1.0, seed=1)
    g = float(median_distance(squared_distances(torch.cat([s.detach(), t]))))
    (free,) = torch.autograd.grad(mmd(s, t), s)
    (fixed,) = torch.autograd.grad(mmd(s, t, scale=g), s)
    torch.testing.assert_close(free, fixed)


@pytest.mark.parametrize("n", [4, 5, 12])
def test_median(n: int) -> None:
    z = draw(n)
    apart = np.sort([float((a - b).square().sum()) for a, b in itertools.combinations(z, 2)])
    expected = apart[(len(apart) - 1) // 2]
    assert float(median_distance(squared_distances(z))) == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samples_that_coincide(estimator: Estimator) -> None:
    same = torch.ones(6, 3).requires_grad_()
    value = mmd(same, torch.ones(4, 3), estimator=estimator)
    (gradient,) = torch.autograd.grad(value, same)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
    assert bool((gradient == 0).all())
    # Most of both domains in one point (dead units), one source sample far away.
    one = torch.ones(6, 3)
    one[0] = 5.0
    one.requires_grad_()
    (gradient,) = torch.autograd.grad(mmd(one, torch.ones(6, 3), estimator=estimator), one)
    assert bool(torch.isfinite(gradient).all())
    # The unbiased estimate's pulls on it, towards either domain's point, cancel.
    if estimator == "biased":
        assert float(gradient[0].norm()) > 1e-3


def test_two_samples_each() -> None:
    s, t = draw(2).requires_grad_(), draw(2, shift=1.0, seed=1)
    for estimator in ESTIMATORS:
        (gradient,) = torch.autograd.grad(mmd(s, t, estimator=estimator), s)
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.norm()) > 0


def test_mixed_precision_is_left_aside() -> None:
    s, t = draw(30).float(), draw(30, shift=0.2, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mmd(s, t)
    torch.testing.assert_close(mixed, mmd(s, t))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mmd(draw(1), draw(5)), "at least 2 samples of each domain .* got 1 source and 5"),
        (lambda: mmd(draw(4), draw(5), kernels=0), "kernels must be at least 1; got 0"),
        (lambda: mmd(draw(4), draw(5), scale=0.0), "scale must be positive; got 0"),
        (lambda: mmd(draw(0), draw(5), estimator="biased"), "at least 1 samples"),
    ],
)
def test_refusals(call: object, says: str) -> None:
    assert callable(call)
    with pytest.raises(DomadaptError, match=says):
        call()


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        mmd(draw(4, 3), draw(4, 5))


def large() -> tuple[Tensor, Tensor]:
    s, t = draw(256, 512).float(), draw(256, 512, seed=1).float()
    return s.requires_grad_(), t.requires_grad_()


def test_time_at_256_samples_of_512() -> None:
    s, t = large()
    seconds = []
    for _ in range(12):
        start = time.process_time()
        mmd(s, t).backward()  # type: ignore[no-untyped-call]
        seconds.append(time.process_time() - start)
    # Processor time of one thread, of which other programs take little: below 15 ms on a quiet
    # machine, with room for a slower or busy one.
    assert min(seconds) < 0.03


class Allocations(TorchDispatchMode):
    """The bytes of all tensors that operations return, freed or not."""

    def __init__(self) -> None:
        super().__init__()
        # The storages are held, so that no address is given twice.
        self.seen: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.seen[storage.data_ptr()] = storage
        return out

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.seen.values())


def test_memory_at_256_samples_of_512() -> None:
    """All that is ever allocated, forward and backward, is less than what may be held at once."""
    s, t = large()
    with Allocations() as made:
        mmd(s, t).backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None
    # Four matrices of all pairs, at least, are seen.
    assert 4 * 2**20 < made.bytes < 50 * 2**20
