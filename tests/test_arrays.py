from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from domadapt.data import from_arrays, from_dataset, from_loader, from_npz, load
from domadapt.data.samples import ArraySamples
from domadapt.errors import DomadaptError
from domadapt.task import Task


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((5, 8, 8), np.uint8, "image"),
        ((5, 3, 8, 8), np.uint8, "image"),
        ((5, 3, 8, 8), np.float32, "image"),
        ((5, 7), np.float32, "vector"),
        ((5, 7), np.int64, "vector"),
        ((5, 9, 16), np.float16, "series"),
    ],
)
def test_kind_is_guessed(shape: tuple[int, ...], dtype: type, kind: str) -> None:
    assert from_arrays(np.ones(shape, dtype)).kind == kind


@pytest.mark.parametrize("layout", ["nhw", "n1hw", "nhw1", "n3hw", "nhw3"])
def test_every_image_layout_gives_three_channels_first(layout: str) -> None:
    grey = rng().integers(0, 256, (4, 6, 5), dtype=np.uint8)
    colour = rng().integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    x = {
        "nhw": grey,
        "n1hw": grey[:, None],
        "nhw1": grey[..., None],
        "n3hw": np.moveaxis(colour, 3, 1),
        "nhw3": colour,
    }[layout]
    got = ArraySamples(x).__getitems__([2, 0])
    want = np.moveaxis(colour, 3, 1) if "3" in layout else np.repeat(grey[:, None], 3, axis=1)
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), want[[2, 0]])


def test_a_doubtful_guess_is_noted() -> None:
    x = rng().random((4, 16, 16))
    assert "kind='image'" in from_arrays(x).notes[0]
    assert from_arrays(x, kind="series").notes == ()
    assert from_arrays(x, kind="image").samples.__getitems__([0]).shape == (1, 3, 16, 16)


def test_float_images_are_scaled_to_bytes_without_loss() -> None:
    pixels = rng().integers(0, 256, (3, 3, 4, 4), dtype=np.uint8)
    for dtype in (np.float64, np.float16):
        got = ArraySamples((pixels / 255).astype(dtype)).__getitems__([0, 1, 2])
        assert np.array_equal(got.numpy(), pixels)


def test_the_array_is_neither_copied_nor_converted(tmp_path: Path) -> None:
    x = rng().normal(size=(6, 4)).astype(np.float16)
    samples = ArraySamples(x)
    assert np.shares_memory(samples.x, x)
    got = samples.__getitems__([5, 1])
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy(), x[[5, 1]].astype(np.float32))
    np.save(tmp_path / "x.npy", x)
    domain = from_npz(tmp_path / "x.npy")
    assert isinstance(domain.samples.x, np.memmap)
    assert torch.equal(domain.samples.__getitems__([5, 1]), got)


def test_tensors_sparse_and_frames_give_the_same_vectors() -> None:
    x = rng().poisson(0.5, (6, 4)).astype(np.float32)
    want = torch.from_numpy(x[[3, 3, 0]])
    for given in (
        torch.from_numpy(x),
        torch.from_numpy(x).bfloat16(),
        sparse.csc_matrix(x),
        pd.DataFrame(x, columns=list("abcd")),
    ):
        domain = from_arrays(given)
        assert domain.kind == "vector"
        assert torch.equal(domain.samples.__getitems__([3, 3, 0]), want)
    assert domain.samples.columns == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[1.0], [np.nan]]), "row 1"),
        (np.array([[1.0], [1e300]]), "float32"),
        (sparse.csr_matrix(np.array([[0, np.inf]])), "finite"),
        (np.ones(3), "shape"),
        (np.ones((2, 2, 2, 2, 2)), "shape"),
        (np.array([["a"]]), "numbers"),
        (np.ones((2, 4, 8, 8)), "channels"),
        (2 * np.ones((2, 3, 8, 8)), "0..1"),
        (np.full((2, 3, 8, 8), np.nan), "nan"),
        (-np.ones((2, 3, 8, 8), dtype=np.int64), "0..255"),
    ],
)
def test_bad_inputs_are_refused(x: object, words: str) -> None:
    with pytest.raises(DomadaptError, match=words):
        from_arrays(x)


def test_a_wrong_kind_is_refused() -> None:
    with pytest.raises(DomadaptError, match="'series'"):
        from_arrays(np.ones((3, 4)), kind="series")
    with pytest.raises(DomadaptError, match="'text'"):
        from_arrays(np.ones((3, 4)), kind="text")


def test_labels_and_lengths_are_checked() -> None:
    x = np.ones((3, 2))
    with pytest.raises(DomadaptError, match="3 samples but 2 labels"):
        from_arrays(x, [0, 1])
    with pytest.raises(DomadaptError, match="argmax"):
        from_arrays(x, np.eye(3))
    with pytest.raises(DomadaptError, match="1 have none"):
        from_arrays(x, groups=["a", None, "b"])
    assert from_arrays(x, np.ones((3, 1))).labels.shape == (3,)
    assert from_arrays(x, torch.tensor([2, 0, 1])).labels.tolist() == [2, 0, 1]
    missing = pd.Series([1, None, 2], dtype="Int64")
    assert from_arrays(x, missing).labels.tolist() == [1, None, 2]
    assert from_arrays(x, np.array([b"a", b"b", b"a"])).labels.tolist() == ["a", "b", "a"]


@pytest.mark.parametrize("of", [["a", "b", None, "a"], [1.0, 2.0, None, 1.0]])
def test_labels_as_pandas_has_them(of: list[object]) -> None:
    """A column, the array inside one (which for strings has no `where`), categories."""
    x, column = np.zeros((4, 3)), pd.Series(of)
    for y in (column, column.array, column.values, column.astype("category"), column.to_frame()):
        labels = from_arrays(x, y, name="d").labels
        assert labels is not None
        assert [None if pd.isna(v) else v for v in labels] == of


def test_class_names_name_integer_labels() -> None:
    x = np.ones((3, 2))
    domain = from_arrays(x, [0, 2, 1], class_names=["cat", "dog", "owl"])
    assert domain.labels.tolist() == ["cat", "owl", "dog"]
    assert domain.class_names == ("cat", "dog", "owl")
    assert from_arrays(x, ["b", "a", "b"], class_names=["a", "b"]).labels.tolist() == list("bab")
    with pytest.raises(DomadaptError, match="got 3"):
        from_arrays(x, [0, 3, 1], class_names=["cat", "dog", "owl"])


class Pictures:
    """A data set of PIL images in the manner of torchvision, which counts what is read."""

    def __init__(self, n: int = 6) -> None:
        self.targets = [i % 3 for i in range(n)]
        self.classes = ["cat", "dog", "owl"]
        self.read = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        self.read += 1
        return Image.new("RGB", (4 + i, 5), (i, 0, 0)), self.targets[i]


def test_a_data_set_streams_and_gives_names_to_its_labels() -> None:
    data = Pictures()
    domain = from_dataset(data, name="pets", labelled=True)
    assert data.read == 1  # only to see of what kind its samples are
    assert domain.kind == "image"
    assert domain.labels.tolist() == ["cat", "dog", "owl"] * 2
    got = domain.samples.__getitems__([3, 1])
    assert [tuple(x.shape) for x in got] == [(3, 5, 7), (3, 5, 5)]
    assert int(got[0][0, 0, 0]) == 3
    domain.samples.__getitems__([3, 1])
    assert data.read == 5
    part = from_dataset(Subset(data, [5, 0]), name="some", labelled=True)
    assert part.labels.tolist() == ["owl", "cat"]
    assert data.read == 6


def test_labels_that_were_not_asked_for_are_not_looked_at() -> None:
    class Locked(Pictures):
        @property
        def targets(self) -> list[int]:
            raise AssertionError("a label was read")

        @targets.setter
        def targets(self, value: list[int]) -> None:
            self.size = len(value)

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.new("L", (4, 4)), -1

    assert from_dataset(Locked(), name="x", labelled=False).labels is None
    with pytest.raises(AssertionError, match="label was read"):
        from_dataset(Locked(), name="x", labelled=True)


def test_labels_without_targets_take_one_pass() -> None:
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    domain = from_dataset(TensorDataset(x, y), name="t", labelled=True)
    assert domain.kind == "vector"
    assert domain.labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(domain.samples.__getitems__([4, 0]), x[[4, 0]])
    bare = from_dataset(TensorDataset(x), name="t", labelled=False)
    assert torch.equal(bare.samples.__getitems__([2]), x[[2]])
    with pytest.raises(DomadaptError, match="labelled=False"):
        from_dataset(TensorDataset(x), name="t", labelled=True)


def test_data_sets_of_another_form_are_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> object:
            return iter([1])

    with pytest.raises(DomadaptError, match="only be iterated"):
        from_loader(DataLoader(Stream()), name="s", labelled=False)
    with pytest.raises(DomadaptError, match="from_dataset"):
        from_loader([1, 2], name="s", labelled=False)
    with pytest.raises(DomadaptError, match="yielded str"):
        from_dataset(["a", "b"], name="s", labelled=False)
    uneven = [torch.zeros(3), torch.zeros(4)]
    domain = from_dataset(uneven, name="s", labelled=False)
    with pytest.raises(DomadaptError, match="one shape"):
        domain.samples.__getitems__([0, 1])


def test_a_loader_gives_its_data_set_and_not_its_order() -> None:
    x = torch.arange(12.0).view(6, 2)
    loader = DataLoader(TensorDataset(x, torch.arange(6)), batch_size=4, shuffle=True)
    domain = from_loader(loader, name="l", labelled=True)
    assert torch.equal(domain.samples.__getitems__(range(6)), x)
    assert domain.labels.tolist() == list(range(6))


def test_npz_names_and_parts(tmp_path: Path) -> None:
    x, y = rng().normal(size=(4, 2)), np.array(["a", "b", "a", "b"])
    np.savez(tmp_path / "one.npz", features=x, label=y, who=[1, 1, 2, 2], classes=["b", "a"])
    one = from_npz(tmp_path / "one.npz", group_key="who")
    assert (one.name, one.class_names, one.groups.tolist()) == ("one", ("b", "a"), [1, 1, 2, 2])
    assert one.labels.tolist() == y.tolist()
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[1:])
    assert len(from_npz(tmp_path / "two.npz")) == 4
    test = from_npz(tmp_path / "two.npz", part="test")
    assert test.labels.tolist() == ["b", "a", "b"]
    # Labels of the test part never go with inputs of the training part.
    np.savez(tmp_path / "three.npz", x_train=x, y_test=y)
    assert from_npz(tmp_path / "three.npz").labels is None
    assert load(tmp_path / "one.npz", labelled=False).labels is None
    with pytest.raises(DomadaptError, match="Labels are required"):
        load(tmp_path / "three.npz", labelled=True)
    with pytest.raises(DomadaptError, match="who"):
        from_npz(tmp_path / "one.npz", group_key="whom")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", x=np.ones((2, 2)), y=np.array(["a", None], dtype=object))
    with pytest.raises(DomadaptError, match="astype"):
        from_npz(tmp_path / "o.npz")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DomadaptError, match="objects"):
        from_npz(tmp_path / "o.npy")


def test_broken_and_strange_npz_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weights=np.ones(3))
    with pytest.raises(DomadaptError, match="weights"):
        from_npz(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DomadaptError, match=r"b\.npz"):
        from_npz(tmp_path / "b.npz")
    with pytest.raises(DomadaptError, match="no file"):
        from_npz(tmp_path / "c.npz")


def test_arrays_make_a_task() -> None:
    x = rng().normal(size=(40, 3))
    y = np.repeat(["a", "b"], 20)
    task = Task(from_arrays(x, y, name="s"), from_arrays(x[:10], name="t"))
    assert task.class_names == ("a", "b")
    assert task.source_train.fetch([0, 1]).shape == (2, 3)


@pytest.mark.skipif("DOMADAPT_DATA" not in os.environ, reason="DOMADAPT_DATA is not set")
def test_real_files() -> None:
    root = Path(os.environ["DOMADAPT_DATA"])
    usps = root / "usps/usps.npz"
    if not usps.exists():
        pytest.skip("USPS is not there")
    train = from_npz(usps, kind="image", augment="glyph")
    assert len(train) == 7291
    assert len(from_npz(usps, kind="image", part="test")) == 2007
    assert train.samples.__getitems__([0]).shape == (1, 3, 16, 16)
