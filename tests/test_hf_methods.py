"""Every method on an encoder of texts: it trains it, or says in a sentence why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra: pip install 'domadapt[text]'")

from small import same_bits
from tiny import domain, text_task, texts, tiny_bert

from domadapt.data import from_texts
from domadapt.errors import DomadaptError
from domadapt.methods import build_method, method_class, method_names
from domadapt.runs.plan import ModelSpec, Plan, make_plan
from domadapt.task import Task
from domadapt.trainer import Trainer
from domadapt.training import Training


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    place: Path = tmp_path_factory.mktemp("bert")
    name = tiny_bert(place)
    two = [domain("books", 40), from_texts(*texts("books", 30, seed=9), name="more")]
    several = Task(two, domain("pans", 40))
    return {
        "one": make_plan(text_task(), ModelSpec(name)),
        "several": make_plan(several, ModelSpec(name)),
    }


@pytest.mark.parametrize("name", method_names())
def test_every_method_trains_an_encoder_or_says_why_not(plans: dict[str, Plan], name: str) -> None:
    cls = method_class(name)
    plan = plans["several" if cls.setting == "multi-source" else "one"]
    method = build_method(name, plan.make_network(0), {})
    how = Training(steps=2, batch_size=8, lr=1e-3, device="cpu")
    needed = "BatchNorm" if cls.needs_batchnorm else "--freeze" if cls.closed_form else ""
    if needed:
        with pytest.raises(DomadaptError, match=needed):
            Trainer(method, plan.task, plan.views, how).fit()
        return
    fitted = Trainer(method, plan.task, plan.views, how).fit()
    assert not same_bits(fitted.backbone, plan.make_network(0).backbone)
