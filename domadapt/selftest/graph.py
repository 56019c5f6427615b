"""Looking into what autograd recorded, and finite differences that see the same function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def nodes(root: Tensor) -> list[Any]:
    """Every node of the graph behind `root`."""
    found: dict[Any, None] = {}
    waiting = [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [following for following, _ in node.next_functions]
    return list(found)


def leaves(root: Tensor) -> list[Tensor]:
    """The tensors to which the gradient of `root` is handed, each once."""
    if root.grad_fn is None:
        return [root] if root.requires_grad else []
    return [node.variable for node in nodes(root) if hasattr(node, "variable")]


def reversals(root: Tensor) -> list[Any]:
    """The gradient reversals behind `root`; each has its ``coefficient``, which may be set."""
    return [node for node in nodes(root) if type(node).__name__ == "_ReverseGradientBackward"]


_RANKS = ("kthvalue", "median", "nanmedian", "quantile")


class Constants(TorchFunctionMode):
    """Keeps what autograd takes for constant, and gives it again at another point.

    A loss with a detached bandwidth, a pseudo-label or a threshold is, to its gradient, another
    function than its values at two points tell. With what does not carry a gradient held as it
    was, differences and gradients speak of one function. Enter it once to record at the point
    itself, then with ``replaying`` at the others.

    What goes on inside a custom `torch.autograd.Function` is its own affair, with one exception:
    the median and its kin, by which a bandwidth is chosen there, count as constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Any] = {}
        self.replaying = False
        self._calls = 0
        self._inside = 0

        real = inspect.getattr_static(torch.autograd.Function, "apply")

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            self._inside += 1
            try:
                return real.__get__(None, cls)(*args, **kwargs)
            finally:
                self._inside -= 1

        self._patch = mock.patch.object(torch.autograd.Function, "apply", classmethod(apply))

    def __enter__(self) -> Any:
        self._calls = self._inside = 0
        self._patch.start()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self._patch.stop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        moves = any(t.requires_grad for t in _tensors((args, kwargs)))
        result = func(*args, **kwargs)
        if name not in _RANKS if self._inside else not moves:
            return result
        self._calls += 1
        if self.replaying:
            if self._calls not in self.kept:
                return result
            kept = self.kept[self._calls]
            if name.endswith("_") and not name.endswith("__"):
                with torch.no_grad():
                    return result.copy_(kept)
            return kept
        found = list(_tensors(result))
        number = isinstance(result, float | int) and not isinstance(result, bool)
        if number or (found and not any(t.requires_grad for t in found)):
            self.kept[self._calls] = _copied(result)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    return value


def slope(
    f: Callable[[], Tensor],
    constants: Constants,
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    step: float,
) -> float:
    """The central difference of `f` along `direction`, at the present values of `parameters`."""
    start = [p.detach().clone() for p in parameters]
    constants.replaying = True
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, before, d in zip(parameters, start, direction, strict=True):
                p.copy_(before + sign * step * d)
        with constants:
            values.append(float(f().detach()))
    with torch.no_grad():
        for p, before in zip(parameters, start, strict=True):
            p.copy_(before)
    return (values[0] - values[1]) / (2 * step)
