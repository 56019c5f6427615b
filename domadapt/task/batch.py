"""`Batch`: the data of one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.task.domain import Inputs


class NoTargetLabels(DomadaptError, AttributeError):
    """A method asked a batch for labels of the target."""


@dataclass(frozen=True)
class Batch:
    """One step's data. There is no ``y_t``: no method can cheat.

    ``x`` is a tensor or a dictionary of tensors; source and target sizes may differ. A part that
    the method did not ask for is None.

    Attributes:
        x_s: source inputs. y_s: their class ids ``(n_s,)``, or, of a regression, float32 values
            ``(n_s, k)``. x_t: target inputs.
        progress: step / total steps, in [0, 1).
        x_s_strong, x_t_strong: strongly augmented views of the same samples.
        index_s, index_t: positions within ``source_train`` and ``target_train``.
        domain_s: which source domain each source sample comes from.
        x_l, y_l: target samples that a person labelled, declared as such.
    """

    x_s: Inputs | None
    y_s: Tensor | None
    x_t: Inputs | None
    progress: float
    x_s_strong: Inputs | None = None
    x_t_strong: Inputs | None = None
    index_s: Tensor | None = None
    index_t: Tensor | None = None
    domain_s: Tensor | None = None
    x_l: Inputs | None = None
    y_l: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        # Only called for what a batch has not got.
        if name == "y_t":
            raise NoTargetLabels(
                "A batch has no y_t: no method is given labels of the target. It may use x_t, what "
                "the network says of it (out.logits_t, out.z_t), and the few target samples that "
                "were declared as labelled (x_l, y_l)."
            )
        raise AttributeError(f"A batch has no {name!r}; it has {', '.join(self.__match_args__)}.")

    def map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `f` applied to every tensor in it."""

        def over(value: Any) -> Any:
            if isinstance(value, Tensor):
                return f(value)
            return {k: f(v) for k, v in value.items()} if isinstance(value, Mapping) else value

        fields = dataclasses.fields(self)
        return Batch(**{field.name: over(getattr(self, field.name)) for field in fields})

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self.map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (the data loader calls this)."""
        return self.map(lambda t: t.pin_memory())
