"""Encoders of texts and images as backbones, their tokenizers and what they ask of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from domadapt.data.tokens import Tokenizer
from domadapt.data.views import Preprocessing
from domadapt.errors import DomadaptError
from domadapt.hf.reading import config_of, json_of, model_of, pad_id_of, place_of, read, reads
from domadapt.task import Inputs

#: How the states of a text's tokens, or of an image's patches, become one feature vector. "hf": as
#: the model's own classifier does it, up to its last linear layer.
Pooling = Literal["mean", "first", "hf"]
#: Tokens of a text where nothing else is asked.
MAX_LENGTH = 128


def tokenizer_of(name: str, max_length: int | None = None) -> Tokenizer:
    """The tokenizer of a text encoder.

    Args:
        name: ``hf:NAME`` or ``hf:FOLDER``.
        max_length: where texts are cut, in tokens; None takes 128, or the model's own limit where
            that is lower.

    Raises:
        DomadaptError: no tokenizer, an encoder of images, or a length that the model cannot take.
    """
    place = place_of(name)
    if reads(name) != "text":
        raise DomadaptError(
            f"{name} takes images, and the data are texts; name an encoder of texts."
        )
    tokenizer = read(
        place, "tokenizer", lambda t, how: t.AutoTokenizer.from_pretrained(place, **how)
    )
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in files):
        # The library would go on with an empty vocabulary.
        raise DomadaptError(
            f"The folder {place} has no tokenizer ({', '.join(sorted(files))}); save it there: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)."
        )
    limits = (
        tokenizer.model_max_length,
        getattr(config_of(place), "max_position_embeddings", None),
    )
    # A tokenizer without a limit says something astronomical.
    limit = min((int(n) for n in limits if n is not None and 0 < n < 10**6), default=None)
    if max_length is None:
        max_length = MAX_LENGTH if limit is None else min(MAX_LENGTH, limit)
    least = tokenizer.num_special_tokens_to_add(pair=True) + 1
    if max_length < least or (limit is not None and max_length > limit):
        raise DomadaptError(
            f"max_length must lie between {least} and {limit or 'any number'} for {name}; got "
            f"{max_length}."
        )
    return Tokenizer(tokenizer, max_length)


def preprocessing_of(name: str) -> Preprocessing | None:
    """What the named encoder asks of its images, by its ``preprocessor_config.json``.

    Without such a file: the image size of its configuration, and mean and deviation one half. None
    for an encoder of texts.
    """
    if reads(name) == "text":
        return None
    place = place_of(name)
    asked = json_of(place, "preprocessor_config.json") or {}
    size = asked.get("size")
    crop = asked.get("crop_size") if asked.get("do_center_crop", "crop_size" in asked) else None
    resize = None
    if isinstance(size, dict) and "shortest_edge" in size:
        resize, size = int(size["shortest_edge"]), crop or size["shortest_edge"]
    sides = _sides(crop or size or getattr(config_of(place), "image_size", 224))
    if asked.get("do_normalize", True):
        mean, std = (tuple(asked.get(k, (0.5, 0.5, 0.5))) for k in ("image_mean", "image_std"))
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocessing(sides, None if resize is None else max(resize, *sides), mean, std)


class Encoder(nn.Module):
    """An encoder of Hugging Face that returns one feature vector per sample.

    Args:
        model: what `transformers` made: an encoder, or for `pooling` "hf" a classifier whose last
            linear layer `head` is replaced by the identity.
        pooling: see `Pooling`; "mean" leaves padding out.
        pad_id: the token that stands for padding.
        head: the dotted name of that layer.
    """

    def __init__(
        self, model: nn.Module, pooling: Pooling, pad_id: int | None = None, head: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling, self.pad_id, self.head = pooling, pad_id, head
        #: The token that hides others and the ones that are never hidden, where the tokenizer is
        #: not to be asked.
        self.masking: tuple[int, tuple[int, ...]] | None = None

    def forward(self, x: Inputs) -> Tensor:
        """Features ``(n, d)`` of images ``(n, 3, h, w)``, or of texts as `TokenSamples` gives them.

        An image network that returns maps ``(n, d, h, w)`` gives these.
        """
        mask = None
        if isinstance(x, Tensor):
            said = self.model(pixel_values=x)
        else:
            mask = x["attention_mask"]
            said = self.model(**self._fields(x))
        if self.pooling == "hf":
            logits: Tensor = said.logits
            return logits
        hidden: Tensor = said.last_hidden_state
        if hidden.ndim > 3:
            return hidden
        if self.pooling == "first":
            return hidden[:, 0]
        if mask is None:
            return hidden.mean(1)
        there = mask[..., None].to(hidden.dtype)
        return (hidden * there).sum(1) / there.sum(1).clamp_min(1.0)

    def states(self, x: Mapping[str, Tensor]) -> Tensor:
        """The last states ``(n, tokens, d)`` of all tokens of texts, whatever the pooling."""
        prefix = str(getattr(self.model, "base_model_prefix", ""))
        base = getattr(self.model, prefix, self.model) if self.pooling == "hf" else self.model
        hidden: Tensor = base(**self._fields(x)).last_hidden_state
        return hidden

    def _fields(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, mask = x["input_ids"], x["attention_mask"]
        if self.pad_id is not None:
            # Batches are joined without knowing which token stands for padding.
            ids = torch.where(mask.bool(), ids, self.pad_id)
        types = {k: v for k, v in x.items() if k == "token_type_ids"}
        return {"input_ids": ids, "attention_mask": mask, **types}

    def transferable(self) -> dict[str, nn.Module]:
        """The embeddings and the layers in order, by their names within this module."""
        named = dict(self.named_modules())
        rows = [(n, list(m)) for n, m in named.items() if isinstance(m, nn.ModuleList)]
        name, layers = max(rows, key=lambda row: len(row[1]), default=("", []))
        first = next((n for n in named if n.rpartition(".")[2] == "embeddings"), None)
        found = {} if first is None else {first: named[first]}
        return found | {f"{name}.{i}": layer for i, layer in enumerate(layers)}


def default_pooling(name: str, keep_head: bool = False) -> Pooling:
    """The pooling where none is asked for; `keep_head`: a trained head is kept."""
    return "hf" if keep_head or reads(name) == "image" else "mean"


def build_encoder(
    name: str,
    *,
    pooling: str | None = None,
    trained: bool = True,
    keep_head: bool = False,
    n_classes: int | None = None,
) -> tuple[Encoder, nn.Linear | None]:
    """The named encoder, and its classifier's last layer where that is asked for.

    Args:
        name: ``hf:NAME`` or ``hf:FOLDER``.
        pooling: see `Pooling`; None takes "mean" for texts and "hf" for images.
        trained: with its weights; else with random ones, to be loaded.
        keep_head: whether the last layer of its classifier is wanted, with the classes it has.
        n_classes: how many classes that layer must then have.

    Raises:
        DomadaptError: it is not at hand, is no encoder, has weights that would be unpickled, needs
            code of its own, or has no classifier where one is needed.
    """
    place = place_of(name)
    config = config_of(place)
    image = reads(name) == "image"
    how = pooling or default_pooling(name, keep_head)
    if how not in get_args(Pooling):
        raise DomadaptError(f"pooling must be one of {', '.join(get_args(Pooling))}; got {how!r}.")
    if keep_head and how != "hf":
        raise DomadaptError(
            f"A trained head goes with the pooling that it was trained on; leave out pooling "
            f"{how!r}, or the head."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise DomadaptError(
            f"{name} is an encoder with a decoder ({config.model_type}); an encoder alone is "
            "required, such as BERT, RoBERTa, DeBERTa or a sentence encoder."
        )
    pad_id = None if image else pad_id_of(config)
    if how == "hf":
        kind = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
        model = model_of(place, kind, trained)
        head = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        layer = model.get_submodule(head)
        assert isinstance(layer, nn.Linear)
        if layer.out_features != model.config.num_labels or layer.bias is None:
            raise DomadaptError(
                f"The classifier of {name} does not end in a linear layer with a bias; choose "
                "pooling 'mean' or 'first'."
            )
        if keep_head and n_classes is not None and layer.out_features != n_classes:
            raise DomadaptError(
                f"The head of {name} has {layer.out_features} classes, and the source has "
                f"{n_classes}; both must be the same classes in the same order. To train a new "
                "head, leave out --head."
            )
        put(model, head, nn.Identity())
        return Encoder(model, "hf", pad_id, head), layer if keep_head else None
    model = model_of(place, "AutoModel", trained)
    return Encoder(model, "mean" if how == "mean" else "first", pad_id), None


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Set the layer of this dotted name."""
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner).register_module(leaf, layer)


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)
