"""Backbones by name: small networks of our own, torchvision, timm, and a person's own file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError, unknown
from domadapt.methods.registry import load_file
from domadapt.network import Network
from domadapt.task import Inputs, Kind

#: torchvision's classifiers that need inputs of a certain size or return more than logits.
_TUPLES = ("inception_v3", "googlenet")
#: Mean and deviation of ImageNet's training images, which pre-trained image networks expect.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and what comes with it.

    Attributes:
        module: maps inputs to features ``(n, d)`` or maps ``(n, d, h, w)``; it has no head.
        head: a trained head, where a whole classifier was given; else None.
        preprocessing: what it asks of its images; None: the data's own size, normalised by the
            source's statistics.
        kind: what decides the defaults of training.
        bottleneck: the default width of a layer between it and a new head; None for none.
    """

    module: nn.Module
    head: nn.Module | None
    preprocessing: Preprocessing | None
    kind: Literal["scratch", "pretrained", "transformer"]
    bottleneck: int | None = None


def mlp(example: Tensor, width: int = 256) -> nn.Module:
    """Two hidden layers of `width` units, each with BatchNorm and ReLU, for vectors ``(n, d)``."""
    d = example.flatten(1).shape[1]
    return nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(d, width), nn.BatchNorm1d(width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
    )


def lenet(example: Tensor, channels: int = 32, width: int = 128) -> nn.Module:
    """Three blocks of convolution, BatchNorm, ReLU and pooling, and a layer of `width` units.

    For small images ``(n, c, h, w)``, 8 to 64 pixels a side: a LeNet with 3 x 3 filters.
    """
    if example.ndim != 4 or min(example.shape[2:]) < 8:
        raise DomadaptError(
            f"lenet takes images of at least 8 x 8 pixels; got inputs {tuple(example.shape[1:])}."
        )
    sizes = (example.shape[1], channels, 2 * channels, 2 * channels)
    blocks = [
        nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)
        )
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    flat = sizes[-1] * (example.shape[2] // 8) * (example.shape[3] // 8)
    last = nn.Sequential(nn.Flatten(), nn.Linear(flat, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(*blocks, last)


def conv1d(example: Tensor, channels: int = 64) -> nn.Module:
    """Three blocks of 1-D convolution for series ``(n, channels, length)``, averaged over time.

    The network of AdaTime (Ragab et al., 2023, arXiv:2203.08321), its first filter 5 steps long.
    """
    if example.ndim != 3 or example.shape[2] < 8:
        raise DomadaptError(
            f"conv1d takes series (channels, length) of at least 8 steps; got inputs "
            f"{tuple(example.shape[1:])}."
        )
    sizes = (example.shape[1], channels, 2 * channels, 2 * channels)
    blocks = [
        nn.Sequential(
            nn.Conv1d(i, o, 5 if n == 0 else 8, padding=4, bias=False),
            nn.BatchNorm1d(o),
            nn.ReLU(),
            nn.MaxPool1d(2),
        )
        for n, (i, o) in enumerate(zip(sizes, sizes[1:], strict=False))
    ]
    return nn.Sequential(*blocks, nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()))


_SMALL = {"mlp": mlp, "lenet": lenet, "conv1d": conv1d}


def default_backbone(kind: Kind, example: Inputs) -> str:
    """The backbone for a kind of data where none is named."""
    if kind == "vector":
        return "mlp"
    if kind == "series":
        return "conv1d"
    if kind == "image" and isinstance(example, Tensor):
        return "lenet" if max(example.shape[2:]) <= 64 else "resnet18"
    raise DomadaptError(f"There is no default model for data of kind {kind!r}; name one (--model).")


def backbone_names() -> list[tuple[str, str]]:
    """Every backbone's name and what it is."""
    rows = [(name, _about(f)) for name, f in _SMALL.items()]
    rows += [(name, "torchvision classifier") for name in _torchvision_names()]
    return [
        *rows,
        ("timm:NAME", "any model of timm (extra 'timm')"),
        ("file.py:function", "your own: returns a module, or a module and its preprocessing"),
    ]


def _about(f: Any) -> str:
    return (inspect.getdoc(f) or "").splitlines()[0]


def _torchvision_names() -> list[str]:
    import torchvision

    return [n for n in torchvision.models.list_models(torchvision.models) if n not in _TUPLES]


def preprocessing_of(name: str, weights: str | None = None) -> Preprocessing | None:
    """What the named backbone asks of its images, known before any data are read.

    Pre-trained torchvision and timm models take 224 x 224 (or what their weights say) with
    ImageNet's statistics; without weights they take 224 x 224 and the source's statistics. None:
    the data's own size.
    """
    if name in _SMALL:
        return None
    if ".py" in name:
        return _own(name, None)[1]
    size: tuple[int, int] = (224, 224)
    resize = 256
    if name.startswith("timm:"):
        config = _timm(name, None).default_cfg
        side = int(config.get("input_size", (3, 224, 224))[-1])
        size, resize = (side, side), round(side * 8 / 7)
        statistics = tuple(config["mean"]), tuple(config["std"])
    else:
        statistics = _IMAGENET
        entry = _hub_entry(name, weights)
        if entry is not None:
            how: Any = entry.transforms()
            size = (how.crop_size[0],) * 2
            resize = max(how.resize_size[0], size[0])
            statistics = tuple(how.mean), tuple(how.std)
    if weights is None:
        return Preprocessing(size, resize)
    return Preprocessing(size, resize, *statistics)


def build_backbone(
    name: str,
    example: Inputs,
    *,
    weights: str | None = None,
    checkpoint: Path | None = None,
    n_classes: int | None = None,
    head: str | None = None,
) -> Backbone:
    """A backbone by name.

    Args:
        name: ``mlp``, ``lenet``, ``conv1d``, a torchvision classifier, ``timm:NAME`` or
            ``path.py:function``.
        example: a small batch of prepared inputs; the small networks adapt to its shape.
        weights: pre-trained weights of a torchvision or timm model: a file, or the name of an
            entry of torchvision's hub such as ``DEFAULT``. Their head is dropped.
        checkpoint: weights of a whole classifier for `n_classes` classes; its head is kept.
        n_classes: the number of the source's classes.
        head: the dotted name of the head, which makes the named model a whole classifier.

    Raises:
        DomadaptError: an unknown name, weights that do not fit or cannot be reached.
    """
    whole = checkpoint is not None or head is not None
    if name in _SMALL:
        if not isinstance(example, Tensor):
            raise DomadaptError(f"{name} takes tensors; this task's inputs are text.")
        if weights is not None:
            raise DomadaptError(
                f"{name} has no pre-trained backbone weights; give a whole classifier with --from."
            )
        module = _SMALL[name](example)
        if not whole:
            return Backbone(module, None, None, "scratch")
        z = module.eval()(example)
        layers = {"backbone": module.train(), "head": nn.Linear(z.shape[1], n_classes or 2)}
        return _with_head(_Chain(layers), "head", checkpoint, None, "scratch")
    if ".py" in name:
        model, preprocessing = _own(name, n_classes if whole else None)
        if whole:
            return _with_head(model, head, checkpoint, preprocessing, "pretrained")
        if weights is not None:
            _load(model, Path(weights), name)
        return Backbone(model, None, preprocessing, "pretrained", 256)
    preprocessing = preprocessing_of(name, weights)
    if name.startswith("timm:"):
        model = _timm(name, n_classes if whole else None)
    else:
        model = _torchvision(name, weights, n_classes if whole else None)
    transformer = any(word in name for word in ("vit", "swin", "deit", "beit"))
    kind: Literal["scratch", "pretrained", "transformer"] = (
        "transformer" if transformer else "pretrained"
    )
    if whole:
        return _with_head(model, head, checkpoint, preprocessing, kind)
    if weights is not None and Path(weights).exists():
        _load(model, Path(weights), name, drop_head=True)
    split = Network.from_classifier(model)
    return Backbone(
        split.backbone,
        None,
        preprocessing,
        "scratch" if weights is None else kind,
        None if weights is None else 256,
    )


class _Chain(nn.Sequential):
    """Named layers one after the other."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def _with_head(
    model: nn.Module,
    head: str | None,
    checkpoint: Path | None,
    preprocessing: Preprocessing | None,
    kind: Literal["scratch", "pretrained", "transformer"],
) -> Backbone:
    """A whole classifier, its weights loaded, divided into backbone and head."""
    if checkpoint is not None:
        _load(model, checkpoint, "the model")
    split = Network.from_classifier(model, head)
    return Backbone(split.backbone, split.head, preprocessing, kind)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file (.safetensors, .pth, .pt, .th); no code in it is run."""
    if not path.is_file():
        raise DomadaptError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            state: Any = load_safetensors(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DomadaptError(
            f"{path} is no weights file: a state_dict saved by torch.save or safetensors is "
            f"required ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DomadaptError(f"{path} holds no state_dict; save model.state_dict().")
    return {
        k.removeprefix("module."): v.float() if v.is_floating_point() else v
        for k, v in state.items()
    }


def _load(model: nn.Module, path: Path, name: str, drop_head: bool = False) -> None:
    state = read_state(path)
    own = model.state_dict()
    if drop_head:
        last = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        kept = {k: v for k, v in state.items() if not k.startswith(f"{last}.")}
        state = {**kept, **{k: v for k, v in own.items() if k.startswith(f"{last}.")}}
    missing, strange = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or strange:
        off = f"it lacks {missing[0]!r}" if missing else f"it has {strange[0]!r}, unknown there"
        raise DomadaptError(
            f"The weights in {path} do not fit {name}: {off} ({len(missing)} missing, "
            f"{len(strange)} unknown). Name the architecture they were trained with (--model)."
        )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise DomadaptError(
                f"The weights in {path} do not fit {name}: {key} has shape "
                f"{tuple(state[key].shape)} there, {tuple(value.shape)} is required. A head must "
                "have the classes of the source, in the same order."
            )
    model.load_state_dict(state)


def _hub_entry(name: str, weights: str | None) -> Any:
    """torchvision's entry of pre-trained weights by name; None where a file or nothing is given."""
    if weights is None or Path(weights).suffix in (".pth", ".pt", ".th", ".safetensors"):
        return None
    import torchvision

    if name not in _torchvision_names():
        raise unknown("model", name, [n for n, _ in backbone_names()])
    entries = torchvision.models.get_model_weights(name)
    if weights not in entries.__members__:
        raise DomadaptError(
            f"{weights!r} is neither a weights file nor an entry of torchvision's hub for {name}; "
            f"the entries are {', '.join(entries.__members__)}."
        )
    return entries[weights]


def _torchvision(name: str, weights: str | None, n_classes: int | None) -> nn.Module:
    import torchvision

    if name in _TUPLES:
        raise DomadaptError(
            f"{name} returns more than logits and cannot be divided; choose another model."
        )
    if name not in _torchvision_names():
        raise unknown("model", name, [n for n, _ in backbone_names()])
    entry = _hub_entry(name, weights)
    try:
        model: nn.Module = torchvision.models.get_model(
            name, weights=entry, **({} if n_classes is None else {"num_classes": n_classes})
        )
    except OSError as error:
        raise DomadaptError(
            f"The weights {weights!r} of {name} could not be downloaded ({error}). Give a file "
            "with --weights, or train from random weights without it."
        ) from error
    return model


def _timm(name: str, n_classes: int | None) -> Any:
    try:
        import timm
    except ImportError as error:
        raise DomadaptError(
            f"{name} needs the package timm: pip install 'domadapt[timm]'."
        ) from error
    wanted = name.removeprefix("timm:")
    if wanted.partition(".")[0] not in timm.list_models():
        raise unknown("timm model", wanted, timm.list_models())
    more = {} if n_classes is None else {"num_classes": n_classes}
    return timm.create_model(wanted, pretrained=False, **more)


def _own(name: str, n_classes: int | None) -> tuple[nn.Module, Preprocessing | None]:
    """What a person's own function returns: a module, and its preprocessing if it says one."""
    path, colon, function = name.rpartition(":")
    if not colon:
        raise DomadaptError(
            f"A model of one's own is given as file.py:function; got {name!r} without a function."
        )
    module = load_file(Path(path))
    build = getattr(module, function, None)
    if not callable(build):
        own = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise unknown(f"function in {path}", function, own)
    takes = inspect.signature(build).parameters
    given = {"n_classes": n_classes} if "n_classes" in takes and n_classes is not None else {}
    made = build(**given)
    asked: Any = None
    if isinstance(made, tuple):
        made, asked = made
    if not isinstance(made, nn.Module):
        raise DomadaptError(
            f"{name} must return a torch.nn.Module, or one and its preprocessing; it returned "
            f"{type(made).__name__}."
        )
    if isinstance(asked, Mapping):
        try:
            asked = Preprocessing(**asked)
        except TypeError as error:
            raise DomadaptError(
                f"The preprocessing of {name} may have size, resize, mean and std; got "
                f"{', '.join(map(str, asked))}."
            ) from error
    if asked is not None and not isinstance(asked, Preprocessing):
        raise DomadaptError(
            f"The preprocessing of {name} must be a dictionary with size, resize, mean and std; "
            f"got {type(asked).__name__}."
        )
    return made, asked
