"""Tiny models of Hugging Face with random weights, made in a folder, and a task of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from domadapt.data import from_texts
from domadapt.task import Domain, Task

#: Words of which the texts of a class are made, and words of a domain.
WORDS = {"good": ["fine", "great", "happy", "love"], "bad": ["awful", "poor", "sad", "hate"]}
PLACES = {"books": ["page", "author", "story"], "pans": ["steel", "handle", "lid"]}
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(w for words in (*WORDS.values(), *PLACES.values()) for w in words),
    *("the", "was", "a", "so"),
]


def texts(place: str, n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """`n` texts of 3 to 12 words about a thing, and whether they are good or bad."""
    rng = np.random.default_rng(seed)
    y = [("good", "bad")[i % 2] for i in range(n)]
    common = [*PLACES[place], "the", "was", "a", "so"]
    found = []
    for label in y:
        words = [*rng.choice(WORDS[label], 2), *rng.choice(common, rng.integers(1, 11))]
        found.append(" ".join(rng.permutation(words)))
    return found, y


def domain(place: str, n: int, labelled: bool = True) -> Domain:
    found, y = texts(place, n, seed=len(place))
    return from_texts(found, y if labelled else None, name=place)


def text_task(n: int = 60, **options: Any) -> Task:
    return Task(domain("books", n), domain("pans", n), **options)


def save_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(VOCABULARY))
    try:
        tokenizer = BertTokenizerFast(vocab_file=str(file), model_max_length=64)
        assert tokenizer("fine")["input_ids"][1] == VOCABULARY.index("fine")
    except (AssertionError, TypeError):
        # Since version 5 the words are given themselves.
        words = {w: i for i, w in enumerate(VOCABULARY)}
        tokenizer = BertTokenizerFast(vocab=words, model_max_length=64)
    tokenizer.save_pretrained(folder)


def tiny_bert(folder: Path, kind: str = "bert", **options: Any) -> str:
    """A text encoder of two layers; returns its name."""
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, **options}
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 66,
    }
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        sizes["max_position_embeddings"] = 66
    config = transformers.AutoConfig.for_model(kind, **common, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return f"hf:{folder}"


def tiny_vit(folder: Path) -> str:
    """A vision transformer of two layers for images of 16 pixels; returns its name."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    transformers.ViTModel(config).save_pretrained(folder)
    return f"hf:{folder}"
