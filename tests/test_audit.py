"""The audit: measures against hand-computed and SciPy's values, pools, run folders, command."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from domadapt import cli
from domadapt.errors import DomadaptError
from domadapt.report.audit import markdown, tables, terminal, to_csv, to_json
from domadapt.report.audit_figure import figure
from domadapt.report.report import Candidate, Report
from domadapt.selection.audit import ALWAYS_BASELINE, RANDOM, SELECTOR, Row, audit
from domadapt.selection.labelled_runs import rows_of
from domadapt.selection.ranking import coverage, picks, regret, weighted_spearman

# Measures ---------------------------------------------------------------------------------------


def test_weighted_spearman_by_hand():
    # Times 9 the weights are 1, 4, 9, the weighted ranks 1, 5, 14 and 1, 14, 10, both of weighted
    # mean 147/14 = 10.5. Covariance 90.25 - 4 * 19.25 - 9 * 1.75, variances 321.5 and 141.5.
    value = weighted_spearman([0.1, 0.2, 0.3], [0.5, 0.9, 0.6])
    assert value == pytest.approx(-2.5 / math.sqrt(321.5 * 141.5), abs=1e-12)


def test_weighted_spearman_with_ties_by_hand():
    # Dense ranks 1, 2, 2: times 4 the weights are 1, 4, 4. Weighted ranks of the scores 1, 7, 7
    # (1 + 3/2 * 4); of the accuracies 5, 9, 4, as the third is the least. Both means are 19/3, the
    # deviations (-16, 2, 2) / 3 and (-4, 8, -7) / 3.
    value = weighted_spearman([1.0, 5.0, 5.0], [0.4, 0.8, 0.2])
    assert value == pytest.approx(72 / math.sqrt(288 * 468), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_weights_it_is_spearmans(seed):
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 6, 30).astype(float), draw.normal(size=30)
    assert weighted_spearman(x, y, power=0) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def naive(scores, accuracies):
    """The same by loops and NumPy's weighted covariance."""
    order = sorted(set(scores))
    w = [((order.index(s) + 1) / len(order)) ** 2 for s in scores]

    def rank(values, i):
        lower = sum(w[j] for j in range(len(w)) if values[j] < values[i])
        same = [w[j] for j in range(len(w)) if values[j] == values[i]]
        return lower + (len(same) + 1) / 2 * sum(same) / len(same)

    ranks = [[rank(values, i) for i in range(len(w))] for values in (scores, accuracies)]
    c = np.cov(ranks, aweights=w)
    return c[0, 1] / math.sqrt(c[0, 0] * c[1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_weighted_spearman_equals_a_loop(seed):
    draw = random.Random(seed)
    scores = [draw.choice([0.1, 0.2, 0.4, 0.7, 0.9]) for _ in range(12)]
    accuracies = [draw.choice([0.3, 0.5, 0.6, 0.8]) for _ in range(12)]
    assert weighted_spearman(scores, accuracies) == pytest.approx(naive(scores, accuracies))


def test_the_top_of_the_ranking_counts_most():
    scores = [1, 2, 3, 4, 5, 6]
    wrong_below = weighted_spearman(scores, [0.2, 0.1, 0.3, 0.4, 0.5, 0.6])
    wrong_above = weighted_spearman(scores, [0.1, 0.2, 0.3, 0.4, 0.6, 0.5])
    assert wrong_above < wrong_below < 1
    assert weighted_spearman(scores, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(1)
    assert weighted_spearman(scores, [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]) < -0.99


def test_scores_that_are_not_finite_are_the_lowest():
    accuracies = [0.2, 0.3, 0.6, 0.9]
    lowest = weighted_spearman([1, 1, 2, 3], accuracies)
    for nothing in (math.nan, -math.inf, math.inf):
        assert weighted_spearman([nothing, 1, 2, 3], accuracies) == lowest
        assert picks([nothing, 1, 2, 3]) == [3]
    assert math.isnan(weighted_spearman([math.nan] * 3, [0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("scores", "accuracies"),
    [([1, 1, 1], [0.1, 0.2, 0.3]), ([1, 2, 3], [0.4, 0.4, 0.4]), ([1], [0.5]), ([], [])],
)
def test_a_correlation_without_spread_is_undefined(scores, accuracies):
    assert math.isnan(weighted_spearman(scores, accuracies))


def test_regret_by_hand():
    scores, accuracies = [0.9, 0.5, 0.7], [0.5, 0.8, 0.75]
    assert regret(scores, accuracies) == pytest.approx(0.3)
    # The first is set aside: the third is picked; the oracle is still the second.
    assert regret(scores, accuracies, [False, True, True]) == pytest.approx(0.05)
    # A guard that sets the best one aside pays for it.
    assert regret([0, 1, 0], accuracies, [True, False, True]) == pytest.approx(0.8 - 0.625)
    # Equal scores count with their mean.
    assert regret([1, 1, 0], accuracies) == pytest.approx(0.8 - 0.65)
    with pytest.raises(DomadaptError, match="at least one candidate"):
        regret(scores, accuracies, [False] * 3)


def test_coverage_by_hand():
    assert coverage([0.1, 0.2, 0.5], [0.3, 0.4, 0.9], [0.3, 0.41, 0.6]) == pytest.approx(2 / 3)
    assert math.isnan(coverage([], [], []))
    with pytest.raises(DomadaptError, match="1 and 1 ends for 2"):
        coverage([0.1], [0.2], [0.1, 0.2])


def test_measures_refuse_what_they_cannot_read():
    with pytest.raises(DomadaptError, match="same candidates"):
        weighted_spearman([1, 2], [0.1])
    with pytest.raises(DomadaptError, match="not finite"):
        weighted_spearman([1, 2], [0.1, math.nan])


# Pools ------------------------------------------------------------------------------------------


def row(task, candidate, accuracy, scores=None, seed=0, **more):
    return Row(task, seed, candidate, scores or {}, accuracy, **more)


@pytest.fixture
def rows():
    """Two tasks; `good` follows the accuracy, `fooled` loves the collapsed one."""
    found = []
    for task, truth in (("a->b", (0.6, 0.7, 0.8, 0.2)), ("c->d", (0.5, 0.4, 0.3, 0.1))):
        names = ("source_only", "dann", "mcc", "bnm 10")
        for name, accuracy in zip(names, truth, strict=True):
            collapsed = name == "bnm 10"
            scores = {"good": accuracy + 1, "fooled": 9.0 if collapsed else accuracy}
            estimate = {"accuracy": accuracy + 0.1, "low": accuracy - 0.1, "high": accuracy + 0.2}
            if task == "c->d":
                estimate |= {"low": accuracy + 0.05}
            estimate |= {"parts": {"atc": accuracy - 0.2}, "refused": ""}
            if collapsed:
                estimate = {"accuracy": None, "low": None, "refused": "it collapsed", "parts": {}}
            found.append(
                row(
                    task,
                    name,
                    accuracy,
                    scores,
                    set_aside=["one class"] if collapsed else [],
                    estimate=estimate,
                    chosen=name == "dann",
                )
            )
    return found


def by_name(found):
    return {criterion.name: criterion for criterion in found.criteria}


def test_criteria_by_hand(rows):
    found = audit(rows)
    of = by_name(found)
    assert set(of) == {"good", "fooled", SELECTOR, ALWAYS_BASELINE, RANDOM}
    assert found.tasks == ["a->b", "c->d"]
    assert found.best_oracle == pytest.approx((0.8 + 0.5) / 2)
    assert of["good"].regret_oracle.mean == 0
    assert of["good"].correlation_all_oracle.mean == pytest.approx(1)
    # Without the guard `fooled` picks the collapsed one: it loses 0.6 and 0.4.
    assert of["fooled"].regret_oracle.mean == 0
    assert of["fooled"].regret_all_oracle.mean == pytest.approx(0.5)
    assert of["fooled"].regret_all_oracle.largest == pytest.approx(0.6)
    assert of["fooled"].regret_all_oracle.deviation == pytest.approx(math.sqrt(0.02))
    assert of["fooled"].correlation_oracle.mean == pytest.approx(1)
    assert of["fooled"].correlation_all_oracle.mean < 0
    # The selector takes dann everywhere: it loses 0.1 twice, and once is below source-only.
    assert of[SELECTOR].regret_oracle.mean == pytest.approx(0.1)
    assert of[SELECTOR].below_oracle == 1
    assert of[SELECTOR].gain_oracle.mean == pytest.approx(0)
    assert of[SELECTOR].regret_all_oracle is None
    assert of[ALWAYS_BASELINE].regret_oracle.mean == pytest.approx(0.1)
    assert of[ALWAYS_BASELINE].correlation_oracle is None
    # Random under the guard: 0.7 and 0.4 on average; over all: 0.575 and 0.325.
    assert of[RANDOM].regret_oracle.mean == pytest.approx(0.1)
    assert of[RANDOM].regret_all_oracle.mean == pytest.approx(0.2)
    assert [c.name for c in found.criteria][:2] == ["fooled", "good"]


def test_seeds_are_averaged_within_a_task_first(rows):
    # Task e has two seeds of regret 0.4 and 0.2, the other tasks 0: (0 + 0 + 0.3) / 3.
    more = [
        row("e->f", name, accuracy, {"good": score}, seed)
        for seed, lesser in ((0, 0.5), (1, 0.7))
        for name, accuracy, score in (("source_only", 0.9, 0.0), ("mcc", lesser, 1.0))
    ]
    spread = by_name(audit(rows + more))["good"].regret_oracle
    assert spread.mean == pytest.approx(0.1)
    assert spread.largest == pytest.approx(0.3)
    assert spread.tasks == 3


def test_errors_of_estimates_by_hand(rows):
    found = {(e.name, e.scope): e for e in audit(rows).estimates}
    everywhere = found["the estimate", "all"]
    assert everywhere.candidates == 8
    assert everywhere.refused == 2
    assert everywhere.error_oracle == pytest.approx(0.1)
    assert everywhere.bias_oracle == pytest.approx(0.1)
    assert everywhere.covered_oracle == pytest.approx(0.5)
    assert everywhere.width == pytest.approx((0.3 + 0.15) / 2)
    chosen = found["the estimate", "chosen"]
    assert chosen.candidates == 2
    assert chosen.covered_oracle == pytest.approx(0.5)
    assert found["atc", "all"].bias_oracle == pytest.approx(-0.2)
    assert found["atc", "all"].error_oracle == pytest.approx(0.2)
    assert found["atc", "all"].covered_oracle is None


def test_a_pool_that_the_guard_empties_keeps_source_only(rows):
    broken = [replace(r, set_aside=["lost"]) for r in rows]
    for name in ("good", "fooled"):
        criterion = by_name(audit(broken))[name]
        assert criterion.gain_oracle.mean == 0
        assert criterion.regret_oracle.mean == pytest.approx(0.1)


def test_small_and_uneven_pools_are_noted(rows):
    scores = {"good": 1.0, "dev": math.nan}
    more = [row("e->f", "mcc", 0.5, scores), row("e->f", "dann", 0.6, {"good": 0.0})]
    found = audit([*rows, *more], notes=["first"])
    said = " ".join(found.notes)
    assert found.notes[0] == "first"
    assert "e->f (seed 0) has fewer than 3 candidates" in said
    assert "e->f (seed 0) has no source_only" in said
    assert "dev did not score 9 of the candidates" in said
    assert "dev is not finite for 1" in said
    assert by_name(found)["good"].correlation_all_oracle.tasks == 2
    assert by_name(found)["dev"].pools == 1


def test_equal_candidates_are_no_loss_by_rounding():
    # The mean of three times 0.1 is not 0.1 in floating point.
    names = ("source_only", "dann", "mcc")
    found = audit([row("a->b", name, 0.1, {"same": 1.0}) for name in names])
    same = by_name(found)["same"]
    assert same.regret_oracle.mean == 0
    assert same.below_oracle == 0
    assert same.correlation_all_oracle is None


def test_what_cannot_be_audited():
    with pytest.raises(DomadaptError, match="got none"):
        audit([])
    with pytest.raises(DomadaptError, match="'mcc' occurs twice in a->b, seed 0"):
        audit([row("a->b", "mcc", 0.5), row("a->b", "mcc", 0.6)])


# Runs -------------------------------------------------------------------------------------------

TRUTH = {"source_only": 0.6, "mcc": 0.7, "dann": 0.5}


def write_run(folder, task="a->b", seed=0, truth=TRUTH, labels=True, chosen="mcc", **more):
    candidates = [
        Candidate(
            name=name,
            method=name,
            label_free={"entropy": accuracy},
            target={"accuracy": accuracy, "n": 50} if labels else None,
            scores={"ensv": accuracy, "dev": -accuracy},
            estimate={"accuracy": 0.65, "low": 0.55, "high": 0.7, "parts": {"atc": 0.6}},
        )
        for name, accuracy in truth.items()
    ]
    about = {"name": task, "class_names": ["x", "y"], "sizes": {"target_test": 50}, **more}
    folder.mkdir(parents=True)
    Report(about, chosen, candidates, {}, {}, {}, {}, seed, None, "").save(folder / "report.json")
    return folder


def test_runs_of_one_task_and_seed_are_one_pool(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "deep" / "two", truth={"source_only": 0.6, "bnm": 0.8}, chosen="bnm")
    write_run(tmp_path / "other", seed=1)
    read = rows_of([tmp_path, tmp_path / "one"])
    assert read.runs == 3
    pool = {r.candidate: r for r in read.rows if r.seed == 0}
    # The source-only model of both runs is one; both choices are kept.
    assert sorted(pool) == ["bnm", "dann", "mcc", "source_only"]
    assert {name for name, r in pool.items() if r.chosen} == {"mcc", "bnm"}
    assert pool["source_only"].baseline
    assert pool["dann"].scores == {"ensv": 0.5, "dev": -0.5}
    assert any("put together" in note for note in read.notes)
    found = audit(read.rows, read.notes)
    # Of seed 0 the mean of both choices, 0.75, against 0.8; of seed 1 none is better than mcc.
    assert by_name(found)[SELECTOR].regret_oracle.mean == pytest.approx(0.025)
    assert by_name(found)["ensv"].regret_oracle.mean == pytest.approx(0)
    assert by_name(found)["dev"].correlation_oracle.mean < 0


def test_models_of_one_name_that_differ_stay_apart(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", truth={"source_only": 0.6, "mcc": 0.75})
    names = [r.candidate for r in rows_of([tmp_path]).rows]
    assert len(names) == len(set(names)) == 4
    assert sum(name.startswith("mcc of ") for name in names) == 2


def test_tasks_of_one_name_that_differ_stay_apart(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", class_names=["x", "y", "z"])
    read = rows_of([tmp_path])
    assert {r.task for r in read.rows} == {"a->b", "a->b (2)"}
    assert any("2 tasks are called a->b" in note for note in read.notes)


def test_runs_that_cannot_be_audited_are_noted(tmp_path):
    write_run(tmp_path / "good")
    write_run(tmp_path / "unlabelled", labels=False)
    write_run(tmp_path / "values", task_type="regression")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "report.json").write_text("[]")
    read = rows_of([tmp_path])
    assert read.runs == 1
    said = "\n".join(read.notes)
    assert f"{tmp_path / 'begun'} is not finished" in said
    assert f"{tmp_path / 'unlabelled'} was left out: its target has no labels" in said
    assert f"{tmp_path / 'values'} was left out: its labels are measurements" in said
    assert f"{tmp_path / 'foreign'} was left out: This is not a report" in said


def test_without_any_labelled_run_one_sentence_says_so(tmp_path):
    with pytest.raises(DomadaptError, match="There is no"):
        rows_of([tmp_path / "nowhere"])
    write_run(tmp_path / "unlabelled", labels=False)
    with pytest.raises(DomadaptError, match="target has no labels"):
        rows_of([tmp_path])
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(DomadaptError, match="is a file"):
        rows_of([tmp_path / "x.csv"])


# Tables, figure, command ------------------------------------------------------------------------


def test_tables_say_what_the_oracle_touched(rows):
    found = audit(rows, ["a note of runs/a_b|c"])
    for table in tables(found):
        assert "oracle" in table.title
        assert all(len(line) == len(table.heads) for line in table.rows)
    page = markdown(found)
    assert "| fooled | 0.0 ± 0.0 | 0.0 | 50.0 ± 14.1 | 1.00 ± 0.00 |" in page
    assert "| the estimate | all | 8 | 2 | 10.0 | +10.0 | 50 % | 22.5 |" in page
    assert r"a note of runs/a\_b\|c" in page
    assert "cannot say which criterion is best elsewhere" in page
    lines = terminal(found).splitlines()
    assert any(line.split()[:2] == ["good", "0.0"] for line in lines)


def test_csv_and_json_hold_every_pick(rows):
    found = audit(rows)
    lines = list(csv.DictReader(to_csv(found).splitlines()))
    assert len(lines) == 2 * 5
    [fooled] = [x for x in lines if (x["task"], x["criterion"]) == ("a->b", "fooled")]
    assert fooled["picked"] == "mcc"
    assert float(fooled["regret_all_oracle"]) == pytest.approx(0.6)
    data = json.loads(to_json(found))
    assert len(data["picks"]) == len(lines)
    assert data["criteria"][0]["regret_oracle"]["tasks"] == 2


def test_the_figure_shows_means_spread_and_intervals(rows):
    drawn = figure(audit(rows))
    assert len(drawn.axes) == 3
    assert all("oracle" in ax.get_title("left") for ax in drawn.axes)
    assert "2 more were refused" in drawn.axes[2].get_xlabel()
    regrets = drawn.axes[0]
    names = [tick.get_text() for tick in regrets.get_yticklabels()]
    place = names.index("fooled")
    rings = [
        line.get_xdata()[0]
        for line in regrets.lines
        if line.get_markerfacecolor() == "none" and line.get_ydata()[0] == place
    ]
    assert rings == pytest.approx([50.0])
    # A vertical interval of each estimate that was not refused, and the diagonal.
    vertical = [
        line
        for line in drawn.axes[2].lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    ]
    assert len(vertical) == 6
    assert len(figure(audit([replace(r, estimate=None) for r in rows])).axes) == 2
    bare = [replace(r, scores={}, estimate={"refused": "it trains on confidence"}) for r in rows]
    assert len(figure(audit(bare)).axes) == 2


def test_the_command(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two", task="c->d")
    words = ["domadapt", "audit", f"{tmp_path}/runs", "--out", f"{tmp_path}/o"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    assert "Criteria against the truth (oracle)" in capsys.readouterr().out
    held = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert held == ["audit.csv", "audit.json", "audit.md", "audit.png", "audit.svg"]
    assert (tmp_path / "o" / "audit.svg").read_text().startswith("<svg")
    assert "oracle" in (tmp_path / "o" / "audit.svg").read_text()
    monkeypatch.setattr("sys.argv", ["domadapt", "audit", f"{tmp_path}/nothing"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "Error: There is no" in capsys.readouterr().err
