"""Runs with encoders of Hugging Face: trained, resumed, taken up again, and left as classifiers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

import transformers
from small import same_bits
from tiny import domain, text_task, texts, tiny_bert, tiny_vit

from domadapt import adapt, load_run, predict
from domadapt.adaptation import check
from domadapt.data import from_arrays, from_texts
from domadapt.data.text import texts_of
from domadapt.errors import DomadaptError
from domadapt.export import export_onnx, export_pt2
from domadapt.hf.encoder import build_encoder, tokenizer_of
from domadapt.hf.saving import save_classifier
from domadapt.inference import outputs_of
from domadapt.methods import build_method
from domadapt.network import Network, Normalize
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Task
from domadapt.trainer import Trainer
from domadapt.training import Training

QUICK = {"steps": 4, "batch_size": 8, "lr": 1e-3, "workers": 0, "log_every": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_vit(tmp_path_factory.mktemp("vit"))


def folder_of(name: str) -> Path:
    return Path(name.removeprefix("hf:"))


def test_a_vision_transformer_is_adapted(vit: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = (rng.uniform(0, 100, (40, 16, 16, 3)) + 100 * y[:, None, None, None]).astype(np.uint8)
    task = Task(from_arrays(x, y, name="a"), from_arrays(x // 2, y, name="b"))
    out = tmp_path / "run"
    network, _ = adapt(task, vit, "dan", out=out, training=QUICK, look=False, export=("pt2", "hf"))
    assert isinstance(network.normalize, Normalize)
    run = load_run(out)
    images = run.views.evaluation(task.target_train.fetch(np.arange(6)))
    left = transformers.AutoModelForImageClassification.from_pretrained(out / "huggingface").eval()
    with torch.no_grad():
        logits = left(pixel_values=(images - 0.5) / 0.5).logits  # type: ignore[operator]
        torch.testing.assert_close(logits, run.model(images), atol=1e-5, rtol=0)


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_needs_nothing_but_its_folder(tmp_path: Path) -> None:
    name = tiny_bert(tmp_path / "bert")
    task = text_task()
    out = tmp_path / "run"
    network, report = adapt(
        task, name, "dann", out=out, training=QUICK, look=False, max_length=9, keep="adapted"
    )
    assert report.model["backbone"] == name
    assert report.model["max_length"] == 9
    shutil.rmtree(tmp_path / "bert")
    run = load_run(out)
    assert same_bits(run.model, network)
    p = predict(run, domain("pans", 60))
    table = (out / "predictions.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[3]) for row in table[:60]] == pytest.approx(
        p.max(1).values.tolist(), abs=1e-5
    )
    x = run.views.evaluation(domain("pans", 60).samples.__getitems__(range(7)))
    assert isinstance(x, dict)
    assert x["input_ids"].shape[1] == 9
    program: Any = torch.export.load(str(out / "model.pt2")).module()
    held = json.loads((out / "config.json").read_text())["calibration"]
    with torch.no_grad():
        for size in (1, 7):
            part = {k: v[:size, : 3 + size] for k, v in x.items()}
            logits = run.model(part) / held["temperature"] + torch.tensor(held["offset"])
            torch.testing.assert_close(program(part), logits, atol=1e-5, rtol=0)
    # It is gone on from, and without the source.
    more = adapt(
        (domain("books", 60), domain("pans", 60)),
        method="mcc",
        checkpoint_file=out,
        training={**QUICK, "steps": 1, "lr": 1e-9},
        look=False,
        keep="adapted",
    )
    assert more.report.model["max_length"] == 9
    again = adapt(
        domain("pans", 60), method="shot", checkpoint_file=out, training=QUICK, look=False
    )
    assert again.report.model["pooling"] == "mean"


def test_features_of_a_frozen_encoder(bert: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    network, report = adapt(
        text_task(), bert, "coral", out=out, freeze=True, training=QUICK, look=False
    )
    assert len(list((out / "cache").glob("features-*.npy"))) == 2
    encoder = build_encoder(bert)[0].eval()
    assert same_bits(network.backbone, encoder)
    run = load_run(out)
    assert same_bits(run.model, network)
    assert predict(run, domain("pans", 60)).shape == (60, 2)
    assert report.model["freeze"] is True


def trainer(bert: str, path: Path | None, method: str = "fixmatch", **training: Any) -> Trainer:
    plan = make_plan(text_task(), ModelSpec(bert))
    built = build_method(method, plan.make_network(0), {})
    how = Training(**{**QUICK, "steps": 8, "checkpoint_every": 2, **training})
    return Trainer(built, plan.task, plan.views, how, checkpoint_path=path, key="k")


def test_training_goes_on_with_the_same_bits(bert: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(point: Any) -> None:
        if point.step >= 4:
            raise Stop

    whole = trainer(bert, None).fit()
    with pytest.raises(Stop):
        trainer(bert, tmp_path / "state.safetensors").fit(stop)
    second = trainer(bert, tmp_path / "state.safetensors")
    assert same_bits(second.fit(), whole)
    assert not same_bits(trainer(bert, None, seed=1).fit(), whole)


def test_a_text_is_learnt(bert: str) -> None:
    fitted = trainer(bert, None, "source_only", steps=60, lr=5e-3, batch_size=16).fit()
    plan = make_plan(text_task(), ModelSpec(bert))
    val = outputs_of(fitted, plan.task.source_val, plan.views)
    assert val.y is not None
    assert float((val.logits.argmax(1) == val.y).float().mean()) > 0.9


def test_several_sources_and_labelled_target_texts(bert: str) -> None:
    more = from_texts(*texts("books", 20, seed=9), name="more")
    task = Task(
        [domain("books", 40), more],
        domain("pans", 30, labelled=False),
        target_labelled=from_texts(["the lid was so so fine", "sad sad lid"], ["good", "bad"]),
    )
    plan = make_plan(task, ModelSpec(bert))
    row = plan.task.source_train.fetch([0])
    assert isinstance(row, dict)
    text = texts_of(task.source_train.fetch([0]))
    assert torch.equal(row["input_ids"], tokenizer_of(bert)(text)["input_ids"])
    method = build_method("dann", plan.make_network(0), {})
    Trainer(method, plan.task, plan.views, Training(**QUICK)).fit()


# A classifier of Hugging Face ---------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "freeze"), [("bert", False), ("distilbert", True)])
def test_what_leaves_is_the_same_function(kind: str, freeze: bool, tmp_path: Path) -> None:
    name = tiny_bert(tmp_path / "bert", kind)
    out = tmp_path / "run"
    adapt(
        text_task(),
        name,
        "mcc",
        out=out,
        training={**QUICK, "lr": 1e-2},
        look=False,
        freeze=freeze,
        export=("hf",),
        max_length=10,
    )
    left = transformers.AutoModelForSequenceClassification.from_pretrained(out / "huggingface")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "huggingface")
    some = [*texts("pans", 9)[0], "the " * 30]
    given = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
    assert given["input_ids"].shape[1] == 10
    run = load_run(out)
    with torch.no_grad():
        x = run.views.evaluation(from_texts(some).samples.__getitems__(range(10)))
        ours, theirs = run.model(x), left.eval()(**given).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert float(ours.std()) > 1e-3
    assert left.config.id2label == {0: "bad", 1: "good"}
    said = transformers.pipeline(
        "text-classification", model=str(out / "huggingface"), truncation=True
    )(some)
    assert [s["label"] for s in said] == [run.class_names[i] for i in ours.argmax(1).tolist()]
    beside = json.loads((out / "huggingface" / "calibration.json").read_text())
    p = (theirs / beside["temperature"] + torch.tensor(beside["offset"])).softmax(1)
    torch.testing.assert_close(predict(run, from_texts(some)), p, atol=1e-4, rtol=0)


def test_its_own_head_is_kept(bert: str, tmp_path: Path) -> None:
    place = tmp_path / "classifier"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder_of(bert))
    model.save_pretrained(place)
    for file in folder_of(bert).glob("tokenizer*"):
        shutil.copy(file, place)
    name = f"hf:{place}"
    network = make_plan(text_task(), ModelSpec(name, head="auto")).make_network(0).eval()
    x = tokenizer_of(name)(texts("books", 5)[0])
    with torch.no_grad():
        torch.testing.assert_close(network(x), model.eval()(**x).logits)
    three = from_texts(texts("books", 30)[0], [i % 3 for i in range(30)])
    with pytest.raises(DomadaptError, match="has 2 classes, and the source has 3"):
        make_plan(Task(three, domain("pans", 20, False)), ModelSpec(name, head="auto"))
    with pytest.raises(DomadaptError, match="goes with the pooling"):
        make_plan(text_task(), ModelSpec(name, head="auto", pooling="mean"))


def test_measurements_leave_in_their_units(bert: str, tmp_path: Path) -> None:
    some = texts("books", 40)[0]
    values = 100.0 + 10 * np.array([len(t) for t in some])
    source = from_texts(some, values, regression=True, class_names=["length"])
    out = tmp_path / "run"
    adapt(
        Task(source, domain("pans", 30, False)),
        bert,
        "deep_coral",
        out=out,
        training=QUICK,
        look=False,
        export=("hf",),
    )
    left = transformers.AutoModelForSequenceClassification.from_pretrained(out / "huggingface")
    assert left.config.problem_type == "regression"
    run = load_run(out)
    with torch.no_grad():
        x = tokenizer_of(bert)(some)
        expected = run.model(x)
        torch.testing.assert_close(left.eval()(**x).logits, expected, rtol=1e-4, atol=1e-2)
    assert float(expected.mean()) > 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "mean"}, "--pooling hf"),
        ({"bottleneck": 8}, "no bottleneck"),
        ({"model": None}, "no default model"),
    ],
)
def test_what_cannot_leave_is_refused_before_training(
    bert: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DomadaptError, match=words):
        check(text_task(), **{"model": bert, "method": "mcc", "export": ("hf",), **options})


def test_a_network_of_another_form_cannot_leave(bert: str, tmp_path: Path) -> None:
    encoder, _ = build_encoder(bert, pooling="hf")
    deep = Network(encoder, nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(DomadaptError, match="ReLU"):
        save_classifier(deep, folder_of(bert), tmp_path / "out", ["a", "b"])
    plain = Network(build_encoder(bert)[0], nn.Linear(16, 2))
    with pytest.raises(DomadaptError, match="pooling 'hf'"):
        save_classifier(plain, folder_of(bert), tmp_path / "out", ["a", "b"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@torch.no_grad()
def test_programs_take_texts_of_any_length(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    import onnx
    from onnx.reference import ReferenceEvaluator

    name = tiny_bert(tmp_path / "bert", "distilbert")
    tokenizer = tokenizer_of(name)
    network = Network(build_encoder(name)[0], nn.Linear(16, 2)).eval()
    export_pt2(network, tokenizer(texts("books", 2)[0]), tmp_path / "m.pt2")
    export_onnx(network, tokenizer(texts("books", 2)[0]), tmp_path / "m.onnx")
    program: Any = torch.export.load(str(tmp_path / "m.pt2")).module()
    onnx_program = ReferenceEvaluator(onnx.load(str(tmp_path / "m.onnx")))
    for n, words in ((1, 1), (3, 20), (4, 60)):
        x = tokenizer([" ".join(["the"] * (words - i % 2)) for i in range(n)])
        torch.testing.assert_close(program(x), network(x), atol=1e-5, rtol=0)
        said = onnx_program.run(None, {k: v.numpy() for k, v in x.items()})[0]
        torch.testing.assert_close(torch.from_numpy(said), network(x), atol=1e-5, rtol=0)
