"""Objects as vectors: features of a network, and SURF histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domadapt.data.arrays import from_arrays
from domadapt.data.catalogue.collection import Collection, below, only_npz, reading
from domadapt.task import Domain

#: In the order of the files' labels 1 to 10.
_OFFICE_CALTECH = (
    "backpack", "touring-bike", "calculator", "head-phones", "computer-keyboard",
    "laptop-101", "computer-monitor", "computer-mouse", "coffee-mug", "video-projector",
)  # fmt: skip


def _load_features(name: str, part: str | None, path: Path) -> Domain:
    with reading(path), np.load(path, allow_pickle=False) as file:
        rows = np.flatnonzero(file["domain"] == name)
        if len(rows) == 0:
            raise ValueError(f"no sample of domain {name!r}")
        names = tuple(file["classes"].tolist())
        ids = [str(p) for p in file["path"][rows]] if "path" in file.files else None
        return from_arrays(
            file["features"][rows],
            np.array(names)[file["label"][rows]],
            name=name,
            kind="vector",
            augment="features",
            ids=ids,
            class_names=names,
        )


def _load_surf(name: str, part: str | None, path: Path) -> Domain:
    from scipy.io import loadmat

    with reading(path):
        file = loadmat(path)
        x = file["fts"].astype(np.float64)
        y = file["labels"].ravel().astype(np.int64) - 1
        x /= np.maximum(x.sum(axis=1, keepdims=True), 1)
        deviation = x.std(axis=0)
        x = (x - x.mean(axis=0)) / np.where(deviation == 0, 1, deviation)
        return from_arrays(
            x.astype(np.float32),
            np.array(_OFFICE_CALTECH)[y],
            name=name,
            kind="vector",
            augment="features",
            class_names=_OFFICE_CALTECH,
        )


COLLECTIONS: dict[str, Collection] = {
    "office31-features": Collection(
        what="Office-31 as features of a network trained on ImageNet",
        origin="Saenko et al. (2010), one feature file made from it",
        layout="one office31_features/*.npz (features, label, classes, domain)",
        classes=31,
        domains=("amazon", "dslr", "webcam"),
        load=_load_features,
        find=lambda name, root: only_npz(below(root, "office31_features")),
    ),
    "office-caltech": Collection(
        what="Office-Caltech-10: SURF histograms of objects, 800 words",
        origin="Gong et al. (2012)",
        layout="office_caltech/<domain>_SURF_L10.mat",
        classes=10,
        domains=("amazon", "caltech10", "dslr", "webcam"),
        load=_load_surf,
        find=lambda name, root: below(root, "office_caltech", f"{name}_SURF_L10.mat"),
        short={"a": "amazon", "c": "caltech10", "d": "dslr", "w": "webcam"},
    ),
}
