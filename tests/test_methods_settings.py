"""Methods for partial targets, several sources and shifted class proportions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import N_CLASSES, N_FEATURES, arrays, same_bits, small_network, small_task, small_trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from domadapt import ops
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.methods import Method, TargetView, build_method
from domadapt.methods.base import BatchOutputs, SourceView
from domadapt.methods.iwan import importance
from domadapt.methods.pada import class_shares
from domadapt.network import Discriminator
from domadapt.task import Batch, Task

UNSURE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 0.5], [3.0, 0.0, 0.0]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(n_s: int = 9, n_t: int = 7, domains: int = 1, progress: float = 0.5) -> Batch:
    return Batch(
        draw(n_s, N_FEATURES, seed=1),
        torch.arange(n_s) % N_CLASSES,
        draw(n_t, N_FEATURES, seed=2) + 1.0,
        progress,
        domain_s=(torch.arange(n_s) // 2) % domains,
    )


def part_of(classes: list[int], n: int, seed: int, shift: float, repeats: int = 1) -> Any:
    """`n` samples of the three Gaussian classes, of which only `classes` are kept."""
    x, y = arrays(n, shift=shift, seed=seed)
    keep = np.isin(y, classes)
    return np.tile(x[keep], (repeats, 1)), np.tile(y[keep], repeats)


def partial_task() -> Task:
    x_s, y_s = arrays(180, shift=0.0, seed=1)
    x_t, y_t = part_of([0, 1], 150, seed=2, shift=1.0)
    return Task(from_arrays(x_s, y_s, name="source"), from_arrays(x_t, y_t, name="target"))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Partial: PADA ------------------------------------------------------------------------------------


def test_class_shares_by_hand() -> None:
    logits = torch.tensor([[9.0, 1.0, 0.0], [2.0, 2.0, 0.0]]).log()  # log of 0 is never predicted
    # Rows 0.9, 0.1, 0 and 0.5, 0.5, 0: means 0.7, 0.3, 0.
    expected = torch.tensor([1.0, 3 / 7, 1e-6])
    torch.testing.assert_close(class_shares(logits), expected)


def test_pada_weights_both_losses_by_class() -> None:
    method, batch = build_method("pada", small_network()).train(), make_batch()
    assert batch.y_s is not None
    method.refresh(TargetView(UNSURE, draw(4, 2)), 0.5)
    p = np.exp(UNSURE.numpy().astype(float))
    share = (p / p.sum(1, keepdims=True)).mean(0)
    w = [share[y] / share.max() for y in batch.y_s.tolist()]
    out = method.outputs(batch)
    p_s = out.logits_s.detach().softmax(1).numpy()
    said = np.log(p_s[np.arange(9), batch.y_s.numpy()])
    source = -sum(a * b for a, b in zip(w, said, strict=True)) / sum(w)
    assert float(method.source_loss(out, batch).detach()) == pytest.approx(source, rel=1e-5)
    with torch.no_grad():
        d_s, d_t = method.discriminator(out.z_s).tolist(), method.discriminator(out.z_t).tolist()  # type: ignore[operator]
    wrong_s = sum(a * softplus(-d) for a, d in zip(w, d_s, strict=True)) / len(w)
    wrong_t = sum(softplus(d) for d in d_t) / len(d_t)
    terms = {k: float(v.detach()) for k, v in method.terms(out, batch).items()}
    assert terms["domain"] == pytest.approx((wrong_s + wrong_t) / 2, rel=1e-5)
    p_t = out.logits_t.detach().double().softmax(1).numpy()
    assert terms["entropy"] == pytest.approx(-(p_t * np.log(p_t)).sum(1).mean(), rel=1e-5)


def test_pada_counts_all_classes_alike_until_there_is_something_to_say() -> None:
    method, dann = build_method("pada", small_network()), build_method("dann", small_network())
    dann.batch_statistics = "joint"
    method.refresh(TargetView(UNSURE, draw(4, 2)), 0.0)
    one, two = method.train()(make_batch()).terms, dann.train()(make_batch()).terms
    for key, value in two.items():
        torch.testing.assert_close(one[key], value)


@pytest.mark.parametrize("name", ["pada", "iwan", "pada+mcc"])
def test_domains_of_different_classes_are_one_batch_for_batchnorm(name: str) -> None:
    """Whatever the setting says; another method keeps them apart."""
    batch = make_batch()
    whole = ops.join([batch.x_s, batch.x_t])  # type: ignore[list-item]
    logits = small_network().train()(whole)
    for method, together in ((name, True), ("dann", False)):
        trainer = small_trainer(method, batch_statistics="separate")
        trainer._setup()
        out = trainer.method.train().outputs(batch)
        assert torch.equal(torch.cat([out.logits_s, out.logits_t]), logits) == together


def test_pada_follows_the_weights_as_far_as_it_is_told() -> None:
    method, batch = build_method("pada", small_network(), {"class_weight": 0.25}), make_batch()
    assert batch.y_s is not None
    method.refresh(TargetView(UNSURE, draw(4, 2)), 0.5)
    out = method.outputs(batch)
    w = (0.75 + 0.25 * class_shares(UNSURE))[batch.y_s]
    loss = cross_entropy(out.logits_s, batch.y_s, reduction="none")
    torch.testing.assert_close(method.source_loss(out, batch), (w * loss).sum() / w.sum())


def test_pada_finds_the_absent_class() -> None:
    trainer = small_trainer("pada", partial_task(), steps=100, batch_size=32, lr=1e-2)
    trainer.fit()
    weights = trainer.method.classes
    assert float(weights.max()) == 1.0
    assert float(weights[:2].min()) > 0.5
    assert float(weights[2]) < 0.25


# Partial: IWAN ------------------------------------------------------------------------------------


def test_importance_by_hand() -> None:
    # Source with probability 3/4, 1/2 and 1/4: weights in proportion 1 to 2 to 3.
    d = torch.tensor([3.0, 1.0, 1 / 3]).log()
    torch.testing.assert_close(importance(d), torch.tensor([0.5, 1.0, 1.5]))


def test_importance_survives_a_discriminator_that_is_sure() -> None:
    w = importance(torch.tensor([200.0, 200.0 + math.log(3.0)]))
    torch.testing.assert_close(w, torch.tensor([1.5, 0.5]))


def test_iwan_terms_by_hand() -> None:
    method, batch = build_method("iwan", small_network()).train(), make_batch()
    out = method.outputs(batch)
    terms = {k: float(v.detach()) for k, v in method.terms(out, batch).items()}
    with torch.no_grad():
        d_s, d_t = method.discriminator(out.z_s).tolist(), method.discriminator(out.z_t).tolist()  # type: ignore[operator]
        j_s, j_t = method.judge(out.z_s).tolist(), method.judge(out.z_t).tolist()  # type: ignore[operator]
    w = [1 - 1 / (1 + math.exp(-j)) for j in j_s]
    wrong_s = sum(a * softplus(-d) for a, d in zip(w, d_s, strict=True)) / sum(w)
    wrong_t = sum(map(softplus, d_t)) / len(d_t)
    assert terms["domain"] == pytest.approx((wrong_s + wrong_t) / 2, rel=1e-5)
    judged = sum(softplus(-j) for j in j_s) / len(j_s) + sum(map(softplus, j_t)) / len(j_t)
    assert terms["judge"] == pytest.approx(judged / 2, rel=1e-5)
    p = out.logits_t.detach().double().softmax(1).numpy()
    assert terms["entropy"] == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-5)


def test_iwan_keeps_its_discriminators_apart() -> None:
    method, batch = build_method("iwan", small_network()).train(), make_batch()
    terms = method.terms(method.outputs(batch), batch)
    groups = {
        "network": list(method.network.backbone.parameters()),
        "discriminator": list(method.discriminator.parameters()),
        "judge": list(method.judge.parameters()),
    }
    reached = {
        term: {
            name
            for name, group in groups.items()
            if any(
                g is not None
                for g in torch.autograd.grad(value, group, retain_graph=True, allow_unused=True)
            )
        }
        for term, value in terms.items()
    }
    assert reached == {
        "domain": {"network", "discriminator"},
        "judge": {"judge"},
        "entropy": {"network"},
    }
    first = [next(method.get_submodule(n).parameters()) for n in ("discriminator", "judge")]
    assert not torch.equal(*first)


def test_iwan_weighs_down_the_absent_class() -> None:
    trainer = small_trainer("iwan", partial_task(), steps=150, batch_size=32, lr=1e-2)
    network = trainer.fit()
    x, y = arrays(120, shift=0.0, seed=7)
    with torch.no_grad():
        w = importance(trainer.method.judge(network.features(torch.from_numpy(x))))
    mean = [float(w[torch.from_numpy(y == c)].mean()) for c in range(N_CLASSES)]
    assert mean[2] < 0.5 * min(mean[:2])


# Several sources: MDAN ----------------------------------------------------------------------------


def mdan(domains: int, **settings: Any) -> Method:
    method = build_method("mdan", small_network(), settings)
    method.n_domains = domains
    method.setup(60, 30)
    return method.train()


def test_mdan_of_one_source_is_dann() -> None:
    one = small_trainer("mdan", steps=8).fit()
    two = small_trainer("dann", steps=8).fit()
    plain = small_trainer("source_only", settings={"joint_forward": True}, steps=8).fit()
    assert same_bits(one, two)
    assert not same_bits(one, plain)


def by_domain(method: Method, out: BatchOutputs, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Source and domain losses of each source domain, by loops."""
    assert batch.domain_s is not None
    assert batch.y_s is not None
    source, domain = [], []
    for k, discriminator in enumerate(method.discriminators):  # type: ignore[arg-type]
        rows = [i for i in range(len(batch.y_s)) if int(batch.domain_s[i]) == k]
        said = [-out.logits_s[i].log_softmax(0)[batch.y_s[i]] for i in rows]
        source.append(torch.stack(said).mean())
        wrong_s = [torch.log1p(torch.exp(-discriminator(out.z_s[i][None])[0])) for i in rows]
        wrong_t = [torch.log1p(torch.exp(discriminator(z[None])[0])) for z in out.z_t]
        domain.append((torch.stack(wrong_s).mean() + torch.stack(wrong_t).mean()) / 2)
    return source, domain


def test_mdan_descends_the_smooth_maximum() -> None:
    """Its gradients are those of log-sum-exp; the discriminators climb it."""
    mu, gamma = 0.7, 3.0
    method = mdan(3, domain_weight=mu, gamma=gamma)
    batch = make_batch(11, 7, domains=3, progress=1.0)  # the reversal is 0.9999 there
    own = list(method.network.parameters())
    critics = list(method.discriminators.parameters())
    method(batch).total.backward()
    got = [p.grad.clone() for p in own + critics if p.grad is not None]
    source, domain = by_domain(method, method.outputs(batch), batch)
    bounds = torch.stack(source) - mu * torch.stack(domain)
    objective = torch.logsumexp(gamma * bounds, 0) / gamma
    expected = torch.autograd.grad(objective, own + critics)
    assert len(got) == len(expected)
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(g, e if i < len(own) else -e, rtol=2e-3, atol=1e-6)


def test_mdan_weighs_all_alike_without_gamma() -> None:
    method, batch = mdan(3, gamma=0.0), make_batch(11, 7, domains=3)
    out = method.outputs(batch)
    source, domain = by_domain(method, out, batch)
    torch.testing.assert_close(method.source_loss(out, batch), torch.stack(source).mean())
    torch.testing.assert_close(method.terms(out, batch)["domain"], torch.stack(domain).mean())


def test_mdan_without_a_sample_of_a_domain() -> None:
    method, batch = mdan(4), make_batch(9, 7, domains=3)
    method(batch).total.backward()
    gradients = [p.grad for p in method.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    idle = method.discriminators[3].parameters()  # type: ignore[index]
    assert all(p.grad is not None and not p.grad.any() for p in idle)
    three = mdan(3)
    three.load_state_dict(method.state_dict(), strict=False)
    for key, value in method(batch).terms.items():
        torch.testing.assert_close(three(batch).terms[key], value)


def test_mdan_discriminators_differ_and_the_first_is_that_of_dann() -> None:
    made = [m for m in mdan(3).modules() if isinstance(m, Discriminator)]
    first = [m.layers[0].weight for m in made]
    assert len(made) == 3
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    dann: Any = build_method("dann", small_network())
    assert torch.equal(first[0], dann.discriminator.layers[0].weight)


def test_mdan_of_two_sources_in_training() -> None:
    sources = []
    for seed, shift in ((1, 0.0), (3, -1.0)):
        x, y = arrays(90, shift=shift, seed=seed)
        sources.append(from_arrays(x, y, name=f"source{seed}"))
    x_t, y_t = arrays(90, shift=1.0, seed=2)
    task = Task(sources, from_arrays(x_t, y_t, name="target"))
    trainer = small_trainer("mdan", task, steps=6)
    trainer.fit()
    assert len(trainer.method.discriminators) == 2  # type: ignore[arg-type]


# Shifted proportions: BBSE ------------------------------------------------------------------------


def sure(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Logits that are sure of the right class, and the classes, so many of each."""
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return 30.0 * torch.eye(len(counts))[y], y


def shifted_view() -> TargetView:
    """The classes' shares are 0.5, 0.3, 0.2 in the source and 0.2, 0.2, 0.6 in the target."""
    said, y = sure([5, 3, 2])
    return TargetView(sure([2, 2, 6])[0], draw(10, 2), SourceView(said, draw(10, 2), y))


@pytest.mark.parametrize("soft", [False, True])
def test_bbse_estimates_the_ratio_of_the_shares(soft: bool) -> None:
    method = build_method("bbse", small_network(), {"soft": soft})
    method.refresh(shifted_view(), 0.5)
    np.testing.assert_allclose(method.classes, [0.4, 2 / 3, 3.0], rtol=1e-5)


def test_bbse_corrects_for_the_errors_of_the_predictor() -> None:
    # Every fifth sample of class 0 is called 1, in both domains: counting alone would mislead.
    method = build_method("bbse", small_network())
    said, y = sure([10, 5, 5])
    said[:2] = 30.0 * torch.eye(3)[1]
    target, _ = sure([5, 5, 10])
    target[:1] = 30.0 * torch.eye(3)[1]
    method.refresh(TargetView(target, draw(20, 2), SourceView(said, draw(20, 2), y)), 0.5)
    np.testing.assert_allclose(method.classes, [0.5, 1.0, 2.0], rtol=1e-5)


def test_bbse_adds_up_to_the_weighted_source_loss() -> None:
    method, batch = build_method("bbse", small_network()).train(), make_batch()
    assert batch.y_s is not None
    method.refresh(shifted_view(), 0.5)
    losses = method(batch)
    w, loss = [0.4, 2 / 3, 3.0], 0.0
    for row, y in zip(method.outputs(batch).logits_s.detach(), batch.y_s.tolist(), strict=True):
        loss -= w[y] * float(row.log_softmax(0)[y]) / len(batch.y_s)
    assert float(losses.total.detach()) == pytest.approx(loss, rel=1e-5)


def test_bbse_waits_for_a_network_that_knows_something() -> None:
    method = build_method("bbse", small_network(), {"start": 0.3})
    method.refresh(shifted_view(), 0.2)
    assert bool((method.classes == 1).all())
    method.refresh(shifted_view(), 0.3)
    assert not bool((method.classes == 1).any())


def overlapping(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes about the corners of a triangle, near enough to be mixed up."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), counts)
    x = rng.normal(size=(len(y), N_FEATURES)).astype(np.float32)
    x[np.arange(len(y)), y] += 1.5
    return x, y


def test_bbse_in_training() -> None:
    # Even classes in the source; the target has eight of class 2 for one of each other.
    x_s, y_s = overlapping([200, 200, 200], 1)
    x_t, y_t = overlapping([60, 60, 480], 2)
    task = Task(from_arrays(x_s, y_s, name="source"), from_arrays(x_t, y_t, name="target"))
    right = {}
    for name in ("source_only", "bbse"):
        trainer = small_trainer(name, task, steps=150, batch_size=64, lr=1e-2)
        network = trainer.fit()
        with torch.no_grad():
            said = network(torch.from_numpy(x_t)).argmax(1).numpy()
        right[name] = float((said == y_t).mean())
    np.testing.assert_allclose(trainer.method.classes, [0.3, 0.3, 2.4], atol=0.35)
    assert right["bbse"] > right["source_only"] + 0.05


def test_bbse_says_what_it_lacks() -> None:
    method = build_method("bbse", small_network())
    with pytest.raises(DomadaptError, match="needs the network's word on source_val"):
        method.refresh(replace(shifted_view(), source_val=None), 0.5)


# Together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["pada+mcc", "iwan+mcc", "mdan+mcc", "bbse+dann"])
def test_they_combine(spec: str) -> None:
    small_trainer(spec, small_task(), steps=3).fit()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("pada", {"class_weight": 1.5}, "between 0 and 1"),
        ("mdan", {"gamma": -1.0}, "at least 0"),
        ("bbse", {"start": 1.0}, "below 1"),
    ],
)
def test_settings_that_make_no_sense(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        build_method(name, small_network(), settings)
