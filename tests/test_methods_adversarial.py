"""What the adversarial methods promise beyond the contract of all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small import N_CLASSES, N_FEATURES, same_bits, small_network, small_trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from domadapt.errors import DomadaptError
from domadapt.losses.disparity import classifier_discrepancy, margin_disparity
from domadapt.methods import BatchOutputs, Method, build_method
from domadapt.methods.adda import ADDA
from domadapt.methods.cdan import CDAN, RandomizedMap
from domadapt.methods.wdgrl import WDGRL
from domadapt.network import Network
from domadapt.ops import ramp
from domadapt.task import Batch

WIDTH = 16


def draw(n: int, d: int = WIDTH, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def outputs(n_s: int = 6, n_t: int = 4) -> BatchOutputs:
    """Features and logits as leaves, so that each one's own gradient shows."""
    drawn = (draw(n_s), draw(n_t, seed=1), draw(n_s, 3, seed=2), draw(n_t, 3, seed=3))
    return BatchOutputs(*(x.requires_grad_() for x in drawn))


def batch_at(progress: float, n_s: int = 6, n_t: int = 4) -> Batch:
    y = torch.arange(n_s) % N_CLASSES
    return Batch(draw(n_s, N_FEATURES), y, draw(n_t, N_FEATURES, seed=1), progress)


def nothing(progress: float) -> Batch:
    return Batch(None, torch.arange(6) % N_CLASSES, None, progress)


def moved(before: nn.Module, after: nn.Module) -> bool:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


# CDAN ---------------------------------------------------------------------------------------------


def wide_network(width: int = 2000) -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(N_FEATURES, width), nn.ReLU()), nn.Linear(width, 3))


def cdan(network: Network | None = None, **settings: Any) -> CDAN:
    method = build_method("cdan", network or small_network(), settings)
    assert isinstance(method, CDAN)
    return method


@pytest.mark.parametrize("weighted", [True, False])
def test_cdan_by_hand(weighted: bool) -> None:
    """Outer products by a loop, weights from the definition of entropy, gradient reversed."""
    method, out, progress = cdan(entropy_weighting=weighted), outputs(), 0.3
    (value,) = method.terms(out, nothing(progress)).values()
    found = torch.autograd.grad(value, (out.z_s, out.z_t))
    total = torch.zeros(())
    for z, logits, label in ((out.z_s, out.logits_s, 1.0), (out.z_t, out.logits_t, 0.0)):
        p = logits.detach().softmax(1)
        joint = torch.stack([torch.outer(b, a).flatten() for a, b in zip(z, p, strict=True)])
        each = binary_cross_entropy_with_logits(
            method.discriminator(joint), torch.full((len(z),), label), reduction="none"
        )
        weight = torch.ones(len(z))
        if weighted:
            weight = 1 + torch.exp(-torch.distributions.Categorical(p).entropy())
        total = total + 0.5 * (weight * each).sum() / weight.sum()
    torch.testing.assert_close(value, total)
    plain = torch.autograd.grad(total, (out.z_s, out.z_t))
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, -ramp(progress) * b)


def test_cdan_sends_no_gradient_through_predictions_or_weights() -> None:
    method, out = cdan(), outputs()
    (value,) = method.terms(out, nothing(0.5)).values()
    found = torch.autograd.grad(value, (out.logits_s, out.logits_t), allow_unused=True)
    assert found == (None, None)


def test_cdan_weights_change_the_term() -> None:
    out = outputs()
    values = [
        float(cdan(entropy_weighting=w).terms(out, nothing(0.5))["domain"].detach())
        for w in (True, False)
    ]
    assert abs(values[0] - values[1]) > 1e-5


def test_cdan_projects_only_what_is_too_wide() -> None:
    first = cdan().discriminator.layers[0]
    assert isinstance(first, nn.Linear)
    assert first.in_features == WIDTH * N_CLASSES
    assert cdan().projection is None
    # 1365 x 3 = 4095 fits, 1366 x 3 = 4098 does not.
    assert cdan(wide_network(1365)).projection is None
    wide = cdan(wide_network(1366), random_width=64)
    assert isinstance(wide.projection, RandomizedMap)
    assert wide.projection.r_z.shape == (1366, 64)
    assert wide.projection.r_p.shape == (3, 64)
    first = wide.discriminator.layers[0]
    assert isinstance(first, nn.Linear)
    assert first.in_features == 64


def test_cdans_random_matrices_are_fixed_and_saved() -> None:
    method = cdan(wide_network())
    assert isinstance(method.projection, RandomizedMap)
    before = method.projection.r_z.clone()
    batch = batch_at(0.5)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.1)
    first = method(batch)
    first.total.backward()
    optimizer.step()
    method(batch)
    assert torch.equal(method.projection.r_z, before)
    assert not any(p is method.projection.r_z for p in method.parameters())
    # Another seed draws others; the saved ones take their place.
    network = wide_network()
    torch.manual_seed(99)
    other = cdan(network)
    assert isinstance(other.projection, RandomizedMap)
    assert not torch.equal(other.projection.r_z, before)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.projection.r_z, before)
    values = [float(m(batch).terms["domain"].detach()) for m in (method, other)]
    assert values[0] == values[1]


def test_cdans_projection_draws_no_global_numbers_and_has_unit_variance() -> None:
    network = wide_network()
    state = torch.get_rng_state()
    method = cdan(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.projection is not None
    for matrix in (method.projection.r_z, method.projection.r_p):
        assert float(matrix.square().mean()) == pytest.approx(1.0, rel=0.05)
        assert abs(float(matrix.mean())) < 0.05


def test_cdan_refuses_an_empty_projection() -> None:
    with pytest.raises(DomadaptError, match="random_width must be at least 1; got 0"):
        cdan(random_width=0)


# MDD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_mdd_is_its_loss_and_reverses_up_to_a_tenth(progress: float) -> None:
    method, out = build_method("mdd", small_network()), outputs()
    other = method.get_submodule("other")
    (value,) = method.terms(out, nothing(progress)).values()
    plain = margin_disparity(out.logits_s, other(out.z_s), out.logits_t, other(out.z_t), 4.0)
    torch.testing.assert_close(value, plain)
    own = list(other.parameters())
    found = torch.autograd.grad(value, (out.z_s, out.z_t, *own), retain_graph=True)
    expected = torch.autograd.grad(plain, (out.z_s, out.z_t, *own))
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, -0.1 * ramp(progress) * b)
    # The auxiliary classifier itself learns at full rate.
    for a, b in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(a, b)


def test_mdd_leaves_the_head_to_the_source_loss() -> None:
    method, batch = build_method("mdd", small_network()).train(), batch_at(0.5)
    out = method.outputs(batch)
    (value,) = method.terms(out, batch).values()
    head = list(method.network.head.parameters())
    assert torch.autograd.grad(value, head, allow_unused=True) == (None, None)


def test_mdd_refuses_no_reversal() -> None:
    with pytest.raises(DomadaptError, match="reversal must be above 0"):
        build_method("mdd", small_network(), {"reversal": 0})


# MCD ----------------------------------------------------------------------------------------------


def test_mcd_heads_climb_and_features_descend() -> None:
    method, out = build_method("mcd", small_network()), outputs()
    second = method.get_submodule("second")
    terms = method.terms(out, nothing(0.1))
    heads = [*method.network.head.parameters(), *second.parameters()]
    plain = classifier_discrepancy(method.network.head(out.z_t), second(out.z_t))
    torch.testing.assert_close(terms["discrepancy"], plain)
    found = torch.autograd.grad(terms["discrepancy"], (out.z_t, *heads), retain_graph=True)
    expected = torch.autograd.grad(plain, (out.z_t, *heads))
    torch.testing.assert_close(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert bool(b.abs().max() > 0)
        torch.testing.assert_close(a, -b)


def test_mcd_teaches_the_second_head_the_source() -> None:
    method, out = build_method("mcd", small_network()), outputs()
    batch = nothing(0.1)
    assert batch.y_s is not None
    expected = cross_entropy(method.get_submodule("second")(out.z_s), batch.y_s)
    torch.testing.assert_close(method.terms(out, batch)["second"], expected)


def test_mcd_keeps_the_first_head() -> None:
    method = build_method("mcd", small_network())
    assert method.adapted() is method.network


def test_mcd_has_two_heads_that_begin_apart() -> None:
    method, out = build_method("mcd", small_network()), outputs()
    assert float(method.terms(out, nothing(0.0))["discrepancy"].detach()) > 0.01


# ADDA ---------------------------------------------------------------------------------------------


def adda(start: float = 0.5) -> ADDA:
    method = build_method("adda", small_network(), {"start": start}).train()
    assert isinstance(method, ADDA)
    return method


def steps(method: Method, progress: list[float], decay: float = 0.1) -> None:
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=decay)
    for i, at in enumerate(progress):
        method(batch_at(at, 6 + i, 9 - i)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(at)


def test_adda_first_learns_the_source_alone() -> None:
    method = adda()
    plain = build_method("source_only", small_network(), {"joint_forward": True}).train()
    for one in (method, plain):
        steps(one, [0.0, 0.2, 0.4])
    assert same_bits(method.network, plain.network)
    assert not bool(method.copied)


def test_addas_discriminator_begins_with_the_second_part() -> None:
    method = adda()
    fresh = copy.deepcopy(method.discriminator)
    steps(method, [0.0, 0.2, 0.4], decay=0.0)
    assert not moved(fresh, method.discriminator)
    steps(method, [0.5], decay=0.0)
    assert moved(fresh, method.discriminator)


def test_addas_source_encoder_and_head_stay_while_its_target_encoder_moves() -> None:
    method = adda()
    steps(method, [0.0, 0.3, 0.49])
    learnt = copy.deepcopy(method.network)
    steps(method, [0.5, 0.7, 0.9])
    assert bool(method.copied)
    assert same_bits(method.source, learnt)
    assert same_bits(method.network.head, learnt.head)
    assert moved(learnt.backbone, method.network.backbone)
    assert method.adapted() is method.network


def test_addas_sides_get_one_loss_each() -> None:
    """The discriminator its cross-entropy, the encoder the inverted label and nothing else."""
    method, batch = adda(), batch_at(0.6)
    out = method.outputs(batch)
    (value,) = method.terms(out, batch).values()
    assert not out.z_s.requires_grad
    d = method.discriminator
    own = list(d.parameters())
    encoder = list(method.network.backbone.parameters())
    found = torch.autograd.grad(value, (*own, *encoder), retain_graph=True)
    ones, zeros = torch.ones(6), torch.zeros(4)
    bce = binary_cross_entropy_with_logits
    taught = 0.5 * (bce(d(out.z_s), ones) + bce(d(out.z_t.detach()), zeros))
    torch.testing.assert_close(value, taught)
    expected = torch.autograd.grad(taught, own)
    fooled = bce(d(out.z_t), torch.ones(4))
    expected += torch.autograd.grad(fooled, encoder, retain_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    source = method.source_loss(out, batch)
    assert all(g is None for g in torch.autograd.grad(source, encoder, allow_unused=True))


def test_addas_encoders_have_statistics_of_their_own() -> None:
    method, batch = adda(), batch_at(0.6)
    method.outputs(batch)
    fixed = copy.deepcopy(method.source)
    out = method.outputs(batch)
    assert isinstance(batch.x_s, Tensor)
    assert isinstance(batch.x_t, Tensor)
    assert same_bits(method.source, fixed)
    torch.testing.assert_close(out.z_s, fixed.eval().features(batch.x_s))
    torch.testing.assert_close(out.z_t, method.network.features(batch.x_t))


@pytest.mark.parametrize("start", [0.25, 0.5])
def test_adda_resumes_in_either_part(start: float, tmp_path: Any) -> None:
    how: dict[str, Any] = {"checkpoint_every": 6, "dropout": 0.3, "lr": 0.01}
    settings = {"start": start}
    whole = small_trainer("adda", settings=settings, **how)
    whole.fit()
    path = tmp_path / "checkpoint.safetensors"

    class Killed(Exception):
        pass

    def kill(point: Any) -> None:
        if point.step == 9:
            raise Killed

    with pytest.raises(Killed):
        small_trainer("adda", settings=settings, path=path, **how).fit(kill)
    again = small_trainer("adda", settings=settings, path=path, **how)
    again.fit()
    assert same_bits(again.method, whole.method)


@pytest.mark.parametrize("start", [-0.1, 1.0])
def test_adda_refuses_a_start_outside_the_run(start: float) -> None:
    with pytest.raises(DomadaptError, match=r"start must lie in \[0, 1\)"):
        adda(start)


# WDGRL --------------------------------------------------------------------------------------------


def wdgrl(**settings: Any) -> WDGRL:
    method = build_method("wdgrl", small_network(), settings)
    assert isinstance(method, WDGRL)
    return method


def test_wdgrls_critic_finds_the_distance_of_shifted_samples() -> None:
    """W_1 of a sample and its translation is the length of the translation."""
    method = wdgrl(hidden=32)
    z = draw(64)
    shift = torch.zeros(WIDTH)
    shift[0], shift[3] = 3.0, -4.0
    out = BatchOutputs(z_s=z + shift, z_t=z.flip(0))
    optimizer = torch.optim.Adam(method.critic.parameters(), lr=3e-3)
    batch = nothing(0.5)
    gaps = [float(method.terms(out, batch)["wasserstein"].detach())]
    for _ in range(250):
        optimizer.zero_grad()
        method.critic_loss(out, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    gaps.append(float(method.terms(out, batch)["wasserstein"].detach()))
    assert abs(gaps[0]) < 2
    # The penalty is soft: 5 s - 10 (s - 1)^2 is largest at the slope 1.25, where the gap is 6.25.
    assert 4.5 < gaps[1] < 6.6


def test_wdgrls_critic_loss_by_hand() -> None:
    """A critic that is linear on these samples has the same slope at every point."""
    method = wdgrl(hidden=WIDTH)
    slope = torch.zeros(WIDTH)
    slope[1] = 3.0
    with torch.no_grad():
        for layer in method.critic.layers:
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()
                layer.weight.copy_(torch.eye(WIDTH) if len(layer.weight) > 1 else slope[None])
    out = BatchOutputs(z_s=draw(6).abs() + 1, z_t=draw(4, seed=1).abs() + 0.1)
    gap = 3 * float(out.z_s[:, 1].mean() - out.z_t[:, 1].mean())
    assert float(method.terms(out, nothing(0.5))["wasserstein"]) == pytest.approx(gap, rel=1e-5)
    # (|slope| - 1)^2 = 4 at every point.
    value = float(method.critic_loss(out, nothing(0.5)).detach())
    assert value == pytest.approx(10 * 4 - gap, rel=1e-5)


def test_wdgrls_critic_and_network_learn_apart() -> None:
    method, batch = wdgrl().train(), batch_at(0.5)
    out = method.outputs(batch)
    losses = method.losses(out, batch)
    losses.total.backward()
    assert all(p.grad is None for p in method.critic.parameters())
    assert all(p.grad is not None for p in method.network.backbone.parameters())
    method.zero_grad()
    with torch.no_grad():
        out = method.outputs(batch)
    method.critic_loss(out, batch).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in method.network.parameters())
    grads = [p.grad for p in method.critic.parameters()]
    # The value's own offset is in neither the gap nor the slope.
    assert all(g is not None and bool(g.abs().max() > 0) for g in grads[:-1])


def test_wdgrls_network_narrows_the_gap() -> None:
    method, out = wdgrl(), outputs()
    (value,) = method.terms(out, nothing(0.5)).values()
    g_s, g_t = torch.autograd.grad(value, (out.z_s, out.z_t))
    with torch.no_grad():
        nearer = BatchOutputs(z_s=out.z_s - 0.1 * g_s, z_t=out.z_t - 0.1 * g_t)
        after = method.terms(nearer, nothing(0.5))["wasserstein"]
    assert float(after) < float(value.detach())


def test_wdgrls_critic_steps_are_taken_and_repeat_exactly() -> None:
    runs = [small_trainer("wdgrl", settings={"critic_steps": n}) for n in (1, 4, 4)]
    for run in runs:
        run.fit()
    critics = [run.method.get_submodule("critic") for run in runs]
    assert moved(build_method("wdgrl", small_network()).get_submodule("critic"), critics[0])
    assert moved(critics[0], critics[1])
    assert not moved(critics[1], critics[2])
    curves = [run.history["loss/wasserstein"] for run in runs]
    assert curves[1] == curves[2]
    # More steps of the critic find a larger distance.
    assert curves[1][-1] > curves[0][-1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"critic_steps": 0}, "critic_steps must be at least 1; got 0"),
        ({"penalty": 0.0}, "penalty must be above 0; got 0"),
    ],
)
def test_wdgrl_refusals(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DomadaptError, match=says):
        wdgrl(**settings)
