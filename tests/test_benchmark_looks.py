"""Checkpoints side by side: looks change no bit, and say what the network of their step says."""

from __future__ import annotations

import copy
from pathlib import Path

import benchmark_tasks
import pytest
import torch
from small import same_bits, small_trainer

from domadapt import checkpoint
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.network import Network
from domadapt.runs.candidate import LOOKS, STATE, Trained, looks_back, train_candidate
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.trainer import Log, look_steps

TRAINING = {"steps": 12, "batch_size": 16, "device": "cpu", "checkpoint_every": 4, "log_every": 4}


def test_looks_are_even_and_end_with_the_last_step() -> None:
    assert look_steps(12, 5) == [3, 5, 8, 10, 12]
    assert look_steps(1000, 5) == [200, 400, 600, 800, 1000]
    assert look_steps(3, 5) == [1, 2, 3]
    assert look_steps(7, 1) == [7]
    assert look_steps(0, 5) == [0]


@pytest.mark.parametrize("name", ["dann", "mean_teacher", "source_only"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_looks_change_no_bit_and_see_the_network_of_their_step(name: str, ema: float) -> None:
    if ema and name == "mean_teacher":
        pytest.skip("it keeps a network of its own")
    plain = small_trainer(name, dropout=0.3, ema=ema).fit()
    trainer = small_trainer(name, dropout=0.3, ema=ema, log_every=1)
    then: dict[int, Network] = {}
    seen: dict[int, Network] = {}

    def after(log: Log) -> None:
        live = trainer.average if ema else trainer.method.adapted()
        then[log.step] = copy.deepcopy(live)  # type: ignore[assignment]

    random = torch.get_rng_state()
    fitted = trainer.fit(after, look=lambda k, n: seen.update({k: copy.deepcopy(n)}), looks=3)
    moved = torch.get_rng_state()
    assert same_bits(fitted, plain)
    assert list(seen) == [4, 8]
    for step, network in seen.items():
        assert same_bits(network, then[step])
        assert not same_bits(network, fitted)
    torch.set_rng_state(random)
    small_trainer(name, dropout=0.3, ema=ema, log_every=1).fit()
    assert torch.equal(torch.get_rng_state(), moved)


def plan_of_near() -> Plan:
    return make_plan(benchmark_tasks.near(), ModelSpec(name="mlp"))


def trained(plan: Plan, folder: Path | None, looks: int = 3) -> Trained:
    how = training_for(plan.kind, TRAINING)
    return train_candidate(plan, "dann", {}, how, folder, looks=looks)


def test_a_candidate_keeps_its_looks(tmp_path: Path) -> None:
    plan = plan_of_near()
    plain = trained(plan, None, looks=0)
    found = trained(plan, tmp_path / "a")
    assert same_bits(found.network, plain.network)
    assert not list((tmp_path / "a").glob(STATE))
    back = dict(looks_back(plan, 0, tmp_path / "a"))
    assert list(back) == [4, 8]
    assert not any(network.training for network in back.values())
    # Taken up where it is finished, the looks are still there.
    trained(plan, tmp_path / "a")
    again = dict(looks_back(plan, 0, tmp_path / "a"))
    assert all(same_bits(again[step], back[step]) for step in back)
    with pytest.raises(DomadaptError, match="need a folder"):
        trained(plan, None)


@pytest.mark.parametrize("at", [3, 6, 9])
def test_interrupted_between_looks_it_keeps_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    plan = plan_of_near()
    trained(plan, tmp_path / "whole")
    from domadapt.methods import Method

    after_step, calls = Method.after_step, [0]

    def killed(self: Method, progress: float) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        after_step(self, progress)

    monkeypatch.setattr(Method, "after_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(plan, tmp_path / "killed")
    before = {p.name for p in (tmp_path / "killed").glob(LOOKS)}
    assert len(before) == (at - 1) // 4
    monkeypatch.setattr(Method, "after_step", after_step)
    trained(plan, tmp_path / "killed")
    files = sorted((tmp_path / "whole").glob(LOOKS))
    assert len(files) == 2
    for file in [*files, tmp_path / "whole" / "model.safetensors"]:
        one, _ = checkpoint.load_tensors(file)
        two, _ = checkpoint.load_tensors(tmp_path / "killed" / file.name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)
