"""The scikit-learn front: its checks, the same bits as `adapt`, both ways through a search."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import sklearn
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from domadapt import DomainAdaptationClassifier, adapt, from_arrays
from domadapt.closed_form import Coral
from domadapt.data import from_texts
from domadapt.errors import DomadaptError
from domadapt.label_free import label_free_scorer, target_folds
from domadapt.network import Network
from domadapt.task import Task

FEW = {"steps": 25, "lr": 5e-3}
FIVE = {"steps": 5}


def domains(n_s=60, n_t=45, classes=3, seed=0):
    """Separable classes; the target is scaled and shifted."""
    rng = np.random.default_rng(seed)

    def draw(n, gain, shift):
        y = np.arange(n) % classes
        x = rng.normal(size=(n, 4))
        x[np.arange(n), y] += 4
        return gain * x + shift, y

    x_s, y_s = draw(n_s, 1.0, 0.0)
    x_t, y_t = draw(n_t, 1.3, 0.3)
    return x_s, y_s, x_t, y_t


def stacked(seed=0, placeholder=-1):
    """Shuffled rows of both domains with placeholders for labels, and the true target labels."""
    x_s, y_s, x_t, y_t = domains(seed=seed)
    order = np.random.default_rng(seed).permutation(len(x_s) + len(x_t))
    x = np.vstack([x_s, x_t])[order]
    y = np.concatenate([y_s, np.full(len(x_t), placeholder)])[order]
    d = np.repeat([1, -1], [len(x_s), len(x_t)])[order]
    return x, y, d, np.concatenate([y_s, y_t])[order]


# --- scikit-learn's own checks ------------------------------------------------------------------


class FifthClassifier(DomainAdaptationClassifier):
    """Told of no domains, takes every fifth row for a target row.

    The checks know no domains, without which `fit` refuses a method that needs a target.
    """

    def fit(self, X, y, *, sample_domain=None, X_target=None):
        if sample_domain is None and X_target is None:
            n = X.shape[0] if hasattr(X, "shape") else len(np.asarray(X))
            sample_domain = np.where(np.arange(n) % 5 == 4, -1, 1)
        return super().fit(X, y, sample_domain=sample_domain, X_target=X_target)


@parametrize_with_checks(
    [DomainAdaptationClassifier("source_only", training=FEW), FifthClassifier(training=FEW)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# --- one path with adapt ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dann+mcc", "source_only", "shot"])
def test_it_trains_the_very_network_that_adapt_trains(method):
    x_s, y_s, x_t, _ = domains()
    model = DomainAdaptationClassifier(method, training=FIVE, random_state=3)
    p = model.fit(x_s, y_s, X_target=x_t).predict_proba(x_t)
    task = Task(from_arrays(x_s, y_s), from_arrays(x_t), split_seed=3)
    network, report = adapt(task, "mlp", method, training=FIVE, seed=3, look=False, keep="adapted")
    with torch.no_grad():
        expected = network(torch.from_numpy(x_t).float()).softmax(1).numpy()
    np.testing.assert_array_equal(p, expected)
    held_out = report.candidates[-1].label_free["source_val_accuracy"]
    assert model.source_val_accuracy_ == held_out
    assert list(model.history_) == list(report.candidates[-1].history)


def test_several_positive_numbers_are_several_source_domains():
    x, y, d, _ = stacked()
    d = np.where((d > 0) & (x[:, 3] > 0), 7, d)
    model = DomainAdaptationClassifier("mdan", training=FIVE).fit(x, y, sample_domain=d)
    one, seven = (from_arrays(x[d == k], y[d == k], name=f"{k}") for k in (1, 7))
    network, _ = adapt(Task([one, seven], from_arrays(x[d < 0])), "mlp", "mdan", training=FIVE)
    with torch.no_grad():
        expected = network(torch.from_numpy(x).float()).softmax(1).numpy()
    np.testing.assert_array_equal(model.predict_proba(x), expected)


def test_stacked_rows_and_two_arrays_are_the_same_fit():
    x, y, d, _ = stacked()
    whole = DomainAdaptationClassifier(training=FIVE).fit(x, y, sample_domain=d)
    apart = DomainAdaptationClassifier(training=FIVE).fit(x[d > 0], y[d > 0], X_target=x[d < 0])
    np.testing.assert_array_equal(whole.predict_proba(x), apart.predict_proba(x))
    # A list of domains, and other numbers of the same signs, change nothing.
    again = DomainAdaptationClassifier(training=FIVE).fit(x, y, sample_domain=list(0.5 * d))
    np.testing.assert_array_equal(whole.predict_proba(x), again.predict_proba(x))


def test_it_adapts():
    x_s, y_s, x_t, y_t = domains(200, 200, seed=1)
    x_t = x_t @ np.diag([1, 1, -1, 1.0]) + [2, -2, 0, 1]
    before, after = (
        DomainAdaptationClassifier(m, training={"steps": 150}).fit(x_s, y_s, X_target=x_t)
        for m in ("source_only", "deep_coral")
    )
    assert after.score(x_t, y_t) > before.score(x_t, y_t) + 0.05


# --- labels -------------------------------------------------------------------------------------


class Untouchable:
    """A label that cannot be looked at."""

    def refuse(self, *_):
        raise AssertionError("a target label was looked at")

    __eq__ = __ne__ = __lt__ = __gt__ = __hash__ = __str__ = __repr__ = __float__ = refuse
    __bool__ = __int__ = refuse


def test_target_labels_are_never_looked_at():
    x, y, d, true = stacked()
    model = DomainAdaptationClassifier(training=FIVE).fit(x, y, sample_domain=d)
    expected = model.predict_proba(x)
    untouchable = np.array([v if k > 0 else Untouchable() for v, k in zip(y, d, strict=True)])
    missing = np.where(d > 0, y.astype(float), np.nan)
    none = np.array([v if k > 0 else None for v, k in zip(y, d, strict=True)], dtype=object)
    for labels in (true, untouchable, missing, none, pd.Series(none)):
        model = DomainAdaptationClassifier(training=FIVE).fit(x, labels, sample_domain=d)
        np.testing.assert_array_equal(model.predict_proba(x), expected)
    score = label_free_scorer()
    assert score(model, x, untouchable, sample_domain=d) == score(model, x, sample_domain=d)


@pytest.mark.parametrize(
    "names",
    [np.array(["9", "10", "b"]), np.array(["z", "y", "x"], dtype=object), np.array([2.5, 10, 9])],
)
def test_classes_are_sorted_as_scikit_learn_sorts_them(names):
    x_s, y_s, x_t, y_t = domains()
    model = DomainAdaptationClassifier(training=FEW)
    if names.dtype.kind == "f":
        with pytest.raises(ValueError, match="continuous"):
            model.fit(x_s, names[y_s], X_target=x_t)
        names = names.round() + 1
    model.fit(x_s, names[y_s], X_target=x_t)
    np.testing.assert_array_equal(model.classes_, np.unique(names))
    predicted = model.predict(x_t)
    assert (predicted == names[y_t]).mean() > 0.9
    np.testing.assert_array_equal(
        predicted, model.classes_[model.predict_proba(x_t).argmax(1)], strict=True
    )
    assert predicted.dtype == model.classes_.dtype


def test_score_is_the_accuracy_on_target_rows():
    x, y, d, true = stacked()
    model = DomainAdaptationClassifier(training=FIVE).fit(x, y, sample_domain=d)
    wrong = np.random.default_rng(1).random(len(x)) < 0.3
    true = np.where(wrong, (true + 1) % 3, true)
    right = model.predict(x) == true
    assert 0 < right[d < 0].mean() < 1
    assert model.score(x, true, sample_domain=d) == pytest.approx(right[d < 0].mean())
    assert model.score(x, true) == pytest.approx(right.mean())
    weight = np.random.default_rng(0).random(len(x))
    expected = np.average(right[d < 0], weights=weight[d < 0])
    assert model.score(x, true, weight, sample_domain=d) == pytest.approx(expected)
    with pytest.raises(DomadaptError, match=r"none of the rows.*-1.*label_free_scorer"):
        model.score(x, y, sample_domain=d)
    with pytest.raises(DomadaptError, match="none of the 60 rows has a negative sample_domain"):
        model.score(x[d > 0], y[d > 0], sample_domain=d[d > 0])


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample_domain": None}, "got neither.*source_only"),
        ({"X_target": np.ones((3, 4))}, "got both"),
        ({"sample_domain": np.zeros(105)}, "positive for source rows and negative"),
        ({"sample_domain": np.ones(104)}, "one number for each of the 105 rows"),
        ({"sample_domain": np.ones(105)}, "no target row"),
        ({"sample_domain": -np.ones(105)}, "no source row"),
        ({"y": np.full(105, 1)}, "one class"),
        ({"y": np.full(105, np.nan)}, "60 have none.*first is source row 0"),
        ({"y": None}, "requires y"),
        ({"training": {"seed": 1}}, "given as random_state"),
        ({"training": {"speed": 1}}, "no training setting 'speed'"),
        ({"settings": {"temprature": 1}}, "Did you mean 'temperature'"),
        ({"method": "mccc"}, "Did you mean 'mcc'"),
        ({"backbone": 3}, "backbone must be a name"),
        ({"device": "tpu"}, "device"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"kind": "image"}, "Inputs of kind 'image' must have shape"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(change, words):
    x, y, d, _ = stacked()
    fitted = {"y": y, "sample_domain": d, "X_target": None}
    fitted |= {k: change.pop(k) for k in list(change) if k in fitted}
    model = DomainAdaptationClassifier(**({"training": FIVE} | change))
    with pytest.raises(DomadaptError, match=f"(?s){words}"):
        model.fit(x, **fitted)


def test_a_method_without_target_may_do_without():
    x_s, y_s, x_t, _ = domains()
    alone = DomainAdaptationClassifier("source_only", training=FIVE).fit(x_s, y_s)
    told = DomainAdaptationClassifier("source_only", training=FIVE).fit(x_s, y_s, X_target=x_t)
    np.testing.assert_array_equal(alone.predict_proba(x_t), told.predict_proba(x_t))


# --- inputs -------------------------------------------------------------------------------------


def test_data_frames_and_sparse_rows():
    x_s, y_s, x_t, _ = domains()
    x_s, x_t = (np.where(x > 1, x, 0) for x in (x_s, x_t))
    model = DomainAdaptationClassifier(training=FIVE).fit(x_s, y_s, X_target=x_t)
    expected, top = model.predict_proba(x_t), model.predict(x_t)
    sparse = [scipy.sparse.csr_array(x) for x in (x_s, x_t)]
    model = DomainAdaptationClassifier(training=FIVE).fit(sparse[0], y_s, X_target=sparse[1])
    np.testing.assert_array_equal(model.predict_proba(sparse[1].tocoo()), expected)

    frame_s, frame_t = (pd.DataFrame(x, columns=list("abcd")) for x in (x_s, x_t))
    model.fit(frame_s, pd.Series(y_s), X_target=frame_t)
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(model.predict_proba(frame_t), expected)
    both = pd.concat([frame_s, frame_t])
    d = pd.Series(np.repeat([1, -1], [60, 45]))
    model.fit(both, np.concatenate([y_s, np.zeros(45, int)]), sample_domain=d)
    np.testing.assert_array_equal(model.predict_proba(frame_t), expected)
    assert model.score(both, np.repeat([9, 0], [60, 45]), sample_domain=d) == np.mean(top == 0)
    with pytest.raises(ValueError, match="feature names"):
        model.fit(frame_s, y_s, X_target=frame_t.rename(columns={"a": "z"}))


@pytest.mark.parametrize("last", [True, False])
def test_images(last):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.integers(0, 100, (40, 3, 8, 8), dtype=np.uint8)
    x[y == 1, :, :4] += 150
    x = np.moveaxis(x, 1, 3) if last else x
    model = DomainAdaptationClassifier(training=FEW, augment="none").fit(x, y, X_target=255 - x)
    assert model.n_features_in_ == 192
    assert isinstance(model.network_.backbone[0][0], nn.Conv2d)
    assert (model.predict(x) == y).all()
    with pytest.raises(DomadaptError, match=r"rows of shape \(3, 8, 8\)"):
        model.predict(np.zeros((2, 16, 16), np.uint8))


def test_series_and_frozen_backbone():
    x = np.random.default_rng(0).normal(size=(30, 2, 32))
    y = np.arange(30) % 2
    x[:, 0] += 3 * y[:, None]
    model = DomainAdaptationClassifier(training=FEW, freeze=True, bottleneck=16)
    model.fit(x, y, X_target=x + 0.1)
    assert model.predict_proba(x).shape == (30, 2)
    assert (model.predict(x + 0.1) == y).mean() > 0.8


@pytest.fixture
def reviews(tmp_path):
    """Texts of two domains, their labels, and the folder of an encoder."""
    pytest.importorskip("transformers")
    import tiny

    model = tiny.tiny_bert(tmp_path / "bert")
    x_s, y_s = tiny.texts("books", 40)
    x_t, y_t = tiny.texts("pans", 30, seed=1)
    return x_s, y_s, x_t, y_t, model


def test_texts(reviews):
    """Stacked, short, as a data frame's column, and after a pickle: the very network of `adapt`."""
    x_s, y_s, x_t, y_t, model = reviews
    how = {"steps": 6, "batch_size": 8}
    one = DomainAdaptationClassifier(backbone=model, training=how, max_length=12)
    short = one.fit(x_s, y_s, X_target=x_t)
    p = short.predict_proba(x_t)
    assert p.shape == (30, 2)
    assert list(short.classes_) == ["bad", "good"]
    d = np.repeat([1, -1], [40, 30])
    placeholders = np.array([*y_s, *["?"] * 30])
    both = clone(one).fit(pd.Series([*x_s, *x_t]), placeholders, sample_domain=d)
    np.testing.assert_allclose(both.predict_proba(pd.Series(x_t)), p, atol=1e-6)
    again = pickle.loads(pickle.dumps(short))
    np.testing.assert_array_equal(again.predict(np.array(x_t)), short.predict(x_t))
    assert short.score([*x_s, *x_t], [*y_s, *y_t], sample_domain=d) == pytest.approx(
        (short.predict(x_t) == np.array(y_t)).mean()
    )
    # What it says of a text does not hang on the others.
    np.testing.assert_allclose(short.predict_proba(x_t[3:4]), p[3:4], atol=1e-5)
    task = Task(from_texts(x_s, y_s), from_texts(x_t))
    network, _ = adapt(task, model, "mcc", training=how, look=False, keep="adapted", max_length=12)
    ours = short.network_.state_dict()
    for name, value in network.state_dict().items():
        if name in ours:
            torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
    assert {n.split(".")[0] for n in ours} >= {"backbone", "head"}


def test_a_search_over_texts(reviews):
    x_s, y_s, x_t, _, model = reviews
    d = np.repeat([1, -1], [40, 30])
    search = GridSearchCV(
        DomainAdaptationClassifier(backbone=model, training={"steps": 2, "batch_size": 8}),
        {"pooling": ["mean", "first"]},
        scoring=label_free_scorer(),
        cv=target_folds(d, 2),
    )
    search.fit(np.array([*x_s, *x_t]), np.array([*y_s, *["?"] * 30]), sample_domain=d)
    assert search.best_estimator_.predict(x_t).shape == (30,)


def test_texts_and_numbers_do_not_mix(reviews):
    x_s, y_s, x_t, _, model = reviews
    numbers = np.zeros((30, 4))
    fresh = DomainAdaptationClassifier(backbone=model, training={"steps": 1, "batch_size": 8})
    with pytest.raises(DomadaptError, match="are texts, and these are none"):
        fresh.fit(x_s, y_s, X_target=numbers)
    with pytest.raises(DomadaptError, match="are texts, and these are none"):
        fresh.fit(x_s, y_s, X_target=x_t).predict(numbers)
    with pytest.raises(DomadaptError, match="kind='image'"):
        clone(fresh).set_params(kind="image").fit(x_s, y_s, X_target=x_t)
    with pytest.raises(DomadaptError, match="hf:"):
        DomainAdaptationClassifier(training=FIVE).fit(x_s, y_s, X_target=x_t)
    rows, labels, _, _ = domains()
    with pytest.raises(DomadaptError, match="are numbers, and these are texts"):
        DomainAdaptationClassifier(training=FIVE).fit(rows, labels, X_target=rows).predict(x_t)


def test_modules_as_backbone_are_copied():
    x_s, y_s, x_t, y_t = domains()
    module = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU())
    network = Network(module, nn.Linear(16, 3))
    for given in (module, network):
        before = pickle.dumps({k: v.clone() for k, v in given.state_dict().items()})
        model = DomainAdaptationClassifier(backbone=given, training=FEW | {"lr": 0.02})
        assert model.get_params()["backbone"] is given
        assert model.fit(x_s, y_s, X_target=x_t).score(x_t, y_t) > 0.9
        after = pickle.loads(before)
        assert all(torch.equal(v, after[k]) for k, v in given.state_dict().items())
        assert isinstance(clone(model).backbone, type(given))


# --- an estimator among others ------------------------------------------------------------------


def test_clone_and_pickle():
    x_s, y_s, x_t, _ = domains()
    settings = {"temperature": 2.0}
    model = DomainAdaptationClassifier(settings=settings, training=FIVE).fit(x_s, y_s, X_target=x_t)
    assert model.get_params()["settings"] is settings
    p = model.predict_proba(x_t)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x_t), p)
    fresh = clone(model)
    assert not hasattr(fresh, "network_")
    np.testing.assert_array_equal(fresh.fit(x_s, y_s, X_target=x_t).predict_proba(x_t), p)


def test_seeds_and_global_random_state():
    x_s, y_s, x_t, _ = domains()
    torch.manual_seed(5)
    expected = torch.rand(3)

    def p(random_state):
        torch.manual_seed(5)
        model = DomainAdaptationClassifier(training=FIVE, random_state=random_state)
        model.fit(x_s, y_s, X_target=x_t)
        assert torch.equal(torch.rand(3), expected)
        return model.predict_proba(x_t)

    assert (p(1) == p(1)).all()
    assert (p(1) != p(2)).any()
    assert (p(None) != p(None)).any()
    assert (p(np.random.RandomState(1)) == p(np.random.RandomState(1))).all()


def test_verbose_and_doubts_are_told(capsys):
    x_s, y_s, x_t, _ = domains()
    model = DomainAdaptationClassifier(training=FIVE, verbose=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(x_s, y_s, X_target=x_t)
    assert "mcc 5/5" in capsys.readouterr().err
    said = [str(w.message) for w in told if str(w.message).startswith("mcc: ")]
    assert said == [f"mcc: {sentence}" for sentence in model.warnings_]


# --- searches -----------------------------------------------------------------------------------


def mutual_information(p):
    """``H(mean p) - mean H(p)``, by SciPy."""
    return scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=1).mean()


def test_importing_turned_on_no_routing():
    assert sklearn.get_config()["enable_metadata_routing"] is False


def test_target_folds_score_each_target_row_once():
    d = np.array([1, -1, -1, 2, -3, 1, -1, -1])
    folds = target_folds(d, 2)
    assert sorted(np.concatenate([test for _, test in folds])) == [1, 2, 4, 6, 7]
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(8))
        assert {0, 3, 5} <= set(train)
    [(train, test)] = target_folds(d, 1)
    assert list(train) == list(range(8))
    assert list(test) == [1, 2, 4, 6, 7]
    assert [t.tolist() for _, t in target_folds(d, 2)] == [t.tolist() for _, t in folds]
    for n in (0, 6):
        with pytest.raises(DomadaptError, match="number of target rows, 5"):
            target_folds(d, n)


def pipeline():
    return make_pipeline(StandardScaler(), Coral(), DomainAdaptationClassifier(training=FIVE))


GRID = {"domainadaptationclassifier__method": ["source_only", "mcc"]}


def test_a_search_without_routing():
    x, y, d, _ = stacked()
    model, folds = pipeline(), target_folds(d, 2)
    told = {"coral__sample_domain": d, "domainadaptationclassifier__sample_domain": d}
    search = GridSearchCV(model, GRID, scoring=label_free_scorer(), cv=folds, error_score="raise")
    search.fit(x, y, **told)
    expected = []
    for method in ("source_only", "mcc"):
        scores = []
        for train, test in folds:
            scaler = StandardScaler().fit(x[train])
            coral = Coral()
            z = coral.fit_transform(scaler.transform(x[train]), sample_domain=d[train])
            final = DomainAdaptationClassifier(method, training=FIVE)
            final.fit(z, y[train], sample_domain=d[train])
            z_t = coral.transform(scaler.transform(x[test]))
            scores.append(mutual_information(final.predict_proba(z_t).astype(np.float64)))
        expected.append(np.mean(scores))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-5)
    assert search.best_index_ == np.argmax(expected)
    assert search.predict(x[d < 0]).shape == (45,)


def test_a_search_with_routing():
    x, y, d, _ = stacked()
    cv = KFold(2, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        coral = Coral().set_fit_request(sample_domain=True)
        coral.set_transform_request(sample_domain=True)
        model = make_pipeline(StandardScaler(), coral, DomainAdaptationClassifier(training=FIVE))
        search = GridSearchCV(
            model, GRID, scoring=label_free_scorer("entropy"), cv=cv, error_score="raise"
        )
        search.fit(x, y, sample_domain=d)
        scores = cross_val_score(
            DomainAdaptationClassifier(training=FIVE),
            x,
            np.where(d > 0, y, stacked()[3]),
            cv=cv,
            params={"sample_domain": d},
            error_score="raise",
        )
    expected, accuracies = [], []
    for method in ("source_only", "mcc"):
        fold_scores = []
        for train, test in cv.split(x):
            scaler = StandardScaler().fit(x[train])
            coral = Coral()
            z = coral.fit_transform(scaler.transform(x[train]), sample_domain=d[train])
            final = DomainAdaptationClassifier(method, training=FIVE)
            final.fit(z, y[train], sample_domain=d[train])
            test_t = test[d[test] < 0]
            p = final.predict_proba(coral.transform(scaler.transform(x[test_t])))
            fold_scores.append(-scipy.stats.entropy(p.astype(np.float64), axis=1).mean())
        expected.append(np.mean(fold_scores))
    for train, test in cv.split(x):
        plain = DomainAdaptationClassifier(training=FIVE)
        plain.fit(x[train], y[train], sample_domain=d[train])
        test_t = test[d[test] < 0]
        accuracies.append((plain.predict(x[test_t]) == stacked()[3][test_t]).mean())
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-5)
    np.testing.assert_allclose(scores, accuracies)


class Says:
    """A classifier that says these probabilities, row by row."""

    def __init__(self, p):
        self.p = np.asarray(p)

    def predict_proba(self, X):
        return self.p[np.asarray(X)[:, 0].astype(int)]


def test_label_free_scores_by_hand():
    # One row certain of each class, one undecided.
    says, x = Says([[1, 0], [0, 1], [0.5, 0.5], [1, 0]]), np.arange(4)[:, None]
    d = np.array([-1, -1, -1, 1])
    log2 = np.log(2)
    assert label_free_scorer()(says, x, sample_domain=d) == pytest.approx(log2 - log2 / 3)
    assert label_free_scorer("entropy")(says, x, sample_domain=d) == pytest.approx(-log2 / 3)
    assert label_free_scorer("effective_classes")(says, x, sample_domain=d) == pytest.approx(2)
    assert label_free_scorer("entropy")(says, x) == pytest.approx(-log2 / 4)
    with pytest.raises(DomadaptError, match="kept by a fitted DomainAdaptationClassifier"):
        label_free_scorer("source_val_accuracy")(says, x)
    with pytest.raises(DomadaptError, match="Did you mean 'entropy'"):
        label_free_scorer("entropie")
    with pytest.raises(DomadaptError, match="negative sample_domain"):
        label_free_scorer()(says, x, sample_domain=np.ones(4))


def test_the_scorer_serves_other_classifiers_and_pipelines():
    x, y, d, _ = stacked()
    model = make_pipeline(Coral(), LogisticRegression())
    # A logistic regression knows no domains: it is fitted on the mapped source alone.
    model.fit(x[d > 0], y[d > 0], coral__X_target=x[d < 0])
    p = model.predict_proba(x[d < 0])
    got = label_free_scorer()(model, x, sample_domain=d)
    assert got == pytest.approx(mutual_information(p), rel=1e-9)
    own = make_pipeline(StandardScaler(), DomainAdaptationClassifier(training=FIVE))
    own.fit(x, y, domainadaptationclassifier__sample_domain=d)
    assert label_free_scorer("source_val_accuracy")(own, x) == own[-1].source_val_accuracy_
