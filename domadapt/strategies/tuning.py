"""A strategy at work: what of a network trains at a step, how fast, and what stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.losses.starting_point import l2_sp
from domadapt.network import Network
from domadapt.strategies.adapters import adapter_modules, insert_adapters, is_adapted
from domadapt.strategies.depth import Depths, depths
from domadapt.strategies.lora import has_lora, insert_lora
from domadapt.strategies.spec import Strategy, read_strategy
from domadapt.task import Inputs
from domadapt.training import Training

#: Strength of L2-SP's pull of new layers to 0, as in the paper.
BETA = 0.01
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class Phase:
    """Part of a run: its first step, and the ``id`` of every parameter of the network that trains.

    `frozen` are the largest modules of which nothing trains, and those that copies of the network
    have in their places.
    """

    first: int
    trained: frozenset[int]
    frozen: tuple[nn.Module, ...]


def prepare(network: Network, finetune: str, example: Inputs, seed: int) -> Network:
    """Put the modules of a strategy into a network, in place; most have none. Returns the network.

    Args:
        network: with the weights that it starts from.
        finetune: the strategy (`domadapt.strategies.spec`).
        example: a small batch of inputs.
        seed: of the new weights.
    """
    strategy = read_strategy(finetune)
    if strategy.base == "adapters":
        insert_adapters(network, example, int(strategy.amount), seed)
    elif strategy.base == "lora":
        insert_lora(network, int(strategy.amount), seed)
    return network


class Tuning:
    """A strategy for one network and a run of so many steps.

    What does not train has no gradient and no optimiser state, and a module of which nothing
    trains is in evaluation mode: its dropout is off and its BatchNorm keeps its running statistics,
    so that it is the same function, bit for bit, whatever passes through it. A BatchNorm layer of
    which only the bias trains (bitfit) works as usual.

    Parameters that a method froze itself stay frozen; modules of the method's own always train.

    Where it departs from the papers: phases are shares of the run instead of epochs, or of training
    to convergence. LP-FT (Kumar et al., 2022, arXiv:2202.10054) tunes with the same settings in
    both phases, each with the whole schedule, the optimiser's state of the head going on. ULMFiT's
    gradual unfreezing (Howard and Ruder, 2018, arXiv:1801.06146) adds a block every equal part of
    the first half of the run. L2-SP (Li et al., 2018, arXiv:1802.01483) is part of the loss, biases
    of the backbone included, also where the optimiser is Adam. BitFit (Ben Zaken et al., 2022,
    arXiv:2106.10199) counts the shifts of normalisation layers among the biases.
    """

    def __init__(
        self,
        network: Network,
        training: Training,
        steps: int,
        name: str = "it",
        copies: Sequence[Network] = (),
    ) -> None:
        """A strategy for a run.

        Args:
            network: the method's network before training.
            training: the settings.
            steps: of the run.
            name: of the method.
            copies: networks of the same form that the method keeps beside it (a teacher).

        Raises:
            DomadaptError: the network lacks what the strategy is about, or nothing would train.
        """
        self.network, self.training, self.steps = network, training, steps
        self.copies = tuple(copies)
        low_rank = [p for n, p in network.backbone.named_parameters() if "lora_" in n]
        adapters = [p for m in adapter_modules(network) for p in m.parameters()]
        self._inserted = {id(p) for p in (*low_rank, *adapters)}
        self.strategy = read_strategy(training.finetune)
        self.depths = depths(network)
        _check(network, self.strategy, self.depths)
        self.able = {id(p) for p in network.parameters() if p.requires_grad}
        self.phases = [
            Phase(first, trained, tuple(_frozen(network, trained, copies)))
            for first, trained in self._phases()
        ]
        for phase in self.phases:
            if self.able and not phase.trained:
                raise DomadaptError(
                    f"{name} keeps as it is all that the strategy {self.strategy.text} would train "
                    f"from step {phase.first} on; choose another strategy, such as full."
                )
        self.phase = self.phases[0]
        self._starts: list[tuple[Tensor, Tensor]] = []
        self._modes: list[tuple[nn.Module, bool]] = []

    def _phases(self) -> list[tuple[int, frozenset[int]]]:
        strategy, of, top = self.strategy, self.depths.of, self.depths.top

        def above(depth: int) -> frozenset[int]:
            return frozenset(i for i in self.able if of[i] >= depth)

        if strategy.base == "lp_ft":
            return [(0, above(top)), (self._step(strategy.amount), above(0))]
        if strategy.base == "gradual":
            lowest = 0 if any(of[i] == 0 for i in self.able) else 1
            last = top - lowest
            return [
                (self._step(strategy.amount * number / last), above(top - number))
                for number in range(last + 1)
            ]
        if strategy.base == "feature_extraction":
            return [(0, above(top))]
        if strategy.base == "partial":
            return [(0, above(top - int(strategy.amount)))]
        named = self._named()
        return [(0, above(0) if named is None else above(top) | (named & self.able))]

    def _named(self) -> frozenset[int] | None:
        """The parameters of the backbone that a strategy names one by one; None: all."""
        backbone, base = self.network.backbone, self.strategy.base
        if base == "bitfit":
            pairs = backbone.named_parameters()
            return frozenset(id(p) for n, p in pairs if n.rpartition(".")[2] == "bias")
        if base == "lora":
            return frozenset(self._inserted)
        if base == "adapters":
            norms = [m for m in backbone.modules() if isinstance(m, _NORMS)]
            return frozenset(self._inserted | {id(p) for m in norms for p in m.parameters()})
        return None

    def _step(self, share: float) -> int:
        return min(math.ceil(share * self.steps - 1e-9), self.steps - 1)

    # What the trainer asks -------------------------------------------------------------------

    def trains(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter trains at any step; those of other modules than the network do."""
        if id(parameter) not in self.depths.of:
            return True
        return any(id(parameter) in phase.trained for phase in self.phases)

    def inserted(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is of an adapter or a low-rank update: new, as the head is."""
        return id(parameter) in self._inserted

    def joins(self, parameter: nn.Parameter) -> int:
        """The number of the first phase in which a parameter trains."""
        inside = id(parameter) in self.depths.of
        found = [i for i, p in enumerate(self.phases) if id(parameter) in p.trained]
        return found[0] if inside else 0

    def scale(self, parameter: nn.Parameter) -> float:
        """The factor on a parameter's learning rate: ``decay ** (distance from the head)``.

        The discriminative rates of ULMFiT (Howard and Ruder, 2018, arXiv:1801.06146), where decay
        is 1 / 2.6, and the layer-wise decay of ELECTRA (Clark et al., 2020, arXiv:2003.10555).
        """
        depth = self.depths.of.get(id(parameter), self.depths.top)
        return float(self.strategy.decay ** (self.depths.top - depth))

    def decays(self, parameter: nn.Parameter) -> bool:
        """Whether weight decay acts on a parameter; L2-SP stands in its place."""
        return not self.strategy.l2_sp or id(parameter) not in self.depths.of

    def begin(self) -> None:
        """Remember weights and modes at the start; before a checkpoint is read."""
        nets = (self.network, *self.copies)
        self._modes = [(m, m.training) for net in nets for m in net.modules()]
        if self.strategy.l2_sp:
            top = self.depths.top
            pulled = [
                p
                for p in self.network.parameters()
                if id(p) in self.able and self.depths.of[id(p)] < top
            ]
            self._starts = [(p, p.detach().clone()) for p in pulled]
        # A run that goes on enters its phase as one that never stopped.
        self._set(self.phases[0])

    def enter(self, step: int) -> None:
        """Let train what does at this step."""
        now = [p for p in self.phases if p.first <= step][-1]
        if now is not self.phase:
            self._set(now)

    def _set(self, phase: Phase) -> None:
        self.phase = phase
        # What was frozen so far may train now; `hold` sees to the rest.
        for module, was in self._modes:
            module.training = was
        for parameter in self.network.parameters():
            if id(parameter) in self.able:
                parameter.requires_grad_(id(parameter) in phase.trained)
                if not parameter.requires_grad:
                    parameter.grad = None

    def hold(self) -> None:
        """Put what is frozen into evaluation mode, whatever was done to it since."""
        for module in self.phase.frozen:
            if module.training:
                module.eval()

    def end(self) -> None:
        """Let train again what a strategy froze; weights stay."""
        for parameter in self.network.parameters():
            if id(parameter) in self.able:
                parameter.requires_grad_(True)

    @property
    def settled(self) -> bool:
        """Whether what trains now trains to the end."""
        return self.phase is self.phases[-1]

    def lr_factor(self, step: int) -> float:
        """The schedule's factor at a step; with LP-FT each phase has the schedule to itself."""
        first, last = 0, self.steps
        if self.strategy.restarts:
            first = self.phase.first
            later = [p.first for p in self.phases if p.first > first]
            last = min(later, default=self.steps)
        return self.training.lr_factor((step - first) / (last - first), self.strategy.schedule)

    def penalty(self) -> Tensor | None:
        """What is added to the loss; None for nothing."""
        if not self.strategy.l2_sp:
            return None
        inside = {id(p) for p, _ in self._starts}
        new = [
            p
            for p in self.network.parameters()
            if id(p) in self.able and id(p) not in inside and p.ndim > 1
        ]
        tuned, starts = [p for p, _ in self._starts], [s for _, s in self._starts]
        return l2_sp(tuned, starts, new, self.strategy.l2_sp, BETA)

    def describe(self) -> dict[str, Any]:
        """Which parameters train and how many, as plain data."""
        ever = {id(p) for p in self.network.parameters() if self.trains(p) and id(p) in self.able}
        return {
            "strategy": self.strategy.text,
            "trained": sum(p.numel() for p in self.network.parameters() if id(p) in ever),
            "of": sum(p.numel() for p in self.network.parameters()),
            "blocks": list(self.depths.blocks),
            "names": [n for n, p in self.network.named_parameters() if id(p) in ever],
            "phases": [
                {
                    "first": phase.first,
                    "trained": sum(
                        p.numel() for p in self.network.parameters() if id(p) in phase.trained
                    ),
                }
                for phase in self.phases
            ],
        }


def tuning_of(
    network: Network, training: Training, steps: int, name: str, copies: Sequence[Network] = ()
) -> Tuning | None:
    """The strategy of a run at work; None where everything trains as if there were none."""
    if read_strategy(training.finetune).plain:
        return None
    return Tuning(network, training, steps, name, copies)


def in_words(said: dict[str, Any]) -> str:
    """Which parameters train, in one line."""
    shown = f"{said['strategy']}: {said['trained']:,} of {said['of']:,} parameters train"
    if len(said["phases"]) > 1:
        starts = ", ".join(f"{p['trained']:,} from step {p['first']}" for p in said["phases"])
        shown += f" ({starts})"
    return shown


def check_frozen(finetune: str) -> None:
    """Refuse a strategy that tunes a backbone where there is none to tune, such as a frozen one."""
    strategy = read_strategy(finetune)
    if not strategy.plain and strategy.base != "feature_extraction":
        raise DomadaptError(
            f"The strategy {strategy.text} tunes the blocks of a backbone, and this one has none "
            "that could train; leave out the strategy, or --freeze where it is given."
        )


def _check(network: Network, strategy: Strategy, found: Depths) -> None:
    names = ", ".join(found.blocks)
    if not found.blocks:
        check_frozen(strategy.text)
    if strategy.base == "partial" and strategy.amount > len(found.blocks):
        raise DomadaptError(
            f"{strategy.text} asks for {strategy.amount:g} blocks, and the backbone has "
            f"{len(found.blocks)} ({names}); name fewer, or full."
        )
    missing = (strategy.base == "adapters" and not is_adapted(network)) or (
        strategy.base == "lora" and not has_lora(network)
    )
    if missing:
        raise DomadaptError(
            f"The strategy {strategy.text} needs a network that its modules were put into before "
            "the method was made; call domadapt.strategies.tuning.prepare(network, ...) first."
        )


def _frozen(
    module: nn.Module, trained: frozenset[int], copies: Sequence[nn.Module]
) -> list[nn.Module]:
    """The largest modules that have parameters of which none trains, with those of the copies."""
    parameters = [id(p) for p in module.parameters()]
    if not parameters:
        return []
    if not any(i in trained for i in parameters):
        return [module, *copies]
    return [
        found
        for name, child in module.named_children()
        for found in _frozen(child, trained, [copy.get_submodule(name) for copy in copies])
    ]
