"""Statistics of a comparison, against SciPy, published tables and numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from domadapt.benchmark.statistics import (
    Ranks,
    average_ranks,
    compared,
    cost_ratio,
    critical_difference,
    gap_closed,
    groups_not_told_apart,
    holm,
    negative_transfers,
    t_interval,
    wilcoxon,
)
from domadapt.errors import DomadaptError

NAN = float("nan")


def test_interval_by_hand() -> None:
    # t of 2 degrees of freedom at 97.5 %: 4.302653; standard deviation of 1, 2, 3: 1.
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    x = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.9, 6, x.mean(), stats.sem(x))
    other = t_interval(x.tolist(), 0.9)
    assert (other.low, other.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert t_interval([0.5]).half is None
    assert t_interval([0.5]).n == 1
    for values in ([], [0.5, NAN]):
        with pytest.raises(DomadaptError, match="finite value"):
            t_interval(values)


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.9 * 1.
    assert holm([0.03, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_wilcoxon_against_all_signs() -> None:
    d = [0.011, 0.02, -0.013, 0.04, 0.05, 0.064]
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    seen = abs((ranks * np.sign(d)).sum())
    every = [abs((ranks * s).sum()) for s in itertools.product([-1, 1], repeat=6)]
    assert wilcoxon(d) == pytest.approx(np.mean(np.array(every) >= seen))
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert wilcoxon([0.0, 0.0]) == 1.0
    # Zeros are dropped, rounding among them.
    assert wilcoxon([*d, 0.0, 1e-15]) == wilcoxon(d)
    tied = [0.1, 0.1, -0.1, 0.2, 0.3, 0.3, 0.5]
    assert wilcoxon(tied) == pytest.approx(stats.wilcoxon(tied, method="approx").pvalue)


def test_compared_with_the_baseline() -> None:
    base = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    better = [0.51, 0.52, 0.53, 0.54, 0.55, 0.56, NAN]
    mixed = [0.4, 0.63, 0.5, 0.35, 0.61, 0.62, 0.7]
    found = compared({"source_only": base, "a": better, "b": mixed}, "source_only")
    assert set(found) == {"a", "b"}
    assert (found["a"].tasks, found["a"].wins, found["a"].losses) == (6, 6, 0)
    assert found["a"].difference == pytest.approx(0.035)
    assert found["a"].p == pytest.approx(0.03125)
    assert found["a"].p_holm == pytest.approx(0.0625)
    assert (found["b"].tasks, found["b"].wins, found["b"].losses) == (7, 4, 2)
    assert found["b"].p_holm == found["b"].p > found["a"].p_holm


def test_ranks_by_hand() -> None:
    means = {"a": [0.9, 0.8, 0.7, NAN], "b": [0.8, 0.8, 0.9, 1.0], "c": [0.1, 0.2, 0.3, 0.4]}
    found = average_ranks(means)
    assert found.tasks == 3
    assert found.average == pytest.approx({"a": 4.5 / 3, "b": 4.5 / 3, "c": 3.0})
    table = np.array([v[:3] for v in means.values()])
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*table).pvalue)
    assert found.critical_difference == pytest.approx(2.343 * math.sqrt(12 / 18), abs=1e-3)


def test_ranks_without_enough() -> None:
    assert average_ranks({"a": [NAN], "b": [0.5]}).average == {}
    one = average_ranks({"a": [0.4], "b": [0.5]})
    assert one.average == {"a": 2.0, "b": 1.0}
    assert one.critical_difference is None
    assert one.friedman is None
    # Methods that are equal everywhere leave nothing to test.
    assert average_ranks({n: [0.5, 0.6] for n in "abc"}).friedman is None


@pytest.mark.parametrize(
    ("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (8, 3.031), (10, 3.164)]
)
def test_critical_difference_against_the_published_table(methods: int, q: float) -> None:
    # Demsar (2006), table 5, level 0.05.
    wanted = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(wanted, rel=1e-3)


def test_critical_difference_refuses() -> None:
    with pytest.raises(DomadaptError, match="two methods"):
        critical_difference(1, 5)


def test_gap_and_negative_transfer() -> None:
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert gap_closed(0.7, 0.8, 0.8) is None
    assert gap_closed(0.7, 0.8, 0.7) is None
    assert negative_transfers([0.4, 0.5, 0.6, NAN], [0.5, 0.5, 0.5, 0.5]) == (1, 3)


def test_cost_ratio_is_geometric() -> None:
    assert cost_ratio([2.0, 8.0, NAN], [1.0, 1.0, 1.0]) == pytest.approx(4.0)
    assert cost_ratio([NAN], [1.0]) is None
    assert cost_ratio([0.0], [1.0]) is None


def test_groups_of_the_diagram_against_every_run() -> None:
    assert groups_not_told_apart(Ranks({"a": 1.0, "b": 2.0}, 1, None, None)) == []
    # Demšar's example has bars that overlap: 1.0 to 1.9, 1.5 to 2.4, and 4.0 stands alone.
    average = {"d": 4.0, "b": 1.5, "a": 1.0, "c2": 2.4, "c": 1.9}
    found = groups_not_told_apart(Ranks(average, 9, None, 1.0))
    assert found == [("a", "b", "c"), ("b", "c", "c2")]
    rng = np.random.default_rng(3)
    for _ in range(30):
        values = {f"m{i}": float(v) for i, v in enumerate(rng.integers(2, 20, size=6) / 2)}
        order = sorted(values, key=lambda name: values[name])
        runs = [set(order[i:j]) for i in range(6) for j in range(i + 2, 7)]
        near = [r for r in runs if max(values[m] for m in r) - min(values[m] for m in r) < 2]
        largest = [r for r in near if not any(r < other for other in near)]
        groups = groups_not_told_apart(Ranks(values, 9, None, 2.0))
        assert sorted(map(sorted, groups)) == sorted(map(sorted, largest))


@pytest.mark.parametrize(
    ("tasks", "methods", "tells"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 2, True)]
)
def test_a_test_tells_where_some_result_could_have_been_clear(
    tasks: int, methods: int, tells: bool
) -> None:
    """By the clearest result that there can be: every method better on every task."""
    means = {"source_only": [0.1 * i for i in range(tasks)]}
    for k in range(methods):
        means[f"m{k}"] = [0.1 * i + 0.5 + 0.01 * (i + k) for i in range(tasks)]
    for one in compared(means, "source_only").values():
        assert one.tells == tells == (one.p_holm < 0.05)
