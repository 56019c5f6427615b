"""Domains of texts: strings, tables, folders, hub data sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from domadapt.data import (
    from_hub_dataset,
    from_text_folder,
    from_text_table,
    from_texts,
    load,
)
from domadapt.data.text import texts_of
from domadapt.errors import DomadaptError
from domadapt.task import Domain, Task

TEXTS = ["a good book", "bad, very bad", "", "naïve café ☕ 中文", "good"]


def read(domain: Domain) -> list[Any]:
    return texts_of(domain.samples.__getitems__(range(len(domain))))


def test_texts_come_back_as_they_were() -> None:
    domain = from_texts(TEXTS, ["p", "n", "n", "p", "p"])
    assert domain.kind == "text"
    assert read(domain) == TEXTS
    assert texts_of(domain.samples.__getitems__([3, 0])) == [TEXTS[3], TEXTS[0]]
    pairs = [("one", "two"), ("", "three"), ("four", "")]
    assert read(from_texts(pairs)) == pairs


def test_what_no_text_may_hold_is_replaced() -> None:
    assert read(from_texts(["a\0b", "c\ud800d"])) == ["a b", "c?d"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("one string", "list of texts"),
        ([1, 2], "must be a string"),
        (["a", None], "must be a string"),
        ([("a", "b", "c")], "pair of strings"),
    ],
)
def test_what_is_no_text_is_refused(texts: Any, words: str) -> None:
    with pytest.raises(DomadaptError, match=words):
        from_texts(texts)


FRAME = pd.DataFrame(
    {
        "id": ["r1", "r2", "r3"],
        "stars": [5, 1, 3],
        "review": ["it was rather good", "NA", "null and void"],
        "label": ["good", "bad", "bad"],
    }
)


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".csv" in path.name:
        frame.to_csv(path, index=False)
    else:
        lines = "\n".join(json.dumps(row) for row in frame.to_dict("records"))
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.mark.parametrize(
    "name", ["r.csv", "r.csv.gz", "r.parquet", "r.jsonl", "r.jsonl.gz", "r.ndjson"]
)
def test_every_table_gives_the_same_domain(name: str, tmp_path: Path) -> None:
    domain = load(write(FRAME, tmp_path / name), text_column="auto")
    assert read(domain) == FRAME["review"].tolist()
    assert domain.labels is not None
    assert domain.labels.tolist() == FRAME["label"].tolist()
    assert domain.name == "r"
    assert domain.samples.columns == ("review",)  # type: ignore[attr-defined]
    assert any("'review'" in note for note in domain.notes)
    assert any("'label'" in note for note in domain.notes)


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = write(FRAME, tmp_path / "r.csv")
    domain = from_text_table(path, text_column="id", label_column="stars", group_column="label")
    assert read(domain) == ["r1", "r2", "r3"]
    assert domain.labels is not None
    assert domain.labels.tolist() == [5, 1, 3]
    assert domain.groups is not None
    assert domain.notes == ()
    pairs = from_text_table(path, text_column="id,review", labelled=False)
    assert read(pairs)[2] == ("r3", "null and void")
    values = from_text_table(path, text_column="review", label_column="stars", regression=True)
    assert values.values is not None
    assert values.values.tolist() == [[5.0], [1.0], [3.0]]


def test_a_column_that_is_not_all_strings_is_never_guessed(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": ["ab", "cd"], "mixed": [123456789, "much longer than the others"]})
    domain = from_text_table(write(frame, tmp_path / "m.jsonl"))
    assert domain.samples.columns == ("t",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text_column": "reviw"}, "Did you mean 'review'"),
        ({"text_column": "review,label"}, "no text column in 'r.csv' 'label'"),
        ({"text_column": "id,stars,review"}, "pairs of them in two"),
        ({"label_column": "lable", "labelled": True}, "Did you mean 'label'"),
        ({"group_column": "writer"}, "no group column"),
    ],
)
def test_columns_that_are_not_there(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match=words):
        from_text_table(write(FRAME, tmp_path / "r.csv"), **options)


def test_tables_without_what_is_needed(tmp_path: Path) -> None:
    numbers = write(pd.DataFrame({"a": [1, 2], "label": [0, 1]}), tmp_path / "n.csv")
    with pytest.raises(DomadaptError, match="column of texts is required"):
        from_text_table(numbers)
    holes = write(pd.DataFrame({"t": ["a b", None, "c"]}), tmp_path / "h.jsonl")
    with pytest.raises(DomadaptError, match="the first in row 1"):
        from_text_table(holes, text_column="t")
    bare = write(pd.DataFrame({"t": ["a b", "c"]}), tmp_path / "b.csv")
    assert from_text_table(bare).labels is None
    with pytest.raises(DomadaptError, match="--label-column"):
        from_text_table(bare, labelled=True)
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"t": "a"}\n{"t": ')
    with pytest.raises(DomadaptError, match="cannot be read"):
        from_text_table(torn)


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_class_folders_of_texts(tmp_path: Path) -> None:
    root = folder(
        tmp_path / "reviews",
        {
            "pos/b.txt": "schön".encode("latin-1"),
            "pos/deeper/a.txt": b"fine",
            "neg/c.txt": b"\xef\xbb\xbfbad",
            "neg/notes.md": b"none",
        },
    )
    (root / "empty").mkdir()
    domain = load(root)
    assert domain.kind == "text"
    assert list(domain.ids or ()) == ["neg/c.txt", "pos/b.txt", "pos/deeper/a.txt"]
    assert read(domain) == ["bad", "schön", "fine"]
    assert domain.labels is not None
    assert domain.labels.tolist() == ["neg", "pos", "pos"]
    assert domain.class_names == ("empty", "neg", "pos")
    notes = " ".join(domain.notes)
    assert "1 file(s) skipped, not a .txt: neg/notes.md" in notes
    assert "1 file(s) are not UTF-8" in notes
    assert "without a usable text: empty" in notes
    assert load(root, labelled=False).labels is None


def test_flat_folders_of_texts(tmp_path: Path) -> None:
    flat = folder(tmp_path / "flat", {"a.txt": b"one", "b.txt": b"two"})
    assert from_text_folder(flat).labels is None
    with pytest.raises(DomadaptError, match=r"class/\*.txt"):
        from_text_folder(flat, labelled=True)
    with pytest.raises(DomadaptError, match="not both"):
        from_text_folder(folder(flat, {"pos/c.txt": b"three"}))
    assert len(from_text_folder(flat, labelled=False)) == 3
    with pytest.raises(DomadaptError, match=r"no \.txt"):
        from_text_folder(folder(tmp_path / "other", {"a.md": b"x"}))


class Hub:
    """As a data set of the package `datasets` looks from outside."""

    class Names:
        names = ("neg", "pos")

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features = {"label": self.Names(), "text": object()}

    def __len__(self) -> int:
        return len(self.columns["text"])

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]


def test_hub_data_sets() -> None:
    found = from_hub_dataset(Hub(text=["bad thing", "NA", "so so"], label=[0, 1, -1]), name="hub")
    assert read(found) == ["bad thing", "NA", "so so"]
    assert found.class_names == ("neg", "pos")
    assert found.labels is not None
    assert found.labels.tolist() == ["neg", "pos", None]
    with pytest.raises(DomadaptError, match=r"dataset\['train'\]"):
        from_hub_dataset({"train": 1, "test": 2}, name="hub")
    with pytest.raises(DomadaptError, match="column_names"):
        from_hub_dataset(iter([1]), name="hub")


def test_texts_go_through_a_task() -> None:
    source = from_texts(
        [f"source {i} {'x' * (i % 7)}" for i in range(40)], [i % 2 for i in range(40)]
    )
    other = from_texts([f"other {i}" for i in range(20)], [i % 2 for i in range(20)], name="other")
    target = from_texts([f"target {i}" for i in range(30)], name="target")
    task = Task([source, other], target)
    where = np.flatnonzero(task.source_train.indices >= 40)
    got = texts_of(task.source_train.fetch(where))
    assert got == [f"other {i - 40}" for i in task.source_train.indices[where]]
    moved = from_texts([f"target {i + 1}" for i in range(30)], name="target")
    assert Task([source, other], moved).fingerprint() != task.fingerprint()
    with pytest.raises(DomadaptError, match="very samples"):
        Task(source, target, target_test=from_texts([f"target {i}" for i in range(30)]))
    with pytest.raises(DomadaptError, match="must not be scored"):
        Task(source, target, target_labelled=from_texts(["target 3", "new"], [0, 1]))


def test_a_label_column_of_another_name_is_pointed_at(tmp_path: Path) -> None:
    frame = pd.DataFrame({"review": ["good pan", "bad pan"], "label": ["a", "b"]})
    frame.to_csv(tmp_path / "pans.csv", index=False)
    found = from_text_table(tmp_path / "pans.csv", label_column="rating")
    assert found.labels is None
    assert any("to score by its column 'label', call it the same" in note for note in found.notes)
