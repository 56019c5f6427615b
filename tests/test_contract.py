"""What every registered method must keep, without being told of it here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import N_CLASSES, N_FEATURES, small_network
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.methods import (
    BatchOutputs,
    Method,
    TargetView,
    build_method,
    method_class,
    method_names,
    settings_of,
)
from domadapt.network import Discriminator, Network
from domadapt.task import Batch

METHODS = method_names()
ADAPTING = [name for name in METHODS if name != "source_only"]
PAIRABLE = [n for n in METHODS if method_class(n).needs_source and method_class(n).needs_target]
ADVERSARIAL = [
    name
    for name in METHODS
    if any(isinstance(m, Discriminator) for m in build_method(name, small_network()).modules())
]
POOL = 30


def samples(n: int, domain: int, y: Tensor | None = None, gap: float = 2.0) -> Tensor:
    """Three Gaussian classes; the target's last feature lies `gap` higher."""
    generator = torch.Generator().manual_seed(17 + domain)
    x = torch.randn(n, N_FEATURES, generator=generator)
    classes = torch.arange(n) % N_CLASSES if y is None else y
    x[torch.arange(n), classes] += 3.0
    x[:, -1] += gap * domain
    return x


def make_batch(
    n_s: int = 12,
    n_t: int = POOL,
    progress: float = 0.5,
    y_s: Tensor | None = None,
    gap: float = 2.0,
) -> Batch:
    """The first `n_t` samples of the target pool, and source samples of the classes `y_s`."""
    y_s = torch.arange(n_s) % N_CLASSES if y_s is None else y_s
    x_s, x_t = samples(n_s, 0, y_s, gap), samples(POOL, 1, gap=gap)[:n_t]
    noise = torch.Generator().manual_seed(3)
    return Batch(
        x_s,
        y_s,
        x_t,
        progress,
        x_s_strong=x_s + 0.3 * torch.randn(x_s.shape, generator=noise),
        x_t_strong=x_t + 0.3 * torch.randn(x_t.shape, generator=noise),
        index_s=torch.arange(n_s),
        index_t=torch.arange(n_t),
        domain_s=torch.zeros(n_s, dtype=torch.long),
    )


def prepare(method: Method, progress: float = 0.5) -> Method:
    """As the Trainer does before a step: set up, and refreshed by the network's own word."""
    method.setup(60, POOL)
    if method.refreshes:
        network = copy.deepcopy(method.network).eval()
        with torch.no_grad():
            z = network.features(samples(POOL, 1))
            method.refresh(TargetView(network.head(z), z), progress)
    return method.train()


def ready(name: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Method:
    return prepare(build_method(name, small_network(seed), settings))


def added(method: Method, batch: Batch) -> Tensor:
    """The weighted sum of what the method adds to the source loss."""
    torch.manual_seed(1)
    out = method.outputs(batch)
    terms = method.terms(out, batch)
    return torch.stack([method.weight(k, batch.progress) * v for k, v in terms.items()]).sum()


def trained(method: Method, steps: int = 4) -> Network:
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for step in range(steps):
        batch = make_batch(12 + step, POOL - step, progress=0.3 + 0.1 * step)
        torch.manual_seed(step)
        method(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(batch.progress)
    return method.network


def same(one: nn.Module, two: nn.Module, buffers: bool = True) -> bool:
    a = dict(one.state_dict() if buffers else one.named_parameters())
    b = dict(two.state_dict() if buffers else two.named_parameters())
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def weights_of(name: str) -> list[str]:
    return [key for key in settings_of(method_class(name)) if key.endswith("_weight")]


# Configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_stored_and_explained(name: str) -> None:
    method = build_method(name, small_network())
    assert method.name == name
    for key, setting in settings_of(method_class(name)).items():
        assert getattr(method, key) == setting.default, f"{key} is not kept under its name"
        assert setting.help, f"{key} has no line under Args in the docstring"
    assert set(method.space) <= set(settings_of(method_class(name)))


@pytest.mark.parametrize("name", ADAPTING)
def test_docstring_names_the_paper(name: str) -> None:
    assert re.search(
        r"\b(19|20)\d\d, (arXiv:\d{4}\.\d{4,5}|doi:)", method_class(name).__doc__ or ""
    )


@pytest.mark.parametrize("name", METHODS)
def test_building_draws_no_global_random_numbers(name: str) -> None:
    network = small_network()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_method(name, network).setup(60, POOL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_stands_once(name: str) -> None:
    method = ready(name)
    every = [(n, id(p)) for n, p in method.named_parameters(remove_duplicate=False)]
    assert len(every) == len({i for _, i in every})
    own = {id(p) for p in method.network.parameters()}
    assert own == {i for n, i in every if n.startswith("network.")}


# The equation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_total_is_the_weighted_sum(name: str) -> None:
    method = ready(name)
    losses = method(make_batch(progress=0.4))
    assert losses.terms.keys() == losses.weights.keys()
    expected = sum(losses.weights[k] * float(v.detach()) for k, v in losses.terms.items())
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert losses.weights.get("source", 1.0) == 1.0


@pytest.mark.parametrize("name", ADAPTING)
def test_adaptation_reaches_the_backbone(name: str) -> None:
    method = ready(name)
    added(method, make_batch()).backward()
    gradients = [p.grad for p in method.network.backbone.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert all(g is not None and bool(g.abs().max() > 0) for g in gradients[-2:])


@pytest.mark.parametrize("name", ADAPTING)
def test_weight_zero_is_source_only_and_more_is_not(name: str) -> None:
    plain = trained(ready("source_only", {"joint_forward": True}))
    if method_class(name).no_neutral:
        assert not same(trained(ready(name)), plain, buffers=False)
        return
    zeros = dict.fromkeys(weights_of(name), 0.0)
    assert zeros, "a method without any weight must say so in no_neutral"
    # A pass over strong views moves BatchNorm's statistics, though no weight.
    buffers = not method_class(name).needs_strong
    assert same(trained(ready(name, zeros)), plain, buffers)
    for key in zeros:
        assert not same(trained(ready(name, zeros | {key: 1.0})), plain, buffers=False), key


SIZES = {"more target": (5, 30), "more source": (30, 5), "two of each": (2, 2)}


@pytest.mark.parametrize("policy", ["joint", "separate"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("name", METHODS)
def test_any_batch_sizes(name: str, sizes: tuple[int, int], policy: Any) -> None:
    method = ready(name)
    method.batch_statistics = policy
    check_finite(method, make_batch(*sizes))


@pytest.mark.parametrize("name", METHODS)
def test_a_class_may_be_missing_in_the_batch(name: str) -> None:
    check_finite(ready(name), make_batch(y_s=torch.tensor([0, 2] * 6)))


@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision(name: str) -> None:
    method = ready(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method(make_batch())
    assert torch.isfinite(losses.total)
    exact = ready(name)(make_batch())
    for key, value in exact.terms.items():
        assert float(losses.terms[key].detach()) == pytest.approx(
            float(value.detach()), rel=0.15, abs=0.05
        ), key


def check_finite(method: Method, batch: Batch) -> None:
    losses = method(batch)
    losses.total.backward()
    for term, value in losses.terms.items():
        assert value.ndim == 0, term
        assert torch.isfinite(value), term
    for key, parameter in method.named_parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), key
    head = next(method.network.head.parameters())
    assert head.grad is not None
    assert bool(head.grad.abs().max() > 0)


class Words(nn.Module):
    """The mean of the embeddings of a text's words, padding left out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        mask = x["attention_mask"][..., None]
        pooled = (self.table(x["input_ids"]) * mask).sum(1) / mask.sum(1)
        z: Tensor = self.norm(pooled)
        return z


@pytest.mark.parametrize("name", METHODS)
def test_texts_of_different_lengths(name: str) -> None:
    def texts(n: int, length: int) -> dict[str, Tensor]:
        ids = torch.randint(1, 50, (n, length))
        return {"input_ids": ids, "attention_mask": torch.ones(n, length, dtype=torch.long)}

    torch.manual_seed(0)
    network = Network(Words(), nn.Linear(8, N_CLASSES))
    method = build_method(name, network)
    method.setup(60, POOL)
    batch = replace(
        make_batch(6, 4), x_s=texts(6, 9), x_t=texts(4, 5), x_s_strong=texts(6, 7),
        x_t_strong=texts(4, 8),
    )  # fmt: skip
    check_finite(method.train(), batch)


@pytest.mark.parametrize("name", METHODS)
def test_order_of_the_source_does_not_matter(name: str) -> None:
    batch = make_batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))

    def shuffled(x: Any) -> Any:
        return None if x is None else x[order]

    mixed = replace(
        batch,
        **{
            key: shuffled(getattr(batch, key))
            for key in ("x_s", "y_s", "x_s_strong", "index_s", "domain_s")
        },
    )
    method = ready(name)
    with EvenDraws():
        plain, other = method(batch).terms, method(mixed).terms
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6)


class EvenDraws:
    """Within it `torch.rand_like` gives 1/2 throughout, so that no draw clings to a position."""

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.5))

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


# State --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_state_round_trip(name: str) -> None:
    one = ready(name)
    trained(one)
    two = build_method(name, small_network(seed=9))
    two.setup(60, POOL)
    two.load_state_dict(one.state_dict())
    values = []
    for method in (one, two.train()):
        torch.manual_seed(4)
        values.append(method(make_batch()).terms)
    assert values[0].keys() == values[1].keys()
    assert all(torch.equal(values[0][k], values[1][k]) for k in values[0])


@pytest.mark.parametrize("name", METHODS)
def test_the_kept_network_classifies(name: str) -> None:
    method = ready(name)
    trained(method)
    kept = method.adapted().eval()
    with torch.no_grad():
        assert kept(samples(7, 1)).shape == (7, N_CLASSES)


# Adversaries --------------------------------------------------------------------------------------


def discriminators(method: Method) -> list[Discriminator]:
    return [m for m in method.modules() if isinstance(m, Discriminator)]


def test_there_are_adversarial_methods() -> None:
    assert "dann" in ADVERSARIAL


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_both_sides_pull_opposite_ways(name: str) -> None:
    method, batch = ready(name), make_batch(progress=0.9)
    trained(method, steps=8)
    sides = {
        "discriminator": [p for d in discriminators(method) for p in d.parameters()],
        "encoder": list(method.network.backbone.parameters()),
    }
    before = added(method, batch)
    gradients = {
        side: torch.autograd.grad(before, parameters, retain_graph=True)
        for side, parameters in sides.items()
    }
    start = copy.deepcopy(method.state_dict())
    moved = {}
    for side, parameters in sides.items():
        with torch.no_grad():
            for p, g in zip(parameters, gradients[side], strict=True):
                p -= 1e-3 * g
        moved[side] = float(added(method, batch).detach() - before.detach())
        method.load_state_dict(start)
    assert moved["discriminator"] < 0 < moved["encoder"]


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_domains_get_opposite_labels(name: str, progress: float) -> None:
    """Descent raises every source logit and lowers every target logit."""
    method = ready(name)
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, d: Tensor) -> None:
        d.retain_grad()
        seen.append(d)

    for d in discriminators(method):
        d.register_forward_hook(keep)
    added(method, make_batch(7, 5, progress)).backward()
    assert seen
    pulls: dict[str, list[Tensor]] = {"s": [], "t": []}
    for d in seen:
        assert d.grad is not None
        assert len(d) in (5, 7, 12)
        if len(d) != 5:
            pulls["s"].append(d.grad[:7])
        if len(d) != 7:
            pulls["t"].append(d.grad[-5:])
    assert bool((torch.cat(pulls["s"]) < 0).all())
    assert bool((torch.cat(pulls["t"]) > 0).all())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_discriminators_learn_what_can_be_told_apart(name: str) -> None:
    method, batch = ready(name), make_batch(30, 30, progress=0.0, gap=6.0)
    own = {id(p) for p in method.network.parameters()}
    optimizer = torch.optim.Adam([p for p in method.parameters() if id(p) not in own], lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        added(method, batch).backward()
        optimizer.step()
    right: list[Tensor] = []
    for d in discriminators(method):
        d.register_forward_hook(lambda _, __, out: right.append(out.detach()))
    added(method, batch)
    logits = torch.cat([r.flatten() for r in right])
    # Source comes first, in one call for both domains or in one for each.
    truth = torch.tensor([True] * 30 + [False] * 30).repeat(len(logits) // 60)
    assert ((logits > 0) == truth).float().mean() > 0.9


# Combinations -------------------------------------------------------------------------------------


def combined(spec: str) -> tuple[Method, list[Method]]:
    """A combination, and its parts on their own over the same network."""
    network = small_network()
    whole = prepare(build_method(spec, network))
    return whole, [prepare(build_method(part, network)) for part in spec.split("+")]


@pytest.mark.parametrize("name", [n for n in PAIRABLE if n != "mcc"])
def test_combination_has_the_terms_of_both(name: str) -> None:
    whole, parts = combined(f"{name}+mcc")
    batch = make_batch(progress=0.4)
    torch.manual_seed(0)
    losses = whole(batch)
    torch.manual_seed(0)
    out = parts[0].outputs(batch)
    expected: dict[str, Tensor] = {"source": parts[0].source_loss(out, batch)}
    weights = {"source": 1.0}
    for part in parts:
        for term, value in part.terms(out, batch).items():
            expected[f"{part.name}.{term}"] = value
            weights[f"{part.name}.{term}"] = part.weight(term, batch.progress)
    assert losses.weights == weights
    assert losses.terms.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses.terms[key], value, rtol=0, atol=0)


def test_combination_of_two_source_losses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = method_class("mcc")
    own: Callable[..., Tensor] = lambda self, out, batch: out.logits_s.sum()  # noqa: E731
    monkeypatch.setattr(other, "source_loss", own)
    with pytest.raises(DomadaptError, match="each define the source loss"):
        build_method("adamatch+mcc", small_network())


@pytest.mark.parametrize("spec", ["mcc+mcc", "source_only+mcc"])
def test_combinations_that_cannot_be(spec: str) -> None:
    with pytest.raises(DomadaptError, match=r"twice|cannot be combined"):
        build_method(spec, small_network())


def test_settings_of_a_combination_reach_their_part() -> None:
    whole = build_method("dann+mcc", small_network(), {"mcc.temperature": "3", "dann.hidden": 8})
    assert whole.parts["mcc"].temperature == 3.0  # type: ignore[index, union-attr]
    assert discriminators(whole)[0].layers[0].out_features == 8
    with pytest.raises(DomadaptError, match=r"Did you mean 'mcc.temperature'"):
        build_method("dann+mcc", small_network(), {"mcc.temprature": 3})


# The base class -----------------------------------------------------------------------------------


class Plain(Method):
    """Nothing but one made-up term."""

    half_weight = 0.5
    ramps = {"half": lambda progress: progress}

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"half": out.z_t.sum(), "free": out.z_s.sum()}


def test_weights_are_argument_times_ramp() -> None:
    method = Plain(small_network())
    assert method.weight("half", 0.5) == 0.25
    assert method.weight("free", 0.5) == 1.0


def test_batch_statistics() -> None:
    method, batch = Plain(small_network()).train(), make_batch()
    assert batch.x_s is not None
    assert batch.x_t is not None
    joint = method.outputs(batch)
    both = method.network(torch.cat([batch.x_s, batch.x_t]))  # type: ignore[list-item]
    torch.testing.assert_close(torch.cat([joint.logits_s, joint.logits_t]), both)
    method.batch_statistics = "separate"
    apart = method.outputs(batch)
    torch.testing.assert_close(apart.logits_t, method.network(batch.x_t))
    assert not torch.allclose(apart.logits_t, joint.logits_t, atol=1e-2)


def test_no_label_of_the_target_in_a_batch() -> None:
    assert not any(field.endswith("y_t") for field in Batch.__dataclass_fields__)
