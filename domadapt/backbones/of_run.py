"""The network of a finished run, on a backbone of the same name."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from domadapt.backbones.backbone import check_classes
from domadapt.checkpoint import load_module_state, load_tensors
from domadapt.errors import DomadaptError
from domadapt.network import Network, Normalize, Rescale
from domadapt.strategies.adapters import restore_adapters


def is_of_run(path: Path) -> bool:
    """Whether domadapt wrote a file of weights, such as the ``model.safetensors`` of a run."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as f:
            return str((f.metadata() or {}).get("format", "")).startswith("domadapt/")
    except SafetensorError as error:
        raise DomadaptError(f"{path} is torn or no safetensors file ({error}).") from error


def network_of_run(
    backbone: nn.Module, head: nn.Module | None, path: Path, n_classes: int
) -> Network:
    """The whole network that a run saved, on a backbone of the same name.

    Layers around the backbone are known by their names and sizes in the file. A head of several
    layers is not: `head` is one like it, of the named classifier.
    """
    state, _ = load_tensors(path)

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}

    linear, units = part("head."), None
    if "1.mean" in linear:  # of a regression: values in the units of the labels
        units = Rescale(linear["1.mean"], linear["1.std"])
        linear = part("head.0.")
    if head is None or isinstance(head, nn.Linear):
        if not {"weight"} <= set(linear) <= {"weight", "bias"} or linear["weight"].ndim != 2:
            raise DomadaptError(
                f"The head in {path} is not one torch.nn.Linear; name the head of the classifier "
                "(--head), or build that model in a function of your own (path.py:function)."
            )
        check_classes(linear["weight"], n_classes, str(path))
        head = nn.Linear(linear["weight"].shape[1], n_classes, bias="bias" in linear)
        head = head if units is None else nn.Sequential(head, units)
    normalize = part("normalize.")
    network = Network(
        backbone,
        head,
        _bottleneck_of(part("bottleneck."), path),
        Normalize(normalize["mean"], normalize["std"]) if normalize else None,
    )
    restore_adapters(network, state)
    load_module_state(network, state, path)
    return network


def _bottleneck_of(state: dict[str, Tensor], path: Path) -> nn.Module | None:
    if not state:
        return None
    if "0.mean" in state:  # of a run with a frozen backbone, whose features are standardised
        rest = {k.removeprefix("1."): v for k, v in state.items() if k.startswith("1.")}
        after = _bottleneck_of(rest, path) or nn.Identity()
        return nn.Sequential(Normalize(state["0.mean"], state["0.std"]), after)
    weight = state.get("0.weight")
    if weight is None or weight.ndim != 2:
        raise DomadaptError(f"The bottleneck in {path} is none that domadapt makes.")
    width = len(weight)
    return nn.Sequential(nn.Linear(weight.shape[1], width), nn.BatchNorm1d(width), nn.ReLU())
