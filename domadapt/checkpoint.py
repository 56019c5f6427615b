"""Files that are either whole or not there: weights and state in safetensors, the rest in JSON.

Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from domadapt.errors import DomadaptError

_FORMAT = "domadapt/1"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, flush it to disk, and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
        # mkstemp makes files that only their owner may read; these are ordinary results.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some systems cannot flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or torn one is refused with a sentence."""
    if not path.is_file():
        raise DomadaptError(f"There is no file {path}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DomadaptError(f"{path} is no complete JSON file ({error}); delete it.") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is to be known about them into one safetensors file, atomically."""
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    meta = {"format": _FORMAT, "about": json.dumps(about)}
    write_atomically(path, lambda p: save_file(whole, str(p), metadata=meta))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; a torn or foreign file is refused with a sentence."""
    if not path.is_file():
        raise DomadaptError(f"There is no file {path}.")
    try:
        with safe_open(str(path), framework="pt") as f:
            meta = f.metadata() or {}
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DomadaptError(
            f"{path} is torn or no safetensors file ({error}). Delete it to begin that part anew."
        ) from error
    if meta.get("format") != _FORMAT:
        raise DomadaptError(
            f"{path} was not written by domadapt (its format is {meta.get('format', 'unstated')}, "
            f"{_FORMAT} is required)."
        )
    return tensors, json.loads(meta["about"])


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each once however often it is shared."""
    seen: set[int] = set()
    state = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            state[name] = value
    return state


def load_module_state(module: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Put back what `module_state` took; names and shapes must be the module's own."""
    own = module_state(module)
    if own.keys() != state.keys():
        off = sorted(own.keys() ^ state.keys())
        raise DomadaptError(
            f"{path} belongs to another model: {len(off)} names differ, such as {off[0]!r}."
        )
    with torch.no_grad():
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise DomadaptError(
                    f"{path} belongs to another model: {name} has shape "
                    f"{tuple(state[name].shape)} there and {tuple(value.shape)} here."
                )
            value.copy_(state[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name, and the rest as plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{key}"] = value
    return tensors, plain


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` took. Groups (rates, decay) stay the optimiser's own."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **plain}.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
