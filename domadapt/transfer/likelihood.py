"""LEEP, NCE and N-LEEP: how well labels are told from what a model already tells apart."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from domadapt.errors import DomadaptError
from domadapt.transfer.spectrum import class_ids, feature_array, indicators, principal


def leep(p: Any, y: Any) -> float:
    """Log expected empirical prediction: ``mean_i log sum_z P(y_i | z) p_iz``.

    ``P(y | z)`` follows from the joint ``P(y, z) = 1/n sum over i of class y of p_iz``.

    Paper: (Nguyen et al., 2020, arXiv:2002.12462).
    Range: at most 0, larger is better; at least minus the entropy of the labels' frequencies.
    Cost: ``n z`` per class.
    Blind to: everything but the model's own head: a model whose old classes say nothing of the new
    ones may still have the best features. Values of models with heads of other sizes are hard to
    compare, and those of tasks with other numbers of classes are not comparable.

    Args:
        p: probabilities ``(n, z)`` of the classes that the model was trained on, as by softmax.
        y: the new classes ``(n,)``.

    Raises:
        DomadaptError: `p` is not probabilities; labels that cannot be used.
    """
    theta = feature_array(p)
    if (theta < -1e-6).any() or np.abs(theta.sum(1) - 1).max() > 1e-3:
        raise DomadaptError(
            "LEEP needs probabilities: rows of p that are not negative and sum to 1; got others. "
            "Apply softmax to the logits."
        )
    ids, counts = class_ids(y, len(theta))
    joint: np.ndarray = indicators(ids, len(counts)) @ theta
    mass = joint.sum(0)
    given = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    # Row by row: the (n, classes) matrix of all predictions is not needed.
    predicted = np.einsum("iz,iz->i", theta, given[ids])
    return float(np.log(np.maximum(predicted, np.finfo(np.float64).tiny)).mean())


def nce(z: Any, y: Any) -> float:
    """Negative conditional entropy ``-H(Y | Z)`` of labels given the classes a model answers.

    Paper: (Tran et al., 2019, arXiv:1908.08142).
    Range: ``[-ln(classes), 0]``, larger is better; at least minus the entropy of the labels'
    frequencies.
    Cost: one pass over the labels.
    Blind to: what LEEP is blind to, and to confidence.

    Args:
        z: the class ``(n,)`` that the model answers, of those it was trained on.
        y: the new classes ``(n,)``.
    """
    if hasattr(z, "detach"):
        z = z.detach().cpu().numpy()
    answered = np.asarray(z)
    if answered.ndim != 1:
        raise DomadaptError(
            f"NCE needs one answered class per sample, shape (n,); got {answered.shape}. Take the "
            "argmax of the probabilities."
        )
    ids, counts = class_ids(y, len(answered))
    kinds, place = np.unique(answered, return_inverse=True)
    pairs = np.bincount(ids * len(kinds) + place, minlength=len(counts) * len(kinds))
    joint = pairs.reshape(len(counts), len(kinds)) / len(answered)
    mass = np.broadcast_to(joint.sum(0), joint.shape)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / mass[seen])).sum())


def nleep(
    features: Any,
    y: Any,
    *,
    components: int = 5,
    energy: float = 0.8,
    covariance: Literal["diag", "full"] = "diag",
    seed: int = 0,
) -> float:
    """LEEP with the clusters of a Gaussian mixture in place of the classes of a head.

    Features are brought to the principal components that hold `energy` of the variance; a mixture
    of ``components * classes`` Gaussians is fitted to them without labels; its posterior ``(n, z)``
    is the ``p`` of `leep`.

    Paper: (Li et al., 2021, arXiv:2011.11200). Departures: diagonal covariances by default, since
    full ones have more parameters than a class has samples; at most one Gaussian per 5 samples.
    Other implementations average the probability where LEEP averages its logarithm.

    Range: at most 0, larger is better.
    Cost: by far the dearest of the scores: up to 100 steps of ``n z k``.
    Blind to: directions of little variance, however well they separate classes. It changes with
    the seed of the mixture.

    Args:
        features: ``(n, d)``.
        y: classes ``(n,)``.
        components: Gaussians per class.
        energy: share of the variance to keep, in (0, 1].
        covariance: form of each Gaussian's covariance.
        seed: of the mixture's start.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    f = feature_array(features)
    _, counts = class_ids(y, len(f))
    if not 0 < energy <= 1 or components < 1:
        raise DomadaptError(
            "N-LEEP needs an energy in (0, 1] and at least 1 component per class; got "
            f"{energy} and {components}."
        )
    reduced = principal(f, energy=energy)
    # One scale for all components, so that the mixture's floor on variances fits any features.
    reduced = reduced / np.sqrt(np.square(reduced).mean())
    n_components = max(2, min(components * len(counts), len(f) // 5))
    mixture = GaussianMixture(
        min(n_components, len(f)), covariance_type=covariance, random_state=seed
    )
    with warnings.catch_warnings():
        # A posterior that has not quite settled is as good a clustering.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            posterior = mixture.fit(reduced).predict_proba(reduced)
        except ValueError as error:
            raise DomadaptError(
                f"No mixture of {mixture.n_components} Gaussians ({covariance} covariances) fits "
                "these features; ask for fewer components, or diagonal covariances."
            ) from error
    return leep(posterior, y)
