"""Self-supervised training on unlabelled target images, before the candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import same_bits, small_task
from torch import nn

from domadapt import Task, from_arrays
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.losses.contrastive import nt_xent
from domadapt.network import Network
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.strategies.self_supervised import check_self_supervised, self_supervised
from domadapt.strategies.spec import read_self_supervised
from domadapt.training import Training


def images(n: int, seed: int, labels: bool = True) -> object:
    """Dark images with a bright bar, at the top or at the left."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.integers(0, 60, size=(n, 3, 8, 8)).astype(np.uint8)
    for i, c in enumerate(y):
        at = int(rng.integers(0, 8))
        x[i, :, at, :] += np.uint8(150 * (c == 0))
        x[i, :, :, at] += np.uint8(150 * (c == 1))
    return from_arrays(
        x, y if labels else None, name=f"images{seed}", kind="image", augment="glyph"
    )


def plan_of(target_labels: bool = True, n: int = 40) -> Plan:
    task = Task(images(24, 1), images(n, 2, target_labels))  # type: ignore[arg-type]
    return make_plan(task, ModelSpec("lenet"))


def how(text: str, **more: object) -> Training:
    given = {"steps": 4, "batch_size": 16, "device": "cpu", "self_supervised": text, **more}
    return training_for("scratch", given)


def test_nt_xent_against_two_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    z = np.concatenate([a, b])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(10):
        others = [np.exp(z[i] @ z[k] / 0.5) for k in range(10) if k != i]
        total -= np.log(np.exp(z[i] @ z[(i + 5) % 10] / 0.5) / sum(others))
    got = nt_xent(torch.tensor(a), torch.tensor(b), 0.5)
    assert got.item() == pytest.approx(total / 10, rel=1e-6)


def test_what_is_said() -> None:
    assert read_self_supervised("none") == ("none", 0)
    assert read_self_supervised("simclr:30") == ("simclr", 30)
    assert read_self_supervised("reconstruction") == ("reconstruction", 500)
    for wrong in ("simclr:0", "none:3", "simclr:x"):
        with pytest.raises(DomadaptError, match="number of steps"):
            Training(self_supervised=wrong)
    with pytest.raises(DomadaptError, match="Did you mean 'simclr'"):
        Training(self_supervised="simcrl")
    assert "self_supervised" not in Training().asked()


@pytest.mark.parametrize("kind", ["simclr", "reconstruction"])
def test_the_backbone_alone_is_trained_and_always_to_the_same_bits(kind: str) -> None:
    plan = plan_of()

    def trained(of: Plan) -> Network:
        network = of.make_network(0)
        self_supervised(network, of.task, of.views, how(f"{kind}:3"))
        return network

    one = trained(plan)
    start = plan.make_network(0)
    assert same_bits(one, trained(plan))
    assert same_bits(one.head, start.head)
    assert not same_bits(one.backbone, start.backbone)
    # Not the target's labels, which it cannot reach.
    assert same_bits(one, trained(plan_of(target_labels=False)))


@pytest.mark.parametrize(("kind", "share"), [("simclr", 0.95), ("reconstruction", 0.85)])
def test_the_loss_falls(kind: str, share: float) -> None:
    plan = plan_of()
    losses = self_supervised(plan.make_network(0), plan.task, plan.views, how(f"{kind}:60"))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < share * np.mean(losses[:10])


def test_candidates_share_it_and_go_on_from_what_is_kept(tmp_path: Path) -> None:
    plan = plan_of()
    one = train_candidate(plan, "source_only", {}, how("simclr:3"), tmp_path / "c" / "source_only")
    (kept,) = (tmp_path / "c").glob("self-supervised-*.safetensors")
    stamp = kept.stat().st_mtime_ns
    train_candidate(plan, "mcc", {}, how("simclr:3"), tmp_path / "c" / "mcc")
    assert kept.stat().st_mtime_ns == stamp
    alone = train_candidate(plan, "source_only", {}, how("simclr:3"))
    assert same_bits(alone.network, one.network)
    plain = train_candidate(plan, "source_only", {}, how("none"))
    assert not same_bits(alone.network, plain.network)


def test_it_is_for_images_and_backbones_that_train() -> None:
    network = plan_of().make_network(0)
    with pytest.raises(DomadaptError, match="is for images"):
        check_self_supervised(how("simclr"), small_task(), network)
    network.backbone = nn.Flatten()
    with pytest.raises(DomadaptError, match="has no parameters"):
        check_self_supervised(how("simclr"), plan_of().task, network)
