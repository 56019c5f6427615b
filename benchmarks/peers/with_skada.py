"""skada 0.6.0: its estimators, which train with skorch.

Set to what domadapt does where it has a setting: the weights of the losses, the ramp of the
reversal, the temperature. Its own: the kernels of DAN (33, of the distance, not its square).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skada.deep import CDAN, DAN, DANN, MCC, DeepCoral
from skada.deep._adversarial import CDANModule
from skada.deep.modules import GradientReversalLayer
from skorch.callbacks import Callback, LRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from domadapt.network import Network
from domadapt.ops import ramp
from peers.job import CORAL_WEIGHT, TEMPERATURE, Job, Outer

#: The number of kernels that DAN adds up, where domadapt takes the mean of its own.
KERNELS = 33


class Judge(nn.Module):
    """In place of its domain classifier, which ends in a softmax of one number: always 1."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.alpha = 0.0

    def forward(self, z: Tensor, sample_weight: Tensor | None = None) -> Any:
        return self.discriminator(GradientReversalLayer.apply(z, self.alpha))


class SoftmaxCDANModule(CDANModule):  # type: ignore[misc]
    """Probabilities in place of raw logits, none of the gradient through them, and one projection
    for the run instead of one that each step draws from the global generator, set back to 42.
    """

    def __init__(self, combiner: nn.Module, **more: Any) -> None:
        super().__init__(**more)
        self.combiner = combiner

    def forward(self, X: Tensor, sample_domain: Any = None, **more: Any) -> Any:
        logits = self.base_module_(X)
        if not self.training:
            return logits
        z = self.intermediate_layers[self.layer_name]
        joint = self.combiner(z, logits.detach().softmax(1))
        return logits, self.domain_classifier_(joint), z, sample_domain, None


class Ramp(Callback):  # type: ignore[misc]
    def __init__(self, judge: Judge, steps: int) -> None:
        self.judge, self.steps, self.step = judge, steps, 0

    def on_batch_begin(self, net: Any, **more: Any) -> None:
        self.judge.alpha = ramp(self.step / self.steps)
        self.step += 1


class Watched(Callback):  # type: ignore[misc]
    """Counts steps for the driver, and ends training after the last: skorch counts epochs."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def on_train_begin(self, net: Any, **more: Any) -> None:
        self.since = self.job.turn.now()

    def on_batch_begin(self, net: Any, **more: Any) -> None:
        self.job.turn.loaded(self.since)

    def on_batch_end(self, net: Any, **more: Any) -> None:
        self.job.turn.count()
        if self.job.turn.steps == self.job.training.steps:
            raise KeyboardInterrupt
        self.since = self.job.turn.now()


def adversarial(job: Job) -> tuple[dict[str, Any], list[Callback]]:
    judge = Judge(job.discriminator)
    how = {"domain_classifier": judge, "domain_criterion": nn.BCEWithLogitsLoss(), "reg": 0.5}
    return how, [Ramp(judge, job.training.steps)]


def common(job: Job, callbacks: list[Callback]) -> dict[str, Any]:
    training = job.training
    cosine = LRScheduler(CosineAnnealingLR, T_max=training.steps, step_every="batch")
    return {
        "module": job.network,
        "layer_name": "bottleneck",
        "optimizer": torch.optim.AdamW,
        "optimizer__weight_decay": 0.0,
        "optimizer__fused": True,
        "lr": training.lr,
        "batch_size": training.batch_size,
        "max_epochs": training.steps,
        "train_split": None,
        "verbose": 0,
        "callbacks": [*callbacks, cosine, Watched(job)],
    }


def dann(job: Job) -> Any:
    how, callbacks = adversarial(job)
    return DANN(**how, **common(job, callbacks))


def cdan(job: Job) -> Any:
    how, callbacks = adversarial(job)
    net = CDAN(**how, **common(job, callbacks), module__combiner=job.combiner)
    return net.set_params(module=SoftmaxCDANModule)


def dan(job: Job) -> Any:
    return DAN(reg=1.0 / KERNELS, **common(job, []))


def mcc(job: Job) -> Any:
    return MCC(T=TEMPERATURE, **common(job, []))


def deep_coral(job: Job) -> Any:
    return DeepCoral(reg=CORAL_WEIGHT, **common(job, []))


METHOD = {"dann": dann, "cdan": cdan, "dan": dan, "mcc": mcc, "deep_coral": deep_coral}


def train(job: Job) -> Network:
    net = METHOD[job.method](job)
    x = np.concatenate([job.x_s.numpy(), job.x_t.numpy()])
    y = np.concatenate([job.y_s.numpy(), np.full(len(job.x_t), -1)])
    sample_domain = np.concatenate([np.full(len(job.x_s), 1), np.full(len(job.x_t), -2)])
    net.fit(x, y, sample_domain=sample_domain)
    return job.network


_ALWAYS = (common, train)
CODE = {
    "dann": (*_ALWAYS, Judge, Ramp, adversarial, dann),
    "cdan": (*_ALWAYS, Judge, Ramp, adversarial, Outer, SoftmaxCDANModule, cdan),
    "dan": (*_ALWAYS, dan),
    "mcc": (*_ALWAYS, mcc),
    "deep_coral": (*_ALWAYS, deep_coral),
}
