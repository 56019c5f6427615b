"""Two processes on the CPU: what is averaged, what stays with its process, what is written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import LR, gradients, plain_network, step_of
from safetensors.torch import load_file
from small import arrays
from torch import Tensor

from domadapt.methods import build_method

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch was built without gloo, the CPU's way of talking between processes",
)

State = dict[str, Tensor]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    out = tmp_path_factory.mktemp("two")
    (x_s, y_s), (x_t, y_t) = arrays(seed=1), arrays(seed=2, n=90)
    np.savez(out / "s.npz", x=x_s, y=y_s)
    np.savez(out / "t.npz", x=x_t, y=y_t)
    worker = Path(__file__).with_name("distributed_worker.py")
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(worker.parent.parent),
    }
    logs = [out / f"log{rank}.txt" for rank in range(2)]
    running = []
    for rank, log in enumerate(logs):
        env = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as file:
            command = [sys.executable, str(worker), str(out), str(out)]
            running.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))
    try:
        codes = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)
    return out


@pytest.fixture(scope="module")
def ranks(folder: Path) -> tuple[State, State]:
    return load_file(folder / "rank0.safetensors"), load_file(folder / "rank1.safetensors")


def test_weights_are_equal_on_both_and_data_are_not(ranks: tuple[State, State]) -> None:
    one, two = ranks
    assert one.keys() == two.keys()
    assert any("running_mean" in name for name in one)
    apart = [n for n in one if n not in ("seen", "dropout") and not torch.equal(one[n], two[n])]
    assert apart == []
    for a, b in zip(one["seen"], two["seen"], strict=True):
        assert set(a.tolist()).isdisjoint(b.tolist())
    # Each process draws its own dropout.
    assert not torch.equal(one["dropout"], two["dropout"])


@pytest.mark.parametrize("name", ["dann", "dan"])
def test_a_step_takes_the_mean_of_both_gradients(ranks: tuple[State, State], name: str) -> None:
    start = {k: v.detach() for k, v in build_method(name, plain_network()).named_parameters()}
    per_rank = [gradients(name, 8, rank, 2) for rank in range(2)]
    own = [k for k in start if k.startswith("discriminator")]
    assert bool(own) == (name == "dann")
    for key, value in start.items():
        mean = (per_rank[0][key] + per_rank[1][key]) / 2
        assert not torch.allclose(per_rank[0][key], per_rank[1][key], atol=1e-6)
        torch.testing.assert_close(ranks[0][f"{name}/{key}"], value - LR * mean)


def test_mmd_is_of_each_process_alone(ranks: tuple[State, State]) -> None:
    """The mean of two discrepancies of 8+8 samples is not that of their 16+16."""
    start = dict(plain_network().named_parameters())
    union = gradients("dan", 16, 0, 1)
    key = "network.backbone.0.weight"
    moved = ranks[0][f"dan/{key}"] - start["backbone.0.weight"].detach()
    assert not torch.allclose(moved, -LR * union[key], atol=1e-5)


def test_two_processes_of_8_are_one_of_16(ranks: tuple[State, State]) -> None:
    alone, seen = step_of("source_only", 16, 5)
    for step, whole in enumerate(seen):
        both = torch.cat([ranks[0]["seen"][step], ranks[1]["seen"][step]])
        assert sorted(both.tolist()) == sorted(whole.tolist())
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(ranks[0][f"source_only/{key}"], value, rtol=1e-5, atol=1e-6)


def test_a_whole_run_is_written_and_told_of_once(folder: Path) -> None:
    run = folder / "run"
    report = json.loads((run / "report.json").read_text())
    assert report["chosen"] == "self_training+dann"
    assert {"config.json", "model.pt2", "predictions.csv"} <= {p.name for p in run.iterdir()}
    assert (run / "candidates/self_training+dann/model.safetensors").exists()
    first, second = ((folder / f"log{rank}.txt").read_text() for rank in range(2))
    assert "self_training+dann 6/6" in first
    assert "target accuracy" in first
    assert "steps" not in second
    assert "accuracy" not in second
