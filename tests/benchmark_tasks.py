"""Tasks of the tiny suite of the tests, given to it by path."""

from __future__ import annotations

import numpy as np

from domadapt.data import from_arrays
from domadapt.selftest.small import arrays, small_task
from domadapt.task import Task


def near() -> Task:
    """Three classes in six dimensions, the target shifted by two."""
    return small_task()


def far() -> Task:
    """The same with another shift and a test part of its own."""
    (x_s, y_s), (x_t, y_t) = arrays(seed=3, shift=0.0), arrays(seed=4, shift=3.0, n=90)
    x_v, y_v = arrays(seed=5, shift=3.0, n=60)
    return Task(
        from_arrays(x_s, y_s, name="a"),
        from_arrays(x_t, y_t, name="b"),
        target_test=from_arrays(x_v, y_v, name="b test"),
        name="far",
    )


def relabelled() -> Task:
    """`near` with other labels on its target."""
    return small_task(target_labels=np.roll(arrays(seed=2, shift=2.0, n=90)[1], 1))


def unlabelled() -> Task:
    """`near` without target labels."""
    return small_task(target_labels=None)


def wrong() -> str:
    """No task at all."""
    return "near"
