"""UDALM: the source's labels and the target's hidden words are learnt together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.methods.base import BatchOutputs, Method
from domadapt.methods.registry import register
from domadapt.network import Network
from domadapt.task import Batch

if TYPE_CHECKING:
    from domadapt.hf.masked import MaskedLanguage


@register("udalm")
class UDALM(Method):
    """Domain adaptation through language modelling (Karouzos et al., 2021, arXiv:2104.07078).

    To the cross-entropy of the source is added that of guessing hidden words of the target
    (`domadapt.hf.masked.MaskedLanguage`), over one encoder: ``L_clf(source) + w L_mlm(target)``.
    The paper's ``lambda L_clf + (1 - lambda) L_mlm``, lambda the source's share of the batch, is
    that with w the number of target samples for each source sample, so 1 for batches of one size,
    up to a factor of the whole. There, the encoder has first gone through the target's texts with
    the second loss alone: the training setting ``self_supervised="mlm:STEPS"``.

    Its sum on held-out reviews may be watched instead of labels: the paper stops where it is
    lowest, and so does the training setting ``patience``.

    Fails where the target has few words that the encoder does not know already, or so few texts
    that they are learnt by heart.

    Args:
        mlm_weight: factor of the loss of the hidden words.
        share: of the words that are hidden.
    """

    setting = "text"
    needs_text = True
    needs_target_outputs = False
    needs_classes = False
    loss_tells = True
    space = {"mlm_weight": (0.1, 3.0, "log")}

    def __init__(self, network: Network, *, mlm_weight: float = 1.0, share: float = 0.15) -> None:
        super().__init__(network)
        from domadapt.hf.masked import MaskedLanguage, text_encoder_of

        self.mlm_weight = mlm_weight
        self.share = share
        encoder = text_encoder_of(network, self.name)
        self.language: MaskedLanguage = self.auxiliary(lambda: MaskedLanguage(encoder, share))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of the target's hidden words."""
        if not isinstance(batch.x_t, dict):
            raise DomadaptError("udalm needs tokens of target texts in every batch.")
        # By seed and progress, so that dropout draws the same numbers with and without this term.
        seed = (torch.initial_seed() * 1_000_003 + int(batch.progress * 2**40)) % 2**63
        generator = torch.Generator().manual_seed(seed)
        return {"mlm": self.language(batch.x_t, generator)}
