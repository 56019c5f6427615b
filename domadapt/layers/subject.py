"""What a study is of: a pre-trained network, a downstream task, and how the one is made for the
other.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from domadapt.backbones import build_backbone
from domadapt.data.views import Views
from domadapt.defaults import BackboneKind
from domadapt.errors import DomadaptError
from domadapt.hf.encoder import build_encoder
from domadapt.hf.reading import is_hf
from domadapt.layers.probing import attends
from domadapt.network import Network, Rescale
from domadapt.runs.plan import ModelSpec, make_plan, views_for
from domadapt.runs.saved import load_run, model_arguments
from domadapt.task import Domain, Task
from domadapt.transfer.models import parse, short_names


@dataclass(frozen=True)
class Subject:
    """A pre-trained network and the task that it is fine-tuned for.

    Attributes:
        name: what tables call the model.
        task, views: what it is trained on, and how samples become inputs.
        kind: the kind of backbone, which decides the defaults of training.
        make: the pre-trained network with a new head from a seed.
        fresh: the modules of its backbone by name with random weights from a seed; None where it
            cannot be built anew.
    """

    name: str
    task: Task
    views: Views
    kind: BackboneKind
    make: Callable[[int], Network]
    fresh: Callable[[int], dict[str, nn.Module]] | None


def task_for(
    source: Domain, target: Domain | None, val_fraction: float = 0.2, extra_classes: bool = False
) -> Task:
    """The downstream task: fine-tuned on the source, scored on its held-out part.

    Args:
        source: labelled.
        target: another domain of the same inputs; its labels, if any, are scored, too.
        val_fraction: the share that is held out.
        extra_classes: whether target samples of classes that the source lacks are left unscored
            instead of refused.
    """
    return Task(
        source,
        source.unlabelled() if target is None else target,
        name=source.name if target is None else None,
        val_fraction=val_fraction,
        extra_classes="unscored" if extra_classes else "error",
    )


def subject_of(
    model: str | Network,
    task: Task,
    *,
    image_size: int | None = None,
    augment: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
) -> Subject:
    """The model with a new head for a task; its own head and bottleneck are left behind.

    Args:
        model: a backbone with its weights (``resnet20=weights.th``), ``file.py:function``, the
            folder of a run, or a `Network`. Of the last two, normalisation and bottleneck stay.
        task: of `task_for`.
        image_size: side that images are brought to.
        augment: name of the augmentation; None takes the data's own.
        max_length, pooling: of an encoder of Hugging Face (`domadapt.runs.plan.ModelSpec`).

    Raises:
        DomadaptError: no such model, or one that has learnt nothing.
    """
    spec = ModelSpec(
        image_size=image_size,
        augment=augment,
        bottleneck=0,
        max_length=max_length,
        pooling=pooling,
    )
    if isinstance(model, Network):
        return _of_network(model, type(model.backbone).__name__, task, spec)
    if Path(model).is_dir():
        return _of_run(model, task, spec)
    name, weights = parse(model)
    plan = make_plan(task, replace(spec, name=name, weights=weights))
    if plan.kind in ("scratch", "frozen"):
        raise DomadaptError(
            f"A study of transfer needs a pre-trained model, and {model} begins with random "
            f"weights; give {name}=WEIGHTS, or the folder of a run."
        )
    anew: Callable[[int], dict[str, nn.Module]] | None = None
    if is_hf(name):

        def anew(seed: int) -> dict[str, nn.Module]:
            torch.manual_seed(seed)
            encoder, _ = build_encoder(name, pooling=plan.spec.pooling, trained=False)
            return dict(encoder.named_modules())

    elif weights is not None and ".py" not in name:

        def anew(seed: int) -> dict[str, nn.Module]:
            torch.manual_seed(seed)
            return dict(build_backbone(name, plan.example).module.named_modules())

    # Without folders: the weights may lie elsewhere on another machine.
    called = f"hf:{Path(name[3:]).name}" if is_hf(name) else short_names([model])[0]
    return Subject(called, plan.task, plan.views, plan.kind, plan.make_network, anew)


def _of_run(model: str, task: Task, spec: ModelSpec) -> Subject:
    run = load_run(model)
    if run.kind != task.kind:
        raise DomadaptError(
            f"The model of {model} takes data of kind {run.kind!r}, and these are of kind "
            f"{task.kind!r}; give other data."
        )
    if not isinstance(run.model, Network):
        raise DomadaptError(
            f"Of {model} only the exported program is left, which has no blocks; adapt again."
        )
    found = _of_network(run.model, model, task, spec)
    arguments = model_arguments(Path(model), run.config)
    anew = None
    named = arguments["name"]
    if named != "module" and ".py" not in named and not is_hf(named):

        def anew(seed: int) -> dict[str, nn.Module]:
            torch.manual_seed(seed)
            example = torch.zeros(2, *run.config["model"]["input"])
            return dict(build_backbone(named, example).module.named_modules())

    return Subject(Path(model).name, task, run.views, found.kind, found.make, anew)


def _of_network(network: Network, name: str, task: Task, spec: ModelSpec) -> Subject:
    def make(seed: int) -> Network:
        own = copy.deepcopy(network).train().requires_grad_(True)
        torch.manual_seed(seed)
        head: nn.Module = nn.Linear(own.n_features, task.n_classes)
        own.head = nn.Sequential(head, Rescale(*task.units())) if task.regression else head
        return own

    kind: BackboneKind = "transformer" if attends(network.backbone) else "pretrained"
    return Subject(name, task, views_for(task, spec, None), kind, make, None)


def weights_hash(network: Network) -> str:
    """A hash of all that a network was pre-trained with: everything but its head."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if not name.startswith("head."):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
