"""Blocks, initialisations, arrangements, CKA, probes and criticality, each against a statement of
its own.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from domadapt.data import from_arrays
from domadapt.data.views import make_views
from domadapt.errors import DomadaptError
from domadapt.layers import (
    Arrangement,
    Block,
    Reset,
    activations,
    arranged,
    blocks_of,
    criticality,
    domain_cka,
    linear_cka,
    reinitialise,
    rewound,
)
from domadapt.layers.arrangement import copied, inverse, localised, permutations, progressive
from domadapt.layers.criticality import curve, state_of
from domadapt.layers.probing import probe
from domadapt.network import Network, short_blocks
from domadapt.resnet_cifar import ResNetCifar
from domadapt.task import Split
from domadapt.transfer.probe import held_out_probe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(width: int = 6, blocks: int = 4) -> Network:
    """A chain of equal blocks, each with weight, bias and BatchNorm, none at its initial value."""
    torch.manual_seed(3)
    parts = [
        nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        for _ in range(blocks)
    ]
    network = Network(nn.Sequential(*parts), nn.Linear(width, 2))
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape) + 0.5)
    return network


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


# Blocks


def test_what_has_no_weights_of_its_own_belongs_to_the_block_before() -> None:
    resnet = Network.from_classifier(ResNetCifar(3))
    blocks = blocks_of(resnet)
    assert [b.name for b in blocks] == [
        "conv1",
        *(f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)),
    ]
    assert [type(m).__name__ for m in blocks[0].modules] == ["Conv2d", "BatchNorm2d"]
    assert sum(b.parameters for b in blocks) == sum(p.numel() for p in resnet.backbone.parameters())
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3)
    )
    assert [len(b.modules) for b in blocks_of(Network(plain, nn.Linear(3, 2)))] == [3, 1]


def test_blocks_by_name_and_what_is_refused() -> None:
    resnet = Network.from_classifier(ResNetCifar(3))
    named = blocks_of(resnet, ["layer1", "layer3.0"])
    assert [b.name for b in named] == ["layer1", "layer3.0"]
    for names, reason in (
        (["layer1", "layer9"], "no module 'layer9'"),
        (["layer1", "layer1.0"], "lies inside"),
        (["layer1"], "at least 2"),
        (["layer1", "layer1"], "at least 2"),
    ):
        with pytest.raises(DomadaptError, match=reason):
            blocks_of(resnet, names)
    with pytest.raises(DomadaptError, match="at least 2 blocks"):
        blocks_of(Network(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), nn.Linear(3, 2)))


# Initialisations


def big() -> nn.Sequential:
    torch.manual_seed(1)
    block = nn.Sequential(nn.Linear(200, 300), nn.LayerNorm(300), nn.Conv1d(300, 50, 3))
    with torch.no_grad():
        for p in block.parameters():
            p.add_(torch.rand(p.shape))
    return block


@pytest.mark.parametrize(
    ("init", "bound", "spread"),
    # A normal of deviation 0.02 cut at ±c deviations: variance 0.0004 (1 - 2 c phi(c) / (2 Phi(c)
    # - 1)), by hand 0.000462 for c = 0.04 (as of a uniform: 0.0008 / sqrt 3) and 0.0176 for c = 2.
    [("released", 0.0008, 0.000462), ("bert", 0.04, 0.0176)],
)
def test_moments_of_what_is_drawn(init: str, bound: float, spread: float) -> None:
    block = big()
    reinitialise(block, Reset(init), generator())
    for part in (block[0], block[2]):
        w = part.weight.detach()
        assert w.abs().max() <= bound
        assert w.abs().max() > 0.97 * bound
        assert abs(float(w.std()) - spread) < 0.02 * spread
        assert abs(float(w.mean())) < 4 * spread / w.numel() ** 0.5


def test_a_permutation_keeps_the_values_of_each_tensor() -> None:
    block, before = big(), state(big())
    reinitialise(block, Reset("permute", biases="keep", norms="keep"), generator())
    for name, value in block.state_dict().items():
        if name in ("0.weight", "2.weight"):
            assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
            assert float((value == before[name]).float().mean()) < 0.01
        else:
            assert torch.equal(value, before[name])


def test_own_is_what_torch_begins_with_and_the_global_numbers_stay() -> None:
    block = big()
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    reinitialise(block, Reset("own"), generator())
    assert torch.equal(torch.rand(1), wanted)
    # Uniform with bound 1 / sqrt(inputs), torch's for linear layers and convolutions.
    for part, inputs in ((block[0], 200), (block[2], 900)):
        w, bound = part.weight.detach(), inputs**-0.5
        assert 0.97 * bound < float(w.abs().max()) <= bound
        assert abs(float(w.std()) - bound / 3**0.5) < 0.02 * bound
        assert not part.bias.any()
    assert torch.equal(block[1].weight, torch.ones(300))
    assert torch.equal(block[1].bias, torch.zeros(300))


def test_biases_norms_and_statistics() -> None:
    block = blocks_of(chain())[1].modules[0]
    before = state(block)
    reinitialise(block, Reset("released", biases="keep", norms="keep"), generator())
    after = state(block)
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["0.weight"]
    reinitialise(block, Reset("released"), generator())
    after = state(block)
    assert not after["0.bias"].any()
    assert not after["1.bias"].any()
    assert not after["1.running_mean"].any()
    assert torch.equal(after["1.weight"], torch.ones(6))
    assert torch.equal(after["1.running_var"], torch.ones(6))
    assert after["1.num_batches_tracked"] == 0


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3, 3), 7.0))
        self.linear = nn.Linear(3, 3)


class Owner(nn.Module):
    """A model in the manner of transformers."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Scaled):
            nn.init.constant_(module.scale, 0.25)


def test_own_of_what_does_not_say_how_it_begins() -> None:
    with pytest.raises(DomadaptError, match=r"'scale' is unknown.*--init permute"):
        reinitialise(Scaled(), Reset("own"), generator())
    block = Scaled()
    reinitialise(block, Reset("own"), generator(), owner=Owner())
    assert torch.equal(block.scale, torch.full((3, 3), 0.25))
    assert float(block.linear.weight.detach().abs().max()) <= 3**-0.5
    fresh, block = Scaled(), Scaled()
    nn.init.zeros_(fresh.scale)
    reinitialise(block, Reset("own"), generator(), fresh=fresh)
    assert not block.scale.any()
    assert torch.equal(block.linear.weight, fresh.linear.weight)


def test_choices_of_a_reset() -> None:
    for given in ({"init": "zero"}, {"biases": "reset"}, {"norms": "zero"}):
        with pytest.raises(DomadaptError, match="is one of"):
            Reset(**given)
    said = Reset("released", biases="keep").sentence()
    assert "0.0008" in said
    assert "biases kept" in said


# Arrangements


def test_windows_by_hand() -> None:
    assert [a.reset for a in progressive(3)] == [(0, 1, 2), (1, 2), (2,), ()]
    assert [a.reset for a in localised(4, 2)] == [(0, 1), (1, 2), (2, 3)]
    assert [a.reset for a in inverse(4, 3)] == [(3,), (0,)]
    assert [(a.reset, a.frozen) for a in copied(3, frozen=True)] == [
        ((1, 2), (0,)),
        ((2,), (0, 1)),
        ((), (0, 1, 2)),
    ]
    assert copied(3, frozen=False) == progressive(3)[1:]
    assert [len(localised(n, w)) for n in (3, 5) for w in (1, 3)] == [3, 1, 5, 3]
    for window in (0, 5):
        with pytest.raises(DomadaptError, match="between 1 and all 4"):
            localised(4, window)


def test_only_the_blocks_that_are_meant_change_and_begin_alike_everywhere() -> None:
    network = chain()
    before = state(network)
    blocks = blocks_of(network)
    arranged(network, blocks, Arrangement(reset=(1, 3)), Reset("own"), 4)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[1] for k in changed} == {"1", "3"}
    assert {k.partition(".")[0] for k in changed} == {"backbone"}
    other = chain()
    arranged(other, blocks_of(other), Arrangement(reset=(3,)), Reset("own"), 4)
    a, b = network.backbone[3][0].weight, other.backbone[3][0].weight
    assert torch.equal(a, b)
    assert not torch.equal(a, network.backbone[1][0].weight)
    third = chain()
    arranged(third, blocks_of(third), Arrangement(reset=(3,)), Reset("own"), 5)
    assert not torch.equal(a, third.backbone[3][0].weight)


def test_from_scratch_leaves_nothing() -> None:
    torch.manual_seed(0)
    resnet = Network.from_classifier(ResNetCifar(2))
    blocks = blocks_of(resnet, ["layer1", "layer2"])
    before = state(resnet.backbone)
    fresh = dict(Network.from_classifier(ResNetCifar(2)).backbone.named_modules())
    every = Arrangement(reset=(0, 1), outside=True)
    arranged(resnet, blocks, every, Reset("own"), 0, fresh)
    for name, value in resnet.backbone.state_dict().items():
        if "conv" in name:
            assert not torch.equal(value, before[name])
            assert torch.equal(value, fresh[""].state_dict()[name])


def test_orders_exchange_only_what_is_alike() -> None:
    resnet = Network.from_classifier(ResNetCifar(3))
    blocks = blocks_of(resnet)
    orders = permutations(blocks, 5)
    assert len({a.order for a in orders}) == 5
    for a in orders:
        assert sorted(a.order) == list(range(10))
        assert a.order != tuple(range(10))
        # The first block of a stage changes the width and is like no other.
        assert [i for i in (0, 4, 7) if a.order[i] != i] == []
        assert set(a.order[1:4]) == {1, 2, 3}
    before = [state(b.modules[-1]) for b in blocks]
    arranged(resnet, blocks, orders[0], Reset(), 0)
    for i, j in enumerate(orders[0].order):
        for key, value in blocks[i].modules[-1].state_dict().items():
            assert torch.equal(value, before[j][key])
    odd = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    with pytest.raises(DomadaptError, match="shape of its own"):
        permutations(blocks_of(Network(odd, nn.Linear(5, 2))), 3)


def test_frozen_blocks_do_not_move_even_in_their_statistics() -> None:
    network = chain()
    blocks = blocks_of(network)
    arranged(network, blocks, Arrangement((2, 3), (0, 1)), Reset(), 0)
    before = state(network)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    network(torch.rand(8, 6)).square().sum().backward()
    optimizer.step()
    moved = {k.split(".")[1] for k, v in state(network).items() if not torch.equal(v, before[k])}
    assert moved == {"2", "3", "weight", "bias"}
    assert network.backbone[2].training
    assert not network.backbone[0][1].training
    assert copy.deepcopy(network).train().backbone[1].training is False


# CKA


def naive_hsic(k: np.ndarray, g: np.ndarray) -> float:
    """The unbiased estimate as a mean over all ordered quadruples of different samples."""
    n, total = len(k), 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (g[i, j] + g[q, r] - 2 * g[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def test_cka_against_its_formulas() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 4))
    x[:, 0] += y[:, 1]
    a, b = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    plain = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    t = torch.from_numpy
    assert linear_cka(t(x), t(y), unbiased=False) == pytest.approx(plain, rel=1e-12)
    k, g = x @ x.T, y @ y.T
    wanted = naive_hsic(k, g) / np.sqrt(naive_hsic(k, k) * naive_hsic(g, g))
    assert linear_cka(t(x), t(y)) == pytest.approx(wanted, rel=1e-9)


def test_cka_is_blind_to_rotation_scale_and_shift_alone() -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(30, 5)) * [5, 3, 1, 1, 1])
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(5, 5)))[0])
    other = torch.from_numpy(rng.normal(size=(30, 5)))
    for unbiased in (True, False):
        assert linear_cka(x, 3 * x @ turn + 7, unbiased=unbiased) == pytest.approx(1)
        base = linear_cka(x, other, unbiased=unbiased)
        assert linear_cka(x @ turn, -other, unbiased=unbiased) == pytest.approx(base)
        assert linear_cka(x, x / torch.tensor([5, 3, 1, 1, 1]), unbiased=unbiased) < 0.95


def test_the_unbiased_estimate_of_unrelated_features_is_near_zero_and_the_plain_one_is_not() -> (
    None
):
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = (torch.from_numpy(rng.normal(size=(20, 50))) for _ in range(2))
        found.append((linear_cka(x, y), linear_cka(x, y, unbiased=False)))
    unbiased, plain = np.mean(found, axis=0)
    assert abs(unbiased) < 0.02
    assert plain > 0.6


def test_domains_are_compared_by_their_covariances() -> None:
    rng = np.random.default_rng(2)
    scale = np.array([4.0, 2.0, 1.0])
    a, b = rng.normal(size=(50, 3)) * scale, rng.normal(size=(60, 3)) * scale[::-1]
    t = torch.from_numpy
    c, d = np.cov(a.T), np.cov(b.T)
    wanted = np.trace(c @ d) / (np.linalg.norm(c) * np.linalg.norm(d))
    assert domain_cka(t(a), t(b), unbiased=False) == pytest.approx(wanted, rel=1e-10)
    assert domain_cka(t(a), t(b + 9)) == pytest.approx(domain_cka(t(a), t(b)))
    # Covariances diag(16, 4, 1) and diag(1, 4, 16): (16 + 16 + 16) / 273.
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        z_s = t(rng.normal(size=(40, 3)) * scale)
        z_t = t(rng.normal(size=(40, 3)) * scale[::-1])
        values.append(domain_cka(z_s, z_t))
    assert np.mean(values) == pytest.approx(48 / 273, abs=0.02)
    with pytest.raises(DomadaptError, match="same features"):
        domain_cka(torch.rand(9, 3), torch.rand(9, 4))
    with pytest.raises(DomadaptError, match="at least 4"):
        linear_cka(torch.rand(3, 2), torch.rand(3, 2))
    assert np.isnan(linear_cka(torch.ones(8, 2), torch.rand(8, 2)))


# Activations and probes


def split_of(x: np.ndarray, y: np.ndarray) -> Split:
    return Split("some", from_arrays(x, y, name="some"), np.arange(len(x)), torch.from_numpy(y))


def test_activations_are_those_of_a_plain_pass() -> None:
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    network = chain().train()
    split, views = split_of(x, np.arange(20) % 2), make_views("vector", "none", None)
    got = activations(network, blocks_of(network), split, views, batch_size=7)
    assert network.training
    network.eval()
    z = torch.from_numpy(x)
    for layer, found in zip(network.backbone, got, strict=True):
        z = layer(z)
        assert np.allclose(found, z.detach().numpy(), atol=1e-6)
    few = activations(network, blocks_of(network), split, views, max_samples=5)
    assert np.allclose(few[3], got[3][[0, 4, 9, 14, 19]], atol=1e-6)


def test_tokens_are_averaged_where_the_mask_shows_them() -> None:
    from domadapt.layers.probing import _pooled

    z = torch.arange(12.0).view(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    got = _pooled(z, {"attention_mask": mask}, True)
    assert got.tolist() == [[2.0, 3.0, 4.0, 5.0]]
    assert _pooled(z, torch.rand(1, 3), False).tolist() == [[1.5, 5.5, 9.5]]
    assert _pooled(torch.arange(8.0).view(1, 2, 2, 2), torch.rand(1), False).tolist() == [
        [1.5, 5.5]
    ]


def test_probes_are_a_penalised_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 8)), rng.integers(3, size=200)
    x[:, 0] += 1.5 * (y == 1)
    x[:, 1] += 1.5 * (y == 2)
    train, test = x[:150], x[150:]
    mean, scale = train.mean(0), train.std(0) * 8**0.5
    model = LogisticRegression(C=30.0, tol=1e-8, max_iter=5000).fit((train - mean) / scale, y[:150])
    wanted = model.score((test - mean) / scale, y[150:])
    assert probe([train], y[:150], [test], y[150:]) == [pytest.approx(wanted, abs=0.021)]
    values = x @ rng.normal(size=(8, 2))
    assert held_out_probe(train, values[:150], test, values[150:], regression=True) > 0.99
    with pytest.raises(DomadaptError, match="2 classes"):
        held_out_probe(train, np.zeros(150), test, np.zeros(50))


# Criticality


def test_a_rewound_block_lies_on_the_line_and_comes_back() -> None:
    network = chain()
    block = blocks_of(network)[1]
    final = state(network)
    start = {k: torch.full_like(v, 3) for k, v in state_of(block).items()}
    with rewound(block, start, 0.25):
        held = state(network)
    assert torch.allclose(held["backbone.1.0.weight"], 2.25 + 0.25 * final["backbone.1.0.weight"])
    ran = "backbone.1.1.running_mean"
    assert torch.allclose(held[ran], 2.25 + 0.25 * final[ran])
    assert torch.equal(held["backbone.2.0.weight"], final["backbone.2.0.weight"])
    assert all(torch.equal(v, final[k]) for k, v in network.state_dict().items())
    with rewound(block, start, 1.0, noise=0.5, draw=generator()):
        noise = network.backbone[1][0].weight - final["backbone.1.0.weight"]
        assert 0.3 < float(noise.detach().std()) < 0.7
        assert torch.equal(network.backbone[1][1].running_mean, final[ran])
    assert torch.equal(network.backbone[1][0].weight, final["backbone.1.0.weight"])


def test_criticality_by_hand() -> None:
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert criticality(alphas, [0.9, 0.9, 0.9, 0.9, 0.9]) == 0.0
    assert criticality(alphas, [0.1, 0.2, 0.895, 0.9, 0.9]) == 0.5
    assert criticality(alphas, [0.9, 0.2, 0.2, 0.2, 0.9]) == 1.0
    assert criticality(alphas, [0.0, 0.85, 0.9, 0.9, 0.9], tolerance=0.06) == 0.25


def test_a_curve_measures_the_network_as_it_is_at_each_alpha() -> None:
    network = chain()
    block = Block("0", (network.backbone[0],))
    start = {k: torch.zeros_like(v) for k, v in state_of(block).items()}
    weight = network.backbone[0][0].weight
    whole = float(weight.detach().sum())
    found = curve(block, start, lambda: float(weight.detach().sum()), alphas=(0.0, 0.5, 1.0))
    assert found == pytest.approx([0.0, whole / 2, whole], rel=1e-5)


@pytest.mark.parametrize(
    ("blocks", "short"),
    [
        (["model.encoder.layer.0", "model.encoder.layer.1"], ["layer.0", "layer.1"]),
        (["conv1", "layer1.0", "layer1.1"], ["conv1", "layer1.0", "layer1.1"]),
        (["0", "2"], ["0", "2"]),
        (["a.b", "a.b.c"], ["a.b", "a.b.c"]),
        (["a.b.c"], ["a.b.c"]),
    ],
)
def test_names_of_blocks_lose_what_all_share(blocks: list[str], short: list[str]) -> None:
    assert short_blocks(blocks) == short
