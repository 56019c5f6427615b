"""Subspace alignment, in closed form."""

from __future__ import annotations

from torch import Tensor

from domadapt.methods.base import Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.rows import Features, double, from_double, widened


@register("subspace_alignment")
class SubspaceAlignment(Method):
    """Subspace alignment (Fernando et al., 2013, doi:10.1109/ICCV.2013.368).

    Before training, source rows become ``(x - m_s) P_s P_s^T P_t`` and target rows ``(x - m_t)
    P_t``, with the leading principal components ``P`` ``(d, k)`` and the mean ``m`` of each domain
    (`domadapt.closed_form.SubspaceAlignment`, which says when it fails).

    The ``k`` columns stand in the first of the ``d`` that the network takes, and the others are 0,
    so that it keeps its form. The target's map ends as part of its first layer, which must be
    linear.

    Args:
        n_components: ``k``; none takes 20, or as many as the features and both domains allow.
    """

    setting = "closed form"
    closed_form = True
    needs_classes = False
    no_neutral = "It brings the rows into a subspace, and no setting leaves all in place."

    def __init__(self, network: Network, *, n_components: int | None = None) -> None:
        super().__init__(network)
        self.n_components = n_components

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """The source's rows aligned, and the projection of the target's."""
        from domadapt.closed_form import SubspaceAlignment as Transformer

        transformer = Transformer(n_components=self.n_components)
        rows = transformer.fit_transform(double(x_s), X_target=double(x_t))
        pca = transformer.pca_t_
        matrix = widened(pca.components_.T, x_s.shape[1])
        return Features(
            from_double(widened(rows, x_s.shape[1])),
            from_double(matrix),
            from_double(-pca.mean_ @ matrix),
        )
