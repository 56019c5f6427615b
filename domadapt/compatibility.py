"""What a method, a task, settings and processes must be to each other; one sentence where not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.methods import Method, method_class, method_names
from domadapt.settings import settings_of
from domadapt.strategies.spec import read_strategy
from domadapt.task import Task
from domadapt.training import Training


def check_together(
    method: Method, task: Task, training: Training, processes: int, fp16: bool
) -> None:
    """Refuse what cannot be trained.

    Args:
        method: the method, with its network.
        task: what it is to learn from.
        training: the settings.
        processes: how many train together.
        fp16: whether losses are scaled, as that precision asks for.

    Raises:
        DomadaptError: two of these do not go together; it says which and what to do.
    """
    if task.regression and method.needs_classes:
        able = ", ".join(n for n in method_names() if not method_class(n).needs_classes)
        raise DomadaptError(
            f"{method.name} needs classes, and the labels of this task are measurements; "
            f"choose one of {able}."
        )
    if task.regression and training.balance:
        raise DomadaptError("balance is for classes, and this is a regression; leave it out.")
    if training.sam and not method.needs_source:
        raise DomadaptError(
            f"sam acts on the source loss, and {method.name} has none; leave it out."
        )
    if training.patience and training.ema:
        raise DomadaptError(
            "patience and ema each keep a network of their own at the end; leave one out."
        )
    if training.ema and method.adapted() is not method.network:
        raise DomadaptError(
            f"{method.name} already keeps a network of its own at the end; leave ema out."
        )
    if method.critic_steps and fp16:
        raise DomadaptError(
            f"{method.name} trains its critic apart, which fp16 does not allow; use bf16."
        )
    _check_norms(method, training)
    if processes > 1:
        _check_processes(method, training, processes)


def _check_norms(method: Method, training: Training) -> None:
    normalised = any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.network.modules()
    )
    if normalised and training.batch_size < 2:
        raise DomadaptError(
            "batch_size must be at least 2: the network has BatchNorm layers, and one sample "
            "has no spread."
        )
    if method.needs_batchnorm and not normalised:
        raise DomadaptError(
            f"{method.name} needs BatchNorm layers in the network, and it has none; "
            "choose another backbone or method."
        )


def _check_processes(method: Method, training: Training, processes: int) -> None:
    if method.single_process:
        raise DomadaptError(
            f"{method.name} cannot run on {processes} processes: {method.single_process}"
        )
    if training.patience:
        raise DomadaptError(
            "patience looks at the network on the way, which several processes cannot follow; "
            "use one, or leave it out."
        )
    if method.trains and read_strategy(training.finetune).phased:
        raise DomadaptError(
            f"The strategy {training.finetune} changes what trains during the run, which "
            "several processes cannot follow; use one, or choose another strategy."
        )


def check_terms(method: Method, terms: Any) -> None:
    """Refuse what `Method.terms` must not return.

    Raises:
        DomadaptError: it is something else than scalars by name, or a setting ``x_weight`` has no
            term ``x`` to weight.
    """
    if not isinstance(terms, dict) or not all(
        isinstance(v, Tensor) and v.ndim == 0 for v in terms.values()
    ):
        raise DomadaptError(
            f"terms() of {method.name} must return a dictionary of scalar tensors by name; got "
            f"{_shapes(terms)}."
        )
    if "source" in terms:
        raise DomadaptError(
            f"terms() of {method.name} must not call a term 'source', which is the name of the "
            "source loss; choose another name, or override source_loss."
        )
    known = {*terms, *(n.removesuffix("_weight") for n in settings_of(type(method)))}
    strange = sorted(set(method.ramps) - known)
    if strange:
        raise DomadaptError(
            f"The ramps of {method.name} name the term {strange[0]!r}, and terms() returned "
            f"{', '.join(map(repr, terms)) or 'none'}; give both one name."
        )
    weights = [n for n in settings_of(type(method)) if n.endswith("_weight")]
    idle = [n for n in weights if n.removesuffix("_weight") not in terms]
    unweighted = [t for t in terms if f"{t}_weight" not in weights]
    if idle and unweighted:
        raise DomadaptError(
            f"The setting {idle[0]} of {method.name} weights a term "
            f"{idle[0].removesuffix('_weight')!r}, and terms() returned "
            f"{', '.join(map(repr, unweighted))}; give both one name."
        )


def _shapes(value: Any) -> str:
    if not isinstance(value, dict):
        return type(value).__name__
    return ", ".join(
        f"{k!r}: {tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__}"
        for k, v in value.items()
    )
