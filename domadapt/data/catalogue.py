"""Named domains and tasks: ``digits:printed``, ``mnist->usps``, ``office31:amazon->webcam``, ...

A *domain* is ``collection:domain``, or ``collection:domain:part`` where the data have a training
and a test part; MNIST, USPS, SVHN and MNIST-M are collections of one domain: ``mnist:test``.
A *task* is ``collection:source->target``; several sources are joined by ``+``.

`digits` is embedded. All else is read below the *data root*: the argument, else the environment
variable ``DOMADAPT_DATA``. Folders are found whatever their capitals, spaces, hyphens and
underscores.

====================  ==========================================================================
collection            below the data root
====================  ==========================================================================
`mnist`               ``mnist/[MNIST/raw/]{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]``
`usps`                ``usps/usps.npz`` (x_train, y_train, x_test, y_test; values 0 to 1 or
                      uint8), or torchvision's ``usps/usps[.t].bz2``
`svhn`                ``svhn/{train,test}_32x32.mat``
`mnist-m`             ``mnist-m/{train,test}/<class>/*.png``; also ``training`` and ``testing``
`office31`            ``office31/{amazon,dslr,webcam}/[images/]<class>/*.jpg``
`office-home`         ``office-home/{Art,Clipart,Product,Real World}/<class>/*.jpg``
`visda2017`           ``visda2017/{train,validation}/<class>/*``
`domainnet`           ``domainnet/{clipart,infograph,painting,quickdraw,real,sketch}/<class>/*``
`pacs`                ``pacs/[kfold/]{art_painting,cartoon,photo,sketch}/<class>/*``
`office31-features`   ``office31_features/*.npz`` (features, label, classes, domain)
`office-caltech`      ``office_caltech/{amazon,caltech10,dslr,webcam}_SURF_L10.mat``
`amazon`              ``amazon_bow/{books,dvd,electronics,kitchen}_{train,test}.svmlight[.gz]``
`amazon-reviews`      ``amazon_reviews/amazon_reviews.csv[.gz]`` (columns domain, label, text)
`har`                 ``har/*.npz`` (X, y, subject, split: 0 train, 1 test)
====================  ==========================================================================

MNIST, USPS and SVHN that are not there are downloaded by torchvision, into the data root or, where
there is none, into the user's cache folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domadapt.data.arrays import ArraySamples, from_arrays
from domadapt.data.digits import NAMES as DIGITS
from domadapt.data.digits import digits_domain
from domadapt.data.folder import from_folder
from domadapt.data.table import read_frame
from domadapt.data.text import from_texts
from domadapt.errors import DomadaptError, unknown
from domadapt.task import Domain, Task

#: (domain, part or None, where its data are) -> the domain.
Loader = Callable[[str, str | None, Path], Domain]


@dataclass(frozen=True)
class Entry:
    """A line of ``domadapt list tasks``.

    Attributes:
        name: what `domain` or `task` takes.
        what: what it is.
        classes: the number of classes.
        origin: where the data come from.
        at_hand: whether the data are found now; whether they are whole is not checked.
    """

    name: str
    what: str
    classes: int
    origin: str
    at_hand: bool


@dataclass(frozen=True)
class _Collection:
    what: str
    origin: str
    layout: str
    classes: int
    #: Its domains; none where the collection is itself one domain.
    domains: tuple[str, ...]
    load: Loader
    #: Where a domain's data are, or None: (domain, data root) -> file or folder.
    find: Callable[[str, Path], Path | None]
    #: The parts a domain has; a task trains on the first and is scored on "test".
    parts: tuple[str, ...] = ()
    #: The tasks that are listed; others work too. None: every ordered pair of domains.
    pairs: tuple[tuple[str, str], ...] | None = None
    #: Short names of domains that papers use.
    short: Mapping[str, str] = field(default_factory=dict)
    downloads: bool = False


def domain(spec: str, data_root: Path | str | None = None) -> Domain:
    """A domain by name, such as ``digits:printed``, ``usps:test``, ``office31:amazon``, ``har:2``.

    Without a part, ``mnist``, ``usps``, ``svhn``, ``mnist-m`` and ``amazon:*`` are their training
    parts and ``har:*`` is all of a subject. Forms: MNIST, USPS and SVHN are uint8 images of 28, 16
    and 32 pixels with augmentation "glyph"; image folders are streamed; ``office31-features`` are
    vectors as stored; ``office-caltech`` are SURF histograms, each brought to sum 1 and then each
    word z-scored within the domain (the protocol of Long et al., 2013, JDA); ``amazon`` are
    5,000 words and pairs of words as tf-idf of length 1: ``(1 + log count) (1 + log((1 + n) /
    (1 + df)))``, ``df`` counted in the domain's own training part, without labels; ``har`` are
    series ``(9, 128)`` whose windows overlap by half, so that a random validation part of one
    subject is optimistic.

    Args:
        spec: ``collection``, ``collection:domain`` or ``collection:domain:part``.
        data_root: the folder of data sets; by default the environment variable DOMADAPT_DATA.

    Raises:
        DomadaptError: an unknown name, or data that are not there and cannot be downloaded.
    """
    collection, name, part = _parse(spec)
    return _load(collection, name, part, _root(data_root))


def task(spec: str, data_root: Path | str | None = None) -> Task:
    """A task by name, such as ``digits:printed->handwritten``, ``mnist->usps``, ``har:2->11``.

    Transductive, scored on the target samples it trains with: ``digits``, ``office31``,
    ``office-home``, ``visda2017``, ``domainnet``, ``pacs``, ``office31-features``,
    ``office-caltech`` and ``amazon-reviews``. Inductive, trained on the labelled training part of
    the source and the unlabelled one of the target and scored on the test part of the target: the
    tasks between ``mnist``, ``usps``, ``svhn`` and ``mnist-m`` (full official sets), ``amazon`` and
    ``har``.

    MNIST, USPS and SVHN of one task get one size, bilinearly and once: 32 pixels where SVHN is one
    of them, else 28. MNIST-M is streamed at its own size.

    Args:
        spec: ``source->target``; the target may leave out the source's collection. Several source
            domains are joined by ``+``.
        data_root: as for `domain`.

    Raises:
        DomadaptError: as for `domain`; or source and target of collections that do not go together.
    """
    sides = _sides(spec)
    *sources, (collection, name, _) = sides
    root = _root(data_root)
    size = 32 if any(c == "svhn" for c, *_ in sides) else 28
    parts = _COLLECTIONS[collection].parts
    inductive = "test" in parts

    def get(collection: str, name: str, part: str | None) -> Domain:
        loaded = _load(collection, name, part, root)
        return _resized(loaded, size) if collection in _SCANS else loaded

    return Task(
        [get(c, n, "train" if inductive else None) for c, n, _ in sources],
        get(collection, name, "train" if inductive else None),
        target_test=get(collection, name, "test") if inductive else None,
        name=_task_spec([(c, n) for c, n, _ in sides]),
    )


def protocol(spec: str) -> tuple[str, str]:
    """The name of a task as the catalogue spells it, and "transductive" or "inductive".

    Raises:
        DomadaptError: no task has this name. Whether its data are there is not asked.
    """
    named = [(collection, name) for collection, name, _ in _sides(spec)]
    inductive = "test" in _COLLECTIONS[named[-1][0]].parts
    return _task_spec(named), "inductive" if inductive else "transductive"


def pairs(collection: str) -> list[str]:
    """The names of the tasks between any two domains of a collection."""
    of = _COLLECTIONS[collection]
    return [
        _task_spec(((collection, a), (collection, b)))
        for a, b in itertools.permutations(of.domains, 2)
    ]


def _sides(spec: str) -> list[tuple[str, str, str | None]]:
    """The sources of a task and, last, its target."""
    left, arrow, right = (s.strip() for s in spec.partition("->"))
    if not (left and arrow and right):
        raise DomadaptError(
            f"A task is named 'collection:source->target', such as 'digits:printed->handwritten' "
            f"or 'mnist->usps'; got {spec!r}. Quote it, so that the shell does not redirect."
        )
    first = _parse(left.split("+")[0])
    sides = [first, *(_parse(s, first[0]) for s in (*left.split("+")[1:], right))]
    for collection, name, part in sides:
        if part is not None:
            raise DomadaptError(
                f"A task chooses training and test parts itself; got part {part!r} of "
                f"{_spec(collection, name)!r}. Leave it out."
            )
        if collection != first[0] and not {collection, first[0]} <= set(_SCANS):
            raise DomadaptError(
                f"The source and target of a named task must be of one collection, or two of "
                f"{', '.join(_SCANS)}; got {first[0]!r} and {collection!r}. To join others, build "
                f"a Task from two domains."
            )
    return sides


def domains(data_root: Path | str | None = None) -> list[Entry]:
    """Every named domain."""
    root = _root(data_root)
    return [
        _entry(_spec(c, name), [(c, name)], root)
        for c, of in _COLLECTIONS.items()
        for name in of.domains or (c,)
    ]


def tasks(data_root: Path | str | None = None) -> list[Entry]:
    """The named tasks of one source; of ``har``, the ten that are usual."""
    root = _root(data_root)
    pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for c, of in _COLLECTIONS.items():
        if of.domains:
            chosen = itertools.permutations(of.domains, 2) if of.pairs is None else of.pairs
            pairs += [((c, a), (c, b)) for a, b in chosen]
        elif of.pairs:
            pairs += [((a, a), (b, b)) for a, b in of.pairs]
    return [_entry(_task_spec(pair), pair, root) for pair in pairs]


def _entry(spec: str, of: Iterable[tuple[str, str]], root: Path | None) -> Entry:
    ends = [(_COLLECTIONS[c], c, name) for c, name in of]
    distinct = list({c: end for end, c, _ in ends}.values())
    return Entry(
        name=spec,
        what="; ".join(c.what for c in distinct),
        classes=distinct[0].classes,
        origin="; ".join(c.origin for c in distinct),
        at_hand=all(_at_hand(c, name, root) for _, c, name in ends),
    )


def _at_hand(collection: str, name: str, root: Path | None) -> bool:
    try:
        return _find(collection, name, root) is not None
    except DomadaptError:
        return False


def _spec(collection: str, name: str) -> str:
    return f"{collection}:{name}" if _COLLECTIONS[collection].domains else collection


def _task_spec(sides: Iterable[tuple[str, str]]) -> str:
    (collection, name), *others = sides
    rest = [n for _, n in others]
    return f"{'+'.join([_spec(collection, name), *rest[:-1]])}->{rest[-1]}"


def _parse(spec: str, within: str | None = None) -> tuple[str, str, str | None]:
    """(collection, domain, part or None) of a spec; `within` is the collection it may leave out."""
    words = spec.strip().split(":")
    collection = _match(words[0], _COLLECTIONS)
    # office31 and the reviews both have an "amazon": a lone word is first a domain of `within`.
    if within is not None and _COLLECTIONS[within].domains:
        lone = len(words) == 1 and _domain_name(within, words[0]) is not None
        if lone or collection is None:
            words, collection = [within, *words], within
    if collection is None:
        raise unknown("collection", words[0], _COLLECTIONS)
    of = _COLLECTIONS[collection]
    rest = words[1:]
    name: str | None = collection
    if of.domains:
        if not rest or not rest[0]:
            raise DomadaptError(
                f"{collection!r} has several domains; name one, such as "
                f"'{collection}:{of.domains[0]}'. It has {', '.join(of.domains)}."
            )
        name = _domain_name(collection, rest[0])
        if name is None:
            raise unknown(f"domain of {collection}", rest[0], of.domains)
        rest = rest[1:]
    assert name is not None
    if not rest:
        return collection, name, None
    if not of.parts or len(rest) > 1:
        raise DomadaptError(
            f"A domain is named 'collection:domain'{' or with a part' if of.parts else ''}; "
            f"{spec!r} has too many colons: {_spec(collection, name)!r} is enough."
        )
    if rest[0] not in of.parts:
        raise unknown(f"part of {_spec(collection, name)}", rest[0], of.parts)
    return collection, name, rest[0]


def _domain_name(collection: str, given: str) -> str | None:
    of = _COLLECTIONS[collection]
    return of.short.get(given.lower()) or _match(given, of.domains)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _match(given: str, known: Iterable[str]) -> str | None:
    return next((name for name in known if _key(name) == _key(given)), None)


def _root(given: Path | str | None) -> Path | None:
    where = given or os.environ.get("DOMADAPT_DATA")
    if not where:
        return None
    if not Path(where).is_dir():
        raise DomadaptError(
            f"The data root must be a folder; {str(where)!r} is none. Give another one "
            "(--data-root, or the environment variable DOMADAPT_DATA)."
        )
    return Path(where)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "domadapt"


def _find(collection: str, name: str, root: Path | None) -> Path | None:
    of = _COLLECTIONS[collection]
    if of.origin == "embedded":
        return Path()
    places = [root] if root else []
    if of.downloads:
        places.append(_cache())
    found = (of.find(name, place) for place in places)
    return next((place for place in found if place is not None), None)


def _load(collection: str, name: str, part: str | None, root: Path | None) -> Domain:
    of = _COLLECTIONS[collection]
    where = _find(collection, name, root)
    if where is None and of.downloads:
        where = _download(collection, (root or _cache()) / collection)
    if where is None:
        place = f"{str(root)!r} does not hold it" if root else "there is no data root"
        raise DomadaptError(
            f"{_spec(collection, name)!r} is read from {of.layout} below the data root, but "
            f"{place}. Put the data there ({of.origin}), or name the folder that holds them "
            "(--data-root, or the environment variable DOMADAPT_DATA)."
        )
    return of.load(name, part, where)


def _below(folder: Path | None, *steps: str) -> Path | None:
    """The folder or file under `folder`, each step one of ``a|b`` whatever its spelling.

    A step that ends in ``?`` may be missing.
    """
    for step in steps:
        if folder is None or not folder.is_dir():
            return None
        names = {_key(name) for name in step.rstrip("?").split("|")}
        inner = next((p for p in sorted(folder.iterdir()) if _key(p.name) in names), None)
        folder = inner if inner is not None or not step.endswith("?") else folder
    return folder


# --- images of digits ---------------------------------------------------------------------------

_TEN = tuple("0123456789")
_MNIST = {"train": "train", "test": "t10k"}
_USPS = {"train": "usps.bz2", "test": "usps.t.bz2"}


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


def _resized(of: Domain, size: int) -> Domain:
    """The same domain with its images in memory at ``size x size``; streamed ones as they are."""
    from torchvision.transforms.v2.functional import resize

    samples = of.samples
    if not isinstance(samples, ArraySamples) or samples.x.shape[-2:] == (size, size):
        return of
    x = torch.tensor(samples.x)
    x = resize(x[:, None] if x.ndim == 3 else x, [size, size], antialias=True)
    return dataclasses.replace(of, samples=ArraySamples(x.numpy(), "image"))


def _find_mnist(name: str, root: Path) -> Path | None:
    for folder in (_below(root, "mnist", "MNIST?", "raw"), _below(root, "mnist")):
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
    with _reading(path):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"no idx file of {ndim} dimension(s)")
        shape = np.frombuffer(data, ">u4", count=ndim, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape.tolist())


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DomadaptError:
        raise
    # Each library has its own exceptions for a broken file, not all of them documented.
    except Exception as error:
        raise DomadaptError(
            f"The file {str(path)!r} cannot be read as the catalogue expects "
            f"({type(error).__name__}: {error}). Fetch it again, or remove it."
        ) from error


def _find_usps(name: str, root: Path) -> Path | None:
    folder = _below(root, "usps")
    if folder is None:
        return None
    whole = all((folder / file).is_file() for file in _USPS.values())
    return folder if whole or (folder / "usps.npz").is_file() else None


def _load_usps(name: str, part: str | None, folder: Path) -> Domain:
    part = part or "train"
    path = folder / "usps.npz"
    if not path.is_file():
        from torchvision.datasets import USPS

        with _reading(folder / _USPS[part]):
            scans = USPS(str(folder), train=part == "train", download=False)
        return _scan_domain(name, part, scans.data, np.array(scans.targets))
    with _reading(path), np.load(path, allow_pickle=False) as file:
        x, y = file[f"x_{part}"], file[f"y_{part}"]
        if x.dtype != np.uint8:
            if not (x.min() >= 0 and x.max() <= 1):
                raise ValueError(f"x_{part} must lie in 0..1; it spans {x.min()}..{x.max()}")
            x = np.round(x * 255).astype(np.uint8)
    return _scan_domain(name, part, x, y)


def _find_svhn(name: str, root: Path) -> Path | None:
    folder = _below(root, "svhn")
    if folder is None:
        return None
    files = (folder / f"{part}_32x32.mat" for part in ("train", "test"))
    return folder if all(file.is_file() for file in files) else None


def _load_svhn(name: str, part: str | None, folder: Path) -> Domain:
    from scipy.io import loadmat

    part = part or "train"
    path = folder / f"{part}_32x32.mat"
    with _reading(path):
        file = loadmat(path)
        x = np.ascontiguousarray(file["X"].transpose(3, 2, 0, 1))
        # The files call the digit 0 class 10.
        y = file["y"].ravel().astype(np.int64) % 10
    return _scan_domain(name, part, x, y)


def _download(collection: str, folder: Path) -> Path:
    from torchvision import datasets

    calls: dict[str, list[Callable[[], object]]] = {
        "mnist": [lambda: datasets.MNIST(str(folder), download=True)],
        "usps": [
            functools.partial(datasets.USPS, str(folder), train=train, download=True)
            for train in (True, False)
        ],
        "svhn": [
            functools.partial(datasets.SVHN, str(folder), split=part, download=True)
            for part in ("train", "test")
        ],
    }
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for call in calls[collection]:
            call()
    except (OSError, RuntimeError, EOFError) as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise DomadaptError(
            f"{collection!r} is not at hand and could not be downloaded into {str(folder)!r} "
            f"({error}). Put its files there by hand: {_COLLECTIONS[collection].layout} below the "
            "data root (--data-root, or the environment variable DOMADAPT_DATA)."
        ) from error
    found = _COLLECTIONS[collection].find(collection, folder.parent)
    if found is None:
        raise DomadaptError(
            f"The download of {collection!r} into {str(folder)!r} is not whole; remove the folder "
            "and try again."
        )
    return found


# --- folders of images --------------------------------------------------------------------------


def _find_folder(collection: str, name: str, root: Path) -> Path | None:
    if collection == "visda2017":
        return _below(root, "visda2017|visda", name)
    if collection == "office-home":
        return _below(root, "office-home|OfficeHomeDataset_10072016", name)
    return _below(root, collection, "kfold?", name, "images?")


_MNIST_M = {"train": "train|training", "test": "test|testing"}


def _find_mnist_m(name: str, root: Path) -> Path | None:
    parts = [_below(root, "mnist-m", folder) for folder in _MNIST_M.values()]
    return _below(root, "mnist-m") if None not in parts else None


def _load_folder(name: str, part: str | None, folder: Path) -> Domain:
    return from_folder(folder, name=name, augment="photo")


def _load_mnist_m(name: str, part: str | None, folder: Path) -> Domain:
    inner = _below(folder, _MNIST_M[part or "train"])
    assert inner is not None
    return from_folder(inner, name=name, labelled=True, augment="glyph")


# --- vectors and series -------------------------------------------------------------------------

_SENTIMENTS = ("negative", "positive")
_ACTIVITIES = (
    "walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying",
)  # fmt: skip
#: The pairs of AdaTime (Ragab et al., 2023, arXiv:2203.08321).
_HAR_PAIRS = (
    "2-11", "6-23", "7-13", "9-18", "12-16", "18-27", "20-5", "24-8", "28-27", "30-20",
)  # fmt: skip


def _only_npz(folder: Path | None) -> Path | None:
    files = sorted(folder.glob("*.npz")) if folder is not None and folder.is_dir() else []
    return files[0] if len(files) == 1 else None


def _load_features(name: str, part: str | None, path: Path) -> Domain:
    with _reading(path), np.load(path, allow_pickle=False) as file:
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

    with _reading(path):
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


#: In the order of the files' labels 1 to 10.
_OFFICE_CALTECH = (
    "backpack", "touring-bike", "calculator", "head-phones", "computer-keyboard",
    "laptop-101", "computer-monitor", "computer-mouse", "coffee-mug", "video-projector",
)  # fmt: skip


def _find_reviews(name: str, root: Path) -> Path | None:
    folder = _below(root, "amazon_bow")
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
        with _reading(path):
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
    folder = _below(root, "amazon_reviews")
    if folder is None:
        return None
    files = (folder / f"amazon_reviews.csv{end}" for end in (".gz", ""))
    return next((file for file in files if file.is_file()), None)


def _load_texts(name: str, part: str | None, path: Path) -> Domain:
    with _reading(path):
        frame = read_frame(path, texts=True)
    rows = frame[frame["domain"] == name]
    return from_texts(
        rows["text"].tolist(),
        np.where(rows["label"].astype(int) > 0, "positive", "negative"),
        name=name,
        ids=[f"{name}/{i:05d}" for i in range(len(rows))],
        class_names=_SENTIMENTS,
    )


def _find_har(name: str, root: Path) -> Path | None:
    path = _only_npz(_below(root, "har"))
    if path is None:
        return None
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return path if int(name) in file["subject"] else None


def _load_har(name: str, part: str | None, path: Path) -> Domain:
    with _reading(path), np.load(path, allow_pickle=False) as file:
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


# --- the catalogue ------------------------------------------------------------------------------


def _images(
    collection: str, what: str, origin: str, classes: int, names: tuple[str, ...], **more: Any
) -> _Collection:
    return _Collection(
        what=what,
        origin=origin,
        layout=f"{collection}/<domain>/<class>/*.jpg (or .png)",
        classes=classes,
        domains=names,
        load=_load_folder,
        find=functools.partial(_find_folder, collection),
        **more,
    )


_TRAIN_TEST = ("train", "test")
_OFFICE31 = ("amazon", "dslr", "webcam")
_COLLECTIONS: dict[str, _Collection] = {
    "digits": _Collection(
        what="printed digits, handwritten ones, and handwritten ones on photographs, 16x16",
        origin="embedded",
        layout="the package",
        classes=10,
        domains=DIGITS,
        load=lambda name, part, where: digits_domain(name),
        find=lambda name, root: Path(),
    ),
    "mnist": _Collection(
        what="MNIST: handwritten digits, 28x28, 60,000 and 10,000",
        origin="torchvision, or http://yann.lecun.com/exdb/mnist",
        layout="mnist/MNIST/raw/*-ubyte.gz",
        classes=10,
        domains=(),
        load=_load_mnist,
        find=_find_mnist,
        parts=_TRAIN_TEST,
        pairs=(("mnist", "usps"), ("mnist", "mnist-m")),
        downloads=True,
    ),
    "usps": _Collection(
        what="USPS: digits of envelopes, 16x16, 7,291 and 2,007",
        origin="torchvision, or Hull (1994)",
        layout="usps/usps.npz or usps/usps.bz2 and usps/usps.t.bz2",
        classes=10,
        domains=(),
        load=_load_usps,
        find=_find_usps,
        parts=_TRAIN_TEST,
        pairs=(("usps", "mnist"),),
        downloads=True,
    ),
    "svhn": _Collection(
        what="SVHN: house numbers, 32x32, 73,257 and 26,032",
        origin="torchvision, or http://ufldl.stanford.edu/housenumbers",
        layout="svhn/train_32x32.mat and svhn/test_32x32.mat",
        classes=10,
        domains=(),
        load=_load_svhn,
        find=_find_svhn,
        parts=_TRAIN_TEST,
        pairs=(("svhn", "mnist"),),
        downloads=True,
    ),
    "mnist-m": _Collection(
        what="MNIST-M: MNIST blended onto photographs, 60,000 and 10,000",
        origin="Ganin et al. (2016), arXiv:1505.07818",
        layout="mnist-m/{train,test}/<class>/*.png",
        classes=10,
        domains=(),
        load=_load_mnist_m,
        find=_find_mnist_m,
        parts=_TRAIN_TEST,
    ),
    "office31": _images(
        "office31",
        "Office-31: objects in shop pictures, webcam and camera photographs",
        "Saenko et al. (2010)",
        31,
        _OFFICE31,
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
    "office31-features": _Collection(
        what="Office-31 as features of a network trained on ImageNet",
        origin="Saenko et al. (2010), one feature file made from it",
        layout="one office31_features/*.npz (features, label, classes, domain)",
        classes=31,
        domains=_OFFICE31,
        load=_load_features,
        find=lambda name, root: _only_npz(_below(root, "office31_features")),
    ),
    "office-caltech": _Collection(
        what="Office-Caltech-10: SURF histograms of objects, 800 words",
        origin="Gong et al. (2012)",
        layout="office_caltech/<domain>_SURF_L10.mat",
        classes=10,
        domains=("amazon", "caltech10", "dslr", "webcam"),
        load=_load_surf,
        find=lambda name, root: _below(root, "office_caltech", f"{name}_SURF_L10.mat"),
        short={"a": "amazon", "c": "caltech10", "d": "dslr", "w": "webcam"},
    ),
    "amazon": _Collection(
        what="Amazon reviews: sentiment, 5,000 words and pairs of words",
        origin="Blitzer et al. (2007), as prepared by Chen et al. (2012)",
        layout="amazon_bow/<domain>_{train,test}.svmlight.gz",
        classes=2,
        domains=("books", "dvd", "electronics", "kitchen"),
        load=_load_reviews,
        find=_find_reviews,
        parts=_TRAIN_TEST,
    ),
    "amazon-reviews": _Collection(
        what="Amazon reviews: sentiment, the texts themselves",
        origin="Blitzer et al. (2007)",
        layout="amazon_reviews/amazon_reviews.csv[.gz] (domain, label 0 or 1, text)",
        classes=2,
        domains=("books", "dvd", "electronics", "kitchen"),
        load=_load_texts,
        find=_find_texts,
    ),
    "har": _Collection(
        what="UCI HAR: activities from a phone's inertial sensors, 9 channels, 128 steps",
        origin="Anguita et al. (2013), UCI repository",
        layout="one har/*.npz (X, y, subject, split)",
        classes=6,
        domains=tuple(str(i) for i in range(1, 31)),
        load=_load_har,
        find=_find_har,
        parts=_TRAIN_TEST,
        pairs=tuple((a, b) for a, b in (pair.split("-") for pair in _HAR_PAIRS)),
    ),
}
_SCANS = ("mnist", "usps", "svhn", "mnist-m")
