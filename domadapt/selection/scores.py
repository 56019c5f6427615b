"""What a report says of one network without target labels, from its `Outputs`.

None of them is an accuracy on the target. A network that has collapsed to a few classes can have
a low entropy; the effective number of classes and information maximisation give it away.
"""

from __future__ import annotations

from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.regression import score_values
from domadapt.selection import predictions


def _logits(outputs: Outputs) -> Tensor:
    if len(outputs.logits) == 0:
        raise DomadaptError("A label-free score needs at least one sample; got none.")
    return outputs.logits


def source_val_accuracy(source_val: Outputs) -> float:
    """Share of the source's validation samples that are classified rightly, in [0, 1]."""
    if source_val.y is None or len(source_val.y) == 0:
        raise DomadaptError("Source validation accuracy needs the labels of the source.")
    return predictions.accuracy(source_val.logits, source_val.y)


def entropy(target: Outputs) -> float:
    """Mean entropy of the predictions, ``mean_i H(p_i)``, in nats: 0 (certain) to log(classes).

    Source: Morerio et al. (2018), arXiv:1711.10288.
    """
    return predictions.mean_entropy(_logits(target))


def information_maximisation(target: Outputs) -> float:
    """``H(mean_i p_i) - mean_i H(p_i)`` in nats: large when certain of each, varied over all.

    An estimate of the mutual information of input and predicted class, 0 to log(classes).
    Source: Shi and Sha (2012), arXiv:1206.6438.
    """
    return predictions.mutual_information(_logits(target))


def effective_classes(target: Outputs) -> float:
    """``exp(H(mean_i p_i))``: how many classes the predictions spread over, 1 to classes."""
    return predictions.class_count(_logits(target))


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
