"""Models ranked for a labelled domain: every score, a linear probe and the size of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from domadapt.errors import DomadaptError
from domadapt.task import Domain
from domadapt.transfer.covariance import h_score, regularized_h_score, transrate
from domadapt.transfer.likelihood import leep, nce, nleep
from domadapt.transfer.logme import logme
from domadapt.transfer.models import (
    Extracted,
    extract,
    labels_of,
    parse,
    short_names,
    subset,
    task_of,
)
from domadapt.transfer.probe import linear_probe, nearest_neighbours
from domadapt.transfer.separability import gbc, sfda

#: What models are sorted by, and what is known before any data are read.
PROBE, SIZE = "linear probe", "parameters"
#: The score of each name: of features and labels. Larger is better for all of them.
FEATURE_SCORES: dict[str, Callable[..., float]] = {
    "k-NN": nearest_neighbours,
    "LogME": logme,
    "H-score": h_score,
    "regularised H": regularized_h_score,
    "TransRate": transrate,
    "N-LEEP": nleep,
    "GBC": gbc,
    "SFDA": sfda,
}
ANSWER_SCORES = ("LEEP", "NCE")
#: Fewer models than these have no ranking worth a correlation.
LEAST_MODELS = 3


@dataclass(frozen=True)
class Score:
    """One score of one model; `value` is None where it cannot be had, and `why` says so."""

    value: float | None
    seconds: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class Ranked:
    """One model: what it is, and its scores by name.

    Attributes:
        model: as it was asked for.
        weights: see `domadapt.transfer.models.Extracted`.
        parameters: of the feature extractor.
        width: how many features it gives.
        seconds: what computing (or reading) them took.
        scores: by name, the linear probe among them.
        probe_std: standard deviation of the probe over its folds.
        probe_folds: its value on each.
    """

    model: str
    weights: str
    parameters: int
    width: int
    seconds: float
    scores: dict[str, Score]
    probe_std: float
    probe_folds: tuple[float, ...]


@dataclass(frozen=True)
class Ranking:
    """Models, the best linear probe first.

    Attributes:
        domain: the name of the labelled domain.
        samples: how many were used. of: how many it has.
        classes: their number; 0 of a regression, whose probe is R² instead of accuracy.
        models: see `Ranked`.
        agreement: weighted Kendall's tau of each two scores that at least three models have, by
            name; None where it is undefined. Empty for fewer models.
        notes: what a reader should know of this ranking.
    """

    domain: str
    samples: int
    of: int
    classes: int
    models: tuple[Ranked, ...]
    agreement: dict[str, dict[str, float | None]]
    notes: tuple[str, ...] = field(default=())

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that at least one model has, after the probe and the size."""
        known = (PROBE, *FEATURE_SCORES, *ANSWER_SCORES)
        return tuple(
            name
            for name in known
            if any(m.scores[name].value is not None for m in self.models if name in m.scores)
        )


def rank(
    models: Sequence[str],
    domain: Domain,
    *,
    samples: int | None = None,
    folds: int = 5,
    image_size: int | None = None,
    cache: str | Path | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    told: Callable[[str], None] | None = None,
) -> Ranking:
    """Score models for a labelled domain, the source of an adaptation.

    Features are computed once per model, with the evaluation view and the backbone as it is; then
    every score, each with its time. LEEP and NCE need the head that a model was trained with.
    Labels are those of the labelled domain alone: what the ranking says of a target is what it has
    in common with that domain.

    Args:
        models: backbones by name, with ``=WEIGHTS`` where they have any, ``file.py:function``, or
            folders of runs; see `domadapt.transfer.models.parse`.
        domain: labelled samples, classes or measurements.
        samples: use about so many of them, drawn at random; None uses all. See `subset`.
        folds: of the linear probe.
        image_size: side that images are brought to; None leaves it to each model.
        cache: folder that keeps the features of named backbones for another time.
        device: where features are computed; None is the CPU.
        seed: of the probe's folds, the mixture of N-LEEP, and the draw of `samples`.
        told: is given a line whenever a model is begun.

    Raises:
        DomadaptError: no model, one that is given twice, unknown or unfit for the data, or labels
            that cannot be used.
    """
    if not models:
        raise DomadaptError("There is no model to rank; name at least one, better several.")
    twice = sorted({m for m in models if list(models).count(m) > 1})
    if twice:
        raise DomadaptError(f"Each model is ranked once; {', '.join(twice)} is given twice.")
    if samples is not None and samples < 2 * folds:
        raise DomadaptError(
            f"A probe of {folds} folds needs at least {2 * folds} samples; got samples={samples}."
        )
    for model in models:
        parse(model)  # a misspelt name is told before the first features are computed
    used = domain if samples is None else subset(domain, samples, seed)
    task = task_of(used)
    y = labels_of(task)
    found = []
    for number, model in enumerate(models, 1):
        if told is not None:
            told(f"{model} ({number} of {len(models)})")
        begun = time.perf_counter()
        made = extract(
            model,
            task,
            image_size=image_size,
            cache=None if cache is None else Path(cache),
            device=device,
        )
        seconds = time.perf_counter() - begun
        found.append(_ranked(model, made, y, used.groups, folds, seed, seconds))
    found.sort(key=lambda m: -(m.scores[PROBE].value or 0.0))
    return Ranking(
        domain.name,
        len(used),
        len(domain),
        0 if task.regression else task.n_classes,
        tuple(found),
        agreement(_columns(found)),
        (*domain.notes, *_notes(found, len(used), len(domain), task.regression)),
    )


def _ranked(
    model: str,
    made: Extracted,
    y: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int,
    seconds: float,
) -> Ranked:
    z = made.features.astype(np.float64)  # once for all scores
    regression = y.ndim == 2
    begun = time.perf_counter()
    try:
        probe = linear_probe(z, y, folds=folds, groups=groups, regression=regression, seed=seed)
    except DomadaptError as error:
        raise DomadaptError(f"{model} cannot be probed: {error}") from error
    scores = {PROBE: Score(probe.mean, time.perf_counter() - begun)}
    if regression:
        scores["LogME"] = _timed(lambda: logme(z, y, regression=True))
    else:
        k = min(5, len(z) - 1)
        settings: dict[str, dict[str, int]] = {"N-LEEP": {"seed": seed}, "k-NN": {"k": k}}
        for name, score in FEATURE_SCORES.items():
            scores[name] = _timed(partial(score, z, y, **settings.get(name, {})))
        scores |= _of_answers(made.probabilities, y)
    return Ranked(
        model,
        made.weights,
        made.parameters,
        z.shape[1],
        seconds,
        scores,
        probe.std,
        probe.folds,
    )


def _of_answers(p: np.ndarray | None, y: np.ndarray) -> dict[str, Score]:
    if p is None:
        none = Score(None, None, "no trained head came with the model")
        return dict.fromkeys(ANSWER_SCORES, none)
    return {"LEEP": _timed(lambda: leep(p, y)), "NCE": _timed(lambda: nce(p.argmax(1), y))}


def _timed(score: Callable[[], float]) -> Score:
    """A score and its time; one that is undefined for these features does not stop the rest."""
    begun = time.perf_counter()
    try:
        value = score()
    except (DomadaptError, np.linalg.LinAlgError) as error:
        return Score(None, time.perf_counter() - begun, str(error))
    seconds = time.perf_counter() - begun
    if not math.isfinite(value):
        return Score(None, seconds, "the value is not finite")
    return Score(value, seconds)


def _columns(models: Sequence[Ranked]) -> dict[str, list[float | None]]:
    """The value of each score for each model, and their sizes, where enough models have one."""
    names = [PROBE, SIZE, *FEATURE_SCORES, *ANSWER_SCORES]
    columns: dict[str, list[float | None]] = {}
    for name in names:
        values: list[float | None] = [
            float(m.parameters)
            if name == SIZE
            else (m.scores[name].value if name in m.scores else None)
            for m in models
        ]
        if sum(v is not None for v in values) >= LEAST_MODELS:
            columns[name] = values
    return columns


def settled(value: float) -> float:
    """A value without its last digits, which rounding decides: H-scores of 30 and 29.99999999."""
    return float(f"{value:.9g}")


def agreement(columns: dict[str, list[float | None]]) -> dict[str, dict[str, float | None]]:
    """Weighted Kendall's tau of each two columns, over the models that have both.

    Pairs of models high in either ranking weigh most (hyperbolic weights, averaged over the
    rankings by the one and by the other column): Vigna (2015), doi:10.1145/2736277.2741088. 1 is
    the same order, -1 the reverse; None for fewer than 3 models or where a column does not differ.
    Values that agree in nine digits are equal.
    """
    from scipy.stats import weightedtau

    def tau(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
        both = [
            (settled(a), settled(b))
            for a, b in zip(one, other, strict=True)
            if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
        ]
        if len(both) < LEAST_MODELS:
            return None
        x, y = np.array(both).T
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return None
        value = float(weightedtau(x, y).statistic)
        return value if math.isfinite(value) else None

    return {a: {b: tau(columns[a], columns[b]) for b in columns} for a in columns}


def _notes(models: Sequence[Ranked], used: int, of: int, regression: bool) -> list[str]:
    notes = []
    called = dict(
        zip([m.model for m in models], short_names([m.model for m in models]), strict=True)
    )
    if used < of:
        notes.append(f"{used} of {of} samples were used, drawn at random.")
    untrained = [called[m.model] for m in models if m.weights == "random"]
    if untrained:
        notes.append(
            f"Random weights, so that their scores say what an architecture gives untrained: "
            f"{', '.join(untrained)}. Name weights as MODEL=FILE."
        )
    wide = [called[m.model] for m in models if m.width >= used]
    if wide and not regression:
        notes.append(
            f"At least as many features as samples ({', '.join(wide)}): H-score and SFDA then "
            "hardly depend on the features."
        )
    if len({m.width for m in models}) > 1 and not regression:
        notes.append(
            "The models give different numbers of features, with which H-score and TransRate grow."
        )
    best = models[0]
    near = [called[m.model] for m in models[1:] if _overlap(best, m)]
    if near:
        notes.append(
            f"Within one standard deviation of the best probe ({called[best.model]}): "
            f"{', '.join(near)}. These cannot be told apart by it."
        )
    lacks = [called[m.model] for m in models if m.scores.get("LEEP", Score(0.0)).value is None]
    if lacks:
        notes.append(f"No trained head came with {', '.join(lacks)}, so no LEEP and NCE.")
    failed = [
        f"{called[m.model]}: no {name} ({s.why})"
        for m in models
        for name, s in m.scores.items()
        if s.value is None and name not in ANSWER_SCORES
    ]
    if len(models) < LEAST_MODELS:
        notes.append(f"Rank agreement needs at least {LEAST_MODELS} models.")
    return notes + failed


def _overlap(best: Ranked, other: Ranked) -> bool:
    """Whether the probe of the other is within one deviation over the folds of the best one's."""
    a, b = best.scores[PROBE].value, other.scores[PROBE].value
    return a is not None and b is not None and a - b <= max(best.probe_std, other.probe_std)
