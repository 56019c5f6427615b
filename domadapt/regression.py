"""Labels that are measurements: arrays of them, their strata and fifths, and scores.

Values are float ``(n, k)``, k quantities per sample, in the units that a person gave; a row with a
NaN is a sample without label.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domadapt.errors import DomadaptError

#: Samples per domain that a report keeps to draw predicted against true values.
MAX_PAIRS = 500
#: A spread below this share of the mean is lost in float32, of whose digits a network needs some.
_DIGITS = 1e-5


@dataclass(frozen=True)
class ValueScores:
    """How far predicted values lie from the true ones, in the units of the labels.

    With several outputs each number is the plain mean over them, which says little where their
    units differ: read `per_output` then.

    Attributes:
        mae: mean absolute error.
        rmse: root of the mean squared error.
        r2: ``1 - squared error / squared deviation from the mean of the true values``: 1 is
            perfect, 0 as good as that mean; None where the true values do not differ.
        spearman: rank correlation of predicted and true values, in [-1, 1]; None where either does
            not differ.
        n: how many samples were scored.
        per_output: the same four of each output, with its ``name``.
    """

    mae: float
    rmse: float
    r2: float | None
    spearman: float | None
    n: int
    per_output: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it."""
        return dataclasses.asdict(self)


def value_array(values: Any, name: str) -> np.ndarray:
    """Measurements as float32 ``(n, k)``; NaN where one is missing.

    Args:
        values: ``(n,)`` or ``(n, k)``: an array, a tensor, a list, a column or columns of a table.
        name: what an error calls the domain.

    Raises:
        DomadaptError: text, infinite values, or another shape.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        with np.errstate(over="ignore"):
            y = np.asarray(values, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DomadaptError(
            f"The labels of a regression must be numbers; those of {name!r} are not ({error}). "
            "Encode or drop them; for classes leave out --task-type regression (regression=True)."
        ) from error
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] == 0:
        raise DomadaptError(
            f"The labels of a regression must have shape (n,) or (n, outputs); those of {name!r} "
            f"have {tuple(np.shape(values))}. Reshape them."
        )
    if np.isinf(y).any():
        raise DomadaptError(
            f"The labels of a regression must be finite in float32; {np.isinf(y).any(1).sum()} of "
            f"{name!r} are infinite. Replace them, or drop the samples."
        )
    return y


def written(value: float | None) -> str:
    """A value or an error with four significant digits, as a reader would write it."""
    if value is None or not math.isfinite(value):
        return "–"
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, 3 - size)}f}" if -6 < size < 9 else f"{value:.3e}"


def known(labels: np.ndarray) -> np.ndarray:
    """Which samples have a label: a class id of at least 0, or values without a NaN."""
    found: np.ndarray = labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).any(1)
    return found


def strata(labels: np.ndarray) -> np.ndarray:
    """What a split divides evenly: class ids as they are, of values up to ten groups by rank.

    The ranks are those of the first output; a group has at least ten samples.
    """
    if labels.ndim == 1:
        return labels
    n = len(labels)
    groups = max(1, min(10, n // 10))
    ranks = np.empty(n, dtype=np.int64)
    ranks[np.argsort(labels[:, 0], kind="stable")] = np.arange(n)
    result: np.ndarray = ranks * groups // max(n, 1)
    return result


def check_spread(y: np.ndarray, names: Sequence[str], where: str) -> None:
    """Refuse outputs that never vary, or by less than float32 can tell beside their mean."""
    y = y.astype(np.float64)
    for name, mean, std in zip(names, y.mean(0), y.std(0), strict=True):
        if std == 0:
            raise DomadaptError(
                f"A regression needs values that differ; {name!r} of {where!r} is always {mean:g} "
                "in float32. Leave that output out, or subtract a constant."
            )
        if std < _DIGITS * abs(mean):
            raise DomadaptError(
                f"The values of {name!r} in {where!r} vary by {std:g} about {mean:g}, too "
                "little for float32 to tell apart; subtract a constant from them."
            )


def fifths(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which fifth of `reference`'s first output each value lies in, 0 to 4; -1 for a NaN."""
    edges = np.quantile(reference[:, 0], [0.2, 0.4, 0.6, 0.8])
    ids: np.ndarray = np.searchsorted(edges, values[:, 0], side="right")
    return np.where(np.isnan(values[:, 0]), -1, ids)


def fifth_names(reference: np.ndarray) -> list[str]:
    """The fifths in words, by the values that bound them."""
    edges = [f"{e:.4g}" for e in np.quantile(reference[:, 0], [0.2, 0.4, 0.6, 0.8])]
    between = [f"{a} to {b}" for a, b in itertools.pairwise(edges)]
    return [f"< {edges[0]}", *between, f"> {edges[-1]}"]


def score_values(values: Any, y: np.ndarray, names: Sequence[str]) -> ValueScores:
    """All metrics of predicted `values` ``(n, k)`` against true ones `y` ``(n, k)``.

    Samples whose `y` has a NaN are not scored.

    Raises:
        DomadaptError: the shapes differ, a prediction is not finite, or no sample has a label.
    """
    predicted, true = pairs(values, y)
    if true.shape[1] != len(names):
        raise DomadaptError(f"There are {true.shape[1]} outputs and {len(names)} names of them.")
    each: list[dict[str, Any]] = []
    for j, name in enumerate(names):
        p, t = predicted[:, j], true[:, j]
        total = float(np.square(t - t.mean()).sum())
        each.append(
            {
                "name": name,
                "mae": float(np.abs(p - t).mean()),
                "rmse": float(np.sqrt(np.square(p - t).mean())),
                "r2": 1 - float(np.square(p - t).sum()) / total if total > 0 else None,
                "spearman": _spearman(p, t),
            }
        )

    def mean(key: str) -> float | None:
        found = [e[key] for e in each]
        return None if None in found else float(np.mean(found))

    mae, rmse = float(np.mean([e["mae"] for e in each])), float(np.mean([e["rmse"] for e in each]))
    return ValueScores(mae, rmse, mean("r2"), mean("spearman"), len(true), each)


def pairs(values: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true) values in float64 of the samples that have a label."""
    predicted = np.asarray(values, dtype=np.float64)
    true = np.asarray(y, dtype=np.float64)
    if true.ndim != 2 or predicted.shape != true.shape:
        raise DomadaptError(
            "Scoring needs predicted and true values of one shape (n, outputs); got "
            f"{predicted.shape} and {true.shape}."
        )
    labelled = known(true)
    if not labelled.any():
        raise DomadaptError(
            "Scoring needs at least one labelled sample; none of the samples has a label."
        )
    if not np.isfinite(predicted).all():
        raise DomadaptError(
            "Scoring needs finite predictions; some are NaN or infinite. The training diverged: "
            "lower the learning rate."
        )
    return predicted[labelled], true[labelled]


def _spearman(p: np.ndarray, t: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    if len(p) < 2 or np.ptp(p) == 0 or np.ptp(t) == 0:
        return None
    return float(spearmanr(p, t).statistic)


def drawn_pairs(values: Any, y: np.ndarray, seed: int) -> dict[str, list[list[float]]]:
    """At most `MAX_PAIRS` samples to draw, ``predicted`` and ``true``, one row each."""
    predicted, true = pairs(values, y)
    rows = np.sort(np.random.default_rng(seed).permutation(len(true))[:MAX_PAIRS])
    # Seven digits are all that float32 has.
    return {
        name: [[float(f"{v:.7g}") for v in row] for row in found[rows].tolist()]
        for name, found in (("predicted", predicted), ("true", true))
    }
