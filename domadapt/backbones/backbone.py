"""What a backbone is, and what is asked of every one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError
from domadapt.network import check_features
from domadapt.ops import batch_size
from domadapt.task import Inputs

BackboneOrigin = Literal["scratch", "pretrained", "transformer", "frozen"]

#: The value of `head` that stands for the last linear layer of a classifier.
LAST_LINEAR = "auto"
#: How the names of files of weights may end.
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".th")


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and what comes with it.

    Attributes:
        module: maps inputs to features ``(n, d)`` or maps ``(n, d, h, w)``, without a head; or a
            whole `Network`, where the model of a run is taken up again.
        head: a trained head, where a whole classifier was given; else None.
        preprocessing: what it asks of its images; None: the data's own size, normalised by the
            source's statistics.
        kind: what decides the defaults of training: "scratch" begins with random weights,
            "pretrained" and "transformer" (one with attention) with trained ones, and "frozen"
            learns nothing: its inputs are features.
        bottleneck: the default width of a layer between it and a new head; None for none.
    """

    module: nn.Module
    head: nn.Module | None
    preprocessing: Preprocessing | None
    kind: BackboneOrigin
    bottleneck: int | None = None


@dataclass(frozen=True)
class Made:
    """A model before weights are loaded into it and its head is taken off.

    `head` names its head (None: it has none), `extra` the prefixes of what else a file of its
    weights may hold, and `trained` says that it came with weights of its own.
    """

    model: nn.Module
    head: str | None
    preprocessing: Preprocessing | None = None
    extra: tuple[str, ...] = ()
    trained: bool = False


def origin_of(module: nn.Module, trained: bool) -> BackboneOrigin:
    """What a module begins with: random weights, or trained ones, with attention or without."""
    if not trained:
        return "scratch"
    attends = any(re.search(r"Attention(V\d)?$", type(m).__name__) for m in module.modules())
    return "transformer" if attends else "pretrained"


#: What batches of so many dimensions are.
_FORMS = {0: "texts", 2: "vectors", 3: "series", 4: "images"}


@torch.no_grad()
def check_takes(module: nn.Module, example: Inputs, name: str) -> None:
    """Refuse a module that cannot take these inputs, or returns no features of them."""
    was = module.training
    try:
        z = module.eval()(example)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        got = tuple(example.shape[1:]) if isinstance(example, Tensor) else "a dictionary"
        kind = _FORMS.get(example.ndim if isinstance(example, Tensor) else 0, "these data")
        raise DomadaptError(
            f"{name} cannot take inputs {got} ({first_line(error)}). Give inputs of another "
            f"size, or choose a model for {kind}."
        ) from error
    finally:
        module.train(was)
    check_features(z, batch_size(example), name)


def check_classes(weight: Tensor | None, wanted: int, where: str) -> None:
    """Refuse a trained head for another number of classes."""
    if weight is not None and weight.ndim > 0 and len(weight) != wanted:
        raise DomadaptError(
            f"The head of {where} has {len(weight)} classes, and the source has {wanted}; both "
            "must be the same classes in the same order. To train a new head, give the file with "
            "--weights."
        )


def last_linear(model: nn.Module, name: str) -> str:
    """The dotted name of the last linear layer."""
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n]
    if not linear:
        raise DomadaptError(f"{name} has no torch.nn.Linear as its head; name its head (--head).")
    return linear[-1]


def first_line(error: Exception) -> str:
    """An error's first words."""
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")[:200]
