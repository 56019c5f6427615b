"""Masked language modelling with an encoder of texts: words are hidden, and guessed again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from domadapt.errors import DomadaptError
from domadapt.hf.encoder import Encoder, put, tokenizer_of
from domadapt.hf.reading import PREFIX, model_of
from domadapt.losses.precision import at_least_float32
from domadapt.network import Network

#: The share of the tokens that is guessed, and of these the shares that become the mask and a
#: random token (BERT, Devlin et al., 2019, arXiv:1810.04805, section 3.1).
SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1


def hide_tokens(
    ids: Int[Tensor, "n t"],
    words: Bool[Tensor, "n t"],
    mask_id: int,
    vocabulary: int,
    share: float = SHARE,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "n t"], Bool[Tensor, "n t"]]:
    """The ids with some hidden, and which ones are to be guessed.

    Each token of `words` is chosen with probability `share`; of those 80 % become `mask_id`, 10 % a
    token drawn from the whole vocabulary, and 10 % stay (Devlin et al., 2019, section 3.1).

    Args:
        ids: tokens.
        words: which of them stand for a part of the text: neither padding nor special tokens.
        mask_id: the token that hides others.
        vocabulary: the number of tokens that there are.
        share: in (0, 1].
        generator: of the draws, on the CPU.
    """
    chance, kind = torch.rand((2, *ids.shape), generator=generator).to(ids.device)
    drawn = torch.randint(vocabulary, ids.shape, generator=generator).to(ids.device)
    chosen = (chance < share) & words
    hidden = torch.where(chosen & (kind < MASKED), mask_id, ids)
    hidden = torch.where(chosen & (kind >= MASKED) & (kind < MASKED + RANDOM), drawn, hidden)
    return hidden, chosen


class MaskedLanguage(nn.Module):
    """The loss of guessing hidden tokens of a text by an encoder and the head of its kind.

    The head is the one of the model's own architecture, with its weights where they are at hand,
    else with new ones. Its last layer has the weights of the encoder's input embeddings where the
    architecture ties them, and is computed for hidden tokens alone.

    Args:
        encoder: takes part with its own parameters, which are not among this module's.
        share: of the tokens that are hidden.

    Raises:
        DomadaptError: a share out of (0, 1], a tokenizer without a mask, or an architecture without
            a head for hidden tokens.
    """

    def __init__(self, encoder: Encoder, share: float = SHARE) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise DomadaptError(f"The share of hidden tokens must lie in (0, 1]; got {share}.")
        self.share = share
        config: Any = encoder.model.config
        self.mask_id, special = masking_of(encoder)
        self.vocabulary = int(config.vocab_size)
        self.special: Tensor
        self.register_buffer("special", torch.tensor(sorted(special)), persistent=False)
        # In a list, so that its parameters stay those of the network alone.
        self._encoder = [encoder]
        model = _with_head(config)
        put(model, model.base_model_prefix, _Given())
        output = model.get_output_embeddings()
        if getattr(config, "tie_word_embeddings", True):
            model.set_output_embeddings(_Tied(self._encoder, output))
        _keep_once(model)
        self.head = model

    def forward(self, x: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy of the tokens that were hidden; 0 where chance has chosen none.

        `generator` draws what is hidden; without one it is the global one.
        """
        ids, mask = x["input_ids"], x["attention_mask"].bool()
        words = mask & ~torch.isin(ids, self.special)
        hidden, chosen = hide_tokens(
            ids, words, self.mask_id, self.vocabulary, self.share, generator
        )
        states = self._encoder[0].states({**x, "input_ids": hidden})
        if not chosen.any():
            return 0.0 * states.sum()
        self.head.get_submodule(self.head.base_model_prefix).hidden = states[chosen][None]
        # The ids are there for the head to count; the states stand for all that it needs of them.
        logits = self.head(input_ids=ids[chosen][None]).logits[0]
        return cross_entropy(at_least_float32(logits), ids[chosen])


def masking_of(encoder: Encoder) -> tuple[int, tuple[int, ...]]:
    """The token that hides others, and the tokens that are never hidden.

    Raises:
        DomadaptError: the encoder's tokenizer is not at hand, or has no such token.
    """
    if encoder.masking is not None:
        return encoder.masking
    place = str(getattr(encoder.model.config, "_name_or_path", ""))
    tokenizer = tokenizer_of(PREFIX + place)
    if tokenizer.mask_id is None:
        raise DomadaptError(
            f"The tokenizer of {place} has no mask token, so its texts cannot be guessed again; "
            "choose an encoder that was trained by masking, such as BERT or RoBERTa."
        )
    return tokenizer.mask_id, tokenizer.special_ids


def text_encoder_of(network: Network, who: str) -> Encoder:
    """The encoder of texts in a network.

    Raises:
        DomadaptError: the network has another backbone.
    """
    encoder = network.backbone
    if not isinstance(encoder, Encoder) or not hasattr(encoder.model.config, "vocab_size"):
        raise DomadaptError(
            f"{who} guesses hidden words, and needs an encoder of texts as the backbone, such as "
            "--model hf:FOLDER, with its weights and without --freeze."
        )
    return encoder


def _with_head(config: Any) -> Any:
    """The architecture with its head; the head's weights are new where none are at hand."""
    import transformers

    if type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        raise DomadaptError(
            f"A {config.model_type} has no head that guesses hidden tokens; choose an encoder such "
            "as BERT, RoBERTa or DeBERTa."
        )
    place = str(getattr(config, "_name_or_path", ""))
    folder = Path(place)
    if not place or (folder.is_dir() and not any(folder.glob("*.safetensors"))):
        return transformers.AutoModelForMaskedLM.from_config(config)
    return model_of(place, "AutoModelForMaskedLM", trained=True, config=config)


def _keep_once(model: nn.Module) -> None:
    """Leave a bias that several modules know to the layer that adds it."""
    tied = {id(p) for m in model.modules() if isinstance(m, _Tied) for p in m.parameters()}
    for module in model.modules():
        if not isinstance(module, _Tied):
            for name, p in list(module.named_parameters(recurse=False)):
                if id(p) in tied:
                    del module._parameters[name]


class _Given(nn.Module):
    """Stands for an encoder; returns the states that it was given."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        hidden, self.hidden = self.hidden, None  # type: ignore[assignment]
        return BaseModelOutput(last_hidden_state=hidden)


class _Tied(nn.Module):
    """A linear layer whose weights are an encoder's input embeddings."""

    def __init__(self, encoder: list[Encoder], like: nn.Module) -> None:
        super().__init__()
        self._encoder = encoder
        bias = getattr(like, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, h: Tensor) -> Tensor:
        table: Tensor = self._encoder[0].model.get_input_embeddings().weight  # type: ignore[operator]
        return linear(h, table, self.bias)
