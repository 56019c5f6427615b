"""Encoders of Hugging Face: tokens, pooling, padding, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

import transformers
from tiny import VOCABULARY, domain, text_task, texts, tiny_bert, tiny_vit

from domadapt.backbones import build_backbone, preprocessing_of
from domadapt.data import from_arrays, from_texts
from domadapt.data.tokens import Tokenizer, TokenSamples, tokenised
from domadapt.errors import DomadaptError
from domadapt.hf import reads
from domadapt.hf.encoder import build_encoder, tokenizer_of
from domadapt.hf.saving import keep_encoder
from domadapt.inference import outputs_of
from domadapt.methods import build_method
from domadapt.network import Network
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Task
from domadapt.trainer import Trainer
from domadapt.training import Training


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_vit(tmp_path_factory.mktemp("vit"))


def folder_of(name: str) -> Path:
    return Path(name.removeprefix("hf:"))


# Tokens -------------------------------------------------------------------------------------------


def ids(*words: str) -> list[int]:
    return [VOCABULARY.index(w) for w in words]


def test_tokens_are_those_of_the_vocabulary(bert: str) -> None:
    x = tokenizer_of(bert)(["the story was fine", "sad", "unheard"])
    expected = [
        ids("[CLS]", "the", "story", "was", "fine", "[SEP]"),
        ids("[CLS]", "sad", "[SEP]", "[PAD]", "[PAD]", "[PAD]"),
        ids("[CLS]", "[UNK]", "[SEP]", "[PAD]", "[PAD]", "[PAD]"),
    ]
    assert x["input_ids"].tolist() == expected
    assert x["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3, [1] * 3 + [0] * 3]
    assert set(x) == {"input_ids", "attention_mask"}


def test_pairs_tell_their_texts_apart(bert: str) -> None:
    x = tokenizer_of(bert)([("the lid", "sad"), ("a", "")])
    assert x["input_ids"][0].tolist() == ids("[CLS]", "the", "lid", "[SEP]", "sad", "[SEP]")
    assert x["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]]


def test_texts_are_cut(bert: str) -> None:
    x = tokenizer_of(bert, 5)(["the the the the the the the"])
    assert x["input_ids"].tolist() == [ids("[CLS]", "the", "the", "the", "[SEP]")]
    assert tokenizer_of(bert).max_length == 64, "the model's own limit is below 128"
    for wrong in (65, 3):
        with pytest.raises(DomadaptError, match="between 4 and 64"):
            tokenizer_of(bert, wrong)


def test_tokens_are_computed_once(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = domain("books", 40)
    first = tokenised(given, tokenizer_of(bert), tmp_path)
    whole = first.samples.__getitems__(range(40))
    direct = tokenizer_of(bert)(texts("books", 40, seed=5)[0])
    assert all(torch.equal(whole[k], direct[k]) for k in direct)
    shutil.copytree(tmp_path, tmp_path / "copy")

    def never(*args: object) -> Any:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as m:
        m.setattr(Tokenizer, "rows", never)
        again = tokenised(given, tokenizer_of(bert), tmp_path)
        assert isinstance(again.samples, TokenSamples)
        assert isinstance(again.samples.table, np.memmap)
        assert torch.equal(again.samples.__getitems__(range(40))["input_ids"], whole["input_ids"])
        for other in (
            (given, tokenizer_of(bert, 7)),
            (from_texts([*texts("books", 40, seed=5)[0][:-1], "the"]), tokenizer_of(bert)),
        ):
            with pytest.raises(AssertionError, match="tokenised again"):
                tokenised(*other, tmp_path)
    few = again.samples.__getitems__([3, 1])
    assert few["input_ids"].shape[1] == int(again.samples.lengths[[3, 1]].max())
    assert tokenised(again, tokenizer_of(bert), tmp_path) is again


def test_another_vocabulary_is_another_tokenizer(bert: str, tmp_path: Path) -> None:
    keep_encoder(bert, tmp_path / "kept")
    kept = tokenizer_of(f"hf:{tmp_path / 'kept'}")
    assert kept.identity == tokenizer_of(bert).identity
    file = tmp_path / "kept" / "tokenizer.json"
    said = json.loads(file.read_text())
    words = said["model"]["vocab"]
    words["fine"], words["sad"] = words["sad"], words["fine"]
    file.write_text(json.dumps(said))
    assert tokenizer_of(f"hf:{tmp_path / 'kept'}").identity != kept.identity


def test_the_strong_view_masks_words_alone(bert: str) -> None:
    plan = make_plan(text_task(), ModelSpec(bert))
    raw = plan.task.target_train.fetch(np.arange(60))
    assert isinstance(raw, dict)
    assert plan.views.weak(raw, torch.Generator()) == raw
    strong = plan.views.strong(raw, torch.Generator().manual_seed(0))
    assert isinstance(strong, dict)
    changed = strong["input_ids"] != raw["input_ids"]
    special = raw["input_ids"] < VOCABULARY.index("fine")
    assert changed.any()
    assert not (changed & special).any()
    assert set(strong["input_ids"][changed].tolist()) == {VOCABULARY.index("[MASK]")}
    assert 0.1 < float(changed.sum() / (~special).sum()) < 0.2
    assert torch.equal(strong["attention_mask"], raw["attention_mask"])


# Features -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_pooling_against_the_model_itself(bert: str) -> None:
    model = transformers.AutoModel.from_pretrained(folder_of(bert)).eval()
    text = "a sad story"
    x = tokenizer_of(bert)([text, "the page was fine fine fine fine"])
    hidden = model(
        input_ids=torch.tensor([ids("[CLS]", *text.split(), "[SEP]")])
    ).last_hidden_state[0]
    for pooling, expected in (("mean", hidden.mean(0)), ("first", hidden[0])):
        encoder, head = build_encoder(bert, pooling=pooling)
        assert head is None
        torch.testing.assert_close(encoder.eval()(x)[0], expected, atol=1e-6, rtol=0)
        assert encoder.training is False
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder_of(bert))
    encoder, _ = build_encoder(bert, pooling="hf")
    encoder.model.load_state_dict(classifier.state_dict(), strict=False)
    logits = classifier.classifier(encoder.eval()(x))
    torch.testing.assert_close(logits, classifier.eval()(**x).logits)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("pooling", ["mean", "first", "hf"])
@torch.no_grad()
def test_padding_changes_nothing(kind: str, pooling: str, tmp_path: Path) -> None:
    name = tiny_bert(tmp_path, kind)
    encoder = build_encoder(name, pooling=pooling)[0].eval()
    tokenizer = tokenizer_of(name)
    some = texts("books", 12)[0]
    alone = torch.cat([encoder(tokenizer([text])) for text in some])
    torch.testing.assert_close(encoder(tokenizer(some)), alone, atol=1e-5, rtol=0)
    x = tokenizer(some)
    # What stands where nothing is attended to does not count.
    x["input_ids"] = torch.where(x["attention_mask"].bool(), x["input_ids"], 7)
    torch.testing.assert_close(encoder(x), alone, atol=1e-5, rtol=0)


def test_blocks_are_embeddings_and_layers(bert: str, vit: str, tmp_path: Path) -> None:
    def blocks(name: str, **how: Any) -> list[str]:
        encoder, _ = build_encoder(name, **how)
        network = Network(encoder, nn.Linear(16, 2))
        for block, module in network.blocks().items():
            assert network.backbone.get_submodule(block) is module
        return [block.split(".", 1)[1] for block in network.blocks()]

    assert blocks(bert) == ["embeddings", "encoder.layer.0", "encoder.layer.1"]
    assert blocks(bert, pooling="hf")[0] == "bert.embeddings"
    assert len(blocks(vit)) == 3
    assert blocks(tiny_bert(tmp_path, "distilbert"))[1:] == [
        "transformer.layer.0",
        "transformer.layer.1",
    ]


def test_outputs_come_in_the_order_of_the_split(bert: str) -> None:
    plan = make_plan(text_task(), ModelSpec(bert))
    network = plan.make_network(0).eval()
    split = plan.task.source_val
    got = outputs_of(network, split, plan.views)
    part = outputs_of(network, split, plan.views, max_features=5, seed=3)
    with torch.no_grad():
        for i in range(len(split)):
            x = plan.views.evaluation(split.fetch([i]))
            torch.testing.assert_close(got.logits[i], network(x)[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(got.z[i], network.features(x)[0], atol=1e-5, rtol=0)
    assert torch.equal(got.y, split.y)  # type: ignore[arg-type]
    assert part.rows is not None
    torch.testing.assert_close(part.z, got.z[part.rows])


def test_images_by_the_same_door(vit: str, tmp_path: Path) -> None:
    assert reads(vit) == "image"
    asked = preprocessing_of(vit)
    assert asked is not None
    assert (asked.size, asked.resize, asked.mean) == ((16, 16), None, (0.5, 0.5, 0.5))
    other = tmp_path / "vit"
    shutil.copytree(folder_of(vit), other)
    file = other / "preprocessor_config.json"
    said = {"size": {"height": 16, "width": 16}, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    file.write_text(json.dumps(said))
    asked = preprocessing_of(f"hf:{other}")
    assert asked is not None
    assert (asked.mean, asked.std) == ((0.1,) * 3, (0.2,) * 3)
    file.write_text(
        json.dumps({"size": {"shortest_edge": 20}, "crop_size": 16, "do_center_crop": True})
    )
    asked = preprocessing_of(f"hf:{other}")
    assert asked is not None
    assert (asked.size, asked.resize) == ((16, 16), 20)

    x = torch.rand(4, 3, 16, 16)
    made = build_backbone(vit, x)
    model = transformers.ViTModel.from_pretrained(folder_of(vit)).eval()
    with torch.no_grad():
        expected = model(pixel_values=x).last_hidden_state[:, 0]
        torch.testing.assert_close(made.module.eval()(x), expected)
    assert (made.kind, made.bottleneck) == ("transformer", None)


# What is refused ----------------------------------------------------------------------------------


def refused(name: str, words: str, **options: Any) -> None:
    with pytest.raises(DomadaptError, match=words):
        make_plan(text_task(), ModelSpec(name, **options))


def test_folders_that_are_none(bert: str, tmp_path: Path) -> None:
    refused("hf:", "must follow hf:")
    refused(f"hf:{tmp_path / 'nowhere'}", "there is no folder")
    refused(f"hf:{tmp_path}", "no config.json")
    bare = tmp_path / "bare"
    shutil.copytree(folder_of(bert), bare)
    (bare / "model.safetensors").unlink()
    refused(f"hf:{bare}", "weights in .* cannot be read")
    (bare / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(f"hf:{bare}", r"has pytorch_model\.bin, and nothing is unpickled")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    (bare / "vocab.txt").unlink()
    refused(f"hf:{bare}", "tokenizer")


def test_code_of_a_model_is_never_run(bert: str, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(folder_of(bert), odd)
    config = json.loads((odd / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (odd / "config.json").write_text(json.dumps(config))
    (odd / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(f"hf:{odd}", "such code is never run")
    assert not (tmp_path / "ran").exists()


def test_names_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("hf:nobody/no-such-model", "hub cannot be reached; download it where")


def test_what_does_not_go_together(bert: str, vit: str) -> None:
    refused(bert, "pooling must be one of", pooling="max")
    refused(bert, "brings its weights along", weights="DEFAULT")
    refused(bert, "--head auto", head="fc")
    refused(vit, "takes images, and the data are texts")
    refused("mlp", "Texts need a model that brings a tokenizer")
    pictures = from_arrays(np.zeros((20, 16, 16), np.uint8), np.arange(20) % 2)
    task = Task(pictures, from_arrays(np.zeros((9, 16, 16), np.uint8)))
    for spec, words in (
        (ModelSpec(bert), "takes texts, and these data are none"),
        (ModelSpec("lenet", max_length=9), "max_length is for texts"),
        (ModelSpec("lenet", pooling="mean"), "pooling is for models of Hugging Face"),
    ):
        with pytest.raises(DomadaptError, match=words):
            make_plan(task, spec)
    plan = make_plan(text_task(), ModelSpec(bert))
    method = build_method("adabn", plan.make_network(0), {})
    with pytest.raises(DomadaptError, match="needs BatchNorm"):
        Trainer(method, plan.task, plan.views, Training(device="cpu"))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(DomadaptError, match="an encoder alone is required"):
        build_encoder(f"hf:{tmp_path}")


def test_pairs_and_single_texts_do_not_mix(bert: str) -> None:
    pairs = from_texts([("the lid", t) for t in texts("books", 20)[0]], [0, 1] * 10)
    plan = make_plan(Task(pairs, domain("pans", 20, False)), ModelSpec(bert))
    method = build_method("dann", plan.make_network(0), {})
    with pytest.raises(DomadaptError, match="all single texts or all pairs"):
        Trainer(method, plan.task, plan.views, Training(device="cpu")).fit()
    alike = from_texts([("the lid", t) for t in texts("pans", 20)[0]])
    plan = make_plan(Task(pairs, alike), ModelSpec(bert))
    method = build_method("dann", plan.make_network(0), {})
    Trainer(method, plan.task, plan.views, Training(steps=2, batch_size=4, device="cpu")).fit()


def test_a_model_that_has_no_token_for_padding(tmp_path: Path) -> None:
    name = tiny_bert(tmp_path, "gpt2", pad_token_id=None, eos_token_id=3)
    encoder = build_encoder(name)[0].eval()
    assert encoder.pad_id == 3
    tokenizer = tokenizer_of(name)
    some = texts("books", 6)[0]
    with torch.no_grad():
        alone = torch.cat([encoder(tokenizer([text])) for text in some])
        torch.testing.assert_close(encoder(tokenizer(some)), alone, atol=1e-5, rtol=0)
    with pytest.raises(DomadaptError, match="linear layer with a bias"):
        build_encoder(name, pooling="hf")


def test_weights_of_another_model_are_refused(bert: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(folder_of(bert), other)
    state = {f"wrapped.{k}": v for k, v in load_file(other / "model.safetensors").items()}
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    refused(f"hf:{other}", "are those of another model")


@pytest.mark.slow
def test_a_name_in_the_cache_needs_no_network(bert: str, vit: str, tmp_path: Path) -> None:
    for name in (bert, vit):
        place = tmp_path / "hub" / f"models--me--{'vit' if name == vit else 'bert'}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
        shutil.copytree(
            folder_of(name), place / "snapshots" / (place / "refs" / "main").read_text()
        )
    code = """
from domadapt.hf.encoder import build_encoder, preprocessing_of, tokenizer_of
x = tokenizer_of("hf:me/bert")(["fine"])
print(x["input_ids"].tolist(), preprocessing_of("hf:me/vit").size)
for name in ("hf:me/bert", "hf:me/vit"):
    print(sum(p.numel() for p in build_encoder(name)[0].parameters()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = [sum(p.numel() for p in build_encoder(n)[0].parameters()) for n in (bert, vit)]
    assert done.stdout.split("\n")[0] == f"{[ids('[CLS]', 'fine', '[SEP]')]} (16, 16)", done.stderr
    assert [int(line) for line in done.stdout.split("\n")[1:3]] == expected
