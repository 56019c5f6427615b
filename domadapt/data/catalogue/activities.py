"""Activities of people, from the sensors of their phones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domadapt.data.arrays import from_arrays
from domadapt.data.catalogue.collection import TRAIN_TEST, Collection, below, only_npz, reading
from domadapt.task import Domain

_ACTIVITIES = (
    "walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying",
)  # fmt: skip
#: The pairs of AdaTime (Ragab et al., 2023, arXiv:2203.08321).
_HAR_PAIRS = (
    "2-11", "6-23", "7-13", "9-18", "12-16", "18-27", "20-5", "24-8", "28-27", "30-20",
)  # fmt: skip


def _find_har(name: str, root: Path) -> Path | None:
    path = only_npz(below(root, "har"))
    if path is None:
        return None
    with reading(path), np.load(path, allow_pickle=False) as file:
        return path if int(name) in file["subject"] else None


def _load_har(name: str, part: str | None, path: Path) -> Domain:
    with reading(path), np.load(path, allow_pickle=False) as file:
        of_subject = file["subject"] == int(name)
        if part is not None:
            of_subject &= file["split"] == ("train", "test").index(part)
        rows = np.flatnonzero(of_subject)
        x = file["X"][rows].astype(np.float32)
        labels = np.array(_ACTIVITIES)[file["y"][rows]]
    return from_arrays(
        x,
        labels,
        name=f"subject {name}",
        kind="series",
        augment="series",
        ids=[f"window {i}" for i in rows],
        class_names=_ACTIVITIES,
    )


COLLECTIONS: dict[str, Collection] = {
    "har": Collection(
        what="UCI HAR: activities from a phone's inertial sensors, 9 channels, 128 steps",
        origin="Anguita et al. (2013), UCI repository",
        layout="one har/*.npz (X, y, subject, split)",
        classes=6,
        domains=tuple(str(i) for i in range(1, 31)),
        load=_load_har,
        find=_find_har,
        parts=TRAIN_TEST,
        pairs=tuple((a, b) for a, b in (pair.split("-") for pair in _HAR_PAIRS)),
    ),
}
