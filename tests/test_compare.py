"""`benchmarks/compare.py`: equal starts, faults worked round, turns, lines, tables."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from domadapt.training import Training

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


compare, job_module = load("compare"), load("peers.job")
try:
    peer: Any = load("peers.with_pytorch_adapt")
    MISSING = ""
except ImportError as error:
    peer, MISSING = None, f"the extra pytorch-adapt is not installed ({error})"
needs_peer = pytest.mark.skipif(bool(MISSING), reason=MISSING)
TASK = "printed-handwritten-mlp"
METHODS = list(job_module.METHODS)


@pytest.fixture(scope="module")
def plan() -> Any:
    return job_module.prepare(*compare.TASKS[TASK])


def make_job(plan: Any, method: str, steps: int = 4, seed: int = 0) -> Any:
    training = Training(
        steps=steps, batch_size=16, weight_decay=0.0, checkpoint_every=0, device="cpu", seed=seed
    )
    return job_module.make_job(plan, method, training)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@needs_peer
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["train", "train_as_it_comes"])
def test_every_method_trains_the_network_and_its_adversary(
    plan: Any, method: str, how: str
) -> None:
    job = make_job(plan, method)
    before = weights(job.network)
    network = getattr(peer, how)(job)
    assert network is job.network
    assert job.turn.steps == 4
    assert not torch.equal(weights(network), before)
    assert torch.isfinite(weights(network)).all()


@pytest.mark.parametrize("method", METHODS)
def test_domadapt_takes_as_many_steps(plan: Any, method: str) -> None:
    job = make_job(plan, method)
    before = weights(job.network).clone()
    trained = load("peers.with_domadapt").train(job)
    assert job.turn.steps == 4
    assert not torch.equal(weights(trained), before)


@needs_peer
@pytest.mark.parametrize("method", METHODS)
def test_the_method_moves_the_encoder(plan: Any, method: str) -> None:
    """A peer whose adaptation trained nothing would end where source-only training ends."""
    job = make_job(plan, method, steps=6)
    adapted = weights(peer.train(job).backbone)
    plain = make_job(plan, "mcc", steps=6)
    models = peer.divided(plain)
    optimizers = [peer.optimizer_of(plain, *models.values())]
    hook = peer.ClassifierHook(optimizers)
    source_only = weights(peer.loop(plain, (hook, models, optimizers, peer.still)).backbone)
    assert (adapted - source_only).abs().max() > 1e-6


@needs_peer
def test_both_begin_with_the_same_weights(plan: Any) -> None:
    one, two = make_job(plan, "dann"), make_job(plan, "dann")
    torch.rand(7)  # what was drawn in between changes nothing
    assert torch.equal(weights(one.network), weights(two.network))
    models = peer.dann(two)[1]
    ours = job_module.build_method("dann", one.network, {}).get_submodule("discriminator")
    assert torch.equal(weights(models["D"]), weights(one.discriminator))
    assert weights(ours).shape == weights(models["D"]).shape
    other = make_job(plan, "dann", seed=1)
    assert not torch.equal(weights(other.network), weights(one.network))


@needs_peer
def test_the_ramp_reaches_the_reversal_and_the_losses_of_cdan(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 / (1 + exp(-10 p)) - 1 by hand at p = 0 and p = 0.5."""
    made: list[Any] = []

    def kept(cls: Any) -> Any:
        return lambda *args, **kwargs: made.append(cls(*args, **kwargs)) or made[-1]

    for name in ("GradientReversalHook", "SumWeighter"):
        monkeypatch.setattr(peer, name, kept(getattr(peer, name)))
    middle = 2 / (1 + math.exp(-5.0)) - 1
    on_progress = peer.dann(make_job(plan, "dann"))[3]
    z = torch.ones(1, requires_grad=True)
    for progress, expected in ((0.0, 0.0), (0.5, -middle)):
        on_progress(progress)
        (gradient,) = torch.autograd.grad(made[0].fn(z).sum(), z)
        assert float(gradient) == pytest.approx(expected)
    made.clear()
    peer.cdan(make_job(plan, "cdan"))[3](0.5)
    d, g = (m.weights for m in made)
    assert d == {"d_src_domain_loss": 0.5, "d_target_domain_loss": 0.5}
    assert g == pytest.approx({f"g_{k}_domain_loss": middle / 2 for k in ("src", "target")})


@needs_peer
def test_the_same_mmd_on_the_same_kernels() -> None:
    """Where both take the same bandwidth, its all-pairs estimate is that of domadapt."""
    from domadapt.losses.mmd import mmd

    g = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(12, 3, generator=g), torch.randn(12, 3, generator=g) + 1
    loss = peer.MMDLoss(kernel_scales=2.0 ** torch.arange(-2, 3), mmd_type="quadratic", bandwidth=4)
    torch.testing.assert_close(loss(z_s, z_t), mmd(z_s, z_t, scale=4.0), rtol=1e-4, atol=1e-5)


def test_turns_count_the_step_at_which_a_loop_is_left() -> None:
    turn = job_module.Turn(0)
    for number in turn.watch([1, 2, 3]):
        if number == 2:
            break
    assert turn.steps == 2


def test_lines_leave_out_what_is_no_code() -> None:
    source = '''
def f(
    x,
):
    """Two
    lines."""
    # a comment

    y = """a
    text"""  # that is code
    return x + y
'''
    assert compare._lines(source) == 6


def test_interval_by_hand() -> None:
    """Of 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so 4.3027 / sqrt(3)."""
    assert compare.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841), abs=1e-4)
    assert compare.interval([0.5]) == (0.5, math.inf)


ABOUT = {"steps": 6, "batch": 8, "block": 2, "threads": 1, "torch": "2"}


def row(library: str, seed: int, accuracy: float, ratios: list[float]) -> dict[str, Any]:
    return {
        "task": TASK, "method": "dann", "library": library, "seed": seed, "accuracy": accuracy,
        "version": "1", "lines": 7, "mib_added": 3.0, "cpu_ms": 2.0, "cpu_loop_ratios": ratios,
        "cpu_step_ratios": [x - 0.5 for x in ratios],
    }  # fmt: skip


def test_summary_holds_the_bars_against_both_ratios() -> None:
    rows = [row("domadapt", s, 0.9 + 0.01 * s, [1.0]) for s in range(3)]
    rows += [row("pytorch-adapt", s, 0.8 + 0.01 * s, [1.2, 1.5, 9.0]) for s in range(3)]
    rows.append({"task": TASK, "method": "mcc", "library": "skada", "seed": 0, "failure": "no"})
    ours, theirs = compare.summary(rows, "cpu")
    assert "gain" not in ours
    assert theirs["gain"] == pytest.approx((0.1, 0.0), abs=1e-9)  # by pairs: no spread
    assert theirs["together"] is None
    assert theirs["loop"][0] == 1.5
    assert theirs["fast"] == [True, False]
    # The variant pairs with the peer by seed, here 0.85 - 0.80 and 0.87 - 0.81.
    rows += [row(compare.TOGETHER, s, 0.85 + 0.02 * s, [1.0]) for s in range(2)]
    gain, _ = compare.summary(rows, "cpu")[1]["together"]
    assert gain == pytest.approx(0.055)
    table = compare.markdown({"about": ABOUT, "rows": rows}, compare.summary(rows, "cpu"))
    assert "| dann | pytorch-adapt | 81.0 ± 2.5 (3) | +10.0 ± 0.0 | +5.5" in table
    assert "1.3: met, missed" in table
    assert "skada: failed, no" in table


@pytest.mark.skipif(not hasattr(compare.os, "fork"), reason="jobs are forked")
def test_the_command_interleaves_keeps_and_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "compare.json"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--tasks", TASK, "--methods", "mcc"]
    command += ["--seeds", "1", "--steps", "6", "--block", "2", "--batch", "8", "--out", str(out)]
    command += ["--libraries", "domadapt", *([] if MISSING else ["pytorch-adapt"])]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    first = out.read_text()
    rows = json.loads(first)["rows"]
    assert rows[0]["library"] == "domadapt"
    assert len(rows) == (1 if MISSING else 2)
    for r in rows:
        assert "failure" not in r
        assert 0 <= r["accuracy"] <= 1
        assert len(r["cpu_loop_ratios"]) == 2  # three blocks, of which the first warms up
    assert set(rows[0]["wall_loop_ratios"]) == {1.0}
    assert "skada was not measured" in out.with_suffix(".md").read_text()
    args = compare.arguments(command[2:])
    assert compare.run(args)["rows"] == rows  # nothing is run again
    assert out.read_text() == first


def test_other_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "compare.json"
    out.write_text(json.dumps({"about": {"steps": 1}, "rows": []}))
    args = compare.arguments(["--out", str(out)])
    with pytest.raises(SystemExit, match="was made with other steps"):
        compare.run(args)
    with pytest.raises(SystemExit):
        compare.arguments(["--steps", "30", "--block", "20"])


def test_a_library_that_fails_says_why(tmp_path: Path) -> None:
    args = argparse.Namespace(steps=2, batch=4, block=1, threads=1, skada_python="/bin/false")
    worker = compare.Worker("skada", args)
    worker.begin(TASK, "mcc", 0)
    worker.hear()
    assert worker.failure == "exit code 1"
    worker.stop()
