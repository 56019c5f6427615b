"""A t-SNE map of the features of both domains, the same samples for every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.report.report import Embedding


@dataclass(frozen=True)
class Coordinates:
    """Where `embed` put each sample.

    Attributes:
        xy: ``(n_s + n_t, 2)``, source samples first.
        rows_s, rows_t: which rows of the features they are.
        perplexity: what t-SNE ran with.
        seed: of the rows and of t-SNE.
    """

    xy: np.ndarray
    rows_s: np.ndarray
    rows_t: np.ndarray
    perplexity: float
    seed: int


def choose_rows(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of ``0..n-1``, in order; a function of the numbers alone, not of features."""
    rows: np.ndarray = np.sort(np.random.default_rng(seed).permutation(n)[:most])
    return rows


def embed(z_s: Tensor, z_t: Tensor, seed: int = 0, max_points: int = 500) -> Coordinates:
    """Map features of both domains jointly to the plane with t-SNE.

    PCA initialisation, exact neighbours, one thread, perplexity ``min(30, (n - 1) / 3)`` of the n
    samples shown: the same input gives the same map on one machine.

    Source: van der Maaten and Hinton (2008); openTSNE (Poličar et al., 2024).

    Args:
        z_s: source features ``(n_s, d)``. z_t: target features ``(n_t, d)``.
        seed: of the subsample and of t-SNE.
        max_points: samples per domain at most; others are left out at random.

    Raises:
        DomadaptError: fewer than 4 samples in all, or features that are not finite.
    """
    from openTSNE import TSNE

    rows_s, rows_t = (choose_rows(len(z), max_points, seed) for z in (z_s, z_t))
    both = [z.detach().cpu()[torch.from_numpy(r)] for z, r in ((z_s, rows_s), (z_t, rows_t))]
    z = torch.cat(both).double().numpy()
    n = len(z)
    if n < 4 or not np.isfinite(z).all():
        raise DomadaptError(
            "A t-SNE map needs finite features of at least 4 samples; got "
            f"{n} samples{'' if np.isfinite(z).all() else ', some with NaN or infinity'}."
        )
    perplexity = min(30.0, (n - 1) / 3)
    if np.ptp(z, axis=0).max() == 0:
        # t-SNE divides by the spread; features without any have one place on the map.
        return Coordinates(np.zeros((n, 2)), rows_s, rows_t, perplexity, seed)
    if z.shape[1] == 1:
        # The initialisation needs two principal components.
        z = np.pad(z, ((0, 0), (0, 1)))
    tsne = TSNE(
        perplexity=perplexity,
        initialization="pca",
        neighbors="exact",
        negative_gradient_method="bh",
        n_jobs=1,
        random_state=seed,
    )
    return Coordinates(np.array(tsne.fit(z)), rows_s, rows_t, perplexity, seed)


def embedding(
    source: Outputs | None,
    target: Outputs,
    target_labels: Sequence[int | None] | None = None,
    seed: int = 0,
    max_points: int = 500,
) -> Embedding:
    """The map of a candidate, as the report keeps it.

    Args:
        source: outputs on a labelled source split; None where there is no source.
        target: outputs on ``target_test``.
        target_labels: a class id or None for each row of ``target.logits``, from
            `domadapt.evaluation.labels_for_plot`; None where the target has no labels.
        seed, max_points: as in `embed`.
    """
    if source is None:
        source = Outputs(target.logits[:0], target.z[:0], torch.zeros(0, dtype=torch.long))
    if source.y is None:
        raise DomadaptError("The map of a candidate needs the labels of the source split.")
    found = embed(source.z, target.z, seed, max_points)

    def of(outputs: Outputs, rows: np.ndarray) -> np.ndarray:
        return rows if outputs.rows is None else outputs.rows.numpy()[rows]

    in_s, in_t = of(source, found.rows_s), of(target, found.rows_t)
    predicted = target.logits.argmax(1).numpy()
    truth: list[int | None] = [None] * len(in_s)
    truth += [None if target_labels is None else target_labels[i] for i in in_t]
    # Four decimals are far below a pixel and keep the file small.
    xy = np.round(found.xy, 4)
    return Embedding(
        x=xy[:, 0].tolist(),
        y=xy[:, 1].tolist(),
        domain=[0] * len(in_s) + [1] * len(in_t),
        label=source.y.numpy()[in_s].tolist() + predicted[in_t].tolist(),
        target_label=truth,
        perplexity=found.perplexity,
        seed=seed,
        n_s=len(in_s),
        n_t=len(in_t),
    )
