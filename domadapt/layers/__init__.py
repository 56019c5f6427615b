"""Which layers of a pre-trained network carry the transfer.

`layers` fine-tunes a network again and again, each time with some of its blocks re-initialised,
frozen or exchanged, and says what is lost without each block; linear probes, module criticality and
linear CKA of the same blocks stand beside it. The parts are plain functions: `reinitialise`,
`activations`, `linear_cka`, `rewound`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from domadapt.layers.arrangement import Arrangement, arranged
from domadapt.layers.blocks import Block, blocks_of
from domadapt.layers.cka import domain_cka, linear_cka
from domadapt.layers.criticality import criticality, rewound
from domadapt.layers.probing import activations
from domadapt.layers.reinitialise import Reset, reinitialise

if TYPE_CHECKING:
    from domadapt.layers.results import LayerStudy as LayerStudy
    from domadapt.layers.settings import Settings as Settings
    from domadapt.layers.study import layers as layers

#: A study stands above the benchmark, and the parts below adaptation: these wait until asked for.
_LATER = {"LayerStudy": "results", "Settings": "settings", "layers": "study"}

__all__ = [
    "Arrangement",
    "Block",
    "LayerStudy",
    "Reset",
    "Settings",
    "activations",
    "arranged",
    "blocks_of",
    "criticality",
    "domain_cka",
    "layers",
    "linear_cka",
    "reinitialise",
    "rewound",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'domadapt.layers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"domadapt.layers.{_LATER[name]}"), name)
