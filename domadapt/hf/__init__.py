"""Models of Hugging Face: ``hf:NAME`` of the hub, or ``hf:FOLDER``.

Weights are read from safetensors alone, and no code that comes with a model is run. What is on this
machine needs no network. Importing this needs neither torch nor transformers.
"""

from domadapt.hf.reading import PREFIX as PREFIX
from domadapt.hf.reading import is_hf as is_hf
from domadapt.hf.reading import reads as reads
from domadapt.hf.reading import trained_classes as trained_classes
