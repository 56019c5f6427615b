"""Amazon reviews, as bags of words and as texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from domadapt.data.arrays import from_arrays
from domadapt.data.catalogue.collection import TRAIN_TEST, Collection, below, reading
from domadapt.data.table import read_frame
from domadapt.data.text import from_texts
from domadapt.task import Domain

_SENTIMENTS = ("negative", "positive")


def _find_reviews(name: str, root: Path) -> Path | None:
    folder = below(root, "amazon_bow")
    if folder is None:
        return None
    files = [_reviews_file(folder, name, part) for part in ("train", "test")]
    return folder if None not in files else None


def _reviews_file(folder: Path, name: str, part: str) -> Path | None:
    ends = (".svmlight.gz", ".svmlight")
    return next((p for end in ends if (p := folder / f"{name}_{part}{end}").is_file()), None)


def _load_reviews(name: str, part: str | None, folder: Path) -> Domain:
    from sklearn.datasets import load_svmlight_file
    from sklearn.feature_extraction.text import TfidfTransformer

    def counts(of: str) -> tuple[Any, np.ndarray]:
        path = _reviews_file(folder, name, of)
        assert path is not None
        with reading(path):
            return load_svmlight_file(str(path), n_features=5000, zero_based=True, dtype=np.float32)

    part = part or "train"
    x, y = counts(part)
    # How rare a word is, is counted in the domain's training part, whichever part is asked for.
    train = x if part == "train" else counts("train")[0]
    x = TfidfTransformer(sublinear_tf=True).fit(train).transform(x)
    return from_arrays(
        x,
        np.where(y > 0, "positive", "negative"),
        name=name,
        kind="vector",
        augment="features",
        ids=[f"{name}:{part}/{i:05d}" for i in range(len(y))],
        class_names=_SENTIMENTS,
    )


def _find_texts(name: str, root: Path | None) -> Path | None:
    folder = below(root, "amazon_reviews")
    if folder is None:
        return None
    files = (folder / f"amazon_reviews.csv{end}" for end in (".gz", ""))
    return next((file for file in files if file.is_file()), None)


def _load_texts(name: str, part: str | None, path: Path) -> Domain:
    with reading(path):
        frame = read_frame(path, texts=True)
    rows = frame[frame["domain"] == name]
    return from_texts(
        rows["text"].tolist(),
        np.where(rows["label"].astype(int) > 0, "positive", "negative"),
        name=name,
        ids=[f"{name}/{i:05d}" for i in range(len(rows))],
        class_names=_SENTIMENTS,
    )


COLLECTIONS: dict[str, Collection] = {
    "amazon": Collection(
        what="Amazon reviews: sentiment, 5,000 words and pairs of words",
        origin="Blitzer et al. (2007), as prepared by Chen et al. (2012)",
        layout="amazon_bow/<domain>_{train,test}.svmlight.gz",
        classes=2,
        domains=("books", "dvd", "electronics", "kitchen"),
        load=_load_reviews,
        find=_find_reviews,
        parts=TRAIN_TEST,
    ),
    "amazon-reviews": Collection(
        what="Amazon reviews: sentiment, the texts themselves",
        origin="Blitzer et al. (2007)",
        layout="amazon_reviews/amazon_reviews.csv[.gz] (domain, label 0 or 1, text)",
        classes=2,
        domains=("books", "dvd", "electronics", "kitchen"),
        load=_load_texts,
        find=_find_texts,
    ),
}
