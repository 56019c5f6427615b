"""Fine-tuning on labelled data: strategies measured against each other and against no transfer.

`splits.py` says what is trained and scored, `work.py` does one training, `heads.py` one encoder for
several data sets, `curves.py` holds the pure measures, `study.py` all of it, `page.py` shows it.
"""

from domadapt.finetune.heads import share_encoder
from domadapt.finetune.study import Comparison, finetune

__all__ = ["Comparison", "finetune", "share_encoder"]
