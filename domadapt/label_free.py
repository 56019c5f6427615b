"""Scores and folds for searches of scikit-learn that read no target label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import MetadataRequest

from domadapt.closed_form.base import which
from domadapt.errors import DomadaptError, unknown
from domadapt.evaluation import Outputs
from domadapt.selection import scores

#: Scores of the target's predictions, with the sign that makes larger better.
_OF_TARGET = {
    "information_maximisation": (scores.information_maximisation, 1.0),
    "entropy": (scores.entropy, -1.0),
    "effective_classes": (scores.effective_classes, 1.0),
}


_OF_SOURCE = "source_val_accuracy"


class LabelFreeScorer:
    """A scorer for scikit-learn's searches that reads no target label; see `label_free_scorer`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, sample_domain: Any = None
    ) -> float:
        """Score a fitted classifier; ``y`` is not looked at.

        Args:
            estimator: a classifier with `predict_proba`, or a pipeline that ends in one.
            X: rows ``(n, ...)``. y: ignored.
            sample_domain: ``(n,)``, negative for the target rows, which are scored; None: all are.
        """
        if self.name == _OF_SOURCE:
            last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
            if not hasattr(last, "source_val_accuracy_"):
                raise DomadaptError(
                    f"{_OF_SOURCE} is kept by a fitted DomainAdaptationClassifier; got "
                    f"{type(last).__name__}. Choose another score: {', '.join(_OF_TARGET)}."
                )
            return float(last.source_val_accuracy_)
        x = sliceable(X)
        if sample_domain is not None:
            x = x[target_rows(sample_domain, x)]
        p = np.asarray(estimator.predict_proba(x), dtype=np.float64)
        # The logarithm of probabilities is one set of their logits; that of 0 is cut off.
        logits = torch.from_numpy(np.log(np.maximum(p, np.finfo(np.float64).tiny)))
        score, sign = _OF_TARGET[self.name]
        return sign * score(Outputs(logits, torch.zeros(len(p), 0)))

    def __repr__(self) -> str:
        return f"label_free_scorer({self.name!r})"

    def get_metadata_routing(self) -> MetadataRequest:
        """With metadata routing it asks for ``sample_domain``."""
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_domain", alias=True)
        return request


def label_free_scorer(name: str = "information_maximisation") -> LabelFreeScorer:
    """A scorer for ``scoring=``, larger is better, that reads no target label.

    It serves any classifier with `predict_proba`, such as a logistic regression after a
    transformer of `domadapt.closed_form`. The scores are those of `domadapt.selection.scores`
    on the predictions for the rows that are scored, which must be target rows (`target_folds`), or
    told apart by ``sample_domain`` (metadata routing).

    Args:
        name: "information_maximisation"; "entropy", the *negative* mean entropy, which a collapsed
            model maximises; "effective_classes"; or "source_val_accuracy", the accuracy on the
            source rows that `DomainAdaptationClassifier` held out, whatever is scored.

    Raises:
        DomadaptError: no such score.
    """
    if name not in (*_OF_TARGET, _OF_SOURCE):
        raise unknown("label-free score", name, [*_OF_TARGET, _OF_SOURCE])
    return LabelFreeScorer(name)


def target_folds(
    sample_domain: Any, n_splits: int = 3, *, random_state: int | None = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits for ``cv=`` whose scored rows are target rows only.

    Each fold trains on all source rows and the other folds' target rows. With ``n_splits=1`` there
    is one split, which trains with all rows and scores all target rows: the transductive way, at
    the cost of one training per candidate; without labels there is nothing to learn by heart.

    Args:
        sample_domain: ``(n,)`` numbers, positive for a source row, negative for a target row.
        n_splits: how many splits.
        random_state: seed of the division of the target rows.

    Returns:
        For each split the rows to train on and the rows to score, both ascending.

    Raises:
        DomadaptError: a domain of 0, or fewer target rows than splits.
    """
    source = which(sample_domain, np.asarray(sample_domain))
    target = np.flatnonzero(~source)
    if not 1 <= n_splits <= len(target):
        raise DomadaptError(
            f"n_splits must lie between 1 and the number of target rows, {len(target)}; got "
            f"{n_splits}."
        )
    if n_splits == 1:
        return [(np.arange(len(source)), target)]
    parts = np.array_split(check_random_state(random_state).permutation(target), n_splits)
    everything = np.arange(len(source))
    return [(np.setdiff1d(everything, part), np.sort(part)) for part in parts]


def sliceable(x: Any) -> Any:
    """Rows that can be chosen by an index array."""
    texts = texts_of(x)
    if texts is not None:
        return texts
    return x if hasattr(x, "shape") else np.asarray(x)


def texts_of(x: Any) -> np.ndarray | None:
    """A sequence of strings as an array ``(n,)``; None where it is something else."""
    if getattr(x, "ndim", 1) != 1 or not hasattr(x, "__len__") or isinstance(x, str):
        return None
    if len(x) == 0 or not all(isinstance(one, str) for one in x):
        return None
    # Each string is an object of its own, however long the longest is.
    texts = np.empty(len(x), dtype=object)
    texts[:] = list(x)
    return texts


def target_rows(sample_domain: Any, x: Any) -> np.ndarray:
    """Which rows ``(n,)`` are of the target; one at least must be."""
    rows = ~which(sample_domain, x)
    if not rows.any():
        raise DomadaptError(
            f"Only target rows are scored, and none of the {len(rows)} rows has a negative "
            "sample_domain. Give some, for example by folds of target_folds."
        )
    return rows
