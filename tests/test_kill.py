"""SIGKILL at any moment: the run goes on and ends with the bits of one that was never touched."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from run_bits import bits
from small import arrays

from domadapt import cli

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")

STEPS = 200
ADAPT = (
    f"adapt s.npz t.npz --method adamatch --steps {STEPS} --batch-size 16 --log-every 5 "
    "--checkpoint-every 5 --device cpu"
)


def start(place: Path, line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "domadapt.cli", *shlex.split(line)],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(place: Path, line: str, sign: str, delay: float) -> None:
    """Start a command and kill it `delay` seconds after it printed a line that begins so."""
    process = start(place, line)
    assert process.stderr is not None
    said = []
    watch = Timer(240, process.kill)
    watch.start()
    try:
        for text in process.stderr:
            said.append(text)
            if text.strip().startswith(sign):
                break
        else:
            pytest.fail(f"it ended before it said {sign!r}: {''.join(said)}")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended by itself"
    finally:
        watch.cancel()
        process.kill()
        process.stderr.close()


def finish(place: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and a run over them that nobody interrupted."""
    place = tmp_path_factory.mktemp("kill")
    (x_s, y_s), (x_t, _) = arrays(seed=1, shift=0.0), arrays(seed=2, shift=2.0, n=90)
    np.savez(place / "s.npz", x=x_s, y=y_s)
    np.savez(place / "t.npz", x=x_t)
    with pytest.MonkeyPatch.context() as patch:
        finish(place, f"{ADAPT} --out whole", patch)
    return place


def test_killed_again_and_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    step = draw.randrange(20, 120, 20)
    kill_when(whole, f"{ADAPT} --out run", f"source_only {step}/", draw.uniform(0, 0.02))
    assert {p.name for p in (whole / "run/candidates").iterdir()} == {"source_only"}
    step = draw.randrange(20, 120, 20)
    kill_when(whole, "adapt --resume run", f"adamatch {step}/", draw.uniform(0, 0.02))
    assert (whole / "run/candidates/source_only/result.json").exists()
    assert not (whole / "run/candidates/adamatch/result.json").exists()
    kill_when(whole, "adapt --resume run", "writing the report", draw.uniform(0, 0.3))
    assert (whole / "run/candidates/adamatch/result.json").exists()
    assert not (whole / "run/config.json").exists()
    finish(whole, "adapt --resume run", monkeypatch)
    assert bits(whole / "run") == bits(whole / "whole")
    left = {p.name for p in (whole / "run").rglob("*") if p.is_file()}
    assert left == {p.name for p in (whole / "whole").rglob("*") if p.is_file()}


def test_killed_with_two_workers(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    step = draw.randrange(20, 120, 20)
    line = f"{ADAPT} --workers 2 --out workers"
    kill_when(whole, line, f"adamatch {step}/", draw.uniform(0, 0.02))
    assert not (whole / "workers/candidates/adamatch/result.json").exists()
    finish(whole, "adapt --resume workers", monkeypatch)
    # Workers change no bit either, so that the run without them is the one to compare with.
    assert bits(whole / "workers") == bits(whole / "whole")
