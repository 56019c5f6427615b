"""Dynamic time warping and barycentres of series, and how far two sets of series lie apart."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from domadapt.errors import DomadaptError

#: Rounds of averaging; the loss of barycentres hardly falls after a few.
ROUNDS = 5


def _costs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs of steps, ``(n, s, t)``."""
    squares = (a**2).sum(1)[:, :, None] + (b**2).sum(1)[:, None, :]
    cost: np.ndarray = np.maximum(squares - 2 * np.einsum("ncs,nct->nst", a, b), 0.0)
    return cost


def _accumulated(cost: np.ndarray) -> np.ndarray:
    """Cost of the cheapest path to every pair of steps, along diagonals for all pairs at once."""
    n, s, t = cost.shape
    total = np.full((n, s + 1, t + 1), np.inf)
    total[:, 0, 0] = 0.0
    for diagonal in range(s + t - 1):
        i = np.arange(max(0, diagonal - t + 1), min(s, diagonal + 1))
        j = diagonal - i
        before = np.minimum(total[:, i, j], np.minimum(total[:, i, j + 1], total[:, i + 1, j]))
        total[:, i + 1, j + 1] = cost[:, i, j] + before
    return total


def dtw(a: Float[np.ndarray, "n c s"], b: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, " n"]:
    """Dynamic time warping distance of the i-th series of both: root of the summed squares.

    All channels are warped together; a path moves by a step in one series or in both, without a
    window (Sakoe and Chiba, 1978, doi:10.1109/TASSP.1978.1163055).
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[:2] != b.shape[:2]:
        raise DomadaptError(
            f"Series are compared pair by pair, (n, channels, steps) each; got {a.shape} and "
            f"{b.shape}."
        )
    found: np.ndarray = np.sqrt(_accumulated(_costs(a, b))[:, -1, -1])
    return found


def barycentre(
    series: Float[np.ndarray, "n c t"], rounds: int = ROUNDS
) -> Float[np.ndarray, "c t"]:
    """The average of series under warping (Petitjean et al., 2011,
    doi:10.1016/j.patcog.2010.09.013), of as many steps.

    It begins with the series that is nearest to the plain mean, and each round moves every step to
    the mean of the steps that warp onto it.
    """
    mean = series.mean(0)
    centre = series[((series - mean) ** 2).sum((1, 2)).argmin()].astype(np.float64)
    for _ in range(rounds):
        many = np.broadcast_to(centre, series.shape)
        total = _accumulated(_costs(many, series))
        sums, counts = np.zeros_like(centre), np.zeros(centre.shape[1])
        # All paths are followed back at once, a step at a time.
        n, steps = len(series), series.shape[2]
        i, j = np.full(n, centre.shape[1]), np.full(n, steps)
        active = np.arange(n)
        while len(active):
            at, to = i[active], j[active]
            np.add.at(sums.T, at - 1, series[active, :, to - 1])
            np.add.at(counts, at - 1, 1)
            moves = np.stack(
                [
                    total[active, at - 1, to - 1],
                    total[active, at - 1, to],
                    total[active, at, to - 1],
                ]
            )
            best = moves.argmin(0)
            i[active] = at - (best != 2)
            j[active] = to - (best != 1)
            active = active[(i[active] > 0) & (j[active] > 0)]
        moved = sums / counts
        if np.allclose(moved, centre):
            break
        centre = moved
    return centre


def prototypes(
    series: Float[np.ndarray, "n c t"], groups: np.ndarray
) -> Float[np.ndarray, "k c t"]:
    """The barycentre of each group of series."""
    found: np.ndarray = np.stack([barycentre(series[groups == g]) for g in np.unique(groups)])
    return found


def set_distance(a: Float[np.ndarray, "k c s"], b: Float[np.ndarray, "m c t"]) -> float:
    """The smallest warping distance of a prototype of one set to one of the other.

    The similarity of data sets of (Fawaz et al., 2018, arXiv:1811.01533), algorithm 1.
    """
    one = np.repeat(a, len(b), axis=0)
    other = np.tile(b, (len(a), 1, 1))
    return float(dtw(one, other).min())
