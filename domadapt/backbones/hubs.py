"""Networks of torchvision and timm."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from torch import Tensor, nn

from domadapt.backbones.backbone import WEIGHT_FILES, Made, last_linear
from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError

#: torchvision's networks with auxiliary classifiers; these are left out.
AUXILIARY = ("googlenet", "inception_v3")


@cache
def torchvision_names() -> tuple[str, ...]:
    """Every classifier of torchvision."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def hub_entry(name: str, weights: str | None) -> Any:
    """torchvision's entry of pre-trained weights by its name; None takes the first on ImageNet."""
    from torchvision import models

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


def torchvision_model(name: str, n_classes: int | None, example: Tensor) -> Made:
    """A classifier of torchvision with random weights."""
    from torchvision import models

    arguments: dict[str, Any] = {"num_classes": n_classes or 2}
    extra: tuple[str, ...] = ()
    if name in AUXILIARY:
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
    head = "classifier" if name.startswith("squeezenet") else last_linear(model, name)
    return Made(model, head, extra=extra)


def timm_import(name: str) -> tuple[Any, str]:
    """The package, and the model's name in it."""
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


def timm_preprocessing(name: str) -> Preprocessing:
    """What the weights of a timm model ask of images."""
    timm, wanted = timm_import(name)
    config = timm.get_pretrained_cfg(wanted).to_dict()
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    resize = max(*size, int(min(size) / config["crop_pct"]))
    return Preprocessing(size, resize, tuple(config["mean"]), tuple(config["std"]))


def timm_model(name: str, n_classes: int | None, example: Tensor) -> Made:
    """A model of timm with random weights."""
    timm, wanted = timm_import(name)
    # Without classes timm returns the pooled features.
    model = timm.create_model(wanted, pretrained=False, num_classes=n_classes or 0)
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    if n_classes is None:
        return Made(model, None, extra=heads)
    if len(heads) != 1 or not isinstance(model.get_submodule(heads[0]), nn.Linear):
        raise DomadaptError(
            f"{name} does not end in one torch.nn.Linear, so its head cannot be kept; give the "
            "file with --weights."
        )
    return Made(model, heads[0])
