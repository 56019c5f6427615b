"""Which layers of a pre-trained network carry the transfer.

`layers` fine-tunes a network again and again, each time with some of its blocks re-initialised,
frozen or exchanged, and says what is lost without each block; linear probes, module criticality and
linear CKA of the same blocks stand beside it. The parts are plain functions: `reinitialise`,
`activations`, `linear_cka`, `rewound`.
"""

from domadapt.layers.arrangement import Arrangement, arranged
from domadapt.layers.blocks import Block, blocks_of
from domadapt.layers.cka import domain_cka, linear_cka
from domadapt.layers.criticality import criticality, rewound
from domadapt.layers.probing import activations
from domadapt.layers.reinitialise import Reset, reinitialise

__all__ = [
    "Arrangement",
    "Block",
    "Reset",
    "activations",
    "arranged",
    "blocks_of",
    "criticality",
    "domain_cka",
    "linear_cka",
    "reinitialise",
    "rewound",
]
