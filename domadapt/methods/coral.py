"""Correlation alignment of features, in closed form."""

from __future__ import annotations

from torch import Tensor

from domadapt.methods.base import Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, moved_source


@register("coral")
class CORAL(Method):
    """CORAL in closed form (Sun et al., 2016, arXiv:1511.05547), `domadapt.closed_form.Coral`.

    Before training, the source's rows get the target's covariance and, unlike in the paper, its
    mean; the network then learns from them. The paper trains a linear classifier (--bottleneck 0);
    here any layers may follow. When it fails: see `domadapt.closed_form.Coral`.

    Args:
        reg: what is added to the diagonals of both covariances.
        center: whether the source's mean is moved to the target's.
    """

    setting = "closed form"
    closed_form = True
    needs_classes = False
    no_neutral = "It moves the source's rows before training, and no setting leaves all in place."
    space = {"reg": (1e-3, 10.0, "log")}

    def __init__(self, network: Network, *, reg: float = 1.0, center: bool = True) -> None:
        super().__init__(network)
        self.reg = reg
        self.center = center

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """The source's rows with the target's covariance and mean."""
        from domadapt.closed_form import Coral

        return moved_source(Coral(reg=self.reg, center=self.center), x_s, y_s, x_t)
