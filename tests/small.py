"""The small task, network and trainer that the tests share, which the self-test ships."""

from domadapt.selftest.small import (
    N_CLASSES,
    N_FEATURES,
    POOL,
    arrays,
    make_batch,
    prepare,
    same_bits,
    samples,
    small_network,
    small_task,
    small_trainer,
    trained_network,
    weights,
)

__all__ = [
    "N_CLASSES",
    "N_FEATURES",
    "POOL",
    "arrays",
    "make_batch",
    "prepare",
    "same_bits",
    "samples",
    "small_network",
    "small_task",
    "small_trainer",
    "trained_network",
    "weights",
]
