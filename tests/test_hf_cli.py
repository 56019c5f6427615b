"""Texts on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

from tiny import texts, tiny_bert

from domadapt import cli

Run = Callable[[str], tuple[str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command line, given to `main` in this process, prints."""

    def command(line: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr()
        return said.out, said.err

    return command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("texts")
    tiny_bert(at / "bert")
    for name, column in (("books", "review"), ("pans", "review"), ("other", "opinion")):
        found, y = texts("pans" if name == "other" else name, 40)
        frame = pd.DataFrame({"id": range(40), column: found, "label": y})
        frame.to_csv(at / f"{name}.csv", index=False)
    for text, label in zip(*texts("pans", 20, seed=3), strict=True):
        (at / "folder" / label).mkdir(parents=True, exist_ok=True)
        (at / "folder" / label / f"{abs(hash(text))}.txt").write_text(text)
    return at


def test_from_two_tables_to_predictions(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "run"
    said, problem = run(
        f"adapt books.csv pans.csv --model hf:bert --method mcc --steps 2 --workers 0 --device cpu "
        f"--out {out} --max-length 20 --pooling first"
    )
    assert "Note: books: texts are taken from the column 'review'" in said, problem
    assert "kept" in said
    # The run knows its model by its whole path, and works from anywhere.
    monkeypatch.chdir(tmp_path)
    assert str(place / "bert") in (out / "run.json").read_text()
    said, problem = run(f"predict {out} {place / 'pans.csv'}")
    assert len(said.splitlines()) == 41, problem
    assert said.splitlines()[0] == "id,class,probability"
    same, _ = run(f"predict {out} {place / 'other.csv'}")
    assert same == said, "another name of the column, the same texts"
    accuracy, problem = run(f"evaluate {out} {place / 'folder'} --metric accuracy")
    assert 0 <= float(accuracy) <= 1, problem
    _, problem = run(f"predict {out} {place / 'pans.csv'} --text-column titel")
    assert "There is no text column in 'pans.csv' 'titel'" in problem


def test_what_is_said_before_anything_is_done(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said, problem = run("adapt books.csv pans.csv --model hf:bert --method dann --dry-run")
    assert "hf:" in said, problem
    assert "transformer" in said
    _, problem = run("adapt books.csv pans.csv --text-column review --method dann --dry-run")
    assert "--model hf:FOLDER" in problem
    _, problem = run("adapt books.csv pans.csv --label-column label --method dann --dry-run")
    assert "hf:FOLDER" in problem
    _, problem = run("adapt books.csv pans.csv --model hf:brt --method dann --dry-run")
    assert problem.startswith("Error: ")
    _, problem = run(
        "adapt books.csv pans.csv --model hf:bert --export hf --pooling mean --dry-run"
    )
    assert "--pooling hf" in problem


def test_models_are_ranked_on_texts(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    said, problem = run("transferability rank hf:bert --data books.csv")
    assert "hf:bert" in said, problem
