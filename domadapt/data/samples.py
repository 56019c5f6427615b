"""What arrays hold, a batch at a time: images, vectors, series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from domadapt.errors import DomadaptError, listed
from domadapt.task import Kind, Raw

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
        self.kind: Kind = guess(x) if kind is None else kind
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
            f"Every input column of {where!r} must be numeric; {listed(strange)} "
            f"{'is' if len(strange) == 1 else 'are'} not. Drop or encode them, or name the input "
            "columns (columns=...); a column of texts needs a model that reads them (--model "
            "hf:FOLDER)."
        )
    missing = {str(c): int(k) for c, k in frame.isna().sum().items() if k}
    if missing:
        raise DomadaptError(
            f"Inputs may not be missing; {where!r} lacks values in "
            f"{listed([f'{c} ({k})' for c, k in missing.items()])}. Fill them in or drop the rows."
        )
    with np.errstate(over="ignore"):
        x: np.ndarray = frame.to_numpy(dtype=np.float32)
    infinite = np.flatnonzero(~np.isfinite(x).all(axis=0))
    if len(infinite):
        names = [str(frame.columns[j]) for j in infinite]
        raise DomadaptError(
            f"Inputs must be finite in float32; {where!r} holds infinite values in "
            f"{listed(names)}. Replace them or drop the rows."
        )
    return x


def guess(x: Any) -> Kind:
    """What the samples of an array are, by its shape and type (`ArraySamples`)."""
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
