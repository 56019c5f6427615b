"""Backbones by name: small networks of our own, torchvision's, timm's, and a person's own file.

Nothing is fetched from a network unless `weights` names an entry of a hub.
"""

from domadapt.backbones.backbone import LAST_LINEAR, WEIGHT_FILES, Backbone, BackboneOrigin
from domadapt.backbones.build import (
    backbone_names,
    build_backbone,
    default_backbone,
    preprocessing_of,
)
from domadapt.backbones.of_run import is_of_run
from domadapt.backbones.own import is_own
from domadapt.backbones.small import conv1d, features, lenet, mlp
from domadapt.backbones.weights import read_state, weights_of

__all__ = [
    "LAST_LINEAR",
    "WEIGHT_FILES",
    "Backbone",
    "BackboneOrigin",
    "backbone_names",
    "build_backbone",
    "conv1d",
    "default_backbone",
    "features",
    "is_of_run",
    "is_own",
    "lenet",
    "mlp",
    "preprocessing_of",
    "read_state",
    "weights_of",
]
