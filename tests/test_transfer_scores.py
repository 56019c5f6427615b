"""Scores of transferability: known answers, closed forms, and naive versions of the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

from domadapt.errors import DomadaptError
from domadapt.transfer import (
    gbc,
    h_score,
    leep,
    linear_probe,
    logme,
    nce,
    nearest_neighbours,
    nleep,
    regularized_h_score,
    sfda,
    transrate,
)

CLASS_SCORES = {
    "logme": logme,
    "h_score": h_score,
    "regularized_h_score": regularized_h_score,
    "transrate": transrate,
    "nleep": nleep,
    "gbc": gbc,
    "sfda": sfda,
    "nearest_neighbours": nearest_neighbours,
    "linear_probe": lambda f, y: linear_probe(f, y).mean,
}


def written_down():
    """60 samples of 8 features and 3 classes, and a model's answers, from sines."""
    i, j = np.arange(60)[:, None], np.arange(8)[None]
    y = np.arange(60) % 3
    f = np.sin(0.7 * i + 1.3 * j) + 0.1 * np.cos(0.05 * i * j) + 0.5 * (j == y[:, None])
    logits = 2 * np.sin(0.3 * i + 2.1 * np.arange(4)) + 1.5 * (np.arange(4) == y[:, None])
    return f, y, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def drawn(n=90, d=6, classes=3, apart=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    means = apart * rng.normal(size=(classes, d))
    return means[y] + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), y


# Known answers ----------------------------------------------------------------------------------


def test_known_answers_on_iris():
    x, y = load_iris(return_X_y=True)
    assert logme(x, y) == pytest.approx(-0.1600602436621256, abs=1e-6)
    assert h_score(x, y) == pytest.approx(1.1918988250414928, abs=1e-6)
    assert regularized_h_score(x, y) == pytest.approx(1.177842499331281, abs=1e-6)
    assert transrate(x, y) == pytest.approx(0.5894054063746488, abs=1e-6)
    votes = [nearest_neighbours(x, y, k=k) for k in (1, 3, 5, 13)]
    assert votes == pytest.approx([0.96, 0.96, 0.9666667, 0.9666667], abs=1e-6)


def test_known_answers_on_written_down_numbers():
    f, y, p = written_down()
    assert f.sum() == pytest.approx(36.404570776881414, abs=1e-10)
    assert logme(f, y) == pytest.approx(0.27545327340188913, abs=1e-6)
    assert h_score(f, y) == pytest.approx(1.9285214708213991, abs=1e-6)
    assert regularized_h_score(f, y) == pytest.approx(1.571975504146533, abs=1e-6)
    assert leep(p, y) == pytest.approx(-0.9761258388315659, abs=1e-6)
    assert nce(p.argmax(1), y) == pytest.approx(-0.8663614085006852, abs=1e-6)
    values = f @ np.linspace(-1, 1, 8) + 0.1 * np.sin(np.arange(60))
    assert logme(f, values, regression=True) == pytest.approx(0.7948991642316051, abs=1e-6)


# LogME ------------------------------------------------------------------------------------------


def maximum_of_the_evidence(f, y):
    """By the density of y itself, ``N(0, I/b + F F^T/a)``, and a search over a and b."""
    gram = f @ f.T

    def missing(logs):
        a, b = np.exp(logs)
        covariance = np.eye(len(y)) / b + gram / a
        return -stats.multivariate_normal(cov=covariance).logpdf(y) / len(y)

    starts = [(0.0, 0.0), (2.0, 2.0), (4.0, 0.0)]
    found = [
        optimize.minimize(missing, s, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
        for s in starts
    ]
    return -min(one.fun for one in found)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (24, 24), (20, 60)])
def test_logme_is_the_maximum_of_the_evidence(n, d):
    """Wide features included, where the released form is far off."""
    rng = np.random.default_rng(n)
    f = rng.normal(size=(n, d))
    y = f[:, :3].sum(1) + 0.7 * rng.normal(size=n)
    assert logme(f, y, regression=True) == pytest.approx(maximum_of_the_evidence(f, y), abs=2e-4)


def slowly(f, y, rank_counted=True):
    """The fixed point one class at a time over a full decomposition, as the formula reads."""
    n, d = f.shape
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    s2 = s**2
    found = []
    for c in np.unique(y):
        target = (y == c).astype(float)
        x = u.T @ target
        rest = target @ target - x @ x
        a = b = 1.0
        for _ in range(11):
            t = a / b
            g = sum(v / (v + t) for v in s2)
            m = sum(v * w * w / (v + t) ** 2 for v, w in zip(s2, x, strict=True))
            r = rest + sum(w * w / (1 + v / t) ** 2 for v, w in zip(s2, x, strict=True))
            a, b = g / (m + 1e-5), (n - g) / (r + 1e-5)
            if abs(a / b - t) / t <= 1e-3:
                break
        count = len(s2) if rank_counted else d
        total = count / 2 * math.log(a) + n / 2 * math.log(b) - np.log(a + b * s2).sum() / 2
        found.append((total - b * r / 2 - a * m / 2 - n / 2 * math.log(2 * math.pi)) / n)
    return np.mean(found)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (50, 50), (50, 200), (100, 768)])
def test_logme_equals_the_formula_class_by_class(n, d):
    f, y = drawn(n, d, classes=5, seed=d)
    assert logme(f, y) == pytest.approx(slowly(f, y), abs=1e-6)
    released = slowly(f, y, rank_counted=False)
    if d > n:
        assert abs(logme(f, y) - released) > 1
    else:
        assert logme(f, y) == pytest.approx(released, abs=1e-6)


def test_logme_does_not_depend_on_features_that_repeat_or_vanish():
    """Features of lower rank than their number: a rotation and zeros change no evidence."""
    f, y = drawn(60, 4)
    turn = linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    wider = np.hstack([f @ turn, np.zeros((60, 3))])
    assert logme(wider, y) == pytest.approx(logme(f, y), abs=1e-9)
    twice = np.hstack([f, f]) / math.sqrt(2)
    assert logme(twice, y) == pytest.approx(logme(f, y), abs=1e-9)


def test_logme_of_several_measurements_is_their_mean():
    f, _ = drawn()
    values = np.stack([f[:, 0] + np.cos(np.arange(90)), np.sin(np.arange(90))], 1)
    each = [logme(f, values[:, k], regression=True) for k in (0, 1)]
    assert logme(f, values, regression=True) == pytest.approx(np.mean(each), abs=1e-12)


# LEEP, NCE, N-LEEP ------------------------------------------------------------------------------


def test_leep_by_hand():
    # Answers (3/4, 1/4) for both samples of a, (1/4, 3/4) for both of b: the joint is
    # [[3/8, 1/8], [1/8, 3/8]], P(a | z) = (3/4, 1/4), and every sample has 9/16 + 1/16 = 5/8.
    p = np.array([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.25, 0.75]])
    assert leep(p, list("abab")) == pytest.approx(math.log(5 / 8), abs=1e-12)


def test_leep_of_answers_that_know_nothing_is_minus_the_entropy_of_the_classes():
    y = np.array([0, 0, 0, 1])
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert leep(np.full((4, 5), 0.2), y) == pytest.approx(-h, abs=1e-12)
    assert nce(np.zeros(4), y) == pytest.approx(-h, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_leep_lies_between_minus_the_entropy_of_the_classes_and_0(seed):
    """By Jensen's inequality it is at least -H(Y | Z) of its own joint distribution."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(6, 0.3), size=50)
    y = rng.integers(0, 3, 50)
    joint = np.stack([p[y == c].sum(0) for c in range(3)]) / 50
    conditional = -(joint * np.log(joint / joint.sum(0))).sum()
    assert -conditional <= leep(p, y) <= 0


def test_nce_by_hand():
    # Answer 0 has classes a, a, b, answer 1 only b: H = 3/4 * H(1/3).
    h = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert nce([0, 0, 0, 9], list("aabb")) == pytest.approx(-0.75 * h, abs=1e-12)
    assert nce([5, 5, 7, 7], list("aabb")) == 0


def test_nleep_is_leep_of_a_mixture():
    f, y = drawn(120, 5, apart=3, seed=4)
    centred = f - f.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    share = np.cumsum(s**2) / (s**2).sum()
    k = int(np.argmax(share >= 0.8)) + 1
    z = u[:, :k] * s[:k]
    z = z / np.sqrt((z**2).mean())
    # A rotation's signs are arbitrary: the mixture is compared by its likelihood of the labels.
    mixture = GaussianMixture(15, covariance_type="diag", random_state=0).fit(z)
    assert nleep(f, y) == pytest.approx(leep(mixture.predict_proba(z), y), abs=0.1)


def test_nleep_tells_clusters_that_are_classes_from_those_that_are_not():
    f, y = drawn(120, 5, apart=30, seed=4)
    assert nleep(f, y) > -0.01
    mixed = np.random.default_rng(0).permutation(y)
    assert nleep(f, mixed) < -0.7


# H-score, TransRate -----------------------------------------------------------------------------


def test_h_score_equals_numpy_covariances():
    f, y = drawn(80, 7, classes=4)
    g = np.stack([f[y == c].mean(0) for c in y])
    direct = np.trace(np.linalg.pinv(np.cov(f.T)) @ np.cov(g.T))
    assert h_score(f, y) == pytest.approx(direct, abs=1e-9)


def test_h_score_of_wide_features_is_the_number_of_classes_less_one():
    f = np.random.default_rng(0).normal(size=(30, 100))
    assert h_score(f, np.arange(30) % 3) == pytest.approx(2, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(80, 7), (30, 100)])
def test_regularized_h_score_equals_ledoit_and_wolf_of_sklearn(n, d):
    f, y = drawn(n, d)
    fitted = LedoitWolf().fit(f)
    g = np.stack([f[y == c].mean(0) for c in y])
    inner = np.linalg.inv(fitted.covariance_) @ np.cov(g.T)
    direct = (1 - fitted.shrinkage_) * np.trace(inner)
    assert regularized_h_score(f, y) == pytest.approx(direct, rel=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_transrate_equals_log_determinants(weighted):
    f, y = drawn(50, 12)
    y = np.where(np.arange(50) < 6, 1, y)

    def rate(z):
        return np.linalg.slogdet(np.eye(12) + z.T @ z / (len(z) * 1e-3))[1] / 2

    f_0 = f - f.mean(0)
    shares = np.bincount(y) / 50 if weighted else np.full(3, 1 / 3)
    direct = rate(f_0) - sum(shares[c] * rate(f_0[y == c]) for c in range(3))
    assert transrate(f, y, eps=1e-3, weighted=weighted) == pytest.approx(direct, abs=1e-8)


# GBC, SFDA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spherical", [False, True])
def test_gbc_sums_the_bhattacharyya_coefficients_of_gaussians(spherical):
    f, y = drawn(90, 5)
    f = (f - f.mean(0)) @ np.linalg.eigh(np.cov(f.T))[1]  # principal components already
    overlap = 0.0
    for c in range(3):
        for other in range(c):
            one, two = f[y == c], f[y == other]
            v_1, v_2 = one.var(0), two.var(0)
            if spherical:
                v_1, v_2 = np.full(5, v_1.mean()), np.full(5, v_2.mean())
            middle = np.diag(v_1 + v_2) / 2
            apart = one.mean(0) - two.mean(0)
            distance = apart @ np.linalg.inv(middle) @ apart / 8 + 0.5 * math.log(
                np.linalg.det(middle) / math.sqrt(v_1.prod() * v_2.prod())
            )
            overlap += math.exp(-distance)
    assert gbc(f, y, spherical=spherical) == pytest.approx(-overlap, rel=1e-9)
    assert gbc(100 * f + 3, y, spherical=spherical) == pytest.approx(-overlap, rel=1e-9)


def test_gbc_keeps_the_leading_dimensions_alone():
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    noise = rng.normal(size=(100, 2))
    hidden = np.column_stack([10 * noise, 2 * y - 1])
    assert gbc(hidden, y, dimensions=2) == pytest.approx(gbc(10 * noise, y), rel=0.05)
    assert gbc(hidden, y, dimensions=3, spherical=False) > -1e-6


def test_sfda_equals_two_discriminant_analyses_of_sklearn():
    f, y = drawn(120, 5, apart=2, seed=3)
    f = 0.2 * f
    y = np.where(np.arange(120) < 20, 0, y)
    within = sum((y == c).mean() * np.cov(f[y == c].T, bias=True) for c in range(3))
    q = max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    assert 0.01 < q < 0.99
    p = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=q).fit(f, y).predict_proba(f)
    p = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    means = np.stack([f[y == c].mean(0) for c in range(3)])
    moved = np.empty_like(f)
    for i, c in enumerate(y):
        others = np.mean([means[k] for k in range(3) if k != c], axis=0)
        moved[i] = p[i, c] * f[i] + (1 - p[i, c]) * others
    second = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=q).fit(moved, y)
    direct = second.predict_proba(moved)[np.arange(120), y].mean()
    assert sfda(f, y) == pytest.approx(direct, abs=1e-6)


# Probes -----------------------------------------------------------------------------------------


def test_nearest_neighbours_equals_sklearn_leaving_one_out():
    f, y = drawn(70, 4, apart=1.5)
    for k in (1, 2, 7):
        right = 0
        for i in range(70):
            rest = np.arange(70) != i
            near = KNeighborsClassifier(k).fit(f[rest], y[rest]).kneighbors(f[i : i + 1])[1][0]
            votes = [list(y[rest][near]).count(c) for c in range(3)]
            best = [c for c in range(3) if votes[c] == max(votes)]
            right += next(c for c in y[rest][near] if c in best) == y[i]
        assert nearest_neighbours(f, y, k=k) == right / 70


def test_the_probe_is_at_chance_on_noise_and_perfect_where_classes_are_apart():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    noise = rng.normal(size=(200, 300))
    assert linear_probe(noise, y).mean == pytest.approx(0.5, abs=0.12)
    clear = linear_probe(np.column_stack([noise[:, :5], 20 * y]), y)
    assert clear.mean == 1
    assert clear.std == 0
    assert len(clear.folds) == 5


def test_the_probe_never_learns_from_the_group_it_is_tested_on():
    """Each group has its own direction, which says its class: of no use for other groups."""
    rng = np.random.default_rng(1)
    whose = np.repeat(np.arange(20), 6)
    y = rng.permutation(np.arange(20) % 2)[whose]
    f = np.eye(20)[whose] + 0.01 * rng.normal(size=(120, 20))
    assert linear_probe(f, y).mean > 0.95
    assert linear_probe(f, y, groups=whose).mean < 0.75


def test_the_probe_of_measurements_is_r2():
    f, _ = drawn(200, 6)
    y = f @ np.arange(6) + 0.01 * np.random.default_rng(0).normal(size=200)
    assert linear_probe(f, y, regression=True).mean > 0.99
    other = np.random.default_rng(5).normal(size=200)
    assert linear_probe(f, other, regression=True).mean < 0.1


def test_the_probe_says_how_much_folds_differ():
    f, y = drawn(60, 4, apart=0.5)
    probe = linear_probe(f, y)
    assert probe.std == pytest.approx(np.std(probe.folds, ddof=1), abs=1e-12)
    assert probe.mean == pytest.approx(np.mean(probe.folds), abs=1e-12)
    assert probe == linear_probe(f, y)


# All --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASS_SCORES)
def test_a_score_is_higher_where_classes_are_apart(name):
    score = CLASS_SCORES[name]
    rng = np.random.default_rng(2)
    noise, y = rng.normal(size=(120, 6)), np.arange(120) % 3
    means = rng.normal(size=(3, 6))
    close, apart = noise + 0.3 * means[y], noise + 4 * means[y]
    assert score(apart, y) > score(close, y)


@pytest.mark.parametrize("name", CLASS_SCORES)
def test_a_score_takes_any_labels_any_order_and_leaves_its_input(name):
    score = CLASS_SCORES[name]
    f, y = drawn(60, 4, apart=1.5, seed=1)
    kept = f.copy()
    named = np.array(["crow", "ant", "bee"])[y]
    assert score(f.tolist(), named) == pytest.approx(score(f, np.array([7, -1, 3])[y]), abs=1e-9)
    np.testing.assert_array_equal(f, kept)
    if name not in ("nleep", "linear_probe"):  # these draw by position
        order = np.random.default_rng(0).permutation(60)
        assert score(f[order], y[order]) == pytest.approx(score(f, y), abs=1e-7)


@pytest.mark.parametrize("name", CLASS_SCORES)
@pytest.mark.parametrize(
    ("features", "y", "says"),
    [
        (np.zeros(4), [0, 0, 1, 1], "shape (n, d)"),
        (np.array([[1.0], [np.nan], [2.0], [1.0]]), [0, 0, 1, 1], "finite"),
        ([["a"], ["b"]], [0, 1], "numbers"),
        (np.eye(4), [0, 1], "one class per sample"),
        (np.eye(4), [0, 0, 0, 0], "at least 2"),
        (np.eye(4), [0.0, 0.0, 1.0, np.nan], "NaN"),
    ],
)
def test_what_no_score_can_use_is_refused_in_a_sentence(name, features, y, says):
    with pytest.raises(DomadaptError) as refusal:
        CLASS_SCORES[name](features, y)
    assert says in str(refusal.value)


@pytest.mark.parametrize("name", ["h_score", "regularized_h_score", "nleep", "gbc", "linear_probe"])
def test_features_without_any_difference_are_refused(name):
    with pytest.raises(DomadaptError, match="one point"):
        CLASS_SCORES[name](np.full((40, 3), 2.5), np.arange(40) % 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: leep(np.ones((4, 2)), [0, 0, 1, 1]), "softmax"),
        (lambda: nce(np.eye(4), [0, 0, 1, 1]), "argmax"),
        (lambda: logme(np.eye(3), list("abc"), regression=True), "must be numbers"),
        (lambda: logme(np.eye(3), [1.0, 2.0], regression=True), "(3,)"),
        (lambda: logme(np.eye(3), [1.0, 2.0, math.inf], regression=True), "finite"),
        (lambda: transrate(np.eye(4), [0, 0, 1, 1], eps=0), "positive"),
        (lambda: nleep(np.eye(4), [0, 0, 1, 1], energy=0), "energy"),
        (lambda: gbc(np.eye(4), [0, 0, 1, 1], dimensions=0), "dimension"),
        (lambda: nearest_neighbours(np.eye(4), [0, 0, 1, 1], k=4), "between 1 and"),
        (lambda: linear_probe(np.eye(4), [0, 0, 1, 1], folds=1), "2 folds"),
        (lambda: linear_probe(np.eye(4), [0, 0, 1, 1], folds=5), "fewer folds"),
        (lambda: linear_probe(np.eye(4), [0, 0, 0, 1], folds=2), "2 samples of each class"),
        (lambda: linear_probe(np.eye(4), [0, 0, 1, 1], folds=2, groups=list("aab")), "groups"),
        (lambda: linear_probe(np.eye(4), [0, 0, 1, 1], folds=2, groups=list("aabb")), "single"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_sentence(call, says):
    with pytest.raises(DomadaptError) as refusal:
        call()
    assert says in str(refusal.value)
