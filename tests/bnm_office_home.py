"""A run in which confidence rises while accuracy falls, built around what is recorded of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from domadapt.evaluation import Outputs
from domadapt.selection.evidence import Evidence, together

CLASSES, N = 65, 2_000
#: Recorded in the logs of the authors of EnsV: BNM on Office-Home, Art to Clipart, by its weight.
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
ACCURACY = (0.465, 0.512, 0.546, 0.569, 0.587, 0.578, 0.534)
CONFIDENCE = (0.284, 0.487, 0.685, 0.841, 0.949, 0.979, 0.986)
#: Not recorded, and made up: source_only, somewhat below the smallest weight.
BASELINE, BEFORE_ACCURACY, BEFORE_CONFIDENCE = "source_only", 0.45, 0.26
NAMES = [f"bnm {weight:g}" for weight in WEIGHTS]


def run(seed: int, churn: float = 0.05, nested: bool = False) -> tuple[Tensor, list[Evidence]]:
    """True classes, and the evidence on source_only and seven candidates.

    Recorded are the accuracy and the mean largest probability of each candidate, and both are met
    exactly. Which samples are right, and what is said of the others, is not recorded; it is
    constructed like this:

    - each class is mistaken for three others. source_only is right on a random 45 %;
    - a candidate corrects source_only's mistakes in an order of ease that all have in common, up
      to noise. Other mistakes stay, but for a share `churn` of all samples that change in each
      candidate on their own: half of them are newly wrong, half wrong in another way;
    - from weight 1 on, what the best weight reached is lost again in clusters: half of a class
      goes to a wrong one as a whole, its right and its wrong samples alike. A large weight asks
      for certain and varied predictions, which arbitrary clusters give as well as classes do.
      Which clusters, each of the two candidates draws on its own, or, if `nested`, the last weight
      begins with those of the one before.

    Every candidate is as accurate on the source; features are clusters of what it predicts.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(N) % CLASSES
    rivals = (np.arange(CLASSES)[:, None] + draw.integers(1, CLASSES, (CLASSES, 3))) % CLASSES
    halves = [rows for c in range(CLASSES) for rows in np.array_split(np.flatnonzero(y == c), 2)]

    def mistake(now: np.ndarray, rows: np.ndarray) -> None:
        now[rows] = rivals[y[rows], draw.integers(0, 3, len(rows))]

    before = y.copy()
    mistake(before, draw.permutation(N)[: N - round(BEFORE_ACCURACY * N)])
    ease, clusters = draw.random(N), draw.permutation(len(halves))
    said = {BASELINE: before}
    for name, accuracy in zip(NAMES, ACCURACY, strict=True):
        falls = name in NAMES[5:]
        now, right = before.copy(), round(accuracy * N)
        for rows in (np.flatnonzero(now == y), np.flatnonzero(now != y)):
            mistake(now, draw.permutation(rows)[: round(churn / 2 * N)])
        # Weights past the best one begin with what the best one reaches.
        wanted = round(max(ACCURACY) * N) if falls else right
        order = np.argsort(ease + 0.2 * draw.random(N) + 2.0 * (now == y))
        gained = order[: wanted - int((now == y).sum())]
        now[gained] = y[gained]
        if falls:
            own = clusters if nested else draw.permutation(len(halves))
            _lose(now, y, [halves[i] for i in own], right, draw)
        said[name] = now
    confidence = dict(zip(NAMES, CONFIDENCE, strict=True)) | {BASELINE: BEFORE_CONFIDENCE}
    labels = np.arange(260) % CLASSES
    wrong = np.where(np.arange(260) < 52, (labels + 1) % CLASSES, labels)
    found = []
    for name, now in said.items():
        target, val = (_outputs(d, confidence[name], draw) for d in (now, wrong))
        held = Outputs(val.logits, val.z, torch.from_numpy(labels))
        found.append(Evidence(name, target, held, held, trains_on_confidence=name != BASELINE))
    return torch.from_numpy(y), together(found)


def _lose(
    now: np.ndarray,
    y: np.ndarray,
    clusters: Sequence[np.ndarray],
    right: int,
    draw: np.random.Generator,
) -> None:
    """Send clusters to a wrong class each, until so many samples are right."""
    for rows in clusters:
        excess = int((now == y).sum()) - right
        if excess <= 0:
            return
        hit = np.flatnonzero(now[rows] == y[rows])
        # Of the last cluster only a part, so that the accuracy is met exactly.
        gone = rows if len(hit) <= excess else rows[: hit[excess]]
        now[gone] = (y[rows[0]] + draw.integers(1, CLASSES)) % CLASSES


def _outputs(decided: np.ndarray, confidence: float, draw: np.random.Generator) -> Outputs:
    """Logits that decide so, with this mean largest probability, and features around them."""
    n = len(decided)
    logits = draw.normal(0.0, 0.3, (n, CLASSES)).clip(-1, 1)
    # A second class comes near; the first leads by a margin that varies from sample to sample.
    logits[np.arange(n), (decided + draw.integers(1, CLASSES, n)) % CLASSES] += 1.5
    logits[np.arange(n), decided] = 2.6 + draw.gamma(2.0, 1.0, n)
    scaled = torch.from_numpy(logits)
    low, high = 0.01, 1_000.0
    for _ in range(80):
        middle = (low * high) ** 0.5
        mean = float((middle * scaled).softmax(1).amax(1).mean())
        low, high = (middle, high) if mean < confidence else (low, middle)
    centres = np.random.default_rng(0).normal(size=(CLASSES, 24))
    z = centres[decided] + draw.normal(0.0, 0.5, (n, 24))
    return Outputs((low * scaled).float(), torch.from_numpy(z).float())
