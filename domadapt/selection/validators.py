"""The validators: scores of a candidate's `Evidence` without target labels, larger is better.

The formulas stand in `predictions` (of logits), `geometry` (of features) and `weights` (between
the domains); here each is registered with its range, its cost and what fools it. The scores of
one network that a report shows stand in `scores` and can be imported from here too.

Where features are known of a part of a split only (`Outputs.rows`), scores of features look at
that part.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Container

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection import geometry, predictions, weights
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


def scores_of(evidence: Evidence, names: Container[str] | None = None) -> dict[str, float]:
    """The score of every validator that can look at this evidence, by name; each is finite.

    Where `names` are given, only theirs.

    Left out are validators that need a part that is missing (`Validator.lacks`), and those that
    refuse what they find, such as logits of NaN or a single sample that has no neighbour.
    """
    found = {}
    for name, one in validators().items():
        if one.lacks(evidence) or (names is not None and name not in names):
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


def _features(evidence: Evidence, what: str, split: Outputs) -> tuple[Tensor, Tensor]:
    """The features of a split, finite, and the rows of its logits that they belong to."""
    if len(split.z) == 0:
        raise DomadaptError(
            f"A score of features needs those of {what} of the candidate {evidence.name!r}; there "
            "are none. Gather the evidence with features."
        )
    rows = torch.arange(len(split.z)) if split.rows is None else split.rows
    return _finite(evidence, f"features of {what}", split.z), rows


#: The evidence that weights were last made for, and these: three validators ask for the same.
_latest: list[tuple[weakref.ref[Evidence], tuple[Tensor, Tensor]]] = []


def _weighted_losses(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Weights between the domains and cross-entropies of the source's validation samples."""
    for made_for, found in _latest[:1]:
        if made_for() is evidence:
            return found
    split, y = _labelled(evidence, "source_val")
    assert evidence.source_train is not None
    train_s, _ = _features(evidence, "source_train", evidence.source_train)
    z_t, _ = _features(evidence, "the target", evidence.target)
    val_s, rows = _features(evidence, "source_val", split)
    loss = torch.nn.functional.cross_entropy(
        split.logits[rows].double(), y[rows].long(), reduction="none"
    )
    found = weights.density_ratio(train_s, z_t, val_s), loss
    _latest[:] = [(weakref.ref(evidence), found)]
    return found


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
    range="[1, sqrt(classes)]",
    cost="none",
    fooled_by="confident clusters that are not the classes; a target with rare classes looks bad",
)
def by_corr_c(evidence: Evidence) -> float:
    """Corr-C: the softmax correlation, large for certain predictions spread over all classes.

    ``tr(C) / |C|_F`` with ``C = P^T P``. Source: Tu et al. (2024, arXiv:2406.09908), who call a
    large value good. The code of MixVal (Hu et al., 2023, Advances in Neural Information Processing
    Systems 36), after which the score is named here, takes the smallest: collapse would win.
    """
    return predictions.softmax_correlation(_said(evidence))


@validator(
    "mano",
    range="[1/classes, classes^(-1/4)]",
    cost="none",
    fooled_by="confident mistakes and collapse: it knows nothing of variety; candidates on either "
    "side of its threshold are measured differently",
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
    fooled_by="near collapse, where mixtures all get the one class that nearly all samples have",
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


@validator(
    "iwcv",
    range="(-inf, 0]",
    cost="a logistic regression on the features",
    fooled_by="domains that a line separates, where all weights vanish and with them the risk; a "
    "shift of labels or concepts; over-confident mistakes, whose loss has no bound",
    needs=("source_val", "source_train"),
)
def by_iwcv(evidence: Evidence) -> float:
    """Importance-weighted validation: minus the source's loss, weighted to look like the target.

    ``-mean_i w_i l_i`` over the source's validation samples, l the cross-entropy and w the clipped
    density ratio of `weights.density_ratio` on the candidate's own features. (Sugiyama et al.,
    2007, Journal of Machine Learning Research 8), here with one held-out split for their folds,
    and without their flattening of the weights.
    """
    return -weights.weighted_risk(*_weighted_losses(evidence))


@validator(
    "dev",
    range="(-inf, inf)",
    cost="a logistic regression on the features",
    fooled_by="domains that a line separates: the control variate then extrapolates without bound; "
    "a shift of labels or concepts; over-confident mistakes, whose loss has no bound",
    needs=("source_val", "source_train"),
)
def by_dev(evidence: Evidence) -> float:
    """Deep embedded validation: the importance-weighted loss with a control variate.

    ``-(mean(w l) + eta mean(w) - eta)``, ``eta = -cov(w l, w) / var(w)``, l the cross-entropy as in
    the authors' code. (You et al., 2019, arXiv:2606.04665), who tell the domains apart with a
    network and a search over its weight decay; here with one logistic regression, and weights are
    clipped (`weights.density_ratio`).
    """
    return -weights.controlled_risk(*_weighted_losses(evidence))


@validator(
    "devn",
    range="(-inf, inf)",
    cost="a logistic regression on the features",
    fooled_by="a source on which it is accurate and a target on which it is not, if the features "
    "of both look alike; over-confident mistakes, whose loss has no bound",
    needs=("source_val", "source_train"),
)
def by_devn(evidence: Evidence) -> float:
    """Deep embedded validation with normalised weights.

    As dev, with weights divided by their largest and shifted to a mean of 1, so that ``mean(w l)``
    remains. (Musgrave et al., 2022, arXiv:2208.07360)
    """
    w, loss = _weighted_losses(evidence)
    return -weights.controlled_risk(weights.normalised(w), loss)


@validator(
    "class_ami",
    range="about 0 (can be slightly below) to 1",
    cost="k-means on the target's features",
    fooled_by="features that fall into clear clusters which are not the classes; methods that "
    "cluster the target themselves",
)
def by_class_ami(evidence: Evidence) -> float:
    """ClassAMI: whether the predicted classes are clusters of the target's features.

    ``AMI(argmax p, kmeans(z))`` with as many clusters as classes. (Musgrave et al., 2022,
    arXiv:2208.07360). k-means starts once, from a seeded k-means++ draw (theirs from an unseeded
    one, or, as an option, from the means of the predicted classes); a candidate that predicts one
    class only scores 0.
    """
    z, rows = _features(evidence, "the target", evidence.target)
    return geometry.cluster_agreement(z, _said(evidence)[rows].argmax(1), evidence.classes)


@validator(
    "rankme",
    range="[1, min(n, d)]; 0 where all features are 0",
    cost="singular values of the target's features",
    fooled_by="noise, which has full rank; it never looks at predictions, and good features that "
    "have collapsed onto the classes have a low rank",
)
def by_rankme(evidence: Evidence) -> float:
    """RankMe: the effective rank of the target's features.

    ``exp(H(sigma / sum sigma))`` over the singular values of z, not centred. (Garrido et al., 2022,
    arXiv:2210.02885), without the small constant that they add to each share, and on the target
    where they take the data of the pre-training.
    """
    z, _ = _features(evidence, "the target", evidence.target)
    return geometry.effective_rank(z)


@validator(
    "reverse_validation",
    range="[0, 1]",
    cost="distances of source features to class means",
    fooled_by="classes that are aligned crosswise: a target class that lies on the wrong source "
    "class scores as well as one that lies on the right one",
    needs=("source_val",),
)
def by_reverse_validation(evidence: Evidence) -> float:
    """Reverse validation: back from pseudo-labelled target features to the labelled source.

    Accuracy, on the source's validation samples, of a nearest-mean classifier of the target's
    features with the classes predicted for them; with one predicted class the share of that class
    in the source. After Zhong et al. (2010, Machine Learning and Knowledge Discovery in Databases)
    and Ganin et al. (2016, arXiv:1505.07818), who train a second network from the target back to
    the source; here there is no second training, but one pass over the candidate's own features.
    The classifier is not a linear one, as that would only find the network's own head again.
    """
    split, y = _labelled(evidence, "source_val")
    z_t, rows_t = _features(evidence, "the target", evidence.target)
    z_s, rows_s = _features(evidence, "source_val", split)
    predicted = _said(evidence)[rows_t].argmax(1)
    return geometry.reverse_accuracy(z_t, predicted, z_s, y[rows_s])
