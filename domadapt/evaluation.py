"""What a network says of a split (`Outputs`), metrics of it, and measures of domain shift."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.regression import ValueScores, drawn_pairs, fifths, known, pairs, score_values
from domadapt.task import Task

#: Samples per domain that `proxy_a_distance` and `mmd` look at, at most.
MAX_A_DISTANCE = 2_000
MAX_MMD = 1_000


@dataclass(frozen=True)
class Outputs:
    """What a network says of one split.

    Attributes:
        logits: ``(n, classes)``, or, of a regression, values ``(n, k)``; float32, on the CPU.
        z: features ``(m, d)``, float32, of the first samples of the split or of the subsample
            `rows` of them.
        y: class ids ``(n,)`` where they are allowed to be known (source splits), else None.
        rows: which rows of `logits` the features belong to; None means all.
    """

    logits: Tensor
    z: Tensor
    y: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """How well a network did on labelled samples; all shares lie in [0, 1].

    Attributes:
        accuracy: share of samples whose largest logit is their class.
        macro_f1: mean F1 over the classes that occur as a label or as a prediction.
        per_class_mean: mean recall over the classes that occur as a label.
        auroc: area under the ROC curve: of the second class where there are two, else the mean of
            one class against the rest; None where only one class occurs.
        n: how many samples were scored.
        per_class: recall of each class, None for one that does not occur.
        confusion: counts, one row per true class and one column per predicted class.
        known_accuracy: where the last class is "unknown": accuracy on the samples of the others.
        unknown_accuracy: share of the samples of unknown class that are recognised as such.
        h_score: harmonic mean of these two, ``2 k u / (k + u)``; 0 where one of them is 0. Source:
            Fu et al. (2020), "Learning to Detect Open Classes for Universal Domain Adaptation",
            with accuracies over samples. OVANet (arXiv:2104.03344) takes for k the mean recall of
            the known classes. Like both accuracies, None where no sample is of the kind, and where
            no class is "unknown".
    """

    accuracy: float
    macro_f1: float
    per_class_mean: float
    auroc: float | None
    n: int
    per_class: list[float | None]
    confusion: list[list[int]]
    known_accuracy: float | None = None
    unknown_accuracy: float | None = None
    h_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it; open-set scores only where defined."""
        found = dataclasses.asdict(self)
        return {k: v for k, v in found.items() if v is not None or k not in OPEN_SET_METRICS}


#: Scores of a model with the output "unknown".
OPEN_SET_METRICS = ("known_accuracy", "unknown_accuracy", "h_score")

Values = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int]


def probabilities(values: Values) -> np.ndarray:
    """Class probabilities ``(n, classes)`` in float64 of logits or of probabilities.

    Rows that are all non-negative and sum to 1 are taken as probabilities and returned as they
    are; anything else goes through the softmax.
    """
    p = torch.as_tensor(values).detach().cpu().double()
    given = bool((p >= 0).all()) and torch.allclose(p.sum(1), torch.ones(len(p)).double(), 0, 1e-4)
    result: np.ndarray = (p if given else p.softmax(1)).numpy()
    return result


def _scored(
    values: Values, y: Labels, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities, predicted ids, true ids) of the rows that have a label."""
    shape, labels = tuple(values.shape), np.asarray(y, dtype=np.int64)
    if len(shape) != 2 or shape[1] != len(class_names) or labels.shape != shape[:1]:
        raise DomadaptError(
            f"Scoring needs one row of {len(class_names)} logits (one per class) and one class id "
            f"per sample; got logits of shape {shape} and labels of shape {labels.shape}."
        )
    if labels.size and (labels.min() < -1 or labels.max() >= len(class_names)):
        raise DomadaptError(
            f"Class ids must lie between 0 and {len(class_names) - 1}, or be -1 for a sample that "
            f"is not scored; got {labels.min()} to {labels.max()}."
        )
    kept = labels >= 0
    if not kept.any():
        raise DomadaptError(
            "Scoring needs at least one labelled sample; none of the samples has a label."
        )
    raw = torch.as_tensor(values).detach().cpu()
    if not bool(torch.isfinite(raw).all()):
        raise DomadaptError(
            "Scoring needs finite logits; some are NaN or infinite. The training diverged: "
            "lower the learning rate."
        )
    predicted = raw.argmax(1).numpy()
    return probabilities(values)[kept], predicted[kept], labels[kept]


def confusion(values: Values, y: Labels, class_names: Sequence[str]) -> list[list[int]]:
    """Counts ``[true][predicted]`` over the samples with a label (``y >= 0``)."""
    _, predicted, true = _scored(values, y, class_names)
    k = len(class_names)
    counts: list[list[int]] = (
        np.bincount(true * k + predicted, minlength=k * k).reshape(k, k).tolist()
    )
    return counts


def per_class(values: Values, y: Labels, class_names: Sequence[str]) -> list[float | None]:
    """Recall of each class: right / labelled. None for a class that no label names."""
    counts = np.array(confusion(values, y, class_names))
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(counts)]


def _auroc(p: np.ndarray, true: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    if len(np.unique(true)) < 2:
        return None
    if p.shape[1] == 2:
        return float(roc_auc_score(true, p[:, 1]))
    return float(np.mean([roc_auc_score(true == c, p[:, c]) for c in np.unique(true)]))


def _open_set(predicted: np.ndarray, true: np.ndarray, unknown: int) -> dict[str, float | None]:
    """The `OPEN_SET_METRICS` of ids, of which `unknown` stands for all unknown classes."""

    def share(of: np.ndarray) -> float | None:
        return float((predicted == true)[of].mean()) if of.any() else None

    k, u = share(true != unknown), share(true == unknown)
    h = None
    if k is not None and u is not None:
        h = 2 * k * u / (k + u) if k + u else 0.0
    return {"known_accuracy": k, "unknown_accuracy": u, "h_score": h}


def score(
    values: Values, y: Labels, class_names: Sequence[str], *, open_set: bool = False
) -> Scores:
    """All metrics of logits or probabilities ``(n, classes)`` against class ids ``(n,)``.

    Samples with ``y == -1`` are not scored. With `open_set` the last class is "unknown", and
    ``per_class_mean`` is what papers call OS: the mean recall of the classes and of unknown.

    Raises:
        DomadaptError: the shapes do not fit the classes, an id is out of range, a logit is not
            finite, or no sample has a label.
    """
    from sklearn.metrics import f1_score

    p, predicted, true = _scored(values, y, class_names)
    recall = per_class(values, y, class_names)
    return Scores(
        accuracy=float((predicted == true).mean()),
        macro_f1=float(f1_score(true, predicted, average="macro", zero_division=0)),
        per_class_mean=float(np.mean([r for r in recall if r is not None])),
        auroc=_auroc(p, true),
        n=len(true),
        per_class=recall,
        confusion=confusion(values, y, class_names),
        **(_open_set(predicted, true, len(class_names) - 1) if open_set else {}),
    )


def metrics(values: Values, y: Labels, class_names: Sequence[str]) -> dict[str, float]:
    """``accuracy``, ``macro_f1``, ``per_class_mean`` and ``auroc``, defined as in `Scores`.

    ``auroc`` is left out where it is undefined (labels of one class only).
    """
    s = score(values, y, class_names)
    found = {"accuracy": s.accuracy, "macro_f1": s.macro_f1, "per_class_mean": s.per_class_mean}
    return found if s.auroc is None else {**found, "auroc": s.auroc}


def evaluate(task: Task, outputs: Outputs) -> Scores | ValueScores | None:
    """Score a network's `outputs` on ``task.target_test``; None where that has no labels.

    The only place that reads target labels without `oracle` in its name.
    """
    labels = task._labels_for_evaluate()
    if labels is None:
        return None
    if task.regression:
        return score_values(outputs.logits, labels, task.class_names)
    return score(outputs.logits, labels, task.output_names, open_set=task.open_set)


def gain_interval(
    task: Task, before: Values, after: Values, z: float = 1.96
) -> tuple[float, float] | None:
    """A 95 % interval of the accuracy gained on ``task.target_test``, None without labels.

    Paired: with ``d_i`` the difference in correctness (-1, 0, 1) of sample i, the interval is
    ``mean d +- z sd(d) / sqrt(n)``, the normal approximation of McNemar's comparison. It speaks of
    the sampling of the test set, not of the seed of training. In a regression ``d_i`` is by how
    much the absolute error became smaller, the mean of the outputs.

    Args:
        task: its test labels are read.
        before, after: logits or probabilities ``(n, classes)`` of both models; values ``(n, k)``.
    """
    labels = task._labels_for_evaluate()
    if labels is None:
        return None
    if task.regression:
        errors = [np.abs(np.subtract(*pairs(v, labels))).mean(1) for v in (before, after)]
        gained = errors[0] - errors[1]
    else:
        scored = labels >= 0
        right = [probabilities(v).argmax(1)[scored] == labels[scored] for v in (before, after)]
        gained = right[1].astype(float) - right[0].astype(float)
    half = z * float(gained.std()) / float(np.sqrt(len(gained)))
    return float(gained.mean()) - half, float(gained.mean()) + half


def labels_for_plot(task: Task, rows: Sequence[int]) -> list[int | None] | None:
    """The true class ids of some rows of ``task.target_test``, to colour a plot by.

    None where the task has no test labels; None within for a sample that is not scored. In a
    regression, which fifth of the source's values each lies in.
    """
    labels = task._labels_for_evaluate()
    if labels is None:
        return None
    if task.regression:
        labels = np.where(known(labels), fifths(_reference(task), labels), -1)
    return [int(labels[i]) if labels[i] >= 0 else None for i in rows]


def pairs_for_plot(
    task: Task, outputs: Outputs, seed: int = 0
) -> dict[str, list[list[float]]] | None:
    """Predicted and true values of some labelled samples of ``task.target_test``; None without."""
    labels = task._labels_for_evaluate()
    return None if labels is None else drawn_pairs(outputs.logits, labels, seed)


def in_fifths(task: Task, outputs: Outputs) -> Outputs:
    """The outputs of a regression as classes, to colour a plot by: fifths of source values."""
    predicted = torch.from_numpy(fifths(_reference(task), outputs.logits.numpy()))
    y = outputs.y
    return dataclasses.replace(
        outputs,
        logits=torch.nn.functional.one_hot(predicted, 5).float(),
        y=None if y is None else torch.from_numpy(fifths(_reference(task), y.numpy())),
    )


def _reference(task: Task) -> np.ndarray:
    y = task.source_train.y
    if y is None or len(y) == 0:
        raise DomadaptError("Fifths of the source's values need a source; this task has none.")
    values: np.ndarray = y.numpy()
    return values


def confidence(outputs: Outputs, bins: int = 20) -> list[float]:
    """Share of the samples whose largest probability lies in each of `bins` equal parts of [0, 1].

    They sum to 1.
    """
    top = probabilities(outputs.logits).max(1)
    counts, _ = np.histogram(np.clip(top, 0, 1), bins=bins, range=(0, 1))
    shares: list[float] = (counts / counts.sum()).tolist()
    return shares


def _subsample(z: Tensor, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `most` rows of `z`, drawn without replacement, as float64."""
    if z.ndim != 2 or len(z) < 2:
        raise DomadaptError(
            f"A measure of domain shift needs features (n, d) of at least 2 samples per domain; "
            f"got shape {tuple(z.shape)}."
        )
    rows = np.sort(rng.permutation(len(z))[:most])
    kept: np.ndarray = z.detach().cpu().double().numpy()[rows]
    return kept


def proxy_a_distance(z_s: Tensor, z_t: Tensor, seed: int = 0) -> float:
    """How well a linear classifier tells the domains apart: ``2 (1 - 2 err)``, in [0, 2].

    ``err`` is the held-out error (5-fold, or as many folds as there are samples) of a logistic
    regression on standardised features, with the same number of samples of each domain, at most
    2,000. 0: not at all (an error above one half counts as one half); 2: always.

    Source: Ben-David et al. (2007), "Analysis of Representations for Domain Adaptation", with the
    logistic loss for the linear classifier.

    Args:
        z_s: source features ``(n_s, d)``. z_t: target features ``(n_t, d)``.
        seed: seed of the subsample and of the folds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    n = min(len(z_s), len(z_t), MAX_A_DISTANCE)
    z = np.concatenate([_subsample(z_s, n, rng), _subsample(z_t, n, rng)])
    d = np.repeat([0, 1], n)
    folds = StratifiedKFold(min(5, n), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        # Separable domains need no converged weights to be told apart.
        warnings.simplefilter("ignore", ConvergenceWarning)
        err = float((cross_val_predict(model, z, d, cv=folds) != d).mean())
    return max(0.0, 2 * (1 - 2 * err))


def mmd(z_s: Tensor, z_t: Tensor, seed: int = 0) -> float:
    """The unbiased squared MMD of at most 1,000 samples per domain, as `domadapt.losses.mmd`.

    Gaussian kernels of several widths around the median distance. 0 on average where both domains
    have one distribution, so a single value may be slightly negative.

    Source: Gretton et al. (2012), "A Kernel Two-Sample Test", lemma 6.
    """
    from domadapt.losses.mmd import mmd as squared_mmd

    rng = np.random.default_rng(seed)
    a, b = _subsample(z_s, MAX_MMD, rng), _subsample(z_t, MAX_MMD, rng)
    with torch.no_grad():
        return float(squared_mmd(torch.from_numpy(a), torch.from_numpy(b)))


def domain_shift(z_s: Tensor, z_t: Tensor, seed: int = 0) -> dict[str, float]:
    """``proxy_a_distance`` and ``mmd`` of two sets of features, by name."""
    return {"proxy_a_distance": proxy_a_distance(z_s, z_t, seed), "mmd": mmd(z_s, z_t, seed)}
