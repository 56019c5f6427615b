"""Domains from what is already in memory: arrays, tensors, data frames, data sets, .npz files."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from scipy import sparse
from torch import Tensor

from domadapt.data.folder import image_tensor
from domadapt.errors import DomadaptError, unknown
from domadapt.regression import value_array
from domadapt.task import Domain, Kind, Raw, canonical

_KINDS = ("image", "vector", "series")
_SHAPES = {
    "image": "(n, h, w), (n, 1 or 3, h, w) or (n, h, w, 1 or 3)",
    "vector": "(n, features)",
    "series": "(n, channels, length)",
}
_BLOCK = 1 << 22


class ArraySamples:
    """Samples from one array, kept as it is given: no copy, its own dtype, mapped if it is mapped.

    Args:
        x: ``(n, ...)``: a NumPy array (memory-mapped or not), a tensor, or a SciPy sparse matrix,
            whose rows become dense a batch at a time.
        kind: what a sample is; by default guessed. uint8 with 3 or 4 dimensions and floats in
            [0, 1] with 4 are images, 2 dimensions are vectors, 3 are series.

    Batches are uint8 ``(k, 3, h, w)`` for images of one or three channels, first or last; float32
    ``(k, d)`` for vectors and ``(k, channels, length)`` for series.

    Raises:
        DomadaptError: values that are not finite numbers (or do not fit float32), images outside
            0..255 (integers) or 0..1 (floats), or a wrong number of dimensions.
    """

    def __init__(self, x: Any, kind: Kind | None = None) -> None:
        if sparse.issparse(x):
            x = x.tocsr()
        elif isinstance(x, Tensor):
            x = x.detach().cpu()
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
        else:
            x = np.asanyarray(x)
        if x.dtype.kind not in "fiub":
            raise DomadaptError(
                f"Inputs must be numbers; got an array of dtype {x.dtype}. Encode text and "
                "categories as numbers first."
            )
        self.x = x
        self.kind: Kind = _guess(x) if kind is None else kind
        if self.kind not in _KINDS:
            raise DomadaptError(
                f"Arrays hold samples of kind {', '.join(_KINDS)}; got kind {kind!r}."
            )
        wanted = {"image": (3, 4), "vector": (2,), "series": (3,)}[self.kind]
        if x.ndim not in wanted:
            raise DomadaptError(
                f"Inputs of kind {self.kind!r} must have shape {_SHAPES[self.kind]}; got "
                f"{tuple(x.shape)}. Reshape them, or give another kind."
            )
        self.channels_last = False
        if self.kind == "image":
            self._check_image()
        else:
            _check_finite(x)

    def _check_image(self) -> None:
        x = self.x
        if x.ndim == 4:
            self.channels_last = x.shape[1] not in (1, 3)
            if self.channels_last and x.shape[3] not in (1, 3):
                raise DomadaptError(
                    f"Images must have 1 or 3 channels, first or last; got shape {tuple(x.shape)}. "
                    "Drop an alpha channel, or give kind='series' or 'vector' after reshaping."
                )
        top = 1 if x.dtype.kind in "fb" else 255
        low, high = _range(x)
        if not (low >= 0 and high <= top):
            raise DomadaptError(
                f"Images must be integers in 0..255 or finite floats in 0..1; got {x.dtype} values "
                f"from {low:g} to {high:g}. Scale them back, without mean and deviation: "
                "normalisation belongs to the network."
            )

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        rows = self.x[np.asarray(indices, dtype=np.intp)]
        if sparse.issparse(rows):
            rows = rows.toarray()
        if self.kind != "image":
            if rows.dtype == np.float16:  # NumPy widens these one by one, torch does not
                return torch.from_numpy(rows).float()
            return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        if rows.ndim == 3:
            rows = rows[:, None]
        elif self.channels_last:
            rows = np.moveaxis(rows, 3, 1)
        return _images(torch.from_numpy(np.ascontiguousarray(rows)))


class TableSamples(ArraySamples):
    """Vectors with named columns.

    Args:
        x: float32 ``(n, d)``.
        columns: the names of its d columns, in order; a target is read with those of its source.
    """

    def __init__(self, x: np.ndarray, columns: Sequence[str]) -> None:
        super().__init__(x, "vector")
        self.columns = tuple(columns)


class DatasetSamples:
    """Samples of a torch map-style data set, fetched when asked for and never kept."""

    def __init__(self, dataset: Any, kind: Kind) -> None:
        self.dataset = dataset
        self.kind = kind

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Raw:
        rows = [
            image_tensor(x) if isinstance(x, Image.Image) else torch.as_tensor(x)
            for x in _inputs(self.dataset, indices)
        ]
        if all(row.shape == rows[0].shape for row in rows):
            return self._converted(torch.stack(rows))
        if self.kind != "image":
            shapes = sorted({tuple(row.shape) for row in rows})
            raise DomadaptError(
                f"All samples of kind {self.kind!r} must have one shape; the data set gave "
                f"{shapes[0]} and {shapes[1]}. Pad or crop them."
            )
        return [self._converted(row[None])[0] for row in rows]

    def _converted(self, x: Tensor) -> Tensor:
        return cast(Tensor, ArraySamples(x, self.kind).__getitems__(range(len(x))))


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    name: str = "arrays",
    groups: Any = None,
    kind: Kind | None = None,
    augment: str | None = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    regression: bool = False,
) -> Domain:
    """A domain from an array, a tensor, a data frame or a sparse matrix.

    Args:
        x: the inputs ``(n, ...)``, see `ArraySamples`. The columns of a data frame must be
            numbers without a missing value.
        y: one label per sample, strings or integers; None, NaN and "" are samples without one.
        name: what tables call the domain.
        groups: who or what each sample comes from; splits keep groups whole.
        kind: "image", "vector" or "series"; by default guessed, see `ArraySamples`.
        augment: see `domadapt.data.views.make_views`.
        ids: one name per sample.
        class_names: the classes in order. Labels are these names, or integers counting them
            from 0. In a regression the names of what is measured, one per column of `y`.
        regression: `y` holds measurements ``(n,)`` or ``(n, k)``; NaN where one is missing.

    Raises:
        DomadaptError: inputs, labels or groups that cannot be used; the sentence says why.
    """
    frames = sys.modules.get("pandas")
    samples: ArraySamples
    if frames is not None and isinstance(x, frames.DataFrame):
        samples = TableSamples(numbers(x, name), [str(c) for c in x.columns])
        if kind not in (None, "vector"):
            raise DomadaptError(f"A data frame holds vectors; got kind {kind!r}.")
    else:
        samples = ArraySamples(x, kind)
    labels = values = None
    if regression:
        values = None if y is None else value_array(y, name)
    elif y is not None:
        labels = name_labels(label_array(y), class_names)
    return Domain(
        name,
        samples,
        labels=labels,
        values=values,
        groups=None if groups is None else group_array(groups),
        kind=samples.kind,
        augment=augment,
        ids=ids,
        class_names=None if class_names is None else tuple(str(c) for c in class_names),
        notes=_doubts(samples) if kind is None else (),
    )


def from_dataset(
    dataset: Any,
    *,
    name: str,
    labelled: bool,
    kind: Kind | None = None,
    augment: str | None = None,
    class_names: Sequence[str] | None = None,
    regression: bool = False,
) -> Domain:
    """A domain from a torch map-style data set that yields ``x`` or ``(x, y, ...)``.

    Nothing is cached. Inputs are PIL images, tensors or arrays, before normalisation (images in
    0..255 or 0..1); leave random transforms out, since views are drawn afterwards.

    Args:
        dataset: anything with ``len`` and ``[i]``.
        name: what tables call the domain.
        labelled: whether to take its labels: from ``.targets`` where the data set has it, else in
            one pass over all samples. With False no label is looked at.
        kind: what a sample is; by default guessed from the first one.
        augment: see `domadapt.data.views.make_views`.
        class_names: the names of the labels 0, 1, ...; by default the data set's ``.classes``,
            where it has any.
        regression: its labels are measurements, one number or several per sample.

    Raises:
        DomadaptError: an iterable data set, an empty one, or samples of an unknown form.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise DomadaptError(
            f"A map-style data set with len() and [i] is required; {type(dataset).__name__} can "
            "only be iterated, so it can neither be split nor shuffled. Wrap it in one that can."
        )
    if len(dataset) == 0:
        raise DomadaptError(f"The data set {name!r} holds no sample; give at least one.")
    labels = names = values = None
    if regression:
        names = None if class_names is None else tuple(map(str, class_names))
        if labelled:
            given = [_label(dataset[i], name) for i in range(len(dataset))]
            values = value_array(given, name)
    elif labelled:
        labels = _targets(dataset)
        if labels is None:
            labels = label_array([_label(dataset[i], name) for i in range(len(dataset))])
        names = _classes(dataset) if class_names is None else tuple(map(str, class_names))
        labels = name_labels(labels, names)
    kind = kind or _guess_one(_inputs(dataset, [0])[0])
    return Domain(
        name,
        DatasetSamples(dataset, kind),
        labels=labels,
        values=values,
        kind=kind,
        augment=augment,
        class_names=names,
    )


def from_loader(
    loader: torch.utils.data.DataLoader[Any],
    *,
    name: str,
    labelled: bool,
    kind: Kind | None = None,
    augment: str | None = None,
    class_names: Sequence[str] | None = None,
    regression: bool = False,
) -> Domain:
    """A domain from the data set of a `DataLoader`; see `from_dataset` for the arguments.

    The loader's own sampler, batch size, collate function and workers are *not* used: the trainer
    draws its batches itself, so that a run can be repeated and resumed exactly.
    """
    if not hasattr(loader, "dataset"):
        raise DomadaptError(
            f"A torch DataLoader is required; got {type(loader).__name__}. For a data set use "
            "from_dataset, for arrays from_arrays."
        )
    return from_dataset(
        loader.dataset,
        name=name,
        labelled=labelled,
        kind=kind,
        augment=augment,
        class_names=class_names,
        regression=regression,
    )


def from_npz(
    path: str | Path,
    *,
    name: str | None = None,
    part: Literal["train", "test"] = "train",
    group_key: str | None = None,
    kind: Kind | None = None,
    augment: str | None = None,
    regression: bool = False,
) -> Domain:
    """A domain from a NumPy file: arrays in an ``.npz``, or the inputs alone in an ``.npy``.

    In an ``.npz`` the inputs are called ``x``, ``X``, ``features``, ``data`` or ``images``, the
    labels, if there are any, ``y``, ``label``, ``labels`` or ``targets``, and class names
    ``classes`` or ``class_names``; or else ``x_train, y_train, x_test, y_test``, of which `part`
    is read. An ``.npy`` stays on disk, memory-mapped. Nothing is unpickled.

    Args:
        path: the file.
        name: what tables call the domain; by default the file's name.
        part: which of ``x_train`` and ``x_test`` to read, where there are these.
        group_key: the name of the array that says who or what each sample comes from.
        kind: see `ArraySamples`.
        augment: see `domadapt.data.views.make_views`.
        regression: the labels are measurements ``(n,)`` or ``(n, k)``.

    Raises:
        DomadaptError: no such file, no inputs in it, or arrays of Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise DomadaptError(f"A NumPy file is required; {str(path)!r} is no file.")
    if part not in ("train", "test"):
        raise DomadaptError(f"part must be 'train' or 'test'; got {part!r}.")
    try:
        if path.suffix == ".npy":
            if group_key is not None:
                raise DomadaptError(f"{path.name!r} holds one array, hence no {group_key!r}.")
            x = np.load(path, mmap_mode="r", allow_pickle=False)
            return from_arrays(x, name=name or path.stem, kind=kind, augment=augment)
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            ends = [f"_{part}", ""]
            x_key = _first(keys, ("x", "X", "features", "data", "images"), ends)
            if x_key is None:
                raise DomadaptError(
                    f"{path.name!r} must hold its inputs as x, X, features, data, images or "
                    f"x_{part}; it holds {', '.join(keys) or 'nothing'}. Rename the array."
                )
            # Inputs of one part go with labels of the same part only.
            ends = [f"_{part}" if x_key.endswith(f"_{part}") else ""]
            y_key = _first(keys, ("y", "Y", "label", "labels", "target", "targets"), ends)
            names_key = _first(keys, ("classes", "class_names"), ("",))
            if group_key is not None and group_key not in keys:
                raise unknown("array of groups", group_key, keys)
            x = file[x_key]
            y = None if y_key is None else file[y_key]
            groups = None if group_key is None else file[group_key]
            names = None if y is None or names_key is None else file[names_key].tolist()
    except DomadaptError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DomadaptError(
            f"{path.name!r} cannot be read as NumPy arrays ({error}). Arrays of Python objects are "
            "not read: save labels as strings of a fixed width (y.astype(str))."
        ) from error
    return from_arrays(
        x,
        y,
        name=name or path.stem,
        groups=groups,
        kind=kind,
        augment=augment,
        class_names=names,
        regression=regression,
    )


def numbers(frame: Any, where: str) -> np.ndarray:
    """The columns of a data frame as float32 ``(n, d)``.

    Args:
        frame: numeric and boolean columns only.
        where: what an error calls the table.

    Raises:
        DomadaptError: columns of text, categories or dates, and missing or infinite values; it
            names the columns.
    """
    strange = [str(c) for c, t in frame.dtypes.items() if getattr(t, "kind", "O") not in "fiub"]
    if strange:
        raise DomadaptError(
            f"Every input column of {where!r} must be numeric; {_listed(strange)} "
            f"{'is' if len(strange) == 1 else 'are'} not. Drop or encode them, or name the input "
            "columns (columns=...); a column of texts needs a model that reads them (--model "
            "hf:FOLDER)."
        )
    missing = {str(c): int(k) for c, k in frame.isna().sum().items() if k}
    if missing:
        raise DomadaptError(
            f"Inputs may not be missing; {where!r} lacks values in "
            f"{_listed([f'{c} ({k})' for c, k in missing.items()])}. Fill them in or drop the rows."
        )
    with np.errstate(over="ignore"):
        x: np.ndarray = frame.to_numpy(dtype=np.float32)
    infinite = np.flatnonzero(~np.isfinite(x).all(axis=0))
    if len(infinite):
        names = [str(frame.columns[j]) for j in infinite]
        raise DomadaptError(
            f"Inputs must be finite in float32; {where!r} holds infinite values in "
            f"{_listed(names)}. Replace them or drop the rows."
        )
    return x


def label_array(y: Any) -> np.ndarray:
    """Labels ``(n,)`` as NumPy strings, numbers or, where some are missing, objects with None."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    elif hasattr(y, "isna") and hasattr(y, "to_numpy"):
        # A column of pandas, or the array inside one (what `.values` of strings is).
        missing = np.asarray(y.isna())
        y = np.array(y.astype(object), dtype=object)
        y[missing] = None
    else:
        y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DomadaptError(
            f"Labels must have shape (n,), one class per sample; got {tuple(y.shape)}. Of one-hot "
            "labels give the argmax."
        )
    return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y


def name_labels(labels: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    """Labels by name: where they are not the names already, integers that count them from 0."""
    if class_names is None:
        return labels
    names = [str(c) for c in class_names]
    given = [canonical(v) for v in labels]
    if all(v is None or v in names for v in given):
        return labels
    number = {str(i): c for i, c in enumerate(names)}
    strange = sorted({v for v in given if v is not None and v not in number})
    if strange:
        raise DomadaptError(
            f"Labels must be class names or integers from 0 to {len(names) - 1}; got "
            f"{_listed(strange)}. The classes are {', '.join(names)}."
        )
    return np.array([None if v is None else number[v] for v in given], dtype=object)


def group_array(groups: Any) -> np.ndarray:
    """Groups ``(n,)``; a missing one is an error, since it cannot be kept whole."""
    values = label_array(groups)
    missing = sum(canonical(v) is None for v in values)
    if missing:
        raise DomadaptError(
            f"Every sample needs a group where groups are given; {missing} have none. Fill them "
            "in, or give no groups."
        )
    return values


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _first(keys: Sequence[str], stems: Sequence[str], ends: Sequence[str]) -> str | None:
    names = (stem + end for end in ends for stem in stems)
    return next((name for name in names if name in keys), None)


def _guess(x: Any) -> Kind:
    if x.ndim == 2:
        return "vector"
    if x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8):
        return "image"
    if x.ndim == 3:
        return "series"
    shapes = "; ".join(f"{kind} {shape}" for kind, shape in _SHAPES.items())
    raise DomadaptError(
        f"Inputs must have one of these shapes: {shapes}; got {tuple(x.shape)}. Reshape them."
    )


def _doubts(samples: ArraySamples) -> tuple[str, ...]:
    shape = samples.x.shape
    if samples.kind != "series" or shape[1] != shape[2]:
        return ()
    return (f"taken as series of {shape[1]} channels; if these are grey images, kind='image'",)


def _guess_one(x: Any) -> Kind:
    if isinstance(x, Image.Image):
        return "image"
    return _guess(torch.as_tensor(x)[None])


def _blocks(x: Any) -> Iterator[tuple[int, np.ndarray]]:
    """`x` piece by piece, since a mapped array may be larger than the memory."""
    if sparse.issparse(x):
        yield 0, x.data
        return
    step = max(1, _BLOCK // max(1, int(np.prod(x.shape[1:]))))
    for start in range(0, x.shape[0], step):
        yield start, np.asarray(x[start : start + step])


def _check_finite(x: Any) -> None:
    if x.dtype.kind != "f":
        return
    for start, block in _blocks(x):
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(block.astype(np.float32, copy=False))
        if bad.any():
            row = f", first in row {start + int(np.argwhere(bad)[0, 0])}"
            raise DomadaptError(
                f"Inputs must be finite numbers that fit float32; found NaN or infinity"
                f"{'' if sparse.issparse(x) else row}. Fill them in or drop the rows."
            )


def _range(x: Any) -> tuple[float, float]:
    if x.dtype == np.uint8 or x.size == 0:
        return 0.0, 0.0
    ends = [(block.min(), block.max()) for _, block in _blocks(x)]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def _images(x: Tensor) -> Tensor:
    """Images ``(k, 1 or 3, h, w)`` of any allowed dtype as uint8 ``(k, 3, h, w)``."""
    if x.dtype.is_floating_point:
        x = (x.float() * 255).round()
    elif x.dtype == torch.bool:
        x = x.byte() * 255
    x = x.to(torch.uint8)
    return x.expand(-1, 3, -1, -1).contiguous() if x.shape[1] == 1 else x


def _inputs(dataset: Any, indices: Sequence[int]) -> list[Any]:
    many = getattr(dataset, "__getitems__", None)
    items = many(list(indices)) if many else [dataset[int(i)] for i in indices]
    inputs = [item[0] if isinstance(item, tuple | list) else item for item in items]
    for x in inputs:
        if not isinstance(x, Tensor | np.ndarray | Image.Image):
            raise DomadaptError(
                "A data set must yield x or (x, y, ...) with x a tensor, an array or a PIL image; "
                f"it yielded {type(x).__name__}. Wrap it in one that does."
            )
    return inputs


def _label(item: Any, name: str) -> Any:
    if not (isinstance(item, tuple | list) and len(item) > 1):
        raise DomadaptError(
            f"The data set {name!r} is said to be labelled, so it must yield (x, y); it yields "
            f"{type(item).__name__}. Give labelled=False, or a data set with labels."
        )
    y = item[1]
    if isinstance(y, Tensor | np.ndarray) and y.ndim:
        return y.tolist()
    return y.item() if isinstance(y, Tensor | np.generic) else y


def _targets(dataset: Any) -> np.ndarray | None:
    if isinstance(dataset, torch.utils.data.Subset):
        whole = _targets(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    # A data set may change its targets as it yields them; then these are not what it yields.
    if targets is None or len(targets) != len(dataset):
        return None
    if getattr(dataset, "target_transform", None):
        return None
    return label_array(targets)


def _classes(dataset: Any) -> tuple[str, ...] | None:
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if names is None or getattr(dataset, "target_transform", None):
        return None
    # torchvision's MNIST says "7 - seven" where its USPS and SVHN say 7.
    short = [str(c).split(" - ")[0] for c in names]
    return tuple(short if short == [str(i) for i in range(len(short))] else map(str, names))
