"""A trained network as a folder that `transformers` loads as a classifier, without domadapt."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.checkpoint import write_json
from domadapt.errors import DomadaptError
from domadapt.hf.encoder import Encoder, put
from domadapt.hf.reading import SAFE, config_of, is_hf, json_of, place_of, quiet, read, reads
from domadapt.network import Network, Normalize, Rescale
from domadapt.strategies.adapters import is_adapted

#: What a saved classifier's calibration is called, in its folder.
CALIBRATION = "calibration.json"


def keep_encoder(name: str, folder: Path) -> None:
    """Copy what builds an encoder again, all but its weights, into a folder of its own."""
    place = place_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        config_of(place).save_pretrained(folder)
        if reads(name) == "text":
            read(
                place, "tokenizer", lambda t, how: t.AutoTokenizer.from_pretrained(place, **how)
            ).save_pretrained(folder)
        else:
            asked = json_of(place, "preprocessor_config.json")
            if asked is not None:
                write_json(folder / "preprocessor_config.json", asked)


def cannot_leave(name: str | None, pooling: str | None, bottleneck: int | None) -> str:
    """Why a model cannot be saved as a classifier of Hugging Face; empty where it can."""
    if not is_hf(name):
        return f"the model must be one of Hugging Face (hf:NAME or hf:FOLDER), and this is {name}"
    if pooling != "hf":
        return (
            f"with pooling {pooling!r} the model is another function than the classifier that "
            "Hugging Face has for its encoder; train with its own pooling (--pooling hf)"
        )
    if bottleneck:
        return "Hugging Face's classifier has no bottleneck; leave it out"
    return ""


def save_classifier(
    network: Network,
    encoder: Path,
    folder: Path,
    class_names: Sequence[str],
    *,
    regression: bool = False,
    max_length: int | None = None,
    calibration: dict[str, Any] | None = None,
) -> None:
    """Write a network as a folder that `transformers` loads as a classifier, without domadapt.

    ``AutoModelForSequenceClassification.from_pretrained(folder)`` (of images:
    ``AutoModelForImageClassification``) gives the network's logits; ``pipeline`` gives class names.
    Standardisation of frozen features and the units of a regression become part of the last layer.
    Temperature and offset of the calibration stand beside it: ``softmax(logits / temperature +
    offset)``.

    Args:
        network: its backbone is an `Encoder` with pooling "hf"; between it and the head stands no
            layer but a standardisation.
        encoder: what `keep_encoder` wrote.
        folder: is made; one that is there is replaced.
        class_names: the classes of the logits, or the names of the outputs of a regression.
        regression: the outputs are values.
        max_length: the length at which a pipeline with ``truncation=True`` cuts texts.
        calibration: what is written as ``calibration.json``.

    Raises:
        DomadaptError: the network is not of this form.
    """
    backbone = network.backbone
    if not isinstance(backbone, Encoder) or backbone.head is None:
        raise DomadaptError("Only an encoder with pooling 'hf' is a classifier of Hugging Face.")
    if is_adapted(network):
        raise DomadaptError(
            "The classifiers of Hugging Face have no place for adapters; tune with lora, which "
            "becomes part of the weights, or another strategy, or leave this export out."
        )
    weight, bias = affine_of(network)
    model: Any = copy.deepcopy(backbone.model).cpu()
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    put(model, backbone.head, layer)
    config = model.config
    config.id2label = dict(enumerate(class_names))
    config.label2id = {c: i for i, c in enumerate(class_names)}
    config.problem_type = "regression" if regression else "single_label_classification"
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with quiet():
            model.save_pretrained(half, safe_serialization=True)
            _copy_reader(encoder, half, max_length)
        if calibration is not None:
            write_json(half / CALIBRATION, calibration)
        half.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _copy_reader(encoder: Path, folder: Path, max_length: int | None) -> None:
    """The tokenizer, cutting at `max_length`, or the image processor."""
    images = encoder / "preprocessor_config.json"
    if images.exists():
        shutil.copyfile(images, folder / images.name)
    elif max_length is not None:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, **SAFE)
        tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(folder)


def affine_of(network: Network) -> tuple[Tensor, Tensor]:
    """Weight and bias ``(k, d), (k,)`` of all that follows the backbone, where that is linear."""
    weight = bias = None
    scale: list[tuple[Tensor, Tensor]] = []
    for layer in [*_flat(network.bottleneck), *_flat(network.head)]:
        if isinstance(layer, Normalize) and weight is None:
            scale.append((layer.get_buffer("mean"), layer.get_buffer("std")))
        elif isinstance(layer, nn.Linear) and weight is None:
            weight = layer.weight.detach().double().cpu()
            bias = weight.new_zeros(len(weight))
            if layer.bias is not None:
                bias = layer.bias.detach().double().cpu()
        elif isinstance(layer, Rescale) and weight is not None and bias is not None:
            mean, std = (layer.get_buffer(k).double().cpu() for k in ("mean", "std"))
            weight, bias = std[:, None] * weight, mean + std * bias
        else:
            raise DomadaptError(
                "Hugging Face's classifier has one linear layer after its pooling; this network "
                f"has a {type(layer).__name__} as well. Adapt without a bottleneck "
                "(--bottleneck 0) and without the output 'unknown'."
            )
    assert weight is not None
    assert bias is not None
    for mean, std in reversed(scale):
        weight = weight / std.double().cpu()
        bias = bias - weight @ mean.double().cpu()
    return weight, bias


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Identity):
        return []
    if isinstance(module, nn.Sequential):
        return [inner for child in module for inner in _flat(child)]
    return [module]
