"""Features brought near by their Wasserstein distance, which a critic estimates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from domadapt.errors import DomadaptError
from domadapt.losses.precision import at_least_float32, full_precision
from domadapt.losses.wasserstein import critic_gap, penalty_points, slope_penalty
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch


class Critic(nn.Module):
    """A number for each sample's features: ``n_in -> hidden -> hidden -> 1``, ReLU between.

    Unlike a `Discriminator`'s, its values are no logits: only their differences mean anything.
    """

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Features ``(n, d)`` to values ``(n,)``, in float32 at least."""
        with full_precision(z):
            value: Tensor = self.layers(at_least_float32(z)).squeeze(-1)
            return value


@register("wdgrl")
class WDGRL(Method):
    """Wasserstein distance guided representation learning (Shen et al., 2018, arXiv:1707.01217).

    Before each step of the network a critic takes several: it widens the gap between its mean
    values on source and target features while its slope is held near 1, at the features and
    between them. The network then narrows that gap. See `domadapt.losses.wasserstein` for how the
    points between are placed. The critic learns at the rate of the other new layers.

    Args:
        wasserstein_weight: factor of the estimated distance.
        critic_steps: steps of the critic before each step of the network.
        penalty: factor of the critic's slope penalty.
        hidden: width of the critic's two hidden layers.
    """

    needs_classes = False
    single_process = "its critic takes steps of its own, which processes do not share."
    space = {"wasserstein_weight": (0.01, 1.0, "log")}

    def __init__(
        self,
        network: Network,
        *,
        wasserstein_weight: float = 0.1,
        critic_steps: int = 5,
        penalty: float = 10.0,
        hidden: int = 256,
    ) -> None:
        super().__init__(network)
        if critic_steps < 1:
            raise DomadaptError(f"critic_steps must be at least 1; got {critic_steps}.")
        if not penalty > 0:
            raise DomadaptError(f"penalty must be above 0; got {penalty}.")
        self.wasserstein_weight = wasserstein_weight
        self.critic_steps = critic_steps
        self.penalty = penalty
        self.hidden = hidden
        self.critic = self.auxiliary(lambda: Critic(network.n_features, hidden))

    def critic_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """The gap, to be widened, and the slope penalty."""
        points = penalty_points(out.z_s, out.z_t).requires_grad_()
        values = self.critic(points)
        # Each value depends on its own point only: the gradient of the sum has them all.
        (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
        c_s, c_t = values[: len(out.z_s)], values[len(out.z_s) :][: len(out.z_t)]
        return self.penalty * slope_penalty(slopes) - critic_gap(c_s, c_t)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The gap as the critic, which must not move here, sees it."""
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
        c_s, c_t = (functional_call(self.critic, fixed, (z,)) for z in (out.z_s, out.z_t))
        return {"wasserstein": critic_gap(c_s, c_t)}
