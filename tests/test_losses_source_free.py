"""Centroids and neighbours against loops, scikit-learn and hand constants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn.functional import normalize

from domadapt.errors import DomadaptError
from domadapt.losses.source_free import (
    centroid_labels,
    imbalance,
    nearest,
    neighbourhood,
    reciprocal_affinity,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chances(*shape: int, seed: int = 0) -> Tensor:
    return torch.softmax(draw(*shape, seed=seed), -1)


# Centroids ----------------------------------------------------------------------------------------


def labels_by_loops(z: np.ndarray, p: np.ndarray) -> list[int]:
    label: list[int] = p.argmax(1).tolist()
    weight = p
    for _ in range(2):
        present = sorted(set(label))
        centroids = [
            sum(w * x for w, x in zip(weight[:, k], z, strict=True)) / weight[:, k].sum()
            for k in present
        ]
        apart = cdist(z, np.stack(centroids), "cosine")
        label = [present[i] for i in apart.argmin(1)]
        weight = np.eye(p.shape[1])[label]
    return label


@pytest.mark.parametrize("seed", range(8))
def test_centroid_labels_agree_with_loops(seed: int) -> None:
    # Few samples of many classes: in most draws some class has no centroid.
    z, p = draw(12, 4, seed=seed), chances(12, 7, seed=50 + seed)
    assert centroid_labels(z, p).tolist() == labels_by_loops(z.numpy(), p.numpy())


def test_centroid_labels_by_hand() -> None:
    # Two directions. The last sample lies with class 1 and is mistaken for class 0, as is
    # nothing else; length plays no part.
    z = torch.tensor([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [0.1, 30.0], [0.2, 5.0]])
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])
    assert centroid_labels(z, p).tolist() == [0, 0, 1, 1, 1]


def test_the_second_round_corrects_the_first() -> None:
    """Timid predictions make crooked centroids; those of their labels are straight."""
    generator = torch.Generator().manual_seed(3)
    truth = torch.arange(90) % 3
    z = torch.eye(3)[truth] + 0.25 * torch.randn(90, 3, generator=generator)
    p = torch.full((90, 3), 0.3)
    p[torch.arange(90), truth] = 0.4
    p[::4] = torch.tensor([0.5, 0.3, 0.2])
    p = p / p.sum(1, keepdim=True)
    one = cdist(z.numpy(), (p.T @ z / p.sum(0)[:, None]).numpy(), "cosine").argmin(1)
    right = (centroid_labels(z, p) == truth).float().mean()
    assert right > 0.9
    assert float(right) >= (torch.from_numpy(one) == truth).float().mean()


def test_a_class_that_nobody_predicts_labels_nothing() -> None:
    z, p = draw(20, 3), chances(20, 4)
    p[:, 2] = 1e-4
    assert 2 not in centroid_labels(z, p).tolist()


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_centroid_labels_at_every_size_and_precision(size: float, dtype: torch.dtype) -> None:
    truth = torch.arange(40) % 4
    z = torch.eye(4)[truth] + 0.1 * draw(40, 4).float()
    p = torch.softmax(4 * torch.eye(4)[truth] + draw(40, 4, seed=1).float(), 1)
    assert torch.equal(centroid_labels((size * z).to(dtype), p.to(dtype)), truth)


def test_centroid_labels_survive_dead_features_and_two_samples() -> None:
    zeros = torch.zeros(5, 3)
    assert centroid_labels(zeros, chances(5, 4).float()).shape == (5,)
    two = centroid_labels(torch.eye(2), torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    assert two.tolist() == [0, 1]


def test_order_does_not_matter_to_centroids() -> None:
    z, p = draw(15, 4), chances(15, 3, seed=1)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(centroid_labels(z[order], p[order]), centroid_labels(z, p)[order])


# Neighbours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_nearest_agrees_with_scikit_learn(size: float) -> None:
    bank = normalize(draw(30, 5), dim=1)
    own = torch.tensor([4, 0, 29, 13])
    search = NearestNeighbors(n_neighbors=4, metric="cosine").fit(bank.numpy())
    expected = search.kneighbors(bank[own].numpy(), return_distance=False)[:, 1:]
    assert nearest(size * bank[own], bank, own, 3).tolist() == expected.tolist()


def test_a_duplicate_is_a_neighbour_and_oneself_is_not() -> None:
    bank = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    for own in (0, 1):
        found = nearest(bank[own][None], bank, torch.tensor([own]), 1)
        assert found.tolist() == [[1 - own]]


def test_fewer_others_than_asked_for() -> None:
    bank = normalize(draw(3, 4), dim=1)
    found = nearest(bank, bank, torch.arange(3), 10)
    assert [sorted(row) for row in found.tolist()] == [[1, 2], [0, 2], [0, 1]]


def test_nearest_refuses_no_neighbours() -> None:
    bank = normalize(draw(3, 4), dim=1)
    with pytest.raises(DomadaptError, match="k must be at least 1; got 0"):
        nearest(bank, bank, torch.arange(3), 0)


def test_affinity_by_hand() -> None:
    # Sample 7 has the neighbours 1, 2 and 3; the first and the last have it in turn.
    second = torch.tensor([[[7, 4], [5, 6], [2, 7]]])
    affinity = reciprocal_affinity(torch.tensor([7]), second, 0.2)
    torch.testing.assert_close(affinity, torch.tensor([[1.0, 0.2, 1.0]]))


def test_neighbourhood_agrees_with_loops() -> None:
    p, near, affinity = chances(6, 3), chances(6, 4, 3, seed=1), draw(6, 4, seed=2).abs()
    expected = 0.0
    for i in range(6):
        for k in range(4):
            expected -= float(affinity[i, k]) * float(np.dot(near[i, k].numpy(), p[i].numpy())) / 6
    assert float(neighbourhood(p, near, affinity)) == pytest.approx(expected, rel=1e-12)


def test_neighbourhood_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    near = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.2, 0.8]]])
    affinity = torch.tensor([[1.0, 0.1], [1.0, 0.1]])
    # 1 * 1 + 0.1 * 0, and 1 * 0.5 + 0.1 * 0.5.
    assert float(neighbourhood(p, near, affinity)) == pytest.approx(-(1.0 + 0.55) / 2)


def test_neighbourhood_is_least_in_certain_agreement() -> None:
    certain = torch.eye(3)[torch.tensor([0, 1, 2, 1])]
    near = certain[:, None].expand(4, 5, 3)
    assert float(neighbourhood(certain, near, torch.ones(4, 5))) == -5.0
    other = certain.roll(1, 1)[:, None].expand(4, 5, 3)
    assert float(neighbourhood(certain, other, torch.ones(4, 5))) == 0.0


def test_gradient_of_neighbourhood_and_none_into_the_memory() -> None:
    p, near = chances(4, 3).requires_grad_(), chances(4, 2, 3, seed=1).requires_grad_()
    affinity = draw(4, 2, seed=2).abs()
    assert torch.autograd.gradcheck(lambda x: neighbourhood(x, near.detach(), affinity), (p,))
    neighbourhood(p, near, affinity).backward()  # type: ignore[no-untyped-call]
    assert near.grad is None


# Balance ------------------------------------------------------------------------------------------


def test_imbalance_by_hand() -> None:
    assert float(imbalance(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))) == pytest.approx(0.0, abs=1e-7)
    one = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    assert float(imbalance(one)) == pytest.approx(math.log(3))
    mean = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(imbalance(mean)) == pytest.approx(expected)


def test_imbalance_is_the_divergence_from_uniform() -> None:
    p = chances(9, 4)
    mean, uniform = p.mean(0), torch.full((4,), 0.25, dtype=torch.float64)
    expected = torch.nn.functional.kl_div(uniform.log(), mean, reduction="sum")
    torch.testing.assert_close(imbalance(p), expected)
    torch.testing.assert_close(imbalance(p.flip(0)), imbalance(p))


def test_gradient_of_imbalance() -> None:
    assert torch.autograd.gradcheck(imbalance, (chances(5, 3).requires_grad_(),))


def test_missing_class_has_a_finite_gradient() -> None:
    p = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(imbalance(p), p)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_near(autocast: bool) -> None:
    p, near, affinity = chances(8, 3), chances(8, 4, 3, seed=1), draw(8, 4, seed=2).abs()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        agree = neighbourhood(p.bfloat16(), near.bfloat16(), affinity)
        even = imbalance(p.bfloat16())
    assert agree.dtype == even.dtype == torch.float32
    assert float(agree) == pytest.approx(float(neighbourhood(p, near, affinity)), rel=0.02)
    assert float(even) == pytest.approx(float(imbalance(p)), abs=0.01)
