"""pytorch-adapt 0.0.83: hooks in a plain loop, the quickest of the ways in its documentation.

`train` sets what its settings allow to what domadapt does: sums instead of means of the losses,
half the weight for each domain's cross-entropy, reversal that ramps up, features alone aligned,
five kernels over all pairs, temperature 2.5, one fused optimiser over all networks where it has
one phase. `train_as_it_comes` leaves its defaults: means of the losses, no ramp, features and
probabilities aligned, one kernel over pairs of neighbours in linear time, temperature 1, a weight
of 1 for the covariances, an optimiser for each network.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import TensorDataset

with warnings.catch_warnings():
    # Its torchmetrics imports pkg_resources, which warns that it will go.
    warnings.simplefilter("ignore")
    from pytorch_adapt.datasets import (
        CombinedSourceAndTargetDataset,
        DataloaderCreator,
        SourceDataset,
        TargetDataset,
    )
    from pytorch_adapt.hooks import (
        AlignerHook,
        AlignerPlusCHook,
        CDANEHook,
        CDANHook,
        ClassifierHook,
        DANNHook,
        GradientReversalHook,
        MCCHook,
    )
    from pytorch_adapt.layers import CORALLoss, MCCLoss, MMDLoss, RandomizedDotProduct
    from pytorch_adapt.weighters import SumWeighter

from domadapt.network import Network
from domadapt.ops import ramp
from peers.job import CORAL_WEIGHT, TEMPERATURE, Job, Outer

#: What a step needs: hook, networks, optimisers, and what is told of the progress.
Parts = tuple[Any, dict[str, Any], list[torch.optim.Optimizer], Callable[[float], None]]


def divided(job: Job) -> dict[str, Any]:
    whole = job.network
    g = nn.Sequential(whole.normalize, whole.backbone, whole.bottleneck)
    return {"G": g, "C": whole.head}


def make_loader(job: Job) -> Iterable[Any]:
    np.random.seed(job.training.seed)  # noqa: NPY002 - its sampler draws from this one
    source = SourceDataset(TensorDataset(job.x_s, job.y_s))
    target = TargetDataset(job.x_t)
    both = CombinedSourceAndTargetDataset(source, target)
    loader: Iterable[Any] = DataloaderCreator(batch_size=job.training.batch_size)(train=both)[
        "train"
    ]
    return loader


def optimizer_of(job: Job, *modules: nn.Module) -> torch.optim.Optimizer:
    parameters = itertools.chain(*(m.parameters() for m in modules))
    return torch.optim.AdamW(parameters, lr=job.training.lr, weight_decay=0.0, fused=True)


def still(progress: float) -> None:
    """Nothing changes with the progress."""


def dann(job: Job) -> Parts:
    models = {**divided(job), "D": job.discriminator}
    optimizers = [optimizer_of(job, *models.values())]
    features = ["src_imgs_features", "target_imgs_features"]
    reversal = GradientReversalHook(weight=1.0, apply_to=features)
    weighter = SumWeighter(weights={"src_domain_loss": 0.5, "target_domain_loss": 0.5})
    hook = DANNHook(optimizers, weighter=weighter, gradient_reversal=reversal)
    return hook, models, optimizers, lambda p: reversal.fn.update_weight(ramp(p))


def combiner_of(job: Job, width: int) -> nn.Module:
    n, c = job.network.n_features, job.network.n_classes
    return Outer() if width == n * c else RandomizedDotProduct([n, c], width)


def cdan(job: Job) -> Parts:
    discriminator = job.discriminator
    combiner = combiner_of(job, discriminator.layers[0].in_features)
    models = {**divided(job), "D": discriminator, "feature_combiner": combiner}
    d_opts = [optimizer_of(job, discriminator)]
    g_opts = [optimizer_of(job, models["G"], models["C"])]
    d_weighter = SumWeighter(weights={"d_src_domain_loss": 0.5, "d_target_domain_loss": 0.5})
    g_weighter = SumWeighter(weights={"g_src_domain_loss": 0.0, "g_target_domain_loss": 0.0})
    kind = CDANEHook if job.method == "cdan+e" else CDANHook
    hook = kind(d_opts=d_opts, g_opts=g_opts, d_weighter=d_weighter, g_weighter=g_weighter)

    def on_progress(p: float) -> None:
        g_weighter.weights = dict.fromkeys(g_weighter.weights, 0.5 * ramp(p))

    return hook, models, d_opts + g_opts, on_progress


def aligned(job: Job, loss_fn: nn.Module, weight: float) -> Parts:
    models = divided(job)
    optimizers = [optimizer_of(job, *models.values())]
    weighter = SumWeighter(weights={"features_confusion_loss": weight})
    hook = AlignerPlusCHook(optimizers, weighter=weighter, aligner_hook=AlignerHook(loss_fn))
    return hook, models, optimizers, still


def dan(job: Job) -> Parts:
    scales = 2.0 ** torch.arange(-2, 3)
    return aligned(job, MMDLoss(kernel_scales=scales, mmd_type="quadratic"), 1.0)


def deep_coral(job: Job) -> Parts:
    return aligned(job, CORALLoss(), CORAL_WEIGHT)


def mcc(job: Job) -> Parts:
    models = divided(job)
    optimizers = [optimizer_of(job, *models.values())]
    post = [MCCHook(loss_fn=MCCLoss(T=TEMPERATURE))]
    hook = ClassifierHook(optimizers, weighter=SumWeighter(), post=post)
    return hook, models, optimizers, still


def loop(job: Job, parts: Parts) -> Network:
    hook, models, optimizers, on_progress = parts
    loader, steps, step = make_loader(job), job.training.steps, 0
    schedulers = [CosineAnnealingLR(o, steps) for o in optimizers]
    while step < steps:
        for batch in job.turn.watch(loader):
            on_progress(step / steps)
            hook({**models, **batch})
            for scheduler in schedulers:
                scheduler.step()
            step += 1
            if step == steps:
                break
    return job.network


METHOD = {"dann": dann, "cdan": cdan, "cdan+e": cdan, "dan": dan, "mcc": mcc}
METHOD["deep_coral"] = deep_coral


def train(job: Job) -> Network:
    return loop(job, METHOD[job.method](job))


def train_contiguous(job: Job) -> Network:
    """The network in the layout that it is made in; see the head of `compare.py`."""
    job.network.to(memory_format=torch.contiguous_format)
    return train(job)


def train_as_it_comes(job: Job) -> Network:
    models = divided(job)
    if job.method in ("dann", "cdan", "cdan+e"):
        models["D"] = job.discriminator
    optimizers = [optimizer_of(job, m) for m in models.values()]
    if job.method == "dann":
        hook = DANNHook(optimizers)
    elif job.method in ("cdan", "cdan+e"):
        models["feature_combiner"] = combiner_of(job, models["D"].layers[0].in_features)
        kind = CDANEHook if job.method == "cdan+e" else CDANHook
        hook = kind(d_opts=optimizers[2:], g_opts=optimizers[:2])
    elif job.method == "mcc":
        hook = ClassifierHook(optimizers, post=[MCCHook()])
    else:
        hook = AlignerPlusCHook(
            optimizers, loss_fn=MMDLoss() if job.method == "dan" else CORALLoss()
        )
    return loop(job, (hook, models, optimizers, still))


_ALWAYS = (divided, make_loader, optimizer_of, loop)
CODE = {
    "dann": (*_ALWAYS, dann),
    "cdan": (*_ALWAYS, Outer, combiner_of, cdan),
    "cdan+e": (*_ALWAYS, Outer, combiner_of, cdan),
    "dan": (*_ALWAYS, aligned, dan),
    "mcc": (*_ALWAYS, mcc),
    "deep_coral": (*_ALWAYS, aligned, deep_coral),
}
