"""Models by name and what they make of a domain: features once, and answers where they have a head.

A model is said in one word: a backbone (``resnet18``, ``timm:vit_tiny_patch16_224``, ``lenet``), a
backbone with its weights (``resnet18=weights.pth``, ``resnet18=DEFAULT``), a function of one's own
(``file.py:function``), or the folder of a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from domadapt.backbones import (
    LAST_LINEAR,
    WEIGHT_FILES,
    Backbone,
    build_backbone,
    is_of_run,
    is_own,
    preprocessing_of,
    weights_of,
)
from domadapt.data.views import Preprocessing, Views
from domadapt.errors import DomadaptError
from domadapt.hf import is_hf, trained_classes
from domadapt.inference import outputs_of
from domadapt.methods.registry import load_file
from domadapt.network import Network, Normalize
from domadapt.regression import strata
from domadapt.runs.plan import ModelSpec, make_plan, views_for
from domadapt.runs.saved import load_run
from domadapt.task import Domain, Inputs, Raw, Split, Task


@dataclass(frozen=True)
class Extracted:
    """What a model makes of the samples of a domain.

    Attributes:
        features: ``(n, d)``, in the order of the domain.
        probabilities: of the classes that the model was trained on ``(n, z)``; None where it came
            without a head.
        parameters: how many the feature extractor has.
        weights: "pretrained", "run", "random", "own" (what a function of one's own has loaded), or
            "none" where inputs are features already.
    """

    features: np.ndarray
    probabilities: np.ndarray | None
    parameters: int
    weights: str


def parse(model: str) -> tuple[str, str | None]:
    """Name and weights of a model said in one word.

    Raises:
        DomadaptError: a folder without a run, a name that nothing has, or weights that are missing.
    """
    name, equals, weights = model.partition("=")
    if not name or (equals and not weights):
        raise DomadaptError(
            f"A model is a backbone, a backbone=WEIGHTS, a file.py:function or the folder of a "
            f"run; got {model!r}."
        )
    if Path(model).is_dir():
        return model, None
    if equals and weights.endswith(WEIGHT_FILES) and not Path(weights).is_file():
        raise DomadaptError(f"There is no weights file {weights} (of the model {model}).")
    if equals and Path(weights).is_dir():
        raise DomadaptError(
            f"The weights of {name} must be a file ({', '.join(WEIGHT_FILES)}) or an entry of a "
            f"hub; {weights} is a folder. A run's folder is given alone, without a name before it."
        )
    if equals and Path(weights).is_file() and is_of_run(Path(weights)):
        raise DomadaptError(
            f"{weights} holds the whole model of a run; give that run's folder alone instead: "
            f"{Path(weights).parent}."
        )
    preprocessing_of(name, weights or None)  # refuses what there is not
    return name, weights or None


def short_names(models: Sequence[str]) -> list[str]:
    """The models without the folders of their files, where that still tells them apart."""
    short = []
    for model in models:
        name, equals, weights = model.partition("=")
        file = name.rpartition("/")[2] if ".py:" in name else name
        short.append(file + equals + weights.rpartition("/")[2])
    return [b if short.count(b) == 1 else a for a, b in zip(models, short, strict=True)]


def task_of(domain: Domain) -> Task:
    """The labelled domain as a task, which holds its labels to the rules of sources."""
    return Task(domain, domain.unlabelled(), name=domain.name)


def labels_of(task: Task) -> np.ndarray:
    """The labels of all samples of `task_of`, in the domain's order."""
    train, val = task.source_train, task.source_val
    assert train.y is not None
    assert val.y is not None
    y = torch.cat([train.y, val.y]).numpy()
    labels = np.empty_like(y)
    labels[np.concatenate([train.indices, val.indices])] = y
    return labels


def extract(
    model: str,
    task: Task,
    *,
    image_size: int | None = None,
    cache: Path | None = None,
    device: torch.device | None = None,
) -> Extracted:
    """Features of every sample of the task's source under a frozen model, computed once.

    Random weights are those of seed 0. A run gives the features after its bottleneck, which it was
    adapted in; a backbone those before any. A whole `Network` of one's own gives its features and,
    by its head, its answers. Of weights in a file the head is taken with them where they hold one.
    A function of one's own that takes `n_classes` returns a whole classifier: its features are
    those before its last linear layer.

    Args:
        model: see `parse`.
        task: of `task_of`.
        image_size: side that images are brought to; None leaves it to the model.
        cache: folder for features of named backbones, which are then not computed again.
        device: where they are computed.

    Raises:
        DomadaptError: no such model, or one that cannot take these samples.
    """
    name, weights = parse(model)
    whole = Split("all", task.example.domain, np.arange(len(task.example.domain)))
    if Path(model).is_dir():
        run = load_run(model)
        if run.kind != task.kind:
            raise DomadaptError(
                f"The model of {model} takes data of kind {run.kind!r}, and these are of kind "
                f"{task.kind!r}; leave it out, or give other data."
            )
        if not isinstance(run.model, Network):
            raise DomadaptError(
                f"Of {model} only the exported program is left, which gives no features; adapt "
                "again, or leave it out."
            )
        return _of_network(run.model, whole, run.views, task, "run", device)
    spec = ModelSpec(name, weights=weights, freeze=True, image_size=image_size)
    asked = preprocessing_of(name, weights)
    views = views_for(task, spec, asked)
    example = views.evaluation(task.example.fetch([0, 1]))
    own = ".py:" in name
    if own and _takes_classes(name):
        made = _classifier(name, weights, example, task)
        if isinstance(made.module, Network):
            return _of_network(made.module, whole, views, task, "own", device)
        network = _whole(made, asked)
        if weights is not None:
            return _of_network(network, whole, views, task, "pretrained", device)
        got = _of_network(network, whole, views, task, "own", device)
        # A head that was made for these classes has learnt nothing yet.
        return replace(got, probabilities=None)
    torch.manual_seed(0)
    made = build_backbone(name, example, weights=weights, n_classes=task.n_classes)
    if isinstance(made.module, Network):
        return _of_network(made.module, whole, views, task, "own", device)
    plan = make_plan(task, spec, cache=cache, device=device)
    samples = plan.task.source_train.domain.samples
    z = samples.__getitems__(list(range(len(whole))))
    assert isinstance(z, Tensor)
    kind = {"scratch": "random", "frozen": "none"}.get(made.kind, "pretrained")
    if own and weights is None:
        kind = "own"
    answers = None
    if is_hf(name):
        classifier = _classifier_of_hub(name, example, asked)
        if classifier is not None:
            answers = _of_network(classifier, whole, views, task, kind, device).probabilities
    elif weights is not None:
        head = _head(name, weights, example)
        answers = None if head is None else _probabilities(head, z)
    return Extracted(z.numpy(), answers, _count(made.module), kind)


def _takes_classes(name: str) -> bool:
    """Whether a function of one's own takes `n_classes`, hence returns a whole classifier."""
    path, _, attribute = name.rpartition(":")
    function = getattr(load_file(Path(path)), attribute)
    return "n_classes" in inspect.signature(function).parameters


def _classifier(name: str, weights: str | None, example: Inputs, task: Task) -> Backbone:
    """A classifier of one's own, divided before its last linear layer."""
    torch.manual_seed(0)
    if weights is None:
        return build_backbone(name, example, n_classes=task.n_classes, head=LAST_LINEAR)
    refused = None
    for width in _widths(name, weights):
        try:
            return build_backbone(name, example, checkpoint=weights, n_classes=width)
        except DomadaptError as error:
            refused = refused or error
    raise refused or DomadaptError(f"{weights} holds no layer that could be a classifier's head.")


def _whole(made: Backbone, asked: Preprocessing | None) -> Network:
    """A classifier that was divided, as one network again, for inputs as `views_for` gives them."""
    normalize = None
    if asked is not None and asked.mean is not None:
        assert asked.std is not None
        normalize = Normalize(torch.tensor(asked.mean), torch.tensor(asked.std))
    assert made.head is not None
    return Network(made.module, made.head, None, normalize)


def _classifier_of_hub(name: str, example: Inputs, asked: Preprocessing | None) -> Network | None:
    """A model of Hugging Face with the head it was trained with; None where it has none."""
    classes = trained_classes(name)
    if classes is None:
        return None
    return _whole(build_backbone(name, example, n_classes=classes, head=LAST_LINEAR), asked)


def _of_network(
    network: Network,
    split: Split,
    views: Views,
    task: Task,
    weights: str,
    device: torch.device | None,
) -> Extracted:
    if device is not None:
        network.to(device)
    out = outputs_of(network, split, views, batch_size=64)
    answers = None if network.spread is not None else out.logits.double().softmax(1).numpy()
    if answers is not None and answers.shape[1] < 2:
        answers = None
    parameters = _count(network) - _count(network.head)
    return Extracted(out.z.numpy(), answers, parameters, weights)


def _head(name: str, weights: str, example: Inputs) -> nn.Module | None:
    """The head that weights hold for a named classifier; None where they hold none."""
    if is_own(name):
        return None
    for width in _widths(name, weights):
        try:
            made = build_backbone(name, example, checkpoint=weights, n_classes=width)
        except DomadaptError:
            continue
        return made.head
    return None


def _widths(name: str, weights: str) -> list[int]:
    """How many classes the head of trained weights may have, the likeliest first.

    It is nearly always the last matrix. Where it is not, no model of that number of classes fits
    the weights.
    """
    state = weights_of(name, weights)
    found = [len(v) for k, v in state.items() if k.endswith("weight") and v.ndim in (2, 4)]
    return list(dict.fromkeys(reversed(found[-3:])))


@torch.no_grad()
def _probabilities(head: nn.Module, z: Tensor) -> np.ndarray:
    head.eval()
    logits = torch.cat([head(z[start : start + 4096]) for start in range(0, len(z), 4096)])
    answers: np.ndarray = logits.double().softmax(1).numpy()
    return answers


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def subset(domain: Domain, count: int, seed: int = 0) -> Domain:
    """About `count` samples drawn at random, each class (or tenth of values) keeping its share.

    At least 5 of each class stay, where it has as many: with many classes that is more in all.
    """
    n = len(domain)
    if count >= n:
        return domain
    if domain.values is not None:
        stratum = strata(domain.values)
    elif domain.labels is not None:
        stratum = np.unique([str(v) for v in domain.labels], return_inverse=True)[1]
    else:
        stratum = np.zeros(n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    kept = []
    for c in np.unique(stratum):
        where = rng.permutation(np.flatnonzero(stratum == c))
        kept.append(where[: max(round(count * len(where) / n), min(5, len(where)))])
    index = np.sort(np.concatenate(kept))

    def part(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[index]

    return replace(
        domain,
        samples=_Part(domain, index),
        labels=part(domain.labels),
        values=part(domain.values),
        groups=part(domain.groups),
        ids=None if domain.ids is None else [domain.ids[i] for i in index],
    )


class _Part:
    """Some of a domain's samples."""

    def __init__(self, domain: Domain, index: np.ndarray) -> None:
        self.samples, self.index = domain.samples, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, indices: Sequence[int], /) -> Raw:
        return self.samples.__getitems__(self.index[np.asarray(indices)].tolist())
