"""What single methods promise beyond the contract of all."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small import N_CLASSES, N_FEATURES, make_batch, small_network
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.losses.coral import coral
from domadapt.losses.mmd import mmd
from domadapt.losses.prediction import mcc
from domadapt.methods import BatchOutputs, Method, build_method
from domadapt.network import Network
from domadapt.ops import ramp
from domadapt.task import Batch


def outputs(seed: int = 0) -> BatchOutputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, d: int) -> Tensor:
        return torch.randn(n, d, generator=generator)

    return BatchOutputs(draw(8, 5), draw(6, 5) + 1.0, draw(8, 3), draw(6, 3))


def terms(spec: str, out: BatchOutputs, settings: dict[str, object] | None = None) -> Tensor:
    method = build_method(spec, small_network(), settings)
    (value,) = method.terms(out, Batch(None, None, None, 0.5)).values()
    return value


def test_simple_methods_are_their_losses() -> None:
    out = outputs()
    torch.testing.assert_close(terms("dan", out), mmd(out.z_s, out.z_t))
    biased = {"estimator": "biased", "kernels": 3}
    expected = mmd(out.z_s, out.z_t, estimator="biased", kernels=3)
    torch.testing.assert_close(terms("dan", out, biased), expected)
    both = mmd(out.z_s, out.z_t) + mmd(out.logits_s, out.logits_t)
    torch.testing.assert_close(terms("dan", out, {"layers": "both"}), both)
    torch.testing.assert_close(terms("deep_coral", out), coral(out.z_s, out.z_t))
    torch.testing.assert_close(terms("mcc", out), mcc(out.logits_t, 2.5))
    torch.testing.assert_close(terms("mcc", out, {"temperature": 1}), mcc(out.logits_t, 1.0))


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_dann_reverses_by_the_ramp_and_teaches_its_discriminator_at_full_rate(
    progress: float,
) -> None:
    method = build_method("dann", small_network())
    discriminator = method.get_submodule("discriminator")
    z = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))

    def gradients(reversed_: bool) -> tuple[Tensor, Tensor]:
        x = z.clone().requires_grad_()
        discriminator.zero_grad()
        if reversed_:
            out = BatchOutputs(x[:6], x[6:])
            (value,) = method.terms(out, Batch(None, None, None, progress)).values()
        else:
            ones, zeros = torch.ones(6), torch.zeros(4)
            loss = nn.functional.binary_cross_entropy_with_logits
            value = (loss(discriminator(x[:6]), ones) + loss(discriminator(x[6:]), zeros)) / 2
        value.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        first = next(discriminator.parameters()).grad
        assert first is not None
        return x.grad, first.clone()

    (z_grad, d_grad), (z_plain, d_plain) = gradients(True), gradients(False)
    torch.testing.assert_close(d_grad, d_plain)
    torch.testing.assert_close(z_grad, -ramp(progress) * z_plain)


# AdaMatch -----------------------------------------------------------------------------------------


def adamatch(network: Network | None = None) -> Method:
    return build_method("adamatch", network or small_network()).train()


def views(n_s: int = 6, n_t: int = 4, progress: float = 0.5) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(n, N_FEATURES, generator=generator)

    y = torch.arange(n_s) % N_CLASSES
    return Batch(draw(n_s), y, draw(n_t), progress, draw(n_s), draw(n_t))


def parts(batch: Batch) -> list[Tensor]:
    found = [batch.x_s, batch.x_s_strong, batch.x_t, batch.x_t_strong]
    return [x for x in found if isinstance(x, Tensor)]


def test_adamatch_runs_all_views_in_one_pass() -> None:
    method, batch = adamatch(), views()
    out = method.outputs(batch)
    z = method.network.features(torch.cat(parts(batch)))
    for found, expected in zip(
        (out.z_s, out.z_s_strong, out.z_t, out.z_t_strong), z.split([6, 6, 4, 4]), strict=True
    ):
        torch.testing.assert_close(found, expected)
    logits_t = method.network.head(z)[12:]
    torch.testing.assert_close(torch.cat([out.logits_t, out.logits_t_strong]), logits_t)


def test_adamatch_draws_source_logits_between_both_passes() -> None:
    method, batch = adamatch(), views()
    x_s, x_s_strong, x_t, x_t_strong = parts(batch)
    with torch.no_grad():
        joint = method.network(torch.cat([x_s, x_s_strong, x_t, x_t_strong]))[:12]
        alone = method.network(torch.cat([x_s, x_s_strong]))
        out = method.outputs(batch)
    drawn = torch.cat([out.logits_s, out.logits_s_strong])
    share = (drawn - alone) / (joint - alone)
    assert bool(((share > -1e-3) & (share < 1 + 1e-3)).all())
    assert float(share.std()) > 0.1


def test_adamatch_moves_the_statistics_by_the_joint_pass_only() -> None:
    one, two, batch = small_network(), small_network(), views()
    adamatch(one).outputs(batch)
    two.train()(torch.cat(parts(batch)))
    for key, value in two.state_dict().items():
        torch.testing.assert_close(one.state_dict()[key], value)


def test_adamatch_needs_no_second_pass_without_batchnorm() -> None:
    calls = []
    backbone = nn.Linear(N_FEATURES, 4)
    backbone.register_forward_hook(lambda *_: calls.append(1))
    network = Network(backbone, nn.Linear(4, N_CLASSES))
    method, batch = adamatch(network), views()
    out = method.outputs(batch)
    assert len(calls) == 1
    assert isinstance(batch.x_s, Tensor)
    torch.testing.assert_close(out.logits_s, network(batch.x_s))


def test_adamatch_terms_by_hand() -> None:
    def logits(p: list[list[float]]) -> Tensor:
        return torch.tensor(p).log()

    # Both domains have classes at (0.65, 0.35), so that alignment changes nothing.
    out = BatchOutputs(
        logits_s=logits([[0.9, 0.1], [0.4, 0.6], [0.65, 0.35], [0.65, 0.35]]),
        logits_t=logits([[0.95, 0.05], [0.35, 0.65]]),
        logits_s_strong=logits([[0.5, 0.5]] * 4),
        logits_t_strong=logits([[0.2, 0.8], [0.2, 0.8]]),
    )
    method = adamatch()
    batch = Batch(None, torch.tensor([0, 1, 0, 0]), None, 0.5)
    (value,) = method.terms(out, batch).values()
    # Mean confidence (0.9 + 0.6 + 0.65 + 0.65) / 4 = 0.7; 0.63 is asked for: both are selected.
    expected = -(torch.tensor(0.2).log() + torch.tensor(0.8).log()) / 2
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    strict = build_method("adamatch", small_network(), {"threshold": 1.0})
    (value,) = strict.terms(out, batch).values()
    torch.testing.assert_close(value, -torch.tensor(0.2).log() / 2, rtol=1e-4, atol=0)
    weak = -torch.tensor([0.9, 0.6, 0.65, 0.65]).log().mean()
    source = method.source_loss(out, batch)
    torch.testing.assert_close(source, (weak + torch.tensor(2.0).log()) / 2)


def test_adamatch_aligns_classes_before_it_labels() -> None:
    # The target leans to class 0 throughout, the source to class 1: (0.6, 0.4) becomes
    # (0.6 * 0.3 / 0.6, 0.4 * 0.7 / 0.4) = (0.3, 0.7), so class 1 is the label.
    out = BatchOutputs(
        logits_s=torch.tensor([[0.3, 0.7]]).log(),
        logits_t=torch.tensor([[0.6, 0.4]]).log(),
        logits_t_strong=torch.tensor([[0.2, 0.8]]).log(),
    )
    (value,) = adamatch().terms(out, Batch(None, None, None, 0.5)).values()
    torch.testing.assert_close(value, -torch.tensor(0.8).log(), rtol=1e-4, atol=0)


def test_adamatch_sends_no_gradient_through_its_labels() -> None:
    method, batch = adamatch(), views()
    out = method.outputs(batch)
    (value,) = method.terms(out, batch).values()
    weak, strong = torch.autograd.grad(
        value, (out.logits_t, out.logits_t_strong), allow_unused=True
    )
    assert weak is None
    assert strong is not None
    assert bool(strong.abs().sum() > 0)


def test_adamatch_refuses_a_batch_without_strong_views() -> None:
    batch = views()
    with pytest.raises(DomadaptError, match="weak and strong views"):
        adamatch().outputs(Batch(batch.x_s, batch.y_s, batch.x_t, 0.5))


def test_batch_statistics_reach_the_part_of_a_combination() -> None:
    whole = build_method("adda+mcc", small_network()).train()
    batch = replace(make_batch(), progress=0.1)  # adda's own pass begins later
    assert isinstance(batch.x_s, Tensor)
    assert isinstance(batch.x_t, Tensor)
    whole.batch_statistics = "joint"
    both = whole.network(torch.cat([batch.x_s, batch.x_t]))
    torch.testing.assert_close(whole.outputs(batch).logits_s, both[: len(batch.x_s)])
    whole.batch_statistics = "separate"
    torch.testing.assert_close(whole.outputs(batch).logits_s, whole.network(batch.x_s))


def test_adamatch_passes_both_domains_as_one_batch_whatever_the_setting() -> None:
    one = adamatch(small_network())
    two = adamatch(copy.deepcopy(one.network))
    one.batch_statistics, two.batch_statistics = "joint", "separate"
    batch = views()
    torch.manual_seed(0)
    wanted = one.outputs(batch)
    torch.manual_seed(0)
    for key, value in vars(two.outputs(batch)).items():
        torch.testing.assert_close(getattr(wanted, key), value)


def test_a_lazy_module_of_a_methods_own_is_refused() -> None:
    class Lazy(Method):
        def __init__(self, network: Network) -> None:
            super().__init__(network)
            self.rival = self.auxiliary(lambda: nn.LazyLinear(1))

    with pytest.raises(DomadaptError, match=r"one of Lazy is lazy; network.n_features is"):
        Lazy(Network(nn.Identity(), nn.Linear(4, 3)))
