"""Scores of a candidate that need no target label, each a pure function of `Outputs`.

None of them is an accuracy on the target. A network that has collapsed to a few classes can have
a low entropy; the effective number of classes and information maximisation give it away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.regression import score_values


def _log_p(outputs: Outputs) -> Tensor:
    if len(outputs.logits) == 0:
        raise DomadaptError("A label-free score needs at least one sample; got none.")
    return outputs.logits.double().log_softmax(1)


def _mean_entropy(log_p: Tensor) -> float:
    return float(-(log_p.exp() * log_p).sum(1).mean())


def _entropy_of_mean(log_p: Tensor) -> float:
    return float(torch.special.entr(log_p.exp().mean(0)).sum())


def source_val_accuracy(source_val: Outputs) -> float:
    """Share of the source's validation samples that are classified rightly, in [0, 1]."""
    if source_val.y is None or len(source_val.y) == 0:
        raise DomadaptError("Source validation accuracy needs the labels of the source.")
    return float((source_val.logits.argmax(1) == source_val.y).double().mean())


def entropy(target: Outputs) -> float:
    """Mean entropy of the predictions, ``mean_i H(p_i)``, in nats: 0 (certain) to log(classes).

    Source: Morerio et al. (2018), arXiv:1711.10288.
    """
    return _mean_entropy(_log_p(target))


def information_maximisation(target: Outputs) -> float:
    """``H(mean_i p_i) - mean_i H(p_i)`` in nats: large when certain of each, varied over all.

    An estimate of the mutual information of input and predicted class, 0 to log(classes).
    Source: Shi and Sha (2012), arXiv:1206.6438.
    """
    log_p = _log_p(target)
    return _entropy_of_mean(log_p) - _mean_entropy(log_p)


def effective_classes(target: Outputs) -> float:
    """``exp(H(mean_i p_i))``: how many classes the predictions spread over, 1 to classes."""
    return float(torch.tensor(_entropy_of_mean(_log_p(target))).exp())


def source_val_error(source_val: Outputs | None) -> dict[str, float]:
    """Of a regression: mean absolute error and R2 on the source's validation samples.

    They are all there is without target labels; nothing where there is no source.
    """
    if source_val is None or source_val.y is None:
        return {}
    y = source_val.y.numpy()
    found = score_values(source_val.logits, y, [str(i) for i in range(y.shape[1])])
    r2 = {} if found.r2 is None else {"source_val_r2": found.r2}
    return {"source_val_mae": found.mae, **r2}


def label_free(source_val: Outputs | None, target: Outputs) -> dict[str, float]:
    """The four scores above, by name; the first only where there is a source."""
    source = {} if source_val is None else {"source_val_accuracy": source_val_accuracy(source_val)}
    return {
        **source,
        "entropy": entropy(target),
        "information_maximisation": information_maximisation(target),
        "effective_classes": effective_classes(target),
    }
