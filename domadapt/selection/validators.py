"""The validators: scores of a candidate's `Evidence` without target labels, larger is better.

The formulas stand in `predictions` (of logits), `geometry` (of features) and `weights` (between
the domains); here each is registered with its range, its cost and what fools it. The scores of
one network that a report shows stand in `scores` and can be imported from here too.

Where features are known of a part of a split only (`Outputs.rows`), scores of features look at
that part.
"""

from __future__ import annotations

import math

from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection import predictions
from domadapt.selection.evidence import Evidence
from domadapt.selection.mixtures import SHARE, mixing_pairs
from domadapt.selection.registry import validator, validators
from domadapt.selection.scores import (
    effective_classes,
    entropy,
    information_maximisation,
    label_free,
    source_val_accuracy,
    source_val_error,
)

__all__ = [
    "effective_classes",
    "entropy",
    "information_maximisation",
    "label_free",
    "scores_of",
    "source_val_accuracy",
    "source_val_error",
]


def scores_of(evidence: Evidence) -> dict[str, float]:
    """The score of every validator that can look at this evidence, by name; each is finite.

    Left out are validators that need a part that is missing (`Validator.lacks`), and those that
    refuse what they find, such as logits of NaN or a single sample that has no neighbour.
    """
    found = {}
    for name, one in validators().items():
        if one.lacks(evidence):
            continue
        try:
            score = one.score(evidence)
        except DomadaptError:
            continue
        if math.isfinite(score):
            found[name] = score
    return found


def _finite(evidence: Evidence, what: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise DomadaptError(
            f"A validator needs finite {what}; those of the candidate {evidence.name!r} are partly "
            "NaN or infinite. Its training diverged: set it aside, or lower its learning rate."
        )
    return values


def _said(evidence: Evidence) -> Tensor:
    """The target's logits, finite."""
    return _finite(evidence, "target logits", evidence.target.logits)


def _labelled(evidence: Evidence, what: str) -> tuple[Outputs, Tensor]:
    """A source split with finite logits, and its labels."""
    split: Outputs | None = getattr(evidence, what)
    # `Validator.score` and `Evidence` have seen to both.
    assert split is not None
    assert split.y is not None
    _finite(evidence, f"{what} logits", split.logits)
    return split, split.y


@validator(
    "source_val_accuracy",
    range="[0, 1]",
    cost="none",
    fooled_by="everything that goes wrong on the target alone: it never looks there",
    needs=("source_val",),
)
def by_source_val_accuracy(evidence: Evidence) -> float:
    """Accuracy on the source's validation samples.

    ``mean_i [argmax logits_i = y_i]``, in [0, 1]. Blind to the target: it tells a broken network
    from a sound one, and says nothing of adaptation.
    """
    split, y = _labelled(evidence, "source_val")
    return predictions.accuracy(split.logits, y)


@validator(
    "entropy",
    range="[-log(classes), 0]",
    cost="none",
    fooled_by="confident mistakes and collapse to one class, which is its best case; any method "
    "that lowers entropy",
)
def by_entropy(evidence: Evidence) -> float:
    """Confidence on the target: minus the mean entropy of the predictions.

    ``-mean_i H(p_i)`` in nats. (Morerio et al., 2018, arXiv:1711.10288)
    """
    return -predictions.mean_entropy(_said(evidence))


@validator(
    "information_maximisation",
    range="[0, log(classes)]",
    cost="none",
    fooled_by="confident predictions that are evenly spread and wrong; a target whose classes are "
    "truly unbalanced scores low",
)
def by_information_maximisation(evidence: Evidence) -> float:
    """Confidence and variety on the target: mutual information of sample and predicted class.

    ``H(mean_i p_i) - mean_i H(p_i)`` in nats. (Shi and Sha, 2012, arXiv:1206.6438)
    """
    return predictions.mutual_information(_said(evidence))


@validator(
    "bnm",
    range="[1/sqrt(classes min(n, classes)), 1]",
    cost="none (singular values of an n x classes matrix)",
    fooled_by="confident predictions that are evenly spread and wrong; methods that maximise it "
    "(bnm) or confidence",
)
def by_bnm(evidence: Evidence) -> float:
    """Confidence and variety on the target: nuclear norm of the predictions.

    ``|P|_* / sqrt(min(n, c) n)``. (Cui et al., 2020, arXiv:2003.12237); as a validator in Musgrave
    et al. (2022, arXiv:2208.07360), who divide by n: candidates of one run come in the same order.
    """
    return predictions.nuclear_norm(_said(evidence))


@validator(
    "snd",
    range="[0, log(n - 1)]",
    cost="n x n similarities, in blocks",
    fooled_by="collapse: predictions that are all the same are its best case",
)
def by_snd(evidence: Evidence) -> float:
    """Soft neighbourhood density: how many target samples share each one's prediction.

    ``mean_i H(softmax_{j != i}(cos(p_i, p_j) / 0.05))`` in nats. (Saito et al., 2021,
    arXiv:2108.10860)

    Raises:
        DomadaptError: fewer than two target samples.
    """
    logits = _said(evidence)
    if len(logits) < 2:
        raise DomadaptError("snd needs at least 2 target samples, to compare them; got 1.")
    return predictions.neighbourhood_density(logits)


@validator(
    "corr_c",
    range="[-sqrt(classes), -1]",
    cost="none",
    fooled_by="collapse: predictions that are all the same, certain or not, are its best case, and "
    "confident, evenly spread ones its worst",
)
def by_corr_c(evidence: Evidence) -> float:
    """Corr-C: minus the softmax correlation, as the studies of MixVal compare it.

    ``-tr(C) / |C|_F`` with ``C = P^T P``. The authors of the correlation (Tu et al., 2024,
    arXiv:2406.09908) call a large value of ``tr(C) / |C|_F`` good; the code of MixVal (Hu et al.,
    2023, Advances in Neural Information Processing Systems 36), after which the score is named
    here, a small one. This is the latter.
    """
    return -predictions.softmax_correlation(_said(evidence))


@validator(
    "mano",
    range="[1/classes, classes^(-1/4)]",
    cost="none",
    fooled_by="confident mistakes and collapse: it knows nothing of variety; below its threshold "
    "it depends on an offset common to all logits of a sample",
)
def by_mano(evidence: Evidence) -> float:
    """MaNo: the matrix norm of normalised logits, a confidence that heeds bad calibration.

    ``(mean_{i,k} Q_ik^4)^(1/4)``, Q the softmax of the logits, or, where ``-mean_{i,k} log p_ik``
    is at most 5, ``1 + a + a^2 / 2`` of each logit a, rows divided by their sums. (Xie et al.,
    2024, arXiv:2405.18979). The authors' code differs: it runs the network in training mode,
    averages norms of batches, takes the criterion from one batch, and subtracts each row's least
    value before it divides; here the network is in evaluation mode, all samples count at once, and
    the formula is the paper's.
    """
    return predictions.mano(_said(evidence))


@validator(
    "mixval",
    range="[0, 1]",
    cost="two passes over mixtures of target inputs",
    fooled_by="near collapse, where mixtures all get the one class that nearly all samples have; "
    "a network that is linear in its inputs",
    needs=("mixed",),
)
def by_mixval(evidence: Evidence) -> float:
    """MixVal: how often a mixture of two target samples gets the class of its larger part.

    The mean of two accuracies of ``argmax f(0.55 x_a + 0.45 x_b)`` against the class predicted for
    ``x_a``: over pairs of one predicted class, and over pairs of two. (Hu et al., 2023, Advances
    in Neural Information Processing Systems 36), who add the ranks of both over the candidates
    where one score is wanted here; for those, see `mixval_parts`. A network that predicts one
    class only has no pair of the second kind and scores 0. Where no class has two samples, the
    second accuracy stands alone.
    """
    intra, inter = mixval_parts(evidence)
    if inter is None:
        return 0.0
    return inter if intra is None else (intra + inter) / 2


def mixval_parts(evidence: Evidence) -> tuple[float | None, float | None]:
    """MixVal's two accuracies, intra and inter; None where there is no such pair of samples."""
    predicted = _said(evidence).argmax(1)
    a, b, same = mixing_pairs(predicted)
    if len(a) == 0 or evidence.mixed is None:
        return None, None
    mixed = _finite(evidence, "logits of mixtures", evidence.mixed(a, b, SHARE))
    return predictions.mixture_accuracies(mixed, predicted[a], same)


@validator(
    "ensv",
    range="[0, 1]",
    cost="the target logits of all candidates",
    fooled_by="a majority of candidates that make the same mistakes; many copies of one method",
    needs=("others",),
)
def by_ensv(evidence: Evidence) -> float:
    """EnsV: agreement with the ensemble of all candidates.

    ``mean_i [argmax p_i = argmax mean_m p_i^(m)]`` over the candidates m of the run, this one
    among them. (Hu et al., 2024, Advances in Neural Information Processing Systems 37, Datasets and
    Benchmarks). Candidates with NaN or infinite logits have no vote.
    """
    own = _said(evidence)
    voters = {**(evidence.others or {}), evidence.name: own}
    return predictions.accuracy(own, predictions.mean_probabilities(voters.values()).argmax(1))
