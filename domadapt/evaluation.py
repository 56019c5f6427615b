"""What a network says of a split (`Outputs`), metrics of it, and measures of domain shift."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a network says of one split.

    Attributes:
        logits: ``(n, classes)``, float32, on the CPU.
        z: features ``(m, d)``, float32, of the first samples of the split or of the subsample
            `rows` of them.
        y: class ids ``(n,)`` where they are allowed to be known (source splits), else None.
        rows: which rows of `logits` the features belong to; None means all.
    """

    logits: Tensor
    z: Tensor
    y: Tensor | None = None
    rows: Tensor | None = None
