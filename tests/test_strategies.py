"""Strategies of fine-tuning: what trains, when, how fast, and that the rest stays bit for bit."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from small import N_CLASSES, N_FEATURES, same_bits, small_task
from torch import Tensor, nn

from domadapt.data.views import make_views
from domadapt.defaults import training_for
from domadapt.errors import DomadaptError
from domadapt.losses.starting_point import l2_sp
from domadapt.methods import build_method, is_source_free, method_class, method_names
from domadapt.network import Network
from domadapt.optimizers import make_optimizer
from domadapt.strategies.adapters import Adapted, Adapter, insert_adapters, restore_adapters
from domadapt.strategies.depth import depths
from domadapt.strategies.lora import merged
from domadapt.strategies.spec import meaning, read_strategy, table
from domadapt.strategies.tuning import Tuning, in_words, prepare, tuning_of
from domadapt.trainer import Trainer
from domadapt.training import Training

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
EXAMPLE = torch.zeros(2, N_FEATURES)


def block(i: int, o: int) -> nn.Module:
    return nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.2))


def deep_network(seed: int = 0) -> Network:
    """Three blocks of 8 units: 6*8+8 +16 = 72, then 8*8+8 +16 = 88 each; head 8*3+3 = 27."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(block(N_FEATURES, 8), block(8, 8), block(8, 8))
    return Network(backbone, nn.Linear(8, N_CLASSES))


def tuning(
    finetune: str, steps: int = 20, network: Network | None = None, **more: object
) -> Tuning:
    network = network or prepare(deep_network(), finetune, EXAMPLE, 0)
    found = tuning_of(network, Training(steps=steps, finetune=finetune, **more), steps, "it")  # type: ignore[arg-type]
    assert found is not None
    return found


def trainer_of(
    finetune: str, method: str = "source_only", path: Path | None = None, **training: object
) -> Trainer:
    network = prepare(deep_network(), finetune, EXAMPLE, 0)
    how = Training(
        **{"steps": 20, "batch_size": 16, "log_every": 5, "device": "cpu", **training},  # type: ignore[arg-type]
        finetune=finetune,
    )
    views = make_views("vector", None, None, scale=torch.ones(N_FEATURES))
    built = build_method(method, network)
    return Trainer(built, small_task(), views, how, checkpoint_path=path, key="k")


# What is said


def test_a_strategy_is_read_with_its_defaults() -> None:
    assert read_strategy("full").plain
    one = read_strategy("partial:2+layer_decay:0.5")
    assert (one.base, one.amount, one.decay) == ("partial", 2, 0.5)
    ulmfit = read_strategy("ulmfit")
    assert (ulmfit.base, ulmfit.schedule) == ("gradual", "slanted")
    assert ulmfit.decay == pytest.approx(1 / 2.6)
    assert read_strategy("l2_sp").base == "full"
    assert not read_strategy("l2_sp").plain


def test_the_list_names_every_part_as_it_may_be_said() -> None:
    shown = [name for name, _, _ in table()]
    assert {"partial:1", "lora:8", "+l2_sp:0.1", "ulmfit", "full"} <= set(shown)
    for name in shown:
        assert read_strategy(name.removeprefix("+")).text == name.removeprefix("+")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lpft", "Did you mean 'lp_ft'"),
        ("partial:0", r"whole number from 1.*partial:0"),
        ("partial:1.5", "whole number"),
        ("lora:x", "whole number"),
        ("lp_ft:1", "below 1"),
        ("full:3", "takes no number"),
        ("partial+gradual", "says partial and gradual"),
        ("partial+partial", "each part once"),
        ("discriminative+layer_decay", "Leave out one"),
        ("l2_sp:0", "above 0"),
        ("adapters+l2_sp", "leave one of the two out"),
        ("", "no fine-tuning strategy"),
    ],
)
def test_a_wrong_strategy_is_refused_by_the_settings(text: str, said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        Training(finetune=text)


def test_light_strategies_learn_faster_in_a_transformer() -> None:
    rates = [
        training_for("transformer", {"finetune": text, **more}).lr
        for text, more in (("full", {}), ("lora:4", {}), ("adapters", {}), ("lora", {"lr": 3e-5}))
    ]
    assert rates == [2e-5, 1e-4, 1e-4, 3e-5]
    assert training_for("scratch", {"finetune": "lora"}).lr == training_for("scratch").lr


def test_full_is_no_part_of_a_hash() -> None:
    assert "finetune" not in Training().asked()
    assert Training(finetune="bitfit").asked()["finetune"] == "bitfit"
    assert "lr" in Training().asked()


# What trains


@pytest.mark.parametrize(
    ("finetune", "count"),
    [
        ("feature_extraction", 27),
        ("partial:1", 27 + 88),
        ("partial:3", 27 + 88 + 88 + 72),
        # Biases of a linear layer and of its BatchNorm in each block.
        ("bitfit", 27 + 3 * 16),
        # down 8*4+4, up 4*8+8 after each block; BatchNorm 16 in each; the head.
        ("adapters:4", 27 + 3 * (36 + 40 + 16)),
        ("lp_ft", 275),
        ("gradual", 275),
    ],
)
def test_counts_of_trained_parameters(finetune: str, count: int) -> None:
    said = tuning(finetune).describe()
    assert said["trained"] == count
    assert f"{count:,} of" in in_words(said)


@needs_peft
def test_lora_trains_its_updates_and_the_head() -> None:
    # Rank 2: 2 * (6 + 8) in the first block, 2 * (8 + 8) in the others.
    said = tuning("lora:2").describe()
    assert said["trained"] == 27 + 28 + 32 + 32
    assert all("lora_" in n or n.startswith("head.") for n in said["names"])


def test_what_stands_before_and_after_the_blocks_has_a_place() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(N_FEATURES, 8)
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    encoder = Encoder()
    network = Network(encoder, nn.Linear(8, 2), nn.Linear(8, 8))
    found = depths(network)
    assert found.blocks == ("layers.0", "layers.1", "layers.2")
    where = {n: found.of[id(p)] for n, p in network.named_parameters() if n.endswith("weight")}
    assert where == {
        "backbone.stem.weight": 0,
        "backbone.layers.0.weight": 1,
        "backbone.layers.1.weight": 2,
        "backbone.layers.2.weight": 3,
        "backbone.norm.weight": 3,
        "bottleneck.weight": 4,
        "head.weight": 4,
    }


def test_gradual_unfreezes_one_block_more_at_a_time_from_the_top() -> None:
    one = tuning("gradual:0.6", steps=20)
    # Head at 0, then a block every 0.2 of the run: steps 4, 8, 12.
    assert [p.first for p in one.phases] == [0, 4, 8, 12]
    network = one.network
    sizes = []
    for step in (0, 3, 4, 7, 8, 11, 12, 19):
        one.enter(step)
        if step == 0:
            one.begin()
        sizes.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    assert sizes == [27, 27, 115, 115, 203, 203, 275, 275]
    one.end()
    assert all(p.requires_grad for p in network.parameters())


def test_rates_fall_with_the_depth() -> None:
    network = deep_network()
    method = build_method("source_only", network)
    how = Training(lr=1.0, finetune="discriminative", head_lr_multiple=10.0)
    groups = make_optimizer(method, how, tuning_of(network, how, 10, "it")).param_groups
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    got = [rate[id(network.get_parameter(f"backbone.{i}.0.weight"))] for i in (0, 1, 2)]
    assert got == pytest.approx([0.0568957, 0.1479290, 0.3846154], rel=1e-5)
    assert rate[id(network.head.weight)] == pytest.approx(10.0)
    adapted = trainer_of("adapters:4", lr=1.0, head_lr_multiple=10.0)
    groups = make_optimizer(adapted.method, adapted.training, adapted.tuning).param_groups
    named = dict(adapted.method.network.named_parameters())
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    # What was put in is as new as the head; norms of the backbone are not.
    assert rate[id(named["backbone.0.adapter.up.weight"])] == 10.0
    assert rate[id(named["backbone.0.block.1.weight"])] == 1.0
    decayed = tuning("layer_decay:0.5")
    scales = [decayed.scale(decayed.network.get_parameter(f"backbone.{i}.0.bias")) for i in (0, 2)]
    assert scales == [0.125, 0.5]


def test_slanted_triangle_at_hand_computed_points() -> None:
    how = Training(steps=100, schedule="slanted")
    # Over a tenth from 1/32 to 1, then down to 1/32: halfway up (1 + 15.5) / 32.
    got = [how.lr_factor(p) for p in (0.0, 0.05, 0.1, 0.55, 0.99)]
    assert got == pytest.approx([0.03125, 0.515625, 1.0, 0.515625, 0.042014], abs=1e-6)
    ulmfit = tuning("ulmfit", steps=100)
    assert ulmfit.lr_factor(5) == pytest.approx(0.515625)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("full", "every parameter trains"),
        ("lp_ft", "for the first 0.3 of the run"),
        ("lp_ft:0.5", "for the first 0.5 of the run"),
        ("lora", "of rank 8 "),
        ("partial:2", "only the last 2 train"),
        ("discriminative", "2.6 times as slowly"),
        ("ulmfit", "gradual+discriminative with the slanted triangle"),
    ],
)
def test_what_a_part_means_names_its_number(part: str, words: str) -> None:
    assert words in meaning(part)


def test_each_phase_of_lp_ft_has_the_schedule_to_itself() -> None:
    one = tuning("lp_ft:0.5", steps=20, schedule="cosine")
    seen = []
    for step in (0, 5, 10, 15):
        one.enter(step)
        seen.append(one.lr_factor(step))
    assert seen == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_l2_sp_and_its_gradient_in_closed_form() -> None:
    w = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    w0 = torch.tensor([[0.0, -2.0], [1.5, 1.0]])
    v = torch.tensor([2.0, -1.0], requires_grad=True)
    value = l2_sp([w], [w0], [v], 0.1, 0.01)
    # (1 + 0 + 1 + 4) * 0.05 + 5 * 0.005
    assert value.item() == pytest.approx(0.325)
    value.backward()
    torch.testing.assert_close(w.grad, 0.1 * (w.detach() - w0))
    torch.testing.assert_close(v.grad, 0.01 * v.detach())
    assert float(l2_sp([], [], [], 1.0, 1.0)) == 0.0


def test_l2_sp_holds_the_backbone_near_its_start_and_replaces_weight_decay() -> None:
    start = deep_network().backbone.get_parameter("1.0.weight").detach()

    def distance(finetune: str) -> float:
        network = trainer_of(finetune, steps=60, lr=1e-2).fit()
        return float((network.backbone.get_parameter("1.0.weight") - start).norm())

    assert distance("l2_sp:10") < 0.3 * distance("full")
    one = trainer_of("l2_sp")
    groups = make_optimizer(one.method, one.training, one.tuning).param_groups
    assert {g["weight_decay"] for g in groups} == {0.0}
    one.fit()
    assert "loss/l2_sp" in one.history
    assert one.history["loss/l2_sp"][-1] > 0


# What stays


def state_of(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = network.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(prefix)}


@pytest.mark.parametrize("method", ["source_only", "dann", "mean_teacher", "mcc"])
def test_frozen_blocks_stay_bit_for_bit_with_their_statistics(method: str) -> None:
    before = deep_network().state_dict()
    network = trainer_of("partial:1", method, log_every=2).fit()
    after = network.state_dict()
    for name, value in before.items():
        same = torch.equal(value, after[name])
        assert same == name.startswith(("backbone.0.", "backbone.1.")), name
    assert all(p.requires_grad for p in network.parameters()) or method == "mean_teacher"


def test_bitfit_changes_biases_alone() -> None:
    before = deep_network().state_dict()
    after = trainer_of("bitfit").fit().state_dict()
    for name, value in before.items():
        moves = name.startswith("head.") or name.endswith(".bias") or "running" in name
        moves = moves or name.endswith("num_batches_tracked")
        assert torch.equal(value, after[name]) != moves, name


def test_the_first_phase_of_lp_ft_leaves_the_backbone_bit_identical() -> None:
    seen = {}
    trainer = trainer_of("lp_ft:0.5")
    trainer.fit(look=lambda step, net: seen.update({step: copy.deepcopy(net)}), looks=20)
    start = deep_network()
    assert same_bits(seen[10].backbone, start.backbone)
    assert not same_bits(seen[1].head, start.head)
    assert not same_bits(seen[11].backbone, start.backbone)


def test_everything_trains_again_after_a_run() -> None:
    network = trainer_of("feature_extraction").fit()
    assert all(p.requires_grad for p in network.parameters())


# Resuming, and every method


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "finetune",
    [
        "lp_ft:0.5",
        "gradual",
        "ulmfit+l2_sp",
        "adapters:4",
        pytest.param("lora:2", marks=needs_peft),
    ],
)
def test_resume_in_the_middle_of_a_phase_is_exact(
    finetune: str, optimizer: str, tmp_path: Path
) -> None:
    given = {"optimizer": optimizer, "checkpoint_every": 1, "log_every": 1, "clip": 1.0}
    whole = trainer_of(finetune, "mcc", **given).fit()
    for kill in (3, 12):

        class Killed(Exception):
            pass

        def end(log: object, at: int = kill) -> None:
            if log.step == at:  # type: ignore[attr-defined]
                raise Killed

        path = tmp_path / f"{kill}.safetensors"
        with pytest.raises(Killed):
            trainer_of(finetune, "mcc", path, **given).fit(end)
        again = trainer_of(finetune, "mcc", path, **given)
        assert same_bits(again.fit(), whole)
        assert again.step == 20


@pytest.mark.parametrize("name", sorted(method_names()))
def test_every_method_takes_a_strategy_or_says_why_not(name: str) -> None:
    if method_class(name).closed_form or is_source_free(name):
        pytest.skip("it goes on from another model, or maps rows")
    if method_class(name).needs_text:
        pytest.skip("it takes texts, and strategies of encoders are tested in test_strategies_hf")
    for finetune in ("lp_ft:0.5", "adapters:4"):
        trainer = trainer_of(finetune, name, steps=4, log_every=2)
        network = trainer.fit()
        assert all(torch.isfinite(p).all() for p in network.parameters())


@pytest.mark.parametrize("name", ["shot", "tent", "nrc"])
def test_what_a_source_free_method_freezes_stays_frozen(name: str) -> None:
    start = deep_network().head.weight.detach().clone()
    try:
        network = trainer_of("partial:1", name).fit()
    except DomadaptError as error:
        pytest.skip(f"needs more than this task: {error}")
    if name != "nrc":
        assert torch.equal(network.head.weight, start)


def test_a_phase_in_which_nothing_would_train_is_refused() -> None:
    with pytest.raises(DomadaptError, match="shot keeps as it is all that the strategy lp_ft"):
        trainer_of("lp_ft", "shot")


# Adapters and LoRA


def test_adapters_are_the_identity_at_the_start_for_vectors_maps_and_tokens() -> None:
    for x, first in (
        (torch.randn(3, 5), False),
        (torch.randn(3, 5, 4, 4), True),
        (torch.randn(3, 7, 5), False),
    ):
        adapter = Adapter(5, 2, first)
        assert torch.equal(adapter(x), x)
        nn.init.ones_(adapter.up.weight)
        y = adapter(x)
        assert y.shape == x.shape
        # Against the formula, channel by channel.
        moved = x.movedim(1, -1) if first else x
        down = moved @ adapter.down.weight.reshape(2, 5).T + adapter.down.bias
        want = moved + torch.relu(down).sum(-1, keepdim=True)
        torch.testing.assert_close(y, want.movedim(-1, 1) if first else want)


def test_adapters_keep_the_function_the_blocks_and_the_random_numbers() -> None:
    network = deep_network().eval()
    x = torch.randn(4, N_FEATURES)
    before, names, drawn = network(x), list(network.blocks()), torch.get_rng_state()
    insert_adapters(network, EXAMPLE, 4, seed=0)
    assert torch.equal(network(x), before)
    assert list(network.blocks()) == names
    assert torch.equal(torch.get_rng_state(), drawn)
    insert_adapters(network, EXAMPLE, 4, seed=0)
    assert sum(isinstance(m, Adapted) for m in network.modules()) == 3


def test_channels_are_found_in_convolution_nets_and_transformers() -> None:
    conv = Network(
        nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()) for _ in range(2))),
        nn.Linear(3, 2),
    )
    insert_adapters(conv, torch.zeros(2, 3, 8, 8), 2, seed=0)
    assert isinstance(conv.backbone[1].adapter.down, nn.Conv1d)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    encoder = nn.Sequential(nn.TransformerEncoder(layer, 3), Mean())
    text = Network(encoder, nn.Linear(8, 2))
    x = torch.randn(2, 5, 8)
    before = text.eval()(x)
    insert_adapters(text, x, 2, seed=0)
    assert [tuple(m.adapter.down.weight.shape) for m in text.modules() if isinstance(m, Adapted)]
    torch.testing.assert_close(text(x), before)


def test_adapters_come_back_from_saved_weights() -> None:
    network = prepare(deep_network(), "adapters:4", EXAMPLE, 0)
    for adapter in (m.adapter for m in network.modules() if isinstance(m, Adapted)):
        nn.init.normal_(adapter.up.weight)
    again = deep_network(seed=1)
    restore_adapters(again, network.state_dict())
    again.load_state_dict(network.state_dict())
    x = torch.randn(3, N_FEATURES)
    assert torch.equal(again.eval()(x), network.eval()(x))


@needs_peft
def test_lora_begins_as_the_identity_and_merges_into_a_plain_network() -> None:
    plain = deep_network().eval()
    network = prepare(copy.deepcopy(plain), "lora:2", EXAMPLE, 0).eval()
    x = torch.randn(4, N_FEATURES)
    assert torch.equal(network(x), plain(x))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    whole = merged(network)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(whole(x), network(x))
    assert not torch.allclose(whole(x), plain(x))
    # W + 2 B A
    layer = network.backbone[0][0]
    want = plain.backbone[0][0].weight + 2 * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    torch.testing.assert_close(whole.backbone[0][0].weight, want)
    assert merged(plain) is plain


@needs_peft
def test_lora_after_training_has_the_names_of_the_plain_network() -> None:
    network = trainer_of("lora:2").fit()
    assert network.state_dict().keys() == deep_network().state_dict().keys()


def test_without_peft_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DomadaptError, match=r"pip install 'domadapt\[peft\]'"):
        prepare(deep_network(), "lora", EXAMPLE, 0)


def test_refusals_name_the_blocks() -> None:
    with pytest.raises(DomadaptError, match=r"asks for 4 blocks, and the backbone has 3 \(0, 1, 2"):
        tuning("partial:4")
    bare = Network(nn.Flatten(), nn.Linear(N_FEATURES, 2))
    with pytest.raises(DomadaptError, match="none that could train"):
        tuning("gradual", network=bare)
    with pytest.raises(DomadaptError, match="before the method was made"):
        tuning("adapters", network=deep_network())
    assert math.isclose(tuning("feature_extraction", network=bare).describe()["trained"], 14)


def test_the_default_leaves_the_trainer_as_it_is() -> None:
    one = trainer_of("full")
    assert one.tuning is None
    groups = make_optimizer(one.method, one.training).param_groups
    assert [len(g["params"]) for g in groups] == [4, 10]
