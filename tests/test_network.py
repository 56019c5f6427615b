"""`Network`: its parts, its layers, and trained classifiers taken apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from domadapt.errors import DomadaptError
from domadapt.network import Discriminator, Network, Normalize, width_of


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))


def test_forward_is_head_after_bottleneck_after_backbone() -> None:
    normalize = Normalize(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    backbone, bottleneck, head = nn.Linear(2, 5), nn.Linear(5, 3), nn.Linear(3, 7)
    network = Network(backbone, head, bottleneck, normalize)
    x = torch.randn(4, 2)
    z = bottleneck(backbone((x - torch.tensor([1.0, 2.0])) / torch.tensor([2.0, 4.0])))
    torch.testing.assert_close(network.features(x), z)
    torch.testing.assert_close(network(x), head(z))
    assert (network.n_features, network.n_classes) == (3, 7)


def test_normalize_works_channel_by_channel_and_is_saved() -> None:
    normalize = Normalize(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 5.0]))
    x = torch.full((2, 2, 3, 3), 20.0)
    y = normalize(x)
    assert bool((y[:, 0] == 20.0).all())
    assert bool((y[:, 1] == 2.0).all())
    assert set(normalize.state_dict()) == {"mean", "std"}


def test_feature_maps_are_averaged() -> None:
    network = Network(convolutions(), nn.Linear(6, 2))
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(network.features(x), network.backbone(x).mean((2, 3)))


def test_texts_pass_the_normalisation_by() -> None:
    class Count(nn.Module):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return x["ids"].float().sum(1, keepdim=True)

    network = Network(Count(), nn.Linear(1, 2), normalize=Normalize(torch.ones(1), torch.ones(1)))
    assert network.features({"ids": torch.tensor([[1, 2]])}).item() == 3.0


def test_sizes_of_a_deeper_head() -> None:
    head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    network = Network(nn.Identity(), head)
    assert (network.n_features, network.n_classes) == (8, 4)
    with pytest.raises(DomadaptError, match=r"must hold a torch\.nn\.Linear"):
        _ = Network(nn.Identity(), nn.ReLU()).n_classes
    with pytest.raises(DomadaptError, match=r"must hold a torch\.nn\.Linear"):
        _ = Network(nn.Identity(), nn.ReLU()).n_features


def test_blocks_are_the_longest_chain_or_those_given() -> None:
    backbone = nn.Module()
    backbone.stem = nn.Sequential(nn.Conv2d(3, 4, 1))
    backbone.layers = convolutions()
    network = Network(backbone, nn.Linear(6, 2))
    assert list(network.blocks()) == ["layers.0", "layers.1", "layers.2"]
    assert network.blocks()["layers.2"] is backbone.layers[2]
    chosen = {"stem": backbone.stem}
    assert Network(backbone, nn.Linear(6, 2), transferable=chosen).blocks() == chosen
    named = Network(convolutions(), nn.Linear(6, 2)).blocks()
    assert list(named) == ["0", "1", "2"]


def test_blocks_of_a_resnet_are_those_of_all_its_stages() -> None:
    network = Network.from_classifier(models.resnet18(weights=None))
    blocks = network.blocks()
    wanted = [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert [name for name in blocks if name.startswith("layer")] == wanted
    assert next(iter(blocks)) == "conv1"
    assert blocks["layer3.1"] is network.backbone.get_submodule("layer3.1")


def test_parallel_branches_are_no_chain() -> None:
    network = Network.from_classifier(
        models.googlenet(weights=None, aux_logits=False, init_weights=False)
    )
    names = list(network.blocks())
    assert names.index("conv1") < names.index("inception3a") < names.index("inception5b")
    assert not any("branch" in name for name in names)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(x))
        return logits


@pytest.mark.parametrize("head", [None, "classifier", "classifier.1"])
def test_from_classifier_gives_the_same_logits(head: str | None) -> None:
    model = Classifier().eval()
    before = copy.deepcopy(model.state_dict())
    network = Network.from_classifier(model, head).eval()
    x = torch.randn(5, 4)
    torch.testing.assert_close(network(x), model(x))
    assert network.features(x).shape == (5, 6)
    assert (network.n_features, network.n_classes) == (6, 3)
    # Training the network leaves the classifier alone.
    with torch.no_grad():
        for p in network.backbone.parameters():
            p.zero_()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_from_classifier_refuses_what_it_cannot_find() -> None:
    with pytest.raises(DomadaptError, match=r"no layer 'fc'\. Its layers: body, classifier"):
        Network.from_classifier(Classifier(), "fc")
    with pytest.raises(DomadaptError, match="name its head"):
        Network.from_classifier(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_width_of_keeps_the_state() -> None:
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    before, numbers = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    assert width_of(backbone, torch.randn(3, 4, generator=torch.Generator())) == 6
    assert backbone.training
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert width_of(convolutions(), torch.zeros(1, 3, 8, 8)) == 6


def test_width_of_refuses_what_is_no_batch_of_features() -> None:
    with pytest.raises(DomadaptError, match=r"of n = 3 samples it returned \(3,\)"):
        width_of(nn.Flatten(0), torch.zeros(3, 1))
    with pytest.raises(DomadaptError, match=r"of n = 4 samples it returned \(8, 3\)"):
        width_of(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1)), torch.zeros(4, 6))


def test_discriminator() -> None:
    discriminator = Discriminator(4, hidden=8)
    assert discriminator(torch.randn(5, 4)).shape == (5,)
    # What it says of a sample does not depend on the others.
    x = torch.randn(5, 4)
    torch.testing.assert_close(discriminator(x)[:2], discriminator(x[:2]))
