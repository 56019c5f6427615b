"""The page: complete, self-contained, safe against hostile names, and drawn by a browser."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import pytest
from report_sample import CHOSEN, FELL, REFUSED, SHARES, judged, sample

from domadapt.report.page import _mistakes, render
from domadapt.report.report import Report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Tags, attributes and text; fails where a tag is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("k", [2, 10, 31])
def test_a_page_of_any_size_is_whole(k, labels):
    report = sample([f"class {i}" for i in range(k)], labels=labels)
    page = Outline(render(report))
    text = " ".join(page.text.split())
    for heading in ("Candidates", "Learning curves", "Confidence", "Configuration"):
        assert heading in text
    assert "perplexity 30, seed 0, of a subsample of 60 source (o) and 60 target (x)" in text
    assert report.command in text
    assert "handwritten: 2 files were skipped" in text
    assert "Only 60 samples were scored." in text
    assert f"torch{report.versions['torch']}" in page.text
    # Every figure says in words what it shows.
    drawings = page.all("svg")
    assert len(drawings) == (2 + 4 + 2) + labels * (1 + (2 if k <= 15 else 1))
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    if labels:
        before, after = report.candidates
        assert f"{100 * before.target['accuracy']:.1f} %" in text
        assert f"{100 * after.target['accuracy']:.1f} %" in text
        assert f"{100 * report.gain():+.1f}" in text
        assert "cannot be known" not in text
        assert "true classes of both domains" in text
    else:
        assert "cannot be known" in text
        assert "gain by adapting" not in text
        assert "Confusion" not in page.text
        assert "predicted classes of the target" in text
        for c in report.candidates:
            assert f"{c.label_free['effective_classes']:.3f}" in text


def test_headings_are_in_order():
    levels = [int(t[1]) for t, _ in Outline(render(sample("ab"))).tags if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_page_needs_nothing_from_elsewhere():
    html = render(sample("abc"))
    assert set(re.findall(r"https?:[^\s\"'<)]*", html)) == {"http://www.w3.org/2000/svg"}
    page = Outline(html)
    assert not {"script", "link", "iframe", "object"} & {t for t, _ in page.tags}
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,"))
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_hostile_text_stays_text():
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    report = sample([bad, "{{ 7 * 7 }}"])
    mcc = dataclasses.replace(report.candidates[1], name=bad)
    report = dataclasses.replace(
        report,
        chosen=bad,
        candidates=[report.candidates[0], mcc],
        warnings=[bad],
        command=bad,
        model={bad: bad},
        task=report.task | {"name": bad, "notes": [bad], "target_name": bad},
        training={"a": {bad: [bad]}},
    )
    page = Outline(render(report))
    assert not page.all("script")
    assert not page.all("img")
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.parametrize("method", ["mcc", "source_only"])
@pytest.mark.parametrize("labels", [True, False])
def test_one_candidate_is_enough(method, labels):
    report = sample("abc", labels=labels, methods=(method,))
    text = Outline(render(report)).text
    assert "gain by adapting" not in text
    assert ("gain is not known" in text) == (labels and method == "mcc")


def test_a_loss_is_not_dressed_as_a_gain():
    report = sample("abc")
    before, after = report.candidates
    worse = dataclasses.replace(after, target=after.target | {"accuracy": 0.25})
    better = dataclasses.replace(before, target=before.target | {"accuracy": 0.5})
    report = dataclasses.replace(report, candidates=[better, worse], chosen="source_only")
    html = render(report)
    assert re.search(r'<b class="bad">−25\.0</b>', html)
    assert re.search(r'number kept">\s*<div class="what">source-only', html)


def test_a_report_with_the_least_in_it_is_drawn():
    report = sample("ab", labels=False)
    bare = [
        dataclasses.replace(c, history={}, label_free={}, shift={}, confidence={}, embedding=None)
        for c in report.candidates
    ]
    report = dataclasses.replace(report, candidates=bare, command=None, warnings=[], versions={})
    page = Outline(render(report))
    assert page.all("svg") == []
    assert "started from Python" in page.text


def test_the_page_is_drawn_again_from_the_file_byte_for_byte(tmp_path):
    report = sample("abc")
    report.save(tmp_path / "report.json")
    assert render(Report.load(tmp_path)) == render(report)


def test_mistakes_are_told_in_words():
    target = {"confusion": [[5, 0, 0], [2, 1, 0], [0, 3, 4]]}
    assert _mistakes(target, "abc") == ["c taken for b: 3 of 7", "b taken for a: 2 of 3"]


# With a verdict


def words(html):
    return " ".join(Outline(html).text.split())


@pytest.mark.parametrize("labels", [True, False])
def test_a_page_with_a_verdict_opens_with_it_and_tells_all(labels):
    report = judged(labels)
    html = render(report)
    text = words(html)
    body = text[text.index("seed 3") :]
    assert body.index(CHOSEN) < body.index("Estimated without target labels")
    told = ("mcc keeps 59 % of it.", f"entropy was set aside: {FELL}.", SHARES, "dan was left out")
    for part in (*told, f"No estimate for shot: {REFUSED}", "off by 2.1 points on average; with"):
        assert part in text
    assert "Chosen by rule 7 among source_only, entropy, shot and mcc" in text
    assert "portfolio 3, budget standard" in text
    assert "temperature of 1.50" in text
    assert "a34.0 %61.0 %" in text, "the shares that the probabilities assume"
    assert ("Measured with target labels, after the choice" in text) == labels
    assert ("so the true accuracy cannot be known" in text) == (not labels)
    first = Outline(html).all("svg")[0]["aria-label"]
    assert "mcc 82 (67 to 97) %" in first
    assert "shot not estimated" in first
    assert "entropy not estimated" in first
    assert ("measured" in first) == labels
    assert html == render(Report.from_json(report.to_json()))


def cells(html, heading, row):
    """The values of one row of a table below a heading."""
    after = html[html.index(f"<h2>{heading}</h2>") :]
    found = re.search(rf'<th scope="row"[^>]*>{row}[ <].*?</tr>', after, re.DOTALL)
    return re.findall(r"<td[^>]*>(.*?)</td>", found[0])


def test_the_largest_score_of_a_row_is_marked_in_the_order_of_the_verdict():
    html = render(judged())
    # mcc, shot, source_only, and entropy, which was set aside and is the one that fools the score.
    scores = "Scores without target labels"
    assert cells(html, scores, "entropy") == [
        *("−0.500", "−0.400", "−1.500"),
        '<b class="best">−0.010</b>',
    ]
    assert cells(html, scores, "bnm") == ['<b class="best">0.750</b>', "0.500", "0.500", "–"]
    assert cells(html, scores, "dev") == [
        *("−0.500", '<b class="best">0.00012</b>', "−0.250", "−2,346")
    ]
    assert cells(html, scores, r"optimal transport \(COT\)") == ["83 %", "–", "54 %", "–"]
    assert 'title="Fooled by confident mistakes and collapse to one class' in html


def test_only_the_baseline_and_the_kept_model_stand_side_by_side():
    html = render(judged())
    assert "Of source_only and mcc." in words(html)
    assert len(cells(html, "Measurements", "accuracy")) == 2
    unfolded = re.findall(r"<details>.*?</details>", html, re.DOTALL)
    curves = next(part for part in unfolded if "Learning curves of all 4 candidates" in part)
    assert "entropy from" in curves
    folded = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert "entropy from" not in folded
    assert "source_only from" in folded


def test_warnings_on_what_is_not_kept_are_folded_away():
    report = dataclasses.replace(judged(), warnings=["entropy fell.", "mcc: sure.", "entropyx."])
    html = render(report)
    notice = re.search(r'<div class="notice" role="note">.*?</div>', html, re.DOTALL)[0]
    assert "mcc: sure." in notice
    assert "entropyx." in notice, "that is nobody's name"
    assert "entropy fell." not in notice
    assert "1 warning about entropy, which is not kept" in html


def test_the_caption_says_which_intervals_miss_what_was_measured():
    report = judged()

    def held(share):
        """The report with each measured accuracy at `share` of its interval."""
        found = []
        for c in report.candidates:
            given = c.estimate or {}
            if given.get("low") is not None:
                at = given["low"] + share.get(c.name, 0.5) * (given["high"] - given["low"])
                c = dataclasses.replace(c, target={**(c.target or {}), "accuracy": at})
            found.append(c)
        return words(render(dataclasses.replace(report, candidates=found)))

    assert "after the choice, all do." in held({})
    assert "after the choice, that of mcc does not." in held({"mcc": 1.5})
    assert "those of mcc and source_only do not." in held({"mcc": -0.1, "source_only": 1.1})
    none = [dataclasses.replace(c, estimate=None) for c in report.candidates]
    bare = words(render(dataclasses.replace(report, candidates=none)))
    assert "nine of ten tasks." in bare
    assert "all do" not in bare
    assert "in nine of ten tasks. The target has no labels" in words(render(judged(labels=False)))


def test_an_overruled_verdict_is_told():
    report = judged(chosen="source_only", sentence="Keep the source-only model.")
    assert "keeps mcc all the same" in words(render(report))
    assert "the verdict is for the source-only model" in report.summary()
    assert "all the same" not in words(render(judged()))


def test_the_model_that_was_not_kept_has_no_gain_to_boast_of():
    report = dataclasses.replace(judged(chosen="source_only"), chosen="source_only")
    text = words(render(report))
    assert "gain by adapting" not in text
    assert "mcc against source-only" in text


def test_a_verdict_with_the_least_in_it_is_drawn():
    report = judged(findings=[], because=[], calibration=None, portfolio=None, left_out={})
    text = words(render(report))
    assert "Nothing that the models agree on speaks" in text
    assert "How far to trust" not in text
    assert "--method auto" not in text
    alone = dataclasses.replace(report, candidates=[report.candidates[0]], chosen="source_only")
    assert "among source_only." in words(render(alone))


def test_a_report_from_before_the_verdict_is_drawn_as_before():
    report = sample("abc")
    data = json.loads(report.to_json())
    del data["verdict"]
    for candidate in data["candidates"]:
        for name in ("scores", "set_aside", "estimate"):
            del candidate[name]
    old = Report.from_json(json.dumps(data))
    html = render(old)
    assert html == render(report)
    assert "Estimated without target labels" not in html
    assert "<h2>Candidates</h2>" in html


def test_hostile_text_of_a_verdict_stays_text():
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{'
    report = judged(sentence=bad, because=[bad], left_out={bad: bad}, rule=bad, portfolio=bad)
    report.verdict["findings"][0] |= {"kind": bad, "sentence": bad, "numbers": {bad: 1.0}}
    report.verdict["calibration"]["trust"] = bad
    entropy = dataclasses.replace(
        report.candidates[1], name=bad, set_aside=[bad], scores={bad: 1.0}
    )
    report = dataclasses.replace(report, candidates=[entropy, *report.candidates[2:]])
    page = Outline(render(report))
    assert not page.all("script")
    assert not page.all("img")
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]


def browse(page, out, *flags):
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--hide-scrollbars", "--window-size=1200,1800"),
        *(f"--user-data-dir={out}", *flags, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_a_browser_draws_the_page_light_and_dark(tmp_path):
    report = sample([f"class {i}" for i in range(10)])
    page = tmp_path / "report.html"
    page.write_text(render(report), encoding="utf-8")
    dom = browse(page, tmp_path / "user", "--dump-dom")
    assert f"<b>{100 * report.candidates[1].target['accuracy']:.1f} %</b>" in dom
    brightness = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        png = tmp_path / f"{scheme}.png"
        flag = f"--blink-settings=preferredColorScheme={number}"
        browse(page, tmp_path / "user", flag, f"--screenshot={png}")
        pixels = matplotlib.image.imread(png)[..., :3]
        assert pixels.std() > 0.05, "a blank page has one colour"
        brightness[scheme] = pixels.mean()
    assert brightness["dark"] < 0.3
    assert brightness["light"] > 0.8
