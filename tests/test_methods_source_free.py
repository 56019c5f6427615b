"""Source-free and test-time methods: what moves, what stays, and by which numbers."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import N_CLASSES, N_FEATURES, arrays, small_network, small_task, small_trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from domadapt.errors import DomadaptError
from domadapt.losses.source_free import centroid_labels
from domadapt.methods import BatchOutputs, Method, TargetView, build_method
from domadapt.network import Network
from domadapt.task import Batch

METHODS = ["adabn", "nrc", "shot", "tent"]
N = 24


def target(shift: float = 2.0) -> Tensor:
    return torch.from_numpy(arrays(N, shift=shift, seed=4)[0])


def batch(index: list[int] | None = None, x: Tensor | None = None) -> Batch:
    """Samples of the target by their positions; nothing of the source."""
    x = target() if x is None else x
    chosen = torch.arange(len(x)) if index is None else torch.tensor(index)
    return Batch(None, None, x[chosen], 0.5, index_t=chosen)


def ready(name: str, settings: dict[str, Any] | None = None, dropout: float = 0.0) -> Method:
    method = build_method(name, small_network(dropout=dropout), settings)
    method.setup(0, N)
    if method.refreshes:
        network = copy.deepcopy(method.network).eval()
        with torch.no_grad():
            z = network.features(target())
            method.refresh(TargetView(network.head(z), z), 0.0)
    return method.train()


def train(method: Method, steps: int = 3, size: int = 8, x: Tensor | None = None) -> None:
    learning = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=1e-2)
    for step in range(steps):
        first = step * size % N
        losses = method(batch(list(range(first, first + size)), x))
        if method.trains:
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad()
        method.after_step(0.5)


def moved(method: Method) -> set[str]:
    """The parameters that training changes."""
    before = {k: v.detach().clone() for k, v in method.named_parameters()}
    train(method)
    return {k for k, v in method.named_parameters() if not torch.equal(v, before[k])}


# All four -----------------------------------------------------------------------------------------


def test_what_learns() -> None:
    norm = {"network.backbone.1.weight", "network.backbone.1.bias"}
    linear = {"network.backbone.0.weight", "network.backbone.0.bias"}
    head = {"network.head.weight", "network.head.bias"}
    assert moved(ready("adabn")) == set()
    assert moved(ready("tent")) == norm
    # A bias before BatchNorm has no gradient but rounding's.
    assert norm | linear >= moved(ready("shot")) >= norm | {"network.backbone.0.weight"}
    assert moved(ready("nrc")) >= norm | head | {"network.backbone.0.weight"}


@pytest.mark.parametrize("name", METHODS)
def test_no_source_is_asked_for(name: str) -> None:
    method = ready(name)
    assert not method.needs_source
    out = method.outputs(batch())
    assert out.logits_s is None
    assert "source" not in method(batch()).terms


@pytest.mark.parametrize("name", METHODS)
def test_two_samples_a_class_and_an_even_answer_are_finite(name: str) -> None:
    method = ready(name)
    nn.init.zeros_(method.network.head.weight)  # type: ignore[arg-type]
    losses = method(batch([3, 4]))
    assert all(bool(torch.isfinite(v)) for v in losses.terms.values())
    if method.trains:
        losses.total.backward()
    for p in method.parameters():
        assert p.grad is None or bool(torch.isfinite(p.grad).all())


@pytest.mark.parametrize("name", METHODS)
def test_runs_on_the_target_alone(name: str) -> None:
    trainer = small_trainer(name)
    before = copy.deepcopy(trainer.method.network.state_dict())
    network = trainer.fit()
    assert not network.training
    after = network.state_dict()
    assert any(not torch.equal(after[k], before[k]) for k in after)
    asked = 12
    per_pass = math.ceil(len(small_task().target_train) / 16)
    assert trainer.step == (per_pass if name in ("adabn", "tent") else asked)


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"batch_size": 8, "checkpoint_every": 3, "log_every": 1}
    whole = small_trainer(name, **how).fit()

    class Killed(Exception):
        pass

    def kill(log: Any) -> None:
        if log.step == 5:
            raise Killed

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        small_trainer(name, path=path, **how).fit(kill)
    assert path.exists()
    resumed = small_trainer(name, path=path, **how).fit()
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def trained_on_source() -> Network:
    x, y = (torch.from_numpy(a) for a in arrays(120, shift=0.0, seed=1))
    network = small_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return network


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_added_to_the_inputs_is_undone(name: str) -> None:
    x, y = (torch.from_numpy(a) for a in arrays(N, shift=0.0, seed=2))
    x = x + torch.tensor([-6.0, 6.0, 0.0, 4.0, -4.0, 0.0])

    def right(network: Network) -> float:
        with torch.no_grad():
            return float((network.eval()(x).argmax(1) == y).double().mean())

    network = trained_on_source()
    before = right(network)
    method = build_method(name, network)
    method.setup(0, N)
    if method.refreshes:
        with torch.no_grad():
            z = network.features(x)
            method.refresh(TargetView(network.head(z), z), 0.0)
    train(method.train(), 60 if method.refreshes else 3, x=x)
    assert before < 0.5
    assert right(method.adapted()) > before + 0.2


# AdaBN and Tent -----------------------------------------------------------------------------------

TEST_TIME = ["adabn", "tent"]


@pytest.mark.parametrize("name", TEST_TIME)
def test_statistics_become_those_of_the_target(name: str) -> None:
    """Whatever they were before, and in equal parts of all batches."""
    method = ready(name)
    norm = method.network.backbone[1]  # type: ignore[index]
    assert isinstance(norm, nn.BatchNorm1d)
    first = method.network.backbone[0](target()).detach().numpy()  # type: ignore[index]
    train(method)
    parts = first.reshape(3, 8, -1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean, first.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.running_var, parts.var(1, ddof=1).mean(0), rtol=1e-4)


@pytest.mark.parametrize("name", TEST_TIME)
def test_dropout_is_off_and_batches_are_normalised_by_themselves(name: str) -> None:
    method = ready(name, dropout=0.5)
    one, two = method.outputs(batch()), method.outputs(batch())
    assert torch.equal(one.z_t, two.z_t)
    layer, norm = method.network.backbone[0], method.network.backbone[1]  # type: ignore[index]
    with torch.no_grad():
        z = layer(target())
        spread = torch.sqrt(z.var(0, correction=0) + norm.eps)
        torch.testing.assert_close(one.z_t.detach(), ((z - z.mean(0)) / spread).relu())
    # Evaluation in between (a refresh, class-balanced batches) changes nothing of it.
    method.network.eval()
    assert torch.equal(method.outputs(batch()).z_t, one.z_t)


@pytest.mark.parametrize("name", TEST_TIME)
def test_passes_decide_the_steps(name: str) -> None:
    assert build_method(name, small_network()).steps_for(1000, 7) == 7
    assert build_method(name, small_network(), {"passes": 3}).steps_for(2, 7) == 21
    with pytest.raises(DomadaptError, match="passes must be at least 1; got 0"):
        build_method(name, small_network(), {"passes": 0})


@pytest.mark.parametrize("name", TEST_TIME)
def test_a_network_without_batchnorm_is_refused(name: str) -> None:
    method = build_method(name, Network(nn.Linear(N_FEATURES, 4), nn.Linear(4, N_CLASSES)))
    with pytest.raises(DomadaptError, match=f"{name} needs BatchNorm layers"):
        small_trainer(method)


def test_tent_becomes_certain() -> None:
    method = ready("tent")
    before = float(method(batch()).terms["entropy"].detach())
    p = torch.softmax(method.outputs(batch()).logits_t, 1).detach().double().numpy()
    assert before == pytest.approx(float(-(p * np.log(p)).sum(1).mean()), rel=1e-5)
    train(method, steps=30)
    assert float(method(batch()).terms["entropy"].detach()) < 0.9 * before


def test_the_network_that_tent_keeps_says_what_tent_said() -> None:
    """In evaluation mode it agrees with the batches normalised by themselves."""
    method = ready("tent", {"passes": 2})
    for _ in range(5):
        method(batch())
    with torch.no_grad():
        said = method.outputs(batch()).logits_t.softmax(1)
        kept = method.adapted().eval()(target()).softmax(1)
    assert float((said - kept).abs().max()) < 0.02


# SHOT ---------------------------------------------------------------------------------------------


def test_shot_labels_the_whole_target_by_its_centroids() -> None:
    method = build_method("shot", small_network())
    method.setup(0, 6)
    assert method.pseudo_labels.tolist() == [-1] * 6  # type: ignore[operator]
    z = torch.tensor([[5.0, 0.1], [4.0, 0.0], [0.2, 3.0], [0.0, 3.0], [0.1, 2.0], [6.0, 0.3]])
    logits = torch.tensor([[2.0, 0.0, 0.0]] * 3 + [[0.0, 1.0, 0.0]] * 3)
    method.refresh(TargetView(logits, z), 0.0)
    # The third and the last lie with the other class; nobody predicts the third class.
    assert method.pseudo_labels.tolist() == [0, 0, 1, 1, 1, 0]  # type: ignore[operator]
    assert torch.equal(method.pseudo_labels, centroid_labels(z, logits.softmax(1)))  # type: ignore[arg-type]


def test_shot_terms_by_hand() -> None:
    method = ready("shot")
    method.pseudo_labels.copy_(torch.arange(N) % N_CLASSES)  # type: ignore[operator]
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    index = torch.tensor([5, 3, 1])
    found = method.terms(BatchOutputs(logits_t=logits), Batch(None, None, None, 0.5, index_t=index))
    p = torch.softmax(logits, 1).numpy()
    mean = p.mean(0)
    information = -(p * np.log(p)).sum(1).mean() + (mean * np.log(mean)).sum()
    assert float(found["information"]) == pytest.approx(information)
    # Positions 5, 3 and 1 bear the labels 2, 0 and 1.
    ce = -np.log([p[0, 2], p[1, 0], p[2, 1]]).mean()
    assert float(found["pseudo"]) == pytest.approx(ce)
    assert method.weight("pseudo", 0.0) == 0.3
    assert method.weight("information", 0.9) == 1.0


# NRC ----------------------------------------------------------------------------------------------


def nrc_by_loops(
    z_bank: np.ndarray, p_bank: np.ndarray, own: list[int], p: np.ndarray, k: int, m: int, r: float
) -> tuple[float, float, float]:
    """The neighbours', the expanded and the self term, from a memory already renewed."""

    def around(i: int, how_many: int) -> list[int]:
        closeness = z_bank @ z_bank[i]
        return [j for j in np.argsort(-closeness).tolist() if j != i][:how_many]

    near = expanded = alone = 0.0
    for row, i in enumerate(own):
        for j in around(i, k):
            theirs = around(j, m)
            near -= (1.0 if i in theirs else r) * float(p_bank[j] @ p[row])
            expanded -= sum(r * float(p_bank[e] @ p[row]) for e in theirs if e != i)
        alone -= float(p_bank[i] @ p[row])
    n = len(own)
    return near / n, expanded / n, alone / n


@pytest.mark.parametrize(("k", "m"), [(5, 5), (2, 3), (1, 1)])
def test_nrc_agrees_with_loops(k: int, m: int) -> None:
    method = ready("nrc", {"neighbours": k, "second_neighbours": m, "affinity": 0.2})
    z_bank = method.z_bank.clone().numpy()  # type: ignore[operator]
    p_bank = method.p_bank.clone().numpy()  # type: ignore[operator]
    own = [7, 2, 20, 11, 3, 16]
    with torch.no_grad():
        out = method.outputs(batch(own))
        found = method.terms(out, batch(own))
    p = out.logits_t.softmax(1).numpy()
    z_bank[own], p_bank[own] = normalize(out.z_t, dim=1).numpy(), p
    near, expanded, alone = nrc_by_loops(z_bank, p_bank, own, p, k, m, 0.2)
    assert float(found["neighbours"]) == pytest.approx(near, rel=1e-5)
    assert float(found["expanded"]) == pytest.approx(expanded, rel=1e-5)
    assert float(found["self"]) == pytest.approx(alone, rel=1e-5)
    mean = p.mean(0)
    assert float(found["imbalance"]) == pytest.approx(
        math.log(N_CLASSES) + (mean * np.log(mean)).sum(), abs=1e-6
    )


def test_nrc_keeps_the_whole_target_and_renews_the_batch() -> None:
    method = ready("nrc")
    before = method.p_bank.clone()  # type: ignore[operator]
    network = copy.deepcopy(method.network).eval()
    with torch.no_grad():
        torch.testing.assert_close(before, network(target()).softmax(1))
    out = method.outputs(batch([4, 9]))
    method.terms(out, batch([4, 9]))
    p_bank = method.p_bank
    assert isinstance(p_bank, Tensor)
    others = [i for i in range(N) if i not in (4, 9)]
    assert torch.equal(p_bank[others], before[others])
    torch.testing.assert_close(p_bank[[4, 9]], out.logits_t.detach().softmax(1))
    assert not p_bank.requires_grad


def test_nrc_draws_a_stray_to_its_neighbours() -> None:
    """One sample is mistaken; its neighbours, which are not, win it over."""
    method = ready("nrc", {"imbalance_weight": 0.0})
    z = torch.tensor([[1.0, 0.02 * i] for i in range(6)] + [[-1.0, 0.02 * i] for i in range(6)])
    method = build_method("nrc", Network(nn.Identity(), nn.Linear(2, 2)))
    method.setup(0, 12)
    sure = torch.tensor([[3.0, 0.0]] * 6 + [[0.0, 3.0]] * 6)
    method.refresh(TargetView(sure, z), 0.0)
    stray = torch.tensor([[0.0, 0.5]], requires_grad=True)
    here = Batch(None, None, None, 0.0, index_t=torch.tensor([2]))
    found = method.terms(BatchOutputs(z_t=z[2:3], logits_t=stray), here)
    for term in ("neighbours", "expanded"):
        (gradient,) = torch.autograd.grad(found[term], stray, retain_graph=True)
        assert gradient[0, 0] < 0 < gradient[0, 1], term


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"neighbours": 0}, "neighbours must be at least 1; got 0"),
        ({"second_neighbours": 0}, "second_neighbours must be at least 1; got 0"),
        ({"affinity": 1.5}, r"affinity must lie in \[0, 1\]; got 1.5"),
    ],
)
def test_nrc_refuses_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DomadaptError, match=says):
        build_method("nrc", small_network(), settings)


def test_shot_refuses_no_rounds() -> None:
    with pytest.raises(DomadaptError, match="rounds must be at least 1; got 0"):
        build_method("shot", small_network(), {"rounds": 0})


@pytest.mark.parametrize("name", ["nrc", "shot"])
def test_positions_are_needed(name: str) -> None:
    method = ready(name)
    with pytest.raises(DomadaptError, match=f"{name} needs index_t"):
        method(Batch(None, None, target(), 0.5))


def test_nrc_needs_a_neighbour() -> None:
    with pytest.raises(DomadaptError, match="at least 2 target samples"):
        build_method("nrc", small_network()).setup(0, 1)
