"""Backbones by name: small networks of our own, torchvision's, timm's, and a person's own file.

Nothing is fetched from a network unless `weights` names an entry of a hub.
"""

from __future__ import annotations

import difflib
import inspect
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from domadapt.checkpoint import load_module_state, load_tensors
from domadapt.data.views import Preprocessing
from domadapt.defaults import BOTTLENECK
from domadapt.errors import DomadaptError, unknown
from domadapt.hf import is_hf, reads
from domadapt.methods.registry import load_file
from domadapt.network import Network, Normalize, Rescale, width_of
from domadapt.resnet_cifar import DEPTHS, HEAD, PREPROCESSING, resnet_cifar
from domadapt.strategies.adapters import restore_adapters
from domadapt.task import Inputs, Kind

BackboneOrigin = Literal["scratch", "pretrained", "transformer", "frozen"]

#: The value of `head` that stands for the last linear layer of a classifier.
LAST_LINEAR = "auto"
#: How the names of files of weights may end.
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".th")
#: torchvision's networks with auxiliary classifiers; these are left out.
_AUXILIARY = ("googlenet", "inception_v3")


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
class _Made:
    """A model before weights are loaded into it and its head is taken off.

    `head` names its head (None: it has none), `extra` the prefixes of what else a file of its
    weights may hold, and `trained` says that it came with weights of its own.
    """

    model: nn.Module
    head: str | None
    preprocessing: Preprocessing | None = None
    extra: tuple[str, ...] = ()
    trained: bool = False


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
        for i, o in pairwise(sizes)
    ]
    flat = sizes[-1] * (example.shape[2] // 8) * (example.shape[3] // 8)
    last = nn.Sequential(nn.Flatten(), nn.Linear(flat, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(*blocks, last)


def conv1d(example: Tensor) -> nn.Module:
    """Three blocks of 1-D convolution for series ``(n, channels, length)``, averaged over time.

    The network of AdaTime (Ragab et al., 2023, arXiv:2203.08321) in its sizes for human activity:
    kernels 5, 8, 8; widths 64, 128, 128; dropout 0.5 after the first block.
    """
    if example.ndim != 3:
        raise DomadaptError(
            f"conv1d takes series (channels, length); got inputs {tuple(example.shape[1:])}."
        )

    def block(i: int, o: int, kernel: int, dropout: float) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(i, o, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(o),
            nn.ReLU(),
            nn.MaxPool1d(2, padding=1),
            nn.Dropout(dropout) if dropout else nn.Identity(),
        )

    return nn.Sequential(
        block(example.shape[1], 64, 5, 0.5),
        block(64, 128, 8, 0.0),
        block(128, 128, 8, 0.0),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def features(example: Tensor) -> nn.Module:
    """None: for vectors that are features already; a bottleneck and a head follow."""
    return nn.Flatten()


_SMALL: dict[str, Callable[[Tensor], nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "conv1d": conv1d,
    "features": features,
}


def default_backbone(kind: Kind, example: Inputs, augment: str | None = None) -> str:
    """The backbone for a kind of data where none is named; `example` is one prepared batch.

    Vectors whose `augment` says that they are features (of a frozen network, or counts of words)
    need none.
    """
    if kind == "vector":
        return "features" if augment == "features" else "mlp"
    if kind == "series":
        return "conv1d"
    if kind == "image" and isinstance(example, Tensor):
        return "lenet" if max(example.shape[2:]) <= 64 else "resnet18"
    if kind == "text":
        raise DomadaptError(
            "There is no default model for texts; name an encoder of Hugging Face by its folder or "
            "its name on the hub (--model hf:FOLDER or hf:NAME)."
        )
    raise DomadaptError(f"There is no default model for data of kind {kind!r}; name one (--model).")


def backbone_names() -> list[tuple[str, str]]:
    """Every name that `build_backbone` takes, and what it is."""
    about = {name: (inspect.getdoc(f) or "").splitlines()[0] for name, f in _SMALL.items()}
    return [
        *about.items(),
        *((name, "residual network for images of 32 x 32 (CIFAR)") for name in DEPTHS),
        *((name, "torchvision classifier") for name in _torchvision_names()),
        ("timm:NAME", "any model of timm (extra 'timm')"),
        ("hf:NAME", "encoder of texts or images of Hugging Face, or hf:FOLDER (extra 'text')"),
        ("path.py:function", "your own: returns a module, or a module and its preprocessing"),
    ]


def preprocessing_of(name: str, weights: str | None = None) -> Preprocessing | None:
    """What the named backbone asks of its images, known before any data are read.

    Models of torchvision and timm take the size of their ImageNet weights, for which their strides
    are made. Where weights are given, a file included, they take the mean and deviation of those
    too; otherwise the source's statistics serve. None: the data's own size, as the small networks
    take it.
    """
    if name in _SMALL:
        return None
    if _is_own(name):
        return _call_own(name, None)[1]
    if is_hf(name):
        from domadapt.hf.encoder import preprocessing_of as asked_by

        return asked_by(name)
    if name in DEPTHS:
        asked = PREPROCESSING
    elif name.startswith("timm:"):
        asked = _timm_preprocessing(name)
    else:
        entry: Any = _hub_entry(name, None if _is_file(weights) else weights)
        how = entry.transforms()
        size = (how.crop_size[0],) * 2
        resize = max(how.resize_size[0], size[0])
        asked = Preprocessing(size, resize, tuple(how.mean), tuple(how.std))
        if name in _AUXILIARY:
            # These were trained on values in [-1, 1]. torchvision converts to that from ImageNet's
            # statistics inside the model (transform_input); here it is done directly.
            asked = replace(asked, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return asked if weights is not None else replace(asked, mean=None, std=None)


def build_backbone(
    name: str,
    example: Inputs,
    *,
    weights: str | None = None,
    checkpoint: Path | None = None,
    n_classes: int | None = None,
    head: str | None = None,
    pooling: str | None = None,
) -> Backbone:
    """A backbone by name; random weights come from torch's current random state.

    Args:
        name: ``mlp``, ``lenet``, ``conv1d``, a torchvision classifier, ``timm:NAME`` or
            ``path.py:function``, or an encoder of Hugging Face, ``hf:FOLDER`` or ``hf:NAME``, which
            brings its weights along and has no bottleneck by default. A function takes no
            argument or `n_classes`, and returns a module, or a module and its preprocessing: a
            `Preprocessing` or a dictionary of its fields.
        example: a small batch of prepared inputs, from which sizes are taken.
        weights: pre-trained weights: a file, or the name of an entry of torchvision's hub such as
            ``DEFAULT`` (of timm: ``DEFAULT`` alone). Their head, if they have one, is dropped.
        checkpoint: a trained classifier whose head is kept: a file with its state_dict, or the
            ``model.safetensors`` of a run, which comes back as a whole `Network`.
        n_classes: the number of the source's classes; needed with `checkpoint` and `head`.
        head: the dotted name of the head, which makes the named model a whole classifier whose
            head is kept; ``auto`` takes its last `torch.nn.Linear`, as `checkpoint` alone does.
        pooling: of an encoder of Hugging Face: "mean", "first" or "hf" (`domadapt.hf.encoder`).

    Returns:
        The backbone. A function of one's own counts as pre-trained where it states a mean and
        deviation: a network asks for certain ones only because it was trained with them.

    Raises:
        DomadaptError: an unknown name; inputs or an image size that the model cannot take; weights
            that are not there, cannot be read, or do not fit.
    """
    if weights is not None and checkpoint is not None:
        raise DomadaptError(
            "Weights (of a backbone) and a checkpoint (of a whole classifier) exclude each other; "
            "give one of the two."
        )
    from_run = checkpoint is not None and is_of_run(checkpoint)
    if name in _SMALL and head not in (None, LAST_LINEAR):
        raise DomadaptError(
            f"{name} has no head of its own to name; leave out --head ({head!r} was given)."
        )
    if n_classes is None and (checkpoint is not None or head is not None):
        raise DomadaptError("A whole classifier needs n_classes, the number of source classes.")
    if is_hf(name):
        if weights is not None or (checkpoint is not None and not from_run):
            raise DomadaptError(
                f"{name} brings its weights along; leave out weights and checkpoint. To keep a "
                "classifier's trained head, give --head auto."
            )
        return _of_hub(name, example, checkpoint, n_classes, head, pooling)
    if pooling is not None:
        raise DomadaptError(f"pooling is for models of Hugging Face (hf:); {name} is none.")
    whole = n_classes if head is not None or (checkpoint is not None and not from_run) else None
    made = _make(name, example, whole, n_classes, head, weights)
    given = made.trained or weights is not None or checkpoint is not None or head is not None
    if isinstance(made.model, Network):
        if weights is not None or (checkpoint is not None and not from_run):
            raise DomadaptError(
                f"{name} returns a whole Network; load its weights in the function and give "
                "neither weights nor a checkpoint."
            )
        if checkpoint is not None:
            state, _ = load_tensors(checkpoint)
            restore_adapters(made.model, state)
            load_module_state(made.model, state, checkpoint)
        return Backbone(made.model, made.model.head, made.preprocessing, _kind(made.model, True))
    if weights is not None:
        _load(made.model, _weights(name, weights), weights, (made.head, *made.extra))
    if checkpoint is not None and whole is not None and not from_run:
        if made.head is None or name.startswith("squeezenet"):
            raise DomadaptError(
                f"A checkpoint for {name} must be the model.safetensors of a run; got {checkpoint}."
                " For another classifier, write a function that builds it and name it as "
                "path.py:function."
            )
        state = read_state(checkpoint)
        _check_classes(state.get(f"{made.head}.weight"), whole, str(checkpoint))
        _load(made.model, state, str(checkpoint), made.extra)
    backbone, kept = _split(made, name)
    _check_takes(backbone, example, name)
    kind = "frozen" if name == "features" else _kind(backbone, given)
    if from_run:
        assert checkpoint is not None
        network = _network_of_run(backbone, kept, checkpoint, cast(int, n_classes))
        return Backbone(network, network.head, made.preprocessing, kind)
    if whole is None:
        return Backbone(backbone, None, made.preprocessing, kind, BOTTLENECK[kind])
    if kept is None:
        kept = nn.Linear(width_of(backbone, example), whole)
    if isinstance(kept, nn.Linear):
        _check_classes(kept.weight, whole, name)
    return Backbone(backbone, kept, made.preprocessing, kind)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file (.safetensors, .pth, .pt, .th); no code in it is run.

    A dictionary under ``state_dict`` or ``model`` is taken out, and the prefix that training with
    several processes (``module.``) or `torch.compile` (``_orig_mod.``) puts on every name removed.
    """
    if not path.is_file():
        raise DomadaptError(f"There is no weights file {path}.")
    try:
        found: Any = (
            load_safetensors(str(path))
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # the unpickler raises errors of many kinds
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise DomadaptError(
                f"{path} is no state_dict: it holds a whole pickled model, or something else that "
                "could run code. Save the weights alone: torch.save(model.state_dict(), path)."
            ) from error
        raise DomadaptError(
            f"{path} is no weights file: a state_dict saved by torch.save or safetensors is "
            f"required ({type(error).__name__}: {_first_line(error)})."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DomadaptError(f"{path} holds no state_dict; save model.state_dict().")
    return _bare(found)


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without a prefix that all names share, and with the versions of its layers."""
    bare: Any = OrderedDict(state)
    versions = dict(getattr(state, "_metadata", {}))
    for prefix in ("module.", "_orig_mod."):
        if bare and all(key.startswith(prefix) for key in bare):
            bare = OrderedDict((key.removeprefix(prefix), v) for key, v in bare.items())
            versions = {
                f"{k}.".removeprefix(prefix).rstrip("."): v for k, v in versions.items() if k
            }
    bare._metadata = versions
    return cast("dict[str, Tensor]", bare)


def _make(
    name: str,
    example: Inputs,
    whole: int | None,
    n_classes: int | None,
    head: str | None,
    weights: str | None,
) -> _Made:
    """The named model; a classifier for `whole` classes where its head is wanted."""
    chosen = None if head == LAST_LINEAR else head
    if _is_own(name):
        model, preprocessing = _call_own(name, n_classes)
        trained = preprocessing is not None and preprocessing.mean is not None
        kept = None
        if whole is not None and not isinstance(model, Network):
            kept = chosen or _last_linear(model, name)
        return _Made(model, kept, preprocessing, trained=trained)
    if not isinstance(example, Tensor):
        raise DomadaptError(f"{name} takes tensors; this task's inputs are text.")
    if name in _SMALL:
        return _Made(_SMALL[name](example), None)
    preprocessing = preprocessing_of(name, weights)
    if example.ndim != 4 or example.shape[1] != 3:
        raise DomadaptError(
            f"{name} takes images (3, height, width); got inputs {tuple(example.shape[1:])}. "
            "For vectors there is mlp, for series conv1d."
        )
    if name in DEPTHS:
        made = _Made(resnet_cifar(name, whole, example), HEAD)
    else:
        made = (_timm if name.startswith("timm:") else _torchvision)(name, whole, example)
    return replace(
        made,
        preprocessing=preprocessing,
        head=chosen if chosen is not None and whole is not None else made.head,
    )


def _split(made: _Made, name: str) -> tuple[nn.Module, nn.Module | None]:
    if made.head is None:
        return made.model, None
    if name.startswith("squeezenet"):
        # Its classifier is a convolution, and what comes before it a map.
        return nn.Sequential(OrderedDict(features=made.model.get_submodule("features"))), None
    network = Network.from_classifier(made.model, made.head)
    return network.backbone, network.head


def _kind(module: nn.Module, trained: bool) -> BackboneOrigin:
    if not trained:
        return "scratch"
    attends = any(re.search(r"Attention(V\d)?$", type(m).__name__) for m in module.modules())
    return "transformer" if attends else "pretrained"


@torch.no_grad()
def _check_takes(module: nn.Module, example: Inputs, name: str) -> None:
    was = module.training
    try:
        z = module.eval()(example)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        got = tuple(example.shape[1:]) if isinstance(example, Tensor) else "a dictionary"
        raise DomadaptError(
            f"{name} cannot take inputs {got} ({_first_line(error)}). Give inputs of another "
            "size, or choose another model."
        ) from error
    finally:
        module.train(was)
    if not isinstance(z, Tensor) or z.ndim < 2:
        raise DomadaptError(
            f"A backbone must return one tensor (n, features, ...); {name} returned "
            f"{tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__}."
        )


def _check_classes(weight: Tensor | None, wanted: int, where: str) -> None:
    if weight is not None and weight.ndim > 0 and len(weight) != wanted:
        raise DomadaptError(
            f"The head of {where} has {len(weight)} classes, and the source has {wanted}; both "
            "must be the same classes in the same order. To train a new head, give the file with "
            "--weights."
        )


def _last_linear(model: nn.Module, name: str) -> str:
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n]
    if not linear:
        raise DomadaptError(f"{name} has no torch.nn.Linear as its head; name its head (--head).")
    return linear[-1]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")[:200]


# torchvision


@cache
def _torchvision_names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _hub_entry(name: str, weights: str | None) -> Any:
    """torchvision's entry of pre-trained weights by its name; None takes the first on ImageNet."""
    from torchvision import models

    if name not in _torchvision_names():
        raise unknown("model", name, [n for n, _ in backbone_names()])
    entries = models.get_model_weights(name).__members__
    if weights is None:
        return entries.get("IMAGENET1K_V1", entries["DEFAULT"])
    short = weights.rpartition(".")[2]
    if short not in entries:
        raise DomadaptError(
            f"{weights!r} is neither a weights file ({', '.join(WEIGHT_FILES)}) nor an entry of "
            f"torchvision's hub for {name}; the entries are {', '.join(entries)}."
        )
    return entries[short]


def _torchvision(name: str, n_classes: int | None, example: Tensor) -> _Made:
    from torchvision import models

    arguments: dict[str, Any] = {"num_classes": n_classes or 2}
    extra: tuple[str, ...] = ()
    if name in _AUXILIARY:
        # With the auxiliary classifiers they return a tuple while training.
        arguments |= {"aux_logits": False, "init_weights": True, "transform_input": False}
        extra = ("aux1", "aux2", "AuxLogits")
    if name.startswith(("vit_", "maxvit_")):
        # Made for one size: a ViT of whole patches, a MaxViT of whole windows after five halvings.
        step = int(name.rpartition("_")[2]) if name.startswith("vit_") else 224
        height, width = example.shape[2:]
        if height != width or height % step:
            raise DomadaptError(
                f"{name} takes square images with sides of a multiple of {step} pixels; got "
                f"{height} x {width}. Choose another image size."
            )
        vit = name.startswith("vit_")
        arguments |= {"image_size": height} if vit else {"input_size": (height, width)}
    model = models.get_model(name, weights=None, **arguments)
    head = "classifier" if name.startswith("squeezenet") else _last_linear(model, name)
    return _Made(model, head, extra=extra)


# timm


def _timm_import(name: str) -> tuple[Any, str]:
    try:
        import timm
    except ImportError as error:
        raise DomadaptError(
            f"{name} needs the package timm: pip install 'domadapt[timm]'."
        ) from error
    wanted = name.removeprefix("timm:")
    if not timm.is_model(wanted):
        near = difflib.get_close_matches(wanted, timm.list_models(), n=3)
        hint = f" Near: {', '.join(near)}." if near else ""
        raise DomadaptError(f"timm has no model {wanted!r}.{hint} timm.list_models() has all.")
    return timm, wanted


def _timm_preprocessing(name: str) -> Preprocessing:
    timm, wanted = _timm_import(name)
    config = timm.get_pretrained_cfg(wanted).to_dict()
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    resize = max(*size, int(min(size) / config["crop_pct"]))
    return Preprocessing(size, resize, tuple(config["mean"]), tuple(config["std"]))


def _timm(name: str, n_classes: int | None, example: Tensor) -> _Made:
    timm, wanted = _timm_import(name)
    # Without classes timm returns the pooled features.
    model = timm.create_model(wanted, pretrained=False, num_classes=n_classes or 0)
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    if n_classes is None:
        return _Made(model, None, extra=heads)
    if len(heads) != 1 or not isinstance(model.get_submodule(heads[0]), nn.Linear):
        raise DomadaptError(
            f"{name} does not end in one torch.nn.Linear, so its head cannot be kept; give the "
            "file with --weights."
        )
    return _Made(model, heads[0])


# Hugging Face


def _of_hub(
    name: str,
    example: Inputs,
    run: Path | None,
    n_classes: int | None,
    head: str | None,
    pooling: str | None,
) -> Backbone:
    """An encoder of Hugging Face; with the weights of a run where one is given."""
    from domadapt.hf.encoder import build_encoder
    from domadapt.hf.encoder import preprocessing_of as asked_by

    takes = reads(name)
    if isinstance(example, Tensor) != (takes == "image"):
        raise DomadaptError(
            f"{name} takes {takes}s, and these data are none; choose another model."
        )
    if head not in (None, LAST_LINEAR):
        raise DomadaptError(
            f"The head of {name} is that of its classifier: --head {LAST_LINEAR}; got {head!r}."
        )
    keep = head is not None and run is None
    module, kept = build_encoder(
        name, pooling=pooling, trained=run is None, keep_head=keep, n_classes=n_classes
    )
    _check_takes(module, example, name)
    asked, kind = asked_by(name), _kind(module, True)
    if run is None:
        return Backbone(module, kept, asked, kind)
    network = _network_of_run(module, None, run, cast(int, n_classes))
    return Backbone(network, network.head, asked, kind)


# A person's own


def _is_own(name: str) -> bool:
    return ".py:" in name or name.endswith(".py")


def _call_own(name: str, n_classes: int | None) -> tuple[nn.Module, Preprocessing | None]:
    """What a person's own function returns: a module, and its preprocessing if it says one."""
    path, _, attribute = name.rpartition(":")
    if not path.endswith(".py"):
        raise DomadaptError(
            f"A model of one's own is given as path.py:function; got {name!r} without a function."
        )
    module = load_file(Path(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise unknown(f"function in {path}", attribute, known)
    takes = inspect.signature(function).parameters
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    must = {n for n, p in takes.items() if p.default is p.empty and p.kind in single}
    if must - {"n_classes"}:
        raise DomadaptError(
            f"The function {name} may take no argument, or n_classes; it requires "
            f"{', '.join(sorted(must))}."
        )
    given = {}
    if "n_classes" in takes and n_classes is not None:
        given["n_classes"] = n_classes
    elif must:
        # Only the preprocessing is wanted where the number of classes is not known.
        given["n_classes"] = 2
    try:
        made: Any = function(**given)
    except DomadaptError:
        raise
    except Exception as error:
        raise DomadaptError(f"{name} failed: {type(error).__name__}: {error}") from error
    asked: Any = None
    if isinstance(made, tuple) and len(made) == 2:
        made, asked = made
    if not isinstance(made, nn.Module):
        raise DomadaptError(
            f"{name} must return a torch.nn.Module, or one and its preprocessing; it returned "
            f"{type(made).__name__}."
        )
    if isinstance(asked, Mapping):
        fields = list(inspect.signature(Preprocessing).parameters)
        for key in asked:
            if key not in fields:
                raise unknown("preprocessing field", str(key), fields)
        asked = Preprocessing(**asked)
    if asked is not None and not isinstance(asked, Preprocessing):
        raise DomadaptError(
            f"The preprocessing of {name} must be a dictionary with size, resize, mean and std; "
            f"got {type(asked).__name__}."
        )
    return made, asked


# Loading


def _is_file(weights: str | None) -> bool:
    return weights is not None and (weights.endswith(WEIGHT_FILES) or Path(weights).is_file())


def _weights(name: str, weights: str) -> dict[str, Tensor]:
    """Pre-trained weights, from a file or a hub."""
    if _is_file(weights):
        return read_state(Path(weights))
    if (
        name in (*_SMALL, *DEPTHS)
        or _is_own(name)
        or (name.startswith("timm:") and weights != "DEFAULT")
    ):
        also = " or DEFAULT" if name.startswith("timm:") else ""
        raise DomadaptError(
            f"The weights of {name} must be a file ({', '.join(WEIGHT_FILES)}){also}; got "
            f"{weights!r}."
        )
    try:
        if name.startswith("timm:"):
            timm, wanted = _timm_import(name)
            return _bare(timm.create_model(wanted, pretrained=True).state_dict())
        return _bare(_hub_entry(name, weights).get_state_dict(progress=False, check_hash=True))
    except DomadaptError:
        raise
    except Exception as error:  # each hub's client raises errors of its own
        raise DomadaptError(
            f"The weights {weights!r} of {name} could not be downloaded ({type(error).__name__}: "
            f"{_first_line(error)}). Give a file with --weights, or train from random weights "
            "without it."
        ) from error


def _load(
    model: nn.Module, state: dict[str, Tensor], file: str, skip: Iterable[str | None] = ()
) -> None:
    """Load a state_dict; all must fit but what stands under one of the names in `skip`."""
    passed = tuple(f"{prefix}." for prefix in skip if prefix)
    kept: Any = OrderedDict((_renamed(k), v) for k, v in state.items() if not k.startswith(passed))
    own: Any = model.state_dict()
    # Layers translate names of older versions by this; safetensors do not carry it, and the model
    # as a whole (MNASNet) then counts as current.
    kept._metadata = getattr(state, "_metadata", None) or {"": own._metadata[""]}
    if "encoder.pos_embedding" in kept and "encoder.pos_embedding" in own:
        kept = _resized_positions(model, kept, own)
    wrong = [k for k in kept if k in own and kept[k].shape != own[k].shape]
    if wrong:
        raise DomadaptError(
            f"The weights in {file} do not fit the model: {wrong[0]} has shape "
            f"{tuple(kept[wrong[0]].shape)} there, {tuple(own[wrong[0]].shape)} is required "
            f"({len(wrong)} such). Name the architecture they were trained with (--model)."
        )
    result = model.load_state_dict(kept, strict=False)
    optional = (*passed, "num_batches_tracked")
    lacks = [k for k in result.missing_keys if not (k.startswith(passed) or k.endswith(optional))]
    for keys, what in ((lacks, "lacks"), (result.unexpected_keys, "has what the model lacks:")):
        if keys:
            raise DomadaptError(
                f"The weights in {file} do not fit the model: it {what} "
                f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}. "
                "Name the architecture they were trained with (--model)."
            )


def _renamed(key: str) -> str:
    """torchvision's DenseNet weights still bear names from before PyTorch 0.4."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _resized_positions(model: nn.Module, state: Any, own: Any) -> Any:
    """A vision transformer's position embedding, interpolated to the model's image size."""
    key = "encoder.pos_embedding"
    if state[key].shape == own[key].shape or state[key].shape[2] != own[key].shape[2]:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    versions = state._metadata
    size, patch = cast(int, model.image_size), cast(int, model.patch_size)
    state = OrderedDict(interpolate_embeddings(size, patch, state))
    state._metadata = versions
    return state


def is_of_run(path: Path) -> bool:
    """Whether domadapt wrote a file of weights, such as the ``model.safetensors`` of a run."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as f:
            return str((f.metadata() or {}).get("format", "")).startswith("domadapt/")
    except SafetensorError as error:
        raise DomadaptError(f"{path} is torn or no safetensors file ({error}).") from error


def _network_of_run(
    backbone: nn.Module, head: nn.Module | None, path: Path, n_classes: int
) -> Network:
    """The whole network that a run saved, on a backbone of the same name.

    Layers around the backbone are known by their names and sizes in the file. A head of several
    layers is not: `head` is one like it, of the named classifier.
    """
    state, _ = load_tensors(path)

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}

    linear, units = part("head."), None
    if "1.mean" in linear:  # of a regression: values in the units of the labels
        units = Rescale(linear["1.mean"], linear["1.std"])
        linear = part("head.0.")
    if head is None or isinstance(head, nn.Linear):
        if not {"weight"} <= set(linear) <= {"weight", "bias"} or linear["weight"].ndim != 2:
            raise DomadaptError(
                f"The head in {path} is not one torch.nn.Linear; name the head of the classifier "
                "(--head), or build that model in a function of your own (path.py:function)."
            )
        _check_classes(linear["weight"], n_classes, str(path))
        head = nn.Linear(linear["weight"].shape[1], n_classes, bias="bias" in linear)
        head = head if units is None else nn.Sequential(head, units)
    normalize = part("normalize.")
    network = Network(
        backbone,
        head,
        _bottleneck_of(part("bottleneck."), path),
        Normalize(normalize["mean"], normalize["std"]) if normalize else None,
    )
    restore_adapters(network, state)
    load_module_state(network, state, path)
    return network


def _bottleneck_of(state: dict[str, Tensor], path: Path) -> nn.Module | None:
    if not state:
        return None
    if "0.mean" in state:  # of a run with a frozen backbone, whose features are standardised
        rest = {k.removeprefix("1."): v for k, v in state.items() if k.startswith("1.")}
        after = _bottleneck_of(rest, path) or nn.Identity()
        return nn.Sequential(Normalize(state["0.mean"], state["0.std"]), after)
    weight = state.get("0.weight")
    if weight is None or weight.ndim != 2:
        raise DomadaptError(f"The bottleneck in {path} is none that domadapt makes.")
    width = len(weight)
    return nn.Sequential(nn.Linear(weight.shape[1], width), nn.BatchNorm1d(width), nn.ReLU())
