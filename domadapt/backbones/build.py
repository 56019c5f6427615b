"""A backbone by its name, whatever its origin."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from domadapt.backbones.backbone import (
    LAST_LINEAR,
    Backbone,
    Made,
    check_classes,
    check_takes,
    last_linear,
    origin_of,
)
from domadapt.backbones.hubs import (
    AUXILIARY,
    hub_entry,
    timm_model,
    timm_preprocessing,
    torchvision_model,
    torchvision_names,
)
from domadapt.backbones.of_run import is_of_run, network_of_run
from domadapt.backbones.own import call_own, is_own
from domadapt.backbones.small import SMALL
from domadapt.backbones.weights import is_file, load_weights, weights_of
from domadapt.checkpoint import load_module_state, load_tensors
from domadapt.data.views import Preprocessing
from domadapt.defaults import BOTTLENECK
from domadapt.errors import DomadaptError, unknown
from domadapt.hf import is_hf, reads
from domadapt.network import Network, width_of
from domadapt.resnet_cifar import DEPTHS, HEAD, PREPROCESSING, resnet_cifar
from domadapt.strategies.adapters import restore_adapters
from domadapt.task import Inputs, Kind


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
    about = {name: (inspect.getdoc(f) or "").splitlines()[0] for name, f in SMALL.items()}
    return [
        *about.items(),
        *((name, "residual network for images of 32 x 32 (CIFAR)") for name in DEPTHS),
        *((name, "torchvision classifier") for name in torchvision_names()),
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
    if name in SMALL:
        return None
    if is_own(name):
        return call_own(name, None)[1]
    if is_hf(name):
        from domadapt.hf.encoder import preprocessing_of as asked_by

        return asked_by(name)
    if name in DEPTHS:
        asked = PREPROCESSING
    elif name.startswith("timm:"):
        asked = timm_preprocessing(name)
    else:
        if name not in torchvision_names():
            raise unknown("model", name, [n for n, _ in backbone_names()])
        entry: Any = hub_entry(name, None if is_file(weights) else weights)
        how = entry.transforms()
        size = (how.crop_size[0],) * 2
        resize = max(how.resize_size[0], size[0])
        asked = Preprocessing(size, resize, tuple(how.mean), tuple(how.std))
        if name in AUXILIARY:
            # These were trained on values in [-1, 1]. torchvision converts to that from ImageNet's
            # statistics inside the model (transform_input); here it is done directly.
            asked = replace(asked, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return asked if weights is not None else replace(asked, mean=None, std=None)


def build_backbone(
    name: str,
    example: Inputs,
    *,
    weights: str | None = None,
    checkpoint: Path | str | None = None,
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
        checkpoint: a trained classifier whose head is kept: a file with its state_dict, an entry
            of a hub as in `weights`, or the ``model.safetensors`` of a run, which comes back as a
            whole `Network`.
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
    run = None if checkpoint is None or not is_of_run(Path(checkpoint)) else Path(checkpoint)
    from_run = run is not None
    if name in SMALL and head not in (None, LAST_LINEAR):
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
        return _of_hub(name, example, run, n_classes, head, pooling)
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
        if run is not None:
            state, _ = load_tensors(run)
            restore_adapters(made.model, state)
            load_module_state(made.model, state, run)
        return Backbone(
            made.model, made.model.head, made.preprocessing, origin_of(made.model, True)
        )
    if weights is not None:
        load_weights(made.model, weights_of(name, weights), weights, (made.head, *made.extra))
    if checkpoint is not None and whole is not None and not from_run:
        if made.head is None or name.startswith("squeezenet"):
            raise DomadaptError(
                f"A checkpoint for {name} must be the model.safetensors of a run; got {checkpoint}."
                " For another classifier, write a function that builds it and name it as "
                "path.py:function."
            )
        state = weights_of(name, str(checkpoint))
        check_classes(state.get(f"{made.head}.weight"), whole, str(checkpoint))
        load_weights(made.model, state, str(checkpoint), made.extra)
    backbone, kept = _split(made, name)
    check_takes(backbone, example, name)
    kind = "frozen" if name == "features" else origin_of(backbone, given)
    if run is not None:
        network = network_of_run(backbone, kept, run, cast(int, n_classes))
        return Backbone(network, network.head, made.preprocessing, kind)
    if whole is None:
        return Backbone(backbone, None, made.preprocessing, kind, BOTTLENECK[kind])
    if kept is None:
        kept = nn.Linear(width_of(backbone, example), whole)
    if isinstance(kept, nn.Linear):
        check_classes(kept.weight, whole, name)
    return Backbone(backbone, kept, made.preprocessing, kind)


def _make(
    name: str,
    example: Inputs,
    whole: int | None,
    n_classes: int | None,
    head: str | None,
    weights: str | None,
) -> Made:
    """The named model; a classifier for `whole` classes where its head is wanted."""
    chosen = None if head == LAST_LINEAR else head
    if is_own(name):
        model, preprocessing = call_own(name, n_classes)
        trained = preprocessing is not None and preprocessing.mean is not None
        kept = None
        if whole is not None and not isinstance(model, Network):
            kept = chosen or last_linear(model, name)
        return Made(model, kept, preprocessing, trained=trained)
    if not isinstance(example, Tensor):
        raise DomadaptError(f"{name} takes tensors; this task's inputs are text.")
    if name in SMALL:
        return Made(SMALL[name](example), None)
    preprocessing = preprocessing_of(name, weights)
    if example.ndim != 4 or example.shape[1] != 3:
        raise DomadaptError(
            f"{name} takes images (3, height, width); got inputs {tuple(example.shape[1:])}. "
            "For vectors there is mlp, for series conv1d."
        )
    if name in DEPTHS:
        made = Made(resnet_cifar(name, whole, example), HEAD)
    else:
        made = (timm_model if name.startswith("timm:") else torchvision_model)(name, whole, example)
    return replace(
        made,
        preprocessing=preprocessing,
        head=chosen if chosen is not None and whole is not None else made.head,
    )


def _split(made: Made, name: str) -> tuple[nn.Module, nn.Module | None]:
    if made.head is None:
        return made.model, None
    if name.startswith("squeezenet"):
        # Its classifier is a convolution, and what comes before it a map.
        return nn.Sequential(OrderedDict(features=made.model.get_submodule("features"))), None
    network = Network.from_classifier(made.model, made.head)
    return network.backbone, network.head


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
    check_takes(module, example, name)
    asked, kind = asked_by(name), origin_of(module, True)
    if run is None:
        return Backbone(module, kept, asked, kind)
    network = network_of_run(module, None, run, cast(int, n_classes))
    return Backbone(network, network.head, asked, kind)
