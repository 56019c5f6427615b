"""The optimal transport map between two Gaussians, in closed form."""

from __future__ import annotations

from torch import Tensor

from domadapt.methods.base import Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, moved_source


@register("linear_ot")
class LinearOT(Method):
    """Linear optimal transport (Flamary et al., 2019, arXiv:1905.10155).

    Before training, the source's rows move by the Monge map of the domains' Gaussians
    (`domadapt.closed_form.LinearOT`), which gives them the target's mean and covariance and moves
    them least; the network then learns from them. With fewer rows than features a larger `reg` is
    due. When it fails: see the transformer.

    Args:
        reg: what is added to the diagonals of both covariances.
    """

    setting = "closed form"
    closed_form = True
    needs_classes = False
    no_neutral = "It moves the source's rows before training, and no setting leaves all in place."
    space = {"reg": (1e-4, 1.0, "log")}

    def __init__(self, network: Network, *, reg: float = 1e-3) -> None:
        super().__init__(network)
        self.reg = reg

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """The source's rows with the target's mean and covariance."""
        from domadapt.closed_form import LinearOT as Transformer

        return moved_source(Transformer(reg=self.reg), x_s, y_s, x_t)
