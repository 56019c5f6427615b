"""Adapters and LoRA in encoders of Hugging Face: where they stand, and how runs bring them back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed")
from tiny import domain, text_task, tiny_bert, tiny_vit

from domadapt import adapt
from domadapt.errors import DomadaptError
from domadapt.hf.encoder import build_encoder
from domadapt.hf.saving import save_classifier
from domadapt.network import Network
from domadapt.runs.candidate import train_candidate
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.runs.saved import load_run, predict
from domadapt.strategies.adapters import Adapted, insert_adapters
from domadapt.strategies.tuning import prepare, tuning_of
from domadapt.training import Training

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)


def places(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, Adapted)]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_two_adapters_in_each_layer_before_the_sums(kind: str, tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path, kind)))
    plain = plan.make_network(0).eval()
    network = prepare(plan.make_network(0), "adapters:4", plan.example, 0).eval()
    found = places(network)
    assert len(found) == 4
    ends = ("attention.output.dense", "output.dense", "attention.out_lin", "ffn.lin2")
    assert all(name.endswith(ends) for name in found)
    assert not any("embeddings" in name for name in found)
    torch.testing.assert_close(network(plan.example), plain(plan.example))
    tuning = tuning_of(network, Training(finetune="adapters:4"), 10, "it")
    assert tuning is not None
    # 16*4+4 + 4*16+16 in each of 4; LayerNorms: the embeddings' and two in each of 2 layers.
    assert tuning.describe()["trained"] == 4 * 148 + 5 * 32 + 16 * 2 + 2


@needs_peft
def test_lora_stands_beside_queries_and_values(tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path)))
    network = prepare(plan.make_network(0), "lora:2", plan.example, 0)
    tuning = tuning_of(network, Training(finetune="lora:2"), 10, "it")
    assert tuning is not None
    said = tuning.describe()
    low_rank = [n for n in said["names"] if "lora_" in n]
    assert len(low_rank) == 2 * 2 * 2
    assert all(".query." in n or ".value." in n for n in low_rank)
    assert said["trained"] == 4 * 2 * (16 + 16) + 34


@pytest.mark.parametrize(
    "strategy", ["lp_ft:0.5", "adapters:4", pytest.param("lora:2", marks=needs_peft)]
)
def test_hidden_words_take_a_strategy(strategy: str, tmp_path: Path) -> None:
    plan = make_plan(text_task(), ModelSpec(tiny_bert(tmp_path)))
    how = Training(steps=4, batch_size=8, lr=1e-3, device="cpu", finetune=strategy, log_every=2)
    trained = train_candidate(plan, "udalm", {}, how)
    assert all(torch.isfinite(p).all() for p in trained.network.parameters())
    start = plan.make_network(0).backbone.get_parameter("model.embeddings.word_embeddings.weight")
    found = dict(trained.network.named_parameters())
    kept = [p for n, p in found.items() if n.endswith("word_embeddings.weight")]
    assert torch.equal(kept[0], start) == (strategy != "lp_ft:0.5")


def test_a_vision_transformer_takes_adapters_over_its_channels(tmp_path: Path) -> None:
    encoder, _ = build_encoder(tiny_vit(tmp_path))
    network = Network(encoder, nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 16, 16)
    before = network(x)
    insert_adapters(network, x, 3, seed=0)
    widths = {m.adapter.down.in_features for m in network.modules() if isinstance(m, Adapted)}
    assert widths <= {16}
    assert widths
    torch.testing.assert_close(network(x), before)


def test_a_run_with_adapters_comes_back(tmp_path: Path) -> None:
    name = tiny_bert(tmp_path / "bert")
    training = {"steps": 4, "batch_size": 8, "workers": 0, "finetune": "adapters:4", "lr": 1e-2}
    found = adapt(
        text_task(),
        name,
        "mcc",
        out=tmp_path / "run",
        training=training,
        keep="adapted",
        look=False,
    )
    assert found.report.model["finetune"] == "adapters:4"
    run = load_run(tmp_path / "run")
    assert len(places(run.model)) == 4
    batch = make_plan(text_task(), ModelSpec(name)).example
    torch.testing.assert_close(run.model(batch), found.network(batch))
    assert len(predict(run, domain("pans", 20, labelled=False))) == 20


def test_adapters_cannot_leave_as_a_classifier_of_hugging_face(tmp_path: Path) -> None:
    name = tiny_bert(tmp_path / "bert")
    plan = make_plan(text_task(), ModelSpec(name, pooling="hf"))
    network = prepare(plan.make_network(0), "adapters:4", plan.example, 0)
    with pytest.raises(DomadaptError, match="no place for adapters"):
        save_classifier(network, tmp_path / "bert", tmp_path / "out", ["a", "b"])
    assert not (tmp_path / "out").exists()
