"""Domains as counts of terms: words, the columns of counts, or kinds of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.task import Domain, Raw

#: The most frequent words that count, kinds of features, and dimensions of a word's vector.
WORDS, KINDS, WORD_DIMENSIONS = 10_000, 64, 50
#: Vectors of which more than this share of entries is 0 and none negative are counts of terms.
SPARSE = 0.5
BATCH = 256


@dataclass(frozen=True)
class Represented:
    """Several domains over the same terms.

    Attributes:
        counts: of each domain, one matrix ``(n, k)`` with a row per sample.
        vectors: what stands for each term ``(k, d)``.
        features: of each domain ``(n, d)``.
        what: what terms are, in words.
    """

    counts: list[Any]
    vectors: np.ndarray
    features: list[np.ndarray]
    what: str


def represented(
    domains: Sequence[Domain],
    *,
    model: str | None = None,
    image_size: int | None = None,
    kinds: int = KINDS,
    seed: int = 0,
) -> Represented:
    """Domains as counts of terms and as features; their labels are not looked at.

    Texts are counted by word, and a word stands for the directions in which it varies over all
    documents (latent semantic analysis). Vectors of counts are taken as they are. Of all else each
    sample is one term, the nearest of `kinds` centres of all domains' features, so that measures of
    terms say how differently the domains use the kinds. Features are those of `model`; without one
    vectors and series as they are, standardised over all domains together.

    Raises:
        DomadaptError: domains of several kinds of data, or images without a model.
    """
    kind = {d.kind for d in domains}
    if len(kind) > 1:
        raise DomadaptError(
            f"Target and sources must be of one kind of data; got {', '.join(sorted(kind))}."
        )
    if kind == {"text"} and model is None:
        return _texts(domains, seed)
    if model is not None:
        return _kinds([_model_features(d, model, image_size) for d in domains], kinds, seed)
    if kind == {"image"}:
        raise DomadaptError(
            "Images are compared by what a model sees in them; name one (--model "
            "resnet18=WEIGHTS, or the folder of a run)."
        )
    rows = [_rows(d) for d in domains]
    widths = {r.shape[1:] for r in rows}
    if len(widths) > 1:
        raise DomadaptError(
            f"Target and sources must have the same features; got {len(widths)} different widths."
        )
    if kind == {"vector"} and _are_counts(rows):
        vectors, features = _semantic(rows, seed)
        return Represented(rows, vectors, features, "terms are the columns of the counts")
    return _kinds([r.reshape(len(r), -1) for r in rows], kinds, seed)


def _are_counts(rows: Sequence[np.ndarray]) -> bool:
    return all((r >= 0).all() and (r == 0).mean() > SPARSE for r in rows)


def _rows(domain: Domain) -> np.ndarray:
    """All samples of a domain, ``(n, ...)``."""
    parts = []
    for start in range(0, len(domain), BATCH):
        raw = domain.samples.__getitems__(range(start, min(start + BATCH, len(domain))))
        assert isinstance(raw, Tensor)
        parts.append(raw.float().numpy())
    return np.concatenate(parts)


def _strings(domain: Domain) -> list[str]:
    from domadapt.data.text import texts_of

    raw: Raw = domain.samples.__getitems__(range(len(domain)))
    return [t if isinstance(t, str) else " ".join(t) for t in texts_of(raw)]


def _texts(domains: Sequence[Domain], seed: int) -> Represented:
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [_strings(d) for d in domains]
    counter = CountVectorizer(max_features=WORDS, stop_words="english")
    try:
        counter.fit([t for part in texts for t in part])
    except ValueError as error:
        raise DomadaptError("The texts hold no word that could be counted.") from error
    counts = [counter.transform(part) for part in texts]
    vectors, features = _semantic(counts, seed)
    return Represented(counts, vectors, features, "terms are words, stop words left out")


def _semantic(counts: Sequence[Any], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Vectors of terms and of documents by a truncated SVD of the log counts of all domains."""
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD

    whole = sparse.vstack([sparse.csr_matrix(c) for c in counts]).astype(np.float64).log1p()
    d = max(1, min(WORD_DIMENSIONS, *(n - 1 for n in whole.shape)))
    svd = TruncatedSVD(d, random_state=seed)
    documents = svd.fit_transform(whole)
    ends = np.cumsum([c.shape[0] for c in counts])[:-1]
    return (svd.components_ * svd.singular_values_[:, None]).T, np.split(documents, ends)


def _kinds(features: Sequence[np.ndarray], kinds: int, seed: int) -> Represented:
    from sklearn.cluster import KMeans

    whole = np.concatenate(features).astype(np.float64)
    deviation = whole.std(0)
    whole = (whole - whole.mean(0)) / np.where(deviation > 1e-12, deviation, 1.0)
    ends = np.cumsum([len(f) for f in features])[:-1]
    k = max(1, min(kinds, len(np.unique(whole, axis=0))))
    found = KMeans(k, n_init=1, random_state=seed).fit(whole)
    eye = np.eye(k)
    counts = [eye[part] for part in np.split(found.labels_, ends)]
    what = f"each sample is one of {k} kinds of features (centres of k-means over all domains)"
    return Represented(counts, found.cluster_centers_, np.split(whole, ends), what)


def _model_features(domain: Domain, model: str, image_size: int | None) -> np.ndarray:
    from domadapt.transfer.models import extract, task_of

    # What extracts features asks for a labelled domain; these labels are two that take turns.
    stand_in = np.arange(len(domain)) % 2
    labelled = replace(domain.unlabelled(), labels=stand_in, groups=None)
    made = extract(model, task_of(labelled), image_size=image_size)
    if made.weights == "random":
        raise DomadaptError(
            f"{model} has random weights, which see no similarity; give weights "
            f"({model}=FILE), or the folder of a run{_run_hint(model)}."
        )
    return made.features


def _run_hint(model: str) -> str:
    return "" if Path(model).exists() else f" in place of {model}"
