"""Splits, label map and firewall."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from small import arrays, small_task

from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.task import Batch, Domain, Split, Task, canonical


def domain(y: Any = None, n: int = 60, **more: Any) -> Domain:
    x = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    return from_arrays(x, y, name=more.pop("name", "d"), **more)


def test_splits_are_disjoint_complete_and_stratified() -> None:
    task = Task(domain(np.arange(60) % 3), domain())
    train, val = task.source_train, task.source_val
    assert sorted([*train.indices, *val.indices]) == list(range(60))
    assert val.y is not None
    assert torch.bincount(val.y).tolist() == [4, 4, 4]
    assert len(task.target_train) == len(task.target_test) == 60


def test_splits_do_not_depend_on_the_target() -> None:
    y = np.arange(60) % 3
    one, two = Task(domain(y), domain()), Task(domain(y), domain(y[:30], n=30))
    assert np.array_equal(one.source_train.indices, two.source_train.indices)


def test_groups_stay_whole() -> None:
    groups = np.repeat(np.arange(12), 5)
    task = Task(domain(np.arange(60) % 3, groups=groups), domain())
    shared = set(groups[task.source_train.indices]) & set(groups[task.source_val.indices])
    assert not shared
    assert len(task.source_val) == pytest.approx(12, abs=5)


def test_no_target_split_carries_labels() -> None:
    task = small_task()
    for split in (task.target_train, task.target_test):
        assert split.y is None
        assert split.domain.labels is None
        assert split.domain.class_names is None
    assert "y_t" not in {f.name for f in dataclasses.fields(Batch)}
    batch = Batch(torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(2, 3), 0.0)
    with pytest.raises(DomadaptError, match="no method is given labels of the target"):
        _ = batch.y_t
    assert not hasattr(batch, "y_t")
    with pytest.raises(AttributeError, match=r"no 'x_u'; it has x_s, y_s"):
        _ = batch.x_u
    assert torch.equal(copy.deepcopy(batch).x_s, batch.x_s)
    assert torch.equal(pickle.loads(pickle.dumps(batch)).x_t, batch.x_t)
    assert task.target_labelled is None
    hidden = ("_Task__", "target_labelled")
    assert not any("label" in name for name in vars(task) if not name.startswith(hidden))


def test_oracle_splits_share_no_sample() -> None:
    for test in (None, domain(np.arange(30) % 3, n=30)):
        task = Task(domain(np.arange(60) % 3), domain(np.arange(60) % 3), target_test=test)
        oracle = task.oracle()
        train, val, scored = oracle.target_train, oracle.target_val, oracle.target_test
        assert not set(train.indices) & set(val.indices)
        if test is None:
            assert not set(scored.indices) & (set(train.indices) | set(val.indices))
            assert len(train) + len(val) + len(scored) == 60
        assert all("oracle" in s.name and s.y is not None for s in (train, val, scored))


def test_the_label_map_comes_from_the_source() -> None:
    task = Task(domain(np.array(["b", "a", "c"] * 20)), domain(np.array(["c", "c", "a"] * 20)))
    assert task.class_names == ("a", "b", "c")
    labels = task._labels_for_evaluate()
    assert labels is not None
    assert labels[:3].tolist() == [2, 2, 0]


def test_labels_of_several_types_are_one() -> None:
    assert {canonical(v) for v in (3, 3.0, "3", np.int64(3), np.float32(3))} == {"3"}
    assert [canonical(v) for v in (None, "", float("nan"))] == [None, None, None]
    y = np.array([10.0, 9.0, 2.0] * 20)
    assert Task(domain(y), domain()).class_names == ("2", "9", "10")


def test_a_target_class_that_the_source_lacks_is_refused_or_left_out() -> None:
    y_t = np.array(["0", "1", "zebra"] * 20)
    source = domain(np.arange(60) % 3)
    with pytest.raises(DomadaptError, match=r"labels that the source lacks: zebra.*0, 1, 2"):
        Task(source, domain(y_t))
    labels = Task(source, domain(y_t), extra_classes="unscored")._labels_for_evaluate()
    assert labels is not None
    assert (labels == -1).sum() == 20


def test_a_missing_source_class_is_no_error_in_the_target() -> None:
    task = Task(domain(np.arange(60) % 3), domain(np.zeros(60, dtype=int)))
    assert task.n_classes == 3


def test_partly_labelled_target() -> None:
    y = np.array(["0", "", None] * 20, dtype=object)
    labels = Task(domain(np.arange(60) % 3), domain(y))._labels_for_evaluate()
    assert labels is not None
    assert (labels >= 0).sum() == 20
    empty = Task(domain(np.arange(60) % 3), domain(np.array([None] * 60, dtype=object)))
    assert not empty.has_test_labels


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (lambda: domain(), lambda: domain(), "The source must be labelled"),
        (
            lambda: domain(np.zeros(60, dtype=int)),
            lambda: domain(),
            "2 source classes; all labels of the source are '0'",
        ),
        (
            lambda: domain(np.array(["a", "", "b"] * 20, dtype=object)),
            lambda: domain(),
            "Every source sample needs a label; sample 1",
        ),
        (
            lambda: domain(np.arange(60) % 3, class_names=("0", "1", "2", "empty")),
            lambda: domain(),
            r"class\(es\) empty have no sample",
        ),
        (
            lambda: domain(np.arange(60) % 3),
            lambda: from_arrays(np.zeros((9, 5), dtype=np.float32), name="t"),
            "same features",
        ),
        (
            lambda: domain(np.arange(60) % 3),
            lambda: from_arrays(np.zeros((9, 2, 16), dtype=np.float32), name="t"),
            "one kind of data",
        ),
        (lambda: domain(np.arange(60) % 30), lambda: domain(), "too few"),
        (
            lambda: domain(np.arange(60) % 3, groups=np.zeros(60)),
            lambda: domain(),
            "at least 2 groups",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(source: Any, target: Any, said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        Task(source(), target())


def test_wrong_options_are_refused() -> None:
    y = np.arange(60) % 3
    with pytest.raises(DomadaptError, match="val_fraction"):
        Task(domain(y), domain(), val_fraction=1.5)
    with pytest.raises(DomadaptError, match="extra_classes"):
        Task(domain(y), domain(), extra_classes="ignore")  # type: ignore[arg-type]
    with pytest.raises(DomadaptError, match="60 samples but 3 ids"):
        Domain("d", domain().samples, ids=["a", "b", "c"])
    with pytest.raises(DomadaptError, match="has no labels: there is no oracle"):
        Task(domain(y), domain()).oracle()


def test_several_sources_are_pooled() -> None:
    y = np.arange(60) % 3
    task = Task([domain(y, name="a"), domain(y, n=60, name="b")], domain())
    assert len(task.source_train) + len(task.source_val) == 120
    ids = task.source_train.domain_ids
    assert ids is not None
    assert ids.unique().tolist() == [0, 1]
    position = int((ids == 1).nonzero()[0])
    got = task.source_train.fetch([position, 0])
    assert isinstance(got, torch.Tensor)
    row = task.source_train.indices[position] - 60
    assert got[0].tolist() == [2.0 * row, 2.0 * row + 1]
    assert task.source_train.ids()[position] == f"b/{row}"


def test_mapped_keeps_splits_and_labels() -> None:
    task = small_task()

    def doubled(d: Domain) -> Domain:
        raw = d.samples.__getitems__(range(len(d)))
        assert isinstance(raw, torch.Tensor)
        return from_arrays(2 * raw.numpy(), name="x")

    new = task.mapped(doubled)
    assert torch.equal(new.source_train.fetch([3]), 2 * task.source_train.fetch([3]))  # type: ignore[operator, arg-type]
    assert np.array_equal(new._labels_for_evaluate(), task._labels_for_evaluate())  # type: ignore[arg-type]
    assert new.oracle().target_val.fetch([0]) is not None
    assert new.source_train.y is task.source_train.y


def test_fingerprint_tells_data_apart_but_not_target_labels() -> None:
    x, y = arrays()
    other = x.copy()
    other[0] += 1
    made = [
        Task(from_arrays(a, y), from_arrays(x, b)).fingerprint()
        for a, b in ((x, y), (x, None), (x, y[::-1].copy()), (other, y))
    ]
    assert made[0] == made[1] == made[2] != made[3]


def test_repr_shows_no_label() -> None:
    text = repr(domain(np.array(["secret"] * 30 + ["b"] * 30)))
    assert "secret" not in text
    assert isinstance(Split("s", domain(), np.arange(3)).ids(), list)


def test_a_test_set_that_is_the_target_is_refused() -> None:
    y = np.arange(60) % 3
    with pytest.raises(DomadaptError, match="holds the very samples of the target"):
        Task(domain(y), domain(), target_test=domain(y, name="again"))


def test_labels_that_are_measurements_are_refused() -> None:
    y = np.linspace(0, 1, 60)
    with pytest.raises(DomadaptError, match="60 different labels in 60 samples"):
        Task(domain(y), domain())


def test_a_domain_given_in_the_wrong_order_is_refused_in_words() -> None:
    x, y = arrays(6)
    samples = from_arrays(x).samples
    with pytest.raises(
        DomadaptError, match="groups must hold one entry per sample; got the single"
    ):
        Domain("a", samples, y, "vector")  # type: ignore[arg-type]
    with pytest.raises(DomadaptError, match="kind of a domain is one of image, vector"):
        Domain("a", samples, y, kind="vectors")  # type: ignore[arg-type]


def test_samples_that_cannot_be_asked_for_a_batch_are_refused_in_words():
    with pytest.raises(DomadaptError, match=r"__getitems__.*ndarray.*from_arrays"):
        Domain("a", np.zeros((5, 2)), np.zeros(5))


def test_labels_of_more_than_one_dimension_are_refused() -> None:
    samples = small_task().source_train.domain.samples
    with pytest.raises(DomadaptError, match=r"labels must hold one entry.*\(n?.*, 1\).*y\[:, 0\]"):
        Domain("a", samples, np.zeros((len(samples), 1), dtype=int))


class Careless:
    """Samples as a newcomer writes them."""

    def __init__(self, rows: Callable[[Sequence[int]], Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 60

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return self.rows(indices)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda i: np.zeros((len(i), 2), dtype=np.float32), r"'a' returned a ndarray.*from_numpy"),
        (lambda i: torch.zeros(len(i) - 1, 2), r"'a' was asked for 1 and returned 0"),
        (lambda i: {"x": torch.zeros(len(i) + 1, 2)}, r"asked for 1 and returned 2"),
        (lambda i: [torch.zeros(2)] * (len(i) + 1), r"asked for 1 and returned 2"),
    ],
)
def test_what_samples_return_is_looked_at(rows: Any, said: str) -> None:
    careless = Domain("a", Careless(rows), np.arange(60) % 3)
    with pytest.raises(DomadaptError, match=said):
        Task(careless, domain(name="t"))
