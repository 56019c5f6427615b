"""Which model to start from: scores of features and labels, and the ranking of models by them.

The scores are plain functions of numpy arrays: ``logme(features, y)``. Each says of its paper, its
range, its cost and what it is blind to. `domadapt.transfer.rank.rank` computes all of them for
several models, with a linear probe and the size of the model beside them.
"""

from domadapt.transfer.covariance import h_score, regularized_h_score, transrate
from domadapt.transfer.likelihood import leep, nce, nleep
from domadapt.transfer.logme import logme
from domadapt.transfer.probe import Probe, linear_probe, nearest_neighbours
from domadapt.transfer.separability import gbc, sfda

__all__ = [
    "Probe",
    "gbc",
    "h_score",
    "leep",
    "linear_probe",
    "logme",
    "nce",
    "nearest_neighbours",
    "nleep",
    "regularized_h_score",
    "sfda",
    "transrate",
]
