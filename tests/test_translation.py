"""BLEU of text pairs: a known answer, a formula by hand, the command line, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("sacrebleu", reason="needs the extra: pip install 'domadapt[bleu]'")

from domadapt.cli import main
from domadapt.errors import DomadaptError
from domadapt.translation import bleu, read_lines


def test_by_hand() -> None:
    found = bleu(["the cat sat on the mat today"], ["the cat sat on a mat today"])
    # n-grams that are in the reference: 6 of 7 words, 4 of 6, 2 of 5, 1 of 4; same length.
    wanted = [6 / 7, 4 / 6, 2 / 5, 1 / 4]
    assert found.precisions == pytest.approx([100 * p for p in wanted])
    assert found.bleu == pytest.approx(100 * math.prod(wanted) ** 0.25)
    assert found.brevity_penalty == 1.0


def test_brevity() -> None:
    found = bleu(["a b c d e"], ["a b c d e f g h"])
    assert found.bleu == pytest.approx(100 * math.exp(1 - 8 / 5))
    assert bleu(["a b c d"], ["a b c d"]).bleu == pytest.approx(100)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["domadapt", "evaluate", str(said), str(truth), *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        found = capsys.readouterr()
        return found.out, found.err

    said, truth = tmp_path / "said.txt", tmp_path / "truth.txt"
    said.write_text("the cat sat on the mat\n\na dog\u2028ran far away\n", encoding="utf-8")
    truth.write_text("the cat sat on a mat\nnothing\na dog ran far away", encoding="utf-8")
    assert len(read_lines(said)) == 3
    out, err = run("--metric", "bleu")
    wanted = bleu(read_lines(said), read_lines(truth))
    assert float(out) == pytest.approx(wanted.bleu, abs=1e-5)
    assert "3 texts" in err
    assert "version:" in err
    out, _ = run("--metric", "bleu", "--json")
    assert json.loads(out)["bleu"] == wanted.bleu


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match="2 texts and 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(DomadaptError, match="got 0 texts"):
        bleu([], [])
    with pytest.raises(DomadaptError, match="there is no file"):
        read_lines(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DomadaptError, match="not a UTF-8"):
        read_lines(tmp_path / "b.txt")
