"""Labels that are measurements: data, splits, losses, scores, runs, page and command line."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as sk
from small import arrays
from torch import Tensor, nn

from domadapt import DomadaptError, Domain, Task, adapt, cli, from_arrays, load_run, predict
from domadapt.data import from_dataset, from_npz, from_table
from domadapt.evaluation import Outputs, evaluate, gain_interval
from domadapt.losses.regression import squared_error
from domadapt.methods import build_method, method_class, method_names
from domadapt.network import Network, Rescale, in_units
from domadapt.regression import (
    fifth_names,
    fifths,
    score_values,
    strata,
    written,
)
from domadapt.report.page import render
from domadapt.report.report import Report
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.selection.validators import source_val_error
from domadapt.task import Batch
from domadapt.trainer import Trainer
from domadapt.training import Training

#: Those that the brief of a regression names; others may be added.
ABLE = ("source_only", "dan", "deep_coral", "dann", "swd")


def samples(n: int = 120, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six normal features, and two measurements of very different size; `shift` is an offset."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    big = 1000 + 20 * (x[:, 0] + 0.5 * x[:, 1] ** 2) + rng.normal(size=n)
    return (x + shift).astype(np.float32), np.stack([big, 0.01 * x[:, 2]], axis=1)


def small(target_values: Any = "true", outputs: int = 1, n: int = 120, **options: Any) -> Task:
    """A source and a target that differ by an offset of the features."""
    x_s, y_s = samples(n, seed=1)
    x_t, y_t = samples(90, 1.0, seed=2)
    y = y_t[:, :outputs] if isinstance(target_values, str) else target_values
    return Task(
        from_arrays(x_s, y_s[:, :outputs], regression=True, name="source"),
        from_arrays(x_t, y, regression=True, name="target"),
        **options,
    )


FEW = {"steps": 12, "batch_size": 16, "log_every": 6, "device": "cpu"}


# Losses and scores --------------------------------------------------------------------------------


def test_squared_error_by_hand() -> None:
    values, y = torch.tensor([[1.0, 10.0], [3.0, 40.0]]), torch.tensor([[2.0, 10.0], [3.0, 20.0]])
    # Errors -1, 0, 0, 20; in units of (2, 10): -0.5, 0, 0, 2.
    assert squared_error(values, y).item() == pytest.approx((1 + 400) / 4)
    assert squared_error(values, y, torch.tensor([2.0, 10.0])).item() == pytest.approx(4.25 / 4)
    assert squared_error(y, y).item() == 0


def test_squared_error_ignores_units() -> None:
    rng = np.random.default_rng(0)
    values, y = (torch.from_numpy(rng.normal(size=(7, 3))) for _ in range(2))
    spread = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    naive = np.mean(
        [((values[i, j] - y[i, j]) / spread[j]).item() ** 2 for i in range(7) for j in range(3)]
    )
    units = torch.tensor([1e-3, 1e3, 1e6])
    assert squared_error(values, y, spread).item() == pytest.approx(naive)
    assert squared_error(values * units, y * units, spread * units).item() == pytest.approx(naive)
    torch.autograd.gradcheck(lambda v: squared_error(v, y, spread), values.requires_grad_())


def test_squared_error_of_half_precision_is_finite_and_near() -> None:
    values, y = torch.randn(64, 2).mul(100).bfloat16(), torch.randn(64, 2).mul(100)
    loss = squared_error(values, y, torch.full((2,), 100.0))
    assert loss.dtype == torch.float32
    expected = (values.float() - y).div(100).square().mean()
    torch.testing.assert_close(loss, expected)


def test_squared_error_refuses_to_broadcast() -> None:
    # The tests check shapes as they are annotated; users run the bare function.
    bare = inspect.unwrap(squared_error)
    with pytest.raises(DomadaptError, match=r"one shape \(n, outputs\); got \(3, 1\) and \(3,\)"):
        bare(torch.zeros(3, 1), torch.zeros(3))


def test_scores_agree_with_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(size=(40, 2)) * [1, 100]
    predicted = true + rng.normal(size=(40, 2)) * [0.5, 80]
    found = score_values(torch.from_numpy(predicted), true, ["a", "b"])
    assert found.mae == pytest.approx(sk.mean_absolute_error(true, predicted))
    assert found.rmse == pytest.approx(sk.root_mean_squared_error(true, predicted))
    assert found.r2 == pytest.approx(sk.r2_score(true, predicted))
    ranks = [spearmanr(true[:, j], predicted[:, j]).statistic for j in range(2)]
    assert found.spearman == pytest.approx(np.mean(ranks))
    assert [e["name"] for e in found.per_output] == ["a", "b"]
    each = sk.mean_absolute_error(true, predicted, multioutput="raw_values")
    assert [e["mae"] for e in found.per_output] == pytest.approx(each)


def test_samples_without_value_are_not_scored() -> None:
    true = np.array([[1.0], [np.nan], [3.0]])
    found = score_values(np.array([[2.0], [50.0], [3.0]]), true, ["y"])
    assert (found.mae, found.n) == (0.5, 2)
    assert score_values(np.array([[2.0]]), np.array([[1.0]]), ["y"]).r2 is None
    with pytest.raises(DomadaptError, match="at least one labelled sample"):
        score_values(np.zeros((2, 1)), np.full((2, 1), np.nan), ["y"])
    with pytest.raises(DomadaptError, match="diverged"):
        score_values(np.array([[np.nan]]), np.ones((1, 1)), ["y"])


def test_numbers_are_written_for_readers() -> None:
    given = (0.0, 0.012345, 3.14159, 56789.12, -12.3456, 1e12, None, float("nan"))
    assert [written(v) for v in given] == [
        *("0.000", "0.01235", "3.142", "56,789", "-12.35", "1.000e+12", "–", "–")
    ]


# Data and splits ----------------------------------------------------------------------------------


def test_values_may_come_in_many_forms(tmp_path: Path) -> None:
    x, y = samples(8)
    one = y[:, 0]
    for given in (one, list(one), one[:, None], torch.from_numpy(one), pd.Series(one)):
        d = from_arrays(x, given, regression=True)
        assert d.labels is None
        assert d.values is not None
        np.testing.assert_allclose(d.values, one[:, None], rtol=1e-6)
    assert "labelled" in repr(d)
    assert str(one[0])[:5] not in repr(d)
    assert d.unlabelled().values is None
    np.savez(tmp_path / "a.npz", x=x, y=y)
    assert from_npz(tmp_path / "a.npz", regression=True).values.shape == (8, 2)  # type: ignore[union-attr]
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    d = from_dataset(pairs, name="d", labelled=True, regression=True)
    np.testing.assert_allclose(d.values, y, rtol=1e-6)  # type: ignore[arg-type]


def test_tables_have_one_column_of_values_or_several(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "price": [3, 4], "size, m": [5.5, np.nan]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    one = from_table(tmp_path / "t.csv", label_column="size, m", regression=True, columns=["a"])
    assert one.class_names == ("size, m",)
    assert one.values is not None
    np.testing.assert_array_equal(one.values, [[5.5], [np.nan]])
    frame = frame.rename(columns={"size, m": "size"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    two = from_table(tmp_path / "t.csv", label_column="price,size", regression=True)
    assert two.class_names == ("price", "size")
    assert two.samples.columns == ("a",)
    with pytest.raises(DomadaptError, match="prize"):
        from_table(tmp_path / "t.csv", label_column="prize,size", regression=True, labelled=True)
    frame.assign(price=["dear", "cheap"]).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(DomadaptError, match=r"must be numbers; those of 'w' are not"):
        from_table(tmp_path / "w.csv", label_column="price", regression=True)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([np.inf] + [1.0] * 19, "finite in float32; 1 of"),
        ([np.nan, *range(19)], "sample 0 of 'source' has none"),
        ([5.0] * 20, "always 5"),
        (1e6 + np.arange(20.0) / 4, "subtract a constant"),
        (1e9 + np.arange(20.0), "always 1e.09 in float32"),
        (np.zeros((20, 2, 2)), r"shape \(n,\) or \(n, outputs\)"),
    ],
)
def test_values_that_cannot_be_learnt_are_refused(y: Any, words: str) -> None:
    x = samples(20)[0]
    with pytest.raises(DomadaptError, match=words):
        Task(from_arrays(x, y, regression=True, name="source"), from_arrays(x + 1))


def test_classes_and_measurements_do_not_mix() -> None:
    x, y = samples(30)
    source = from_arrays(x, y[:, 0], regression=True, name="s")
    with pytest.raises(DomadaptError, match="those of 't' are classes, and the task is a regress"):
        Task(source, from_arrays(x + 1, np.arange(30) % 2, name="t"))
    with pytest.raises(DomadaptError, match="measurements, and the task is a classification"):
        Task(from_arrays(x, np.arange(30) % 2), from_arrays(x + 1, y, regression=True))
    with pytest.raises(DomadaptError, match="measured as the source is: 1 output"):
        Task(source, from_arrays(x + 1, y, regression=True, name="t"))
    with pytest.raises(DomadaptError, match="must have values"):
        Task(from_arrays(x, np.arange(30) % 2), from_arrays(x + 1), regression=True)
    with pytest.raises(DomadaptError, match="extra_classes are for classes"):
        Task(source, from_arrays(x + 1), extra_classes="unscored")
    with pytest.raises(DomadaptError, match="both labels and values"):
        Domain("d", source.samples, labels=np.zeros(30), values=y)
    with pytest.raises(DomadaptError, match="--task-type regression"):
        Task(from_arrays(x, y[:, 0]), from_arrays(x + 1))


def test_splits_hold_a_fifth_of_every_tenth_and_hide_the_target() -> None:
    task = small(outputs=2, n=200)
    assert (len(task.source_train), len(task.source_val)) == (160, 40)
    assert not set(task.source_train.indices) & set(task.source_val.indices)
    y = samples(200, seed=1)[1].astype(np.float32)
    np.testing.assert_array_equal(task.source_val.y, y[task.source_val.indices])
    tenth = pd.qcut(y[:, 0], 10, labels=False)
    assert (np.bincount(tenth[task.source_val.indices]) == 4).all()
    mean, std = task.units()
    np.testing.assert_allclose(mean, y[task.source_train.indices].mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, y[task.source_train.indices].std(0), rtol=1e-5)
    for split in (task.target_train, task.target_test):
        assert split.y is None
        assert split.domain.values is None
        assert split.domain.labels is None
    assert repr(task).startswith("Task(source->target, transductive, 2 outputs")


def test_splits_keep_groups_whole() -> None:
    x, y = samples(60)
    groups = np.repeat(np.arange(12), 5)
    source = from_arrays(x, y, groups=groups, regression=True)
    task = Task(source, from_arrays(x + 1))
    ours = [set(groups[s.indices]) for s in (task.source_train, task.source_val)]
    assert ours[1]
    assert not ours[0] & ours[1]


def test_strata_are_tenths_by_rank() -> None:
    labels = np.array([3, 1, 2])
    assert strata(labels) is labels
    y = np.random.default_rng(0).normal(size=(45, 2))
    found = strata(y)
    assert np.bincount(found).tolist() in ([12, 11, 11, 11], [11, 11, 11, 12])
    assert (np.diff(found[np.argsort(y[:, 0])]) >= 0).all()
    assert strata(y[:4]).tolist() == [0] * 4


def test_oracle_splits_do_not_overlap() -> None:
    y = samples(90, 1.0, seed=2)[1].astype(np.float32)[:, :1]
    y[:10] = np.nan
    oracle = small(y).oracle()
    parts = [oracle.target_train, oracle.target_val, oracle.target_test]
    everything = np.concatenate([p.indices for p in parts])
    assert sorted(everything) == list(range(10, 90))
    for part in parts:
        np.testing.assert_array_equal(part.y, y[part.indices])


def test_fifths_of_the_source_colour_the_target() -> None:
    reference = np.arange(1.0, 101.0)[:, None]
    found = fifths(reference, np.array([[0.0], [20.5], [50.0], [1e6], [np.nan]]))
    assert found.tolist() == [0, 0, 2, 4, -1]
    assert fifth_names(reference)[0] == "< 20.8"
    assert len(fifth_names(reference)) == 5


# Networks and methods -----------------------------------------------------------------------------


def test_a_head_brought_along_keeps_its_values() -> None:
    torch.manual_seed(0)
    head, z = nn.Linear(5, 2), torch.randn(9, 5)
    mean, std = torch.tensor([1000.0, -3.0]), torch.tensor([50.0, 0.01])
    for bias in (True, False):
        head = nn.Linear(5, 2, bias=bias)
        ours = in_units(head, mean, std)
        torch.testing.assert_close(ours(z), head(z), atol=2e-4, rtol=1e-4)
        standardised = (head(z) - mean) / std
        torch.testing.assert_close(ours[0](z), standardised, atol=1e-3, rtol=1e-4)


def test_the_source_loss_is_the_standardised_squared_error() -> None:
    mean, std = torch.tensor([1000.0, 0.0]), torch.tensor([50.0, 0.01])
    network = Network(nn.Linear(6, 4), nn.Sequential(nn.Linear(4, 2), Rescale(mean, std)))
    x, y = (torch.from_numpy(a).float() for a in samples(16))
    losses = build_method("source_only", network)(Batch(x, y, None, 0.0))
    by_hand = ((network(x) - y) / std).square().mean()
    torch.testing.assert_close(losses.total, by_hand)
    # Nothing in the units reaches the loss: its size is that of standardised values.
    standardised = network.head[0](network.features(x)) - (y - mean) / std  # type: ignore[index]
    torch.testing.assert_close(losses.total, standardised.square().mean(), rtol=1e-3, atol=1e-4)


def test_labelled_target_samples_count_in_the_same_units() -> None:
    x, y = samples(20, 1.0, seed=5)
    few = from_arrays(x, y[:, :1], regression=True, name="few")
    task = small(target_labelled=few)
    network = make_plan(task, ModelSpec()).make_network(0)
    assert task.target_labelled is not None
    assert task.target_labelled.y is not None
    batch = Batch(
        torch.randn(4, 6),
        torch.full((4, 1), 1000.0),
        torch.randn(4, 6),
        0.0,
        x_l=torch.from_numpy(x),
        y_l=task.target_labelled.y,
    )
    method = build_method("dan", network).eval()
    term = method(batch).terms["labelled"]
    by_hand = ((network(torch.from_numpy(x)) - task.target_labelled.y) / task.units()[1]).square()
    torch.testing.assert_close(term, by_hand.mean())


def test_methods_that_read_classes_refuse() -> None:
    task = small()
    plan = make_plan(task, ModelSpec())

    def trainer(name: str, **more: Any) -> Trainer:
        method = build_method(name, plan.make_network(0))
        return Trainer(method, task, plan.views, Training(**{**FEW, **more}))

    able = [n for n in method_names() if not method_class(n).needs_classes]
    assert set(ABLE) <= set(able)
    for name in ("mcc", "cdan", "self_training", "dan+mcc", "mdan", "shot"):
        with pytest.raises(
            DomadaptError, match=r"needs classes, .* measurements; choose one of .*dan"
        ):
            trainer(name)
    with pytest.raises(DomadaptError, match="balance is for classes"):
        trainer("dan", balance=True)


@pytest.mark.parametrize(
    "name",
    [
        *(
            n
            for n in method_names()
            if not (method_class(n).needs_classes or method_class(n).needs_text)
        ),
        "dan+dann",
    ],
)
def test_methods_that_read_no_class_train_and_repeat(name: str) -> None:
    task = small(outputs=2)
    plan = make_plan(task, ModelSpec())

    def weights() -> Tensor:
        method = build_method(name, plan.make_network(0))
        trainer = Trainer(method, task, plan.views, Training(**FEW))
        network = trainer.fit()
        assert all(np.isfinite(v).all() for k, v in trainer.history.items() if "loss" in k)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    first = weights()
    assert torch.equal(first, weights())
    before = plan.make_network(0)
    if method_class(name.split("+")[0]).trains:
        start = torch.cat([p.detach().flatten() for p in before.parameters()])
        assert not torch.equal(first, start)


# Runs ---------------------------------------------------------------------------------------------


def test_gain_is_the_mean_decrease_of_the_absolute_error() -> None:
    y = np.array([[1.0], [2.0], [np.nan], [4.0]] + [[float(i)] for i in range(86)])
    task = small(y)
    rng = np.random.default_rng(1)
    before, after = (torch.from_numpy(rng.normal(size=(90, 1)) + np.nan_to_num(y)) for _ in "ab")
    kept = [i for i in range(90) if i != 2]
    d = [abs(before[i, 0] - y[i, 0]) - abs(after[i, 0] - y[i, 0]) for i in kept]
    half = 1.96 * np.std(d) / np.sqrt(89)
    assert gain_interval(task, before, after) == pytest.approx(
        (np.mean(d) - half, np.mean(d) + half)
    )
    assert gain_interval(small(None), before, after) is None


def test_evaluate_is_the_only_reader_of_target_values() -> None:
    task, blind = small(), small(None)
    y_t = samples(90, 1.0, seed=2)[1]
    outputs = Outputs(torch.from_numpy(y_t[:, :1] + 2), torch.zeros(90, 1))
    scores = evaluate(task, outputs)
    assert scores is not None
    assert scores.to_dict()["mae"] == pytest.approx(2, abs=1e-3)
    assert evaluate(blind, outputs) is None
    assert not blind.has_test_labels
    assert source_val_error(None) == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with two outputs."""
    folder = tmp_path_factory.mktemp("runs") / "dan"
    adapt(small(outputs=2), method="dan", out=folder, training=FEW)
    return folder


def test_a_run_gives_values_in_the_units_of_the_labels(finished: Path) -> None:
    x_t = samples(90, 1.0, seed=2)[0]
    table = pd.read_csv(finished / "predictions.csv")
    assert list(table.columns) == ["id", "split", "value_value 1", "value_value 2"]
    kept = table.iloc[:, 2:].to_numpy()
    run = load_run(finished)
    assert run.regression
    assert run.class_names == ("value 1", "value 2")
    values = predict(run, from_arrays(x_t))
    np.testing.assert_allclose(values, kept, rtol=1e-5)
    program = torch.export.load(str(finished / "model.pt2")).module()
    np.testing.assert_allclose(program(torch.from_numpy(x_t)).detach(), kept, rtol=1e-5)
    assert 900 < values[:, 0].mean() < 1100
    assert values[:, 1].abs().max() < 0.2


def test_report_and_page_speak_of_errors(finished: Path) -> None:
    report = Report.load(finished)
    assert Report.from_json(report.to_json()) == report
    found = report.candidates[-1]
    assert list(found.label_free) == ["source_val_mae", "source_val_r2"]
    assert not found.confidence
    assert report.baseline is not None
    assert report.baseline.target is not None
    assert found.target is not None
    true = np.array(found.values["target_test"]["true"])
    predicted = np.array(found.values["target_test"]["predicted"])
    assert len(true) == 90
    assert found.target["mae"] == pytest.approx(sk.mean_absolute_error(true, predicted), rel=1e-4)
    assert report.gain() == pytest.approx(report.baseline.target["mae"] - found.target["mae"])
    said = report.summary()
    assert "mean absolute error" in said
    assert "R2" in said
    page = (finished / "report.html").read_text()
    assert page == render(report)
    for words in ("Predicted and true values", "Source validation", "errors of value 2, target"):
        assert words in page
    for words in ("Confusion", "Confidence", "accuracy", "entropy", "classes"):
        assert words not in page
        assert words not in said


def test_a_page_without_target_values_says_so() -> None:
    task = small(None)
    _, report = adapt(task, method="source_only", training=FEW, look=False)
    page = render(report)
    assert "The target has no labels." in page
    assert "error on it" in report.summary()
    assert "Those of the target need its labels" in page
    assert "source validation error" in page
    assert report.gain() is None
    assert report.candidates[0].target is None


def test_target_values_change_nothing_but_scores() -> None:
    y_t = samples(90, 1.0, seed=2)[1]
    wrong = np.random.default_rng(0).permutation(y_t[:, :1]) * 7
    runs = [adapt(small(y), method="dann", training=FEW, look=False) for y in ("true", wrong, None)]
    one, two, three = (torch.cat([p.flatten() for p in r.network.parameters()]) for r in runs)
    assert torch.equal(one, two)
    assert torch.equal(one, three)
    kept = [r.report.candidates[-1] for r in runs]
    assert kept[0].label_free == kept[1].label_free == kept[2].label_free
    assert kept[0].target != kept[1].target
    assert kept[2].target is None


def test_a_run_is_taken_up_again(finished: Path, tmp_path: Path) -> None:
    run = load_run(finished)
    x = samples(30, seed=9)[0]
    plan = make_plan(small(outputs=2), ModelSpec(checkpoint=str(finished)))
    network = plan.make_network(0).eval()
    np.testing.assert_allclose(
        network(torch.from_numpy(x)).detach(), predict(run, from_arrays(x)), rtol=1e-5
    )
    x_c, y_c = arrays()
    classes = Task(from_arrays(x_c, y_c), from_arrays(x_c))
    with pytest.raises(DomadaptError, match="made for measurements, and this task has classes"):
        make_plan(classes, ModelSpec(checkpoint=str(finished)))
    target = from_arrays(x + 1, samples(30, seed=9)[1], regression=True, name="later")
    out = tmp_path / "adabn"
    how: dict[str, Any] = {"training": FEW, "export": ()}
    _, report = adapt(target, method="adabn", checkpoint_file=finished, out=out, **how)
    assert [c.name for c in report.candidates] == ["source_only", "adabn"]
    assert report.candidates[-1].target is not None
    assert report.candidates[-1].label_free == {}
    assert load_run(out).regression


def test_a_trained_network_may_be_given() -> None:
    torch.manual_seed(0)
    given = Network(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 1))
    plan = make_plan(small(), ModelSpec(), given)
    x = torch.randn(5, 6)
    network = plan.make_network(0)
    torch.testing.assert_close(network(x), given(x), rtol=1e-3, atol=1e-3)
    assert network.spread is not None
    assert given.spread is None
    deep = Network(nn.Linear(6, 4), nn.Sequential(nn.Linear(4, 1), nn.ReLU()))
    with pytest.raises(DomadaptError, match=r"must be one torch\.nn\.Linear"):
        make_plan(small(), ModelSpec(), deep)
    x_c, y_c = arrays()
    three = Network(nn.Linear(6, 4), in_units(nn.Linear(4, 3), torch.zeros(3), torch.ones(3)))
    with pytest.raises(DomadaptError, match="one of a regression"):
        make_plan(Task(from_arrays(x_c, y_c), from_arrays(x_c + 1)), ModelSpec(), three)


def test_frozen_features_carry_the_units_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    network, report = adapt(
        small(),
        backbone,
        "dan",
        freeze=True,
        training=FEW,
        look=False,
        out=tmp_path / "frozen",
        export=(),
    )
    values = pd.read_csv(tmp_path / "frozen" / "predictions.csv")["value"]
    x_t = torch.from_numpy(samples(90, 1.0, seed=2)[0])
    np.testing.assert_allclose(network(x_t).detach()[:, 0], values, rtol=1e-4)
    assert report.candidates[-1].target is not None


@pytest.mark.parametrize("name", ["dan", "deep_coral", "dann", "swd"])
def test_alignment_helps_against_an_offset_of_all_features(name: str) -> None:
    """By construction: the target is the source moved by one deviation, with the same values."""
    x_s, y_s = samples(240, seed=1)
    x_t, y_t = samples(240, 1.0, seed=2)
    task = Task(
        from_arrays(x_s, y_s[:, 0], regression=True), from_arrays(x_t, y_t[:, 0], regression=True)
    )
    report = adapt(task, method=name, training={"steps": 120, "device": "cpu"}, look=False).report
    gain = report.gain()
    assert gain is not None
    assert report.baseline is not None
    assert report.baseline.target is not None
    assert gain > 0.1 * report.baseline.target["mae"]


# The command line ---------------------------------------------------------------------------------


def command(line: str, monkeypatch: Any, capsys: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err  # type: ignore[arg-type]


def test_the_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def run(line: str) -> tuple[int, str, str]:
        return command(line, monkeypatch, capsys)

    for name, (x, y) in (("s", samples(60, seed=1)), ("t", samples(50, 1.0, seed=2))):
        frame = pd.DataFrame(x, columns=[*"abcdef"]).assign(price=y[:, 0])
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    s, t, out = (tmp_path / name for name in ("s.csv", "t.csv", "run"))
    asked = f"adapt {s} {t} --label-column price --out {out} --device cpu --steps 8"
    code, _, err = run(f"{asked} --method dan")
    assert code == 2
    assert "--task-type regression" in err
    code, _, err = run(f"{asked} --task-type regression")
    assert code == 2
    assert "name a method: --method dan" in err
    code, _, err = run(f"{asked} --task-type regression --method mcc")
    assert code == 2
    assert "mcc needs classes" in err
    assert not out.exists()
    asked += " --task-type regression --method dan"
    code, _, err = run(f"{asked} --metric accuracy")
    assert code == 2
    assert "mae, rmse, r2, spearman" in err
    code, said, _ = run(f"{asked} --dry-run")
    assert code == 0
    assert "Outputs    price" in said
    assert not out.exists()
    code, said, _ = run(f"{asked} --metric spearman")
    assert code == 0
    assert "dan: spearman" in said
    assert "mean absolute error" in said
    code, said, _ = run(f"predict {out} {t} --label-column price")
    lines = said.strip().splitlines()
    assert code == 0
    assert lines[0] == "id,value"
    assert len(lines) == 51
    predicted = [float(line.split(",")[1]) for line in lines[1:]]
    true = pd.read_csv(t)["price"]
    code, said, _ = run(f"evaluate {out} {t} --label-column price --metric mae")
    mae = sk.mean_absolute_error(true, predicted)
    assert code == 0
    assert float(said) == pytest.approx(mae, rel=1e-4)
    code, said, _ = run(f"evaluate {out} {t} --label-column price --json")
    assert json.loads(said)["per_output"][0]["name"] == "price"
    code, said, _ = run(f"evaluate {out} {t} --label-column price")
    assert code == 0
    assert "rmse" in said
    assert "accuracy" not in said
    for wrong in (
        f"evaluate {out} {t} --label-column price --metric accuracy",
        f"predict {out} {t} --per-class",
    ):
        code, _, err = run(wrong)
        assert code == 2
        assert err.startswith("Error: ")
    code, said, _ = run(f"report {out}")
    assert code == 0
    assert "mean absolute error" in said
