"""Similarity and diversity of distributions, warping of series, and the ranking of sources."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.spatial.distance import jensenshannon as scipy_jensenshannon
from scipy.stats import entropy as scipy_entropy

from domadapt.data import from_arrays
from domadapt.data.text import from_texts
from domadapt.errors import DomadaptError
from domadapt.sources.measures import (
    bhattacharyya,
    cosine,
    entropy,
    euclidean,
    jensen_shannon,
    quadratic_entropy,
    renyi_divergence,
    renyi_entropy,
    shares,
    simpson,
    type_token_ratio,
    types,
    variational,
)
from domadapt.sources.rank import markdown, rank_sources, select, terminal
from domadapt.sources.terms import represented
from domadapt.sources.warping import barycentre, dtw, prototypes, set_distance
from domadapt.task import Domain

P, Q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.3, 0.2, 0.4])


# Measures, against closed forms of others


def test_jensen_shannon_is_scipys_distance_squared() -> None:
    for seed in range(5):
        p, q = np.random.default_rng(seed).dirichlet(np.ones(30), size=2)
        assert jensen_shannon(p, q) == pytest.approx(scipy_jensenshannon(p, q) ** 2, rel=1e-9)
    assert jensen_shannon(P, Q) == pytest.approx(scipy_jensenshannon(P, Q) ** 2, rel=1e-9)
    assert jensen_shannon(P, P) == 0
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(math.log(2))


def test_entropy_is_scipys() -> None:
    assert entropy(P) == pytest.approx(float(scipy_entropy(P)))
    assert entropy(np.ones(8)) == pytest.approx(math.log(8))


def test_divergence_and_entropy_of_renyi_approach_those_of_kullback_and_shannon() -> None:
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), size=2)
    assert renyi_divergence(p, q, 0.9999) == pytest.approx(float(scipy_entropy(p, q)), rel=1e-3)
    assert renyi_entropy(p, 0.9999) == pytest.approx(float(scipy_entropy(p)), rel=1e-3)
    # Of order 1/2 it is twice the Bhattacharyya distance.
    assert renyi_divergence(p, q, 0.5) == pytest.approx(2 * bhattacharyya(p, q))
    assert renyi_divergence([1, 0], [0, 1]) == math.inf
    assert renyi_entropy(np.ones(5)) == pytest.approx(math.log(5))


def test_other_measures_by_hand() -> None:
    assert bhattacharyya(P, Q) == pytest.approx(-math.log(math.sqrt(0.05) + 0.5))
    assert euclidean(P, Q) == pytest.approx(math.sqrt(0.32))
    assert variational(P, Q) == pytest.approx(0.8)
    assert cosine(P, Q) == pytest.approx(0.18 / math.sqrt(0.38 * 0.30))
    assert simpson(P) == pytest.approx(0.62)
    assert types([3, 0, 1]) == 2
    assert type_token_ratio([3, 0, 1]) == pytest.approx(0.5)
    assert shares([3, 0, 1]) == pytest.approx([0.75, 0, 0.25])


def test_quadratic_entropy_against_the_double_sum() -> None:
    rng = np.random.default_rng(1)
    p, v = rng.dirichlet(np.ones(7)), rng.normal(size=(7, 3))
    distance = cdist(v, v, "cosine")
    assert quadratic_entropy(p, v) == pytest.approx(float(p @ distance @ p))
    v[2] = 0
    other = 1 - np.eye(7)[2]
    distance = np.zeros((7, 7))
    known = [i for i in range(7) if i != 2]
    distance[np.ix_(known, known)] = cdist(v[known], v[known], "cosine")
    distance[2], distance[:, 2] = other, other
    assert quadratic_entropy(p, v) == pytest.approx(float(p @ distance @ p))


@pytest.mark.parametrize(("p", "said"), [([0, 0], "all counts are 0"), ([1, -1], "of 0 or more")])
def test_what_is_no_distribution(p: list[float], said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        shares(np.array(p))
    with pytest.raises(DomadaptError, match="same terms"):
        cosine(np.ones(2), np.ones(3))


# Warping


def slow_dtw(a: np.ndarray, b: np.ndarray) -> float:
    total = np.full((a.shape[1] + 1, b.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            cost = ((a[:, i] - b[:, j]) ** 2).sum()
            total[i + 1, j + 1] = cost + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return math.sqrt(total[-1, -1])


def test_warping_against_two_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2, 7)), rng.normal(size=(4, 2, 5))
    got = dtw(a, b)
    assert got == pytest.approx([slow_dtw(x, y) for x, y in zip(a, b, strict=True)])
    assert dtw(a, a) == pytest.approx(np.zeros(4), abs=1e-6)
    with pytest.raises(DomadaptError, match="pair by pair"):
        dtw(a, b[:2])


def bump(at: float, steps: int = 24) -> np.ndarray:
    return np.exp(-0.5 * ((np.arange(steps) - at) / 2.0) ** 2)[None]


def test_a_barycentre_keeps_the_shape_that_a_mean_blurs() -> None:
    series = np.stack([bump(at) for at in (7, 9, 12, 14, 16)])
    centre = barycentre(series)

    def far(z: np.ndarray) -> float:
        return float((dtw(np.broadcast_to(z, series.shape), series) ** 2).sum())

    assert far(centre) < 0.5 * far(series.mean(0))
    assert far(centre) <= min(far(s) for s in series) + 1e-9
    assert centre.max() > 0.8 > series.mean(0).max()
    same = np.stack([bump(10.0)] * 3)
    assert barycentre(same) == pytest.approx(same[0])


def test_the_distance_of_sets_is_that_of_their_nearest_prototypes() -> None:
    a = prototypes(np.stack([bump(5.0), bump(5.0), -bump(5.0)]), np.array([0, 0, 1]))
    b = np.stack([bump(9.0), 3 * bump(9.0)])
    want = min(slow_dtw(x, y) for x in a for y in b)
    assert set_distance(a, b) == pytest.approx(want)
    assert want < 0.3


# Ranking


def texts(words: str, n: int, name: str, seed: int) -> Domain:
    rng = np.random.default_rng(seed)
    vocabulary = words.split()
    made = [" ".join(rng.choice(vocabulary, 12)) for _ in range(n)]
    return from_texts(made, name=name)


NEAR, MIDDLE, FAR = (
    "pan knife kettle boil cook plate oven stir",
    "pan knife kettle novel author chapter oven page",
    "novel author chapter page poem prose verse essay",
)


def test_sources_of_texts_in_the_order_of_shared_words() -> None:
    target = texts(NEAR, 40, "kitchen", 0)
    sources = [texts(w, 40, n, 1) for w, n in ((FAR, "far"), (NEAR, "near"), (MIDDLE, "middle"))]
    found = rank_sources(target, sources)
    assert [s.source for s in found.sources] == ["near", "middle", "far"]
    near, _, far = found.sources
    assert far.similarity["Jensen-Shannon"] == pytest.approx(math.log(2))
    assert far.similarity["cosine"] == 0
    assert near.similarity["proxy A-distance"] < far.similarity["proxy A-distance"] == 2
    assert near.diversity["types"] == 8
    assert near.diversity["type-token ratio"] == pytest.approx(8 / (40 * 12))
    by = rank_sources(target, sources, by="cosine")
    assert [s.source for s in by.sources] == ["near", "middle", "far"]
    assert found.agreement["cosine"]["Euclidean"] == pytest.approx(1.0)
    held = json.loads(found.to_json())
    assert held["sources"][2]["similarity"]["Bhattacharyya"] is None
    for shown in (terminal(found), markdown(found)):
        assert shown.index("near") < shown.index("middle")


def test_samples_that_are_most_like_the_target() -> None:
    target = texts(NEAR, 40, "kitchen", 0)
    sources = [texts(FAR, 20, "far", 1), texts(NEAR, 10, "near", 2)]
    chosen = select(target, sources, 12)
    assert [s.source for s in chosen[:10]] == ["near"] * 10
    assert sorted(s.index for s in chosen[:10]) == list(range(10))
    assert {s.source for s in chosen[10:]} == {"far"}
    with pytest.raises(DomadaptError, match="all 30"):
        select(target, sources, 31)


def vectors(shift: float, n: int, name: str, seed: int) -> Domain:
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    return from_arrays(x + shift, name=name)


def test_vectors_by_their_kinds_and_the_target_s_labels_change_nothing() -> None:
    sources = [vectors(s, 80, f"shift {s:g}", int(s) + 1) for s in (3.0, 0.0, 1.0)]
    target = vectors(0.0, 80, "target", 0)
    found = rank_sources(target, sources, kinds=12)
    assert [s.source for s in found.sources] == ["shift 0", "shift 1", "shift 3"]
    order = sorted(found.sources, key=lambda s: s.similarity["MMD"])
    assert [s.source for s in order] == ["shift 0", "shift 1", "shift 3"]
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    labelled = from_arrays(x, np.arange(80) % 2, name="target")
    assert rank_sources(labelled, sources, kinds=12) == found
    chosen = select(target, sources, 60)
    counts = {s.source: sum(c.source == s.source for c in chosen) for s in found.sources}
    assert counts["shift 0"] > counts["shift 1"] > counts["shift 3"]


def test_counts_are_terms_as_they_are() -> None:
    rows = np.zeros((4, 6), dtype=np.float32)
    rows[np.arange(4), [0, 1, 1, 2]] = [1, 2, 1, 4]
    made = represented([from_arrays(rows, name="a"), from_arrays(rows[:2], name="b")])
    assert made.what.startswith("terms")
    assert np.asarray(made.counts[0].sum(0)).ravel() == pytest.approx([1, 3, 4, 0, 0, 0])


def test_series_by_the_barycentres_of_their_classes() -> None:
    rng = np.random.default_rng(0)

    def domain(shape: np.ndarray, name: str, labels: bool) -> Domain:
        x = np.stack([s * shape + 0.05 * rng.normal(size=shape.shape) for s in (1, -1) * 6])
        y = np.array([0, 1] * 6) if labels else None
        return from_arrays(x.astype(np.float32), y, name=name, kind="series")

    saw = (np.arange(24) % 6 / 6.0)[None]
    sources = [domain(saw, "saw", True), domain(bump(8.0), "bump", True)]
    found = rank_sources(domain(bump(14.0), "target", False), sources, by="DTW barycentres")
    assert [s.source for s in found.sources] == ["bump", "saw"]


def test_what_cannot_be_ranked() -> None:
    target, source = vectors(0, 20, "t", 0), vectors(0, 20, "s", 1)
    with pytest.raises(DomadaptError, match="no source to rank"):
        rank_sources(target, [])
    with pytest.raises(DomadaptError, match="s is given twice"):
        rank_sources(target, [source, source])
    with pytest.raises(DomadaptError, match="sorted by one of Jensen-Shannon"):
        rank_sources(target, [source], by="Hamming")
    with pytest.raises(DomadaptError, match="one kind of data"):
        rank_sources(target, [texts(NEAR, 5, "words", 0)])
    images = from_arrays(np.zeros((4, 3, 16, 16), np.uint8), name="i", kind="image")
    with pytest.raises(DomadaptError, match="name one"):
        rank_sources(images, [images.unlabelled()])


def test_the_command_writes_its_table_and_the_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from domadapt import cli

    rng = np.random.default_rng(0)
    for name, shift in (("t", 0.0), ("a", 2.0), ("b", 0.2)):
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(40, 3)).astype(np.float32) + shift)
    monkeypatch.chdir(tmp_path)
    words = ["rank-sources", "t.npz", "a.npz", "b.npz", "--out", "found", "--select", "5"]
    monkeypatch.setattr("sys.argv", ["domadapt", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert said.index("\nb ") < said.index("\na ")
    lines = (tmp_path / "found" / "selected.csv").read_text().splitlines()
    assert lines[0] == "source,index,id,score"
    assert len(lines) == 6
    assert (tmp_path / "found" / "sources.md").exists()


def test_the_command_finds_the_texts_of_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    from domadapt import cli

    rng = np.random.default_rng(0)
    words = {"near": "pan pot knife stove", "far": "film actor scene plot"}
    for name, kind in (("near", "near"), ("far", "far")):
        texts = [" ".join(rng.choice(words[kind].split(), 9)) for _ in range(30)]
        pd.DataFrame({"review": texts, "label": rng.integers(2, size=30)}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    (tmp_path / "target").mkdir()
    for i in range(20):
        text = " ".join(rng.choice(words["near"].split(), 9))
        (tmp_path / "target" / f"{i}.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    for target in ("target", "near.csv"):
        monkeypatch.setattr("sys.argv", ["domadapt", "rank-sources", target, "far.csv", "near.csv"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None), capsys.readouterr().err
        said = capsys.readouterr().out
        assert said.index("\nnear ") < said.index("\nfar ")
