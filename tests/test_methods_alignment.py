"""What the alignment methods say of themselves: sizes of features, random numbers, couplings."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch
from small import small_network
from torch import Tensor

from domadapt.methods import BatchOutputs, build_method
from domadapt.task import Batch

N_S, N_T, WIDTH, CLASSES = 12, 9, 16, 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(size: float = 1.0) -> BatchOutputs:
    z_s, z_t = draw(N_S, WIDTH, seed=1), draw(N_T, WIDTH, seed=2) + 1.0
    logits_s, logits_t = draw(N_S, CLASSES, seed=3), draw(N_T, CLASSES, seed=4)
    return BatchOutputs((size * z_s).requires_grad_(), size * z_t, logits_s, logits_t)


def batch(progress: float = 0.5) -> Batch:
    return Batch(torch.zeros(N_S, 6), torch.arange(N_S) % CLASSES, torch.zeros(N_T, 6), progress)


def terms(name: str, out: BatchOutputs, progress: float = 0.5, **settings: Any) -> dict[str, float]:
    method = build_method(name, small_network(), settings)
    return {k: float(v.detach()) for k, v in method.terms(out, batch(progress)).items()}


@pytest.mark.parametrize("size", [0.01, 100.0])
@pytest.mark.parametrize("name", ["jan", "deep_jdot", "swd"])
def test_the_size_of_the_features_does_not_matter(name: str, size: float) -> None:
    expected = terms(name, outputs())
    for key, value in terms(name, outputs(size)).items():
        assert value == pytest.approx(expected[key], rel=1e-3), key
    method = build_method(name, small_network())
    pulls = []
    for factor in (1.0, size):
        out = outputs(factor)
        total = torch.stack(list(method.terms(out, batch()).values())).sum()
        pulls.append(torch.autograd.grad(total, out.z_s)[0])
    torch.testing.assert_close(pulls[1] * size, pulls[0], rtol=1e-2, atol=1e-5)


def test_swd_of_two_points_is_one_and_of_one_domain_nothing() -> None:
    z = torch.zeros(N_S, WIDTH)
    shift = torch.zeros(1, WIDTH)
    shift[0, :3] = 2.0
    apart = BatchOutputs(z, z + shift, z, z)
    assert terms("swd", apart, projections=5000)["swd"] == pytest.approx(1.0, rel=0.1)
    alike = outputs()
    assert terms("swd", BatchOutputs(alike.z_s, alike.z_s.flip(0)))["swd"] == pytest.approx(
        0.0, abs=1e-6
    )


def test_swd_lines_follow_from_the_progress_alone() -> None:
    out = outputs()
    before = torch.get_rng_state()
    first = terms("swd", out, 0.25, projections=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert terms("swd", out, 0.25, projections=3) == first
    others = {terms("swd", out, k / 8, projections=3)["swd"] for k in range(8)}
    assert len(others) == 8


def test_deep_jdot_is_the_transport_of_the_joint_cost() -> None:
    """The weighted sum of its terms is the least cost that POT finds over both parts at once."""
    out = outputs()
    z_s, z_t = out.z_s.detach().numpy(), out.z_t.numpy()
    far = ((z_s[:, None] - z_t[None]) ** 2).sum(-1)
    p = np.exp(out.logits_t.numpy())
    p /= p.sum(1, keepdims=True)
    classes = -np.log(p[:, np.arange(N_S) % CLASSES].T)
    cost = 0.7 * far / far.mean() + 0.4 * classes
    found = terms("deep_jdot", out, feature_weight=0.7, label_weight=0.4)
    assert 0.7 * found["feature"] + 0.4 * found["label"] == pytest.approx(
        ot.emd2([], [], cost.astype(np.float64)), rel=1e-4
    )


def test_afn_lengthens_and_bsp_shortens() -> None:
    for name, outwards in (("afn", True), ("bsp", False)):
        out = outputs()
        (value,) = build_method(name, small_network()).terms(out, batch()).values()
        (gradient,) = torch.autograd.grad(value, out.z_s)
        moved = out.z_s.detach() - 1e-2 * gradient
        assert (float(moved.norm()) > float(out.z_s.detach().norm())) is outwards
    assert terms("afn", outputs(), step=3.0)["norm"] == pytest.approx(18.0)


def test_bsp_adds_to_an_adversary() -> None:
    losses = build_method("dann+bsp", small_network()).train()(
        Batch(draw(N_S, 6, seed=1), torch.arange(N_S) % CLASSES, draw(N_T, 6, seed=2), 0.5)
    )
    assert set(losses.terms) == {"source", "dann.domain", "bsp.spectral"}
    assert losses.weights["bsp.spectral"] == 2e-4
