"""Closed-form methods in training: rows are moved once, before it, and the map is folded in after.

In between, training knows nothing of it: it sees a task of other rows.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from domadapt.data.samples import ArraySamples
from domadapt.data.views import Views
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of
from domadapt.network import Network, Normalize
from domadapt.open_set import OpenHead
from domadapt.task import Domain, Split, Task

if TYPE_CHECKING:
    from domadapt.methods import Method


@dataclass(frozen=True)
class Features:
    """What a closed-form method makes of the rows; a part that is None stays as it is.

    Rows are those that the network's layers see, after its normalisation.

    Attributes:
        x_s: the rows of ``source_train`` ``(n_s, d)``, moved.
        matrix, shift: ``(d, d)`` and ``(d,)``: a target row ``x`` becomes ``x @ matrix + shift``,
            and so does every row that the finished network is given.
    """

    x_s: Tensor | None = None
    matrix: Tensor | None = None
    shift: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The parts that are there, by name."""
        return {k: v for k, v in vars(self).items() if v is not None}


def moved_source(transformer: Any, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
    """The source's rows as a transformer of `domadapt.closed_form` that moves them alone does."""
    given = double(x_s), y_s.cpu().numpy()
    return Features(from_double(transformer.fit_transform(*given, X_target=double(x_t))))


def double(x: Float[Tensor, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows in float64, as the transformers compute."""
    return np.asarray(x.detach().cpu().double().numpy())


def from_double(x: Any) -> Tensor:
    """What a transformer returned, in float32."""
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def widened(x: Float[np.ndarray, "n k"], d: int) -> Float[np.ndarray, "n d"]:
    """The same columns, and zeros beside them: no distance and no angle of rows changes."""
    return np.pad(x, ((0, 0), (0, d - x.shape[1])))


def fit(method: Method, task: Task, views: Views) -> Features:
    """Let a closed-form method see the rows of both domains; it draws no random numbers.

    Raises:
        DomadaptError: the data are no rows of features, the method's settings do not suit them, or
            the network cannot take in the map of the target's rows.
    """
    if task.kind != "vector":
        raise DomadaptError(
            f"{method.name} works on rows of features, and {task.name} has data of kind "
            f"{task.kind!r}; give --freeze (in Python freeze=True), which adapts on the features "
            "of the frozen backbone."
        )
    normalize = method.network.normalize
    if not isinstance(normalize, Normalize | nn.Identity):
        raise DomadaptError(
            f"{method.name} needs a network whose normalisation is domadapt.network.Normalize, or "
            f"none; got {type(normalize).__name__}."
        )
    y_s = task.source_train.y
    assert y_s is not None
    x_s, x_t = (
        _normalised(normalize, _raw(s, views)) for s in (task.source_train, task.target_train)
    )
    features = method.fit_features(x_s, y_s, x_t)
    broken = [name for name, value in features.tensors().items() if not value.isfinite().all()]
    if broken:
        raise DomadaptError(
            f"{method.name} moves these rows to values that are NaN or infinite ({broken[0]}); "
            "look for features of extreme size, or raise its regularisation."
        )
    if features.x_s is not None and method.needs_source_val:
        raise DomadaptError(
            f"{method.name} cannot be: one part moves the source's training rows, and another "
            "needs its validation rows, which stay; leave one of them out."
        )
    if features.matrix is not None:
        _check_folds(method, features, x_t[:8])
    return features


def moved(task: Task, views: Views, features: Features, normalize: nn.Module) -> Task:
    """The task to train on: rows of both domains moved, in the scale of the raw ones."""

    def with_rows(split: Split, x: Tensor) -> Split:
        rows = ArraySamples(_raw_scale(normalize, x), "vector")
        old = split.domain
        domain = Domain(old.name, rows, kind=old.kind, augment=old.augment, ids=split.ids())
        return dataclasses.replace(split, domain=domain, indices=np.arange(len(split)))

    def mapped(split: Split) -> Split:
        x = _normalised(normalize, _raw(split, views))
        return with_rows(split, _affine(x, features))

    other = copy.copy(task)
    if features.x_s is not None:
        other.source_train = with_rows(task.source_train, features.x_s)
    if features.matrix is not None:
        other.target_train = mapped(task.target_train)
        if task.target_labelled is not None:
            other.target_labelled = mapped(task.target_labelled)
    return other


@torch.no_grad()
def folded(network: Network, features: Features | None) -> Network:
    """A network trained on moved rows as one for rows as they are; the same where none is mapped.

    The map goes into the first linear layer: ``W (M^T x + c) + b = (W M^T) x + (W c + b)`` with
    ``M`` and ``c`` the matrix (applied from the right) and the shift, so that the network keeps its
    form and its size.
    """
    if features is None or features.matrix is None:
        return network
    network = copy.deepcopy(network)
    for layer in _first_linears(network):
        weight, place = layer.weight.double(), layer.weight.device
        if features.shift is not None and layer.bias is not None:
            layer.bias.add_((weight @ features.shift.double().to(place)).to(layer.bias.dtype))
        layer.weight.copy_(weight @ features.matrix.double().to(place).T)
    return network


def _first_linear(network: Network) -> nn.Linear | None:
    parts = (network.backbone, network.bottleneck, network.head)
    return next((m for part in parts for m in part.modules() if isinstance(m, nn.Linear)), None)


def _first_linears(network: Network) -> list[nn.Linear]:
    """The layers that take the rows: one, or two where an open head itself takes them."""
    first, head = _first_linear(network), network.head
    if not isinstance(head, OpenHead) or all(first is not m for m in head.modules()):
        return [] if first is None else [first]
    layers = ([m for m in part.modules() if isinstance(m, nn.Linear)] for part in head.children())
    return [found[0] for found in layers if found]


@torch.no_grad()
def _check_folds(method: Method, features: Features, x: Tensor) -> None:
    """Refuse a network in which another layer comes before the first linear one."""
    # In float64 on the CPU, so that only another function can differ, not rounding.
    network = copy.deepcopy(method.network).cpu().double().eval()
    network.normalize = nn.Identity()
    layer = _first_linear(network)
    takes = layer is not None and layer.in_features == x.shape[1]
    if takes and layer is not None and (features.shift is None or layer.bias is not None):
        x = x.double()
        expected = network(_affine(x, features))
        if torch.allclose(folded(network, features)(x), expected, rtol=1e-6, atol=1e-9):
            return
    raise DomadaptError(
        f"{method.name} maps the target's rows as well, by a matrix that becomes part of the "
        "network's first layer: that layer must be a torch.nn.Linear with a bias. Choose --model "
        "features or mlp, or a method that moves the source alone, such as coral."
    )


def _affine(x: Tensor, features: Features) -> Tensor:
    assert features.matrix is not None
    y = x.double() @ features.matrix.double()
    return (y if features.shift is None else y + features.shift.double()).to(x.dtype)


def _raw(split: Split, views: Views) -> Tensor:
    parts: list[Any] = list(inputs_of(split, views))
    return torch.cat(parts)


@torch.no_grad()
def _normalised(normalize: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = copy.deepcopy(normalize).cpu()(x)
    return y


def _raw_scale(normalize: nn.Module, x: Tensor) -> Tensor:
    """The rows that `normalize` turns into `x`."""
    if not isinstance(normalize, Normalize):
        return x
    return x * normalize.get_buffer("std").cpu() + normalize.get_buffer("mean").cpu()
