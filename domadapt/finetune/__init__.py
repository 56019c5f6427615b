"""Fine-tuning on labelled data: strategies measured against each other and against no transfer.

`splits.py` says what is trained and scored, `work.py` does one training, `curves.py` holds the
pure measures, `study.py` all of it, `page.py` shows it.
"""

from domadapt.finetune.study import Comparison, finetune

__all__ = ["Comparison", "finetune"]
