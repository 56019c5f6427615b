"""Folders of photographs and other pictures of objects, by domain and class."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from domadapt.data.catalogue.collection import Collection, below
from domadapt.data.folder import from_folder
from domadapt.task import Domain


def _find_folder(collection: str, name: str, root: Path) -> Path | None:
    if collection == "visda2017":
        return below(root, "visda2017|visda", name)
    if collection == "office-home":
        return below(root, "office-home|OfficeHomeDataset_10072016", name)
    return below(root, collection, "kfold?", name, "images?")


def _load_folder(name: str, part: str | None, folder: Path) -> Domain:
    return from_folder(folder, name=name, augment="photo")


def _images(
    collection: str, what: str, origin: str, classes: int, names: tuple[str, ...], **more: Any
) -> Collection:
    return Collection(
        what=what,
        origin=origin,
        layout=f"{collection}/<domain>/<class>/*.jpg (or .png)",
        classes=classes,
        domains=names,
        load=_load_folder,
        find=functools.partial(_find_folder, collection),
        **more,
    )


COLLECTIONS: dict[str, Collection] = {
    "office31": _images(
        "office31",
        "Office-31: objects in shop pictures, webcam and camera photographs",
        "Saenko et al. (2010)",
        31,
        ("amazon", "dslr", "webcam"),
    ),
    "office-home": _images(
        "office-home",
        "Office-Home: objects in four styles",
        "Venkateswara et al. (2017), arXiv:1706.07522",
        65,
        ("Art", "Clipart", "Product", "Real World"),
        short={"ar": "Art", "cl": "Clipart", "pr": "Product", "rw": "Real World"},
    ),
    "visda2017": _images(
        "visda2017",
        "VisDA-2017: renderings to photographs",
        "Peng et al. (2017), arXiv:1710.06924",
        12,
        ("train", "validation"),
        pairs=(("train", "validation"),),
    ),
    "domainnet": _images(
        "domainnet",
        "DomainNet: objects in six styles",
        "Peng et al. (2019), arXiv:1812.01754",
        345,
        ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    ),
    "pacs": _images(
        "pacs",
        "PACS: photographs, art paintings, cartoons, sketches",
        "Li et al. (2017), arXiv:1710.03077",
        7,
        ("art_painting", "cartoon", "photo", "sketch"),
    ),
}
