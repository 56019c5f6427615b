"""Self-supervised training of a backbone on unlabelled target samples, before anything else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from domadapt import checkpoint
from domadapt.batches import Order, generator
from domadapt.data.views import Views
from domadapt.errors import DomadaptError
from domadapt.losses.contrastive import nt_xent
from domadapt.network import Network
from domadapt.strategies.spec import read_self_supervised
from domadapt.task import Inputs, Raw, Task
from domadapt.training import Training

#: Temperature and width of SimCLR's projection, as in the paper for small images.
TEMPERATURE, PROJECTION = 0.5, 128
#: Side that images are averaged to before they are reconstructed.
SIDE = 16
_ORDER, _FIRST, _SECOND = 101, 102, 103


def check_self_supervised(training: Training, task: Task, network: Network) -> None:
    """Refuse what the task or the network is not for.

    Raises:
        DomadaptError: the data are no images, the backbone has nothing to train, or a batch holds
            too few views to contrast.
    """
    kind, _ = read_self_supervised(training.self_supervised)
    if kind == "none":
        return
    wanted = {"text": "mlm", "image": "simclr or reconstruction"}.get(task.kind)
    if wanted is None or kind not in wanted:
        raise DomadaptError(
            f"Self-supervised training is for images (simclr, reconstruction) and texts (mlm), and "
            f"{task.name} has data of kind {task.kind!r}; "
            + ("leave --self-supervised out." if wanted is None else f"choose {wanted}.")
        )
    if not any(True for _ in network.backbone.parameters()):
        raise DomadaptError(
            "Self-supervised training needs a backbone that trains, and this one has no "
            "parameters; leave out --self-supervised, or --freeze where it is given."
        )
    size = min(training.batch_size, len(task.target_train))
    if kind == "simclr" and size < 2:
        raise DomadaptError(
            f"SimCLR contrasts samples of a batch, which must hold at least 2; got {size}."
        )
    if kind == "mlm":
        from domadapt.hf.masked import masking_of, text_encoder_of

        masking_of(text_encoder_of(network, "Masked language modelling (mlm)"))


def self_supervised(network: Network, task: Task, views: Views, training: Training) -> list[float]:
    """Train the backbone on ``target_train`` without any label, in place; head and bottleneck stay.

    Returns the loss of each step.

    "simclr": two strongly augmented views of each image attract each other and repel all other
    images of the batch (`nt_xent`), over a projection that is thrown away (Chen et al., 2020,
    arXiv:2002.05709). "reconstruction": from the features of a strongly augmented view a linear
    layer predicts the image itself, averaged to at most 16 x 16 pixels (a denoising auto-encoder;
    Vincent et al., 2008, doi:10.1145/1390156.1390294). "mlm": hidden words of texts are guessed
    (`domadapt.hf.masked.MaskedLanguage`); on the texts of the task this is the task-adaptive
    pre-training of Gururangan et al. (2020, arXiv:2004.10964), on many more texts of its domain the
    domain-adaptive one, and the first half of UDALM. The optimiser and its rate are those of the
    training that follows, with a cosine schedule; SimCLR's large batches and LARS are not here.

    Args:
        network: with the weights that it starts from.
        task: target labels are not reachable from it.
        views: how raw samples become inputs.
        training: its `self_supervised` says what and for how many steps.
    """
    kind, steps = read_self_supervised(training.self_supervised)
    check_self_supervised(training, task, network)
    losses: list[Tensor] = []
    if kind == "none":
        return []
    split, seed = task.target_train, training.seed
    size = min(training.batch_size, len(split))
    order = Order(len(split), seed, _ORDER)
    cuda = torch.cuda.is_available() and training.device != "cpu"
    place = torch.device("cuda" if cuda else "cpu")
    with torch.random.fork_rng(devices=[place] if cuda else []):
        torch.manual_seed(seed + 104_729)
        network.to(place).train()
        top = _top(kind, network, views.evaluation(split.fetch([0, 1])), place).to(place)
        optimizer = _optimizer(network.backbone, top, training)
        for step in range(steps):
            for group in optimizer.param_groups:
                factor = 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = group["initial_lr"] * factor
            raw = split.fetch(order.part(step, size))
            loss = _loss(kind, network, top, views, raw, (seed, step), place)
            losses.append(loss.detach())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        if not torch.isfinite(losses[-1]):
            raise DomadaptError(
                f"Self-supervised training diverged; lower the learning rate (now {training.lr:g})."
            )
    network.cpu()
    found: list[float] = torch.stack(losses).tolist()
    return found


def begun(
    network: Network, task: Task, views: Views, training: Training, path: Path | None
) -> Network:
    """The network after its self-supervised training, which all candidates of a run share.

    With a `path` it is done once: the weights are kept there, whole or not at all.
    """
    if read_self_supervised(training.self_supervised)[0] == "none":
        return network
    if path is None or not path.exists():
        self_supervised(network, task, views, training)
        if path is not None:
            checkpoint.save_tensors(path, checkpoint.module_state(network.backbone), {})
        return network
    state, _ = checkpoint.load_tensors(path)
    checkpoint.load_module_state(network.backbone, state, path)
    return network


def _loss(
    kind: str,
    network: Network,
    top: nn.Module,
    views: Views,
    raw: Raw,
    when: tuple[int, int],
    place: torch.device,
) -> Tensor:
    """The loss of a batch; `when` is seed and step, which decide what is drawn."""
    first, second = (generator(when[0], stream, when[1]) for stream in (_FIRST, _SECOND))
    if kind == "mlm":
        tokens = views.evaluation(raw)
        assert isinstance(tokens, dict)
        hidden: Tensor = top({k: v.to(place) for k, v in tokens.items()}, first)
        return hidden
    z = top(_features(network, _tensor(views.strong(raw, first), place)))
    if kind == "simclr":
        other = _tensor(views.strong(raw, second), place)
        return nt_xent(z, top(_features(network, other)), TEMPERATURE)
    x = network.normalize(_tensor(views.evaluation(raw), place))
    return mse_loss(z, _small(x).flatten(1))


def _features(network: Network, x: Tensor) -> Tensor:
    z: Tensor = network.backbone(network.normalize(x))
    return z.flatten(2).mean(2) if z.ndim > 2 else z


@torch.no_grad()
def _width(network: Network, example: Inputs, place: torch.device) -> int:
    network.eval()
    width = _features(network, _tensor(example, place)).shape[1]
    network.train()
    return width


def _tensor(x: Inputs, place: torch.device) -> Tensor:
    assert isinstance(x, Tensor)
    return x.to(place)


def _small(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return adaptive_avg_pool2d(x, (min(SIDE, height), min(SIDE, width)))


def _top(kind: str, network: Network, example: Inputs, place: torch.device) -> nn.Module:
    """The layers over the backbone that are thrown away afterwards."""
    if kind == "mlm":
        from domadapt.hf.masked import MaskedLanguage, text_encoder_of

        return MaskedLanguage(text_encoder_of(network, kind))
    width = _width(network, example, place)
    if kind == "simclr":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
    assert isinstance(example, Tensor)
    return nn.Linear(width, _small(example).flatten(1).shape[1])


def _optimizer(backbone: nn.Module, top: nn.Module, training: Training) -> torch.optim.Optimizer:
    rates = (training.lr, training.lr * training.head_lr_multiple)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": lr, "initial_lr": lr}
        for module, lr in zip((backbone, top), rates, strict=True)
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    return torch.optim.SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)
