"""Closed-form adaptation of features, as scikit-learn transformers.

A transformer is fitted on labelled source rows and unlabelled target rows and stands before any
scikit-learn classifier::

    model = make_pipeline(Coral(), LogisticRegression())
    model.fit(x_s, y_s, coral__X_target=x_t)
    model.predict(x_t_new)

`Coral`, `LinearOT` and `OTDA` move the source onto the target, `SubspaceAlignment` and `TCA` move
both into a space of few dimensions, and `MSDA` rebuilds features from each other. `KMM` and
`DiscriminatorWeights` leave the rows alone and weight those of the source: ``classifier.fit(x_s,
y_s, sample_weight=KMM().fit(x_s, X_target=x_t).weights_)``.

All presume that source and target have the same features at comparable scales; standardise them
first. A step before the transformer in a pipeline does not see ``X_target``.
"""

from domadapt.closed_form.coral import Coral
from domadapt.closed_form.discriminator_weights import DiscriminatorWeights
from domadapt.closed_form.kmm import KMM
from domadapt.closed_form.linear_ot import LinearOT
from domadapt.closed_form.msda import MSDA
from domadapt.closed_form.otda import OTDA
from domadapt.closed_form.subspace_alignment import SubspaceAlignment
from domadapt.closed_form.tca import TCA

__all__ = [
    "KMM",
    "MSDA",
    "OTDA",
    "TCA",
    "Coral",
    "DiscriminatorWeights",
    "LinearOT",
    "SubspaceAlignment",
]
