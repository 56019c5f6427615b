"""How a pre-trained network is tuned: which parameters train, when, and how fast.

A strategy is one word of `Training.finetune` (`spec.py` reads it, without torch). `depth.py` says
how deep a parameter lies, `tuning.py` acts on a network in training, `adapters.py` and `lora.py`
put small modules into one.
"""
