"""Operators: gradient reversal, ramps, averages, joined inputs, BatchNorm's statistics."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from domadapt import ops
from domadapt.errors import DomadaptError


def test_ramp() -> None:
    values = [ops.ramp(k / 100) for k in range(101)]
    assert values[0] == 0.0
    assert round(values[-1], 5) == 0.99991
    assert all(a < b for a, b in itertools.pairwise(values))
    assert ops.ramp(0.5, steepness=0.0) == 0.0


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 1.0])
def test_reverse_gradient(coefficient: float) -> None:
    x = torch.tensor([[1.0, -2.0]], requires_grad=True)
    y = ops.reverse_gradient(x, coefficient)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 5.0])).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -coefficient * torch.tensor([[3.0, 5.0]]))


def test_ema_of_parameters_and_buffers() -> None:
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        average.weight.fill_(1.0)
        model.weight.fill_(3.0)
    model(torch.randn(8, 2) + 5.0)
    start, new = average.running_mean.clone(), model.running_mean.clone()
    ops.ema_update(average, model, 0.9)
    torch.testing.assert_close(average.weight.detach(), torch.full((2,), 1.2))
    torch.testing.assert_close(average.running_mean, 0.9 * start + 0.1 * new)
    assert average.num_batches_tracked == 1
    assert bool((model.weight == 3.0).all())


def test_join_tensors() -> None:
    a, b = torch.zeros(2, 3), torch.ones(4, 3)
    assert torch.equal(ops.join([a, b]), torch.cat([a, b]))
    assert ops.join([a]) is a
    with pytest.raises(DomadaptError, match=r"one shape; got \(3,\), \(5,\)"):
        ops.join([a, torch.zeros(2, 5)])


def test_join_pads_texts_to_the_longest() -> None:
    short = {"ids": torch.tensor([[1, 2]]), "length": torch.tensor([2])}
    long = {"ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "length": torch.tensor([3, 3])}
    joined = ops.join([short, long])
    assert isinstance(joined, dict)
    assert joined["ids"].tolist() == [[1, 2, 0], [3, 4, 5], [6, 7, 8]]
    assert joined["length"].tolist() == [2, 3, 3]
    assert ops.batch_size(joined) == 3
    assert ops.batch_size(torch.zeros(5, 2)) == 5


def test_kept_statistics() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert ops.has_batchnorm(network)
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(6, 3) + 4.0
    with ops.kept_statistics(network):
        inside = network(x)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    # The batch is normalised by itself all the same, and afterwards statistics move again.
    torch.testing.assert_close(network(x), inside)
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])


def test_statistics_come_back_after_an_error() -> None:
    network = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(RuntimeError), ops.kept_statistics(network):
        raise RuntimeError
    assert network[0].track_running_stats


def test_batchnorm_in_evaluation_mode_does_not_count() -> None:
    assert not ops.has_batchnorm(nn.Sequential(nn.BatchNorm1d(4)).eval())
    assert not ops.has_batchnorm(nn.Sequential(nn.LayerNorm(4)))
