"""Closed-form methods: formulas done another way, hand-made cases, POT, scikit-learn's checks."""

import itertools
import pickle

import numpy as np
import ot
import pandas as pd
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from domadapt.closed_form import (
    KMM,
    MSDA,
    OTDA,
    TCA,
    Coral,
    DiscriminatorWeights,
    LinearOT,
    SubspaceAlignment,
)
from domadapt.closed_form.base import require_memory
from domadapt.closed_form.kmm import project
from domadapt.errors import DomadaptError

ALL = [Coral, LinearOT, SubspaceAlignment, TCA, MSDA, OTDA, KMM, DiscriminatorWeights]
MOVES_SOURCE = [Coral, LinearOT, OTDA]
WEIGHTS = [KMM, DiscriminatorWeights]


def domains(n_s=40, n_t=30, d=4, seed=0):
    rng = np.random.default_rng(seed)
    x_s = rng.normal(size=(n_s, d)) @ rng.normal(size=(d, d)) + 1
    x_t = rng.normal(size=(n_t, d)) @ rng.normal(size=(d, d)) - rng.normal(size=d)
    return x_s, x_t, rng.integers(0, 3, n_s)


def by_class(classes):
    return pytest.mark.parametrize("method", classes, ids=lambda c: c.__name__)


# --- scikit-learn's own checks ------------------------------------------------------------------


class Halved:
    """Told of no domains, takes every second row for a target row.

    The checks know no domains, without which `fit` refuses.
    """

    def fit(self, X, y=None, *, sample_domain=None, X_target=None):
        if sample_domain is None and X_target is None:
            n = len(np.asarray(X)) if not hasattr(X, "shape") else X.shape[0]
            sample_domain = np.where(np.arange(n) % 2, -1, 1)
        return super().fit(X, y, sample_domain=sample_domain, X_target=X_target)


# In the module's namespace, where pickle looks for them.
HALVED = [type(f"Halved{m.__name__}", (Halved, m), {"__module__": __name__}) for m in ALL]
globals().update({m.__name__: m for m in HALVED})


def expected_failures(estimator):
    if not isinstance(estimator, (*MOVES_SOURCE, SubspaceAlignment)):
        return {}
    why = "fit_transform maps source rows by the source's map; transform takes all for target rows"
    return {
        "check_transformer_general": why,
        "check_transformer_data_not_an_array": why,
    }


@parametrize_with_checks([m() for m in HALVED], expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# --- what all share -----------------------------------------------------------------------------


@by_class(ALL)
def test_stacked_rows_and_two_arrays_are_the_same_fit(method):
    x_s, x_t, _ = domains()
    rng = np.random.default_rng(1)
    order = rng.permutation(len(x_s) + len(x_t))
    # A permutation that keeps the order within each domain.
    order = np.concatenate([np.sort(order[: len(x_s)]), np.sort(order[len(x_s) :])]).argsort()
    stacked = np.vstack([x_s, x_t])[order]
    d = np.repeat([3, -2], [len(x_s), len(x_t)])[order]

    out = method().fit_transform(stacked, sample_domain=d)
    apart = method().fit(x_s, X_target=x_t)
    np.testing.assert_allclose(out[d < 0], apart.transform(x_t), atol=1e-9)
    np.testing.assert_allclose(out[d > 0], apart.transform(x_s, np.ones(len(x_s))), atol=1e-9)
    np.testing.assert_allclose(out[d > 0], method().fit_transform(x_s, X_target=x_t), atol=1e-9)


def test_labels_follow_their_rows_where_the_domains_are_mixed():
    x_s, x_t, y_s = domains()
    method = OTDA(class_reg=1.0, reg=0.3)
    expected = method.fit_transform(x_s, y_s, X_target=x_t)
    order = np.random.default_rng(1).permutation(70)
    x, d = np.vstack([x_s, x_t])[order], np.repeat([1, -1], [40, 30])[order]
    out = method.fit_transform(x, np.array([*y_s, *[9] * 30])[order], sample_domain=d)
    np.testing.assert_allclose(out[d > 0], expected[order[d > 0]], atol=1e-5)


@by_class(MOVES_SOURCE)
def test_target_rows_stay_and_source_rows_move(method):
    x_s, x_t, _ = domains()
    fitted = method().fit(x_s, X_target=x_t)
    np.testing.assert_array_equal(fitted.transform(x_t), x_t)
    assert np.abs(fitted.transform(x_s, np.ones(len(x_s))) - x_s).max() > 0.1


@by_class(ALL)
def test_target_labels_are_never_looked_at(method):
    x_s, x_t, y_s = domains()
    x, d = np.vstack([x_s, x_t]), np.repeat([1, -1], [len(x_s), len(x_t)])
    settings = {"class_reg": 0.1} if method is OTDA else {}
    one, other = np.array([*y_s, *[7] * len(x_t)]), np.array([*y_s, *range(len(x_t))])
    a = method(**settings).fit_transform(x, one, sample_domain=d)
    b = method(**settings).fit_transform(x, other, sample_domain=d)
    np.testing.assert_array_equal(a, b)


@by_class(ALL)
def test_pipeline_clone_pickle_float32_and_pandas(method):
    x_s, x_t, y_s = domains()
    pipeline = make_pipeline(method(), LogisticRegression())
    name = pipeline.steps[0][0]
    predicted = pipeline.fit(x_s, y_s, **{f"{name}__X_target": x_t}).predict(x_t)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(x_t), predicted)
    mapped = method().fit_transform(x_s, X_target=x_t)
    by_hand = LogisticRegression().fit(mapped, y_s).predict(pipeline[0].transform(x_t))
    np.testing.assert_array_equal(by_hand, predicted)

    assert clone(pipeline[0]).get_params() == method().get_params()
    half = method().fit(x_s.astype(np.float32), X_target=x_t.astype(np.float32))
    assert half.transform(x_t.astype(np.float32)).dtype == np.float32

    frame_s, frame_t = (pd.DataFrame(x, columns=list("abcd")) for x in (x_s, x_t))
    framed = method().set_output(transform="pandas").fit(frame_s, X_target=frame_t)
    out = framed.transform(frame_t)
    assert list(out.columns) == list(framed.get_feature_names_out())
    if method in (TCA, SubspaceAlignment):
        assert out.columns[0] == f"{method.__name__.lower()}0"
    else:
        assert list(out.columns) == list("abcd")
    np.testing.assert_allclose(out, method().fit(x_s, X_target=x_t).transform(x_t))
    with pytest.raises(ValueError, match="feature names"):
        method().fit(frame_s, X_target=frame_t.rename(columns={"a": "z"}))


@by_class(ALL)
def test_sparse_rows_give_what_dense_rows_give(method):
    x_s, x_t, _ = domains()
    x_s, x_t = x_s * (x_s > 1), x_t * (x_t > -1)
    sparse = [scipy.sparse.csr_matrix(x) for x in (x_s, x_t)]
    a = method().fit(sparse[0], X_target=sparse[1])
    b = method().fit(x_s, X_target=x_t)
    for given, dense, d in ((sparse[0], x_s, 1), (sparse[1], x_t, -1)):
        out = a.transform(given, np.full(len(dense), d))
        out = out.toarray() if scipy.sparse.issparse(out) else out
        np.testing.assert_allclose(out, b.transform(dense, np.full(len(dense), d)), atol=1e-8)
    both, d = scipy.sparse.vstack(sparse, format="csr"), np.repeat([1, -1], [40, 30])
    out = method().fit_transform(both, sample_domain=d)
    assert out.shape[0] == 70
    assert scipy.sparse.issparse(out) == (method in WEIGHTS)
    if method in WEIGHTS:
        np.testing.assert_allclose(a.weights_, b.weights_, atol=1e-6)


@by_class(MOVES_SOURCE)
def test_sparse_rows_that_would_not_fit_are_refused(method):
    wide = scipy.sparse.csr_matrix((4, 10**12))
    with pytest.raises(
        DomadaptError, match=r"works on dense rows.*Reduce the rows or the features"
    ):
        method().fit(wide, X_target=wide)


@by_class([Coral, LinearOT])
def test_covariances_that_would_not_fit_are_refused(method):
    wide = scipy.sparse.csr_matrix((2, 10**7))
    with pytest.raises(DomadaptError, match="covariance of 10000000 features"):
        method().fit(wide, X_target=wide)


def test_memory_allows_what_fits():
    require_memory((1000, 1000), "A small array")


@by_class(ALL)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "got neither"),
        ({"sample_domain": np.ones(40), "X_target": np.ones((30, 4))}, "got both"),
        ({"sample_domain": np.arange(40)}, "got 0, which is neither"),
        ({"sample_domain": np.full(40, np.nan)}, "got nan, which is neither"),
        ({"sample_domain": np.ones(7)}, "one number for each of the 40 rows"),
        ({"sample_domain": ["source"] * 40}, "one number for each of the 40 rows"),
        ({"sample_domain": np.ones(40)}, "got 0 of the target"),
        ({"sample_domain": -np.ones(40)}, "got 0 of the source"),
    ],
)
def test_domains_that_are_not_said_rightly(method, given, says):
    x_s, _, y_s = domains()
    with pytest.raises(DomadaptError, match=says):
        method().fit(x_s, y_s, **given)


@pytest.mark.parametrize(
    ("estimator", "says"),
    [
        (Coral(reg=-1), "reg"),
        (LinearOT(reg=float("nan")), "reg"),
        (SubspaceAlignment(n_components=5), "from 1 to 4"),
        (SubspaceAlignment(n_components=0), "from 1 to 4"),
        (TCA(n_components=5), "from 1 to 4"),
        (TCA(n_components=2.5), "whole number"),
        (TCA(mu=0), "mu"),
        (TCA(kernel="rbff"), "Did you mean 'rbf'"),
        (TCA(kernel="rbf", gamma=-1), "gamma"),
        (MSDA(corruption=1.0), "below 1"),
        (MSDA(layers=0), "layers"),
        (MSDA(reg=0), "reg"),
        (OTDA(reg=-1), "reg"),
        (OTDA(reg=0, class_reg=1), "above 0"),
        (OTDA(class_reg=1), "labels of the source"),
        (OTDA(norm="mean"), "norm of the costs"),
        (KMM(kernel="cubic"), "kernel"),
        (KMM(max_weight=0.5), "max_weight"),
        (KMM(slack=-0.1), "slack"),
        (DiscriminatorWeights(C=0), "C > 0"),
    ],
    ids=str,
)
def test_settings_that_are_refused(estimator, says):
    x_s, x_t, _ = domains()
    with pytest.raises(DomadaptError, match=says):
        estimator.fit(x_s, X_target=x_t)


@by_class([Coral, LinearOT])
def test_a_singular_source_without_reg_is_refused(method):
    x_s, x_t, _ = domains(n_s=4)
    with pytest.raises(DomadaptError, match=r"singular.*Raise reg"):
        method(reg=0).fit(x_s, X_target=x_t)


# --- Coral and LinearOT -------------------------------------------------------------------------


def test_coral_is_algorithm_1():
    x_s, x_t, _ = domains()
    c_s, c_t = np.cov(x_s.T) + np.eye(4), np.cov(x_t.T) + np.eye(4)
    by_formula = x_s @ np.linalg.inv(scipy.linalg.sqrtm(c_s)) @ scipy.linalg.sqrtm(c_t)
    mapped = Coral(center=False).fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(mapped, by_formula, atol=1e-9)
    centred = Coral().fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(centred - centred.mean(0), by_formula - by_formula.mean(0))
    np.testing.assert_allclose(centred.mean(0), x_t.mean(0))


def test_coral_in_one_dimension_by_hand():
    x_s, x_t = np.array([[-1.0], [1.0]]), np.array([[1.0], [9.0]])
    # Variances 2 and 32, plus 1; means 0 and 5.
    expected = 5 + np.array([[-1.0], [1.0]]) * np.sqrt(33 / 3)
    np.testing.assert_allclose(Coral().fit_transform(x_s, X_target=x_t), expected)


@by_class([Coral, LinearOT])
def test_mean_and_covariance_become_the_targets(method):
    x_s, x_t, _ = domains(n_s=50, n_t=50)
    mapped = method(reg=0).fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(mapped.mean(0), x_t.mean(0), atol=1e-9)
    np.testing.assert_allclose(np.cov(mapped.T), np.cov(x_t.T), atol=1e-9)


@by_class([Coral, LinearOT])
def test_equal_domains_do_not_move(method):
    x_s, _, _ = domains()
    np.testing.assert_allclose(method().fit_transform(x_s, X_target=x_s), x_s, atol=1e-9)


@pytest.mark.parametrize("reg", [1e-6, 1.0])
def test_linear_ot_equals_pot(reg):
    x_s, x_t, _ = domains()
    pot = ot.da.LinearTransport(reg=reg).fit(Xs=x_s, Xt=x_t)
    fitted = LinearOT(reg=reg).fit(x_s, X_target=x_t)
    np.testing.assert_allclose(fitted.matrix_, pot.A_, atol=1e-8)
    new = np.random.default_rng(3).normal(size=(5, 4))
    np.testing.assert_allclose(fitted.transform(new, np.ones(5)), pot.transform(Xs=new), atol=1e-7)


def test_linear_ot_scales_axes_and_its_matrix_is_symmetric():
    x_s, x_t, _ = domains()
    scale, shift = np.array([0.5, 2, 3, 0.1]), np.array([1, -2, 0, 4])
    mapped = LinearOT(reg=0).fit_transform(x_s, X_target=x_s * scale + shift)
    np.testing.assert_allclose(mapped, x_s * scale + shift, atol=1e-9)
    matrix = LinearOT().fit(x_s, X_target=x_t).matrix_
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_linear_ot_moves_least_of_the_maps_that_match_two_moments():
    x_s, x_t, _ = domains(n_s=50, n_t=50)

    def moved(method):
        return ((method(reg=0).fit_transform(x_s, X_target=x_t) - x_s) ** 2).sum(1).mean()

    assert moved(LinearOT) < moved(Coral)
    means = ((x_s.mean(0) - x_t.mean(0)) ** 2).sum()
    c_s, c_t = np.cov(x_s.T, ddof=0), np.cov(x_t.T, ddof=0)
    bures = np.trace(c_s + c_t - 2 * scipy.linalg.sqrtm(c_s @ c_t)).real
    assert moved(LinearOT) == pytest.approx(means + bures)


# --- denoising ----------------------------------------------------------------------------------


def test_msda_is_the_least_squares_over_every_way_to_lose_features():
    x_s, x_t, _ = domains()
    x, p = np.vstack([x_s, x_t]), 0.3
    lost, weights = [], []
    for mask in itertools.product([0, 1], repeat=4):
        kept = sum(mask)
        lost.append(np.hstack([x * mask, np.ones((len(x), 1))]))
        weights.append(np.full(len(x), (1 - p) ** kept * p ** (4 - kept)))
    root = np.sqrt(np.concatenate(weights))[:, None]
    solution = np.linalg.lstsq(root * np.vstack(lost), root * np.tile(x, (16, 1)))[0]
    fitted = MSDA(corruption=p, reg=1e-12).fit(x_s, X_target=x_t)
    np.testing.assert_allclose(fitted.matrix_, solution[:4], atol=1e-8)
    np.testing.assert_allclose(fitted.shift_, solution[4], atol=1e-8)


def test_msda_without_corruption_leaves_rows_and_scale_does_not_matter():
    x_s, x_t, _ = domains()
    same = MSDA(corruption=0.0, reg=1e-12).fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(same, x_s, atol=1e-7)
    one = MSDA().fit_transform(x_s, X_target=x_t)
    wide = MSDA().fit_transform(1e3 * x_s, X_target=1e3 * x_t)
    np.testing.assert_allclose(wide, 1e3 * one)


def test_msda_stacks():
    x_s, x_t, _ = domains()
    once = MSDA().fit(x_s, X_target=x_t)
    h_s, h_t = once.transform(x_s), once.transform(x_t)
    wanted = MSDA().fit(h_s, X_target=h_t).transform(h_t)
    np.testing.assert_allclose(MSDA(layers=2).fit(x_s, X_target=x_t).transform(x_t), wanted)


def test_msda_gives_words_of_one_domain_to_the_other():
    # "plot" is of the source alone and goes with "dull"; the target has "dull" and never "plot".
    rng = np.random.default_rng(0)
    dull = rng.integers(0, 2, 400).astype(float)
    plot = dull * (np.arange(400) < 200)
    x = np.column_stack([dull, plot, rng.integers(0, 2, 400)])
    fitted = MSDA().fit(x[:200], X_target=x[200:])
    with_, without = fitted.transform(np.array([[1.0, 0, 0], [0, 0, 0]]))
    assert with_[1] > without[1] + 0.1


# --- subspaces ----------------------------------------------------------------------------------


def test_subspace_alignment_by_singular_vectors():
    x_s, x_t, _ = domains(d=6)
    z_s, z_t = x_s - x_s.mean(0), x_t - x_t.mean(0)
    p_s, p_t = (np.linalg.svd(z)[2][:3].T for z in (z_s, z_t))
    fitted = SubspaceAlignment(n_components=3).fit(x_s, X_target=x_t)
    out_s, out_t = fitted.transform(x_s, np.ones(len(x_s))), fitted.transform(x_t)
    # The signs of the target's directions are arbitrary, the same for both domains.
    sign = np.sign((out_t * (z_t @ p_t)).sum(0))
    np.testing.assert_allclose(out_t * sign, z_t @ p_t, atol=1e-9)
    np.testing.assert_allclose(out_s * sign, z_s @ p_s @ p_s.T @ p_t, atol=1e-9)


def test_subspace_alignment_by_hand():
    # The source varies along (1, 0), the target along (3, 4) / 5.
    x_s = np.array([[-1.0, 0], [1, 0]])
    x_t = np.array([[-3.0, -4], [3, 4], [0, 0]])
    fitted = SubspaceAlignment(n_components=1).fit(x_s, X_target=x_t)
    np.testing.assert_allclose(np.abs(fitted.transform(x_s, [1, 1])).ravel(), [0.6, 0.6])
    np.testing.assert_allclose(np.abs(fitted.transform(x_t)).ravel(), [5, 5, 0], atol=1e-12)


def test_number_of_components_by_default():
    x_s, x_t, _ = domains(d=30)
    assert SubspaceAlignment().fit(x_s, X_target=x_t).transform(x_t).shape == (30, 20)
    assert SubspaceAlignment().fit(x_s, X_target=x_t[:9]).transform(x_t).shape == (30, 8)
    assert TCA().fit(x_s, X_target=x_t).transform(x_t).shape == (30, 20)
    assert TCA().fit(x_s[:, :4], X_target=x_t[:, :4]).transform(x_t[:, :4]).shape == (30, 4)


def naive_kernel(a, b, kernel, gamma):
    if kernel == "linear":
        return np.array([[sum(p * q) for q in b] for p in a])
    return np.array([[np.exp(-gamma * sum((p - q) ** 2)) for q in b] for p in a])


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_tca_by_its_formula(kernel):
    x_s, x_t, _ = domains(n_s=15, n_t=10)
    rows, n, mu, gamma = np.vstack([x_s, x_t]), 25, 0.7, 0.05
    k = naive_kernel(rows, rows, kernel, gamma)
    # L as the paper writes it, block by block.
    big_l = np.full((n, n), -1 / 150)
    big_l[:15, :15], big_l[15:, 15:] = 1 / 225, 1 / 100
    h = np.eye(n) - 1 / n
    values, vectors = np.linalg.eig(np.linalg.solve(k @ big_l @ k + mu * np.eye(n), k @ h @ k))
    w = vectors.real[:, values.real.argsort()[::-1][:3]]
    w = w / np.sqrt(np.diag(w.T @ k @ h @ k @ w))

    fitted = TCA(kernel=kernel, gamma=gamma, mu=mu, n_components=3).fit(x_s, X_target=x_t)
    out = fitted.components_
    np.testing.assert_allclose(out.T @ k @ h @ k @ out, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(np.abs(out), np.abs(w), atol=1e-7)

    new = np.random.default_rng(5).normal(size=(6, 4))
    expected = naive_kernel(new, rows, kernel, gamma) @ out
    np.testing.assert_allclose(fitted.transform(new), expected, atol=1e-9)
    np.testing.assert_allclose(fitted.transform(new, np.ones(6)), expected, atol=1e-9)


def test_tca_leaves_out_the_direction_in_which_the_domains_differ():
    rng = np.random.default_rng(0)
    x_s, x_t = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    x_t[:, 0] += 50
    out = TCA(mu=1e-3, n_components=1)
    a, b = out.fit_transform(x_s, X_target=x_t), out.transform(x_t)
    between = abs(a.mean() - b.mean()) / np.concatenate([a, b]).std()
    assert between < 0.01
    plain = TCA(mu=1e9, n_components=1)
    a, b = plain.fit_transform(x_s, X_target=x_t), plain.transform(x_t)
    assert abs(a.mean() - b.mean()) / np.concatenate([a, b]).std() > 1.9


def test_the_median_rule_follows_the_scale():
    x_s, x_t, _ = domains()
    for method in (TCA(kernel="rbf"), KMM()):
        small = clone(method).fit(x_s, X_target=x_t).gamma_
        assert clone(method).fit(100 * x_s, X_target=100 * x_t).gamma_ == pytest.approx(small / 1e4)
    rows = np.array([[0.0], [1.0], [3.0]])  # squared distances 1, 4, 9
    assert KMM().fit(rows[:1], X_target=rows[1:]).gamma_ == pytest.approx(1 / 4)


def test_rows_that_are_all_the_same():
    same = np.ones((5, 2))
    with pytest.raises(DomadaptError, match="rows that differ"):
        TCA().fit(same, X_target=same)
    np.testing.assert_allclose(KMM().fit(same, X_target=same).weights_, 1)


# --- optimal transport --------------------------------------------------------------------------


def naive_sinkhorn(cost, reg, rounds=3000):
    n, m = cost.shape
    k, u, v = np.exp(-cost / reg), np.ones(n), np.ones(m)
    for _ in range(rounds):
        u = 1 / n / (k @ v)
        v = 1 / m / (k.T @ u)
    return u[:, None] * k * v, v


def squares(a, b):
    return np.array([[sum((p - q) ** 2) for q in b] for p in a])


@pytest.mark.parametrize(("norm", "how"), [("median", np.median), ("max", np.max)])
def test_otda_by_a_naive_sinkhorn(norm, how):
    x_s, x_t, _ = domains(n_s=12, n_t=9)
    cost = squares(x_s, x_t)
    plan, v = naive_sinkhorn(cost / how(cost), 0.2)
    fitted = OTDA(reg=0.2, norm=norm, max_iter=5000).fit(x_s, X_target=x_t)
    np.testing.assert_allclose(fitted.transport_.coupling_, plan, atol=1e-7)
    np.testing.assert_allclose(fitted.transform(x_s, np.ones(12)), 12 * plan @ x_t, atol=1e-5)
    new = np.random.default_rng(2).normal(size=(4, 4))
    k = np.exp(-squares(new, x_t) / how(cost) / 0.2) * v
    expected = k @ x_t / k.sum(1, keepdims=True)
    np.testing.assert_allclose(fitted.transform(new, np.ones(4)), expected, atol=1e-5)


def test_exact_transport_undoes_a_shift_and_new_rows_follow_their_nearest():
    x_s, _, _ = domains()
    shift = np.array([100.0, -50, 3, 0])
    x_t = x_s[np.random.default_rng(4).permutation(len(x_s))] + shift
    fitted = OTDA(reg=0).fit(x_s, X_target=x_t)
    np.testing.assert_allclose(fitted.transform(x_s, np.ones(40)), x_s + shift, atol=1e-9)
    new = x_s[:5] + 1e-3
    np.testing.assert_allclose(fitted.transform(new, np.ones(5)), new + shift, atol=1e-9)


def test_exact_transport_on_a_line_sorts():
    x_s, x_t = np.array([[3.0], [1], [2]]), np.array([[10.0], [30], [20]])
    mapped = OTDA(reg=0).fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(mapped, [[30], [10], [20]])


def test_class_term_equals_pot_and_keeps_classes_apart():
    x_s, y_s = make_blobs(30, centers=[[0, 0], [1, 0]], cluster_std=0.3, random_state=0)
    x_t = make_blobs(30, centers=[[0, 1], [1, 1]], cluster_std=0.3, random_state=1)[0]
    names = np.array(["cup", "bowl"])[y_s]

    def mixed(class_reg):
        fitted = OTDA(reg=0.5, class_reg=class_reg).fit(x_s, names, X_target=x_t)
        plan = fitted.transport_.coupling_
        # 10 rounds of Sinkhorn end on the target's side.
        np.testing.assert_allclose(plan.sum(0), 1 / 30, rtol=1e-5)
        share = np.stack([plan[y_s == c].sum(0) for c in (0, 1)])
        return np.minimum(*share).sum(), fitted

    with_term, fitted = mixed(0.5)
    assert with_term < 0.8 * mixed(0)[0]
    pot = ot.da.SinkhornLpl1Transport(reg_e=0.5, reg_cl=0.5, norm="median", max_inner_iter=1000)
    expected = pot.fit(Xs=x_s, ys=1 - y_s, Xt=x_t).transform(Xs=x_s)
    np.testing.assert_allclose(fitted.transform(x_s, np.ones(30)), expected, atol=1e-6)
    # With labels, new rows move as their nearest did.
    new = x_s[:1] + 1e-4
    np.testing.assert_allclose(fitted.transform(new, [1]), expected[:1] + 1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_plan_that_underflows_is_refused():
    x_s, x_t, y_s = domains()
    with pytest.raises(DomadaptError, match="Raise reg"):
        OTDA(reg=1e-5, class_reg=0.1, norm=None).fit(x_s, y_s, X_target=x_t)


def test_scale_does_not_matter_with_a_norm():
    x_s, x_t, _ = domains()
    mapped = OTDA().fit_transform(x_s, X_target=x_t)
    np.testing.assert_allclose(
        OTDA().fit_transform(1000 * x_s, X_target=1000 * x_t), 1000 * mapped, rtol=1e-6
    )


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [KMM(tol=1e-12), DiscriminatorWeights(C=1e6)], ids=lambda m: type(m).__name__
)
def test_two_values_have_the_ratio_of_their_shares(method):
    # 0 and 1 are 6 and 2 of 8 source rows, 1 and 3 of 4 target rows: 1/4 by 3/4, 3/4 by 1/4.
    x_s, x_t = np.repeat([[0.0], [1.0]], [6, 2], axis=0), np.array([[0.0], [1], [1], [1]])
    weights = method.fit(x_s, X_target=x_t).weights_
    np.testing.assert_allclose(weights, [1 / 3] * 6 + [3] * 2, rtol=1e-4)


@by_class(WEIGHTS)
def test_rows_are_left_alone_and_equal_domains_have_equal_weights(method):
    x_s, _, _ = domains()
    fitted = method().fit(x_s, X_target=x_s)
    np.testing.assert_array_equal(fitted.transform(x_s, np.ones(40)), x_s)
    np.testing.assert_allclose(fitted.weights_, 1, atol=1e-3)


@pytest.mark.parametrize(
    ("slack", "max_weight"), [(None, 1000.0), (0.0, 1000.0), (0.1, 1.5), (0.0, 3.0)]
)
def test_kmm_by_another_solver(slack, max_weight):
    rng = np.random.default_rng(0)
    x_s, x_t = rng.normal(size=(25, 2)), rng.normal(size=(40, 2)) * 0.5 + 0.8
    fitted = KMM(gamma=0.5, slack=slack, max_weight=max_weight, tol=1e-10).fit(x_s, X_target=x_t)
    k = naive_kernel(x_s, x_s, "rbf", 0.5)
    q = 25 / 40 * naive_kernel(x_s, x_t, "rbf", 0.5).sum(1)
    e = 4 / 5 if slack is None else slack

    def objective(w):
        return 0.5 * w @ k @ w - q @ w

    slsqp = scipy.optimize.minimize(
        objective,
        np.ones(25),
        jac=lambda w: k @ w - q,
        method="SLSQP",
        bounds=[(0, max_weight)] * 25,
        constraints=[
            {"type": "ineq", "fun": lambda w: 25 * (1 + e) - w.sum()},
            {"type": "ineq", "fun": lambda w: w.sum() - 25 * (1 - e)},
        ],
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    w = fitted.weights_
    assert w.min() >= 0
    assert w.max() <= max_weight + 1e-12
    assert abs(w.mean() - 1) <= e + 1e-9
    assert objective(w) == pytest.approx(slsqp.fun, rel=1e-6)
    assert objective(w) < objective(np.ones(25)) - 1e-3


@pytest.mark.parametrize("sums", [(3.0, 4.0), (20.0, 25.0), (5.0, 100.0), (8.0, 8.0)])
def test_projection_by_another_solver(sums):
    v = np.random.default_rng(0).normal(size=8) * 3
    w = project(v, 4.0, *sums)
    slsqp = scipy.optimize.minimize(
        lambda w: 0.5 * ((w - v) ** 2).sum(),
        np.ones(8),
        method="SLSQP",
        bounds=[(0, 4)] * 8,
        constraints=[
            {"type": "ineq", "fun": lambda w: sums[1] - w.sum()},
            {"type": "ineq", "fun": lambda w: w.sum() - sums[0]},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(w, slsqp.x, atol=1e-5)


def test_kmm_says_where_it_did_not_converge():
    x_s, x_t, _ = domains()
    with pytest.warns(UserWarning, match="raise one of them"):
        KMM(max_iter=1, tol=1e-12).fit(x_s, X_target=x_t)


def test_odds_are_the_ratio_of_gaussians_densities():
    rng = np.random.default_rng(0)
    x_s, x_t = rng.normal(size=(4000, 1)), rng.normal(size=(2000, 1)) + 1
    weights = DiscriminatorWeights().fit(x_s, X_target=x_t).weights_
    truth = np.exp(x_s[:, 0] - 0.5)  # N(1, 1) by N(0, 1)
    near = np.abs(x_s[:, 0]) < 1.5
    np.testing.assert_allclose(weights[near], truth[near], rtol=0.15)
    assert np.average(x_s[:, 0], weights=weights) == pytest.approx(1, abs=0.1)


@by_class(WEIGHTS)
def test_weights_mend_a_classifier_under_covariate_shift(method):
    # A line cannot follow |x|: which side it gets right depends on where the weight lies.
    rng = np.random.default_rng(0)
    x_s, x_t = rng.normal(size=(400, 1)) - 0.7, rng.normal(size=(400, 1)) * 0.6 + 1
    y_s, y_t = np.abs(x_s[:, 0]) > 1, np.abs(x_t[:, 0]) > 1
    weights = method().fit(x_s, X_target=x_t).weights_
    plain = LogisticRegression().fit(x_s, y_s).score(x_t, y_t)
    weighted = LogisticRegression().fit(x_s, y_s, sample_weight=weights).score(x_t, y_t)
    assert plain < 0.6
    assert weighted > 0.8


@by_class([Coral, LinearOT, OTDA])
def test_a_stretched_and_shifted_target_is_classified(method):
    x, y = make_blobs(240, centers=[[-2, 0], [2, 0], [0, 3]], cluster_std=0.5, random_state=0)
    x_s, y_s, x_t, y_t = x[:120], y[:120], x[120:] * [1.5, 0.6] + [6, 4], y[120:]
    plain = KNeighborsClassifier(1).fit(x_s, y_s).score(x_t, y_t)
    model = make_pipeline(method(), KNeighborsClassifier(1))
    model.fit(x_s, y_s, **{f"{method.__name__.lower()}__X_target": x_t})
    assert plain < 0.75
    assert model.score(x_t, y_t) > 0.9
