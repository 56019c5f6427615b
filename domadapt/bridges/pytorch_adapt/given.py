"""What a hook is given: live or fixed tensors, and models in the form that it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from domadapt.losses.adversarial import multilinear
from domadapt.network import Network


def live(x: Tensor, fixed: bool = False) -> Tensor:
    """`x` in float32 and with a gradient, as hooks demand; `fixed`: the gradient ends here."""
    x = x.float()
    return x if x.requires_grad and not fixed else x.detach().requires_grad_()


def fixed_weights(module: nn.Module) -> Callable[..., Any]:
    """`module` with weights that get no gradient, while what it is given does."""
    values = {name: p.detach() for name, p in module.named_parameters()}
    return lambda *x: functional_call(module, values, x)


class OuterProduct(nn.Module):
    """Every probability times every feature of a sample: the multilinear map of CDAN."""

    def forward(self, z: Tensor, p: Tensor) -> Tensor:
        """`z` ``(n, d)``, `p` ``(n, c)`` to ``(n, d c)``."""
        return multilinear(z, p)


class BridgedHead(nn.Module):
    """The head less its bridge, as GVB's classifier."""

    def __init__(self, head: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.head, self.bridge = head, bridge

    def forward(self, z: Tensor, return_bridge: bool = False) -> Any:
        """Logits, and on request what was taken away."""
        bridge = self.bridge(z)
        logits = self.head(z) - bridge
        return (logits, bridge) if return_bridge else logits


class Whole(nn.Module):
    """Inputs to logits. It holds each weight once, or `fixed_weights` could not put them back."""

    def __init__(self, network: Network, bridge: nn.Module | None) -> None:
        super().__init__()
        self.network, self.bridge = network, bridge

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        z = self.network.features(x)
        logits: Tensor = self.network.head(z)
        return logits if self.bridge is None else logits - self.bridge(z)


class ForVAT:
    """A model for the loss of VAT, which calls ``backward`` and ``zero_grad`` by itself.

    BatchNorm uses its running statistics, as that loss wants, and is put back afterwards. While
    the loss searches for a perturbation (its input has a gradient) the weights have none, so that
    nothing is added to the gradients of the step under way, and nothing needs to be cleared.
    """

    def __init__(self, model: Whole) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        """Logits; of fixed weights where `x` has a gradient."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training]
        for m in norms:
            m.eval()
        try:
            logits: Tensor = (fixed_weights(self.model) if x.requires_grad else self.model)(x)
        finally:
            for m in norms:
                m.train()
        return logits

    def apply(self, change: Callable[[nn.Module], Any]) -> None:
        """Nothing: BatchNorm's mode is set where it matters."""

    def zero_grad(self) -> None:
        """Nothing: the search leaves no gradient, and the step's own must stay."""
