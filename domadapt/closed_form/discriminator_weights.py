"""Weights for the source's rows: the odds of a domain classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domadapt.closed_form.base import ClosedForm, stacked
from domadapt.errors import DomadaptError


class DiscriminatorWeights(OneToOneFeatureMixin, ClosedForm):
    """Weight the source's rows by how much they look like target rows.

    (Bickel et al., 2007, doi:10.1145/1273496.1273507.) A logistic regression tells source from
    target; by Bayes' rule its odds are the ratio of densities up to the domains' sizes:
    ``weights_ = n_s/n_t p(target | x) / p(source | x)`` for each source row. Rows are left as they
    are. Give the weights to a classifier: ``fit(x_s, y_s, sample_weight=weights_)``.

    The paper learns these odds and the label's classifier together; here, as in its two-stage
    form, one after the other. Features are first divided by their standard deviation, so that
    ``C`` means the same for all of them. Sparse rows stay sparse.

    When it fails: weights correct a covariate shift only, where the label of a row does not depend
    on the domain. The classifier is linear: it sees no more than a difference of means, so that
    domains which were each standardised look the same to it. Where a line separates the domains,
    as it does with more features than rows, its odds say little, or a few rows carry all (look at
    ``weights_.sum() ** 2 / (weights_ ** 2).sum()``, the number of rows that are left in effect); a
    smaller ``C`` evens them out.

    Args:
        C: inverse strength of the classifier's L2 penalty.
        max_iter: the most steps of its solver.

    Attributes:
        weights_: ``(n_s,)``, in the order of the source's rows.
        classifier_: the fitted pipeline; class 1 is the target.
        n_iter_: the steps of its solver.
    """

    _dense = _moves = False
    _fewest = 1

    def __init__(self, *, C: float = 1.0, max_iter: int = 1000) -> None:
        self.C = C
        self.max_iter = max_iter

    def _fit(self, x_s: Any, x_t: Any, y_s: np.ndarray | None) -> None:
        if not (self.C > 0 and self.max_iter >= 1):
            raise DomadaptError(
                "DiscriminatorWeights needs C > 0 and max_iter >= 1; got "
                f"{self.C!r} and {self.max_iter!r}."
            )
        n_s, n_t = x_s.shape[0], x_t.shape[0]
        self.classifier_ = make_pipeline(
            StandardScaler(with_mean=False),
            LogisticRegression(C=self.C, max_iter=self.max_iter),
        ).fit(stacked(x_s, x_t), np.repeat([0, 1], [n_s, n_t]))
        self.n_iter_ = int(self.classifier_[-1].n_iter_.max())
        self.weights_ = n_s / n_t * np.exp(self.classifier_.decision_function(x_s))
