"""Domains from arrays, tensors, data frames and .npz files."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from domadapt.data.labels import group_array, label_array, name_labels
from domadapt.data.samples import ArraySamples, TableSamples, numbers
from domadapt.errors import DomadaptError, unknown
from domadapt.regression import value_array
from domadapt.task import Domain, Kind


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


def _first(keys: Sequence[str], stems: Sequence[str], ends: Sequence[str]) -> str | None:
    names = (stem + end for end in ends for stem in stems)
    return next((name for name in names if name in keys), None)


def _doubts(samples: ArraySamples) -> tuple[str, ...]:
    shape = samples.x.shape
    if samples.kind != "series" or shape[1] != shape[2]:
        return ()
    return (f"taken as series of {shape[1]} channels; if these are grey images, kind='image'",)
