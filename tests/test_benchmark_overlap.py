"""Overlap and duplicates: planted ones are found and counted, on every form of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from domadapt.benchmark import Suite, report
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.overlap import (
    Overlap,
    keep_overlap,
    known,
    overlap,
    overlap_checks,
)
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.work import SuiteWork
from domadapt.data import from_arrays
from domadapt.runs.cell import Cells
from domadapt.task import Domain, Raw, Task

HERE = Path(__file__).parent


def vectors(n: int, seed: int, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def labels(n: int) -> np.ndarray:
    return np.arange(n) % 2


def domain(x: np.ndarray, name: str, groups: np.ndarray | None = None) -> Domain:
    return from_arrays(x, labels(len(x)), name=name, groups=groups)


def test_nothing_in_common() -> None:
    found = overlap(Task(domain(vectors(40, 0), "a"), domain(vectors(30, 1), "b")))
    assert found.transductive
    assert set(found.equal) == {"source_val in source_train", "target_train in source"}
    assert set(found.equal.values()) == {0}
    assert set(found.within.values()) == {0}
    assert found.sizes == {"source_train": 32, "source_val": 8, "target_train": 30}
    assert found.alike == {}
    assert found.groups == {}


def test_planted_copies_are_counted() -> None:
    x_s, x_t, x_v = vectors(40, 0), vectors(30, 1), vectors(20, 2)
    x_t[3] = x_t[4] = x_s[7]  # in the source, and twice in the target
    x_v[:5] = x_t[10:15]
    x_v[19] = x_s[0]
    task = Task(domain(x_s, "a"), domain(x_t, "b"), target_test=domain(x_v, "b test"))
    found = overlap(task)
    assert not found.transductive
    assert found.equal["target_train in source"] == 2
    assert found.equal["target_test in source"] == 1
    assert found.equal["target_test in target_train"] == 5
    assert found.within["target_train"] == 1
    assert found.within["target_test"] == 0
    # Twins of the source: each is in both parts, or twice in one.
    twins = np.concatenate([x_s, x_s])
    both = overlap(Task(domain(twins, "a"), domain(x_t, "b")))
    val = set(map(bytes, both_rows(twins, both, "source_val")))
    train = set(map(bytes, both_rows(twins, both, "source_train")))
    assert both.equal["source_val in source_train"] == sum(
        bytes(row) in train for row in both_rows(twins, both, "source_val")
    )
    assert both.within["source_val"] == both.sizes["source_val"] - len(val)


def both_rows(x: np.ndarray, found: Overlap, split: str) -> list[np.ndarray]:
    task = Task(domain(x, "a"), domain(vectors(30, 1), "b"))
    part = getattr(task, split)
    assert len(part) == found.sizes[split]
    return [x[i] for i in part.indices]


def test_the_cap_is_kept_and_said() -> None:
    task = Task(domain(vectors(400, 0), "a"), domain(vectors(300, 1), "b"))
    found = overlap(task, most=100)
    assert found.looked == {"source_train": 100, "source_val": 80, "target_train": 100}
    said = {c.what: c for c in overlap_checks({"t": found})}
    assert "100 of 300" in said["no sample twice within a split"].found


def test_groups_stay_whole() -> None:
    people = np.repeat(np.arange(10), 4)
    task = Task(domain(vectors(40, 0), "a", people), domain(vectors(40, 1), "b", people))
    assert overlap(task).groups == {"source_val in source_train": 0}
    test = domain(vectors(8, 2), "b test", np.repeat([3, 99], 4))
    task = Task(domain(vectors(40, 0), "a"), domain(vectors(40, 1), "b", people), target_test=test)
    found = overlap(task)
    assert found.groups == {"target_test in target_train": 1}
    assert [c.kept for c in overlap_checks({"t": found}) if c.what == "groups whole"] == [False]


# Images -----------------------------------------------------------------------------------------


def images(n: int, seed: int, side: int = 16) -> np.ndarray:
    """Smooth coloured noise: no two look alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, side // 8, 1), side // 8, 2)


def test_images_that_look_alike_are_a_hint() -> None:
    x_s, x_t = images(40, 0), images(30, 1)
    x_t[0] = x_s[5]  # equal
    x_t[1] = np.clip(x_s[6].astype(int) + 2, 0, 255)  # a little brighter
    dark = x_s[7].astype(int) // 3
    x_t[2] = dark  # the same average hash or nearly, and far darker
    found = overlap(Task(domain(x_s, "a"), domain(x_t, "b")))
    assert found.equal["target_train in source"] == 1
    assert found.alike["target_train in source"] == 1
    assert found.alike["source_val in source_train"] == 0
    assert found.alike_of["target_train in source"] == 30
    check = {c.what: c for c in overlap_checks({"t": found})}["target apart from the source"]
    assert not check.kept
    assert "1 of 30" in check.found
    assert "hint" in check.found


class Sized:
    """Images of different sizes."""

    def __init__(self, images: list[torch.Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        return [self.images[i] for i in indices]


def test_images_of_different_sizes() -> None:
    draw = torch.Generator().manual_seed(0)
    made = [
        torch.randint(0, 256, (3, 9 + i % 5, 9 + i % 3), generator=draw, dtype=torch.uint8)
        for i in range(40)
    ]
    source = Domain("a", Sized(made), labels(40), kind="image")
    found = overlap(Task(source, Domain("b", Sized(made[:10]), labels(10), kind="image")))
    assert found.equal["target_train in source"] == 10
    # The same bytes in another shape are another image.
    turned = [m.reshape(3, m.shape[2], m.shape[1]) for m in made[:10]]
    square = sum(m.shape[1] == m.shape[2] for m in made[:10])
    assert 0 < square < 10
    other = overlap(Task(source, Domain("b", Sized(turned), labels(10), kind="image")))
    assert other.equal["target_train in source"] == square


# Text -------------------------------------------------------------------------------------------


class Tokens:
    """Token ids, padded to the longest of the batch."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        length = max(len(self.texts[i]) for i in indices)
        ids = torch.zeros(len(indices), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(indices):
            ids[row, : len(self.texts[i])] = torch.tensor(self.texts[i])
            mask[row, : len(self.texts[i])] = 1
        return {"input_ids": ids, "attention_mask": mask}


def test_padding_does_not_hide_a_copy() -> None:
    source = [[i + 1] * (2 + i % 7) for i in range(40)]
    target = [[100 + i] for i in range(9)] + [source[3], [500] * 90]
    assert len(source[3]) < 90
    task = Task(
        Domain("a", Tokens(source), labels(40), kind="text"),
        Domain("b", Tokens(target), labels(11), kind="text"),
    )
    assert overlap(task).equal["target_train in source"] == 1


# In a benchmark ---------------------------------------------------------------------------------


def test_transductive_is_named_and_no_fault() -> None:
    plain = overlap(Task(domain(vectors(40, 0), "a"), domain(vectors(30, 1), "b")))
    checks = {c.what: c for c in overlap_checks({"one": plain, "two": plain})}
    assert all(c.kept for c in checks.values())
    assert "transductive" in checks["protocol"].found
    assert "2 tasks" in checks["protocol"].found
    part = dataclasses.replace(
        plain,
        transductive=False,
        equal={**plain.equal, "target_test in target_train": 3},
        looked={**plain.looked, "target_test": 20},
    )
    check = overlap_checks({"one": part})[0]
    assert check.kept
    assert "in part transductive" in check.found
    assert "one 3 of 20" in check.found
    [unseen] = overlap_checks({"new": None})
    assert not unseen.kept
    assert "new" in unseen.found


def test_a_benchmark_looks_once_per_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(
        "s",
        ["benchmark_tasks.py:near", "benchmark_tasks.py:far"],
        ["source_only"],
        seeds=2,
        model={"name": "mlp"},
        training={"steps": 2, "batch_size": 16, "device": "cpu"},
        folder=HERE,
    ).checked()
    wanted = cells_of(suite)
    cells = Cells(tmp_path)
    write_plan(tmp_path, suite, planned(wanted))
    for cell in wanted:
        if cell.method == "source_only":
            cells.perform(cell, SuiteWork(suite))
    before = {c.what: c for c in report(tmp_path).checks}["overlap and duplicates"]
    assert not before.kept
    assert "benchmark_tasks:near, benchmark_tasks:far" in before.found
    prints = {cell.task: str(cell.config["data"]) for cell in wanted}
    keep_overlap(tmp_path, suite, prints)
    kept = {title: known(tmp_path, prints[title]) for title in prints}
    assert [one is not None and one.transductive for one in kept.values()] == [True, False]
    monkeypatch.setattr("domadapt.benchmark.overlap.overlap", None)
    keep_overlap(tmp_path, suite, prints)
    checks = {c.what: c for c in report(tmp_path).checks}
    assert checks["target apart from the source"].kept
    assert "overlap and duplicates" not in checks
    text = (tmp_path / "leaderboard.md").read_text()
    assert "protocol: transductive" in text
    assert "inductive, scored on samples of their own (1 task)" in text
