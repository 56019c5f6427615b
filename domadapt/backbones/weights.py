"""Weights: read from a file or a hub, and put into a network that they fit."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from domadapt.backbones.backbone import WEIGHT_FILES, first_line
from domadapt.backbones.hubs import hub_entry, timm_import
from domadapt.backbones.own import is_own
from domadapt.backbones.small import SMALL
from domadapt.errors import DomadaptError
from domadapt.resnet_cifar import DEPTHS


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
            f"required ({type(error).__name__}: {first_line(error)})."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DomadaptError(f"{path} holds no state_dict; save model.state_dict().")
    return bare(found)


def bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def is_file(weights: str | None) -> bool:
    """Whether weights are named by a file."""
    return weights is not None and (weights.endswith(WEIGHT_FILES) or Path(weights).is_file())


def weights_of(name: str, weights: str) -> dict[str, Tensor]:
    """Pre-trained weights, from a file or a hub."""
    if is_file(weights):
        return read_state(Path(weights))
    if (
        name in (*SMALL, *DEPTHS)
        or is_own(name)
        or (name.startswith("timm:") and weights != "DEFAULT")
    ):
        also = " or DEFAULT" if name.startswith("timm:") else ""
        raise DomadaptError(
            f"The weights of {name} must be a file ({', '.join(WEIGHT_FILES)}){also}; got "
            f"{weights!r}."
        )
    try:
        if name.startswith("timm:"):
            timm, wanted = timm_import(name)
            return bare(timm.create_model(wanted, pretrained=True).state_dict())
        return bare(hub_entry(name, weights).get_state_dict(progress=False, check_hash=True))
    except DomadaptError:
        raise
    except Exception as error:  # each hub's client raises errors of its own
        raise DomadaptError(
            f"The weights {weights!r} of {name} could not be downloaded ({type(error).__name__}: "
            f"{first_line(error)}). Give a file with --weights, or train from random weights "
            "without it."
        ) from error


def load_weights(
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
