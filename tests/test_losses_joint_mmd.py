"""The joint MMD against loops, constants and what its theory says."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.mmd import joint_mmd, mmd

Estimator = Literal["biased", "unbiased"]
ESTIMATORS: list[Estimator] = ["biased", "unbiased"]


def draw(n: int, d: int = 5, shift: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def probabilities(n: int, seed: int, classes: int = 3) -> Tensor:
    return (2 * draw(n, classes, seed=100 + seed)).softmax(1)


def joint(n: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(n, shift=shift, seed=seed), probabilities(n, seed)


def value_of(s: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], **how: object) -> Tensor:
    return joint_mmd(s[0], t[0], s[1], t[1], **how)  # type: ignore[arg-type]


def by_loops(
    s: tuple[Tensor, Tensor],
    t: tuple[Tensor, Tensor],
    estimator: Estimator,
    kernels: int,
    label_scale: float,
) -> float:
    z, p = (torch.cat(pair).numpy() for pair in zip(s, t, strict=True))
    apart = [float(((a - b) ** 2).sum()) for a, b in itertools.combinations(z, 2)]
    g = sorted(apart)[(len(apart) - 1) // 2]
    exponents = [u - kernels // 2 + (1 - kernels % 2) for u in range(kernels)]
    n_s, total = len(s[0]), {"ss": 0.0, "tt": 0.0, "st": 0.0}
    count = {"ss": 0, "tt": 0, "st": 0}
    for i, j in itertools.product(range(len(z)), repeat=2):
        if (i < n_s) > (j < n_s):
            kind = "st"
        elif (i < n_s) == (j < n_s):
            kind = "ss" if i < n_s else "tt"
        else:
            continue
        if i == j and estimator == "unbiased":
            continue
        far = float(((z[i] - z[j]) ** 2).sum())
        k = sum(math.exp(-far / (2**u * g)) for u in exponents) / kernels
        total[kind] += k * math.exp(-float(((p[i] - p[j]) ** 2).sum()) / label_scale)
        count[kind] += 1
    mean = {kind: total[kind] / count[kind] for kind in total}
    return mean["ss"] + mean["tt"] - 2 * mean["st"]


@pytest.mark.parametrize("label_scale", [0.3, 1.68])
@pytest.mark.parametrize("kernels", [1, 5])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_agrees_with_loops(estimator: Estimator, kernels: int, label_scale: float) -> None:
    s, t = joint(6), joint(9, shift=0.7, seed=1)
    value = value_of(s, t, estimator=estimator, kernels=kernels, label_scale=label_scale)
    expected = by_loops(s, t, estimator, kernels, label_scale)
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_hand_constant() -> None:
    # Same places, other classes: only the label kernel tells the domains apart. All four samples
    # lie 0 or 1 apart with g = 1; two sure and different classes are 2 apart.
    z = torch.tensor([[0.0], [1.0]])
    p_s = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value = joint_mmd(z, z, p_s, 1 - p_s, kernels=1, scale=1.0, label_scale=1.0)
    within = math.exp(-1)
    cross = math.exp(-2) * (1 + math.exp(-1)) / 2
    assert float(value) == pytest.approx(2 * within - 2 * cross, rel=1e-6)


def test_equal_predictions_leave_the_mmd() -> None:
    s, t = draw(7), draw(11, shift=0.5, seed=1)
    p = probabilities(1, 0)
    for estimator in ESTIMATORS:
        value = value_of((s, p.expand(7, 3)), (t, p.expand(11, 3)), estimator=estimator)
        torch.testing.assert_close(value, mmd(s, t, estimator=estimator))


def test_sees_classes_that_changed_places() -> None:
    """Both margins equal, the joint distribution not: the plain MMD is blind to it."""
    z, p = draw(40), torch.eye(2, dtype=torch.float64).repeat(20, 1)
    z[::2] += 4.0
    same = value_of((z, p), (z.clone(), p), estimator="biased")
    swapped = value_of((z, p), (z.clone(), p.flip(1)), estimator="biased")
    assert float(same) == pytest.approx(0.0, abs=1e-12)
    assert float(swapped) > 0.3
    assert float(mmd(z, z.clone(), estimator="biased")) == pytest.approx(0.0, abs=1e-12)


def test_unbiased_has_mean_zero_for_equal_distributions() -> None:
    values = torch.stack(
        [value_of(joint(12, seed=2 * i), joint(20, seed=2 * i + 1)) for i in range(300)]
    )
    error = float(values.std()) / math.sqrt(300)
    assert abs(float(values.mean())) < 3 * error
    assert 0.3 < float((values < 0).double().mean()) < 0.8
    biased = [
        value_of(joint(12, seed=2 * i), joint(20, seed=2 * i + 1), estimator="biased")
        for i in range(300)
    ]
    assert float(torch.stack(biased).mean()) > 10 * error


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_symmetry_and_order(estimator: Estimator) -> None:
    s, t = joint(7), joint(11, shift=0.5, seed=1)
    value = value_of(s, t, estimator=estimator)
    torch.testing.assert_close(value_of(t, s, estimator=estimator), value)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    mixed = value_of((s[0].flip(0), s[1].flip(0)), (t[0][order], t[1][order]), estimator=estimator)
    torch.testing.assert_close(mixed, value)
    # Features and predictions of a sample belong together.
    assert float(value_of((s[0].flip(0), s[1]), t, estimator=estimator)) != pytest.approx(
        float(value), rel=1e-3
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient(estimator: Estimator) -> None:
    z = [x.requires_grad_() for x in (draw(4, 3), draw(5, 3, shift=0.5, seed=1))]
    p = [x.requires_grad_() for x in (probabilities(4, 0), probabilities(5, 1))]

    def f(z_s: Tensor, z_t: Tensor, p_s: Tensor, p_t: Tensor) -> Tensor:
        return joint_mmd(z_s, z_t, p_s, p_t, estimator=estimator, scale=2.5)

    assert torch.autograd.gradcheck(f, (*z, *p))
    # Either part alone, the other one fixed.
    assert torch.autograd.gradcheck(lambda a: f(a, z[1].detach(), *(x.detach() for x in p)), z[0])
    assert torch.autograd.gradcheck(lambda a: f(*(x.detach() for x in z), a, p[1].detach()), p[0])


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size_of_features(size: float, dtype: torch.dtype) -> None:
    p_s, p_t = probabilities(40, 0), probabilities(30, 1)
    exact = float(joint_mmd(draw(40), draw(30, shift=1.0, seed=1), p_s, p_t))
    s = (size * draw(40)).to(dtype).requires_grad_()
    t = (size * draw(30, shift=1.0, seed=1)).to(dtype)
    value = joint_mmd(s, t, p_s.to(dtype), p_t.to(dtype))
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(exact, rel=0.05)
    (gradient,) = torch.autograd.grad(value, s)
    assert 0.005 < float(gradient.float().norm()) * size < 1.0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_samples_each_and_a_missing_class(estimator: Estimator) -> None:
    s, t = joint(2), joint(2, shift=1.0, seed=1)
    s[1][:, 2], s[0].requires_grad_()
    s[1][:, 2] = 0.0
    (gradient,) = torch.autograd.grad(value_of(s, t, estimator=estimator), s[0])
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.norm()) > 0


def test_samples_that_coincide() -> None:
    z = torch.ones(6, 3).requires_grad_()
    p = torch.full((6, 3), 1 / 3).requires_grad_()
    value = joint_mmd(z, z.detach()[:4], p, p.detach()[:4])
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-6)
    for gradient in torch.autograd.grad(value, (z, p)):
        assert bool((gradient.abs() < 1e-6).all())


def test_mixed_precision_is_left_aside() -> None:
    s, t = ([x.float() for x in joint(30, seed=i)] for i in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = joint_mmd(s[0], t[0], s[1], t[1])
    torch.testing.assert_close(mixed, joint_mmd(s[0], t[0], s[1], t[1]))


def test_pulls_the_predictions_together() -> None:
    """Samples in one place with other predictions are pulled to agree."""
    z = draw(16)
    p = probabilities(16, 0).requires_grad_()
    q = probabilities(16, 5)
    value = joint_mmd(z, z.clone(), p, q, estimator="biased")
    (gradient,) = torch.autograd.grad(value, p)
    nearer = p.detach() - 2.0 * gradient
    assert float(joint_mmd(z, z.clone(), nearer, q, estimator="biased")) < float(value.detach())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"label_scale": 0.0}, "label_scale must be positive; got 0"),
        ({"kernels": 0}, "kernels must be at least 1; got 0"),
        ({"scale": -1.0}, "scale must be positive; got -1"),
        ({"estimator": "fair"}, "estimator must be"),
    ],
)
def test_refusals(how: dict[str, object], says: str) -> None:
    # The shapes are checked before the values are, by a type error, for the last.
    with pytest.raises(Exception, match=rf"{says}|Type-check error") as caught:
        value_of(joint(4), joint(5), **how)
    assert "estimator" in how or isinstance(caught.value, DomadaptError)


def test_one_sample_is_refused() -> None:
    with pytest.raises(DomadaptError, match=r"at least 2 samples .* got 1 source and 5 target"):
        value_of(joint(1), joint(5))
    assert np.isfinite(float(value_of(joint(1), joint(5), estimator="biased")))
