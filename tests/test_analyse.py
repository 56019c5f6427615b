"""`adapt --analyse layers`: probes and CKA of each block in a run's report and on its page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from domadapt.adaptation import adapt, check
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of
from domadapt.layers import blocks_of, linear_cka
from domadapt.report.layers import sentence
from domadapt.report.page import render
from domadapt.report.report import Report
from tests.small import small_task

QUICK = {"steps": 20, "device": "cpu"}


def test_the_report_and_the_page_say_what_happened_in_each_block(tmp_path: Path) -> None:
    task = small_task()
    network, report = adapt(
        task,
        "mlp",
        "mcc",
        training=QUICK,
        look=False,
        analyse=["layers"],
        keep="adapted",
        export=(),
    )
    found = report.layers
    assert found is not None
    assert found["blocks"] == ["1", "2"]
    assert list(found["probing"]) == list(found["domains"]) == ["source_only", "mcc"]
    assert list(found["before_after"]) == ["target", "source"]
    # The last block of an MLP gives its features: a probe of these by other means.
    views_x = next(inputs_of(task.source_val, _views(), 10_000))
    with torch.no_grad():
        val = network.features(views_x).numpy()
        train = network.features(next(inputs_of(task.source_train, _views(), 10_000))).numpy()
    assert task.source_train.y is not None
    assert task.source_val.y is not None
    mean, scale = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1)
    alive = train.std(0) > 0
    scale = scale * alive.sum() ** 0.5
    model = LogisticRegression(C=30.0, max_iter=2000)
    model.fit(((train - mean) / scale)[:, alive], task.source_train.y.numpy())
    wanted = model.score(((val - mean) / scale)[:, alive], task.source_val.y.numpy())
    assert found["probing"]["mcc"][1] == pytest.approx(wanted, abs=0.03)
    assert all(v <= 1 + 1e-9 for v in found["before_after"]["target"])
    page = render(report)
    assert "Block by block" in page
    assert sentence(found)[:30] in page
    back = Report.from_json(report.to_json())
    assert render(back) == page
    assert "Block by block" not in render(dataclasses.replace(report, layers=None))
    assert len(blocks_of(network)) == 2


def _views():  # type: ignore[no-untyped-def]
    from domadapt.data.views import make_views

    return make_views("vector", "none", None)


def test_the_sentence_on_what_changed() -> None:
    blocks = ["model.encoder.layer.0", "model.encoder.layer.1"]
    changed = {"before_after": {"target": [0.9, 0.52]}, "blocks": blocks}
    assert "changed block layer.1 most (CKA 0.52 with" in sentence(changed)
    alike = {"before_after": {"target": [0.999, 0.9975]}, "blocks": blocks}
    assert "left every block as it was but for little (CKA at least 0.99;" in sentence(alike)


def test_a_network_that_stays_is_like_itself() -> None:
    z = torch.rand(30, 5)
    assert linear_cka(z, z) == pytest.approx(1)
    report = adapt(
        small_task(),
        "mlp",
        "source_only",
        training=QUICK,
        look=False,
        analyse=["layers"],
        export=(),
    ).report
    assert report.layers is not None
    assert list(report.layers["probing"]) == ["source_only"]
    assert report.layers["before_after"] == {}
    assert sentence(report.layers) == ""
    assert "Block by block" in render(report)


def test_what_is_refused() -> None:
    task = small_task()
    for given, reason in (
        ({"analyse": ["layer"]}, "analyse takes 'layers'"),
        ({"analyse": ["layers"], "freeze": True}, "frozen backbone stays"),
        ({"analyse": ["layers"], "model": "features"}, "frozen|at least 2 blocks"),
    ):
        given = {"model": "mlp", **given}
        with pytest.raises(DomadaptError, match=reason):
            adapt(task, method="mcc", training=QUICK, **given)
        with pytest.raises(DomadaptError, match=reason):
            check(task, method="mcc", training=QUICK, **given)
