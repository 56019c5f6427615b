"""A finished run's folder: what it holds, and how its model is taken up again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domadapt import checkpoint
from domadapt.backbones import build_backbone
from domadapt.data.views import Views, views_from_config
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of
from domadapt.network import Network, Normalize, width_of
from domadapt.runs.plan import ModelSpec
from domadapt.task import Domain, Split, canonical

CONFIG, MODEL, EXPORT = "config.json", "model.safetensors", "model.pt2"
REPORT, PAGE, PREDICTIONS = "report.json", "report.html", "predictions.csv"
CONFIG_SCHEMA = 1


@dataclass(frozen=True)
class SavedRun:
    """A run's model with what is needed to use it.

    Attributes:
        model: returns logits for prepared inputs; in evaluation mode. A `Network` unless the
            backbone was a module given in Python, which only the export can bring back.
        views: how raw samples become its inputs.
        class_names: the classes of its logits, in order.
        kind: what a sample is.
        config: all of ``config.json``.
    """

    model: nn.Module
    views: Views
    class_names: tuple[str, ...]
    kind: str
    config: dict[str, Any]


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a finished run; anything else is refused with a sentence."""
    if not folder.is_dir():
        raise DomadaptError(
            f"A run folder is required, as `domadapt adapt --out` makes it; there is no folder "
            f"{folder}."
        )
    if not (folder / CONFIG).exists():
        unfinished = (folder / "run.json").exists()
        raise DomadaptError(
            f"The run in {folder} is not finished; go on with `domadapt adapt --resume {folder}`."
            if unfinished
            else f"{folder} is no run folder: it has no {CONFIG}."
        )
    config: dict[str, Any] = checkpoint.read_json(folder / CONFIG)
    if config.get("schema", 0) > CONFIG_SCHEMA:
        raise DomadaptError(
            f"{folder / CONFIG} has schema {config['schema']}, and this domadapt reads up to "
            f"{CONFIG_SCHEMA}; upgrade domadapt."
        )
    return config


def load_run(folder: Path) -> SavedRun:
    """The adapted model of a run folder."""
    config = read_config(folder)
    views = views_from_config(config["views"])
    names = tuple(config["class_names"])
    spec = ModelSpec(**config["model"]["spec"])
    if spec.name == "module":
        exported: Any = torch.export.load(str(folder / EXPORT))
        return SavedRun(exported.module(), views, names, config["kind"], config)
    network = _rebuild(folder, spec, config)
    state, _ = checkpoint.load_tensors(folder / MODEL)
    checkpoint.load_module_state(network, state, folder / MODEL)
    return SavedRun(network.eval(), views, names, config["kind"], config)


def _rebuild(folder: Path, spec: ModelSpec, config: dict[str, Any]) -> Network:
    """The untrained network of a run, from its configuration alone: no weights are fetched."""
    name = spec.name
    assert name is not None
    if ".py" in name:
        name = f"{folder / 'source' / config['model']['file']}{name[name.rindex('.py') + 3 :]}"
    shape = config["model"]["input"]
    example = torch.zeros(2, *shape)
    n_classes = len(config["class_names"])
    whole = spec.checkpoint is not None or spec.head is not None
    # The trained weights are read from the run; the file they began from may be gone.
    spec = replace(spec, weights=None, checkpoint=None)
    made = build_backbone(
        name,
        example,
        n_classes=n_classes,
        head=config["model"]["head"] if whole else None,
    )
    layers = config["model"]["layers"]
    width = width_of(made.module, example)
    bottleneck = _layers(layers["bottleneck"], width)
    head = made.head
    if head is None:
        head = nn.Linear(layers["features"], n_classes)
    normalize = None
    if layers["normalize"] is not None:
        blank = torch.ones(layers["normalize"])
        normalize = Normalize(blank, blank)
    return Network(made.module, head, bottleneck, normalize)


def _layers(description: Any, width: int) -> nn.Module | None:
    """The bottleneck that `describe_layers` described."""
    if description is None:
        return None
    if "parts" in description:
        return nn.Sequential(*[_layers(d, width) or nn.Identity() for d in description["parts"]])
    if "normalize" in description:
        blank = torch.ones(description["normalize"])
        return Normalize(blank, blank)
    wide = description["width"]
    return nn.Sequential(nn.Linear(width, wide), nn.BatchNorm1d(wide), nn.ReLU())


def describe_layers(network: Network) -> dict[str, Any]:
    """Sizes of what stands around a network's backbone, from which it can be built again."""

    def one(module: nn.Module) -> Any:
        if isinstance(module, nn.Identity):
            return None
        if isinstance(module, Normalize):
            return {"normalize": len(module.get_buffer("mean"))}
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Linear):
            return {"width": module[0].out_features}
        if isinstance(module, nn.Sequential):
            return {"parts": [one(part) for part in module]}
        raise DomadaptError(f"The layer {type(module).__name__} cannot be described.")

    normalize = one(network.normalize)
    return {
        "normalize": None if normalize is None else normalize["normalize"],
        "bottleneck": one(network.bottleneck),
        "features": network.n_features,
    }


def class_ids(domain: Domain, class_names: tuple[str, ...], extra_classes: str) -> np.ndarray:
    """The labels of a domain as the model's class ids; -1 for a sample that is not scored."""
    if domain.labels is None:
        raise DomadaptError(
            f"Evaluation needs labels, and {domain.name!r} has none; give class folders, "
            "--label-column, or an array y."
        )
    number = {name: i for i, name in enumerate(class_names)}
    named = [canonical(v) for v in domain.labels]
    strange = sorted({v for v in named if v is not None and v not in number})
    if strange and extra_classes == "error":
        raise DomadaptError(
            f"{domain.name!r} has labels that the model does not know: {', '.join(strange)}. Its "
            f"classes are {', '.join(class_names)}. Rename or remove them, or leave them out of "
            "the scores (--extra-classes unscored)."
        )
    ids = np.array([number.get(v, -1) if v is not None else -1 for v in named])
    if not (ids >= 0).any():
        raise DomadaptError(f"No sample of {domain.name!r} has a label of the model's classes.")
    return ids


def whole(domain: Domain) -> Split:
    """All of a domain, without its labels."""
    return Split("all", domain.unlabelled(), np.arange(len(domain)))


@torch.no_grad()
def predict(run: SavedRun, domain: Domain, batch_size: int = 256) -> Tensor:
    """Class probabilities ``(n, classes)`` of every sample of a domain."""
    if domain.kind != run.kind:
        raise DomadaptError(
            f"The model takes data of kind {run.kind!r}; {domain.name!r} is of kind "
            f"{domain.kind!r}."
        )
    wanted = list(run.config["model"]["input"])
    parts = []
    for x in inputs_of(whole(domain), run.views, batch_size):
        if isinstance(x, Tensor) and list(x.shape[1:]) != wanted:
            raise DomadaptError(
                f"The model takes inputs of shape {tuple(wanted)}; those of {domain.name!r} have "
                f"{tuple(x.shape[1:])}."
            )
        parts.append(run.model(x).float().softmax(1))
    return torch.cat(parts)


def prediction_table(
    ids: list[str], p: Tensor, class_names: tuple[str, ...], per_class: bool = False
) -> pd.DataFrame:
    """One row per sample: its name, the class, its probability, and on request all of them."""
    top = p.max(1)
    table = pd.DataFrame(
        {
            "id": ids,
            "class": [class_names[i] for i in top.indices.tolist()],
            "probability": top.values.numpy().round(6),
        }
    )
    if per_class:
        for i, name in enumerate(class_names):
            table[f"p_{name}"] = p[:, i].numpy().round(6)
    return table
