"""What is at hand of Hugging Face's models: configurations, weights, files; never their code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlparse

from domadapt.errors import DomadaptError

T = TypeVar("T")

#: What the name of such a model begins with.
PREFIX = "hf:"
#: Of every call that reads: never any code of the model's own.
SAFE: dict[str, Any] = {"trust_remote_code": False}
_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def is_hf(name: str | None) -> bool:
    """Whether a model's name is that of an encoder of Hugging Face."""
    return name is not None and name.startswith(PREFIX)


def reads(name: str) -> Literal["text", "image"]:
    """What the named encoder takes."""
    config = config_of(place_of(name))
    return (
        "image" if hasattr(config, "num_channels") and not hasattr(config, "vocab_size") else "text"
    )


def trained_classes(name: str) -> int | None:
    """How many classes the named model was trained on; None where it is no classifier."""
    config = config_of(place_of(name))
    ends = ("ForSequenceClassification", "ForImageClassification")
    made = str(next(iter(getattr(config, "architectures", None) or ()), ""))
    regression = getattr(config, "problem_type", None) == "regression"
    if not made.endswith(ends) or regression or config.num_labels < 2:
        return None
    return int(config.num_labels)


def place_of(name: str) -> str:
    """The folder, or the name on the hub, of ``hf:...``."""
    place = name.removeprefix(PREFIX)
    if not place:
        raise DomadaptError(
            "The name of a model, or its folder, must follow hf:, such as hf:models/minilm."
        )
    return str(Path(place).expanduser()) if place.startswith("~") else place


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DomadaptError(
            "Models of Hugging Face need the extra: pip install 'domadapt[text]'."
        ) from error
    return transformers


def read(place: str, what: str, read: Callable[[Any, dict[str, Any]], T]) -> T:
    """What `read` returns, told where to look; any refusal becomes one sentence."""
    library = _transformers()
    _check_place(place)
    local = {**SAFE, "local_files_only": True}
    try:
        with quiet():
            try:
                return read(library, local)
            except OSError:
                if Path(place).is_dir() or _offline():
                    raise
            return read(library, SAFE)
    except DomadaptError:
        raise
    except Exception as error:  # the library raises errors of many kinds
        raise _refusal(place, what, error) from error


def _check_place(place: str) -> None:
    folder = Path(place)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DomadaptError(
                f"A folder of Hugging Face has a config.json and a model.safetensors; {place} has "
                "no config.json."
            )
    elif folder.exists() or place.startswith((".", "/", "~")) or place.count("/") > 1:
        raise DomadaptError(
            f"hf: takes a folder or the name of a model on the hub; there is no folder {place}."
        )


def _refusal(place: str, what: str, error: Exception) -> DomadaptError:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    folder = Path(place)
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return DomadaptError(
            f"hf:{place} needs code that comes with the model, and such code is never run; choose "
            "a model that transformers itself has."
        )
    if folder.is_dir():
        pickled = [f.name for f in sorted(folder.iterdir()) if f.suffix in _WEIGHTS]
        if what == "weights" and pickled and not any(folder.glob("*.safetensors")):
            return DomadaptError(
                f"The weights in {place} must be safetensors; it has {pickled[0]}, and nothing is "
                "unpickled. Convert it where you trust it: AutoModel.from_pretrained(...)"
                ".save_pretrained(FOLDER)."
            )
        return DomadaptError(f"The {what} in {place} cannot be read ({said[:200]}).")
    if _offline():
        return DomadaptError(
            f"hf:{place} is not on this machine, and the hub cannot be reached; download it where "
            f"there is a network (hf download {place}), or give a folder: hf:FOLDER."
        )
    return DomadaptError(
        f"The {what} of hf:{place} cannot be had ({said[:200]}). Check the name, or give a folder: "
        "hf:FOLDER."
    )


def _offline() -> bool:
    """Whether it is useless to ask the hub, which would be asked for half a minute."""
    from huggingface_hub import constants

    told = [os.environ.get(k, "").lower() for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")]
    if constants.HF_HUB_OFFLINE or any(v in ("1", "true", "yes", "on") for v in told):
        return True
    if urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


def config_of(place: str) -> Any:
    """The configuration of a model."""
    config = read(place, "configuration", lambda t, how: t.AutoConfig.from_pretrained(place, **how))
    if hasattr(config, "vocab_size"):
        pad_id_of(config)
    return config


def json_of(place: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a model; None where it has none that can be had."""
    if Path(place).is_dir():
        file: Any = Path(place) / name
        file = file if file.is_file() else None
    else:
        try:
            with quiet():
                file = _transformers().utils.cached_file(place, name, local_files_only=_offline())
        except OSError:
            file = None
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def model_of(place: str, kind: str, trained: bool, config: Any = None) -> Any:
    """A model of the class `kind` of transformers, in float32; `trained`: with its weights.

    Its configuration is that of the place, where none is given.
    """
    if config is None:
        config = config_of(place)

    def make(library: Any, how: dict[str, Any]) -> Any:
        of = getattr(library, kind)
        # Without a pooler that nothing would train. Classes that have none refuse the word.
        for more in ({"add_pooling_layer": False}, {}) if kind == "AutoModel" else ({},):
            try:
                if not trained:
                    return of.from_config(config, **SAFE, **more)
                model, said = of.from_pretrained(
                    place,
                    config=config,
                    use_safetensors=True,
                    output_loading_info=True,
                    **how,
                    **more,
                )
            except TypeError:
                if not more:
                    raise
            else:
                _check_loaded(place, model, said["missing_keys"])
                return model
        raise AssertionError

    return read(place, "weights", make).float().train()


def _check_loaded(place: str, model: Any, missing: Iterable[str]) -> None:
    """Refuse a model that is mostly random; a head, or a pooler, may be missing from a file."""
    every, lost = len(model.state_dict()), list(missing)
    if 2 * len(lost) > every:
        raise DomadaptError(
            f"The weights in {place} are those of another model: they lack {len(lost)} of the "
            f"{every} tensors of {type(model).__name__}, such as {lost[0]}. Look at config.json."
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's bars and reports, whose like it was before."""
    reports: Any = _transformers().utils.logging
    before, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reports.set_verbosity(before)
        hub.setLevel(level)
        if bars:
            reports.enable_progress_bar()


def pad_id_of(config: Any) -> int | None:
    """The token for padding; a model that has none is told to take the one that ends a text."""
    if getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end
    pad: int | None = config.pad_token_id
    return pad
