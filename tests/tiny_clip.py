"""A tiny CLIP of random weights, saved as transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Network, tokenizer of single letters and image processor in a folder."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTextConfig,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    folder.mkdir(parents=True, exist_ok=True)
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.")
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokens = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokens.model_max_length = 32
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 12}
    text = CLIPTextConfig(
        **small,
        vocab_size=len(words),
        max_position_embeddings=32,
        bos_token_id=words.index("<|startoftext|>"),
        eos_token_id=words.index("<|endoftext|>"),
    )
    vision = CLIPVisionConfig(**small, image_size=16, patch_size=8)
    torch.manual_seed(seed)
    network = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    )
    network.save_pretrained(folder)
    tokens.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder
