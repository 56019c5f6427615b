"""From texts to what a transformer takes: tokens, computed once and padded a batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.checkpoint import write_atomically
from domadapt.data.text import Text, texts_of
from domadapt.task import Domain

#: Texts are tokenised so many at a time.
_BLOCK = 1024
#: Beyond the end of a text, in a table of tokens.
_NONE = -1


class Tokenizer:
    """A tokenizer of Hugging Face with the length at which texts are cut.

    Args:
        tokenizer: any `PreTrainedTokenizerBase`.
        max_length: the most tokens of a text, or of both texts of a pair, special ones included.

    Attributes:
        pad_id: what fills short rows up.
        mask_id: the token that stands for a masked one; None where the tokenizer has none.
        special_ids: tokens that stand for no part of the text.
        identity: a hash of all that decides the tokens of a text.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        first = next(
            (i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0
        )
        self.pad_id = int(first)
        self.mask_id: int | None = tokenizer.mask_token_id
        self.special_ids = tuple(int(i) for i in tokenizer.all_special_ids)
        self.types = "token_type_ids" in tokenizer.model_input_names
        self.identity = _identity(tokenizer, max_length)

    def rows(self, texts: Sequence[Text]) -> list[list[list[int]]]:
        """Per text its ids and, where the model tells the texts of a pair apart, whose they are."""
        pairs = any(not isinstance(text, str) for text in texts)
        given: list[Any] = [
            (text, "") if pairs and isinstance(text, str) else text for text in texts
        ]
        coded = self.tokenizer(
            given,
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
        )
        fields = [coded["input_ids"]]
        if pairs and self.types and "token_type_ids" in coded:
            fields.append(coded["token_type_ids"])
        return [list(row) for row in zip(*fields, strict=True)]

    def __call__(self, texts: Sequence[Text]) -> dict[str, Tensor]:
        """The tokens of a batch; see `TokenSamples`."""
        return _padded(_table(self.rows(texts)), self.pad_id)


class TokenSamples:
    """Tokenised texts.

    A batch is a dictionary of int64 tensors ``(n, longest)``: ``input_ids``, ``attention_mask`` (1
    for a token, 0 for padding, which stands at the end) and, for pairs, ``token_type_ids``.

    Args:
        table: int32 ``(fields, n, width)``, -1 beyond the end of a text; may be memory-mapped.
        pad_id: what fills short rows up.
    """

    def __init__(self, table: np.ndarray, pad_id: int) -> None:
        self.table, self.pad_id = table, pad_id
        #: The number of tokens of each sample.
        self.lengths: np.ndarray = (table[0] != _NONE).sum(1)

    def __len__(self) -> int:
        return int(self.table.shape[1])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return _padded(self.table[:, np.asarray(indices, dtype=np.intp)], self.pad_id)


def tokenised(domain: Domain, tokenizer: Tokenizer, cache: Path | None) -> Domain:
    """The domain with its texts as tokens; one that has tokens already is returned as it is.

    With a cache they go to a file whose name is a hash of tokenizer, length and all texts, and are
    mapped from there.
    """
    if isinstance(domain.samples.__getitems__([0]), dict):
        return domain
    table = None
    path = None
    if cache is not None:
        path = cache / f"tokens-{_texts_identity(domain, tokenizer)}.npy"
        if path.exists():
            table = np.load(path, mmap_mode="r", allow_pickle=False)
    if table is None:
        rows: list[list[list[int]]] = []
        for start in range(0, len(domain), _BLOCK):
            part = range(start, min(start + _BLOCK, len(domain)))
            rows += tokenizer.rows(texts_of(domain.samples.__getitems__(part)))
        table = _table(rows)
        if path is not None:
            whole = table
            write_atomically(path, lambda p: _save(p, whole))
    samples = TokenSamples(table, tokenizer.pad_id)
    return Domain(domain.name, samples, kind="text", augment=domain.augment, ids=domain.ids)


def _save(path: Path, table: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, table, allow_pickle=False)


def _table(rows: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    fields = max(len(row) for row in rows)
    width = max(1, *(len(row[0]) for row in rows))
    table = np.full((fields, len(rows), width), _NONE, dtype=np.int32)
    for i, row in enumerate(rows):
        table[:, i, : len(row[0])] = 0
        for f, values in enumerate(row):
            table[f, i, : len(values)] = values
    return table


def _padded(table: np.ndarray, pad_id: int) -> dict[str, Tensor]:
    lengths = (table[0] != _NONE).sum(1)
    longest = max(1, int(lengths.max(initial=1)))
    cut = torch.from_numpy(np.array(table[:, :, :longest], dtype=np.int64))
    there = cut[0] != _NONE
    found = {
        "input_ids": torch.where(there, cut[0], pad_id),
        "attention_mask": there.long(),
    }
    if len(cut) > 1:
        found["token_type_ids"] = torch.where(there, cut[1], 0)
    return found


def _identity(tokenizer: Any, max_length: int) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        said = json.loads(fast.to_str())
        # These two change with every call.
        about: Any = {k: v for k, v in said.items() if k not in ("truncation", "padding")}
    else:
        about = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    about = [about, tokenizer.special_tokens_map, max_length]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _texts_identity(domain: Domain, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"1:{tokenizer.identity}:{len(domain)}".encode())
    for start in range(0, len(domain), _BLOCK):
        raw = domain.samples.__getitems__(range(start, min(start + _BLOCK, len(domain))))
        for row in raw:
            assert isinstance(row, Tensor)
            digest.update(len(row).to_bytes(8, "little"))
            digest.update(row.numpy().tobytes())
    return digest.hexdigest()[:16]
