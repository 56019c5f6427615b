"""Domains from data sets and loaders of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from domadapt.data.folder import image_tensor
from domadapt.data.labels import label_array, name_labels
from domadapt.data.samples import ArraySamples, guess
from domadapt.errors import DomadaptError
from domadapt.regression import value_array
from domadapt.task import Domain, Kind, Raw


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


def _guess_one(x: Any) -> Kind:
    if isinstance(x, Image.Image):
        return "image"
    return guess(torch.as_tensor(x)[None])


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
