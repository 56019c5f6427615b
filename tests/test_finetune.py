"""Strategies compared on labelled data: sizes, folds, what transfer is worth, page and command."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small import N_CLASSES, N_FEATURES, arrays
from torch import nn

from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.finetune import study as module
from domadapt.finetune.curves import data_transferred, mean_and_spread, steps_to, still_rising
from domadapt.finetune.heads import SeveralHeads, joined, outputs_of_head, share_encoder
from domadapt.finetune.page import called, headline, markdown, model_name, render, tables, terminal
from domadapt.finetune.splits import (
    Size,
    check_folds,
    nested_order,
    part_of,
    read_size,
    read_sizes,
)
from domadapt.finetune.study import Comparison, finetune, gathered, planned
from domadapt.finetune.work import SCRATCH, from_scratch
from domadapt.methods.base import BatchOutputs
from domadapt.network import Network
from domadapt.runs import engine
from domadapt.runs.cell import Cells
from domadapt.task import Batch, Domain


def data(n: int = 90, shift: float = 0.0, seed: int = 5) -> Domain:
    x, y = arrays(n=n, shift=shift, seed=seed)
    return from_arrays(x, y, name="labelled")


def pretrained() -> Network:
    """Two blocks that learnt the same classes from much data, and a head that is left behind."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        *(nn.Sequential(nn.Linear(i, 16), nn.BatchNorm1d(16), nn.ReLU()) for i in (N_FEATURES, 16))
    )
    network = Network(backbone, nn.Linear(16, N_CLASSES))
    x, y = (torch.from_numpy(a) for a in arrays(n=600, shift=0.0, seed=1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


def compared(folder: Path, **more: object) -> Comparison:
    """A comparison in this process."""
    options = {
        "compare": True,
        "sizes": ["2/class", "all"],
        "folds": 2,
        "training": {"steps": 12, "batch_size": 16, "lr": 3e-3, "device": "cpu"},
        **more,
    }
    work, wanted = planned(data(), pretrained(), ["full", "lp_ft"], **options)  # type: ignore[arg-type]
    cells = Cells(folder)
    for cell in engine.shared(cells, wanted):
        cells.perform(cell, work)
    return gathered(cells, wanted, work, 1, None)


# Shared encoders


def other(n: int = 60) -> Domain:
    """Other classes of other samples: two halves of the plane of the first two features."""
    x, _ = arrays(n=n, shift=0.0, seed=8)
    return from_arrays(x, np.where(x[:, 0] > x[:, 1], "left", "right"), name="other")


def test_heads_learn_each_among_its_own_classes() -> None:
    """By hand: the cross-entropy over the outputs of a sample's own data set alone."""
    task = joined([data(), other()])
    network = Network(nn.Identity(), nn.Linear(N_FEATURES, 5))
    method = SeveralHeads(network, task)
    y = torch.cat([task.source_train.y[:4], task.source_train.y[-4:]])  # type: ignore[index]
    x = torch.randn(8, N_FEATURES)
    found = method.source_loss(BatchOutputs(logits_s=network(x)), Batch(x, y, None, 0.0))
    first = outputs_of_head(task, "labelled", ["0", "1", "2"])
    second = outputs_of_head(task, "other", ["left", "right"])
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(5))
    by_hand = 0.0
    for row, label in zip(network(x).detach(), y, strict=True):
        own = first if label in first else second
        by_hand += float(-row[own].log_softmax(0)[(own == label).nonzero().item()]) / 8
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    # A head has a gradient from samples of its own data set only.
    for rows, own in ((first, slice(0, 4)), (second, slice(4, 8))):
        network.zero_grad()
        loss = method.source_loss(BatchOutputs(logits_s=network(x[own])), Batch(x, y[own], None, 0))
        loss.backward()  # type: ignore[no-untyped-call]
        strange = [i for i in range(5) if i not in rows]
        assert network.head.weight.grad is not None
        assert not network.head.weight.grad[strange].any()  # type: ignore[index]
        assert network.head.weight.grad[rows].any()  # type: ignore[index]


def test_a_shared_encoder_serves_every_data_set() -> None:
    how = {"steps": 80, "batch_size": 32, "lr": 1e-2, "device": "cpu"}
    made = share_encoder([data(), other()], pretrained(), training=how)
    assert list(made) == ["labelled", "other"]
    for domain, classes in ((data(), ("0", "1", "2")), (other(), ("left", "right"))):
        network = made[domain.name]
        assert network.n_classes == len(classes)
        assert domain.labels is not None
        x = torch.stack(list(domain.samples.__getitems__(range(len(domain)))))  # type: ignore[arg-type]
        said = network(x.float()).argmax(1)
        right = [classes[i] == str(c) for i, c in zip(said, domain.labels, strict=True)]
        assert np.mean(right) > 0.85
    a, b = (n.backbone.state_dict() for n in made.values())
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_sharing_is_measured_beside_the_data_alone(tmp_path: Path) -> None:
    found = compared(tmp_path, also=[other()], sizes=["all"], compare=False)
    assert found.strategies == ["full", "lp_ft", "full (shared)", "lp_ft (shared)"]
    alone, shared = (found.row(s, "all") for s in ("full", "full (shared)"))
    assert alone is not None
    assert shared is not None
    assert shared.samples == alone.samples, "what is counted are the samples of the data itself"
    assert len(shared.accuracies) == len(alone.accuracies) == 2
    assert min(shared.accuracies) > 0.5, "the other head's classes are no answers"
    assert shared.trained == alone.trained + 2 * 17
    assert any("other" in note for note in found.notes)
    assert not found.best(shared=False).strategy.endswith("(shared)")


def test_sharing_with_a_test_set_scores_it_alone(tmp_path: Path) -> None:
    held = data(n=30, shift=0.5, seed=9)
    how = {"also": [other()], "test": held, "folds": 1, "sizes": ["all"], "compare": False}
    found = compared(tmp_path, **how)
    row = found.row("full (shared)", "all")
    assert row is not None
    assert row.samples == 90
    assert row.accuracy[0] > 0.5


def test_data_that_cannot_share_are_refused() -> None:
    with pytest.raises(DomadaptError, match="different names"):
        joined([data(), data()])
    with pytest.raises(DomadaptError, match="'nothing' has none"):
        joined([data(), from_arrays(arrays(n=9)[0], name="nothing")])


# Pure measures


def test_effective_data_is_interpolated_in_the_logarithm_of_the_size() -> None:
    sizes, scratch = [10, 100, 1000], [0.5, 0.6, 0.8]
    # Halfway between 0.6 and 0.8 lies sqrt(100 * 1000) = 316.2.
    worth = data_transferred(10, 0.7, sizes, scratch)
    assert worth.bound == "exact"
    assert worth.equivalent == pytest.approx(math.sqrt(100_000))
    assert worth.effective == pytest.approx(math.sqrt(100_000) - 10)
    assert data_transferred(100, 0.6, sizes, scratch).effective == pytest.approx(0.0)


def test_effective_data_beyond_what_was_measured() -> None:
    sizes, scratch = [10, 100], [0.5, 0.6]
    more = data_transferred(10, 0.61, sizes, scratch)
    assert (more.bound, more.effective) == ("more", 90)
    assert more.words() == "more than 90"
    assert data_transferred(100, 0.61, sizes, scratch).words() == "not measured"
    less = data_transferred(100, 0.4, sizes, scratch)
    assert (less.bound, less.effective) == ("less", -90)
    assert less.words() == "none: from scratch 10 do better"
    # Half the way from 10 to 100 on the logarithm: 31.6 samples do as well as 100 fine-tuned.
    worse = data_transferred(100, 0.55, sizes, scratch)
    assert worse.words() == "-68 (from scratch is better)"


def test_a_training_that_ended_while_it_rose() -> None:
    assert still_rising([(0, 0.1), (50, 0.5), (100, 0.6)])
    assert not still_rising([(0, 0.1), (50, 0.59), (100, 0.6)])
    # 0.8 of the way is within the last quarter, so the gain counts from the half.
    assert still_rising([(0, 0.1), (50, 0.5), (80, 0.6), (100, 0.6)])
    assert not still_rising([(0, 0.1), (50, 0.6), (80, 0.5), (100, 0.6)])
    assert not still_rising([(100, 0.6)])
    assert not still_rising([(90, 0.1), (100, 0.6)])


def test_a_dip_of_the_curve_counts_as_what_a_smaller_size_reached() -> None:
    worth = data_transferred(10, 0.7, [10, 100, 1000, 10_000], [0.5, 0.6, 0.4, 0.8])
    assert worth.equivalent == pytest.approx(math.sqrt(1000 * 10_000))


def test_steps_and_spread() -> None:
    points = [(0, 0.1), (10, 0.5), (20, 0.4), (30, 0.9)]
    assert steps_to(points, 0.5) == 10
    assert steps_to(points, 0.6) == 30
    assert steps_to(points, 0.95) is None
    assert mean_and_spread([1.0, 2.0, 4.5]) == pytest.approx((2.5, np.std([1, 2, 4.5], ddof=1)))
    assert mean_and_spread([3.0]) == (3.0, 0.0)


# Sizes


def test_sizes_are_read_and_sorted() -> None:
    assert read_size("5/class") == Size(5, True)
    assert [str(s) for s in read_sizes(["all", "200", "1/class", "50", "200"])] == [
        "1/class",
        "50",
        "200",
        "all",
    ]
    for wrong in ("0", "half", "-3", "all/class", "", "1.5"):
        with pytest.raises(DomadaptError, match="number of each class"):
            read_size(wrong)


def test_smaller_sets_are_part_of_larger_ones_with_the_classes_in_their_shares() -> None:
    y = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = nested_order(y, seed=3)
    assert sorted(order) == list(range(100))
    for n in (10, 20, 50):
        counts = np.bincount(y[order[:n]], minlength=3)
        assert np.abs(counts - n * np.array([0.6, 0.3, 0.1])).max() <= 1.01
    sets = [set(part_of(y, Size(n), 3)) for n in (3, 10, 40, 100)]
    assert [len(s) for s in sets] == [3, 10, 40, 100]
    assert all(a <= b for a, b in itertools.pairwise(sets))
    assert set(y[sorted(sets[0])]) == {0, 1, 2}
    few = part_of(y, Size(4, True), 3)
    assert list(np.bincount(y[few])) == [4, 4, 4]
    assert set(part_of(y, Size(2, True), 3)) <= set(few)
    assert list(part_of(y, Size(0), 3)) == list(range(100))
    assert not np.array_equal(nested_order(y, 3), nested_order(y, 4))


def test_sizes_that_cannot_be() -> None:
    y = np.array([0] * 6 + [1] * 3)
    with pytest.raises(DomadaptError, match="one class has 3"):
        part_of(y, Size(4, True), 0)
    with pytest.raises(DomadaptError, match="number of classes, 2"):
        part_of(y, Size(1), 0)
    with pytest.raises(DomadaptError, match="training samples, 9"):
        part_of(y, Size(10), 0)
    with pytest.raises(DomadaptError, match="at least 2 folds"):
        check_folds(1, False)
    with pytest.raises(DomadaptError, match="no folds"):
        check_folds(3, True)


# The comparison


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("cells"))


def test_every_strategy_is_measured_at_every_size(found: Comparison) -> None:
    assert found.strategies == ["full", "lp_ft", SCRATCH]
    assert found.sizes == ["2/class", "all"]
    assert not found.failures
    for row in found.rows:
        assert len(row.accuracies) == 2
        assert row.samples == (6 if row.size == "2/class" else 45)
        # 6*16+16+32, 16*16+16+32, 16*3+3
        assert (row.trained, row.parameters) == (499, 499)
        assert row.curve[0][0] == 0
        assert row.curve[-1] == (12, pytest.approx(row.accuracy[0]))
        assert (row.transferred is None) == (row.strategy == SCRATCH)


def test_pre_training_helps_most_where_there_are_few_samples(found: Comparison) -> None:
    def gain(size: str) -> float:
        tuned, scratch = found.row("full", size), found.row(SCRATCH, size)
        assert tuned is not None
        assert scratch is not None
        return tuned.accuracy[0] - scratch.accuracy[0]

    assert gain("2/class") > 0.05
    worth = found.row("full", "2/class")
    assert worth is not None
    assert worth.transferred is not None
    assert worth.transferred.effective > 0


def test_finished_cells_are_not_trained_again(tmp_path: Path) -> None:
    options = {"compare": False, "sizes": ["all"]}
    first = compared(tmp_path, **options)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert compared(tmp_path, **options) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")} == stamps
    assert len(stamps) == 4


def test_no_sample_is_both_trained_with_and_scored() -> None:
    work, _ = planned(data(), pretrained(), ["full"], folds=3)
    task = work.task()
    scored = []
    for number in range(3):
        fold = work.fold(task, number)
        assert not set(fold.train.indices) & set(fold.test.indices)
        assert len(fold.train) + len(fold.test) == 90
        scored += fold.test.indices.tolist()
        y = arrays(n=90, seed=5)[1]
        assert fold.test.y is not None
        assert fold.test.y.tolist() == y[fold.test.indices].tolist()
    assert sorted(scored) == list(range(90))


def test_a_test_set_of_its_own_is_scored_alone() -> None:
    held = data(n=30, shift=1.0, seed=9)
    work, cells = planned(data(), pretrained(), ["full"], test=held)
    fold = work.fold(work.task(), 0)
    assert (len(fold.train), len(fold.test), len(cells)) == (90, 30, 1)
    assert fold.test.y is not None
    assert fold.test.y.tolist() == arrays(n=30)[1].tolist()


def test_from_scratch_nothing_is_left_of_what_was_learnt() -> None:
    work, _ = planned(data(), pretrained(), ["full"], compare=True)
    subject = work.subject(work.task())
    before = subject.make(0).state_dict()
    after = from_scratch(subject.make(0), subject, 0).state_dict()
    for name in before:
        if name.startswith("backbone") and name.endswith("0.weight"):
            assert not torch.allclose(before[name], after[name]), name
    assert torch.equal(after["backbone.0.1.running_mean"], torch.zeros(16))
    again = from_scratch(subject.make(0), subject, 0).state_dict()
    assert all(torch.equal(after[k], again[k]) for k in after)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    x, y = arrays(n=30)
    with pytest.raises(DomadaptError, match="needs labels"):
        planned(from_arrays(x), pretrained(), ["full"])
    with pytest.raises(DomadaptError, match="measurements"):
        planned(from_arrays(x, y * 1.0, regression=True), pretrained(), ["full"])
    with pytest.raises(DomadaptError, match="no labels to score by"):
        planned(data(), pretrained(), ["full"], test=from_arrays(x))
    with pytest.raises(DomadaptError, match="Did you mean 'lp_ft'"):
        planned(data(), pretrained(), ["lpft"])
    with pytest.raises(DomadaptError, match="asks for 3 blocks"):
        planned(data(), pretrained(), ["partial:3"])
    with pytest.raises(DomadaptError, match="by itself"):
        planned(data(), pretrained(), ["scratch"])
    with pytest.raises(DomadaptError, match="one class has"):
        planned(data(), pretrained(), ["full"], sizes=["40/class"])
    with pytest.raises(DomadaptError, match="random weights"):
        planned(data(), "mlp", ["full"])
    with pytest.raises(DomadaptError, match=r"lies in \(0, 1\]"):
        finetune(data(), pretrained(), ["full"], out=tmp_path, level=90)


def test_the_rate_of_fine_tuning_is_not_that_of_training_from_scratch() -> None:
    how = {"steps": 12, "batch_size": 16, "device": "cpu", "optimizer": "sgd", "lr": 0.05}

    def rates(**more: object) -> dict[str, tuple[str, float, int]]:
        _, cells = planned(data(), pretrained(), ["full"], compare=True, training=how, **more)
        said = {cell.method: cell.config["training"] for cell in cells}
        return {
            name: (given.get("optimizer", "adamw"), given.get("lr", 1e-3), given["steps"])
            for name, given in said.items()
        }

    assert rates() == {"full": ("sgd", 0.05, 12), "scratch": ("adamw", 1e-3, 12)}
    assert rates(scratch_lr=0.002)["scratch"] == ("adamw", 0.002, 12)
    with pytest.raises(DomadaptError, match="only a comparison has"):
        planned(data(), pretrained(), ["full"], scratch_lr=0.002)


# What is shown


def test_the_page_stands_alone_and_tables_say_what_was_found(found: Comparison) -> None:
    page = render(found)
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == 3
    text, plain = markdown(found), terminal(found)
    for shown in (page, text, plain):
        assert "from scratch" in shown
        assert "499" in shown
    mean, spread = found.rows[0].accuracy
    assert f"{100 * mean:.1f} ± {100 * spread:.1f}" in plain
    assert len(tables(found)) == 3
    assert called(SCRATCH) == "from scratch"
    tuned, scratch = found.best().accuracy[0], found.row(SCRATCH, "all")
    assert scratch is not None
    lead = " ".join(headline(found))
    assert ("points better" in lead) == (tuned >= scratch.accuracy[0])
    assert ("no strategy reaches" in lead) == (tuned < scratch.accuracy[0])
    assert model_name("/a/b/c.py:net") == "c.py:net"
    assert model_name("resnet20=/a/w.th") == "resnet20=w.th"
    assert model_name("hf:/a/model/") == "hf:model"


def test_the_json_holds_every_row(found: Comparison) -> None:
    held = json.loads(found.to_json())
    assert held["schema"] == 1
    assert len(held["rows"]) == 6
    assert held["rows"][0]["strategy"] == "full"


def test_the_best_strategy_is_kept_as_a_run(tmp_path: Path) -> None:
    from domadapt.runs.saved import load_run, predict

    found = compared(tmp_path, compare=False, sizes=["all"])
    training = {"steps": 20, "batch_size": 16, "workers": 0, "device": "cpu"}
    kept = module.save_model(found, data(), pretrained(), tmp_path, training=training)
    assert kept == found.best().strategy
    p = predict(load_run(tmp_path / "model"), data(shift=0.0, seed=11))
    assert (p.argmax(1).numpy() == arrays(n=90)[1]).mean() > 0.6


# The command


def run_command(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    from domadapt import cli

    monkeypatch.setattr("sys.argv", ["domadapt", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err  # type: ignore[arg-type]


def in_this_process(cells: Cells, wanted: list, work: object, **_: object) -> None:  # type: ignore[type-arg]
    for cell in engine.shared(cells, wanted):
        cells.perform(cell, work)  # type: ignore[arg-type]


MODEL = """
import torch
from torch import nn

def backbone():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    ), {"mean": [0.0], "std": [1.0]}
"""


def test_the_command_compares_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", in_this_process)
    x, y = arrays(n=60)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    (tmp_path / "model.py").write_text(MODEL)
    words = "finetune data.npz --model model.py:backbone --strategy full,lp_ft --folds 2"
    words += " --steps 6 --batch-size 8 --workers 0 --device cpu --out found"
    dry = [*words.split(), "--compare", "--sizes", "8,all", "--dry-run"]
    code, out, err = run_command(dry, monkeypatch, capsys)
    assert code == 0, err
    assert "Trainings  12: 3 ways x 2 sizes x 2 folds x 1 seeds" in out
    assert "steps=6" in out
    assert not (tmp_path / "found").exists()
    code, out, err = run_command([*words.split(), "--compare"], monkeypatch, capsys)
    assert (code, "from scratch" in out) == (0, True), err
    held = sorted(p.name for p in (tmp_path / "found").glob("finetune.*"))
    assert held == ["finetune.html", "finetune.json", "finetune.md"]
    assert not (tmp_path / "found" / "model").exists()


def test_the_command_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "data.npz", x=arrays(n=30)[0], y=arrays(n=30)[1])
    for words, said in (
        (["data.npz"], "needs one pre-trained model"),
        (["data.npz", "--model", "mlp"], "random weights"),
        (["data.npz", "--model", "mlp", "--strategy", "half"], "no fine-tuning strategy 'half'"),
        (["data.npz", "--from", "runs/a", "--weights", "w.pth"], "a run has its own"),
    ):
        code, _, err = run_command(["finetune", *words], monkeypatch, capsys)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_without_compare_the_command_keeps_a_run_that_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", in_this_process)
    x, y = arrays(n=60)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    (tmp_path / "model.py").write_text(MODEL)
    words = "finetune data.npz --model model.py:backbone --strategy adapters:2 --folds 2"
    words += " --steps 6 --batch-size 8 --workers 0 --device cpu --out found"
    code, out, err = run_command(words.split(), monkeypatch, capsys)
    assert code == 0, err
    assert "keeps" not in err
    assert "domadapt predict found/model DATA" in out
    code, _, err = run_command(
        ["predict", "found/model", "data.npz", "-o", "p.csv"], monkeypatch, capsys
    )
    assert code == 0, err
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 61


def test_the_command_finds_texts_and_checks_strategies_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    import pandas as pd
    import tiny

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", in_this_process)
    tiny.tiny_bert(tmp_path / "bert")
    code, _, err = run_command(
        ["finetune", "none.csv", "--model", "hf:bert", "--strategy", "lp_tf"], monkeypatch, capsys
    )
    assert code == 2
    assert "no fine-tuning strategy 'lp_tf'" in err
    for name, n in (("books", 24), ("pans", 18)):
        texts, y = tiny.texts(name, n)
        y = y if name == "books" else [f"{c} pan" for c in y]
        pd.DataFrame({"id": range(n), "text": texts, "label": y}).to_csv(f"{name}.csv", index=False)
    words = "finetune books.csv --model hf:bert --strategy full --also pans.csv --folds 2 --steps 2"
    words += " --batch-size 6 --workers 0 --device cpu --out found --max-length 12"
    code, _, err = run_command(words.split(), monkeypatch, capsys)
    assert code == 0, err
    held = json.loads((tmp_path / "found" / "finetune.json").read_text())
    assert [row["strategy"] for row in held["rows"]] == ["full", "full (shared)"]
    assert held["classes"] == 2
