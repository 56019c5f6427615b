"""Labels and groups as they are given, brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from domadapt.errors import DomadaptError, listed
from domadapt.task import canonical


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
            f"{listed(strange)}. The classes are {', '.join(names)}."
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
