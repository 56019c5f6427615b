"""Open sets: losses against loops and constants, rules, scores, and runs from end to end."""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from domadapt.adaptation import adapt
from domadapt.cli import main
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs, evaluate, score
from domadapt.losses.open_set import (
    binary_entropy,
    boundary_loss,
    hard_negative_loss,
    unknown_log_odds,
)
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.open_set import (
    ACCEPTED,
    BelowThreshold,
    ExtraOutput,
    OneVsAll,
    closed_network,
    log_odds,
    open_network,
    rule_from,
    rule_of,
    with_threshold,
)
from domadapt.rows import Features, folded
from domadapt.runs.saved import load_run, predict
from domadapt.task import Domain, Task
from tests.small import calibrated, make_batch, prepare, small_network, trained_network


def draw(n: int, k: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, k, generator=generator, dtype=torch.float64)


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


# Losses -----------------------------------------------------------------------------------------


def test_hard_negative_loss_by_hand() -> None:
    # Sample 0: own class 0 (p 1/2), hardest wrong class 2 (p 3/4); sample 1: own 1, hardest 0.
    v = torch.tensor([[0.0, -5.0, math.log(3)], [-math.log(4), math.log(9), -math.log(9)]])
    expected = (math.log(2) + math.log(4) + math.log(10 / 9) + math.log(5 / 4)) / 2
    assert float(hard_negative_loss(v, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-6)


def test_hard_negative_loss_agrees_with_a_loop() -> None:
    v, y = draw(7, 5, scale=2.0), [0, 4, 2, 2, 1, 0, 3]
    total = 0.0
    for row, own in zip(v.tolist(), y, strict=True):
        total -= math.log(sigmoid(row[own]))
        total += max(-math.log(1 - sigmoid(u)) for c, u in enumerate(row) if c != own)
    assert float(hard_negative_loss(v, torch.tensor(y))) == pytest.approx(total / 7, rel=1e-12)


def test_only_the_hardest_wrong_class_learns() -> None:
    v = torch.tensor([[1.0, -2.0, 0.5, -0.1]], requires_grad=True)
    hard_negative_loss(v, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert v.grad is not None
    assert (v.grad[0] != 0).tolist() == [True, False, True, False]
    assert v.grad[0, 0] < 0 < v.grad[0, 2]


def test_binary_entropy_agrees_with_a_loop() -> None:
    v = draw(6, 4, scale=3.0)
    parts = []
    for u in v.flatten().tolist():
        p = sigmoid(u)
        parts.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert float(binary_entropy(v)) == pytest.approx(np.mean(parts), rel=1e-12)
    assert float(binary_entropy(torch.zeros(3, 2))) == pytest.approx(math.log(2))
    assert float(binary_entropy(torch.full((3, 2), 200.0))) == 0.0
    assert float(binary_entropy(torch.full((3, 2), -200.0))) == 0.0


def test_unknown_log_odds_are_those_of_the_softmax() -> None:
    logits, unknown = draw(9, 4), draw(9, 1, seed=1).squeeze(1)
    p = torch.cat([logits, unknown[:, None]], 1).softmax(1)[:, -1]
    assert torch.allclose(unknown_log_odds(logits, unknown).sigmoid(), p, atol=1e-12)


@pytest.mark.parametrize("t", [0.5, 0.2])
def test_boundary_loss_agrees_with_a_loop_and_is_least_at_the_threshold(t: float) -> None:
    v = draw(8, 1, seed=3).squeeze(1)
    parts = [-t * math.log(sigmoid(u)) - (1 - t) * math.log(1 - sigmoid(u)) for u in v.tolist()]
    assert float(boundary_loss(v, t)) == pytest.approx(np.mean(parts), rel=1e-12)
    least = torch.full((4,), math.log(t / (1 - t)), dtype=torch.float64, requires_grad=True)
    value = boundary_loss(least, t)
    assert float(value.detach()) == pytest.approx(-t * math.log(t) - (1 - t) * math.log(1 - t))
    value.backward()  # type: ignore[no-untyped-call]
    assert least.grad is not None
    assert float(least.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_any_size_and_precision(scale: float, dtype: torch.dtype) -> None:
    v, y = draw(12, 4, scale=scale).to(dtype), torch.arange(12) % 4
    for name, loss in (
        ("negatives", lambda x: hard_negative_loss(x, y)),
        ("entropy", binary_entropy),
        ("boundary", lambda x: boundary_loss(unknown_log_odds(x[:, :3], x[:, 3]))),
    ):
        x = v.clone().requires_grad_(True)
        value = loss(x)
        value.backward()
        assert value.dtype == torch.float32, name
        assert x.grad is not None, name
        assert bool(x.grad.isfinite().all()), name
        exact = float(loss(v.double()))
        assert float(value.detach()) == pytest.approx(exact, rel=1e-4, abs=1e-4), name


def test_gradients_of_the_losses() -> None:
    y = torch.tensor([0, 2, 1, 1])
    v = draw(4, 3, seed=5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: hard_negative_loss(x, y), v)
    assert torch.autograd.gradcheck(binary_entropy, v)
    u = draw(4, 1, seed=6).squeeze(1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x, w: boundary_loss(unknown_log_odds(x, w), 0.4), (v, u))


def test_losses_do_not_mind_the_order_of_samples() -> None:
    v, y, order = draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 0]), torch.tensor([5, 3, 1, 0, 2, 4])
    assert float(hard_negative_loss(v, y)) == pytest.approx(
        float(hard_negative_loss(v[order], y[order])), rel=1e-12
    )
    assert float(binary_entropy(v)) == pytest.approx(float(binary_entropy(v[order])), rel=1e-12)
    # Two samples and a class that neither has are enough.
    assert bool(hard_negative_loss(v[:2], y[:2]).isfinite())


# Rules ------------------------------------------------------------------------------------------


def test_log_odds_of_the_largest_probability() -> None:
    logits = draw(20, 5, scale=3.0)
    p = logits.softmax(1).amax(1)
    assert torch.allclose(log_odds(logits), torch.log(p / (1 - p)), atol=1e-9)
    # Where the probability itself is 1 in float32 as well.
    assert float(log_odds(torch.tensor([[80.0, 0.0]]))) == 80.0


@pytest.mark.parametrize("t", [0.5, 0.8, 0.95])
def test_unknown_exactly_where_the_largest_probability_fails(t: float) -> None:
    logits = draw(400, 3, scale=2.0)
    rule = BelowThreshold(math.log(t / (1 - t)))
    whole = torch.cat([logits, rule(logits, logits)[:, None]], 1)
    p = logits.softmax(1)
    best = p.max(1)
    expected = torch.where(best.values < t, torch.tensor(3), best.indices)
    assert torch.equal(whole.argmax(1), expected)
    assert 0 < int((expected == 3).sum()) < 400
    # The odds of unknown against the class are t (1 - p) / ((1 - t) p).
    q = whole.softmax(1)
    odds = q[:, 3] / q.gather(1, best.indices[:, None]).squeeze(1)
    wanted = t * (1 - best.values) / ((1 - t) * best.values)
    assert torch.allclose(odds, wanted, rtol=1e-5)


def test_one_vs_all_asks_the_classifier_of_the_predicted_class() -> None:
    rule = OneVsAll(2, 3)
    with torch.no_grad():
        rule.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        rule.linear.bias.zero_()
    z = torch.tensor([[2.0, -1.0], [2.0, -1.0], [2.0, -1.0]])
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    whole = torch.cat([logits, rule(z, logits)[:, None]], 1)
    assert whole.argmax(1).tolist() == [0, 3, 3]
    p = whole.softmax(1)
    odds = (p[:, 3] / p[torch.arange(3), torch.arange(3)]).log()
    assert odds.tolist() == pytest.approx([-2.0, 1.0, 2.0], abs=1e-5)


@pytest.mark.parametrize("n", [19, 20, 100, 237])
def test_the_threshold_accepts_its_share_of_the_source(n: int) -> None:
    logits = draw(n, 4, seed=n)
    network = with_threshold(small_network(), logits, 4)
    rule = network.head.unknown
    accepted = int((log_odds(logits).float() >= rule.threshold).sum())
    assert accepted >= ACCEPTED * n
    # The next larger one would not do.
    assert accepted - 1 < ACCEPTED * n
    # One that is surer of its source is asked for 0.9 and no more.
    sure = with_threshold(small_network(), 100 * logits, 4).head.unknown
    assert float(sure.threshold.sigmoid()) == pytest.approx(0.9)
    # A network that says unknown itself is left as it is.
    assert with_threshold(network, logits, 3) is network


def test_opening_and_closing_a_network_share_its_modules() -> None:
    network = small_network().eval()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    opened = open_network(network, BelowThreshold(1.0))
    assert opened(x).shape == (5, 4)
    assert torch.equal(opened(x)[:, :3], network(x))
    assert torch.equal(closed_network(opened)(x), network(x))
    assert closed_network(network) is network
    assert not opened.training
    assert not opened.head.training
    assert opened.backbone is network.backbone
    assert isinstance(network.head, nn.Linear)
    assert rule_of(network) is None
    assert rule_of(opened) is opened.head.unknown
    assert opened.n_features == network.n_features
    assert list(opened.blocks()) == list(network.blocks())


@pytest.mark.parametrize("rule", [BelowThreshold(0.7), ExtraOutput(16), OneVsAll(16, 3)])
def test_a_rule_is_built_again_from_its_tensors(rule: Any) -> None:
    again = rule_from(rule.rule, rule.state_dict())
    again.load_state_dict(rule.state_dict())
    z, logits = draw(6, 16).float(), draw(6, 3, seed=1).float()
    assert torch.equal(again(z, logits), rule(z, logits))
    assert len(rule.said()) > 20


# Methods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("ovanet", OneVsAll), ("osbp", ExtraOutput)])
def test_methods_say_unknown_on_open_sets_alone(name: str, kind: type[nn.Module]) -> None:
    method = prepare(build_method(name, small_network()))
    assert method.adapted() is method.network
    method.open_set = True
    kept = method.adapted()
    assert isinstance(rule_of(kept), kind)
    assert kept.eval()(make_batch().x_t).shape[1] == 4
    # Of a combination as well.
    both = build_method(f"{name}+mcc", small_network())
    both.open_set = True
    both.setup(60, 30)
    assert isinstance(rule_of(both.adapted()), kind)


def test_osbp_is_the_objective_over_all_classes_and_unknown() -> None:
    """Source loss and `known` are the cross-entropy of K + 1 classes, as the paper has it."""
    method = prepare(build_method("osbp", trained_network(), {"threshold": 0.3}))
    method.open_set = True
    batch = make_batch()
    network, out = method.adapted(), method.outputs(batch)
    losses = method.losses(out, batch)
    whole_s, whole_t = network.head(out.z_s), network.head(out.z_t)
    expected = nn.functional.cross_entropy(whole_s, batch.y_s)
    found = losses.terms["source"] + losses.terms["known"]
    assert torch.allclose(found, expected, rtol=1e-5)
    u = whole_t.softmax(1)[:, 3].double()
    boundary = -(0.3 * u.log() + 0.7 * (1 - u).log()).mean()
    assert torch.allclose(losses.terms["boundary"].double(), boundary, rtol=1e-5)


def test_osbp_teaches_the_classifier_one_way_and_the_features_the_other() -> None:
    method = prepare(build_method("osbp", trained_network()))
    batch = make_batch()
    mine = method.terms(method.outputs(batch), batch)["boundary"]
    z = method.outputs(batch).z_t
    plain = boundary_loss(
        unknown_log_odds(method.network.head(z), method.unknown(z, method.network.head(z)))
    )
    encoder = method.network.backbone[0].weight
    # At half the run the reversal has the strength 2 / (1 + exp(-5)) - 1.
    for part, sign in ((method.unknown.linear.weight, 1), (encoder, -0.98661)):
        one = torch.autograd.grad(mine, part, retain_graph=True)[0]
        two = torch.autograd.grad(plain, part, retain_graph=True)[0]
        assert float(two.abs().max()) > 0
        assert torch.allclose(one, sign * two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_osbp_refuses_thresholds(value: float) -> None:
    with pytest.raises(DomadaptError, match="threshold must lie between"):
        build_method("osbp", small_network(), {"threshold": value})


# Tasks and scores -------------------------------------------------------------------------------


def vectors(y: np.ndarray, shift: float, seed: int) -> np.ndarray:
    """Classes a, b, c far apart; d, which the source lacks, between them."""
    centre = {"a": (6, 0), "b": (-3, 5), "c": (-3, -5), "d": (0, 0)}
    x = np.random.default_rng(seed).normal(0, 0.5, size=(len(y), 2))
    return (x + np.array([centre[c] for c in y]) + shift).astype(np.float32)


def source() -> Domain:
    y = np.array(list("abc"))[np.arange(150) % 3]
    return from_arrays(vectors(y, 0.0, 1), y, name="source")


def target(labels: bool = True) -> Domain:
    y = np.array(list("abcd"))[np.arange(120) % 4]
    return from_arrays(vectors(y, 0.3, 2), y if labels else None, name="target")


def open_task(**options: Any) -> Task:
    return Task(source(), target(), extra_classes="unknown", **options)


def test_labels_that_the_source_lacks_are_one_class() -> None:
    task = open_task()
    assert task.open_set
    assert task.n_classes == 3
    assert task.class_names == ("a", "b", "c")
    assert task.output_names == ("a", "b", "c", "unknown")
    labels = task._labels_for_evaluate()
    assert labels is not None
    assert labels[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    # What is trained with is another run than that of the closed task.
    closed = Task(source(), target(), extra_classes="unscored")
    assert not closed.open_set
    assert closed.output_names == ("a", "b", "c")
    assert closed.fingerprint() != task.fingerprint()


def test_a_sample_without_label_is_not_unknown() -> None:
    y = np.array(["a", "", "z", "b"], dtype=object)
    x = np.zeros((4, 2), dtype=np.float32)
    task = Task(source(), from_arrays(x, y, name="few"), extra_classes="unknown")
    labels = task._labels_for_evaluate()
    assert labels is not None
    assert labels.tolist() == [0, -1, 3, 1]


def test_open_sets_that_cannot_be() -> None:
    y = np.array(["known", "unknown"])[np.arange(20) % 2]
    named = from_arrays(np.zeros((20, 2), dtype=np.float32), y, name="named")
    with pytest.raises(DomadaptError, match="rename it"):
        Task(named, target(), extra_classes="unknown")
    with pytest.raises(DomadaptError, match="needs the source"):
        Task(None, target(), class_names=["a", "b"], extra_classes="unknown")
    values = np.arange(30, dtype=float)
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    measured = from_arrays(x, values, name="measured", regression=True)
    with pytest.raises(DomadaptError, match="measurements"):
        Task(measured, target(labels=False), extra_classes="unknown")


def test_scores_of_an_open_set_by_hand() -> None:
    # Known samples: 4, of which 3 right; unknown: 2, of which 1 recognised.
    y, predicted = [0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 0]
    s = score(np.eye(3)[predicted], y, ("a", "b", "unknown"), open_set=True)
    assert (s.known_accuracy, s.unknown_accuracy) == (0.75, 0.5)
    assert s.h_score == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert s.accuracy == pytest.approx(4 / 6)
    assert s.per_class_mean == pytest.approx((1 + 0.5 + 0.5) / 3)
    none = score(np.eye(3)[[2, 2, 2]], [0, 1, 2], ("a", "b", "unknown"), open_set=True)
    assert (none.known_accuracy, none.unknown_accuracy, none.h_score) == (0.0, 1.0, 0.0)
    nothing = score(np.eye(3)[[0, 2, 1]], [2, 2, -1], ("a", "b", "unknown"), open_set=True)
    assert nothing.known_accuracy is None
    assert nothing.h_score is None
    assert nothing.unknown_accuracy == 0.5
    assert "h_score" not in nothing.to_dict()
    assert "auroc" in nothing.to_dict()
    assert "known_accuracy" not in score(np.eye(3)[predicted], y, "abc").to_dict()


def test_evaluate_scores_the_last_output_as_unknown() -> None:
    task = open_task()
    labels = task._labels_for_evaluate()
    assert labels is not None
    logits = torch.nn.functional.one_hot(torch.from_numpy(labels), 4).float()
    found = evaluate(task, Outputs(logits, logits))
    assert found is not None
    assert found.h_score == 1.0
    with pytest.raises(DomadaptError, match="one row of 4 logits"):
        evaluate(task, Outputs(logits[:, :3], logits))


# Runs -------------------------------------------------------------------------------------------

SHORT = {"steps": 16, "batch_size": 32, "device": "cpu", "log_every": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of a method that says unknown itself, and of one that gets a threshold."""
    made = {}
    for name in ("ovanet", "entropy"):
        made[name] = tmp_path_factory.mktemp("open") / name
        adapt(open_task(), method=name, out=made[name], training=SHORT, look=False)
    return made


@pytest.mark.parametrize("name", ["ovanet", "entropy"])
def test_a_run_is_taken_up_again(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    run = load_run(folder)
    assert run.open_set
    assert run.class_names == ("a", "b", "c", "unknown")
    p = predict(run, target())
    table = pd.read_csv(folder / "predictions.csv")
    names = [run.class_names[i] for i in p.argmax(1)]
    assert table["class"].tolist() == names
    assert np.allclose(table["probability"], p.amax(1), atol=1e-5)
    # The export says the same without domadapt.
    program: Any = torch.export.load(str(folder / "model.pt2"))
    x = torch.from_numpy(vectors(np.array(list("abcd")), 0.3, 5))
    with torch.no_grad():
        leaves = calibrated(folder, run.model)
        assert torch.allclose(program.module()(x), leaves(x), atol=1e-5)
    report = json.loads((folder / "report.json").read_text())
    assert report["task"]["class_names"] == ["a", "b", "c", "unknown"]
    assert report["task"]["open_set"]
    warned = any("Made for unknown classes: " in sentence for sentence in report["warnings"])
    assert warned == (name == "entropy")
    for candidate in report["candidates"]:
        scores = candidate["target"]
        assert {"known_accuracy", "unknown_accuracy", "h_score"} <= scores.keys()
        assert len(scores["confusion"]) == 4
        assert scores["n"] == 120
    page = (folder / "report.html").read_text()
    assert "3 classes and unknown" in page
    assert "H-score" in page


def test_the_threshold_is_that_of_the_source(folders: dict[str, Path]) -> None:
    run = load_run(folders["entropy"])
    assert isinstance(run.model, Network)
    rule = run.model.head.unknown
    task = open_task()
    x = run.views.evaluation(task.source_val.fetch(range(len(task.source_val))))
    with torch.no_grad():
        p = closed_network(run.model)(x).double().softmax(1).amax(1).sort().values
    # At least 95 of 100, so that of 30 samples one may be rejected.
    assert len(p) == 30
    expected = min(float(p[1]), 0.9)
    assert float(rule.threshold.double().sigmoid()) == pytest.approx(expected, rel=1e-5)


def test_a_finished_candidate_is_taken_up_again(folders: dict[str, Path], tmp_path: Path) -> None:
    """As after a crash between training and the writing of the report."""
    for name in ("ovanet", "entropy"):
        folder, again = folders[name], tmp_path / name
        shutil.copytree(folder, again)
        (again / "config.json").unlink()
        kept, _ = adapt(
            open_task(),
            method=name,
            out=again,
            training=SHORT,
            look=False,
            resume=True,
            export=(),
        )
        x = torch.from_numpy(vectors(np.array(list("abcd")), 0.3, 5))
        with torch.no_grad():
            assert torch.equal(kept(x), load_run(folder).model(x))


def test_the_next_run_begins_with_the_classes(folders: dict[str, Path], tmp_path: Path) -> None:
    """A run on closed classes may go on from an open one."""
    closed = Task(source(), target(labels=False))
    for name in ("ovanet", "entropy"):
        kept, _ = adapt(
            closed,
            checkpoint_file=folders[name],
            method="mcc",
            training=SHORT,
            look=False,
            export=(),
        )
        assert kept(torch.zeros(2, 2)).shape == (2, 3), name


def test_test_time_methods_on_open_sets(tmp_path: Path) -> None:
    network, report = adapt(
        open_task(), method="tent", out=tmp_path / "t", training=SHORT, look=False, export=()
    )
    assert network(torch.zeros(2, 2)).shape == (2, 4)
    run = load_run(tmp_path / "t")
    assert predict(run, target(), online=True).shape == (120, 4)
    assert report.candidates[0].target is not None
    assert "h_score" in report.candidates[0].target


def test_frozen_backbones_keep_the_output(tmp_path: Path) -> None:
    folder = tmp_path / "frozen"
    network, _ = adapt(
        open_task(), method="ovanet", freeze=True, out=folder, training=SHORT, look=False, export=()
    )
    x = torch.zeros(3, 2)
    with torch.no_grad():
        assert network(x).shape == (3, 4)
        assert torch.allclose(load_run(folder).model(x), network(x), atol=1e-6)


def test_the_average_of_the_network_is_not_mixed_up_with_the_output() -> None:
    with pytest.raises(DomadaptError, match="leave ema out"):
        adapt(open_task(), method="ovanet", training={**SHORT, "ema": 0.9}, look=False)
    # On closed classes nothing of the kind is kept.
    closed = Task(source(), target(labels=False))
    adapt(closed, method="ovanet", training={**SHORT, "ema": 0.9}, look=False)


def test_a_method_of_ones_own_with_an_output_of_its_own(tmp_path: Path) -> None:
    """Neither a threshold is added nor is its file mistaken for a network of the classes."""
    file = tmp_path / "mine.py"
    file.write_text(
        '''
import copy
import torch
from torch import nn
from domadapt.methods import Method, register
from domadapt.network import Network


@register("mine_open")
class Mine(Method):
    """Says unknown of nothing (Nobody, 2026, arXiv:0000.00000)."""

    def terms(self, out, batch):
        return {"mean": out.logits_t.square().mean() * 1e-3}

    def adapted(self):
        network = copy.deepcopy(self.network)
        if self.open_set:
            old = network.head
            network.head = nn.Linear(old.in_features, old.out_features + 1)
            with torch.no_grad():
                network.head.weight[:-1] = old.weight
                network.head.bias[:-1] = old.bias
                network.head.bias[-1] = -50.0
        return network
'''
    )
    folder = tmp_path / "run"
    network, report = adapt(open_task(), method=str(file), out=folder, training=SHORT, look=False)
    x = torch.zeros(3, 2)
    assert network(x).shape == (3, 4)
    leaves = calibrated(folder, network)
    assert torch.allclose(load_run(folder).model(x), leaves(x), atol=1e-5)
    assert report.candidates[-1].target is not None
    assert report.candidates[-1].target["unknown_accuracy"] == 0.0


def test_rows_that_a_method_moves_reach_both_parts_of_the_head() -> None:
    """A linear network takes rows as they are, though it was trained on moved ones."""
    generator = torch.Generator().manual_seed(0)
    matrix, shift = torch.randn(6, 6, generator=generator), torch.randn(6, generator=generator)
    x = torch.randn(5, 6, generator=generator)
    network = Network(nn.Identity(), nn.Linear(6, 3)).eval()
    for rule in (OneVsAll(6, 3), ExtraOutput(6), BelowThreshold(0.5)):
        opened = open_network(network, rule)
        with torch.no_grad():
            kept = folded(opened, Features(None, matrix, shift))
            assert torch.allclose(kept(x), opened(x @ matrix + shift), atol=1e-4), rule.rule


# Command line -----------------------------------------------------------------------------------


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["domadapt", *words])
        with pytest.raises(SystemExit) as stop:
            main()
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out + told.err


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, y, shift in (("s", "abc", 0.0), ("t", "abcd", 0.3)):
        labels = np.array(list(y))[np.arange(120) % len(y)]
        np.savez(f"{name}.npz", x=vectors(labels, shift, 3), y=labels)
    return tmp_path


def test_from_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapt_words = ["adapt", "s.npz", "t.npz", "--method", "osbp", "--steps", "20", "--out", "run"]
    code, told = say(capsys, *adapt_words, "--extra-classes", "unknown", "--metric", "h_score")
    assert code == 0
    assert "osbp: h score" in told
    code, told = say(capsys, "evaluate", "run", "t.npz", "--json")
    found = json.loads(told[told.index("{") :])
    assert code == 0
    assert found["n"] == 120
    assert len(found["confusion"]) == 4
    code, told = say(capsys, "evaluate", "run", "t.npz")
    assert "h score" in told
    assert "unknown" in told
    code, told = say(capsys, "evaluate", "run", "t.npz", "--metric", "unknown_accuracy")
    assert float(told) == pytest.approx(found["unknown_accuracy"], abs=1e-6)
    code, told = say(capsys, "evaluate", "run", "t.npz", "--extra-classes", "unscored", "--json")
    assert json.loads(told[told.index("{") :])["n"] == 90
    code, told = say(capsys, "evaluate", "run", "t.npz", "--extra-classes", "error")
    assert code == 2
    assert "labels that the source lacks: d" in told
    code, told = say(capsys, "predict", "run", "t.npz", "--per-class", "-o", "p.csv")
    assert {"p_a", "p_b", "p_c", "p_unknown"} <= set(pd.read_csv("p.csv").columns)


def test_closed_runs_have_no_unknown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["adapt", "s.npz", "t.npz", "--steps", "5", "--out", "run"]
    code, told = say(capsys, *words)
    assert code == 2
    assert "--extra-classes unknown" in told
    code, told = say(capsys, *words, "--extra-classes", "unscored", "--metric", "h_score")
    assert code == 2
    assert "output 'unknown'" in told
    assert not Path("run").exists()
    assert say(capsys, *words, "--extra-classes", "unscored")[0] == 0
    for more in (["--extra-classes", "unknown"], ["--metric", "h_score"]):
        words = ["evaluate", "run", "s.npz", *more]
        code, told = say(capsys, *words)
        assert code == 2
        assert "output 'unknown'" in told
    network = copy.deepcopy(load_run("run").model)
    assert network(torch.zeros(2, 2)).shape == (2, 3)
