"""Scanned digits: MNIST, USPS, SVHN and MNIST-M."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import torch

from domadapt.data.arrays import from_arrays
from domadapt.data.catalogue.collection import TRAIN_TEST, Collection, below, reading
from domadapt.data.folder import from_folder
from domadapt.data.samples import ArraySamples
from domadapt.task import Domain

_TEN = tuple("0123456789")
_MNIST = {"train": "train", "test": "t10k"}
_USPS = {"train": "usps.bz2", "test": "usps.t.bz2"}
_MNIST_M = {"train": "train|training", "test": "test|testing"}


def _scan_domain(name: str, part: str, x: np.ndarray, y: np.ndarray) -> Domain:
    return from_arrays(
        x,
        y.astype(np.int64),
        name=name,
        kind="image",
        augment="glyph",
        ids=[f"{name}:{part}/{i:05d}" for i in range(len(x))],
        class_names=_TEN,
    )


def resized(of: Domain, size: int) -> Domain:
    """The same domain with its images in memory at ``size x size``; streamed ones as they are."""
    from torchvision.transforms.v2.functional import resize

    samples = of.samples
    if not isinstance(samples, ArraySamples) or samples.x.shape[-2:] == (size, size):
        return of
    x = torch.tensor(samples.x)
    x = resize(x[:, None] if x.ndim == 3 else x, [size, size], antialias=True)
    return dataclasses.replace(of, samples=ArraySamples(x.numpy(), "image"))


def _find_mnist(name: str, root: Path) -> Path | None:
    for folder in (below(root, "mnist", "MNIST?", "raw"), below(root, "mnist")):
        if folder is not None and all(
            _idx_file(folder, f"{stem}-{what}") is not None
            for stem in _MNIST.values()
            for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ):
            return folder
    return None


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((p for end in ("", ".gz") if (p := folder / f"{name}{end}").is_file()), None)


def _load_mnist(name: str, part: str | None, folder: Path) -> Domain:
    part = part or "train"
    x = _idx(folder, f"{_MNIST[part]}-images-idx3-ubyte", 3)
    y = _idx(folder, f"{_MNIST[part]}-labels-idx1-ubyte", 1)
    return _scan_domain(name, part, x, y)


def _idx(folder: Path, name: str, ndim: int) -> np.ndarray:
    """A uint8 array of `ndim` dimensions in the idx format, compressed or not.

    The format: two zero bytes, the type (8: uint8), the number of dimensions, each size as a
    big-endian 32-bit integer, the values (http://yann.lecun.com/exdb/mnist).
    """
    path = _idx_file(folder, name)
    assert path is not None
    with reading(path):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"no idx file of {ndim} dimension(s)")
        shape = np.frombuffer(data, ">u4", count=ndim, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape.tolist())


def _find_usps(name: str, root: Path) -> Path | None:
    folder = below(root, "usps")
    if folder is None:
        return None
    whole = all((folder / file).is_file() for file in _USPS.values())
    return folder if whole or (folder / "usps.npz").is_file() else None


def _load_usps(name: str, part: str | None, folder: Path) -> Domain:
    part = part or "train"
    path = folder / "usps.npz"
    if not path.is_file():
        from torchvision.datasets import USPS

        with reading(folder / _USPS[part]):
            scans = USPS(str(folder), train=part == "train", download=False)
        return _scan_domain(name, part, scans.data, np.array(scans.targets))
    with reading(path), np.load(path, allow_pickle=False) as file:
        x, y = file[f"x_{part}"], file[f"y_{part}"]
        if x.dtype != np.uint8:
            if not (x.min() >= 0 and x.max() <= 1):
                raise ValueError(f"x_{part} must lie in 0..1; it spans {x.min()}..{x.max()}")
            x = np.round(x * 255).astype(np.uint8)
    return _scan_domain(name, part, x, y)


def _find_svhn(name: str, root: Path) -> Path | None:
    folder = below(root, "svhn")
    if folder is None:
        return None
    files = (folder / f"{part}_32x32.mat" for part in ("train", "test"))
    return folder if all(file.is_file() for file in files) else None


def _load_svhn(name: str, part: str | None, folder: Path) -> Domain:
    from scipy.io import loadmat

    part = part or "train"
    path = folder / f"{part}_32x32.mat"
    with reading(path):
        file = loadmat(path)
        x = np.ascontiguousarray(file["X"].transpose(3, 2, 0, 1))
        # The files call the digit 0 class 10.
        y = file["y"].ravel().astype(np.int64) % 10
    return _scan_domain(name, part, x, y)


def _find_mnist_m(name: str, root: Path) -> Path | None:
    parts = [below(root, "mnist-m", folder) for folder in _MNIST_M.values()]
    return below(root, "mnist-m") if None not in parts else None


def _load_mnist_m(name: str, part: str | None, folder: Path) -> Domain:
    inner = below(folder, _MNIST_M[part or "train"])
    assert inner is not None
    return from_folder(inner, name=name, labelled=True, augment="glyph")


def _fetch_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(str(folder), download=True)


def _fetch_usps(folder: Path) -> None:
    from torchvision.datasets import USPS

    for train in (True, False):
        USPS(str(folder), train=train, download=True)


def _fetch_svhn(folder: Path) -> None:
    from torchvision.datasets import SVHN

    for part in ("train", "test"):
        SVHN(str(folder), split=part, download=True)


COLLECTIONS: dict[str, Collection] = {
    "mnist": Collection(
        what="MNIST: handwritten digits, 28x28, 60,000 and 10,000",
        origin="torchvision, or http://yann.lecun.com/exdb/mnist",
        layout="mnist/MNIST/raw/*-ubyte.gz",
        classes=10,
        domains=(),
        load=_load_mnist,
        find=_find_mnist,
        parts=TRAIN_TEST,
        pairs=(("mnist", "usps"), ("mnist", "mnist-m")),
        download=_fetch_mnist,
    ),
    "usps": Collection(
        what="USPS: digits of envelopes, 16x16, 7,291 and 2,007",
        origin="torchvision, or Hull (1994)",
        layout="usps/usps.npz or usps/usps.bz2 and usps/usps.t.bz2",
        classes=10,
        domains=(),
        load=_load_usps,
        find=_find_usps,
        parts=TRAIN_TEST,
        pairs=(("usps", "mnist"),),
        download=_fetch_usps,
    ),
    "svhn": Collection(
        what="SVHN: house numbers, 32x32, 73,257 and 26,032",
        origin="torchvision, or http://ufldl.stanford.edu/housenumbers",
        layout="svhn/train_32x32.mat and svhn/test_32x32.mat",
        classes=10,
        domains=(),
        load=_load_svhn,
        find=_find_svhn,
        parts=TRAIN_TEST,
        pairs=(("svhn", "mnist"),),
        download=_fetch_svhn,
    ),
    "mnist-m": Collection(
        what="MNIST-M: MNIST blended onto photographs, 60,000 and 10,000",
        origin="Ganin et al. (2016), arXiv:1505.07818",
        layout="mnist-m/{train,test}/<class>/*.png",
        classes=10,
        domains=(),
        load=_load_mnist_m,
        find=_find_mnist_m,
        parts=TRAIN_TEST,
    ),
}
