"""The speed benchmark runs and compares loops that do the same work; no time is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speed.py"
TINY = ["--blocks", "2", "--mlp-block", "3", "--mlp-batch", "8", "--width", "8"]


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_step_rows_and_equal_work(
    speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    speed.main(["--what", "step", "--models", "mlp", *TINY, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in rows] == ["source_only", "dann", "mcc"]
    for row in rows:
        assert row["ms"] > 0
        assert row["bare_ms"] > 0
        # Both loops took the same steps from the same weights.
        assert row["weight_difference"] < 1e-5
    printed = capsys.readouterr().out
    assert all(f"mlp       {row['method']}" in printed for row in rows)


def test_unequal_work_shows(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.BareLoop, "mcc", speed.BareLoop.source_only)
    args = speed.arguments(["--methods", "mcc", *TINY])
    (row,) = speed.step_rows(args, "mlp", torch.device("cpu"))
    assert row["weight_difference"] > 1e-5


def test_mmd_row(speed: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    speed.main(["--what", "mmd", "--blocks", "2", "--mmd-samples", "16", "--mmd-features", "4"])
    assert "mmd 16+16 samples of 4 features" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu_is_one_sentence(speed: ModuleType) -> None:
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        speed.main(["--device", "cuda"])
