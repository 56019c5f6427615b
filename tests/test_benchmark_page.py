"""The page of a benchmark: its numbers, its figures, hostile names, and a browser that clicks."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import benchmark_tasks
import numpy as np
import pytest
import torch
from benchmark_sample import folder_of
from browser import BROWSER, Browser
from test_page import Outline

from domadapt.benchmark import report
from domadapt.benchmark.page import maps as maps_module
from domadapt.benchmark.page.curves import curves_of, mean_curve
from domadapt.benchmark.page.draw import rank_diagram
from domadapt.benchmark.page.render import _ink_on
from domadapt.benchmark.results import collect, read_plan
from domadapt.benchmark.sample import ROWS, keep_sample, read_sample
from domadapt.benchmark.statistics import Ranks
from domadapt.inference import outputs_of
from domadapt.runs.cell import Cells
from domadapt.runs.plan import ModelSpec, make_plan

METHODS = ("source_only", "alpha", "beta", "gamma", "target_only")
TASKS = ("c:one->two", "c:two->one", "c:one->three")
#: Means over tasks: alpha 70, beta 65, gamma 50 (of one task less), source_only 60, target_only 95.
BASE = {"source_only": 0.60, "alpha": 0.70, "beta": 0.65, "gamma": 0.50, "target_only": 0.95}
BAD = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' ]{{ 7 * 7 }}$x"


def accuracy(method: str, task: str, seed: int) -> float | str | None:
    if method == "gamma" and task == TASKS[0]:
        return "It broke on purpose."
    if method == "gamma" and task == TASKS[1]:
        return None
    if method == "beta" and task == TASKS[2] and seed == 1:
        return "Out of <memory>."
    lift = {TASKS[0]: 0.0, TASKS[1]: 0.02, TASKS[2]: -0.02}[task]
    # beta is below source_only on the third task; alpha is 10, 11 and 9 points above it.
    lift *= {"beta": 4, "alpha": 1.5}.get(method, 1)
    return round(BASE[method] + lift + 0.01 * seed, 6)


def curves(method: str, task: str, seed: int) -> dict[str, list[float]]:
    found = {"step": [10.0, 20.0, 30.0], "seconds": [1.0, 2.0, 3.0], "lr": [0.1] * 3}
    found |= {"loss/source": [2.0 + seed, 1.0 + seed, 0.5 + seed], "weight/source": [1.0] * 3}
    if method == "alpha":
        found["loss/mmd"] = [float("nan"), 0.2, 0.1]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    about, command = "A protocol of one's own.", "domadapt benchmark x.toml"
    folder_of(
        *(folder, accuracy),
        methods=METHODS,
        tasks=TASKS,
        curves=curves,
        about=about,
        command=command,
    )
    report(folder)
    return folder


@pytest.fixture(scope="module")
def html(made: Path) -> str:
    return (made / "benchmark.html").read_text(encoding="utf-8")


def rows_of(html: str, table: str) -> dict[str, list[str]]:
    """Text of the cells of a table's body, by the row's head."""
    part = re.search(rf'<table class="{table}.*?</table>', html, re.DOTALL)
    assert part is not None
    found = {}
    for row in re.findall(r"<tr data-m.*?</tr>", part[0], re.DOTALL):
        cells = re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        texts = [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in cells]
        found[texts[0]] = texts[1:]
    return found


# Numbers --------------------------------------------------------------------------------------


def test_the_table_says_what_was_worked_out_by_hand(html: str) -> None:
    rows = rows_of(html, "board")
    # Best first, those without a mean last, and the oracle by itself.
    assert list(rows) == ["alpha", "beta", "source_only", "gamma", "target_only oracle"]
    # Seeds lie 0.01 apart: s = 0.00707, t of one degree of freedom 12.706: half is 6.35 points.
    assert rows["alpha"][1] == "70.5 ± 6.4"
    assert rows["source_only"][1] == "60.5 ± 6.4"
    assert rows["target_only oracle"][1] == "95.5 ± 6.4"
    # A cell of beta is missing: (65.5 + 73.5 + 57.0) / 3, and no interval.
    assert rows["beta"][1] == "65.3"
    assert rows["gamma"][1] == "–"
    # Of three pairs the smallest p is 2 / 2^3: no test of them tells anything.
    assert rows["alpha"][2:4] == ["+10.0", "–"]
    assert rows["alpha"][4:6] == ["29 %", "0 of 6"]
    # On the third task source_only has 58 and beta 57, on the others 5 and 11 more.
    assert rows["beta"][2] == "+4.8"
    assert rows["beta"][5] == "1 of 5"
    # No rank without complete tasks of all; the oracle has none in any case.
    assert rows["target_only oracle"][2:8] == ["–"] * 6
    assert rows["alpha"][8:] == ["1.0 ×", "1.0 ×", "10"]


def test_the_heat_map_shows_every_cell_and_what_is_not_there(html: str) -> None:
    rows = rows_of(html, "map")
    assert rows["alpha"] == ["70.5 ±6.4 +10.0", "73.5 ±6.4 +11.0", "67.5 ±6.4 +9.0"]
    assert rows["beta"][2] == "57.0 −1.5 1 of 2 seeds"
    assert rows["gamma"][:2] == [
        "failed failed 0 of 2 seeds",
        "missing missing 0 of 2 seeds",
    ]
    assert re.search(r'class="gone"[^>]*title="0 of 2 seeds, 2 failed"', html)
    # Ends of the scales: gamma's 48.5 and the oracle's 97.5.
    assert "dark is 48.5, light is 97.5" in html
    assert 'class="a20 d20"' in html


def test_failures_fair_play_picks_and_settings_are_told(html: str) -> None:
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
    assert "3 of 30 cells failed" in text
    assert "2 cells are not finished" in text
    assert "It broke on purpose. gamma on c:one->two, seed 0; gamma on c:one->two, seed 1" in text
    assert "Out of <memory>." in text
    assert "same backbone yes name=mlp" in text
    assert "complete no 25 of 30 cells have a result" in text
    assert "best method (oracle)" in text
    assert "A protocol of one's own." in text
    assert "domadapt benchmark x.toml" in text
    assert "batch size 16" in text


def test_further_sections_are_shown_where_there_are_any(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from domadapt.benchmark import run
    from domadapt.benchmark.leaderboard import Section

    more = Section(
        "Published <figures>", ["method", "value"], [["dann", "1 & 2"]], "A note.", ["P"]
    )
    monkeypatch.setattr(run, "sections", lambda *_: [more])
    report(made)
    html = (made / "benchmark.html").read_text(encoding="utf-8")
    monkeypatch.undo()
    report(made)
    assert "<h2>Published &lt;figures&gt;</h2>" in html
    assert '<tr><th scope="row">dann</th><td>1 &amp; 2</td></tr>' in html
    assert '<ol class="soft"><li>P</li></ol>' in html


def test_where_no_cell_has_a_result_the_page_says_why(tmp_path: Path) -> None:
    folder_of(tmp_path, lambda *_: "It broke.", methods=METHODS[:2], tasks=TASKS[:1])
    assert report(tmp_path).summary is None
    page = Outline((tmp_path / "benchmark.html").read_text(encoding="utf-8"))
    assert "No cell has a result." in page.text
    assert "It broke." in page.text
    assert not (tmp_path / "leaderboard.md").exists()


# The file -------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(html: str) -> None:
    page = Outline(html)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert re.findall(r"https?:[^\s\"'<)]*", html) == []
    assert not {"link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    assert [a["href"] for a in page.all("a")] == ["results.parquet", "#failures"]
    drawings = [a for a in page.all("svg") if "swatch" not in (a.get("class") or "")]
    # Two quantities where alpha is, on each of three tasks; maps of four methods, gamma of one.
    assert len(drawings) == 3 * 2 + (3 + 3 + 4)
    assert all(a["role"] == "img" and len(str(a["aria-label"])) > 20 for a in drawings)
    assert [a["aria-sort"] for a in page.all("th") if "aria-sort" in a].count("none") == 11
    # Only this script may run, and it holds nothing of the benchmark.
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in html
    assert f"script-src 'sha256-{digest}'" in html
    assert "alpha" not in scripts[0]
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    bad = {name: name for name in ("source_only", "target_only")} | {"alpha": BAD}
    back = {v: k for k, v in bad.items()}

    def value(method: str, task: str, seed: int) -> float | str | None:
        if task == "fails":
            return BAD
        return BASE[back[method]]

    folder_of(
        *(folder, value),
        methods=tuple(bad.values()),
        tasks=(BAD + "1", BAD + "2", "fails"),
        classes=(BAD, "b", "c"),
        about=BAD,
        name=BAD,
        command=BAD,
        curves=lambda *_: {"step": [1.0, 2.0], "loss/source": [1.0, 0.5], f"loss/{BAD}": [1.0, 2]},
    )
    report(folder)
    return folder / "benchmark.html"


def test_hostile_text_stays_text(hostile: Path) -> None:
    html = hostile.read_text(encoding="utf-8")
    page = Outline(html)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") > 10
    # Nothing of it stands in a style or in a selector.
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "alert" not in "".join(styles)
    assert all("alert" not in str(a["data-hides"]) for a in page.all("input") if "data-hides" in a)


def test_ink_on_any_ground_can_be_read() -> None:
    # Contrasts of WCAG 2: white on black 21, black on white 21, mid grey at least 4.5 either way.
    assert _ink_on((0, 0, 0)) == "#fff"
    assert _ink_on((1, 1, 1)) == "#000"
    assert _ink_on((0.45, 0.45, 0.45)) == "#fff"
    assert _ink_on((0.5, 0.5, 0.5)) == "#000"


# Figures --------------------------------------------------------------------------------------


def test_curves_are_means_over_seeds(made: Path) -> None:
    _, of = read_plan(made)
    cells = Cells(made)
    found, points, left = curves_of(cells, of, collect(cells, of))
    assert left == 0
    assert points >= 3
    by_method = {c.method: c for c in found[TASKS[0]]["loss/source"]}
    assert set(by_method) == {"source_only", "alpha", "beta", "target_only"}
    assert by_method["alpha"].steps.tolist() == [10, 20, 30]
    assert by_method["alpha"].values.tolist() == [2.5, 1.5, 1.0]
    # NaN is left out; learning rate and weights are no curves.
    (mmd,) = found[TASKS[0]]["loss/mmd"]
    assert (mmd.steps.tolist(), mmd.values.tolist()) == ([20, 30], [0.2, 0.1])
    assert set(found[TASKS[0]]) == {"loss/source", "loss/mmd"}


def test_a_long_curve_is_thinned_by_means() -> None:
    steps = list(range(100))
    found = mean_curve([(steps, [float(s) for s in steps]), (steps, [s + 2.0 for s in steps])], 4)
    assert found is not None
    # The last step belongs to the last of four equal parts: 0-24, 25-49, 50-74, 75-99.
    assert found[0].tolist() == [12.0, 37.0, 62.0, 87.0]
    assert found[1].tolist() == [13.0, 38.0, 63.0, 88.0]
    assert mean_curve([([1, 2], [float("nan")] * 2)], 4) is None
    stopped = mean_curve([([1, 2, 3], [1.0, 1.0, 1.0]), ([1], [3.0])], 60)
    assert stopped is not None
    assert stopped[1].tolist() == [2.0, 1.0, 1.0]


def test_the_diagram_puts_ranks_where_they_belong() -> None:
    ranks = Ranks({"best": 1.0, "mid": 2.5, "mid<2>": 2.5, "worst": 4.0}, 8, 0.01, 1.6)
    ids = {name: i for i, name in enumerate(ranks.average)}
    svg = str(rank_diagram(ranks, [("best", "mid", "mid<2>"), ("mid", "mid<2>", "worst")], ids))
    starts = {
        int(m): float(x)
        for m, x in re.findall(r'<g data-m="(\d)"><path class="lead" d="M([\d.]+) ', svg)
    }
    # Rank 2.5 lies half way between 1 and 4.
    assert starts[1] == starts[2] == pytest.approx((starts[0] + starts[3]) / 2)
    joins = re.findall(r'class="join" d="M([\d.]+) [\d.]+L([\d.]+) ', svg)
    assert [(float(a) + 4, float(b) - 4) for a, b in joins] == [
        (starts[0], starts[1]),
        (starts[1], starts[3]),
    ]
    # The ruler is as long as 1.6 ranks of the axis.
    ruler = re.findall(r'class="axis" d="M([\d.]+) ([\d.]+)L([\d.]+) \2"', svg)
    assert float(ruler[-1][2]) - float(ruler[-1][0]) == pytest.approx(
        1.6 * (starts[3] - starts[0]) / 3, abs=0.2
    )
    assert "mid&lt;2&gt;" in svg


def test_a_second_report_computes_no_map(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (made / "benchmark.html").read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(maps_module, "embed", refuse)
    report(made)
    assert (made / "benchmark.html").read_bytes() == before
    (made / "maps.json").unlink()
    with pytest.raises(AssertionError, match="computed again"):
        report(made)
    monkeypatch.undo()
    report(made)
    assert (made / "benchmark.html").read_bytes() == before


def test_maps_are_of_whole_tasks_up_to_their_number(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps_module, "MOST", 7)
    _, of = read_plan(made)
    cells = Cells(made)
    found, left = maps_module.maps_of(cells, of, collect(cells, of), "accuracy")
    assert [m.task for m in found] == [TASKS[0]] * 3 + [TASKS[1]] * 3
    assert left == 1
    assert {m.seed for m in found} == {0}
    assert "target_only" not in {m.method for m in found}
    report(made)


def test_a_sample_keeps_distances_and_no_target_label(tmp_path: Path) -> None:
    plan = make_plan(benchmark_tasks.near(), ModelSpec(name="mlp"))
    network = plan.make_network(0)
    path = tmp_path / "sample.npz"
    keep_sample(network, plan, torch.device("cpu"), path)
    kept = read_sample(path)
    source = outputs_of(network, plan.task.source_val, plan.views)
    target = outputs_of(network, plan.task.target_test, plan.views)
    assert len(kept.z_s) == len(source.z) <= ROWS
    assert source.y is not None
    assert kept.label_s.tolist() == source.y.tolist()
    assert kept.predicted_t.tolist() == target.logits.argmax(1).tolist()
    assert kept.class_names == list(plan.task.output_names)
    assert kept.z_s.shape[1] <= 50
    # The largest components hold nearly all distances; one factor is common to all.
    there = torch.pdist(torch.cat([source.z, target.z]).double()).numpy()
    here = torch.pdist(torch.cat([kept.z_s, kept.z_t]).double()).numpy()
    assert np.corrcoef(there, here)[0, 1] > 0.999
    with np.load(path) as stored:
        assert set(stored.files) == {"z", "label_s", "predicted_t", "class_names"}
        assert stored["z"].dtype == np.float16


# A browser ------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here")
NAMES = "[...document.querySelectorAll('.board tbody:first-of-type tr')].map(r => r.dataset.m)"
SORTED = "[...document.querySelectorAll('.board th[aria-sort]')].map(h => h.ariaSort)"
ALPHA, GAMMA, ORACLE = (METHODS.index(m) for m in ("alpha", "gamma", "target_only"))


def seen(selector: str) -> str:
    """Of the elements that are like a selector, how many are seen."""
    return f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).length"


@pytest.fixture
def browser(made: Path, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as found:
        found.open(made / "benchmark.html")
        yield found
        assert found.errors == []
        assert {url.partition(":")[0] for url in found.requests} == {"file"}
        assert len(found.requests) == 1, "the page loads nothing but itself"


def head(name: str) -> str:
    columns = ("method", "some", "mean", "against", "p", "gap", "negative", "rank")
    return f".board thead th:nth-child({columns.index(name) + 1}) button"


@needs_browser
def test_a_click_on_a_head_sorts_numbers_as_numbers(browser: Browser) -> None:
    # alpha 70.5, beta 65.3, source_only 60.5, gamma without a mean.
    assert browser.value(NAMES) == ["1", "2", "0", "3"]
    browser.click(head("mean"))
    assert browser.value(NAMES) == ["0", "2", "1", "3"], "what has no value is last either way"
    assert browser.value(SORTED)[2] == "ascending"
    assert set(browser.value(SORTED)) == {"ascending", "none"}
    # +10.0, +4.8, and gamma, which has one task, -10.0.
    browser.click(head("against"))
    assert browser.value(NAMES) == ["1", "2", "3", "0"]
    assert browser.value(SORTED)[3] == "descending"
    browser.click(head("method"))
    assert browser.value(NAMES) == ["1", "2", "3", "0"]
    # The oracle stays in a body of its own.
    last = "[...document.querySelectorAll('.board tr')].at(-1).dataset.m"
    assert browser.value(last) == str(ORACLE)


@needs_browser
def test_keys_sort_as_well(browser: Browser) -> None:
    browser.value(f"document.querySelector({head('mean')!r}).focus()")
    browser.press("Enter")
    assert browser.value(NAMES)[:3] == ["0", "2", "1"]
    browser.press("Tab")
    browser.press(" ")
    assert browser.value(SORTED)[3] == "descending"


@needs_browser
def test_filters_hide_rows_columns_lines_and_maps(browser: Browser) -> None:
    places = (".board tbody tr", ".map tbody tr", "#curves li", "#maps figure")
    assert [browser.value(seen(p)) for p in places] == [5, 5, 5, 3]
    browser.click(f"#filters input[data-hides='[data-m=\"{ALPHA}\"]']")
    assert [browser.value(seen(p)) for p in places] == [4, 4, 4, 2]
    for place in ("#table", "#heat", "#curves", "#maps"):
        assert browser.value(seen(f'{place} [data-m="{ALPHA}"]')) == 0
    assert "4 of 5 methods, 3 of 3 tasks" in browser.value("shown.textContent")
    browser.click("#no-oracle")
    assert [browser.value(seen(p)) for p in places[:3]] == [3, 3, 3]
    assert browser.value(seen(f'#curves path[data-m="{ORACLE}"]')) == 0
    # Without the third task the means are those of two: source_only (60.5 + 62.5) / 2.
    assert browser.value(seen(".board .some")) == 0
    browser.click("#filters input[data-hides='[data-t=\"2\"]']")
    assert browser.value(seen(".map thead th")) == 2
    mean = "document.querySelector('.board tr[data-m=\"0\"] .some').textContent"
    assert browser.value(mean) == "61.5"
    assert browser.value(seen(".board td.some")) == 3
    browser.click(head("some"))
    # beta (65.5 + 73.5) / 2, source_only 61.5, gamma without.
    shown = browser.value(NAMES)
    assert [m for m in shown if m != str(ALPHA)] == ["2", "0", "3"]
    browser.click("#filters fieldset:nth-of-type(2) [data-all='1']")
    assert browser.value(seen(".map thead th")) == 3
    assert browser.value(SORTED)[2] == "descending"


@needs_browser
def test_the_choice_of_a_task_switches_curves_and_maps(browser: Browser) -> None:
    for place in ("#curves", "#maps"):
        shown = f"{place} details[data-t]"
        which = f"[...document.querySelectorAll({shown!r})].filter(e => e.checkVisibility())"
        assert browser.value(f"{which}.map(e => e.dataset.t)") == ["0"]
        browser.value(f"document.querySelector('{place} select').focus()")
        # As a person chooses: the value, and the event that tells it.
        browser.value(
            f"(s => {{ s.value = '1'; s.dispatchEvent(new Event('change')); }})"
            f"(document.querySelector('{place} select'))"
        )
        assert browser.value(f"{which}.map(e => e.dataset.t)") == ["1"]
        assert browser.value(seen(f"{shown} figure svg")) > 0
    # A task that is filtered away cannot stay chosen.
    browser.click("#filters input[data-hides='[data-t=\"1\"]']")
    for place in ("#curves", "#maps"):
        assert browser.value(f"document.querySelector('{place} select').value") == "0"
        assert browser.value(seen(f'{place} details[data-t="0"]')) == 1


@needs_browser
def test_the_heat_map_switches_to_differences(browser: Browser) -> None:
    assert browser.value(seen(".map td span.a")) == 15
    assert browser.value(seen(".map td span.d")) == 0
    ground = "getComputedStyle(document.querySelector('.map tbody td')).backgroundColor"
    before = browser.value(ground)
    browser.click("label[for='by-d']")
    assert browser.value(seen(".map td span.a")) == 0
    assert browser.value(seen(".map td span.d")) == 15
    assert browser.value(ground) != before


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_without_script_tables_and_figures_are_there(
    made: Path, tmp_path: Path, width: int
) -> None:
    with Browser(tmp_path / "profile", script=False, dark=True, width=width) as browser:
        browser.open(made / "benchmark.html")
        assert browser.value(seen(".board tbody tr")) == 5
        assert browser.value(seen("#curves svg[role], #maps svg[role]")) == 2 + 3
        assert browser.value(seen("#filters, .board button, select, [data-script]")) == 0
        browser.click("label[for='by-d']")
        assert browser.value(seen(".map td span.d")) == 15
        browser.click("#curves details:nth-of-type(2) summary")
        assert browser.value(seen("#curves details:nth-of-type(2) svg")) == 2
        # Nothing is wider than the screen but what scrolls by itself.
        assert browser.value("document.documentElement.scrollWidth") <= width
        paper = browser.value("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", paper))) < 150
        assert browser.errors == []


@needs_browser
def test_hostile_names_run_nothing_and_filters_still_work(hostile: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", width=390) as browser:
        browser.open(hostile)
        browser.click("#filters input[data-hides='[data-m=\"1\"]']")
        assert browser.value(seen(".board tbody tr")) == 2
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.errors == []
        assert len(browser.requests) == 1
