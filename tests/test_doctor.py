"""The doctor: it changes nothing, measures rightly, names every planted fault and no other."""

from __future__ import annotations

import copy
import io
import json
import math
import random
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from small import make_batch, prepare, same_bits, small_network, small_task, small_trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy

from domadapt.adaptation import adapt
from domadapt.curves import Log
from domadapt.doctor import Doctor, Evidence, Finding, Point, findings
from domadapt.doctor.evidence import Telling, Term
from domadapt.doctor.measure import measure, untouched
from domadapt.losses.adversarial import domain_loss
from domadapt.methods import Method, build_method, method_names
from domadapt.network import Discriminator
from domadapt.ops import ramp, reverse_gradient
from domadapt.optimizers import parameter_groups
from domadapt.progress import make_progress
from domadapt.report.page import render
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.selftest.subject import Subject
from domadapt.trainer import Trainer
from domadapt.training import Training

CPU = torch.device("cpu")
METHODS = [*method_names(), "dann+mcc"]


def without_doctor(trainer: Trainer) -> Trainer:
    trainer.doctor.due = lambda step: False  # type: ignore[method-assign]
    return trainer


def curves(trainer: Trainer) -> str:
    """The learning curves without times and without what the doctor measured."""
    own = {k: v for k, v in trainer.history.items() if not k.startswith("doctor/")}
    return repr({k: v for k, v in own.items() if k != "seconds"})


# It changes nothing, and is silent where all is well ----------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_not_one_bit_is_changed_and_nothing_is_found(name: str) -> None:
    """Dropout, BatchNorm, critics, teachers, memory banks: all methods, at their defaults."""
    looked, plain = (Subject(name).trainer(steps=50) for _ in range(2))
    kept = looked.fit()
    left = torch.get_rng_state()
    assert len(looked.doctor.points) in (1, 4, 8)
    assert same_bits(kept, without_doctor(plain).fit())
    assert torch.equal(left, torch.get_rng_state())
    assert same_bits(looked.method, plain.method)
    assert curves(looked) == curves(plain)
    assert not plain.doctor.points
    assert looked.doctor.sentences == ()


@pytest.mark.parametrize(
    "training",
    [
        {"batch_statistics": "joint"},
        {"sam": 0.05, "ema": 0.9},
        {"accumulate": 2, "clip": 0.1},
        {"precision": "bf16"},
        {"balance": True, "optimizer": "sgd"},
    ],
)
def test_nor_under_other_settings(training: dict[str, Any]) -> None:
    looked, plain = (small_trainer("dann", dropout=0.3, steps=30, **training) for _ in range(2))
    assert same_bits(looked.fit(), without_doctor(plain).fit())
    assert same_bits(looked.method, plain.method)
    assert curves(looked) == curves(plain)
    assert looked.doctor.sentences == ()
    assert any(math.isfinite(v) for v in looked.history["doctor/adaptation_share"])


class Restless(Method):
    """Draws from every generator and changes everything that a pass could change."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.calls = 0
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("bank", torch.zeros(3))

    def terms(self, out: Any, batch: Any) -> dict[str, Tensor]:
        self.calls += 1
        self.new = torch.rand(2) + random.random() + float(np.random.normal())  # noqa: NPY002
        self.get_buffer("bank").add_(1)
        self.register_buffer("late", torch.ones(1))
        self.teacher.head.bias.data.add_(1)
        self.eval()
        (out.z_t.mean() * 1.0).backward(retain_graph=True)
        return {"restless": out.z_t.square().mean()}


def test_whatever_a_pass_does_is_undone() -> None:
    method = Restless(small_network(dropout=0.5)).train()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    numpy = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr] # noqa: NPY002
    states = torch.get_rng_state(), random.getstate()
    bank = method.bank
    with untouched(method, CPU):
        method(make_batch())
        assert method.calls == 1
        assert not method.training
        assert method.network.head.weight.grad is None
        assert method.network.backbone[0].weight.grad is not None
    assert method.calls == 0
    assert not hasattr(method, "new")
    assert not hasattr(method, "late")
    assert method.bank is bank
    assert all(m.training for m in method.modules())
    assert all(p.grad is None for p in method.parameters())
    after = method.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert numpy == np.random.get_state()[1].tolist()  # type: ignore[index,union-attr] # noqa: NPY002


def test_examinations_are_evenly_spaced_and_few() -> None:
    def steps(of: int) -> list[int]:
        doctor = Doctor(build_method("source_only", small_network()), of)
        return [s for s in range(of) if doctor.due(s)]

    assert steps(1000) == list(range(0, 1000, 125))
    assert steps(12) == [0, 4, 8]
    assert steps(1) == [0]
    assert len(steps(333)) == 8


def test_many_terms_are_examined_half_as_often() -> None:
    one, many = (small_trainer(name, steps=80, log_every=4) for name in ("dann", "dann+mcc+afn"))
    for trainer in (one, many):
        trainer.fit()
    assert [p.step for p in one.doctor.points] == list(range(0, 80, 10))
    assert [p.step for p in many.doctor.points] == list(range(0, 80, 20))
    assert many.doctor.sentences == ()


# It measures rightly ------------------------------------------------------------------------------


def test_shares_are_those_of_separate_backward_passes() -> None:
    method = prepare(build_method("dann+mcc", small_network()))
    batch = make_batch(progress=0.5)
    point = measure(method, batch, 0, device=CPU)
    encoder = list(method.network.backbone.parameters())
    norms = {}
    for name in ("source", "dann.domain", "mcc.mcc", "both"):
        losses = method(batch)
        values = losses.terms if name != "both" else {"both": losses.total - losses.terms["source"]}
        found = torch.autograd.grad(values[name], encoder, allow_unused=True)
        norms[name] = float(torch.cat([g.flatten() for g in found if g is not None]).norm())
    assert point.source == pytest.approx(norms["source"], rel=1e-4)
    assert point.adaptation == pytest.approx(norms["both"], rel=1e-3)
    assert point.terms["mcc.mcc"].encoder == pytest.approx(norms["mcc.mcc"], rel=1e-4)
    expected = norms["both"] / (norms["both"] + norms["source"])
    assert point.columns()["doctor/adaptation_share"] == pytest.approx(expected, rel=1e-3)
    one = norms["dann.domain"] / (norms["dann.domain"] + norms["source"])
    assert point.columns()["doctor/share/dann.domain"] == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("name", ["dann", "cdan", "mdan"])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.7])
def test_the_reversal_is_found_to_be_the_ramp(name: str, progress: float) -> None:
    method = prepare(build_method(name, small_network(), {"domain_weight": 0.3}))
    term = measure(method, make_batch(progress=progress), 0, device=CPU).terms["domain"]
    assert term.reversal == pytest.approx(ramp(progress), rel=0.02, abs=1e-9)
    assert (term.rival is None) == (progress == 0)
    assert progress == 0 or (term.rival is not None and term.rival > 0)


def test_accuracy_classes_and_gap_by_hand() -> None:
    method = prepare(build_method("dann", small_network()))
    method.batch_statistics = "joint"
    batch = make_batch(7, 13)
    point = measure(method, batch, 0, device=CPU)
    with torch.no_grad():
        x = method.network.backbone[0](torch.cat([batch.x_s, batch.x_t]))  # type: ignore[list-item]
        z = method.network.features(torch.cat([batch.x_s, batch.x_t]))  # type: ignore[list-item]
        d = method.discriminator(z).numpy()  # type: ignore[operator]
        p = method.network.head(z).softmax(1).numpy()
    right = ((d[:7] > 0).mean() + (d[7:] <= 0).mean()) / 2
    assert point.tellings["discriminator"].accuracy == pytest.approx(right)
    pulls = point.tellings["discriminator"]
    assert (pulls.pull_s, pulls.pull_t) == (1.0, -1.0)
    assert point.classes_t == pytest.approx(np.exp(scipy_entropy(p[7:].mean(0))), rel=1e-5)
    assert point.classes_s == pytest.approx(np.exp(scipy_entropy(p[:7].mean(0))), rel=1e-5)
    # Running variance is 1 in a new network.
    apart = x[:7].mean(0).numpy() - x[7:].mean(0).numpy()
    assert point.worst_gap == ("backbone.1", pytest.approx(np.sqrt((apart**2).mean()), rel=1e-4))


def test_several_source_domains_and_separate_statistics() -> None:
    method = build_method("mdan", small_network())
    method.batch_statistics = "separate"
    prepare(method, n_domains=2)
    batch = replace(make_batch(12, 20), domain_s=torch.tensor([0, 1, 1] * 4))
    joint = build_method("mdan", small_network())
    joint.batch_statistics = "joint"
    prepare(joint, n_domains=2)
    one, two = (measure(m, batch, 0, device=CPU) for m in (method, joint))
    assert set(one.tellings) == {"discriminators.0", "discriminators.1"}
    assert one.gaps == pytest.approx(two.gaps, rel=1e-4)


def test_points_survive_json() -> None:
    method = prepare(build_method("adamatch+dann", small_network()))
    point = measure(method, make_batch(), 3, device=CPU)
    assert point.terms["adamatch.pseudo"].ramp == (0.0, 1.0)
    assert Point.from_dict(json.loads(json.dumps(asdict(point)))) == point


# It names the faults ------------------------------------------------------------------------------


class Faulty(Method):
    """A method with a discriminator and one term, written as a function."""

    name = "faulty"

    def __init__(self, network: Any, term: Any, **more: Any) -> None:
        super().__init__(network)
        self.term = term
        self.discriminator = self.auxiliary(lambda: Discriminator(network.n_features, 32))
        self.held: list[nn.Module] = []
        for key, value in more.items():
            setattr(self, key, value)

    def terms(self, out: Any, batch: Any) -> dict[str, Tensor]:
        return {"adapt": self.term(self, out, batch)}


def softmax_over_one(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 1."""
    c = ramp(batch.progress)
    p = [
        method.discriminator(reverse_gradient(z, c))[:, None].softmax(1) for z in (out.z_s, out.z_t)
    ]
    ones, zeros = torch.ones_like(p[0]), torch.zeros_like(p[1])
    return binary_cross_entropy(p[0], ones) + binary_cross_entropy(p[1], zeros)


def under_no_grad(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 2."""
    with torch.no_grad():
        return (out.z_s.mean(0) - out.z_t.mean(0)).square().sum()


def detached(method: Any, out: Any, batch: Any) -> Tensor:
    return domain_loss(*(method.discriminator(z.detach()) for z in (out.z_s, out.z_t)))


def at_once(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 3."""
    return domain_loss(
        *(method.discriminator(reverse_gradient(z, 0.99)) for z in (out.z_s, out.z_t))
    )


def undivided_coral(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 4."""
    s, t = ((z - z.mean(0)).T @ (z - z.mean(0)) for z in (out.z_s, out.z_t))
    return (s - t).square().sum()


def alike(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 5."""
    c = ramp(batch.progress)
    d = [method.discriminator(reverse_gradient(z, c)) for z in (out.z_s, out.z_t)]
    return cross_entropy_to(d[0], 1.0) + cross_entropy_to(d[1], 1.0)


def cross_entropy_to(d: Tensor, label: float) -> Tensor:
    return binary_cross_entropy(d.sigmoid().clamp(1e-6, 1 - 1e-6), torch.full_like(d, label))


def narrow_kernel(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 16."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b).square().sum(2) / 1e-8).exp().mean()

    z_s, z_t = out.z_s, out.z_t
    return kernel(z_s, z_s) + kernel(z_t, z_t) - 2 * kernel(z_s, z_t)


def forward_gradient(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 17: no reversal."""
    return domain_loss(*(method.discriminator(z) for z in (out.z_s, out.z_t)))


def negative_coefficient(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 17: a coefficient below 0 cancels the reversal."""
    c = -ramp(batch.progress)
    return domain_loss(*(method.discriminator(reverse_gradient(z, c)) for z in (out.z_s, out.z_t)))


def unregistered(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 17: a module that no optimiser knows of."""
    if not method.held:
        method.held.append(nn.Linear(16, 1))
    return method.held[0](out.z_t).square().mean()


def numpy_noise(method: Any, out: Any, batch: Any) -> Tensor:
    """PITFALLS 18."""
    return (out.z_t.mean() + 0.01 * np.random.normal()).square()  # noqa: NPY002


def all_of_one_class(method: Any, out: Any, batch: Any) -> Tensor:
    return cross_entropy(out.logits_t, torch.zeros(len(out.logits_t), dtype=torch.long))


def mean_distance(method: Any, out: Any, batch: Any) -> Tensor:
    return (out.z_s.mean(0) - out.z_t.mean(0)).square().sum()


FAULTS = {
    "constant": (softmax_over_one, {}),
    "inert": (under_no_grad, {}),
    "inert, but for its own modules": (detached, {}),
    "full_weight_at_once": (at_once, {}),
    "full_weight_at_once, by the ramp": (mean_distance, {"ramps": {"adapt": lambda p: 0.99}}),
    "dominating": (undivided_coral, {}),
    "labelled_alike": (alike, {}),
    "vanished_kernel": (narrow_kernel, {}),
    "not_reversed": (forward_gradient, {}),
    "not_reversed, by its sign": (negative_coefficient, {}),
    "forgotten_parameter": (unregistered, {}),
    "global_random_numbers": (numpy_noise, {}),
    # With statistics of its own the target looks like the source, which then collapses with it.
    "collapse": (
        all_of_one_class,
        {"adapt_weight": 5.0, "training": {"batch_statistics": "joint"}},
    ),
    "unbounded": (
        mean_distance,
        {"adapt_weight": 1e-6, "ramps": {"adapt": lambda p: math.exp(12 * p)}},
    ),
}


def findings_of(
    term: Any, training: dict[str, Any] | None = None, **more: Any
) -> dict[str, Finding]:
    method = Faulty(small_network(), term, **more)
    given = {"steps": 100, "batch_size": 40, "lr": 1e-2, **(training or {})}
    trainer = small_trainer(method, **given)
    trainer.fit()
    return trainer.doctor.findings


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_named(fault: str) -> None:
    term, more = FAULTS[fault]
    found = findings_of(term, **more)
    name = fault.split(",")[0]
    assert name in found
    assert len(found[name].sentence) > 40
    # A gradient that is not reversed is also at full size from the start.
    beside = {"full_weight_at_once"} if name == "not_reversed" else set()
    assert found.keys() <= {name} | beside


def test_the_same_without_a_fault_is_silent() -> None:
    def sound(method: Any, out: Any, batch: Any) -> Tensor:
        c = ramp(batch.progress)
        return domain_loss(
            *(method.discriminator(reverse_gradient(z, c)) for z in (out.z_s, out.z_t))
        )

    assert findings_of(sound) == {}
    assert findings_of(mean_distance) == {}


def test_a_dominating_term_is_told_to_divide_by_the_batch() -> None:
    # A sum over n samples, squared: 4 for a difference of the domains, 2 for noise, which is nearly
    # all that BatchNorm leaves where each domain is normalised by itself.
    for statistics, least in (("joint", 2), ("separate", 1.5)):
        how = {"batch_statistics": statistics}
        found = findings_of(undivided_coral, how)["dominating"]
        assert least < found.numbers["growth"] < 4.5
        assert "divide it by the batch size" in found.sentence
    plain = findings_of(lambda m, out, b: 1e4 * mean_distance(m, out, b))["dominating"]
    assert "divide it by the batch size" not in plain.sentence


@pytest.mark.parametrize(
    ("rate", "statistics"), [(3.0, "joint"), (10.0, "joint"), (3.0, "separate"), (20.0, "separate")]
)
def test_a_rate_that_is_too_high(rate: float, statistics: str) -> None:
    how = {"optimizer": "sgd", "lr": rate, "schedule": "constant", "log_every": 5}
    how["batch_statistics"] = statistics
    assert list(findings_of(mean_distance, how)) == ["rate_too_high"]


def test_an_optimizer_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgets(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            self.state.clear()
            return super().step(closure)

    def make(method: Method, training: Training, tuning: Any = None) -> torch.optim.Optimizer:
        return Forgets(parameter_groups(method, training), lr=training.lr)

    assert findings_of(mean_distance) == {}
    monkeypatch.setattr("domadapt.trainer.make_optimizer", make)
    assert list(findings_of(mean_distance)) == ["forgetful_optimizer"]


@pytest.mark.parametrize("statistics", ["joint", "separate"])
def test_domains_far_apart_at_batchnorm(statistics: str) -> None:
    task = small_task()
    task.target_train.domain.samples.x[:] += 60.0  # type: ignore[attr-defined]
    how = {"steps": 60, "batch_statistics": statistics}
    trainer = small_trainer("source_only", task, settings={"joint_forward": True}, **how)
    trainer.fit()
    assert list(trainer.doctor.findings) == ["batchnorm_apart"]
    gap = trainer.doctor.findings["batchnorm_apart"].numbers["gap"]
    # Of two equal halves that are one batch, the means lie at most two deviations apart.
    assert (1.7 < gap < 2.2) if statistics == "joint" else gap > 5
    assert "'backbone.1'" in trainer.doctor.sentences[0]


# Thresholds, on evidence made by hand -------------------------------------------------------------


def run_of(*points: Point, **more: Any) -> Evidence:
    return Evidence(points, **more)


def at(progress: float, **more: Any) -> Point:
    return Point(int(1000 * progress), progress, n_classes=10, **more)


def test_collapse_is_measured_against_the_source() -> None:
    def two(classes_t: float, classes_s: float | None) -> Finding | None:
        points = [at(p, classes_t=classes_t, classes_s=classes_s) for p in (0.3, 0.4)]
        return findings.collapse(run_of(*points))

    assert two(2.0, 9.5) is not None
    assert two(2.0, None) is not None
    assert two(4.0, 9.5) is None
    # A source of two classes in effect: the target is like it.
    assert two(1.9, 2.0) is None
    assert findings.collapse(run_of(at(0.3, classes_t=1.0, classes_s=9.0))) is None


def test_the_losses_yardstick_is_that_of_guessing() -> None:
    def curve(*values: float) -> Finding | None:
        return findings.rate_too_high(run_of(at(0.5), history={"loss/source": values}))

    assert curve(2.3, 1.0, 0.5, 0.3, 0.2, 0.1, 0.1) is None
    # A network that knows the task may forget some of it.
    assert curve(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2) is None
    risen = curve(2.3, 2.5, 3.0, 3.2, 3.1, 3.4)
    assert risen is not None
    assert "guessing (2.3)" in risen.sentence
    bounce = curve(2.3, 1.0, 5.0, 1.0, 6.0, 1.5, 4.0, 1.0)
    assert bounce is not None
    assert "bounces" in bounce.sentence
    stuck = curve(2.31, 2.3, 2.32, 2.29, 2.28, 2.27)
    assert stuck is not None
    assert "nothing is learnt. Change the learning rate" in stuck.sentence
    drowned = at(0.5, source=1.0, adaptation=50.0)
    stuck = findings.rate_too_high(run_of(drowned, history={"loss/source": [2.3] * 6}))
    assert stuck is not None
    assert "98% of the encoder's gradient: lower its weight" in stuck.sentence
    assert curve(2.4, 2.3, 2.2, 2.1, 2.1, 2.08) is None
    explodes = curve(2.3, 2.0, 10.0, 100.0, 1e3, 1e4)
    assert explodes is not None
    assert "NaN is near" in explodes.sentence
    assert curve(2.3, math.nan, 2.0) is None


def test_batchnorm_apart_needs_two_late_examinations() -> None:
    def gaps(*values: float) -> Finding | None:
        return findings.batchnorm_apart(
            run_of(*(at(0.5 + 0.1 * i, gaps={"a": 0.1, "b": v}) for i, v in enumerate(values)))
        )

    found = gaps(4.0, 5.0)
    assert found is not None
    assert "'b'" in found.sentence
    assert "5.0 standard" in found.sentence
    assert gaps(4.0) is None
    assert gaps(4.0, 1.2) is None


def test_a_term_that_waits_is_named_only_where_it_waits_for_confidence() -> None:
    waits = [
        at(0.1 * i, source=1.0, terms={"pseudo": Term(0.0, 1.0, attached=True)}) for i in range(7)
    ]
    found = findings.inert(run_of(*waits, confident=True))
    assert found is not None
    assert "lower the threshold" in found.sentence
    assert findings.inert(run_of(*waits[:5], confident=True)) is None
    # Between the examinations it was not 0.
    between = {"loss/pseudo": [0.0, 0.0, 0.1]}
    assert findings.inert(run_of(*waits, confident=True, history=between)) is None
    assert findings.inert(run_of(*waits)) is None


def test_usual_ramps_are_not_unbounded() -> None:
    def rising(weight: Any) -> Finding | None:
        terms = [Term(1.0, weight(0.1 * i), attached=True, encoder=1.0) for i in range(10)]
        points = [at(0.1 * i, source=1.0, terms={"a": t}) for i, t in enumerate(terms)]
        return next(
            (f for n in range(1, 11) if (f := findings.unbounded(run_of(*points[:n])))), None
        )

    for usual in (ramp, lambda p: p, lambda p: p**2, lambda p: p**3, lambda p: 1.0):
        assert rising(usual) is None
    assert rising(lambda p: math.exp(12 * p)) is not None
    assert rising(lambda p: 10 ** (10 * p)) is not None


def test_a_discriminator_at_chance_is_shown_with_the_distance() -> None:
    assert "outrun rather than the features aligned" in findings.alignment(0.52, 1.8)
    assert "come near" in findings.alignment(0.52, 0.3)
    assert "still be told apart" in findings.alignment(0.97, 1.9)
    assert Telling(0.5).pull_s is None


# It is heard --------------------------------------------------------------------------------------


def test_curves_hold_nan_between_examinations() -> None:
    trainer = small_trainer("dann", steps=30, log_every=1)
    trainer.fit()
    share = np.array(trainer.history["doctor/adaptation_share"])
    assert len(share) == 30
    assert np.flatnonzero(np.isfinite(share)).tolist() == [0, 5, 10, 15, 20, 25]
    assert trainer.history["doctor/reversal/domain"][0] == 0.0


def test_a_warning_is_told_once_and_at_once() -> None:
    told: list[Log] = []
    method = Faulty(small_network(), at_once)
    trainer = small_trainer(method, steps=60, log_every=2)
    trainer.fit(told.append)
    assert [len(point.warnings) for point in told] == [1] + [0] * 29
    text = io.StringIO()
    with make_progress(["faulty"], text) as shown:
        shown.stage("faulty", 60)
        for point in told:
            shown.log(point)
    lines = [line for line in text.getvalue().splitlines() if "warning" in line]
    assert lines == [f"  faulty warning: {told[0].warnings[0]}"]


def test_bars_keep_a_warning() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = Terminal()
    with make_progress(["dann"], text) as shown:
        shown.stage("dann", 10)
        shown.log(Log(5, 10, {}, {}, 0.1, 1.0, ("The reversal [c] is missing.",)))
    assert "dann warning: The reversal [c] is missing." in text.getvalue()


def test_a_resumed_run_knows_what_the_whole_one_knows(tmp_path: Any) -> None:
    def trainer(path: Any = None) -> Trainer:
        method = Faulty(small_network(dropout=0.3), narrow_kernel)
        return small_trainer(method, path=path, steps=60, checkpoint_every=12, log_every=3)

    class Killed(Exception):
        pass

    def kill(point: Log) -> None:
        if point.step == 27:
            raise Killed

    whole = trainer()
    whole.fit()
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        trainer(path).fit(kill)
    resumed = trainer(path)
    resumed.fit()
    drop = {"seconds"}
    assert repr({k: v for k, v in whole.history.items() if k not in drop}) == repr(
        {k: v for k, v in resumed.history.items() if k not in drop}
    )
    assert whole.doctor.findings == resumed.doctor.findings != {}
    assert whole.doctor.points == resumed.doctor.points


def test_findings_reach_the_report_and_the_page(tmp_path: Any, monkeypatch: Any) -> None:
    sentence = "Something is wrong: mend it."
    monkeypatch.setattr(
        "domadapt.doctor.FINDINGS",
        (lambda e: Finding("odd", sentence) if e.now.terms and e.now.progress > 0.3 else None,),
    )
    training = {"steps": 20, "batch_size": 16, "device": "cpu", "log_every": 5}
    result = adapt(small_task(), "mlp", "dann", training=training, out=tmp_path / "run", export=())
    report = result.report
    assert report.warnings.count(f"dann: {sentence}") == 1
    assert [c.warnings for c in report.candidates] == [[], [sentence]]
    html = render(report)
    assert "<h2>Diagnosis</h2>" in html
    assert "one finding stands among the warnings above" in " ".join(html.split())
    assert "proxy A-distance is" in html
    assert type(report).from_json(report.to_json()).candidates[1].warnings == [sentence]
    # A finished cell keeps them.
    plan = make_plan(small_task(), ModelSpec("mlp"))
    folder = tmp_path / "cell"
    how = Training(**training)
    monkeypatch.setattr("domadapt.doctor.FINDINGS", (lambda e: Finding("odd", sentence),))
    first = train_candidate(plan, "dann", {}, how, folder)
    monkeypatch.setattr("domadapt.doctor.FINDINGS", ())
    again = train_candidate(plan, "dann", {}, how, folder)
    assert first.warnings == again.warnings == (sentence,)
