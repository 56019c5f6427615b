"""The Report's form, the t-SNE map and the figures."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from report_sample import CHOSEN, FELL, REFUSED, SHARES, judged, sample

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.report import curves, drawing, figures, maps
from domadapt.report.embedding import choose_rows, embed, embedding
from domadapt.report.report import SCHEMA_VERSION, Candidate, Report, describe
from domadapt.task import Domain, Task

ABC = ("a", "b", "c")


@pytest.fixture(scope="module")
def report():
    return sample(ABC)


def test_a_report_survives_the_disk_exactly(report, tmp_path):
    # NaN is not equal to itself, so it is compared apart.
    full = dataclasses.replace(report, candidates=[report.candidates[0]], chosen="source_only")
    full.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == full
    assert Report.load(tmp_path) == full
    again = Report.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert math.isnan(again.candidates[1].history["loss/mcc"][1])


def test_the_file_is_strict_json(report):
    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads(report.to_json(), parse_constant=refuse)
    assert data["schema_version"] == SCHEMA_VERSION == 1
    assert data["candidates"][1]["history"]["loss/mcc"][1] is None


def test_a_newer_report_is_refused_in_words(report):
    data = json.loads(report.to_json()) | {"schema_version": 2}
    with pytest.raises(DomadaptError, match=r"schema version 2.*up to 1.*Upgrade"):
        Report.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', "null"])
def test_a_foreign_file_is_refused_in_words(text):
    with pytest.raises(DomadaptError, match="not a report of domadapt"):
        Report.from_json(text)


def test_a_missing_report_is_refused_in_words(tmp_path):
    with pytest.raises(DomadaptError, match="run folder"):
        Report.load(tmp_path)


def test_the_chosen_one_must_be_a_candidate(report):
    with pytest.raises(DomadaptError, match="'dann' was chosen"):
        dataclasses.replace(report, chosen="dann")
    with pytest.raises(DomadaptError, match="different names"):
        dataclasses.replace(report, candidates=[*report.candidates, report.candidates[0]])


def test_baseline_adapted_and_gain(report):
    before, after = report.candidates
    assert (report.baseline, report.adapted) == (before, after)
    assert report.gain() == after.target["accuracy"] - before.target["accuracy"] > 0
    # Where the source-only model is kept, the adapted one is still what it is compared with.
    assert dataclasses.replace(report, chosen="source_only").adapted is after
    alone = dataclasses.replace(report, candidates=[after])
    assert (alone.baseline, alone.gain()) == (None, None)


def test_summary_with_labels_tells_both_accuracies_and_the_gain(report):
    text = report.summary()
    for c in report.candidates:
        assert f"{c.name:<11}  target accuracy {c.target['accuracy']:.3f}" in text
    assert f"{100 * report.gain():+.1f} points" in text
    assert "cannot be known" not in text
    assert "Only 60 samples" in text


def test_summary_without_labels_says_what_cannot_be_known():
    report = sample(ABC, labels=False)
    text = report.summary()
    assert "cannot be known" in text
    assert "target accuracy" not in text
    for c in report.candidates:
        assert f"entropy {c.label_free['entropy']:.3f}" in text


def test_summary_opens_with_the_verdict_and_has_a_line_for_each_candidate():
    report = judged()
    lines = report.summary().split("\n")
    assert lines[:2] == [CHOSEN, "printed->handwritten (transductive), model kept: mcc"]
    true = {c.name: f"{100 * c.target['accuracy']:.1f}" for c in report.candidates}
    table = [line.split() for line in lines[2:7]]
    assert table == [
        *(["candidate", "estimate,", "90", "%", "interval", "true"],),
        *(["mcc", "82", "(67", "to", "97)", true["mcc"], "kept"],),
        *(["shot", "not", "estimated", true["shot"]],),
        *(["source_only", "33", "(19", "to", "48)", true["source_only"]],),
        *(["entropy", "not", "estimated", true["entropy"], "set", "aside"],),
    ]
    text = "\n".join(lines)
    for part in (FELL, REFUSED, SHARES, f"{100 * report.gain():+.1f} points", "dan was left out"):
        assert text.count(part) == 1
    # Scores of each candidate are the page's.
    assert "effective classes" not in text


def test_summary_of_a_verdict_without_labels_claims_no_truth():
    text = judged(labels=False).summary()
    assert "cannot be known" in text
    assert "true" not in text.lower()
    assert "82 (67 to 97)" in text


def test_candidates_are_ranked_by_the_verdict():
    report = judged()
    assert [c.name for c in report.ranked] == ["mcc", "shot", "source_only", "entropy"]
    # The one that is shown beside a kept source_only is the best of the others, not the first.
    kept = dataclasses.replace(report, chosen="source_only")
    assert kept.adapted.name == "mcc"
    assert [c.name for c in sample(ABC).ranked] == ["source_only", "mcc"]


def test_estimates_are_drawn_where_they_are():
    report = judged()
    true = {c.name: 100 * c.target["accuracy"] for c in report.candidates}
    ax = figures.accuracy_estimates(report.ranked, "mcc").axes[0]
    drawn = [(line.get_marker(), line.get_xdata().tolist()) for line in ax.lines]
    assert [x for marker, x in drawn if marker == "None"] == [[67, 97], [19, 48]]
    assert [x for marker, x in drawn if marker == "o"] == [[82], [33]]
    order = ["mcc", "shot", "source_only", "entropy"]
    assert [x for marker, x in drawn if marker == "D"] == [[true[name]] for name in order]
    # Nothing that was seen with labels is drawn without labels.
    unseen = figures.accuracy_estimates(judged(labels=False).ranked, "mcc")
    assert not [line for line in unseen.axes[0].lines if line.get_marker() == "D"]
    assert not [text for text in texts_of(unseen) if "measured" in text]
    written = " ".join(texts_of(unseen))
    assert "mcc (chosen) 82 % (67 to 97 %)" in written
    assert f"Set aside: {FELL}." in written
    assert REFUSED in written


def test_intervals_stand_below_their_names_from_top_to_bottom():
    ax = figures.accuracy_estimates(judged().ranked, "mcc").axes[0]
    names = ("mcc (chosen)", "shot", "source_only", "entropy")
    heights = {t.get_text(): t.get_position()[1] for t in ax.texts}
    bars = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "D"]
    rows = [y for name, bar in zip(names, bars, strict=True) for y in (heights[name], bar)]
    assert rows == sorted(rows)
    assert ax.get_ylim()[0] > bars[-1]
    assert ax.get_ylim()[1] == 0, "the first candidate is on top"


def test_describe_tells_the_splits():
    class Rows:
        def __len__(self):
            return 20

        def __getitems__(self, indices):
            return torch.zeros(len(indices), 2)

    task = Task(Domain("s", Rows(), labels=np.arange(20) % 2), Domain("t", Rows()))
    told = describe(task)
    assert told["sizes"] == {
        "source_train": 16,
        "source_val": 4,
        "target_train": 20,
        "target_test": 20,
    }
    assert (told["class_names"], told["target_name"]) == (["0", "1"], "t")
    assert told["transductive"] is True


# The map


def two_domains(n_s=40, n_t=30, d=5):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n_s, d, generator=g), torch.randn(n_t, d, generator=g) + 6


def test_the_map_is_the_same_twice_and_tells_apart_what_is_apart():
    z_s, z_t = two_domains()
    one, two = embed(z_s, z_t, seed=1), embed(z_s, z_t, seed=1)
    assert np.array_equal(one.xy, two.xy)
    assert one.perplexity == pytest.approx(69 / 3)
    # The nearest neighbour on the map is of the same domain.
    gap = np.linalg.norm(one.xy[:, None] - one.xy[None], axis=2) + np.diag(np.full(70, np.inf))
    domain = np.repeat([0, 1], [40, 30])
    assert (domain[gap.argmin(1)] == domain).mean() > 0.95


def test_rows_depend_on_size_and_seed_alone():
    z_s, z_t = two_domains()
    one, two = embed(z_s, z_t, 0, max_points=10), embed(5 * z_s**3, -z_t, 0, max_points=10)
    assert np.array_equal(one.rows_s, two.rows_s)
    assert np.array_equal(one.rows_t, two.rows_t)
    assert len(one.xy) == 20
    assert np.array_equal(choose_rows(5, 9, 0), np.arange(5))
    assert not np.array_equal(choose_rows(100, 9, 0), choose_rows(100, 9, 1))


def test_few_or_equal_samples_have_a_map_or_a_clear_error():
    assert np.isfinite(embed(torch.ones(9, 3), torch.ones(5, 3)).xy).all()
    assert np.isfinite(embed(*two_domains(2, 2)).xy).all()
    assert np.isfinite(embed(*two_domains(d=1)).xy).all()
    with pytest.raises(DomadaptError, match="at least 4"):
        embed(*two_domains(2, 1))
    with pytest.raises(DomadaptError, match="NaN"):
        embed(torch.full((5, 2), float("nan")), torch.zeros(5, 2))


def test_labels_of_the_map_follow_the_rows_of_the_features():
    z_s, z_t = two_domains(6, 4)
    # Features stand for every other row of the logits, in reverse.
    rows = torch.tensor([10, 8, 6, 4, 2, 0])
    y = torch.arange(12) % 3
    source = Outputs(torch.zeros(12, 3), z_s, y, rows)
    target = Outputs(torch.eye(4), z_t)
    e = embedding(source, target, [3, None, 1, 0])
    assert e.label == [1, 2, 0, 1, 2, 0, 0, 1, 2, 3]
    assert e.target_label == [None] * 6 + [3, None, 1, 0]
    assert e.domain == [0] * 6 + [1] * 4
    assert (e.n_s, e.n_t) == (6, 4)
    assert embedding(source, target).target_label == [None] * 10


# The figures


def luminance(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("ground", ["#fbfbfa", "#14171b"])
def test_every_colour_reads_on_light_and_dark(ground):
    used = [drawing.SOURCE, drawing.TARGET, drawing.BEFORE, drawing.AFTER, drawing.WORSE]
    for colour in [*used, *drawing.CLASSES, *drawing.class_colours(60)]:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_colours_of_classes_differ():
    for k in (2, 12, 13, 60):
        assert len(set(drawing.class_colours(k))) == k


def drawn(report, k):
    before, after = report.candidates
    names = report.task["class_names"]
    yield curves.learning_curves(report.candidates)
    yield curves.learning_curve(report.candidates, "loss/mcc")
    yield maps.embedding_panels(before.embedding, after.embedding, names)
    yield maps.embedding_panel(after.embedding, names, "class", "by class")
    yield figures.confusion(after.target["confusion"], names, "mcc")
    yield figures.per_class_accuracy(before.target["per_class"], after.target["per_class"], names)
    yield figures.confidence_histogram(after.confidence, "mcc")


@pytest.mark.parametrize("k", [2, 31])
def test_each_figure_is_one_reproducible_svg_in_the_ink_of_the_page(k):
    report = sample([f"class {i}" for i in range(k)])
    for one, two in zip(drawn(report, k), drawn(report, k), strict=True):
        svg = drawing.to_svg(one, "f1")
        assert svg == drawing.to_svg(two, "f1")
        ET.fromstring(svg)
        assert "currentColor" in svg
        assert drawing.INK not in svg
        assert set(re.findall(r"https?://[^\s\"<]+", svg)) == {"http://www.w3.org/2000/svg"}
        ids = re.findall(r' id="([^"]*)"', svg)
        assert len(ids) == len(set(ids))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used == set(ids)
        assert all(i.startswith("f1-") for i in ids)


def test_hostile_class_names_stay_text():
    names = ["<script>x</script>", "$\\frac{1}$", "#010203 1.23456789", "a\nb\x00c", "日本"]
    counts = np.eye(5, dtype=int).tolist()
    svg = drawing.to_svg(figures.confusion(counts, names, "t"), "f")
    root = ET.fromstring(svg)
    texts = {"".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("text")}
    assert "<script" not in svg
    assert {"$\\frac{1}$", "a b c", "日本"} <= texts
    # What is done to numbers and colours in tags is not done to words.
    assert any(t.startswith("#010203 1.2345"[:13]) for t in texts)


def texts_of(figure):
    root = ET.fromstring(drawing.to_svg(figure, "f"))
    return ["".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("text")]


def test_confusion_is_annotated_up_to_15_classes_with_shares_of_the_row():
    assert {"75", "25", "100"} <= set(texts_of(figures.confusion([[3, 1], [0, 2]], "ab", "t")))
    large = np.full((16, 16), 3).tolist()
    assert "6" not in texts_of(figures.confusion(large, [f"n{i}" for i in range(16)], "t"))


def test_the_legend_names_up_to_12_classes(report):
    e = report.candidates[0].embedding
    assert {"k0", "k11"} <= set(
        texts_of(maps.embedding_panel(e, [f"k{i}" for i in range(12)], "class", "t"))
    )
    # Each class that occurs is named in the legend and on the map, for the colour-blind.
    named = texts_of(maps.embedding_panel(e, ABC, "class", "t"))
    assert sorted(t for t in named if t in ABC) == ["a", "a", "b", "b", "c", "c"]
    many = texts_of(maps.embedding_panel(e, [f"k{i}" for i in range(13)], "class", "t"))
    assert "k0" not in many
    assert {"source", "target"} <= set(many)


def test_many_points_become_one_image(report):
    e = report.candidates[0].embedding
    factor = drawing.MAX_VECTOR_POINTS // len(e.x) + 1
    fields = ("x", "y", "domain", "label", "target_label")
    many = dataclasses.replace(e, **{f: getattr(e, f) * factor for f in fields})
    svg = drawing.to_svg(maps.embedding_panel(many, ABC, "domain", "t"), "f")
    assert "data:image/png" in svg
    assert "data:image/png" not in drawing.to_svg(maps.embedding_panel(e, ABC, "domain", "t"), "f")
    assert len(svg) < 200_000


def test_curves_of_long_and_of_wide_histories_stay_small_and_legible():
    n = 20_000
    history = {"step": list(range(n)), "loss/source": np.geomspace(10, 0.001, n).tolist()}
    c = Candidate("a", "source_only", history=history)
    figure = curves.learning_curve([c], "loss/source")
    assert figure.axes[0].get_yscale() == "log"
    assert len(drawing.to_svg(figure, "f")) < 60_000


def test_smoothing_and_thinning_are_means():
    assert curves._smooth(np.full(100, 2.0)) == pytest.approx(np.full(100, 2.0))
    assert curves._smooth(np.arange(60.0))[30] == 30
    assert curves._thin(np.arange(6.0), 3) == pytest.approx([0.5, 2.5, 4.5])


def test_a_term_that_was_logged_rarely_is_still_a_line():
    nan = float("nan")
    history = {"step": [1, 2, 3, 4, 5], "loss/mcc": [nan, 1.0, nan, nan, 3.0]}
    ax = curves.learning_curve([Candidate("m", "mcc", history=history)], "loss/mcc").axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[2, 1], [5, 3]]


def test_png(report, tmp_path):
    drawing.save_png(curves.learning_curves(report.candidates), tmp_path / "c.png", dpi=50)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
