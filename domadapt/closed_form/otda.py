"""Optimal transport of the source onto the target, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.utils import column_or_1d

from domadapt.closed_form.base import ClosedForm, Rows, require_memory
from domadapt.errors import DomadaptError, unknown


class OTDA(OneToOneFeatureMixin, ClosedForm):
    """Move each source row to the average of the target rows it is transported to.

    (Courty et al., 2017, arXiv:1507.00504.) The plan ``G (n_s, n_t)`` minimises ``<G, C> + reg
    sum G log G + class_reg sum_j sum_c (sum_{i of class c} G_ij)^(1/2)`` with rows that sum to
    ``1/n_s`` and columns that sum to ``1/n_t``; ``C`` are squared distances, divided by ``norm``.
    The class term keeps source rows of different classes from going to the same target row. Source
    row i becomes ``n_s sum_j G_ij x_j^t``; target rows stay as they are. The plans are POT's.

    New source rows, as in POT: without ``class_reg`` and with ``reg`` above 0, by the plan's
    potential of the target (Pooladian and Niles-Weed, 2021, arXiv:2109.12004); otherwise they move
    as the nearest source row of `fit` did.

    POT linearises the class term, of power 1/2 here, in 10 rounds of Sinkhorn. The paper's costs
    are not divided; they are here, so that ``reg`` means the same whatever the features' scale and
    number.

    When it fails: all mass must go somewhere. Where the shares of the classes differ between the
    domains, or a class is missing from the target, rows of one class are sent to another, and a
    classifier then does worse than without. A large ``reg`` shrinks the moved source towards the
    target's mean; a small one converges slowly and follows single rows. Time and memory grow as
    ``n_s n_t`` (times the number of classes with ``class_reg``).

    Args:
        reg: weight of the entropy; 0 is exact transport.
        class_reg: weight of the class term, which needs ``y``; 0 is without.
        norm: what costs are divided by: "median", "max" (of the costs), or None.
        max_iter: the most Sinkhorn iterations; with ``class_reg``, of each of 10 rounds.

    Attributes:
        transport_: the fitted transport of `ot.da`; its ``coupling_`` is ``G``.
        n_iter_: Sinkhorn iterations, with ``class_reg`` those of the last round; 1 if exact.
    """

    _fewest = 1

    def __init__(
        self,
        *,
        reg: float = 0.1,
        class_reg: float = 0.0,
        norm: str | None = "median",
        max_iter: int = 1000,
    ) -> None:
        self.reg = reg
        self.class_reg = class_reg
        self.norm = norm
        self.max_iter = max_iter

    def _fit(self, x_s: Rows, x_t: Rows, y_s: np.ndarray | None) -> None:
        self._check_settings()
        classes = None
        if self.class_reg:
            if y_s is None:
                raise DomadaptError(
                    "OTDA with class_reg needs the labels of the source rows; got y=None. Give "
                    "fit(X, y, ...), or class_reg=0."
                )
            classes = np.unique(column_or_1d(y_s), return_inverse=True)[1]
        copies = 1 if classes is None else int(classes.max()) + 1
        require_memory((len(x_s), len(x_t), copies), "The transport plan")
        transport = self._transport().fit(Xs=x_s, ys=classes, Xt=x_t)
        plan = transport.coupling_
        # Sinkhorn's exponentials vanish where reg is too small for the costs.
        if not (np.isfinite(plan).all() and (plan.sum(1) > 0).all()):
            raise DomadaptError(
                f"The transport plan is not finite with reg={self.reg}, which is too small for "
                "these costs. Raise reg, or set norm to 'median' or 'max'."
            )
        self.transport_ = transport
        self.n_iter_ = int(transport.log_["niter"]) + 1 if self.reg else 1

    def _check_settings(self) -> None:
        if not (self.reg >= 0 and self.class_reg >= 0 and self.max_iter >= 1):
            raise DomadaptError(
                "OTDA needs reg >= 0, class_reg >= 0 and max_iter >= 1; got "
                f"{self.reg!r}, {self.class_reg!r} and {self.max_iter!r}."
            )
        if self.class_reg and not self.reg:
            raise DomadaptError("OTDA with class_reg needs reg above 0; got 0.")
        if self.norm not in ("median", "max", None):
            raise unknown("norm of the costs", str(self.norm), ["median", "max", "None"])

    def _transport(self) -> Any:
        import ot

        if not self.reg:
            return ot.da.EMDTransport(norm=self.norm)
        if not self.class_reg:
            return ot.da.SinkhornTransport(reg_e=self.reg, norm=self.norm, max_iter=self.max_iter)
        return ot.da.SinkhornLpl1Transport(
            reg_e=self.reg,
            reg_cl=self.class_reg,
            norm=self.norm,
            max_inner_iter=self.max_iter,
            log=True,
        )

    def _map_source(self, x: Rows) -> Rows:
        return np.asarray(self.transport_.transform(Xs=x))
