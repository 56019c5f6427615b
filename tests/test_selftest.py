"""The self-test against planted faults: each is named by the invariant that is meant to find it."""

from __future__ import annotations

import copy
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from domadapt import cli
from domadapt.losses.adversarial import domain_loss
from domadapt.methods import BatchOutputs, Method
from domadapt.methods.base import labels
from domadapt.network import Discriminator, Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.selftest import INVARIANTS, Finding, Invariant, Subject, examine, table
from domadapt.selftest.graph import Constants, leaves, reversals, slope
from domadapt.task import Batch, Task

BY_NAME = {invariant.name: invariant for invariant in INVARIANTS}


# Two methods without a fault ----------------------------------------------------------------------


class Good(Method):
    """Distance of the mean features (Nobody, 2020, arXiv:2001.00001).

    Args:
        gap_weight: factor of the distance.
        power: exponent of the distance.
    """

    def __init__(self, network: Network, *, gap_weight: float = 1.0, power: int = 2) -> None:
        super().__init__(network)
        self.gap_weight = gap_weight
        self.power = power

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"gap": self.gap(out.z_s.float(), out.z_t.float())}

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return (z_s.mean(0) - z_t.mean(0)).abs().pow(self.power).sum()


class Rival(Method):
    """A discriminator behind a reversal (Nobody, 2020, arXiv:2001.00001).

    Args:
        domain_weight: factor of the domain loss.
    """

    def __init__(self, network: Network, *, domain_weight: float = 1.0) -> None:
        super().__init__(network)
        self.domain_weight = domain_weight
        self.rival = self.auxiliary(lambda: Discriminator(network.n_features, 16))

    def coefficient(self, progress: float) -> float:
        return ramp(progress)

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        coefficient = self.coefficient(batch.progress)
        d_s, d_t = (self.rival(reverse_gradient(z, coefficient)) for z in (out.z_s, out.z_t))
        return {"domain": self.loss(d_s, d_t)}

    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return domain_loss(d_s, d_t)


class Fooled(Method):
    """A critic with steps of its own, and its encoder (Nobody, 2020, arXiv:2001.00001).

    Args:
        domain_weight: factor of the encoder's loss.
    """

    critic_steps = 2

    def __init__(self, network: Network, *, domain_weight: float = 1.0) -> None:
        super().__init__(network)
        self.domain_weight = domain_weight
        self.rival = self.auxiliary(lambda: Discriminator(network.n_features, 16))

    def critic_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        return domain_loss(self.rival(out.z_s), self.rival(out.z_t))

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        fixed = {name: p.detach() for name, p in self.rival.named_parameters()}
        d_s, d_t = (functional_call(self.rival, fixed, (z,)) for z in (out.z_s, out.z_t))
        return {"domain": self.loss(d_s, d_t)}

    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return domain_loss(-d_s, -d_t)


@pytest.mark.parametrize("cls", [Good, Rival, Fooled])
def test_nothing_is_found_where_there_is_no_fault(cls: type[Method]) -> None:
    findings = list(examine(Subject(cls)))
    assert not table.reasons(findings)
    assert [f.invariant for f in findings] == INVARIANTS
    # Only what is asked of discriminators does not apply to the first.
    skipped = {f.invariant.name for f in findings if f.kept is None}
    adversarial = {"domain labels", "opposite pulls", "tells apart"}
    assert skipped == (adversarial if cls is Good else set())


# The faults ---------------------------------------------------------------------------------------


class NeedsAnArgument(Good):
    def __init__(self, network: Network, width: int, *, gap_weight: float = 1.0) -> None:
        super().__init__(network, gap_weight=gap_weight)


class TermIsNoScalar(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return z_s.mean(0) - z_t.mean(0)


class SettingStoredElsewhere(Good):
    def __init__(self, network: Network, *, gap_weight: float = 1.0, power: int = 2) -> None:
        super().__init__(network)
        self.gap_weight, self.exponent = gap_weight, power
        del self.power

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return (z_s.mean(0) - z_t.mean(0)).abs().pow(self.exponent).sum()


class SettingUnexplained(Good):
    """Distance of the mean features (Nobody, 2020, arXiv:2001.00001).

    Args:
        gap_weight: factor of the distance.
    """


class SettingIgnored(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return (z_s.mean(0) - z_t.mean(0)).square().sum()


class NoPaper(Good):
    """Distance of the mean features."""


class DrawsWhileBuilt(Good):
    def __init__(self, network: Network, *, gap_weight: float = 1.0, power: int = 2) -> None:
        super().__init__(network, gap_weight=gap_weight, power=power)
        self.map = nn.Linear(network.n_features, 4)

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return super().gap(self.map(z_s), self.map(z_t))


class DrawsFromNumpyWhileBuilt(Good):
    def setup(self, n_source: int, n_target: int) -> None:
        self.first = np.random.rand()  # noqa: NPY002


class ParametersInAList(Rival):
    def __init__(self, network: Network, *, domain_weight: float = 1.0) -> None:
        super().__init__(network, domain_weight=domain_weight)
        self.hidden = [self.auxiliary(lambda: nn.Linear(1, 1))]

    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return super().loss(*(self.hidden[0](d[:, None])[:, 0] for d in (d_s, d_t)))


class TensorIsNoParameter(Good):
    def __init__(self, network: Network, *, gap_weight: float = 1.0, power: int = 2) -> None:
        super().__init__(network, gap_weight=gap_weight, power=power)
        self.scale = torch.ones(1, requires_grad=True)

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return super().gap(self.scale * z_s, self.scale * z_t)


class ParameterTwice(Good):
    def __init__(self, network: Network, *, gap_weight: float = 1.0, power: int = 2) -> None:
        super().__init__(network, gap_weight=gap_weight, power=power)
        self.classifier = network.head


class RivalNeverTaught(Rival):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        value = domain_loss(self.rival(out.z_s).detach(), self.rival(out.z_t).detach())
        return {"domain": value + 0.01 * out.z_t.mean()}


class MeanOfTerms(Good):
    def losses(self, out: BatchOutputs, batch: Batch) -> Any:
        found = super().losses(out, batch)
        return type(found)(found.total / 2, found.terms, found.weights)


class RampByCalls(Rival):
    calls = 0

    def coefficient(self, progress: float) -> float:
        self.calls += 1
        return ramp(self.calls / 1000)


class RampByCallsInABuffer(Rival):
    def __init__(self, network: Network, *, domain_weight: float = 1.0) -> None:
        super().__init__(network, domain_weight=domain_weight)
        self.register_buffer("calls", torch.zeros(()))

    def coefficient(self, progress: float) -> float:
        self.calls += 1
        return ramp(float(self.calls) / 1000)


class RampFromTheFirstStep(Rival):
    def coefficient(self, progress: float) -> float:
        return 2 / (1 + 2.718 ** (-10 * (progress + 0.5))) - 1


class RampTooSoonOver(Rival):
    def coefficient(self, progress: float) -> float:
        return ramp(progress, steepness=4.0)


class ReversalUndone(Rival):
    def coefficient(self, progress: float) -> float:
        return -ramp(progress)


class WeightUpAndDown(Good):
    ramps = {"gap": lambda progress: abs(progress - 0.5)}


class UnderNoGrad(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        with torch.no_grad():
            return super().gap(z_s, z_t)


class GradientToACopyAlone(Good):
    """As AdaTime's patch of a kernel under no_grad: the loss has a gradient, for nobody."""

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return super().gap(z_s.detach(), z_t.detach()).requires_grad_()


class ConstantRival(Rival):
    """As skada's: a softmax over one number is always 1."""

    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return super().loss(d_s[:, None].softmax(1)[:, 0], d_t[:, None].softmax(1)[:, 0])


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x  # the factor 2 is missing


class WrongGradient(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        value: Tensor = _Wrong.apply(z_s.mean(0) - z_t.mean(0))
        return value


class _Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        return -grads[0]


class WrongSign(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        flipped: Tensor = _Flip.apply(z_s.mean(0) - z_t.mean(0))
        return flipped.square().sum()


class ReversalMissing(Rival):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {"domain": self.loss(self.rival(out.z_s), self.rival(out.z_t))}


class CriticHelped(Fooled):
    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return domain_loss(d_s, d_t)


class CriticDeceived(Fooled):
    def critic_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        return domain_loss(self.rival(out.z_s), -self.rival(out.z_t))


class EqualSizesOnly(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        n = 12
        return super().gap(z_s, z_t) + (z_s[:n] - z_t[: len(z_s[:n])]).square().mean()


class ClassMeans(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        y = labels(batch)
        means = torch.stack([out.z_s[y == c].mean(0) for c in range(3)])
        return {"gap": (means.mean(0) - out.z_t.mean(0)).square().sum()}


class OneSourceOnly(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        assert batch.domain_s is not None
        factor = torch.ones(1)[batch.domain_s]
        return {"gap": self.gap(out.z_s * factor[:, None], out.z_t)}


class VarianceByDifference(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        def variance(z: Tensor) -> Tensor:
            z = z + 40.0
            return z.square().mean(0) - z.mean(0).square()

        return {"gap": (variance(out.z_s) - variance(out.z_t)).square().sum()}


class Overflows(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return (z_s.exp().mean(0) - z_t.exp().mean(0)).abs().sum().log1p()


class FirstSampleIsAnchor(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return super().gap(z_s[:1], z_t)


class TensorsOnly(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        assert batch.x_t is not None
        return {"gap": self.gap(out.z_s, out.z_t) + 0.0 * batch.x_t.mean()}  # type: ignore[union-attr]


class SameLabel(Rival):
    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return domain_loss(d_s, -d_t)


class SwappedLabels(Rival):
    def loss(self, d_s: Tensor, d_t: Tensor) -> Tensor:
        return domain_loss(-d_s, -d_t)


class SourceLossOfItsOwn(Good):
    def source_loss(self, out: BatchOutputs, batch: Batch) -> Tensor:
        return 2.0 * super().source_loss(out, batch)


class TermWithoutWeight(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {**super().terms(out, batch), "beside": out.z_t.square().mean()}


class SpaceUpsideDown(Good):
    space = {"gap_weight": (5.0, 1.0, "log")}


class MovesWithoutTraining(Good):
    trains = False
    needs_source = False

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        return {}

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            next(self.network.parameters()).mul_(0.99)


class NumpyDraws(Good):
    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        return super().gap(z_s, z_t) * float(np.random.rand())  # noqa: NPY002


#: What somebody's loader left lying about.
LABELS: list[Any] = []


class ReadsTargetLabels(Good):
    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        value = self.gap(out.z_s, out.z_t)
        known = LABELS[-1] if LABELS else None
        if known is not None and batch.index_t is not None:
            y = torch.tensor([int(known[i]) for i in batch.index_t])
            value = value + nn.functional.cross_entropy(out.logits_t.float(), y)
        return {"gap": value}


class StateInAnAttribute(Good):
    centre: Tensor | None = None

    def gap(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        now = z_s.mean(0).detach()
        self.centre = now if self.centre is None else 0.9 * self.centre + 0.1 * now
        return (self.centre - z_t.mean(0)).square().sum()


class KeepsHalf(Good):
    def adapted(self) -> Network:
        half = copy.deepcopy(self.network)
        half.head = nn.Identity()
        return half


FAULTS: list[tuple[type[Method], str, str]] = [
    (NeedsAnArgument, "builds", "TypeError: .*width"),
    (TermIsNoScalar, "builds", "dictionary of scalar tensors"),
    (SettingStoredElsewhere, "settings", "power is not kept under its name"),
    (SettingUnexplained, "settings", "power has no line under Args"),
    (SpaceUpsideDown, "settings", "low must be below high"),
    (SettingIgnored, "settings used", "power changes nothing; tried 1, "),
    (NoPaper, "paper", "NoPaper names no paper"),
    (DrawsWhileBuilt, "own randomness", "torch's global generator"),
    (DrawsFromNumpyWhileBuilt, "own randomness", "NumPy's global generator"),
    (ParametersInAList, "parameters", r"a tensor of shape \(1,(| 1)\) that is no parameter"),
    (TensorIsNoParameter, "parameters", r"a tensor of shape \(1,\) that is no parameter"),
    (ParameterTwice, "parameters", "classifier.weight is also known as network.head.weight"),
    (RivalNeverTaught, "parameters", "no loss reaches rival.layers.0.weight"),
    (MeanOfTerms, "weighted sum", "the weighted sum of the terms"),
    (RampByCalls, "schedules", "must be a function of batch.progress"),
    (RampByCallsInABuffer, "schedules", "must be a function of batch.progress"),
    (RampFromTheFirstStep, "schedules", "does not begin at 0"),
    (
        RampTooSoonOver,
        "schedules",
        "ends at 0.96403, and the paper's ramp, domadapt.ops.ramp, at 0.99991",
    ),
    (ReversalUndone, "schedules", "negative coefficient"),
    (ReversalUndone, "differences", "missing or undone"),
    (WeightUpAndDown, "schedules", "weight of gap goes up and down"),
    (UnderNoGrad, "reaches encoder", "carries no gradient"),
    (GradientToACopyAlone, "reaches encoder", "does not depend on all of the backbone"),
    (ConstantRival, "reaches encoder", "gradient is 0"),
    (ConstantRival, "tells apart", "nothing|%"),
    (WrongGradient, "differences", "the slope of the term gap along its gradient"),
    (WrongSign, "differences", "is -.* and the gradient says [^-]"),
    (ReversalMissing, "differences", "reversal is missing or undone"),
    (ReversalMissing, "opposite pulls", "it must raise it"),
    (CriticHelped, "opposite pulls", "it must raise it"),
    (CriticDeceived, "domain labels", "lower all target logits"),
    (EqualSizesOnly, "batch sizes", "RuntimeError: .*size"),
    (ClassMeans, "missing class", "the term gap is nan"),
    (OneSourceOnly, "several sources", "IndexError"),
    (VarianceByDifference, "mixed precision", "in bfloat16 and .* in float32"),
    (Overflows, "feature scale", "with features times 100: the term gap is (inf|nan)"),
    (FirstSampleIsAnchor, "source order", "in another order"),
    (TensorsOnly, "texts", "AttributeError"),
    (RivalNeverTaught, "domain labels", "^no loss reaches the discriminator at progress"),
    (SameLabel, "domain labels", "lower all target logits"),
    (SwappedLabels, "domain labels", "raise all source logits"),
    (SourceLossOfItsOwn, "weight zero", "all weights at 0 it is not source_only$"),
    (TermWithoutWeight, "weight zero", "the term 'beside' has no setting beside_weight"),
    (MovesWithoutTraining, "weight zero", "parameters moved"),
    (UnderNoGrad, "weight zero", "with its defaults it is source_only"),
    (NumpyDraws, "same seed", "two runs with one seed differ"),
    (ReadsTargetLabels, "target labels", "reads target labels"),
    (StateInAnAttribute, "resume", "all state must be parameters and buffers"),
    (StateInAnAttribute, "state", "in another instance"),
    (StateInAnAttribute, "schedules", "outside parameters and buffers"),
    (KeepsHalf, "keeps network", r"its logits have shape \(7, 16\)"),
]


@pytest.fixture
def leaky_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task construction leaves the target's labels in a global, as a careless loader would."""
    real = Task.__init__

    def leaking(self: Task, source: Any, target: Any, **options: Any) -> None:
        LABELS.append(target.labels)
        real(self, source, target, **options)

    monkeypatch.setattr(Task, "__init__", leaking)


@pytest.mark.usefixtures("leaky_loader")
@pytest.mark.parametrize(
    ("cls", "name", "reason"), [pytest.param(*f, id=f"{f[0].__name__}-{f[1]}") for f in FAULTS]
)
def test_a_planted_fault_is_named(cls: type[Method], name: str, reason: str) -> None:
    finding = BY_NAME[name].examine(Subject(cls))
    assert finding.kept is False
    assert re.search(reason, finding.reason), finding.reason


def test_every_invariant_finds_a_fault() -> None:
    assert {name for _, name, _ in FAULTS} == BY_NAME.keys()


def test_what_cannot_be_built_is_asked_nothing_else() -> None:
    findings = list(examine(Subject(NeedsAnArgument)))
    assert [f.invariant.name for f in findings] == ["builds"]
    assert len(table.reasons(findings)) == 1


# Looking into autograd ----------------------------------------------------------------------------


def test_leaves_and_reversals_of_a_graph() -> None:
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    value = (reverse_gradient(a * 2, 0.5) + b.detach() + a).sum() * c.sum()
    assert {id(leaf) for leaf in leaves(value)} == {id(a), id(c)}
    assert [node.coefficient for node in reversals(value)] == [0.5]
    assert leaves(b) == [b]
    assert leaves(b.detach()) == []


def test_differences_hold_constant_what_autograd_does() -> None:
    """``x * detach(x)^2`` has the gradient ``x^2``, though its values are those of ``x^3``."""
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    drawn = {
        "detached": lambda: (x * x.detach() ** 2).sum(),
        "under no_grad": lambda: (x * _squared_without_gradient(x)).sum(),
        "as a number": lambda: (x * float(x.detach().item()) ** 2).sum(),
    }
    for how, f in drawn.items():
        constants = Constants()
        with constants:
            value = f()
        (gradient,) = torch.autograd.grad(value, x)
        found = slope(f, constants, [x], [one], 1e-4)
        assert float(gradient) == pytest.approx(9.0), how
        assert found == pytest.approx(9.0, rel=1e-6), how
        assert float(x.detach()) == 3.0
    free = slope(lambda: (x**3).sum(), Constants(), [x], [one], 1e-4)
    assert free == pytest.approx(27.0, rel=1e-6)


def _squared_without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * x


def test_a_custom_function_is_left_alone() -> None:
    """Within it nothing carries a gradient, and yet nothing is constant."""
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    f = lambda: _Wrong.apply(x)  # noqa: E731
    apply = torch.autograd.Function.apply
    constants = Constants()
    with constants:
        f()
    one = torch.ones(1, dtype=torch.float64)
    assert slope(f, constants, [x], [one], 1e-4) == pytest.approx(6.0, rel=1e-6)
    assert torch.autograd.Function.apply == apply


# The command --------------------------------------------------------------------------------------

MINE = '''
from domadapt.methods import Method, register


@register("self_tested")
class Mine(Method):
    """Distance of the mean features (Nobody, 2020, arXiv:2001.00001).

    Args:
        gap_weight: factor of the distance.
    """

    def __init__(self, network, *, gap_weight: float = 1.0) -> None:
        super().__init__(network)
        self.gap_weight = gap_weight

    def terms(self, out, batch):
        return {"gap": (out.z_s.mean(0) - out.z_t.mean(0))FAULT.square().sum()}
'''


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    from domadapt.methods import registry

    yield tmp_path / "mine.py"
    registry._METHODS.pop("self_tested", None)


def test_the_command_says_what_is_not_kept(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(MINE.replace("FAULT", ""))
    assert command(f"selftest --method {mine} --method source_only", monkeypatch) == 0
    said = capsys.readouterr().out
    assert "2 methods: everything is kept." in said
    rows = [line.split() for line in said.splitlines() if line.startswith(("self_t", "source_o"))]
    assert [len(row) for row in rows] == [1 + len(INVARIANTS)] * 2
    assert set(rows[0][1:]) == {".", "-"}

    mine.write_text(MINE.replace("FAULT", ".detach()"))
    assert command(f"selftest --verbose --method {mine}", monkeypatch) == 1
    said = capsys.readouterr().out
    assert "self_tested: reaches encoder: what is added carries no gradient" in said
    assert BY_NAME["reaches encoder"].meaning in said
    assert command("selftest --method dan+", monkeypatch) == 2


def test_a_setting_called_as_a_flag_is_refused(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(MINE.replace("FAULT", "").replace("gap_weight", "steps"))
    assert command(f"selftest --method {mine}", monkeypatch) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has a setting 'steps', which is the name of a flag of adapt; rename" in said


def test_a_finding_is_a_mark() -> None:
    def check(_: Subject) -> None:
        raise ValueError("two\nlines")

    broken = Invariant("broken", "It is never kept.", check, lambda _: True)
    finding = broken.examine(Subject("mcc"))
    assert finding == Finding("mcc", broken, False, "ValueError: two lines", finding.seconds)
    assert {table.MARKS[kept] for kept in (True, False, None)} == {".", "X", "-"}
