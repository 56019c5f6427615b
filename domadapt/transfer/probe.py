"""What a simple classifier of the features achieves on samples that it has not seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from domadapt.errors import DomadaptError
from domadapt.transfer.logme import measurements
from domadapt.transfer.spectrum import class_ids, feature_array

#: Strength of the probe's L2 penalty: ``1/2 |w|^2 + C sum of losses``, features of mean square 1/d.
PENALTY_C = 30.0
RIDGE = 1e-2
ITERATIONS = 200


@dataclass(frozen=True)
class Probe:
    """Accuracy (of a regression: R²) of a linear probe on held-out folds.

    Attributes:
        mean: over the folds.
        std: standard deviation over the folds, of which the training parts overlap: a measure of
            how much the value depends on the samples, not a confidence interval.
        folds: the value of each.
    """

    mean: float
    std: float
    folds: tuple[float, ...]


def linear_probe(
    features: Any,
    y: Any,
    *,
    folds: int = 5,
    groups: Any = None,
    regression: bool = False,
    seed: int = 0,
) -> Probe:
    """Cross-validated accuracy of a logistic regression of the features (of a ridge: R²).

    Each fold standardises the features by its training part, divides them by ``sqrt(d)``, and fits
    a multinomial logistic regression with an L2 penalty of fixed strength; measurements take ridge
    regression, their R² averaged over the columns. Linear separability as an indicator of
    transferability: (Li et al., 2021, arXiv:2011.11200).

    Range: accuracy in [0, 1], R² at most 1, larger is better.
    Cost: `folds` fits, each tens of passes over ``n d classes``.
    Blind to: what fine-tuning changes, and the target domain; the penalty is not tuned per model.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``; with `regression` numbers ``(n,)`` or ``(n, c)``.
        folds: how many; classes keep their shares in each.
        groups: who or what a sample comes from ``(n,)``; a group is never in two folds.
        regression: whether labels are measurements.
        seed: of the division into folds.

    Raises:
        DomadaptError: too few samples or groups, of a class or in all, for the folds.
    """
    f = feature_array(features)
    n = len(f)
    if folds < 2:
        raise DomadaptError(f"A cross-validated probe needs at least 2 folds; got {folds}.")
    if regression:
        values = measurements(y, n)
        ids = np.zeros(n, dtype=np.int64)
    else:
        ids, counts = class_ids(y, n)
        if counts.min() < 2:
            raise DomadaptError(
                f"A probe needs at least 2 samples of each class; a class has {counts.min()}. "
                "Give more samples of it, or leave it out."
            )
    results = []
    for train, test in _folds(n, ids, groups, folds, regression, seed):
        train_f, test_f = _scaled(f[train], f[test])
        if regression:
            results.append(_ridge(train_f, values[train], test_f, values[test]))
        else:
            results.append(_logistic(train_f, ids[train], test_f, ids[test]))
    return Probe(float(np.mean(results)), float(np.std(results, ddof=1)), tuple(results))


def held_out_probe(
    features: Any, y: Any, test_features: Any, truth: Any, *, regression: bool = False
) -> float:
    """Accuracy (of measurements: R²) of the probe of `linear_probe` on samples that are held out.

    It is the same probe, fitted once. Of classes that `y` lacks it predicts none.

    Args:
        features: ``(n, d)``. y: classes ``(n,)``, or measurements ``(n, c)``.
        test_features: ``(m, d)``. truth: their classes or measurements.
        regression: whether labels are measurements.

    Raises:
        DomadaptError: all features are equal, or there is a single class.
    """
    f, g = feature_array(features), feature_array(test_features)
    train, test = _scaled(f, g)
    if regression:
        return _ridge(train, measurements(y, len(f)), test, measurements(truth, len(g)))
    ids, wanted = np.asarray(y), np.asarray(truth)
    if len(np.unique(ids)) < 2:
        raise DomadaptError("A probe needs samples of at least 2 classes; there is one.")
    return _logistic(train, ids, test, wanted)


def _folds(
    n: int, ids: np.ndarray, groups: Any, folds: int, regression: bool, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    whose = None if groups is None else np.asarray([str(g) for g in groups])
    if whose is not None and len(whose) != n:
        raise DomadaptError(f"groups must name one per sample, {n} in all; got {len(whose)}.")
    enough = n if whose is None else len(np.unique(whose))
    if enough < folds:
        what = "samples" if whose is None else "groups"
        raise DomadaptError(
            f"{folds} folds need at least {folds} {what}; there are {enough}. Ask for fewer folds."
        )
    shuffled = {"n_splits": folds, "shuffle": True, "random_state": seed}
    if whose is None:
        splitter = KFold(**shuffled) if regression else StratifiedKFold(**shuffled)
    else:
        splitter = GroupKFold(**shuffled) if regression else StratifiedGroupKFold(**shuffled)
    with warnings.catch_warnings():
        # A class of fewer samples than folds is missing from some of them, which harms nothing.
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(splitter.split(np.zeros((n, 1)), ids, whose))
    if not regression and any(len(np.unique(ids[train])) < 2 for train, _ in parts):
        raise DomadaptError(
            "A fold is left with a single class to learn from, as groups hold whole classes; give "
            "more groups, or none."
        )
    return parts


def _scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both standardised by `train` and divided by sqrt(d), in at most n dimensions."""
    mean, std = train.mean(0), train.std(0)
    # What never varies says nothing, and has no scale.
    alive = std > 1e-9 * np.maximum(np.abs(train).max(0), 1e-30)
    if not alive.any():
        raise DomadaptError(
            "The features of all samples are equal; a model that maps everything to one point "
            "cannot be probed."
        )
    scale = std[alive] * np.sqrt(alive.sum())
    train, test = (train[:, alive] - mean[alive]) / scale, (test[:, alive] - mean[alive]) / scale
    if train.shape[1] > len(train):
        # A penalised linear model of more features than samples lies in the samples' span.
        basis = np.linalg.qr(train.T)[0]
        train, test = train @ basis, test @ basis
    return train, test


def _logistic(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=PENALTY_C, max_iter=ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        # Its accuracy has settled long before its weights.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, y)
    return float((model.predict(test) == truth).mean())


def _ridge(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    middle = y.mean(0)
    gram = train.T @ train
    gram.flat[:: len(gram) + 1] += RIDGE * len(train) / train.shape[1]
    predicted = test @ np.linalg.solve(gram, train.T @ (y - middle)) + middle
    # Against the training part's mean, which is what a model without features would answer.
    total = np.square(truth - middle).sum(0)
    missed = np.square(truth - predicted).sum(0)
    return float(np.mean(1 - missed / np.where(total > 0, total, np.inf)))


def nearest_neighbours(features: Any, y: Any, *, k: int = 5) -> float:
    """Accuracy of the vote of the k nearest other samples (leave-one-out, Euclidean), in [0, 1].

    Of classes with equal votes the one of the nearest neighbour wins.

    Such a vote did better than 23 scores over 16 data sets: (Sorkhei et al., 2025,
    arXiv:2503.18528).
    Cost: ``n^2 d``, in blocks of rows.
    Blind to: the scale of single features counts, since none is standardised; samples of one group
    or near-duplicates help each other.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
        k: how many neighbours vote.
    """
    f = feature_array(features)
    ids, counts = class_ids(y, len(f))
    if not 1 <= k < len(f):
        raise DomadaptError(
            f"The number of neighbours must lie between 1 and the number of other samples, "
            f"{len(f) - 1}; got {k}."
        )
    f = f - f.mean(0)
    squares = np.square(f).sum(1)
    right = 0
    for start in range(0, len(f), 512):
        rows = np.arange(start, min(start + 512, len(f)))
        distance = squares - 2 * (f[rows] @ f.T)
        distance[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(distance, near, 1).argsort(1, kind="stable")
        voters = ids[np.take_along_axis(near, order, 1)]
        votes = np.zeros((len(rows), len(counts)))
        np.add.at(votes, (np.arange(len(rows))[:, None], voters), 1.0)
        # Less than one vote for the nearest of those that share the most.
        np.add.at(
            votes, (np.arange(len(rows))[:, None], voters), 0.5 ** np.arange(1, k + 1) / (k + 1)
        )
        right += int((votes.argmax(1) == ids[rows]).sum())
    return right / len(f)
