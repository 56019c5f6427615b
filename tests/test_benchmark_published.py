"""Published figures: each has its source, and only what may be compared stands beside ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from domadapt.benchmark import read_suite
from domadapt.benchmark.leaderboard import latex, markdown
from domadapt.benchmark.published import Figure, published_for, read_published
from domadapt.benchmark.suite import METRICS, Suite
from domadapt.benchmark.summary import summarise
from domadapt.data import catalogue
from domadapt.errors import DomadaptError

READY = Path(__file__).parent.parent / "benchmarks"
OFFICE = catalogue.pairs("office31")
MODEL = {"name": "resnet50", "weights": "IMAGENET1K_V1"}


def about(**change: Any) -> dict[str, Any]:
    return {"model": MODEL, "metric": "accuracy", "protocol": "", **change}


def figure(**change: Any) -> Figure:
    given: dict[str, Any] = {
        "task": "office31:amazon->webcam",
        "backbone": "resnet50",
        "weights": "IMAGENET1K_V1",
        "method": "dann",
        "value": 80.0,
        "spread": None,
        "metric": "accuracy",
        "source": "A paper",
        "read_in": "Table 1",
        "paper": "(Somebody, 2020, arXiv:1)",
        "protocol": "transductive",
        "labels_selected": "no",
        "note": "",
    }
    return Figure(**given | change)


def test_every_row_of_the_file_has_all_fields() -> None:
    found = read_published()
    assert len(found) > 400
    pairs = {entry.name for entry in catalogue.tasks()}
    for one in found:
        for field in dataclasses.fields(one):
            value = getattr(one, field.name)
            if field.name not in ("spread", "note"):
                assert value is not None, field.name
                assert value != "", field.name
        assert 0 <= one.value <= 100
        assert one.metric in METRICS
        collection, _, rest = one.task.partition(":")
        assert one.task in pairs or (rest == "*->*" and catalogue.pairs(collection))
        assert "arXiv:" in one.paper or "(" in one.paper
        assert "commit" in one.read_in
    keys = [(f.task, f.backbone, f.method, f.metric, f.source, f.read_in) for f in found]
    assert len(set(keys)) == len(keys)


def test_printed_averages_are_those_of_the_pairs() -> None:
    """A figure in the wrong column or with a slip of the pen would change its average."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for f in read_published():
        key = (f.method, f.read_in, f.backbone, f.metric)
        groups.setdefault(key, {})[f.task] = f.value
    compared, off = 0, []
    for key, values in groups.items():
        printed = [v for task, v in values.items() if task.endswith("*->*")]
        pairs = [v for task, v in values.items() if not task.endswith("*->*")]
        if printed and pairs:
            compared += 1
            if abs(printed[0] - sum(pairs) / len(pairs)) > 0.11:
                off.append((*key, printed[0], sum(pairs) / len(pairs)))
    assert compared > 40
    assert off == []


def test_figures_as_they_are_printed() -> None:
    found = {
        (f.task, f.method): f.value
        for f in read_published()
        if f.source.startswith("TLlib") and f.backbone == "resnet50"
    }
    assert found["office31:amazon->webcam", "dann"] == 91.4
    assert found["office31:dslr->amazon", "mdd"] == 76.6
    assert found["office-home:Real World->Product", "mcc"] == 85.6
    assert found["office-home:*->*", "source_only"] == 58.4


def test_a_matching_figure_appears_and_a_differing_backbone_does_not() -> None:
    figures = [figure(), figure(backbone="resnet101"), figure(metric="macro_f1")]
    found = published_for(about(), ["office31:amazon->webcam"], figures=figures)
    assert [row.values["office31:amazon->webcam"] for row in found.rows] == [figures[0]]
    assert found.rows[0].differs == ()
    assert found.rows[0].mean == 80.0
    assert found.places == ["A paper; Table 1."]
    assert published_for(about(), ["digits:printed->scanned"], figures=figures).rows == []
    assert published_for(about(), ["my_file:task"], figures=figures).rows == []
    # However a person spells it.
    assert published_for(about(), ["Office31:Amazon -> Webcam"], figures=figures).tasks == [
        "Office31:Amazon -> Webcam"
    ]


def test_what_differs_is_marked() -> None:
    task = ["office31:amazon->webcam"]

    def differs(of: Figure, **change: Any) -> tuple[str, ...]:
        return published_for(about(**change), task, figures=[of]).rows[0].differs

    assert differs(figure(protocol="inductive")) == ("inductive, here transductive",)
    assert differs(figure(protocol="inductive"), protocol="inductive") == ()
    assert differs(figure(), protocol="inductive") == ("transductive, here inductive",)
    assert differs(figure(protocol="unknown")) == ("protocol not known",)
    [weights] = differs(figure(), model=MODEL | {"weights": "IMAGENET1K_V2"})
    assert "V1, here IMAGENET1K_V2" in weights
    assert "frozen" in differs(figure(), model=MODEL | {"freeze": True})[0]
    [row] = published_for(about(), task, figures=[figure(labels_selected="yes")]).rows
    assert (row.labels_selected, row.differs) == ("yes", ())


def test_averages_only_where_all_pairs_are_there() -> None:
    figures = [figure(task="office31:*->*", value=82.2)]
    assert published_for(about(), OFFICE, figures=figures).rows[0].mean == 82.2
    assert published_for(about(), OFFICE[:5], figures=figures).rows == []
    more = [figure(task=task, value=70.0 + i) for i, task in enumerate(OFFICE)]
    [row] = published_for(about(), OFFICE, figures=more).rows
    assert row.mean == pytest.approx(72.5)


def board(tasks: list[str], **change: Any) -> tuple[str, str]:
    rows = [
        {
            "task": task,
            "method": method,
            "seed": seed,
            "oracle": method == "target_only",
            "kind": "target",
            "metric": "accuracy",
            "value": value,
        }
        for task in tasks
        for seed in (0, 1)
        for method, value in (("source_only", 0.7), ("dann", 0.81), ("target_only", 0.99))
    ]
    summary = summarise(pd.DataFrame(rows))
    said = about(name="s", **change)
    published = published_for(said, summary.tasks, ["source_only", "dann", "target_only"])
    return markdown(summary, about=said, published=published), latex(summary, published)


def test_the_leaderboard_shows_them() -> None:
    text, tex = board(OFFICE)
    section = text.split("## Published figures")[1]
    lines = [line for line in section.splitlines() if line.startswith("| dann ")]
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == ["dann", "here", "81.0"]
    tllib = next(line for line in lines if "91.4" in line)
    assert "83.6 | 91.4" in tllib
    assert "86.1" in tllib
    assert "| yes |" in tllib
    assert "TLlib" in section
    assert "91.4" in tex
    assert tex.count(r"\begin{tabular}") == 2
    assert "target_only" not in section
    assert "dann (Ganin et al., 2016, arXiv:1505.07818)" in section
    other, plain = board(OFFICE, model={"name": "mlp"})
    assert "Published" not in other
    assert plain.count(r"\begin{tabular}") == 1


def test_ready_suites_find_theirs() -> None:
    for name, lines in (("office31", 15), ("office-home", 15), ("visda", 15), ("digits", 0)):
        suite = read_suite(READY / f"{name}.toml")
        found = published_for(
            {"model": suite.model, "metric": suite.metric, "protocol": suite.protocol}, suite.tasks
        )
        assert len(found.rows) >= lines
        assert bool(found.rows) == bool(lines)


def test_a_suite_may_say_its_protocol() -> None:
    given = Suite("s", ["digits:*->*"], ["dann"], protocol="inductive")
    assert given.checked().protocol == "inductive"
    with pytest.raises(DomadaptError, match="protocol of a suite"):
        dataclasses.replace(given, protocol="ten-crop").checked()


def test_a_file_with_a_slip_is_refused(tmp_path: Path) -> None:
    good = """
        [papers]
        dann = "(A, 2020)"
        [[table]]
        source = "s"
        read_in = "Table 1"
        backbone = "resnet50"
        weights = "unknown"
        metric = "accuracy"
        protocol = "unknown"
        labels_selected = "no"
        note = ""
        tasks = ["office31:amazon->webcam"]
        [table.figures]
        dann = [{value = 82.0, spread = 0.4}]
        """
    file = tmp_path / "p.toml"
    file.write_text(good)
    assert [(f.value, f.spread) for f in read_published(file)] == [(82.0, 0.4)]
    for old, new, said in (
        ("82.0", "820", "0 to 100"),
        ('labels_selected = "no"', 'labels_selected = "perhaps"', "perhaps"),
        ('source = "s"', "", "lacks source"),
        ("dann = [{", "cdan = [{", "lacks 'cdan'"),
        ("dann = [", "dann = [1, ", "each of 1"),
    ):
        file.write_text(good.replace(old, new))
        with pytest.raises(DomadaptError, match=said):
            read_published(file)
