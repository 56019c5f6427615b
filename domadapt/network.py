"""`Network`: backbone, optional bottleneck and head, with the input's normalisation inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.ops import batch_size
from domadapt.task import Inputs


class Normalize(nn.Module):
    """``(x - mean) / std`` along dimension 1, kept with the weights so that an export has it."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().float())
        self.register_buffer("std", std.detach().clone().float())

    def forward(self, x: Tensor) -> Tensor:
        """`x` ``(n, c, ...)``, standardised channel by channel."""
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (x - mean.view(shape)) / std.view(shape)


class Rescale(nn.Module):
    """``mean + std * v``: standardised values ``(n, k)`` in the units of the labels.

    The last module of the head of a regression, kept with the weights so that an export has it.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().float())
        self.register_buffer("std", std.detach().clone().float())

    def forward(self, v: Tensor) -> Tensor:
        """`v` ``(n, k)`` in the units of the labels, in float32 at least."""
        return self.get_buffer("mean") + self.get_buffer("std") * v


def in_units(head: nn.Linear, mean: Tensor, std: Tensor) -> nn.Sequential:
    """A trained linear head of a regression with its units in a module of their own.

    It gives the same values, up to rounding; its linear layer gives standardised ones.
    """
    layer = copy.deepcopy(head)
    with torch.no_grad():
        layer.weight.div_(std[:, None])
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(std)))
        layer.bias.sub_(mean).div_(std)
    return nn.Sequential(layer, Rescale(mean, std))


class Network(nn.Module):
    """A feature extractor and a classifier: ``logits = head(bottleneck(backbone(normalize(x))))``.

    Args:
        backbone: any module that maps a batch of inputs to features ``(n, d)``; feature maps
            ``(n, d, h, w)`` are averaged over their positions.
        head: maps features ``(n, d')`` to logits ``(n, classes)``, or, of a regression, to values
            ``(n, k)``; its last module is then a `Rescale`.
        bottleneck: an optional module between the two; the methods align what it returns.
        normalize: an optional first module, usually `Normalize`.
        transferable: the backbone's layers in order, by name; see `blocks`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        bottleneck: nn.Module | None = None,
        normalize: nn.Module | None = None,
        transferable: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.normalize = nn.Identity() if normalize is None else normalize
        self.backbone = backbone
        self.bottleneck = nn.Identity() if bottleneck is None else bottleneck
        self.head = head
        self._transferable = None if transferable is None else tuple(transferable)

    def features(self, x: Inputs) -> Tensor:
        """The features ``z (n, d)`` that the methods align and the head classifies."""
        z = self.backbone(self.normalize(x) if isinstance(x, Tensor) else x)
        if z.ndim > 2:
            z = z.flatten(2).mean(2)
        features: Tensor = self.bottleneck(z)
        return features

    def forward(self, x: Inputs) -> Tensor:
        """Logits ``(n, classes)``."""
        logits: Tensor = self.head(self.features(x))
        return logits

    @property
    def n_classes(self) -> int:
        """The number of logits: that of the last linear layer of the head."""
        return _last_linear(self.head).out_features

    @property
    def spread(self) -> Tensor | None:
        """The scale ``(k,)`` of the values of a regression; None where the outputs are logits."""
        for module in self.head.modules():
            if isinstance(module, Rescale):
                return module.get_buffer("std")
        return None

    @property
    def n_features(self) -> int:
        """The width of ``z``: what the head's first linear layer takes."""
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                return module.in_features
        raise DomadaptError("The head must hold a torch.nn.Linear; it has none.")

    def blocks(self) -> dict[str, nn.Module]:
        """The transferable layers in order: those given, else the longest chain of the backbone.

        A backbone with a method ``transferable()`` says them itself, as a dictionary by name.

        A chain is a `Sequential` or `ModuleList`, or a module with several stages, such as a
        ResNet's ``layer1`` to ``layer4``. A stage is a `Sequential` of modules that have layers of
        their own; it counts with each of these. Where the backbone's own children are more than
        any chain has entries, they are the blocks. Only entries with parameters are counted.
        """
        if self._transferable is not None:
            return {name: self.backbone.get_submodule(name) for name in self._transferable}
        if hasattr(self.backbone, "transferable"):
            named: dict[str, nn.Module] = self.backbone.transferable()  # type: ignore[operator]
            return named
        own = [child for _, child in self.backbone.named_children()]
        least = sum(any(True for _ in child.parameters()) for child in own) - 1
        best: dict[str, nn.Module] = dict(self.backbone.named_children())
        for name, module in self.backbone.named_modules():
            stages = sum(_is_stage(child) for child in module.children())
            if isinstance(module, _CHAINS) or stages > 1:
                entries = _entries(module, f"{name}." if name else "")
                layers = sum(any(True for _ in e.parameters()) for e in entries.values())
                if layers > max(1, least):
                    best, least = entries, layers
        return best

    @classmethod
    def from_classifier(
        cls, model: nn.Module, head: str | None = None, *, normalize: nn.Module | None = None
    ) -> Network:
        """Divide a trained classifier into backbone and head; the model itself is not changed.

        Args:
            model: returns logits.
            head: the dotted name of its last layer(s), such as ``"fc"`` or ``"classifier"``;
                None takes the last `torch.nn.Linear`.
            normalize: an optional first module.
        """
        names = dict(model.named_modules())
        if head is None:
            linear = [n for n, m in names.items() if isinstance(m, nn.Linear) and n]
            if not linear:
                raise DomadaptError("The classifier has no torch.nn.Linear; name its head.")
            head = linear[-1]
        if head not in names or not head:
            tops = ", ".join(n for n, _ in model.named_children())
            raise DomadaptError(f"The classifier has no layer {head!r}. Its layers: {tops}.")
        backbone = copy.deepcopy(model)
        owner_name, _, leaf = head.rpartition(".")
        owner: Any = backbone.get_submodule(owner_name)
        taken = owner.get_submodule(leaf)
        setattr(owner, leaf, nn.Identity())
        return cls(backbone, taken, normalize=normalize)


class Calibrated(nn.Module):
    """A classifier whose logits give calibrated probabilities: ``logits / temperature + offset``.

    What leaves with a run as a program is this, so that a plain softmax serves everywhere.
    """

    def __init__(self, model: nn.Module, temperature: float, offset: Tensor) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.offset: Tensor
        self.register_buffer("offset", offset.float())

    def forward(self, x: Inputs) -> Tensor:
        """Calibrated logits ``(n, classes)``."""
        logits: Tensor = self.model(x)
        return logits / self.temperature + self.offset


_CHAINS = (nn.Sequential, nn.ModuleList)


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is a row of blocks of one kind, each of several layers."""
    children = list(module.children())
    return (
        isinstance(module, _CHAINS)
        and len({type(child) for child in children}) == 1
        and all(any(True for _ in child.children()) for child in children)
        and not isinstance(children[0], _CHAINS)
    )


def _entries(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """The children of a module by name, those of a stage in its place."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if _is_stage(child):
            found |= {f"{prefix}{name}.{n}": c for n, c in child.named_children()}
        else:
            found[f"{prefix}{name}"] = child
    return found


def _last_linear(module: nn.Module) -> nn.Linear:
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise DomadaptError("The head must hold a torch.nn.Linear; it has none.")
    return linear[-1]


@torch.no_grad()
def width_of(backbone: nn.Module, example: Inputs) -> int:
    """How many features `backbone` returns for a batch like `example`; its state is kept."""
    was = backbone.training
    # Evaluation mode, so that the trial changes no BatchNorm statistics and draws no dropout.
    z = backbone.eval()(example)
    backbone.train(was)
    check_features(z, batch_size(example), "it")
    return z.shape[1]


def check_features(z: Any, n: int, backbone: str) -> None:
    """Refuse what `backbone` returned of `n` samples unless that is one tensor ``(n, d, ...)``."""
    if not isinstance(z, Tensor) or z.ndim < 2 or len(z) != n:
        raise DomadaptError(
            f"A backbone must return one tensor (n, features, ...); of n = {n} samples {backbone} "
            f"returned {tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__}."
        )


def short_blocks(blocks: Sequence[str]) -> list[str]:
    """Names of blocks without the modules that all of them lie in, but for the innermost."""
    parts = [name.split(".") for name in blocks]
    shared = 0
    while len(blocks) > 1 and all(len(p) > shared + 1 for p in parts):
        if len({p[shared] for p in parts}) > 1:
            break
        shared += 1
    return [".".join(p[max(shared - 1, 0) :]) for p in parts]


class Discriminator(nn.Module):
    """Tells domains apart: ``n_in -> hidden -> hidden -> 1`` logit, ReLU between.

    Without dropout and BatchNorm: it draws no random numbers while training, and its answer for a
    sample does not depend on the rest of the batch.
    """

    def __init__(self, n_in: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Domain logits ``d (n,)``, positive for source."""
        d: Tensor = self.layers(z).squeeze(-1)
        return d

    def both(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of source and target features by one pass over both, which costs less."""
        d_s, d_t = torch.split(self(torch.cat([z_s, z_t])), [len(z_s), len(z_t)])
        return d_s, d_t
