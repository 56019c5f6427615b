"""`Plan`: everything that is fixed before training, the same for every candidate of a run."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domadapt.backbones import (
    Backbone,
    build_backbone,
    default_backbone,
    is_of_run,
    preprocessing_of,
)
from domadapt.checkpoint import write_atomically
from domadapt.data.samples import ArraySamples
from domadapt.data.tokens import Tokenizer, tokenised
from domadapt.data.views import Preprocessing, Views, make_views
from domadapt.defaults import BOTTLENECK, BackboneKind
from domadapt.errors import DomadaptError
from domadapt.hf import is_hf
from domadapt.inference import inputs_of, to_device
from domadapt.network import Network, Normalize, Rescale, in_units, width_of
from domadapt.runs.saved import CONFIG, ENCODER, MODEL, is_regression, model_arguments, read_config
from domadapt.task import Domain, Inputs, Split, Task

#: Samples of the source from which the inputs' mean and spread are taken.
STATISTICS_SAMPLES = 2048


@dataclass(frozen=True)
class ModelSpec:
    """What a person says of the model.

    Attributes:
        name: a backbone's name (`domadapt list models`), ``path.py:function``, or "module" for an
            `nn.Module` given in Python; None takes the default of the kind of data.
        weights: pre-trained weights of the backbone: a file, or a hub name such as ``DEFAULT``.
        checkpoint: a trained classifier, head included: weights of the named architecture, or the
            folder of a run, which also says what to name.
        head: the dotted name of the head within a whole classifier.
        freeze: keep the backbone as it is, compute its features once, and adapt what follows.
        bottleneck: width of a layer between backbone and head; 0 for none, None for the default.
        image_size: height and width that images are brought to; None leaves it to the backbone.
        augment: name of the augmentation; None takes the data's own.
        max_length: where texts are cut, in tokens; None takes 128, or the model's limit.
        pooling: of an encoder of Hugging Face: "mean", "first" or "hf", its own classifier's;
            None takes "mean" for texts, and "hf" for images and with a trained head.
    """

    name: str | None = None
    weights: str | None = None
    checkpoint: str | None = None
    head: str | None = None
    freeze: bool = False
    bottleneck: int | None = None
    image_size: int | None = None
    augment: str | None = None
    max_length: int | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        for what in ("bottleneck", "image_size", "max_length"):
            value = getattr(self, what)
            if value is not None and value < (0 if what == "bottleneck" else 1):
                raise DomadaptError(f"{what} must be a positive number; got {value}.")


@dataclass(frozen=True)
class Plan:
    """What every candidate of a run shares.

    Attributes:
        spec: the model as asked for, its name filled in.
        kind: the kind of backbone, which decides the defaults of training.
        task, views: what is trained on; of cached features where the backbone is frozen.
        make_network: a fresh network for `task` from a seed; the same seed gives the same weights.
        compose: the whole network for raw inputs from a trained one (the same one unless frozen).
        input_views: how raw samples become inputs of the whole network.
        example: a small batch of such inputs.
    """

    spec: ModelSpec
    kind: BackboneKind
    task: Task
    views: Views
    make_network: Callable[[int], Network]
    compose: Callable[[Network], Network]
    input_views: Views
    example: Inputs


def views_for(task: Task, spec: ModelSpec, preprocessing: Preprocessing | None) -> Views:
    """The views of a task's raw samples for a model."""
    if spec.image_size is not None:
        size = (spec.image_size, spec.image_size)
        preprocessing = replace(preprocessing or Preprocessing(), size=size, resize=None)
    scale = tokenizer = None
    if task.kind == "text" and spec.name is not None and is_hf(spec.name):
        tokenizer = _tokenizer(spec.name, spec.max_length)
    elif spec.max_length is not None:
        raise DomadaptError(
            "max_length is for texts and a model of Hugging Face (hf:); leave it out."
        )
    if task.kind in ("vector", "series"):
        plain = make_views(task.kind, "none", None)
        scale = _statistics(task.example, plain)[1]
    augment = spec.augment or task.augment
    return make_views(task.kind, augment, preprocessing, scale=scale, tokenizer=tokenizer)


def _tokenizer(name: str, max_length: int | None) -> Tokenizer:
    from domadapt.hf.encoder import tokenizer_of

    return tokenizer_of(name, max_length)


def _statistics(split: Split, views: Views) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by channel of a sample of the source.

    The target's serve only where there is no source, for the noise of augmented views.
    """
    n = min(len(split), STATISTICS_SAMPLES)
    some = np.unique(np.linspace(0, len(split) - 1, n).astype(int))
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(some), 128):
        x = views.evaluation(split.fetch(some[start : start + 128]))
        if not isinstance(x, Tensor):
            raise DomadaptError("Only inputs that are tensors have a mean.")
        flat = x.double().transpose(0, 1).flatten(1)
        count += flat.shape[1]
        total = total + flat.sum(1)
        squares = squares + flat.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    # A feature that never varies has no scale of its own.
    return mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float()


def _common(std: Tensor) -> Tensor:
    """One scale for all features: theirs are comparable already, and rare ones not blown up."""
    return torch.full_like(std, float(std.square().mean().sqrt()))


def _bottleneck(width: int, wanted: int | None) -> tuple[nn.Module | None, int]:
    if not wanted:
        return None, width
    layers = nn.Sequential(nn.Linear(width, wanted), nn.BatchNorm1d(wanted), nn.ReLU())
    return layers, wanted


def make_plan(
    task: Task,
    spec: ModelSpec,
    module: nn.Module | None = None,
    cache: Path | None = None,
    device: torch.device | None = None,
) -> Plan:
    """Decide on views and network for a task, and compute the features of a frozen backbone.

    Args:
        task: the task over raw samples.
        spec: the model.
        module: a backbone or `Network` given in Python.
        cache: folder for the features of a frozen backbone; None keeps them in memory.
        device: where a frozen backbone computes them.
    """
    if task.source_free and module is None and spec.checkpoint is None:
        raise DomadaptError(
            "A task without source data needs a trained model in its place; give the folder of a "
            "run (--from runs/source, in Python checkpoint_file=...)."
        )
    if module is not None:
        return _plan(task, replace(spec, name="module"), _given(module), cache, device)
    asked = None
    if spec.checkpoint is not None:
        spec, asked = _taken_up(spec, spec.checkpoint, task)
    if spec.name is None:
        shown: Inputs = {}
        if task.kind != "text":
            shown = make_views(task.kind, "none", None).evaluation(task.example.fetch([0]))
        spec = replace(spec, name=default_backbone(task.kind, shown, task.augment))
    assert spec.name is not None
    name = spec.name
    if is_hf(name) and spec.pooling is None:
        from domadapt.hf.encoder import default_pooling

        spec = replace(spec, pooling=default_pooling(name, spec.head is not None))
    if asked is None:
        # A trained classifier asks for its images as pre-trained weights do.
        asked = preprocessing_of(name, spec.weights or spec.checkpoint)

    def build(example: Inputs) -> Backbone:
        return build_backbone(
            name,
            example,
            weights=spec.weights,
            checkpoint=None if spec.checkpoint is None else Path(spec.checkpoint),
            n_classes=task.n_classes,
            head=spec.head,
            pooling=spec.pooling,
        )

    return _plan(task, spec, build, cache, device, asked)


def _taken_up(spec: ModelSpec, given: str, task: Task) -> tuple[ModelSpec, Preprocessing | None]:
    """The spec with what the run says of its model, where the checkpoint is that of a run."""
    path = Path(given)
    if path.is_dir():
        read_config(path)
        path = path / MODEL
    if not is_of_run(path) or not (path.parent / CONFIG).exists():
        return spec, None
    config = read_config(path.parent)
    if is_regression(config) != task.regression:
        raise DomadaptError(
            f"The model of {path.parent} was made for "
            f"{'measurements' if is_regression(config) else 'classes'}, and this task has "
            f"{'measurements' if task.regression else 'classes'}; both must be the same."
        )
    if tuple(config["class_names"]) != task.class_names:
        raise DomadaptError(
            f"The model of {path.parent} tells {', '.join(config['class_names'])} apart, and the "
            f"source has {', '.join(task.class_names)}; both must be the same classes."
        )
    if config["model"]["spec"]["name"] == "module":
        raise DomadaptError(
            f"The model of {path.parent} was given in Python as a module, which a folder cannot "
            "hold; give that module again, with its weights."
        )
    known = model_arguments(path.parent, config)
    views = config["views"].get("preprocessing")
    spec = replace(
        spec,
        name=spec.name or known["name"],
        checkpoint=str(path),
        head=spec.head or known["head"],
        pooling=spec.pooling or known["pooling"],
        max_length=spec.max_length or config["views"].get("max_length"),
    )
    return spec, None if views is None else Preprocessing(**views)


def _given(module: nn.Module) -> Callable[[Inputs], Backbone]:
    def build(example: Inputs) -> Backbone:
        own = copy.deepcopy(module)
        if isinstance(own, Network):
            return Backbone(own, own.head, None, "pretrained", None)
        return Backbone(own, None, None, "scratch", None)

    return build


def _plan(
    task: Task,
    spec: ModelSpec,
    build: Callable[[Inputs], Backbone],
    cache: Path | None,
    device: torch.device | None,
    preprocessing: Preprocessing | None = None,
) -> Plan:
    views = views_for(task, spec, preprocessing)
    example = views.evaluation(task.example.fetch([0, 1]))
    normalize = None
    if preprocessing is not None and preprocessing.mean is not None:
        assert preprocessing.std is not None
        normalize = Normalize(torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std))
    fitted = normalize
    if normalize is None and task.kind != "text":
        mean, std = _statistics(task.example, views)
        fitted = Normalize(mean, _common(std) if task.augment == "features" else std)

    def raw_network(seed: int) -> tuple[Network, Backbone]:
        torch.manual_seed(seed)
        made = build(example)
        if made.head is not None:
            if spec.bottleneck:
                raise DomadaptError(
                    "A trained head takes the features as they are, so there is no place for a "
                    "bottleneck; leave out the bottleneck, or the head (give --weights instead)."
                )
            # Of a whole classifier nothing is guessed: without stated statistics it takes values
            # as they are.
            network = made.module
            if not isinstance(network, Network):
                network = Network(made.module, made.head, None, copy.deepcopy(normalize))
            return _check_head(network, task), made
        width = width_of(made.module, example)
        wanted = spec.bottleneck
        if wanted is None:
            wanted = BOTTLENECK["frozen"] if spec.freeze else made.bottleneck
        bottleneck, out = _bottleneck(width, wanted)
        head: nn.Module = nn.Linear(out, task.n_classes)
        if task.regression:
            head = nn.Sequential(head, Rescale(*task.units()))
        return Network(made.module, head, bottleneck, copy.deepcopy(fitted)), made

    if not spec.freeze:
        tokenizer = getattr(views, "tokenizer", None)
        if tokenizer is not None:
            task = task.mapped(lambda domain: tokenised(domain, tokenizer, cache))
        return Plan(
            spec,
            raw_network(0)[1].kind,
            task,
            views,
            lambda seed: raw_network(seed)[0],
            lambda network: network,
            views,
            example,
        )

    whole, made = raw_network(0)
    whole.eval().requires_grad_(False)
    if device is not None:
        whole.to(device)
    features = task.mapped(lambda domain: _features(domain, whole, views, cache))
    plain = make_views("vector", "none", None)
    mean, std = _statistics(features.example, plain)
    feature_views = make_views("vector", features.augment, None, scale=std)

    def head_network(seed: int) -> Network:
        full, _ = raw_network(seed)
        # A trained head expects the features as they are.
        scaled = None if made.head is not None else Normalize(mean, _common(std))
        return Network(nn.Identity(), full.head, full.bottleneck, scaled)

    def compose(network: Network) -> Network:
        after = network.bottleneck
        if isinstance(network.normalize, Normalize):
            after = nn.Sequential(network.normalize, network.bottleneck)
        return Network(
            copy.deepcopy(whole.backbone).cpu(),
            network.head,
            after,
            copy.deepcopy(whole.normalize).cpu(),
        ).eval()

    return Plan(spec, "frozen", features, feature_views, head_network, compose, views, example)


def _check_head(network: Network, task: Task) -> Network:
    if task.regression and network.n_classes == task.n_classes:
        if network.spread is None:
            if not isinstance(network.head, nn.Linear):
                raise DomadaptError(
                    "The trained head of a regression must be one torch.nn.Linear, so that its "
                    f"units are known; got {type(network.head).__name__}. Name the last linear "
                    "layer alone (--head)."
                )
            network.head = in_units(network.head, *task.units())
        return network
    if network.spread is not None and not task.regression:
        raise DomadaptError(
            "The model is one of a regression, and the labels of this task are classes; give "
            "measurements (--task-type regression), or another model."
        )
    if network.n_classes != task.n_classes:
        raise DomadaptError(
            f"The model's head has {network.n_classes} classes, and the source has "
            f"{task.n_classes} ({', '.join(task.class_names)}); both must be the same classes in "
            "the same order."
        )
    return network


def _features(domain: Domain, network: Network, views: Views, cache: Path | None) -> Domain:
    """The domain's features under a frozen backbone, with the evaluation view, computed once.

    With a cache they go to its file a batch at a time and are mapped from there, so that memory
    does not grow with the domain.
    """
    if cache is None:
        z = torch.cat(list(_feature_batches(domain, network, views)))
        return _feature_domain(domain, ArraySamples(z))
    path = cache / f"features-{_identity(domain, network, views)}.npy"
    if not path.exists():

        def write(p: Path) -> None:
            rows: Any = None
            start = 0
            for z in _feature_batches(domain, network, views):
                if rows is None:
                    shape = (len(domain), z.shape[1])
                    rows = np.lib.format.open_memmap(p, "w+", np.float32, shape)
                rows[start : start + len(z)] = z.numpy()
                start += len(z)
            rows.flush()

        write_atomically(path, write)
    return _feature_domain(domain, ArraySamples(np.load(path, mmap_mode="r", allow_pickle=False)))


def _feature_batches(domain: Domain, network: Network, views: Views) -> Iterator[Tensor]:
    everything = Split("all", domain, np.arange(len(domain)))
    device = next(network.parameters()).device
    # On a CPU small batches are faster: their activations fit memory that is used again.
    for x in inputs_of(everything, views, 8 if device.type == "cpu" else 64):
        with torch.no_grad():
            z = network.backbone(network.normalize(to_device(x, device)))
        yield (z.flatten(2).mean(2) if z.ndim > 2 else z).float().cpu()


def _feature_domain(domain: Domain, samples: ArraySamples) -> Domain:
    return Domain(domain.name, samples, kind="vector", augment="features", ids=domain.ids)


def _identity(domain: Domain, network: Network, views: Views) -> str:
    """A hash of what decides a domain's features: samples (some of them), view and weights."""
    digest = hashlib.sha256(f"{domain.name}:{len(domain)}:{views.config()}".encode())
    some = np.unique(np.linspace(0, len(domain) - 1, 32).astype(int)).tolist()
    raw = domain.samples.__getitems__(some)
    for x in raw.values() if isinstance(raw, dict) else raw:
        digest.update(x.contiguous().numpy().tobytes())
    for part in (network.normalize, network.backbone):
        for value in part.state_dict().values():
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def keep_source(spec: ModelSpec, folder: Path) -> dict[str, str]:
    """Copy what builds the backbone again into the run's folder `folder`, where that is needed.

    Of a file of one's own that is the file; returns its name and hash. Of an encoder of Hugging
    Face it is its configuration and tokenizer; returns the name of their folder.
    """
    if spec.name is not None and is_hf(spec.name):
        from domadapt.hf.saving import keep_encoder

        keep_encoder(spec.name, folder / ENCODER)
        return {"encoder": ENCODER}
    if spec.name is None or ".py" not in spec.name:
        return {}
    folder = folder / "source"
    file = Path(spec.name.rpartition(":")[0] or spec.name)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def spec_dict(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain values for JSON."""
    # Names that came later are left out where they say nothing: older runs have the same hash.
    later = ("max_length", "pooling")
    return {k: v for k, v in asdict(spec).items() if k not in later or v is not None}
