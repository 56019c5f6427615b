"""`Method`: one equation. The forward pass, the source loss and the sum exist once, here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt import ops
from domadapt.errors import DomadaptError
from domadapt.losses.regression import squared_error
from domadapt.network import Network
from domadapt.rows import Features
from domadapt.task import Batch, Inputs

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class BatchOutputs:
    """What the network says of a batch: features ``z (n, d)`` and logits ``(n, classes)``.

    In a regression the logits are predicted values ``(n, k)``, in the units of the labels.

    A part that was not computed (a method that needs no target, no strong view) is None; read it
    only where the method declared the need.
    """

    z_s: Tensor = None  # type: ignore[assignment]  # a declared need is always there
    z_t: Tensor = None  # type: ignore[assignment]
    logits_s: Tensor = None  # type: ignore[assignment]
    logits_t: Tensor = None  # type: ignore[assignment]
    z_s_strong: Tensor = None  # type: ignore[assignment]
    z_t_strong: Tensor = None  # type: ignore[assignment]
    logits_s_strong: Tensor = None  # type: ignore[assignment]
    logits_t_strong: Tensor = None  # type: ignore[assignment]
    #: Logits of the target samples that a person labelled, where a batch has some.
    logits_l: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """The sum that a step minimises, and the raw value and weight of each of its terms."""

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]


@dataclass(frozen=True)
class SourceView:
    """The network's word on ``source_val``: logits, features, and the true class ids."""

    logits: Tensor
    z: Tensor
    y: Tensor


@dataclass(frozen=True)
class TargetView:
    """What `Method.refresh` gets: the network's word on all of ``target_train``, in order.

    Evaluation mode, no augmentation, no labels: logits ``(n_t, classes)``, features ``(n_t, d)``.
    ``source_val`` is there for a method that sets `Method.needs_source_val`.
    """

    logits: Tensor
    z: Tensor
    source_val: SourceView | None = None


class Method(nn.Module):
    """An adaptation method: a network and one function to write, `terms`.

    Each step minimises ``source loss + sum of weight * term``. The weight of a term ``x`` is the
    attribute ``x_weight`` (1 where there is none), times ``ramps["x"](progress)`` where given.
    The keyword-only arguments of ``__init__`` are the configuration; each is stored under its
    name. All state is parameters and buffers, so that it is saved and resumed.
    """

    #: The registered name.
    name: str = ""
    #: What it is made for: "closed set", "partial", "multi-source", "label shift", "open set",
    #: "source-free", "test-time", "text" or "closed form".
    setting: str = "closed set"
    #: What the Trainer must provide, or refuse. A method that needs no source is *source-free*: the
    #: network it is given is already trained on the source, and there is no source loss.
    needs_source: bool = True
    needs_target: bool = True
    #: Whether a term reads what the network says of the target as it is; without, only the source
    #: passes, and the target's samples are the terms' own affair.
    needs_target_outputs: bool = True
    needs_strong: bool = False
    needs_batchnorm: bool = False
    #: Whether the inputs must be texts and the backbone an encoder of them.
    needs_text: bool = False
    #: Whether it reads class probabilities or class labels, and so cannot adapt a regression.
    needs_classes: bool = True
    #: Whether `refresh` is told of the source's validation split as well.
    needs_source_val: bool = False
    #: Whether anything is minimised; if not, batches only pass through the network.
    trains: bool = True
    #: Whether `fit_features` moves or weighs the rows once, before training; for vectors alone.
    closed_form: bool = False
    #: Whether `domadapt predict --online` may go on adapting with it, batch by batch.
    online: bool = False
    #: How often the method's own modules take a step of `critic_loss` before each ordinary one.
    critic_steps: int = 0
    #: How many source domains the task has; the Trainer sets it before `setup`.
    n_domains: int = 1
    #: Whether the target may have classes that the source lacks; set by the Trainer before `setup`.
    #: `adapted` then may return a network with one output more, "unknown" (`domadapt.open_set`).
    open_set: bool = False
    #: Schedules of weights, as functions of progress in [0, 1).
    ramps: ClassVar[Mapping[str, Callable[[float], float]]] = {}
    #: How many times over the run `refresh` is called, evenly spaced, the first at step 0.
    refreshes: int = 0
    #: Search ranges of the settings: name -> (low, high, "log" | "linear") or a list of choices.
    space: ClassVar[Mapping[str, Any]] = {}
    #: Whether BatchNorm sees both domains as one batch, whatever the setting says: where domains
    #: differ in their classes, apart each would lose what tells these by its own mean.
    joins_domains: bool = False
    #: Why no setting makes it equal to `source_only` (empty: all weights at 0 do).
    no_neutral: str = ""
    #: Why it cannot run on several processes (empty: it can).
    single_process: str = ""
    #: Whether the sum of its losses on held-out samples tells how good the network is, so that
    #: training may stop where it is lowest (the setting ``patience``).
    loss_tells: bool = False
    #: Whether it trains on its own confidence, which then says little about accuracy.
    trains_on_confidence: bool = False
    #: Whether BatchNorm sees source and target as one batch; the Trainer sets what is asked for,
    #: or "joint" where `joins_domains`.
    batch_statistics: Literal["joint", "separate"] = "separate"

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        #: Whether BatchNorm's rows can be told apart by domain in a joined batch; None: not tried.
        self._divisible: bool | None = None

    # To write ---------------------------------------------------------------------------------

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """What the method adds to the source loss: scalars by name, unweighted.

        A `closed_form` method has done its work before training and adds nothing by default.
        """
        if self.closed_form:
            return {}
        raise DomadaptError(f"{type(self).__name__} must define terms(out, batch).")

    # To override, seldom ----------------------------------------------------------------------

    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """Cross-entropy of the source logits; of measurements, see `label_loss`."""
        return self.label_loss(out.logits_s, labels(batch))

    def setup(self, n_source: int, n_target: int) -> None:
        """Make the buffers whose size depends on the data (memory banks, pseudo-labels)."""

    def fit_features(self, x_s: Tensor, y_s: Tensor, x_t: Tensor) -> Features:
        """Fit a `closed_form` method on the rows of ``source_train`` and ``target_train``.

        Called once, before the first step of a run, and not again where a run is resumed. What is
        returned is moved for it by the Trainer; weights of source rows it keeps itself.

        Args:
            x_s: source rows ``(n_s, d)``, after the network's normalisation.
            y_s: their class ids ``(n_s,)``; in a regression their values ``(n_s, k)``.
            x_t: target rows ``(n_t, d)``.
        """
        raise DomadaptError(
            f"{type(self).__name__} is closed_form, so it must define fit_features."
        )

    def refresh(self, target: TargetView, progress: float) -> None:
        """Renew state from an unaugmented, unlabelled pass over the target (see `refreshes`)."""

    def after_step(self, progress: float) -> None:
        """Update state after the optimiser's step (an averaged teacher)."""

    def critic_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        """What the method's own modules minimise in the `critic_steps`; `out` has no gradient."""
        raise DomadaptError(
            f"{type(self).__name__} has critic_steps, so it must define critic_loss."
        )

    def steps_for(self, asked: int, per_pass: int) -> int:
        """How many steps to take of those asked for; `per_pass` batches are one pass of target."""
        return asked

    def adapted(self) -> Network:
        """The network to keep at the end."""
        return self.network

    # Provided ---------------------------------------------------------------------------------

    def auxiliary(self, build: Callable[[], M]) -> M:
        """Build a module of the method's own (a discriminator) from its own random numbers.

        The network's numbers are then the same with and without it. ``network.n_features`` is the
        width of what it takes; a lazy module is refused.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((torch.initial_seed() * 1_000_003 + 17) % 2**63)
            module = build()
        if any(map(nn.parameter.is_lazy, module.parameters())):
            raise DomadaptError(
                f"The modules of a method need their sizes when they are built, and one of "
                f"{type(self).__name__} is lazy; network.n_features is the width of z, "
                "network.n_classes the number of classes."
            )
        return module

    def forward(self, batch: Batch) -> Losses:
        """The losses of one batch: a joint forward pass per view, then every term."""
        out = self.outputs(batch)
        return self.losses(out, batch)

    def losses(self, out: BatchOutputs, batch: Batch) -> Losses:
        """Source loss, terms, and their weighted sum (never a mean)."""
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        if self.needs_source:
            terms["source"] = self.source_loss(out, batch)
            weights["source"] = 1.0
        if batch.x_l is not None and batch.y_l is not None:
            logits = out.logits_l
            if logits is None:
                # A method with a forward pass of its own has not passed them through the network.
                with ops.kept_statistics(self.network):
                    logits = self.network(batch.x_l)
            terms["labelled"] = self.label_loss(logits, batch.y_l)
            weights["labelled"] = 1.0
        for name, value in self.terms(out, batch).items():
            terms[name] = value
            weights[name] = self.weight(name, batch.progress)
        total: Tensor | None = None
        for name, value in terms.items():
            part = value if weights[name] == 1.0 else weights[name] * value
            total = part if total is None else total + part
        if total is None:
            if self.trains:
                raise DomadaptError(f"The method {self.name!r} returned no term to minimise.")
            total = torch.zeros(())
        return Losses(total, terms, weights)

    def label_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy with class ids; with measurements ``(n, k)``, which are floating, the mean
        squared error in standard deviations of the source's.
        """
        if y.is_floating_point():
            return squared_error(logits, y, self.network.spread)
        return cross_entropy(logits, y)

    def weight(self, term: str, progress: float) -> float:
        """The weight of a term at this progress: its argument times its ramp."""
        weight = float(getattr(self, f"{term}_weight", 1.0))
        return weight * self.ramps[term](progress) if term in self.ramps else weight

    def outputs(self, batch: Batch) -> BatchOutputs:
        """The joint forward pass: weak views of both domains, then, if declared, strong ones."""
        x_t, n_l = batch.x_t, 0
        if not self.needs_target_outputs and batch.x_s is not None and batch.x_l is None:
            x_t = None
        if batch.x_l is not None and x_t is not None:
            # Labelled target samples pass with the others: BatchNorm knows two domains, not three.
            x_t, n_l = ops.join([x_t, batch.x_l]), ops.batch_size(batch.x_l)
        z_s, z_t, logits_s, logits_t = self._view(batch.x_s, x_t)
        logits_l = None
        if n_l:
            z_t, logits_t, logits_l = z_t[:-n_l], logits_t[:-n_l], logits_t[-n_l:]
        weak = BatchOutputs(z_s, z_t, logits_s, logits_t, logits_l=logits_l)
        if not self.needs_strong:
            return weak
        strong = self._view(batch.x_s_strong, batch.x_t_strong)
        return replace(
            weak,
            z_s_strong=strong[0],
            z_t_strong=strong[1],
            logits_s_strong=strong[2],
            logits_t_strong=strong[3],
        )

    def _view(self, x_s: Inputs | None, x_t: Inputs | None) -> tuple[Any, Any, Any, Any]:
        if x_s is None or x_t is None:
            z, logits = self._pass(x_s if x_t is None else x_t)  # type: ignore[arg-type]
            return (z, None, logits, None) if x_t is None else (None, z, None, logits)
        sizes = [ops.batch_size(x_s), ops.batch_size(x_t)]
        if self._joint or not ops.has_batchnorm(self.network):
            z, logits = self._pass(ops.join([x_s, x_t]))
        else:
            z, logits = self._apart(x_s, x_t, sizes)
        z_s, z_t = torch.split(z, sizes)
        logits_s, logits_t = torch.split(logits, sizes)
        return z_s, z_t, logits_s, logits_t

    @property
    def _joint(self) -> bool:
        return self.joins_domains or self.batch_statistics == "joint"

    def _pass(self, x: Inputs) -> tuple[Tensor, Tensor]:
        z = self.network.features(x)
        return z, self.network.head(z)

    def _apart(self, x_s: Inputs, x_t: Inputs, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """Features and logits of both domains, each with BatchNorm statistics of its own.

        In one pass where that is faster and the layers' rows can be told apart. One per domain is
        what a compiled backbone, whose layers cannot be reached, takes, a network that mixes its
        rows, and convolutions on a CPU, where the maps of the smaller batch stay in the cache.
        """
        if self._divisible is None and self._rather_apart():
            self._divisible = False
        if self._divisible is not False:
            first = ops.undone_on(ops.RowsError, self.network)
            try:
                with (
                    nullcontext() if self._divisible else first,
                    ops.statistics_by_domain(self.network, sizes),
                ):
                    found = self._pass(ops.join([x_s, x_t]))
                self._divisible = True
                return found
            except ops.RowsError:
                self._divisible = False
        z_s, logits_s = self._pass(x_s)
        z_t, logits_t = self._pass(x_t)
        return torch.cat([z_s, z_t]), torch.cat([logits_s, logits_t])

    def _rather_apart(self) -> bool:
        modules = list(self.network.modules())
        convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in modules)
        on_cpu = all(p.device.type == "cpu" for p in self.network.parameters())
        return self.network.backbone._compiled_call_impl is not None or (convolves and on_cpu)


def labels(batch: Batch) -> Tensor:
    """The source labels of a batch, which a method that needs the source always has."""
    if batch.y_s is None:
        raise DomadaptError("This batch has no source labels; the method must set needs_source.")
    return batch.y_s
