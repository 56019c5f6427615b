from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from domadapt.data import formats, from_arrays, from_table, load
from domadapt.data.formats import Format
from domadapt.errors import DomadaptError
from domadapt.task import Domain


def test_a_table_in_memory_is_sent_to_from_arrays() -> None:
    with pytest.raises(DomadaptError, match=r"got a DataFrame.*from_arrays\(frame"):
        from_table(pd.DataFrame({"a": [1.0]}))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [30, 41, 52],
            "label": ["yes", "no", "yes"],
            "height": [1.5, 1.75, 2.0],
            "member": [True, False, True],
            "who": ["p", "q", "p"],
        }
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("end", [".csv", ".csv.gz", ".parquet"])
def test_a_table_gives_vectors_labels_and_groups(
    frame: pd.DataFrame, tmp_path: Path, end: str
) -> None:
    path = write(frame, tmp_path / f"people{end}")
    domain = from_table(path, label_column="label", group_column="who")
    assert domain.name == "people"
    assert domain.kind == "vector"
    assert domain.samples.columns == ("age", "height", "member")
    assert domain.labels.tolist() == ["yes", "no", "yes"]
    assert domain.groups.tolist() == ["p", "q", "p"]
    want = torch.tensor([[52, 2.0, 1], [41, 1.75, 0]])
    assert torch.equal(domain.samples.__getitems__([2, 1]), want)


def test_the_target_takes_the_order_of_the_source(frame: pd.DataFrame, tmp_path: Path) -> None:
    source = from_table(write(frame, tmp_path / "s.csv"), label_column="label", group_column="who")
    turned = frame[["who", "member", "height", "age"]]
    target = from_table(
        write(turned, tmp_path / "t.csv"), label_column="label", columns=source.samples.columns
    )
    rows = range(3)
    assert torch.equal(target.samples.__getitems__(rows), source.samples.__getitems__(rows))
    assert target.labels is None
    assert "'label'" in target.notes[0]
    with pytest.raises(DomadaptError, match=r"lacks age.*member, height"):
        from_table(
            write(turned.drop(columns="age"), tmp_path / "u.csv"), columns=source.samples.columns
        )


def test_columns_that_are_no_numbers_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "a.csv")
    with pytest.raises(DomadaptError, match="label, who are not"):
        from_table(path)
    assert from_table(path, columns=["height"]).samples.columns == ("height",)
    dated = frame.assign(day=pd.Timestamp("2020-01-01"))
    with pytest.raises(DomadaptError, match="day is not"):
        from_table(write(dated, tmp_path / "d.parquet"), label_column="label", group_column="who")


def test_missing_and_infinite_values_are_counted(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = frame[["age", "height"]].astype(float)
    holes = frame.copy()
    holes.loc[[0, 2], "height"] = np.nan
    with pytest.raises(DomadaptError, match=r"height \(2\)"):
        from_table(write(holes, tmp_path / "a.csv"))
    whole = pd.DataFrame({"age": pd.array([1, None, 3], dtype="Int64")})
    path = write(whole, tmp_path / "i.parquet")
    with pytest.raises(DomadaptError, match=r"age \(1\)"):
        from_table(path)
    frame.loc[1, "age"] = np.inf
    with pytest.raises(DomadaptError, match="infinite values in age"):
        from_table(write(frame, tmp_path / "b.csv"))


def test_nullable_numbers_are_numbers(tmp_path: Path) -> None:
    whole = pd.DataFrame({"n": pd.array([1, 2], dtype="Int64"), "f": pd.array([True, False])})
    got = from_table(write(whole, tmp_path / "n.parquet")).samples.__getitems__([0, 1])
    assert got.tolist() == [[1, 1], [2, 0]]


def test_missing_labels_are_none_and_missing_groups_an_error(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    frame.loc[1, "label"] = None
    frame = frame.drop(columns="who").assign(who=[1.0, None, 2.0])
    path = write(frame, tmp_path / "a.csv")
    domain = from_table(path, label_column="label", columns=["age"])
    assert domain.labels.tolist() == ["yes", None, "yes"]
    with pytest.raises(DomadaptError, match="1 have none"):
        from_table(path, label_column="label", group_column="who")


def test_row_numbers_are_no_feature(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame[["age", "height"]].to_csv(tmp_path / "a.csv")
    domain = from_table(tmp_path / "a.csv")
    assert domain.samples.columns == ("age", "height")
    assert len(domain.notes) == 1
    frame[["age", "height"]].to_csv(tmp_path / "b.csv", index=False)
    assert from_table(tmp_path / "b.csv").notes == ()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.csv", "", "cannot be read"),
        ("a.csv", "x,y\n", "no rows"),
        ("a.csv", "x\n1,2\n3,4\n", "must name every column"),
        ("a.csv.gz", "x,y\n1,2\n", "cannot be read"),
        ("a.parquet", "x,y\n1,2\n", "cannot be read"),
        ("a.txt", "x,y\n1,2\n", "must end in"),
        ("a.csv", "label\n1\n", "at least one input column"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(DomadaptError, match=words):
        from_table(tmp_path / file, label_column="label")


def test_input_columns_are_checked(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "a.csv")
    with pytest.raises(DomadaptError, match="got age"):
        from_table(path, columns=["age", "age"])
    with pytest.raises(DomadaptError, match="got label"):
        from_table(path, columns=["age", "label"], label_column="label")
    with pytest.raises(DomadaptError, match="Did you mean 'who'"):
        from_table(path, group_column="whoo")


def test_load_reads_tables_and_says_what_is_not_there(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "people.csv")
    columns = ["age"]
    assert load(path, label_column="label", columns=columns).labels.tolist()[1] == "no"
    assert load(str(path), label_column="label", columns=columns, labelled=False).labels is None
    with pytest.raises(DomadaptError, match=r"no label column .*'lable'. Did you mean 'label'"):
        load(path, label_column="lable", columns=columns, labelled=True)
    with pytest.raises(DomadaptError, match=r"must be named \(--label-column\)"):
        load(path, columns=columns, labelled=True)
    with pytest.raises(DomadaptError, match=r"image folder.*Did you mean .*people\.csv"):
        load(tmp_path / "poeple.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DomadaptError, match=r"'a\.txt' is none"):
        load(tmp_path / "a.txt")
    with pytest.raises(DomadaptError, match="label_column belongs to a table"):
        load(tmp_path, label_column="label")


def test_a_kind_of_file_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(path: Path, *, name: str | None, regression: bool) -> Domain:
        rows = [line.split() for line in path.read_text().splitlines()]
        x = np.array([[float(v) for v in row[1:]] for row in rows], dtype=np.float32)
        return from_arrays(x, [row[0] for row in rows], name=name or path.stem)

    monkeypatch.setattr(formats, "FORMATS", [*formats.FORMATS, Format("lines", (".lines",), lines)])
    file = tmp_path / "mine.lines"
    file.write_text("a 1 2\nb 3 4\n")
    assert load(file).labels is not None
    assert load(file, labelled=False).labels is None
    with pytest.raises(DomadaptError, match=r"label_column belongs to a table; lines \(.lines\)"):
        load(file, label_column="y")
    with pytest.raises(DomadaptError, match=r"arrays \(.npz, .npy\), lines \(.lines\), or cat"):
        load(file.rename(tmp_path / "mine.other"))


# Columns that may be meant otherwise -----------------------------------------------------------


def noted(tmp_path: Path, **columns: Any) -> str:
    path = tmp_path / "t.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return " ".join(from_table(path, label_column="y").notes)


def test_a_column_that_numbers_the_rows_is_named(tmp_path: Path) -> None:
    n = 30
    x, y = np.random.default_rng(0).normal(size=n), ["a", "b"] * (n // 2)
    for number in (range(n), range(100, 100 - n, -1)):
        assert "'id', which numbers the rows, is taken as an input" in noted(
            tmp_path, id=number, x=x, y=y
        )
    assert noted(tmp_path, id=[*range(n - 1), n + 5], x=x, y=y) == ""
    assert noted(tmp_path, x=x, age=[20, 21] * (n // 2), y=y) == ""
    assert noted(tmp_path, x=x[:9], id=range(9), y=y[:9]) == ""


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.5 + i % 3 for i in range(60)], "the 3 numbers in 'y'"),
        (list(range(60)), "the 60 numbers in 'y'"),
        ([i % 31 for i in range(62)], "the 31 numbers in 'y'"),
        ([i % 31 for i in range(620)], ""),
        ([i % 10 for i in range(60)], ""),
        ([float(i % 2) for i in range(60)], ""),
        ([None, *(float(i % 2) for i in range(59))], ""),
        ([f"k{i}" for i in range(60)], ""),
    ],
)
def test_labels_that_look_like_measurements_are_named(
    tmp_path: Path, labels: list[Any], said: str
) -> None:
    found = noted(tmp_path, x=np.random.default_rng(0).normal(size=len(labels)), y=labels)
    assert (said in found) if said else (found == "")
