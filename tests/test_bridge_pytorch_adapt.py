"""Hooks and validators of pytorch-adapt under this trainer, and its losses beside those of here."""

from __future__ import annotations

import copy
import importlib
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import N_CLASSES, N_FEATURES, same_bits, small_network, small_task, small_trainer
from torch import Tensor, nn

from domadapt.bridges import pytorch_adapt as bridge
from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.losses.adversarial import domain_loss, entropy_weights, multilinear
from domadapt.losses.coral import coral
from domadapt.losses.mmd import mmd
from domadapt.losses.prediction import bnm, mcc
from domadapt.methods import Method, build_method, method_class, method_settings
from domadapt.methods.base import BatchOutputs
from domadapt.network import Discriminator, Network
from domadapt.selection import validators as ours
from domadapt.task import Batch


def load(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


try:
    load("pytorch_adapt.hooks")
    MISSING = ""
except ImportError as error:
    MISSING = f"the extra pytorch-adapt is not installed ({error})"
needs_extra = pytest.mark.skipif(bool(MISSING), reason=MISSING)

#: Every hook that is a method; of the others, one of each reason.
RUN = [
    "AFNHook",
    "ATDOCHook",
    "AlignerHook",
    "AlignerPlusCHook",
    "BNMHook",
    "BSPHook",
    "CDANEHook",
    "CDANHook",
    "CDANNEHook",
    "CLossHook",
    "ClassifierHook",
    "DANNEHook",
    "DANNHook",
    "DANNLogitsHook",
    "DANNSoftmaxLogitsHook",
    "DomainConfusionHook",
    "FeaturesLogitsAlignerHook",
    "GANEHook",
    "GANHook",
    "GVBEHook",
    "GVBGANHook",
    "GVBHook",
    "ISTLossHook",
    "JointAlignerHook",
    "MCCHook",
    "ManyAlignerHook",
    "RTNAlignerHook",
    "RTNHook",
    "RTNLogitsHook",
    "TargetDiversityHook",
    "TargetEntropyHook",
    "VADAHook",
    "VATHook",
    "VATPlusEntropyHook",
]
REFUSED = {
    "MCDHook": r"two classifiers, .* one head, and it repeats .*; use 'mcd'",
    "SymNetsHook": "MultipleCLossHook is in it: it trains two classifiers",
    "ADDAHook": r"second encoder \(T\).*use 'adda'",
    "AdaBNHook": "use 'adabn'",
    "FinetunerHook": "it freezes the encoder",
    "MultiLabelClassifierHook": "several labels of a sample",
    "DomainLossHook": "one side of an adversarial game and no method; use DANNHook",
    "GradientReversalHook": "cannot be made from its name alone .*apply_to",
    "FeaturesHook": "computes no loss",
    "DANHook": r"no hook of pytorch-adapt 'DANHook'\. Did you mean 'DANNHook'",
}


def outputs(n: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and class ids of `n` samples."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 5, generator=generator) + shift
    return z, 2.0 * torch.randn(n, N_CLASSES, generator=generator), torch.arange(n) % N_CLASSES


def make_batch(n_s: int = 12, n_t: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(
        torch.randn(n_s, N_FEATURES, generator=generator),
        torch.arange(n_s) % N_CLASSES,
        torch.randn(n_t, N_FEATURES, generator=generator) + 1.0,
        0.5,
        index_s=torch.arange(n_s),
        index_t=torch.arange(n_t),
    )


def ready(name: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Any:
    method = build_method(f"pytorch_adapt:{name}", small_network(seed), settings)
    method.setup(60, 30)
    return method.train()


# Installed or not ---------------------------------------------------------------------------------


def test_a_missing_extra_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "pytorch_adapt"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pytorch_adapt", None)
    bridge.hook_method.cache_clear()
    wanted = r"pip install 'domadapt\[pytorch-adapt\]'.*==0\.0\.83 with 'setuptools<81'"
    with pytest.raises(DomadaptError, match=wanted):
        method_class("pytorch_adapt:DANNHook")
    with pytest.raises(DomadaptError, match=wanted):
        bridge.validator("IMValidator")


def test_scanning_imports_nothing_of_it() -> None:
    code = (
        "import sys; from domadapt.methods import method_names; method_names();"
        "import domadapt.bridges.pytorch_adapt;"
        "print(sorted(m for m in sys.modules if m.startswith(('pytorch_', 'torchmetrics'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Hooks --------------------------------------------------------------------------------------------


@needs_extra
def test_which_hooks_run() -> None:
    assert bridge.hook_names() == sorted(RUN)


@needs_extra
@pytest.mark.parametrize("name", REFUSED)
def test_refused_hooks_say_why(name: str) -> None:
    with pytest.raises(DomadaptError, match=REFUSED[name]):
        build_method(f"pytorch_adapt:{name}", small_network())


@needs_extra
@pytest.mark.parametrize("name", RUN)
def test_every_hook_trains_and_resumes(name: str, tmp_path: Path) -> None:
    spec = f"pytorch_adapt:{name}"
    trainer = small_trainer(spec, steps=6, log_every=1)
    before = copy.deepcopy(trainer.method.network)
    kept = trainer.fit()
    assert trainer.method.name == f"pytorch_adapt_{name}"
    assert not same_bits(before, kept)
    assert kept(torch.zeros(4, N_FEATURES)).shape == (4, N_CLASSES)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trainer.method.parameters())
    # Half a run, taken up by another method object, ends in the same bits.
    path = tmp_path / "state.safetensors"
    half = small_trainer(spec, steps=6, log_every=1, checkpoint_every=3, path=path)
    with pytest.raises(KeyboardInterrupt):
        half.fit(lambda point: _stop() if point.step == 4 else None)
    again = small_trainer(spec, steps=6, log_every=1, checkpoint_every=3, path=path)
    assert same_bits(again.fit(), kept)
    assert again.step == 6


def _stop() -> None:
    raise KeyboardInterrupt


@needs_extra
@pytest.mark.parametrize("name", [n for n in RUN if n not in ("CLossHook", "ClassifierHook")])
def test_every_hook_changes_what_is_learned(name: str) -> None:
    method, plain = (
        ready(name),
        build_method("source_only", small_network(), {"joint_forward": True}),
    )
    batch = make_batch()
    torch.manual_seed(0)
    method(batch).total.backward()
    plain(batch).total.backward()
    pairs = zip(method.network.parameters(), plain.network.parameters(), strict=True)
    different = [not torch.allclose(a.grad, b.grad, atol=1e-4) for a, b in pairs]  # type: ignore
    assert any(different)


@needs_extra
@pytest.mark.parametrize("name", RUN)
def test_numbers_of_its_own_and_state(name: str) -> None:
    network = small_network()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    method = build_method(f"pytorch_adapt:{name}", network)
    method.setup(60, 30)
    assert torch.equal(torch.get_rng_state(), before)
    every = [id(p) for _, p in method.named_parameters(remove_duplicate=False)]
    assert len(every) == len(set(every))
    two = ready(name, seed=9)
    two.load_state_dict(method.state_dict())
    results = []
    for one in (method.train(), two):
        torch.manual_seed(4)
        results.append(one(make_batch()).terms)
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())


@needs_extra
@pytest.mark.parametrize("name", RUN)
def test_mixed_precision_and_features_without_gradient(name: str) -> None:
    torch.manual_seed(0)
    exact = ready(name)(make_batch()).terms
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = ready(name)(make_batch()).terms
    for key, value in exact.items():
        assert float(rough[key].detach()) == pytest.approx(float(value.detach()), rel=0.2, abs=0.1)
    # A frozen backbone without a bottleneck gives features that nothing before them learns from.
    method = build_method(
        f"pytorch_adapt:{name}", Network(nn.Identity(), nn.Linear(N_FEATURES, N_CLASSES))
    )
    method.setup(60, 30)
    method(make_batch()).total.backward()
    assert method.network.head.weight.grad is not None


@needs_extra
@pytest.mark.parametrize("name", ["DANNHook", "VADAHook", "GVBHook", "ATDOCHook"])
def test_losses_without_a_gradient(name: str) -> None:
    # As where the Trainer rehearses one batch before training.
    small_trainer(f"pytorch_adapt:{name}").rehearse()


@needs_extra
def test_the_classifier_hook_is_source_only() -> None:
    one = small_trainer("pytorch_adapt:ClassifierHook").fit()
    two = small_trainer("source_only", settings={"joint_forward": True}).fit()
    assert same_bits(one, two)


@needs_extra
def test_strength_zero_is_source_only_where_the_hook_leaves_the_source_loss_alone() -> None:
    one = small_trainer("pytorch_adapt:MCCHook", settings={"strength": 0}).fit()
    two = small_trainer("source_only", settings={"joint_forward": True}).fit()
    assert same_bits(one, two)
    assert not same_bits(small_trainer("pytorch_adapt:MCCHook").fit(), two)


@needs_extra
def test_settings_and_their_help() -> None:
    settings = method_settings("pytorch_adapt:CDANHook")
    assert set(settings) == {"strength", "hidden"}
    assert all(s.help for s in settings.values())
    method = ready("CDANHook", {"strength": "0.5", "hidden": 8})
    assert method.weight("d_src_domain_loss", 0.3) == 0.5
    found = [m for m in method.modules() if isinstance(m, Discriminator)]
    assert [d.layers[0].in_features for d in found] == [16 * N_CLASSES]
    assert found[0].layers[0].out_features == 8


@needs_extra
def test_wide_products_are_projected() -> None:
    network = Network(nn.Linear(N_FEATURES, 1400), nn.Linear(1400, N_CLASSES))
    method = build_method("pytorch_adapt:CDANHook", network)
    method.setup(60, 30)
    found = [m for m in method.modules() if isinstance(m, Discriminator)]
    assert found[0].layers[0].in_features == 1024
    assert torch.isfinite(method(make_batch()).total)


@needs_extra
def test_a_hook_combines_with_methods_of_here() -> None:
    network = small_network()
    whole = build_method("pytorch_adapt:MCCHook+dann+pytorch_adapt:BNMHook", network)
    whole.setup(60, 30)
    terms = whole.train()(make_batch()).terms
    assert list(terms) == [
        "source",
        "pytorch_adapt_MCCHook.mcc_loss",
        "dann.domain",
        "pytorch_adapt_BNMHook.bnm_loss",
    ]
    with pytest.raises(DomadaptError, match="each define the source loss"):
        build_method("pytorch_adapt:RTNHook+pytorch_adapt:DANNHook", network)


@needs_extra
def test_confidence_is_declared() -> None:
    on_it = {n for n in RUN if method_class(f"pytorch_adapt:{n}").trains_on_confidence}
    assert on_it == {
        "ATDOCHook", "BNMHook", "MCCHook", "RTNHook", "RTNLogitsHook", "TargetEntropyHook",
        "VADAHook", "VATPlusEntropyHook",
    }  # fmt: skip
    assert method_class("pytorch_adapt:ATDOCHook").single_process


@needs_extra
def test_batches_that_a_hook_cannot_take() -> None:
    with pytest.raises(
        DomadaptError,
        match=r"AlignerHook of pytorch-adapt refused a batch of 12 source and 7 .*same",
    ):
        ready("AlignerHook")(make_batch(12, 7))
    assert torch.isfinite(ready("DANNHook")(make_batch(12, 7)).total)
    assert torch.isfinite(ready("CDANHook")(make_batch(12, 7)).total)
    assert torch.isfinite(ready("CDANHook")(make_batch(2, 2)).total)


# The gradients of the library's own steps ---------------------------------------------------------


class Recorder(torch.optim.SGD):
    """Keeps the gradients of each step and takes none."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.parameters(), lr=0.1)
        self.kept: list[Tensor] = []

    def step(self, *_: Any, **__: Any) -> None:
        self.kept = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for group in self.param_groups
            for p in group["params"]
        ]


class Features(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.backbone(x)
        return z


@needs_extra
@pytest.mark.parametrize(
    "name",
    ["DANNHook", "CDANHook", "CDANEHook", "GANHook", "DomainConfusionHook", "AlignerPlusCHook"],
)
def test_gradients_are_those_of_the_hook_with_its_own_optimisers(name: str) -> None:
    hooks, weighters = load("pytorch_adapt.hooks"), load("pytorch_adapt.weighters")
    method = ready(name)
    method.batch_statistics = "separate"
    batch = make_batch()
    twin = copy.deepcopy(method)
    method(batch).total.backward()

    models: dict[str, nn.Module] = {"G": Features(twin.network), "C": twin.network.head}
    models.update(twin.parts.models.items())
    steps = {key: Recorder(m) for key, m in models.items() if list(m.parameters())}
    total = weighters.SumWeighter
    if name in ("DANNHook", "AlignerPlusCHook"):
        hook = getattr(hooks, name)(opts=list(steps.values()), weighter=total())
    else:
        hook = getattr(hooks, name)(
            d_opts=[steps["D"]],
            g_opts=[steps["G"], steps["C"]],
            d_weighter=total(),
            g_weighter=total(),
        )
    hook(
        {
            **models,
            "src_imgs": batch.x_s,
            "src_labels": batch.y_s,
            "src_domain": torch.zeros(12, dtype=torch.long),
            "target_imgs": batch.x_t,
            "target_domain": torch.ones(12, dtype=torch.long),
        }
    )
    mine = {"G": method.network.backbone, "C": method.network.head, **method.parts.models}
    for key, step in steps.items():
        assert any(bool(g.abs().max() > 0) for g in step.kept), key
        for p, expected in zip(mine[key].parameters(), step.kept, strict=True):
            torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-6)


@needs_extra
@pytest.mark.parametrize("name", ["GANHook", "CDANHook", "GVBGANHook", "VADAHook"])
def test_each_phase_moves_its_own_models_only(name: str) -> None:
    method = ready(name)
    sides = {
        "d_": list(method.parts.models["D"].parameters()),
        "g_": list(method.network.backbone.parameters()),
    }
    batch = make_batch()
    terms = method.terms(method.outputs(batch), batch)
    for side, own in sides.items():
        others = [p for key, ps in sides.items() if key != side for p in ps]
        found = sum(v for k, v in terms.items() if k.startswith(side) and "phase" not in k)
        assert any(
            g is not None
            for g in torch.autograd.grad(found, own, retain_graph=True, allow_unused=True)
        )
        gradients = torch.autograd.grad(found, others, retain_graph=True, allow_unused=True)
        assert all(g is None or not g.any() for g in gradients)


@needs_extra
def test_a_bridge_becomes_part_of_the_head() -> None:
    trainer = small_trainer("pytorch_adapt:GVBHook", steps=6)
    kept = trainer.fit()
    method: Any = trainer.method
    z = torch.randn(5, 16)
    expected = method.network.head(z) - method.parts.models["C_bridge"](z)
    torch.testing.assert_close(kept.head(z), expected)
    assert isinstance(kept.head, nn.Linear)
    two_layers = Network(
        nn.Linear(N_FEATURES, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    )
    with pytest.raises(DomadaptError, match=r"must be a torch\.nn\.Linear"):
        build_method("pytorch_adapt:GVBHook", two_layers).setup(60, 30)


@needs_extra
def test_the_search_of_vat_leaves_gradients_and_statistics_alone() -> None:
    method, batch = ready("VATHook"), make_batch()
    out = method.outputs(batch)
    norm = method.network.backbone[1]
    marks = [torch.full_like(p, 0.5) for p in method.network.parameters()]
    for p, mark in zip(method.network.parameters(), marks, strict=True):
        p.grad = mark.clone()
    mean, seen = norm.running_mean.clone(), norm.num_batches_tracked.clone()
    terms = method.terms(out, batch)
    assert all(
        torch.equal(p.grad, m) for p, m in zip(method.network.parameters(), marks, strict=True)
    )
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.num_batches_tracked, seen)
    assert norm.training
    terms["target_vat_loss"].backward()
    assert any(
        not torch.equal(p.grad, m) for p, m in zip(method.network.parameters(), marks, strict=True)
    )


# A hook of one's own ------------------------------------------------------------------------------

MINE = '''
from pytorch_adapt import hooks, layers, weighters
from domadapt.bridges.pytorch_adapt import HookMethod
from domadapt.methods import register


@register("mine")
class Mine(HookMethod):
    """DANN with a weighted confusion (Someone, 2020).

    Args:
        strength: factor of all terms.
        temperature: of the confusion.
    """

    def __init__(self, network, *, strength: float = 1.0, temperature: float = 2.5):
        super().__init__(network, strength=strength)
        self.temperature = temperature

    def hook(self):
        return {hook}
'''
DANN_MCC = """hooks.DANNHook(
            opts=["G", "C", "D"],
            weighter=weighters.MeanWeighter(weights={"mcc_loss": 0.25, "src_c_loss": 3.0}),
            post_g=[hooks.MCCHook(loss_fn=layers.MCCLoss(T=self.temperature))],
        )"""


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from domadapt.methods import method_names, registry

    method_names()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def own(path: Path, hook: str) -> Method:
    (path / "mine.py").write_text(MINE.format(hook=hook))
    method = build_method(f"{path / 'mine.py'}", small_network())
    method.setup(60, 30)
    return method


@needs_extra
@pytest.mark.usefixtures("_registry")
def test_a_subclass_in_a_file(tmp_path: Path) -> None:
    method, batch = own(tmp_path, DANN_MCC).train(), make_batch()
    out = method.outputs(batch)
    found = method.losses(out, batch)
    assert set(found.terms) == {"source", "src_domain_loss", "target_domain_loss", "mcc_loss"}
    # The weights of the weighter are kept, its mean is not.
    assert batch.y_s is not None
    expected = nn.functional.cross_entropy(out.logits_s, batch.y_s)
    torch.testing.assert_close(found.terms["source"], 3.0 * expected)
    torch.testing.assert_close(found.terms["mcc_loss"], 0.25 * mcc(out.logits_t, 2.5))


@needs_extra
@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("hooks.MCDHook(g_opts=['G'], c_opts=['C'], repeat=1)", "two classifiers"),
        (
            "hooks.ClassifierHook(opts=[__import__('torch').optim.SGD(self.parameters(), 0.1)])",
            r"names of the models that it moves, such as opts=\['G', 'C', 'D'\]",
        ),
        (
            "hooks.RepeatHook(hooks.ClassifierHook(opts=['G']), 3)",
            "repeats an optimiser's step 3 times",
        ),
        ("hooks.FeaturesHook(model_name='E')", "asks for the models E, and it is given G and C"),
    ],
)
def test_hooks_of_ones_own_that_cannot_run(tmp_path: Path, hook: str, says: str) -> None:
    with pytest.raises(DomadaptError, match=says):
        own(tmp_path, hook)


def test_a_method_without_a_hook() -> None:
    with pytest.raises(DomadaptError, match=r"HookMethod must define hook\(\)"):
        bridge.HookMethod(small_network()).setup(60, 30)


# Losses beside those of here ----------------------------------------------------------------------


def given(method: Any, n_s: int = 12, n_t: int = 9) -> tuple[Any, Any]:
    """Outputs of given features, and a batch of as many samples."""
    generator = torch.Generator().manual_seed(8)
    z_s, z_t = (torch.randn(n, 16, generator=generator).requires_grad_() for n in (n_s, n_t))
    head = method.network.head
    out = BatchOutputs(z_s, z_t, head(z_s), head(z_t))
    return out, make_batch(n_s, n_t)


@needs_extra
def test_dann_is_twice_ours_with_a_constant_reversal() -> None:
    method = ready("DANNHook")
    out, batch = given(method)
    theirs = sum(method.terms(out, batch).values())
    d = method.parts.models["D"]
    mine = 2.0 * domain_loss(-d(out.z_s), -d(out.z_t))
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-6)
    reversed_, straight = (torch.autograd.grad(v, [out.z_s, out.z_t]) for v in (theirs, mine))
    for a, b in zip(reversed_, straight, strict=True):
        torch.testing.assert_close(a, -b, rtol=1e-5, atol=1e-7)


@needs_extra
def test_cdan_discriminator_is_twice_ours_and_its_encoder_swaps_labels() -> None:
    method = ready("CDANHook")
    out, batch = given(method)
    terms = method.terms(out, batch)
    d = method.parts.models["D"]
    p_s, p_t = out.logits_s.softmax(1), out.logits_t.softmax(1)
    d_s, d_t = d(multilinear(out.z_s, p_s)), d(multilinear(out.z_t, p_t))
    theirs = terms["d_src_domain_loss"] + terms["d_target_domain_loss"]
    torch.testing.assert_close(theirs, 2.0 * domain_loss(-d_s, -d_t), rtol=1e-5, atol=1e-6)
    swapped = terms["g_src_domain_loss"] + terms["g_target_domain_loss"]
    torch.testing.assert_close(swapped, 2.0 * domain_loss(d_s, d_t), rtol=1e-5, atol=1e-6)
    # Sample by sample the reversed gradient of ours, times exp(-d) of a source sample (0 there).
    moved = torch.autograd.grad(swapped, [out.z_s, out.z_t], retain_graph=True)
    back = torch.autograd.grad(-theirs_undetached(d_s, d_t), [out.z_s, out.z_t], retain_graph=True)
    for got, reversed_, factor in zip(moved, back, ((-d_s).exp(), d_t.exp()), strict=True):
        torch.testing.assert_close(got, factor[:, None] * reversed_, rtol=1e-4, atol=1e-7)
    # And, unlike in `cdan`, the predictions feel it.
    assert torch.autograd.grad(swapped, out.logits_s)[0].abs().max() > 0


def theirs_undetached(d_s: Tensor, d_t: Tensor) -> Tensor:
    """The discriminator's loss as a function of the encoder, written out (source 0, target 1)."""
    return torch.log1p(d_s.exp()).mean() + torch.log1p((-d_t).exp()).mean()


@needs_extra
def test_entropy_weights_are_normalised_by_their_maximum() -> None:
    method = ready("CDANEHook")
    out, batch = given(method)
    terms = method.terms(out, batch)
    d = method.parts.models["D"]
    d_s = d(multilinear(out.z_s, out.logits_s.softmax(1)))
    w = entropy_weights(out.logits_s)
    ours_s = 2.0 * domain_loss(-d_s, torch.full((1,), -60.0), w, torch.ones(1))
    expected = ours_s * w.mean() / w.max()
    torch.testing.assert_close(terms["d_src_domain_loss"], expected, rtol=1e-5, atol=1e-6)


@needs_extra
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_mcc_is_ours(temperature: float) -> None:
    layers = load("pytorch_adapt.layers")
    _, logits, _ = outputs(20)
    theirs = layers.MCCLoss(T=temperature)(logits)
    torch.testing.assert_close(theirs, mcc(logits, temperature), rtol=1e-5, atol=1e-6)
    method = ready("MCCHook")
    out, batch = given(method)
    torch.testing.assert_close(
        method.terms(out, batch)["mcc_loss"], mcc(out.logits_t, 1.0), rtol=1e-5, atol=1e-6
    )


@needs_extra
@pytest.mark.parametrize("kernels", [1, 5])
def test_quadratic_mmd_is_ours_at_its_scale(kernels: int) -> None:
    layers = load("pytorch_adapt.layers")
    z_s, _, _ = outputs(14, seed=1)
    z_t, _, _ = outputs(9, shift=0.7, seed=2)
    # Its bandwidth: the median over all pairs of the source, each sample with itself as well.
    g = float(torch.cdist(z_s, z_s).square().flatten().median())
    # A list of scales c there is exp(-c d / g); our kernels divide g by the same powers of two.
    half = kernels // 2
    scales = 2.0 ** torch.arange(-half, half + 1).float() if kernels > 1 else 1.0
    theirs = layers.MMDLoss(kernel_scales=scales, mmd_type="quadratic")(z_s, z_t)
    mine = mmd(z_s, z_t, estimator="unbiased", kernels=kernels, scale=g)
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
    default = mmd(z_s, z_t, estimator="unbiased", kernels=kernels)
    assert abs(float(default - mine)) > 1e-3


@needs_extra
def test_linear_mmd_pairs_neighbours() -> None:
    layers = load("pytorch_adapt.layers")
    z_s, _, _ = outputs(8, seed=1)
    z_t, _, _ = outputs(8, shift=0.7, seed=2)
    g = float(torch.cdist(z_s, z_s).square().flatten().median())

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / g)

    expected = np.mean(
        [
            k(z_s[i], z_s[i + 1]) + k(z_t[i], z_t[i + 1])
            - k(z_s[i], z_t[i + 1]) - k(z_s[i + 1], z_t[i])
            for i in range(0, 8, 2)
        ]
    )  # fmt: skip
    assert float(layers.MMDLoss()(z_s, z_t)) == pytest.approx(float(expected), abs=1e-5)


@needs_extra
def test_other_losses_beside_ours() -> None:
    layers = load("pytorch_adapt.layers")
    z_s, logits, _ = outputs(20, seed=1)
    z_t, _, _ = outputs(15, shift=0.5, seed=2)
    d = z_s.shape[1]
    covariance = torch.cov(z_s.T) - torch.cov(z_t.T)
    expected = covariance.square().sum() / (4 * d * d)
    torch.testing.assert_close(layers.CORALLoss()(z_s, z_t), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(coral(z_s, z_t), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layers.BNMLoss()(logits), bnm(logits), rtol=1e-5, atol=1e-6)


# Validators ---------------------------------------------------------------------------------------


def split(n: int, shift: float = 0.0, seed: int = 0, known: bool = False) -> Outputs:
    z, logits, y = outputs(n, shift, seed)
    return Outputs(logits, z, y if known else None)


SOURCE, TARGET = split(40, 0.0, 1, known=True), split(30, 1.0, 2)


@needs_extra
def test_validators_that_we_have_as_well() -> None:
    expected = {
        "IMValidator": ours.information_maximisation(TARGET),
        "EntropyValidator": -ours.entropy(TARGET),
        "DiversityValidator": math.log(ours.effective_classes(TARGET)),
        "AccuracyValidator": ours.source_val_accuracy(SOURCE),
        "ErrorValidator": ours.source_val_accuracy(SOURCE) - 1.0,
    }
    for name, value in expected.items():
        assert bridge.validator(name)(SOURCE, TARGET) == pytest.approx(value, abs=1e-5), name


@needs_extra
def test_validators_by_their_formulas() -> None:
    p = TARGET.logits.double().softmax(1).numpy()
    nuclear = np.linalg.svd(p, compute_uv=False).sum() / len(p)
    assert bridge.validator("BNMValidator")(SOURCE, TARGET) == pytest.approx(nuclear, abs=1e-5)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    densities = []
    for i in range(len(p)):
        near = np.exp(np.delete(unit[i] @ unit.T, i) / 0.05)
        near /= near.sum()
        densities.append(-(near * np.log(near)).sum())
    assert bridge.validator("SNDValidator")(SOURCE, TARGET) == pytest.approx(
        np.mean(densities), abs=1e-3
    )


@needs_extra
def test_the_mmd_validator_works_by_default() -> None:
    g = float(torch.cdist(SOURCE.z, SOURCE.z).square().flatten().median())
    expected = -mmd(SOURCE.z, TARGET.z, estimator="unbiased", kernels=1, scale=g)
    score = bridge.validator("MMDValidator")
    assert score(SOURCE, TARGET) == pytest.approx(float(expected), abs=1e-4)
    # The training split is used where it is given.
    assert score(SOURCE, TARGET, TARGET) > score(SOURCE, TARGET)
    with pytest.raises(DomadaptError, match="cannot be made from these arguments"):
        bridge.validator("MMDValidator", mmd_kwargs={"mmd_type": "linear"})


@needs_extra
@pytest.mark.parametrize("name", ["MMDValidator", "KNNValidator", "ISTValidator"])
def test_domains_that_mix_score_higher(name: str) -> None:
    score = bridge.validator(name)
    apart, mixed = split(30, 8.0, 2), split(30, 0.0, 2)
    assert score(SOURCE, mixed) > score(SOURCE, apart) + 0.03


@needs_extra
def test_every_validator_scores_or_says_what_it_wants() -> None:
    wanting = {
        "APValidator": "num_classes",
        "DeepEmbeddedValidator": "temp_folder",
        "MultipleValidators": "validators",
        "PerClassValidator": "validator",
    }
    for name in bridge.validator_names():
        if name in wanting:
            with pytest.raises(DomadaptError, match=wanting[name]):
                bridge.validator(name)
        else:
            assert math.isfinite(bridge.validator(name)(SOURCE, TARGET)), name
    ap = bridge.validator("APValidator", torchmetric_kwargs={"num_classes": N_CLASSES})
    assert 0.0 <= ap(SOURCE, TARGET) <= 1.0
    with pytest.raises(DomadaptError, match="Did you mean 'IMValidator'"):
        bridge.validator("IMValidators")


@needs_extra
def test_labels_of_the_target_are_out_of_reach() -> None:
    labelled = replace(TARGET, y=torch.zeros(30, dtype=torch.long))
    cheat = bridge.validator("AccuracyValidator", key_map={"target_train": "src_val"})
    with pytest.raises(DomadaptError, match=r"cannot score these outputs: KeyError: 'labels'"):
        cheat(SOURCE, labelled)
    for name in ("TargetKNNValidator", "ClassClusterValidator", "NearestSourceValidator"):
        score = bridge.validator(name)
        assert score(SOURCE, labelled) == score(SOURCE, TARGET)
    strange = bridge.validator("EntropyValidator", key_map={"target_test": "target_train"})
    with pytest.raises(DomadaptError, match="asks for the splits target_test"):
        strange(SOURCE, TARGET)


@needs_extra
def test_features_of_a_part_of_a_split() -> None:
    rows = torch.tensor([3, 5, 8, 13, 21, 27])
    part = Outputs(TARGET.logits, TARGET.z[rows], None, rows)
    cut = Outputs(TARGET.logits[rows], TARGET.z[rows])
    for name in ("TargetKNNValidator", "ClassClusterValidator", "MMDValidator"):
        score = bridge.validator(name)
        assert score(SOURCE, part) == score(SOURCE, cut), name
    # Who looks at predictions sees all of them.
    entropy = bridge.validator("EntropyValidator")
    assert entropy(SOURCE, part) == entropy(SOURCE, TARGET)


@needs_extra
def test_scores_repeat_and_leave_random_numbers_alone() -> None:
    # Many samples without clusters, so that k-means ends where it happened to begin.
    score, target = bridge.validator("ClassClusterValidator"), split(400, seed=4)
    found = set()
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        found.add(score(SOURCE, target))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert len(found) == 1


@needs_extra
def test_validators_made_already() -> None:
    module = load("pytorch_adapt.validators")
    several = module.MultipleValidators(
        [module.EntropyValidator(), module.BNMValidator()], weights=[1.0, 2.0]
    )
    expected = bridge.validator("EntropyValidator")(SOURCE, TARGET) + 2.0 * bridge.validator(
        "BNMValidator"
    )(SOURCE, TARGET)
    assert bridge.validator(several)(SOURCE, TARGET) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DomadaptError, match="got int"):
        bridge.validator(3)


@needs_extra
def test_a_validator_after_the_trainer() -> None:
    from domadapt.inference import outputs_of

    task = small_task()
    trainer = small_trainer("pytorch_adapt:DANNHook", task, steps=4)
    network = trainer.fit()
    source_val = outputs_of(network, task.source_val, trainer.views)
    target = outputs_of(network, task.target_train, trainer.views)
    score = bridge.validator("IMValidator")(source_val, target)
    assert score == pytest.approx(ours.information_maximisation(target), abs=1e-5)
