"""`Training`: the settings of a run, the same for every method that is compared."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from domadapt.errors import DomadaptError
from domadapt.strategies.spec import read_self_supervised, read_strategy

#: The slanted triangle: the share of the run that rises, and the highest rate over the lowest.
RISE, RATIO = 0.1, 32.0


@dataclass(frozen=True)
class Training:
    """The settings of a training run, the same for every method that is compared.

    Attributes:
        steps: optimiser steps.
        batch_size: samples of each domain per step and process.
        target_batch_size: where the target's differs; None takes `batch_size`.
        optimizer: AdamW, or SGD with Nesterov momentum.
        lr: learning rate of the backbone at its highest.
        head_lr_multiple: factor on it for head, bottleneck, adapters, low-rank updates and the
            method's own modules.
        weight_decay: decoupled (adamw) or L2 (sgd), on matrices and filters only.
        momentum: of SGD.
        schedule: over progress p: "constant"; "cosine" (to 0); "inverse", (1 + 10 p)^-0.75 as in
            Ganin and Lempitsky (2015); "slanted", a steep rise over a tenth of the run and a long
            fall to a 32nd (Howard and Ruder, 2018, arXiv:1801.06146).
        warmup: share of the run over which the rate rises linearly.
        finetune: which parameters train, when and how fast: full, feature_extraction, partial:K
            (the last K blocks), lp_ft (the head alone first), gradual (block after block from the
            top), bitfit, adapters:WIDTH, lora:RANK; with +discriminative, +layer_decay:RATE or
            +l2_sp; or ulmfit. See `domadapt list strategies`.
        self_supervised: train the backbone on unlabelled target samples first: simclr:STEPS or
            reconstruction:STEPS on images, mlm:STEPS (hidden words) on texts; none does not.
        clip: largest norm of the network's gradient, and, apart from it, of the method's own
            modules; None does not clip.
        accumulate: batches whose gradients are averaged into one step.
        precision: "no", "bf16" or "fp16" mixed precision.
        sam: radius of sharpness-aware minimisation of the source loss (SDAT, Rangwani et al., 2022,
            arXiv:2206.08213), with any method; a second pass per step. 0: none; 0.02 is usual.
        ema: keep the running average of the weights with this decay instead of the last ones, with
            any method. 0: none; 0.999 is usual.
        balance: draw the batches with every class equally often: those of the source by label,
            those of the target by pseudo-labels that are renewed ten times a run (Garg et al.,
            2023, arXiv:2302.03020).
        patience: stop where the method's losses on held-out samples have not fallen for so many
            twentieths of the run, and keep the network of the lowest (`domadapt.stopping`); for
            methods whose losses tell, such as source_only and udalm. 0: train to the last step and
            keep that.
        batch_statistics: whether BatchNorm normalises each domain by its own batch ("separate",
            as if each had a forward pass of its own) or both as one batch ("joint"). Methods for
            domains that differ in their classes (pada, iwan), and adamatch, always take one batch.
        workers: processes that prepare batches; they change speed only.
        channels_last: train image networks in the memory format that convolutions like best; on a
            CPU a small one takes a third less time. Results differ in rounding.
        compile: compile the backbone with torch.compile.
        checkpoint_every: steps between checkpoints (0: none).
        log_every: steps between two points of the learning curves and checks for NaN.
        device: "auto", "cpu" or "cuda".
        seed: of weights, order, augmentation and dropout.
    """

    steps: int = 1000
    batch_size: int = 64
    target_batch_size: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr_multiple: float = 1.0
    weight_decay: float = 1e-2
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "inverse", "slanted"] = "cosine"
    warmup: float = 0.0
    finetune: str = "full"
    self_supervised: str = "none"
    clip: float | None = None
    accumulate: int = 1
    sam: float = 0.0
    ema: float = 0.0
    balance: bool = False
    patience: int = 0
    precision: Literal["no", "bf16", "fp16"] = "no"
    batch_statistics: Literal["joint", "separate"] = "separate"
    workers: int = 0
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: int = 250
    log_every: int = 25
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise DomadaptError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.target_batch_size is not None and self.target_batch_size < 1:
            raise DomadaptError(
                f"target_batch_size must be at least 1; got {self.target_batch_size}."
            )
        for name in ("lr", "head_lr_multiple", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise DomadaptError(f"{name} must be above 0; got {value}.")
        if not 0 <= self.ema < 1:
            raise DomadaptError(f"ema must lie in [0, 1); got {self.ema}.")
        whole = ("workers", "checkpoint_every", "seed", "patience")
        for name in ("weight_decay", "warmup", "sam", *whole):
            if not getattr(self, name) >= 0:
                raise DomadaptError(f"{name} must not be negative; got {getattr(self, name)}.")
        read_strategy(self.finetune)
        read_self_supervised(self.self_supervised)

    def lr_factor(self, progress: float, schedule: str | None = None) -> float:
        """The factor on every learning rate, a function of step / steps.

        `schedule` is another one than that of the settings.
        """
        schedule = schedule or self.schedule
        if progress < self.warmup:
            return (progress + 1 / self.steps) / (self.warmup + 1 / self.steps)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if schedule == "inverse":
            return float((1 + 10 * progress) ** -0.75)
        if schedule == "slanted":
            height = progress / RISE if progress < RISE else (1 - progress) / (1 - RISE)
            return (1 + height * (RATIO - 1)) / RATIO
        return 1.0

    def asked(self) -> dict[str, Any]:
        """All settings as plain values for a hash.

        Settings that came later are left out where they change nothing: what was trained before
        there were any is known again.
        """
        later = (("finetune", "full"), ("self_supervised", "none"), ("patience", 0))
        return {k: v for k, v in asdict(self).items() if (k, v) not in later}
