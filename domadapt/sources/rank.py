"""Candidate sources ranked for a target, and the samples of them that are most like it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from domadapt.errors import DomadaptError
from domadapt.evaluation import mmd, proxy_a_distance
from domadapt.sources.measures import (
    SIMILARITY,
    entropy,
    quadratic_entropy,
    renyi_entropy,
    shares,
    simpson,
    type_token_ratio,
    types,
)
from domadapt.sources.terms import KINDS, represented
from domadapt.sources.warping import prototypes, set_distance
from domadapt.task import Domain
from domadapt.transfer.rank import agreement

SCHEMA = 1
#: What sources are sorted by unless another is named.
FIRST = "Jensen-Shannon"
A_DISTANCE, MMD, WARPING = "proxy A-distance", "MMD", "DTW barycentres"
#: Measures of which a larger value is nearer; of all other similarities a smaller one is.
NEARER = tuple(name for name, (_, larger) in SIMILARITY.items() if larger)
#: Series of a group that are averaged, and groups of a target, whose classes are not known.
MOST_SERIES, TARGET_GROUPS = 60, 5
DIVERSITY = (
    "types",
    "type-token ratio",
    "entropy",
    "Simpson",
    "Rényi entropy",
    "quadratic entropy",
)


@dataclass(frozen=True)
class SourceRank:
    """One candidate source.

    Attributes:
        source: its name. samples: how many it has.
        similarity: to the target, by measure; `NEARER` says of which larger is nearer.
        diversity: by measure, larger is more diverse.
    """

    source: str
    samples: int
    similarity: dict[str, float]
    diversity: dict[str, float]


@dataclass(frozen=True)
class SourceRanking:
    """Candidate sources for a target, the nearest first.

    Attributes:
        target: its name. by: the measure they are sorted by. terms: what terms are, in words.
        sources: see `SourceRank`.
        agreement: weighted Kendall's tau of each two measures of similarity, of at least three
            sources; see `domadapt.transfer.rank.agreement`.
        target_diversity: that of the target.
    """

    target: str
    by: str
    terms: str
    sources: tuple[SourceRank, ...]
    agreement: dict[str, dict[str, float | None]]
    target_diversity: dict[str, float]

    def to_json(self) -> str:
        """All of it, with its schema version; what is infinite is null."""
        data = {"schema": SCHEMA, **asdict(self), "larger_is_nearer": NEARER}
        return json.dumps(_finite(data), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Selected:
    """A sample of a source and how like the target it is; larger is more alike."""

    source: str
    index: int
    name: str
    score: float


def rank_sources(
    target: Domain,
    sources: Sequence[Domain],
    *,
    by: str = FIRST,
    model: str | None = None,
    image_size: int | None = None,
    kinds: int = KINDS,
    seed: int = 0,
    told: Callable[[str], None] | None = None,
) -> SourceRanking:
    """Rank candidate sources by how near they lie to a target; no label of the target is read.

    Similarities and diversities over terms are those of (Ruder and Plank, 2017, arXiv:1707.05246).
    They learn weights of all measures by Bayesian optimisation on labelled data of each task; here
    each stands for itself. Beside them: how well a classifier tells the domains apart, and MMD, in
    the features. For series also the smallest warping distance of class barycentres (Fawaz et al.,
    2018, arXiv:1811.01533); the target's groups come from clustering, as its classes are not known.

    Args:
        target: its labels are dropped.
        sources: at least one; labels serve the barycentres of series alone.
        by: the measure of similarity to sort by.
        model: what turns samples into features: a backbone with weights, ``file.py:function``, or
            the folder of a run. Images need one.
        image_size: side that images are brought to.
        kinds: of features, where data have no terms.
        seed: of clusters and subsamples.
        told: is given a line when a part is begun.

    Raises:
        DomadaptError: no source, one twice, data of several kinds, or an unknown measure.
    """
    tell = told or (lambda _: None)
    if not sources:
        raise DomadaptError("There is no source to rank; name at least one, better several.")
    names = _names(sources)
    domains = [target.unlabelled(), *sources]
    tell("counting terms")
    made = represented(domains, model=model, image_size=image_size, kinds=kinds, seed=seed)
    counts = [np.asarray(c.sum(0)).ravel() for c in made.counts]
    p = [shares(c) for c in counts]
    warped = _warped(domains, seed) if target.kind == "series" else None
    z = [torch.from_numpy(np.ascontiguousarray(f, dtype=np.float32)) for f in made.features]
    found = []
    for number, (source, name) in enumerate(zip(sources, names, strict=True), 1):
        tell(f"{name} ({number} of {len(sources)})")
        near = {k: measure(p[number], p[0]) for k, (measure, _) in SIMILARITY.items()}
        near[A_DISTANCE] = proxy_a_distance(z[number], z[0], seed)
        near[MMD] = mmd(z[number], z[0], seed)
        if warped is not None:
            near[WARPING] = set_distance(warped[number], warped[0])
        varied = _diversity(counts[number], made.vectors)
        found.append(SourceRank(name, len(source), near, varied))
    known = list(found[0].similarity)
    if by not in known:
        raise DomadaptError(f"Sources are sorted by one of {', '.join(known)}; got {by!r}.")
    sign = -1.0 if by in NEARER else 1.0
    found.sort(key=lambda s: sign * s.similarity[by])
    columns: dict[str, list[float | None]] = {
        k: [s.similarity[k] if k in NEARER else -s.similarity[k] for s in found] for k in known
    }
    return SourceRanking(
        target.name,
        by,
        made.what,
        tuple(found),
        agreement(columns) if len(found) > 2 else {},
        _diversity(counts[0], made.vectors),
    )


def select(
    target: Domain,
    sources: Sequence[Domain],
    count: int,
    *,
    model: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> list[Selected]:
    """The `count` samples of all sources that are most like the target, the likeliest first.

    Of terms: by the smallest Jensen-Shannon divergence of a sample's terms to the target's; the
    score is its negative. Of features: by the logit of a classifier of target against source that
    did not see the sample (5 folds).

    Raises:
        DomadaptError: `count` is not between 1 and the number of all samples.
    """
    total = sum(len(s) for s in sources)
    if not 1 <= count <= total:
        raise DomadaptError(
            f"select takes between 1 and all {total} samples of the sources; got {count}."
        )
    domains = [target.unlabelled(), *sources]
    made = represented(domains, model=model, image_size=image_size, seed=seed)
    if made.what.startswith("terms"):
        p = shares(np.asarray(made.counts[0].sum(0)).ravel())
        scores = np.concatenate([-_divergences(rows, p) for rows in made.counts[1:]])
    else:
        scores = _target_logits(made.features[0], np.concatenate(made.features[1:]), seed)
    order = np.argsort(-scores, kind="stable")[:count]
    ends = np.cumsum([len(s) for s in sources])
    names, chosen = _names(sources), []
    for at in order.tolist():
        which = int(np.searchsorted(ends, at, side="right"))
        index = at - (int(ends[which - 1]) if which else 0)
        ids = sources[which].ids
        name = str(index if ids is None else ids[index])
        chosen.append(Selected(names[which], index, name, float(scores[at])))
    return chosen


def _names(sources: Sequence[Domain]) -> list[str]:
    names = [s.name for s in sources]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DomadaptError(f"Each source is ranked once; {', '.join(twice)} is given twice.")
    return names


def _diversity(counts: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    p = shares(counts)
    values = (
        float(types(counts)),
        type_token_ratio(counts),
        entropy(p),
        simpson(p),
        renyi_entropy(p),
        quadratic_entropy(p, vectors),
    )
    return dict(zip(DIVERSITY, values, strict=True))


def _divergences(rows: Any, p: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each row's terms to ``p``; ln 2, the largest, where empty."""
    found = np.full(rows.shape[0], math.log(2))
    for start in range(0, rows.shape[0], 256):
        part = rows[start : start + 256]
        dense = np.asarray(part.todense() if hasattr(part, "todense") else part, dtype=np.float64)
        total = dense.sum(1)
        kept = total > 0
        q = dense[kept] / total[kept, None]
        middle = (q + p) / 2
        found[start : start + len(dense)][kept] = (
            _plogp(middle) * -1 + (_plogp(q) + _plogp(p[None])) / 2
        )
    return found


def _plogp(p: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)
    return total


def _target_logits(z_t: np.ndarray, z_s: np.ndarray, seed: int) -> np.ndarray:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z = np.concatenate([z_t, z_s])
    d = np.repeat([1, 0], [len(z_t), len(z_s)])
    folds = StratifiedKFold(min(5, len(z_t), len(z_s)), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        logits = cross_val_predict(model, z, d, cv=folds, method="decision_function")
    found: np.ndarray = logits[len(z_t) :]
    return found


def _warped(domains: Sequence[Domain], seed: int) -> list[np.ndarray]:
    """Barycentres of each domain's classes, of the target's clusters; every series z-scored."""
    from sklearn.cluster import KMeans

    from domadapt.sources.terms import _rows

    found = []
    for domain in domains:
        x = _rows(domain).astype(np.float64)
        deviation = x.std(2, keepdims=True)
        x = (x - x.mean(2, keepdims=True)) / np.where(deviation > 1e-12, deviation, 1.0)
        if domain.labels is not None:
            groups = np.unique([str(v) for v in domain.labels], return_inverse=True)[1]
        else:
            k = min(TARGET_GROUPS, len(x))
            flat = x.reshape(len(x), -1)
            groups = KMeans(k, n_init=1, random_state=seed).fit_predict(flat)
        rng = np.random.default_rng(seed)
        kept = np.concatenate(
            [rng.permutation(np.flatnonzero(groups == g))[:MOST_SERIES] for g in np.unique(groups)]
        )
        found.append(prototypes(x[kept], groups[kept]))
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Shown


def terminal(ranking: SourceRanking) -> str:
    """The ranking as plain text."""
    lines = [headline(ranking)]
    for title, heads, rows in tables(ranking):
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines += ["", title]
        for row in (heads, *rows):
            rest = [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    return "\n".join([*lines, "", *(f"Note: {line}" for line in notes(ranking))])


def markdown(ranking: SourceRanking) -> str:
    """The ranking as a Markdown page."""
    lines = ["# Which source to train on", "", headline(ranking), ""]
    for title, heads, rows in tables(ranking):
        lines += [f"## {title}", "", f"| {' | '.join(heads)} |"]
        lines.append(f"| --- |{' ---: |' * (len(heads) - 1)}")
        lines += [f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {line}" for line in notes(ranking))]) + "\n"


def headline(ranking: SourceRanking) -> str:
    """What is nearest, in a sentence."""
    return (
        f"{len(ranking.sources)} source{'s' * (len(ranking.sources) > 1)} for {ranking.target}, "
        f"the nearest by {ranking.by} first; {ranking.terms}."
    )


def notes(ranking: SourceRanking) -> list[str]:
    """How to read the tables."""
    larger = ", ".join(NEARER)
    return [
        f"Smaller is nearer; of {larger} larger is. Of diversity larger is more diverse.",
        "Measures of one kind agree more than they are right: nearness of inputs says nothing of "
        "how labels depend on them. Types and their ratio depend on the amount of data.",
    ]


def tables(ranking: SourceRanking) -> list[tuple[str, list[str], list[list[str]]]]:
    """Similarity, diversity, and how far the measures agree: title, heads and rows."""
    near = list(ranking.sources[0].similarity)
    rows = [
        [s.source, str(s.samples), *(_number(s.similarity[k]) for k in near)]
        for s in ranking.sources
    ]
    varied = [[s.source, *(_number(s.diversity[k]) for k in DIVERSITY)] for s in ranking.sources]
    of_target = [_number(ranking.target_diversity[k]) for k in DIVERSITY]
    varied.append([f"{ranking.target} (target)", *of_target])
    found = [
        ("Similarity to the target", ["source", "samples", *near], rows),
        ("Diversity", ["source", *DIVERSITY], varied),
    ]
    if ranking.agreement:
        columns = list(ranking.agreement)
        taus = [
            [
                a,
                *(
                    "·"
                    if a == b
                    else "–"
                    if (t := ranking.agreement[a][b]) is None
                    else f"{t:+.2f}"
                    for b in columns
                ),
            ]
            for a in columns
        ]
        found.append(("Rank agreement (weighted Kendall's tau)", ["", *columns], taus))
    return found


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:.0f}"
