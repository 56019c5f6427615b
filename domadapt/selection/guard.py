"""The guard: candidates that are broken in a way that needs no target label to see.

Label-free scores lose most of what they lose by choosing such candidates: a network that calls
everything one class is certain of all it says. They are set aside before anything is ranked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from domadapt.data.views import Views
from domadapt.evaluation import Outputs
from domadapt.inference import outputs_of
from domadapt.network import Network
from domadapt.selection.evidence import Evidence
from domadapt.task import Split

#: The largest loss of source validation accuracy against source_only that is let pass.
SOURCE_LOSS = 0.05
#: The least effective number of predicted classes, as a share of source_only's.
CLASSES_KEPT = 0.5
#: Fewer classes in effect than the first are one class, which is less than half of two; from the
#: second number on source_only predicts several.
ONE_CLASS, SEVERAL = 1.1, 1.5
#: The least effective rank of the target's features.
LEAST_RANK = 1.5
#: What is equal may differ by this much.
ROUNDING = 1e-9


def guard(candidate: Evidence, baseline: Evidence) -> list[str]:
    """Why a candidate must not be chosen, in words; empty where nothing is wrong with it.

    A candidate is set aside where

    - an output is NaN or infinite;
    - it predicts fewer than half as many classes in effect as `baseline` does, ``exp H(q)`` with q
      the mean of its predictions on the target, by probabilities or by decisions; or one class
      where `baseline` predicts several;
    - it lost more than 5 points of `baseline`'s accuracy on the source's validation samples, where
      its method trains on the source (one that goes on without it gives up source accuracy as it
      adapts its BatchNorm statistics, and is held to the other rules alone);
    - its target features have an effective rank below 1.5, ``exp H(s / sum s)`` of their singular
      values: nearly all samples lie on one line. Two classes may do so: a line is all they need.

    Args:
        candidate: what is judged.
        baseline: the evidence on source_only, the same samples; it is only checked for NaN itself.
    """
    outputs = [candidate.target, candidate.source_val, candidate.source_train]
    said = [o.logits for o in outputs if o is not None]
    if not all(bool(torch.isfinite(logits).all()) for logits in (*said, candidate.target.z)):
        return ["some of its outputs are NaN or infinite"]
    if candidate.name == baseline.name:
        return []
    reasons = []
    own, before = classes_in_effect(candidate), classes_in_effect(baseline)
    if own < _least_classes(before, CLASSES_KEPT):
        reasons.append(
            f"its predictions fall into {own:.1f} classes in effect, those of {baseline.name} "
            f"into {before:.1f}"
        )
    if candidate.trains_on_source and candidate.source_val and baseline.source_val:
        lost = accuracy(baseline.source_val.logits, baseline.source_val.y) - accuracy(
            candidate.source_val.logits, candidate.source_val.y
        )
        n = len(candidate.source_val.logits)
        if lost > SOURCE_LOSS + ROUNDING:
            reasons.append(
                f"it lost {100 * lost:.0f} points of accuracy on the source's validation samples"
                f" ({lost * n:.0f} of {n})"
            )
    rank = feature_rank(candidate.target.z)
    if candidate.classes > 2 and rank < LEAST_RANK:
        reasons.append(f"its target features have an effective rank of {rank:.1f}")
    return reasons


def _least_classes(before: float, share: float) -> float:
    """The least classes in effect that are let pass where the baseline predicts `before`."""
    return max(share * before - ROUNDING, ONE_CLASS if before >= SEVERAL else 0.0)


def classes_in_effect(evidence: Evidence) -> float:
    """How many classes a candidate's predictions spread over: ``exp H(q)``, 1 to classes.

    The smaller of that of the mean probabilities and that of the decisions' shares.
    """
    decided = torch.bincount(evidence.target.logits.argmax(1), minlength=evidence.classes).double()
    soft = torch.special.entr(evidence.p.mean(0)).sum().exp()
    hard = torch.special.entr(decided / decided.sum()).sum().exp()
    return float(torch.minimum(soft, hard))


def feature_rank(z: Tensor) -> float:
    """``exp H(s / sum s)`` of the singular values s of features ``(n, d)`` about their mean."""
    s = torch.linalg.svdvals((z - z.mean(0)).double())
    total = s.sum()
    return 1.0 if not total > 0 else float(torch.special.entr(s / total).sum().exp())


def accuracy(logits: Tensor, y: Tensor | None) -> float:
    """Share of labelled source samples that are classified rightly."""
    assert y is not None
    return float((logits.argmax(1) == y).double().mean())


def hopeless(baseline: Network, target: Split, views: Views) -> Callable[[Network], str]:
    """What tells a network in training, asked on the way, that it has collapsed for good.

    It looks at some target samples and compares with `baseline`, trained on the source alone; the
    share is half of the guard's, since a network may still recover.
    """

    def classes(network: Network) -> float:
        logits = outputs_of(network, target, views, max_features=2).logits
        if not bool(torch.isfinite(logits).all()):
            return 0.0
        return classes_in_effect(Evidence("in training", Outputs(logits, logits)))

    before = classes(baseline)

    def why(network: Network) -> str:
        now = classes(network)
        if now >= _least_classes(before, 0.5 * CLASSES_KEPT):
            return ""
        return (
            f"its predictions fell into {now:.1f} classes in effect, those of source_only into "
            f"{before:.1f}"
        )

    return why
