"""Studies of layers: what they find, that they resume, what they say and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from domadapt import cli
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.layers import (
    Arrangement,
    LayerStudy,
    Reset,
    Settings,
    arranged,
    blocks_of,
    layers,
)
from domadapt.layers.figure import figure
from domadapt.layers.page import render
from domadapt.layers.results import Row, headline
from domadapt.layers.settings import drawn
from domadapt.layers.subject import subject_of, task_for
from domadapt.layers.tables import markdown, tables, terminal
from domadapt.network import Network
from domadapt.report.drawing import to_svg
from domadapt.runs.cell import Cell, Cells
from domadapt.task import Domain
from tests.tiny import domain, tiny_bert

WIDTH, BLOCKS, MIDDLE = 16, 5, 2


class Residual(nn.Module):
    """``x + out(relu(in(x)))``."""

    def __init__(self, width: int = WIDTH, hidden: int = 48) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + self.outer(self.inner(x).relu())
        return moved


def exclusive_or(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around the corners of a square in 2 of many directions; opposite corners are alike."""
    rng = np.random.default_rng(seed)
    corner = rng.choice([-1.0, 1.0], size=(n, 2))
    x = 0.5 * rng.normal(size=(n, WIDTH))
    x[:, :2] = corner + 0.25 * rng.normal(size=(n, 2))
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)))[0]
    return (x @ turn).astype("float32"), (corner.prod(1) > 0).astype(int)


@pytest.fixture(scope="module")
def middle() -> Network:
    """A chain of random blocks of which one alone, in the middle, was trained on the task.

    The others stayed at the values that torch draws, so they hold nothing of it.
    """
    torch.manual_seed(0)
    backbone = nn.Sequential(*(Residual() for _ in range(BLOCKS)))
    network = Network(backbone, nn.Linear(WIDTH, 2))
    learns = [*backbone[MIDDLE].parameters(), *network.head.parameters()]
    optimizer = torch.optim.Adam(learns, 0.01)
    x, y = (torch.from_numpy(v) for v in exclusive_or(4000, 0))
    for step in range(250):
        part = torch.arange(step * 200, step * 200 + 200) % len(x)
        loss = nn.functional.cross_entropy(network(x[part]), y[part])
        loss.backward()
        optimizer.step()
        network.zero_grad()
    x, y = (torch.from_numpy(v) for v in exclusive_or(1000, 1))
    assert float((network(x).argmax(1) == y).float().mean()) > 0.97
    return network.requires_grad_(True)


def downstream(n: int = 400, seed: int = 2) -> Domain:
    x, y = exclusive_or(n, seed)
    return from_arrays(x, y, name="corners")


#: Short, on the CPU, with a rate that moves such a network.
QUICK = {"steps": 30, "lr": 0.02, "head_lr_multiple": 1.0, "device": "cpu"}


def test_the_block_that_was_trained_is_the_one_that_matters(
    middle: Network, tmp_path: Path
) -> None:
    settings = Settings(
        studies=("localised", "progressive", "inverse", "probing"),
        sizes=(60,),
        training=QUICK,
    )
    study = layers(middle, downstream(), out=tmp_path, settings=settings)
    assert not study.notes
    lost = study.lost(60)
    assert max(lost, key=lambda i: lost[i].mean) == MIDDLE
    best = lost[MIDDLE]
    assert best.low is not None
    assert best.low > 0.1
    assert all(lost[i].mean < best.mean / 3 for i in lost if i != MIDDLE)
    # Alone it does as much as all together, and every other block as little as none.
    alone, whole = study.curve("inverse", 60), study.curve("whole", 60)[0].mean
    assert max(alone, key=lambda i: alone[i].mean) == MIDDLE
    assert alone[MIDDLE].mean > whole - 0.05
    # Keeping the first k blocks helps from this block on.
    kept = study.curve("progressive", 60)
    assert kept[MIDDLE + 1].mean - kept[MIDDLE].mean > 0.1
    # And a probe reads the classes after it, not before.
    probes = study.curve("probing", 60)
    assert probes[MIDDLE + 1].mean - probes[MIDDLE].mean > 0.1
    assert f"{study.blocks[MIDDLE]} is missed most" in headline(study)


def test_finished_cells_are_not_run_again(
    middle: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    perform = Cells.perform

    def counted(self: Cells, cell: Cell, work: Any) -> None:
        ran.append(cell.method)
        if cell.method.startswith("localised 3"):
            raise KeyboardInterrupt
        perform(self, cell, work)

    settings = Settings(studies=("localised",), seeds=(0,), training={**QUICK, "steps": 3})
    monkeypatch.setattr(Cells, "perform", counted)
    with pytest.raises(KeyboardInterrupt):
        layers(middle, downstream(), out=tmp_path, settings=settings)
    assert len(ran) == 6  # whole, from scratch, and blocks 0 to 3
    ran.clear()

    def noted(self: Cells, cell: Cell, work: Any) -> None:
        ran.append(cell.method)
        perform(self, cell, work)

    monkeypatch.setattr(Cells, "perform", noted)
    whole = layers(middle, downstream(), out=tmp_path, settings=settings)
    assert [name.split(",")[0] for name in ran] == ["localised 3", "localised 4"]
    ran.clear()
    again = layers(middle, downstream(), out=tmp_path, settings=settings)
    assert not ran
    assert again.rows == whole.rows
    # The last block begins anew alone in the progressive study, too: that cell is there already.
    more = dataclasses.replace(settings, studies=("localised", "progressive"))
    layers(middle, downstream(), out=tmp_path, settings=more)
    assert [name.split(",")[0] for name in ran] == [f"progressive {k}" for k in range(4)]
    ran.clear()
    other = dataclasses.replace(settings, how=Reset("permute"))
    layers(middle, downstream(), out=tmp_path, settings=other)
    assert len(ran) == 6  # all but the whole network, which begins nothing anew
    fresh = layers(middle, downstream(), out=tmp_path / "fresh", settings=settings)
    assert fresh.rows == whole.rows


class Maps(nn.Module):
    """A small convolution network in three blocks, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 6, 6, 6)
        self.chain = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.chain:
            x = layer(x)
        return x


def squares(n: int, seed: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images with a bright square in one of four corners."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    x = rng.integers(0, 60 + shift, size=(n, 8, 8, 3), dtype=np.uint8)
    for i, c in enumerate(y):
        x[i, 4 * (c // 2) + 1 : 4 * (c // 2) + 3, 4 * (c % 2) + 1 : 4 * (c % 2) + 3] += 150
    return x, y


def test_every_study_of_a_convolution_network_with_a_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(Maps(), nn.Linear(6, 4))
    x, y = squares(80, 0)
    x_t, y_t = squares(40, 1, 60)
    settings = Settings(
        studies=(
            "progressive",
            "localised",
            "inverse",
            "permutation",
            "probing",
            "anb",
            "anb+",
            "criticality",
            "cka",
        ),
        sizes=("full", 30),
        seeds=(0,),
        window=2,
        orders=3,
        how=Reset("released", biases="keep", norms="keep"),
        training={**QUICK, "steps": 4, "batch_size": 8},
    )
    study = layers(
        network,
        from_arrays(x, y, name="dark"),
        from_arrays(x_t, y_t, name="bright"),
        out=tmp_path,
        settings=settings,
        augment="none",
    )
    assert study.sizes == (64, 30)
    assert study.blocks == ("chain.0", "chain.1", "chain.2")
    for size in study.sizes:
        assert sorted(study.curve("progressive", size)) == [0, 1, 2, 3]
        assert sorted(study.curve("localised", size)) == [0, 1]
        assert sorted(study.curve("probing", size)) == [1, 2, 3]
        assert sorted(study.curve("anb", size)) == [1, 2, 3]
        for k in (1, 2, 3):
            assert study.scores("anb+", k, size) == study.scores("progressive", k, size)
        assert study.scores("whole", 0, size) == study.scores("progressive", 3, size)
        critical = study.look("criticality", "critical", size)
        assert critical is not None
        assert all(v is not None and 0 <= v.mean <= 1 for v in critical)
        for key in ("source", "target", "domains_before", "domains_after"):
            values = study.look("cka", key, size)
            assert values is not None
            assert len(values) == 3
    # Two blocks are alike, so there is one other order, and that is told.
    assert study.orders == ((0, 2, 1),)
    assert any("only 1 other order" in note for note in study.notes)
    trained = [r for r in study.rows if r.study != "probing"]
    assert all(r.target is not None and 0 <= r.target <= 1 for r in trained)
    titles = [table.title for table in tables(study)]
    assert "On the target bright, with its labels" in titles
    assert "biases kept" in study.initialisation
    page = render(study)
    assert page.count("<svg") == 3
    assert LayerStudy.from_json(study.to_json()) == LayerStudy.from_json(study.to_json())


class Tokens(nn.Module):
    """Two blocks over embedded tokens, averaged where the mask shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Residual(8, 8), Residual(8, 8)])

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        z = self.embed(x["input_ids"])
        for layer in self.layers:
            z = layer(z)
        mask = x["attention_mask"][..., None].to(z)
        pooled: Tensor = (z * mask).sum(1) / mask.sum(1)
        return pooled


class Sentences:
    """Tokens with their mask, by index."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        ids = self.ids[list(indices)]
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_dictionary_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (60, 5))
    ids[::3, 3:] = 0
    y = (ids[:, 0] > 9).long().numpy()
    words = Domain("words", Sentences(ids), labels=y, kind="text")
    settings = Settings(
        studies=("localised", "probing", "cka"),
        seeds=(0,),
        training={**QUICK, "steps": 4, "batch_size": 8},
    )
    study = layers(Network(Tokens(), nn.Linear(8, 2)), words, out=tmp_path, settings=settings)
    assert study.blocks == ("layers.0", "layers.1")
    assert study.outside == 160
    assert sorted(study.lost(48)) == [0, 1]
    assert study.look("cka", "source", 48) is not None
    assert study.look("cka", "target", 48) is None


def test_an_encoder_of_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    name = tiny_bert(tmp_path / "tiny", initializer_range=0.5)
    books = domain("books", 40)
    study = layers(
        name,
        books,
        out=tmp_path / "out",
        settings=Settings(
            studies=("localised", "anb", "probing"),
            seeds=(0,),
            epochs=1,
            training={"batch_size": 16, "device": "cpu"},
        ),
        max_length=16,
    )
    assert not study.notes
    assert study.model == "hf:tiny"
    # The paper keeps the embeddings: they are no block.
    assert study.blocks == ("model.encoder.layer.0", "model.encoder.layer.1")
    assert study.outside > 0
    assert "built anew" in study.initialisation
    assert study.settings["kind"] == "transformer"
    # What a block begins with has the model's own deviation, not torch's uniform one.
    subject = subject_of(name, task_for(books, None))
    network = subject.make(0)
    blocks = blocks_of(network)
    before = state_dict(network)
    assert subject.fresh is not None
    arranged(network, blocks, Arrangement(reset=(1,)), Reset(), 0, subject.fresh(0))
    weights = [p for n, p in network.named_parameters() if "layer.1" in n and p.ndim == 2]
    drawn_ = torch.cat([w.detach().flatten() for w in weights])
    assert abs(float(drawn_.std()) - 0.5) < 0.03
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all("layer.1" in n for n in changed)


def state_dict(network: nn.Module) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in network.state_dict().items()}


def test_measurements(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, WIDTH)).astype("float32")
    values = 50 + 10 * x[:, :2]
    torch.manual_seed(0)
    network = Network(nn.Sequential(Residual(), Residual()), nn.Linear(WIDTH, 2))
    settings = Settings(seeds=(0,), training={**QUICK, "steps": 60})
    measured = from_arrays(x, values, name="measured", regression=True)
    study = layers(network, measured, out=tmp_path, settings=settings)
    assert study.metric == "r2"
    assert study.curve("whole", 64)[0].mean > 0.5
    assert study.curve("probing", 64)[1].mean > 0.9
    assert "R²" in terminal(study)


# What follows from the scores


def made(rows: Sequence[Row], **more: Any) -> LayerStudy:
    fields: dict[str, Any] = {
        "model": "net=net.th",
        "data": "some",
        "target": None,
        "metric": "accuracy",
        "blocks": ("a", "b", "c"),
        "parameters": (10, 20, 30),
        "outside": 0,
        "samples": 100,
        "held_out": 25,
        "sizes": (100,),
        "seeds": (0, 1, 2),
        "studies": ("localised", "probing"),
        "window": 1,
        "initialisation": "at random",
        "settings": {},
        "rows": tuple(rows),
    }
    return LayerStudy(**{**fields, **more})


def rows_of(study: str, table: Sequence[Sequence[float]], first: int = 0) -> list[Row]:
    """One line per seed, one column per position."""
    return [
        Row(study, first + k, 100, seed, v)
        for seed, line in enumerate(table)
        for k, v in enumerate(line)
    ]


WHOLE = [[0.90], [0.92], [0.94]]
WITHOUT = [[0.80, 0.90, 0.91], [0.85, 0.91, 0.90], [0.87, 0.94, 0.95]]


def test_a_network_that_was_trained_too_briefly_tells_nothing_of_blocks() -> None:
    short = [[0.5], [0.5], [0.55]]
    rows = rows_of("whole", short) + rows_of("localised", WITHOUT)
    probes = rows_of("probing", [[0.3, 0.7, 0.6]] * 3, 1)
    said = headline(made(rows + probes, studies=("localised", "probing")))
    assert "below the 70.0 of a linear probe" in said
    assert "Raise --steps" in said
    assert "missed" not in said
    # A probe that is as good, or was not made, says nothing against it.
    near = rows_of("probing", [[0.3, 0.55, 0.5]] * 3, 1)
    for more in (near, []):
        assert "--steps" not in headline(made(rows + more, studies=("localised", "probing")))


def test_what_is_lost_is_paired_by_seed() -> None:
    study = made(rows_of("whole", WHOLE) + rows_of("localised", WITHOUT))
    lost = study.lost(100)
    first = np.array([0.10, 0.07, 0.07])
    wanted = stats.t.interval(0.9, 2, first.mean(), stats.sem(first))
    assert (lost[0].low, lost[0].high) == pytest.approx(wanted)
    assert lost[1].mean == pytest.approx((0 + 0.01 + 0) / 3)
    said = headline(study)
    assert "With all 100 samples block a is missed most, 8.0 points of accuracy" in said
    # Over windows of two, b lies in both and a in the first alone.
    wide = made(
        rows_of("whole", WHOLE) + rows_of("localised", [line[:2] for line in WITHOUT]), window=2
    )
    lost = wide.lost(100)
    assert lost[0].mean == pytest.approx(first.mean())
    assert lost[1].mean == pytest.approx((first.mean() + 0.01 / 3) / 2)
    assert lost[2].mean == pytest.approx(0.01 / 3)


def test_headlines_of_what_is_not_clear() -> None:
    noisy = [[0.95, 0.9, 0.9], [0.80, 0.92, 0.92], [0.93, 0.94, 0.94]]
    study = made(rows_of("whole", WHOLE) + rows_of("localised", noisy))
    assert "no single block is clearly missed (most block a" in headline(study).lower()
    # The first has the largest mean, the second alone an interval above 0.
    second = [[0.95, 0.87, 0.9], [0.80, 0.89, 0.92], [0.81, 0.91, 0.94]]
    rows = rows_of("whole", WHOLE) + rows_of("localised", second)
    said = headline(made(rows))
    assert "block b is clearly missed, 3.0 points of accuracy are lost without it." in said
    kept = rows_of("progressive", [[0.3, 0.6, 0.91, 0.92]] * 3)
    said = headline(made(rows + kept, studies=("localised", "progressive")))
    assert said.endswith("The first 2 of 3 blocks alone end 1.0 points below all of them.")
    gains = [[0.95] * 3, [0.95] * 3, [0.95] * 3]
    study = made(rows_of("whole", WHOLE) + rows_of("localised", gains))
    assert "no block is missed" in headline(study)
    one = made(rows_of("whole", WHOLE[:1]) + rows_of("localised", WITHOUT[:1]), seeds=(0,))
    assert one.lost(100)[0].low is None
    assert "block a is missed most" in headline(one)
    probes = made(rows_of("probing", [[0.5, 0.7, 0.6]], 1), studies=("probing",), seeds=(0,))
    assert "A linear probe reads most after block b: 70.0" in headline(probes)


def test_agreement_is_a_rank_correlation() -> None:
    probes = rows_of("probing", [[0.3, 0.5, 0.4]] * 3, 1)
    study = made(rows_of("whole", WHOLE) + rows_of("localised", WITHOUT) + probes)
    # Lost 0.08, 0.0033 and 0, ranks 3, 2, 1; probes 1, 3, 2: 1 - 6 (4 + 1 + 1) / (3 (9 - 1)).
    assert study.agreement(100) == pytest.approx(-0.5)
    assert made(probes).agreement(100) is None


def test_figure_page_and_texts() -> None:
    rows = rows_of("whole", WHOLE) + rows_of("localised", WITHOUT) + rows_of("scratch", [[0.3]] * 3)
    rows += rows_of("progressive", [[0.4, 0.8, 0.9, 0.92]] * 3)
    rows += rows_of("probing", [[0.3, 0.5, 0.4]] * 3, 1)
    study = made(
        rows,
        studies=("progressive", "localised", "probing"),
        blocks=("a<b>", "b$x$", "layer3.very.long.name"),
        notes=("a cell <failed>",),
        versions={"torch": "2"},
    )
    drawn_ = figure(study)
    svg = to_svg(drawn_, "layers")
    for words in ("points of accuracy lost", "block, from input to output", "linear probe"):
        assert words in svg
    upper, lower = drawn_.axes
    assert lower.get_xticklabels()[0].get_text() == "none"
    assert upper.get_xlim() == lower.get_xlim()
    page = render(study)
    assert "a&lt;b&gt;" in page
    assert "&lt;failed&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/", "")
    text = terminal(study)
    assert "+8.0 (5.1 to 10.9)" in text
    assert "nothing is known" not in text
    assert markdown(study).startswith("# With all 100 samples")
    back = LayerStudy.from_json(study.to_json())
    assert back == study
    assert to_svg(figure(back), "layers") == svg
    with pytest.raises(DomadaptError, match="no study of layers"):
        LayerStudy.from_json("{}")
    old = json.dumps({**json.loads(study.to_json()), "schema": 0})
    with pytest.raises(DomadaptError, match="schema 0"):
        LayerStudy.from_json(old)


# Settings


def test_subsets_keep_the_shares_exactly() -> None:
    y = np.repeat([0, 1, 2], [700, 250, 50])
    for size in (10, 100, 333):
        index = drawn(y, size, 0)
        assert len(index) == len(set(index.tolist())) == size
        counts = np.bincount(y[index], minlength=3)
        assert np.all(np.abs(counts - size * np.array([0.7, 0.25, 0.05])) < 1)
    assert np.bincount(y[drawn(y, 3, 0)]).tolist() == [1, 1, 1]
    assert not np.array_equal(drawn(y, 100, 0), drawn(y, 100, 1))
    assert np.array_equal(drawn(y, 100, 4), drawn(y, 100, 4))
    assert np.array_equal(drawn(y, 5000, 0), np.arange(1000))
    values = np.arange(100.0)[:, None]
    assert np.bincount(drawn(values, 20, 0) // 10).tolist() == [2] * 10


def test_epochs_become_steps() -> None:
    settings = Settings(epochs=2, training={"batch_size": 32})
    assert settings.training_of("transformer", 500, 0).steps == 32
    assert Settings().training_of("pretrained", 500, 3).steps == 300
    assert Settings().training_of("pretrained", 500, 3).seed == 3


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"studies": ("progresive",)}, "progressive"),
        ({"sizes": (1,)}, "from 2 on"),
        ({"sizes": ("half",)}, "'full' or a number"),
        ({"sizes": ()}, "at least one"),
        ({"seeds": (1, 1)}, "seeds must differ"),
        ({"seeds": (-1,)}, "not be negative"),
        ({"epochs": 2, "training": {"steps": 3}}, "not both"),
        ({"training": {"seed": 3}}, "give seeds"),
        ({"alphas": (0.5, 0.2, 1.0)}, "must rise"),
        ({"orders": 0}, "orders"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(DomadaptError, match=reason):
        Settings(**given)


def test_studies_that_are_refused(middle: Network, tmp_path: Path) -> None:
    few = Settings(sizes=(5000,), training=QUICK)
    with pytest.raises(DomadaptError, match="fewer than every size"):
        layers(middle, downstream(), out=tmp_path, settings=few)
    with pytest.raises(DomadaptError, match="begins with random weights"):
        layers("mlp", downstream(), out=tmp_path)
    with pytest.raises(DomadaptError, match="scored by one of accuracy"):
        layers(middle, downstream(), out=tmp_path, settings=Settings(metric="r2"))
    wide = Settings(window=9, training=QUICK)
    with pytest.raises(DomadaptError, match="between 1 and all 5"):
        layers(middle, downstream(), out=tmp_path, settings=wide)
    unknown = dataclasses.replace(few, sizes=("full",), training={"stepz": 3})
    with pytest.raises(DomadaptError, match="stepz"):
        layers(middle, downstream(), out=tmp_path, settings=unknown)
    assert len(blocks_of(middle)) == BLOCKS


OWN = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*parts), {"mean": [0.0], "std": [1.0]}
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    np.savez(tmp_path / "some.npz", x=x, y=(x[:, 0] > 0).astype(int))
    (tmp_path / "own.py").write_text(OWN)

    def run(*more: str) -> int:
        words = f"domadapt transferability layers {tmp_path}/own.py:net --data {tmp_path}/some.npz"
        options = f"--studies localised,probing --sizes full,20 --seeds 1 --out {tmp_path}/out"
        argv = [*words.split(), *options.split(), *more]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    assert run("--steps", "3", "--device", "cpu", "--processes", "1") == 0
    said = capsys.readouterr().out
    assert "lost without it" in said
    out = tmp_path / "out"
    for name in ("layers.html", "layers.json", "layers.md", "layers.png", "layers.svg"):
        assert (out / name).stat().st_size > 500
    study = LayerStudy.from_json((out / "layers.json").read_text())
    assert study.sizes == (48, 20)
    assert run("--sizes", "many") == 2
    assert "--sizes takes" in capsys.readouterr().err
    assert run("--seeds", "x") == 2
    assert run("--seed", "3") == 2
    assert "give --seeds" in capsys.readouterr().err.replace("\n", " ")
