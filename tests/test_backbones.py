from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.io import ImageReadMode, decode_image

from domadapt.backbones import (
    Backbone,
    backbone_names,
    build_backbone,
    default_backbone,
    preprocessing_of,
    read_state,
)
from domadapt.backbones.small import SMALL
from domadapt.data.views import Preprocessing, make_views
from domadapt.errors import DomadaptError
from domadapt.export import export_pt2, save_weights
from domadapt.network import Network, Normalize, width_of

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("DOMADAPT_DATA")
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 80,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 64,
    "swin_t": 32,
    "vit_b_32": 32,
}


def images(side: int = 32, n: int = 2) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def own(folder: Path, text: str, name: str = "own.py") -> str:
    file = folder / name
    file.write_text("import torch\nfrom torch import nn\n" + text)
    return str(file)


def no_hub(*args: object, **kwargs: object) -> None:
    raise AssertionError("the network was tried")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_hub)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_hub)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_hub)


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("mlp", (4, 20), 256),
        ("lenet", (4, 3, 16, 16), 128),
        ("lenet", (4, 1, 28, 28), 128),
        ("lenet", (4, 3, 64, 48), 128),
        ("conv1d", (4, 9, 128), 128),
        ("conv1d", (4, 1, 3), 128),
    ],
)
def test_small_backbones_train_on_the_shape_of_the_example(
    name: str, shape: tuple[int, ...], width: int
) -> None:
    made = build_backbone(name, torch.rand(shape))
    z = made.module(torch.rand(shape))
    assert z.shape == (4, width)
    (z**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.module.parameters())
    assert (made.kind, made.head, made.preprocessing, made.bottleneck) == (
        "scratch",
        None,
        None,
        None,
    )


def test_random_weights_come_from_the_state_of_torch() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return next(build_backbone("lenet", images(16)).module.parameters()).detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("name", "side"), FAMILIES.items())
def test_every_family_of_torchvision_gives_what_its_head_took(name: str, side: int) -> None:
    made = build_backbone(name, images(side), n_classes=5, head="auto")
    assert made.head is not None
    width = width_of(made.module, images(side))
    network = Network(made.module, made.head)
    assert network.n_features == width
    assert network.n_classes == 5
    made.module.train()
    z = made.module(images(side, 4))
    assert isinstance(z, Tensor)
    assert z.shape[:2] == (4, width)
    logits = network.eval()(images(side))
    assert logits.shape == (2, 5)


def test_every_model_of_torchvision_states_its_preprocessing() -> None:
    names = [n for n, about in backbone_names() if about == "torchvision classifier"]
    assert set(names) == set(models.list_models(module=models))
    for name in names:
        asked = preprocessing_of(name, "DEFAULT")
        assert asked is not None
        assert asked.size is not None
        assert asked.mean is not None


@pytest.mark.parametrize(
    "name", ["maxvit_t", "swin_v2_t", "vgg16_bn", "vit_l_16", "resnext50_32x4d"]
)
def test_large_models_are_divided(name: str) -> None:
    """Without memory or arithmetic: tensors of the meta device have shapes alone."""
    asked = preprocessing_of(name)
    assert asked is not None
    assert asked.size is not None
    with torch.device("meta"):
        x = torch.empty(2, 3, *asked.size)
        made = build_backbone(name, x, n_classes=7, head="auto")
        z = made.module.eval()(x)
    assert isinstance(made.head, nn.Linear)
    assert (made.head.in_features, made.head.out_features) == (z.shape[1], 7)
    assert made.kind == (
        "transformer" if name in ("maxvit_t", "swin_v2_t", "vit_l_16") else "pretrained"
    )


def test_a_backbone_has_the_features_of_the_whole_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = models.resnet18(num_classes=10).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    made = build_backbone("resnet18", images(), weights=str(tmp_path / "w.pth"))
    assert (made.kind, made.head, made.bottleneck) == ("pretrained", None, 256)
    with torch.no_grad():
        assert torch.equal(whole.fc(made.module.eval()(images())), whole(images()))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_either_kind_of_file(
    tmp_path: Path, prefix: str, suffix: str
) -> None:
    whole = models.mobilenet_v3_small(num_classes=3)
    state = {prefix + k: v for k, v in whole.state_dict().items()}
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": torch.tensor(3)}, file)
    else:
        save_file(state, file)
    made = build_backbone("mobilenet_v3_small", images(), weights=str(file))
    own_state = made.module.state_dict()
    assert torch.equal(own_state["features.0.0.weight"], whole.state_dict()["features.0.0.weight"])
    assert not any(k.startswith("classifier.3.") for k in own_state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["densenet121", "mnasnet0_5"])
def test_names_and_versions_of_older_weights(tmp_path: Path, name: str, suffix: str) -> None:
    """DenseNet bears names of old; MNASNet refuses a state_dict that states no version."""
    state = models.get_model(name, weights=None, num_classes=2).state_dict()
    older = type(state)(
        (k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."), v)
        for k, v in state.items()
    )
    older._metadata = state._metadata
    file = tmp_path / f"w{suffix}"
    torch.save(older, file) if suffix == ".pth" else save_file(dict(older), file)
    made = build_backbone(name, images(), weights=str(file))
    for key, value in made.module.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_vision_transformer_takes_another_image_size(tmp_path: Path) -> None:
    """Its weights, with the names that their layers had of old."""
    state = models.vit_b_32(image_size=96).state_dict()
    save_file(
        {
            k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v
            for k, v in state.items()
        },
        tmp_path / "vit.safetensors",
    )
    made = build_backbone("vit_b_32", images(64), weights=str(tmp_path / "vit.safetensors"))
    assert made.kind == "transformer"
    own_state = made.module.state_dict()
    assert own_state["encoder.pos_embedding"].shape == (1, 5, 768)
    for key in ("encoder.layers.encoder_layer_3.mlp.0.weight", "class_token"):
        assert torch.equal(own_state[key], state[key])
    with pytest.raises(DomadaptError, match="multiple of 32 pixels; got 50 x 50"):
        build_backbone("vit_b_32", images(50))


def test_preprocessing() -> None:
    assert preprocessing_of("lenet") is None
    assert preprocessing_of("resnet18") == Preprocessing((224, 224), 256)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert preprocessing_of("resnet18", "w.pth") == Preprocessing((224, 224), 256, mean, std)
    assert preprocessing_of("resnet50", "IMAGENET1K_V2") == Preprocessing(
        (224, 224), 232, mean, std
    )
    with pytest.raises(DomadaptError, match="the entries are IMAGENET1K_V1, DEFAULT"):
        preprocessing_of("resnet18", "IMAGENET1K_V9")


def test_inception_is_prepared_as_torchvision_does() -> None:
    """Half and half outside the model is its transform_input after ImageNet's statistics."""
    asked, x = preprocessing_of("inception_v3", "DEFAULT"), images(80)
    model = models.inception_v3(init_weights=False, transform_input=True)
    usual = models.Inception_V3_Weights.DEFAULT.transforms()
    theirs = model._transform_input(Normalize(Tensor(usual.mean), Tensor(usual.std))(x))
    assert asked is not None
    ours = Normalize(Tensor(asked.mean), Tensor(asked.std))(x)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_defaults_by_kind_of_data() -> None:
    assert default_backbone("image", images(28)) == "lenet"
    assert default_backbone("image", images(224)) == "resnet18"
    assert default_backbone("vector", torch.rand(2, 4)) == "mlp"
    assert default_backbone("series", torch.rand(2, 4, 9)) == "conv1d"
    with pytest.raises(DomadaptError, match="no default model"):
        default_backbone("text", {"input_ids": torch.zeros(2, 4)})


def test_the_hub_is_asked_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)
    build_backbone("resnet18", images())
    with pytest.raises(DomadaptError, match=r"could not be downloaded \(OSError: no route"):
        build_backbone("resnet18", images(), weights="DEFAULT")


def test_weights_of_the_hub_drop_their_head(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = models.resnet18()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *a, **k: whole.state_dict()
    )
    made = build_backbone("resnet18", images(), weights="DEFAULT")
    assert torch.equal(made.module.get_parameter("conv1.weight"), whole.conv1.weight)
    assert made.preprocessing == preprocessing_of("resnet18", "DEFAULT")


# A trained classifier


def test_a_checkpoint_keeps_its_head(tmp_path: Path) -> None:
    whole = models.resnet18(num_classes=4).eval()
    file = tmp_path / "c.pt"
    torch.save({f"module.{k}": v for k, v in whole.state_dict().items()}, file)
    made = build_backbone("resnet18", images(), checkpoint=file, n_classes=4)
    assert made.kind == "pretrained"
    assert made.bottleneck is None
    with torch.no_grad():
        assert torch.equal(as_network(made).eval()(images()), whole(images()))
    with pytest.raises(DomadaptError, match="has 4 classes, and the source has 3"):
        build_backbone("resnet18", images(), checkpoint=file, n_classes=3)
    with pytest.raises(DomadaptError, match="do not fit the model"):
        build_backbone("resnet34", images(), checkpoint=file, n_classes=4)
    with pytest.raises(DomadaptError, match="exclude each other"):
        build_backbone("resnet18", images(), checkpoint=file, weights=str(file), n_classes=4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_model_of_a_run_is_taken_up_again(
    tmp_path: Path, bottleneck: bool, frozen: bool
) -> None:
    torch.manual_seed(0)
    layers: nn.Module | None = None
    if bottleneck:
        layers = nn.Sequential(nn.Linear(128, 32), nn.BatchNorm1d(32), nn.ReLU())
    if frozen:
        scale = Normalize(torch.rand(128), 1 + torch.rand(128))
        layers = nn.Sequential(scale, layers or nn.Identity())
    network = Network(
        build_backbone("lenet", images(16)).module,
        nn.Linear(32 if bottleneck else 128, 6),
        layers,
        Normalize(torch.rand(3), 1 + torch.rand(3)),
    )
    file = tmp_path / "model.safetensors"
    save_weights(network, file)
    made = build_backbone("lenet", images(16), checkpoint=file, n_classes=6)
    assert isinstance(made.module, Network)
    assert made.kind == "pretrained"
    assert torch.equal(made.module.eval()(images(16)), network.eval()(images(16)))
    with pytest.raises(DomadaptError, match="6 classes, and the source has 5"):
        build_backbone("lenet", images(16), checkpoint=file, n_classes=5)
    with pytest.raises(DomadaptError, match="another model"):
        build_backbone("resnet18", images(), checkpoint=file, n_classes=6)


def test_a_small_backbone_takes_only_a_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "c.pt")
    with pytest.raises(DomadaptError, match=r"must be the model\.safetensors of a run"):
        build_backbone("lenet", images(16), checkpoint=tmp_path / "c.pt", n_classes=2)


def test_a_name_of_a_head_makes_a_whole_classifier() -> None:
    made = build_backbone("mobilenet_v2", images(), n_classes=3, head="classifier")
    assert isinstance(made.head, nn.Sequential)
    assert as_network(made).eval()(images()).shape == (2, 3)
    with pytest.raises(DomadaptError, match="no layer 'fc'"):
        build_backbone("mobilenet_v2", images(), n_classes=3, head="fc")
    with pytest.raises(DomadaptError, match="needs n_classes"):
        build_backbone("mobilenet_v2", images(), head="classifier")


def as_network(made: Backbone) -> Network:
    assert made.head is not None
    return Network(made.module, made.head)


# A person's own


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own(
        tmp_path,
        """
class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, n_classes)
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))
def maps():
    return nn.Conv2d(3, 8, 3)
def prepared():
    return nn.Conv2d(3, 8, 3), {"size": [20, 20], "mean": [.5] * 3, "std": [.2] * 3}
def classifier(n_classes):
    return Net(n_classes)
def fixed(n_classes=9):
    return Net(9)
""",
    )
    monkeypatch.chdir(tmp_path)
    made = build_backbone("own.py:maps", images())
    assert (made.kind, made.preprocessing, made.head) == ("scratch", None, None)
    assert made.module(images()).shape == (2, 8, 30, 30)

    made = build_backbone(f"{file}:prepared", images())
    assert made.kind == "pretrained"
    assert made.preprocessing == Preprocessing((20, 20), None, (0.5,) * 3, (0.2,) * 3)
    assert preprocessing_of(f"{file}:prepared") == made.preprocessing
    assert preprocessing_of(f"{file}:classifier") is None

    made = build_backbone(f"{file}:classifier", images(), n_classes=4, head="fc")
    assert as_network(made).eval()(images()).shape == (2, 4)
    with pytest.raises(DomadaptError, match="has 9 classes, and the source has 4"):
        build_backbone(f"{file}:fixed", images(), n_classes=4, head="fc")

    state = {"body.weight": torch.ones(8, 3, 3, 3), "body.bias": torch.ones(8)}
    state |= {"fc.weight": torch.ones(4, 8), "fc.bias": torch.ones(4)}
    save_file(state, tmp_path / "own.safetensors")
    checkpoint = tmp_path / "own.safetensors"
    made = build_backbone(f"{file}:classifier", images(), checkpoint=checkpoint, n_classes=4)
    assert made.head is not None
    assert torch.equal(made.head.state_dict()["weight"], torch.ones(4, 8))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def f(): return 3", "own.py:f", "must return a torch.nn.Module.*returned int"),
        ("def f(width): return nn.Linear(2, 2)", "own.py:f", "it requires width"),
        ("def f(): return 1 / 0", "own.py:f", "failed: ZeroDivisionError"),
        ("def g(): return nn.Linear(2, 2)", "own.py:f", "no function in .*'f'.*Known: g"),
        ("def f(): return nn.Linear(2, 2)", "own.py", "without a function"),
        ("def f(): return nn.Linear(2, 2)", "other.py:f", "no file other.py"),
        ("x = 1 / 0", "own.py:f", "could not be imported: ZeroDivisionError"),
        ("def f(): return nn.Linear(2, 2), {'sise': 3}", "own.py:f", "'sise'.*Did you mean 'size'"),
        ("def f(): return nn.Linear(2, 2), 3", "own.py:f", "dictionary with size, resize"),
        ("def f(): return nn.Linear(2, 2)", "own.py:f", r"cannot take inputs \(3, 32, 32\)"),
        (
            "class N(nn.Module):\n def forward(self, x): return x, x\ndef f(): return N()",
            "own.py:f",
            "must return one tensor .*returned tuple",
        ),
    ],
)
def test_mistakes_in_ones_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, message: str
) -> None:
    own(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DomadaptError, match=message):
        build_backbone(name, images())


# What every small network must stand


#: One batch of each kind of data that a network may be for.
KINDS = {"vector": (20,), "series": (3, 40), "image": (3, 32, 32)}


@pytest.mark.parametrize("name", SMALL)
def test_every_small_network_learns_and_leaves(name: str, tmp_path: Path) -> None:
    taken = {}
    for kind, shape in KINDS.items():
        x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
        try:
            taken[kind] = (x, build_backbone(name, x))
        except DomadaptError as error:
            # What it is not for it refuses in a sentence, and never otherwise.
            assert name in str(error)  # noqa: PT017
    assert taken, "it takes none of the kinds of data"
    for x, made in taken.values():
        width = width_of(made.module, x)
        network = Network(made.module, nn.Linear(width, 3))
        logits = network.train()(x)
        assert logits.shape == (6, 3)
        logits.square().sum().backward()
        for at, parameter in network.named_parameters():
            assert parameter.grad is not None, at
            assert parameter.grad.isfinite().all(), at
        again = build_backbone(name, x[:2])
        again.module.load_state_dict(made.module.state_dict())
        other = Network(again.module, network.head).eval()
        # Built from a batch of another size it is the same function.
        assert torch.equal(other(x), network.eval()(x))
        export_pt2(network, x, tmp_path / "m.pt2")
        program = torch.export.load(str(tmp_path / "m.pt2")).module()
        torch.testing.assert_close(program(x[:3]), network(x[:3]))


# Mistakes


@pytest.mark.parametrize(
    ("name", "example", "message"),
    [
        ("resnet81", images(), "no model 'resnet81'. Did you mean 'resnet18'"),
        ("resnet18", torch.rand(2, 30), r"takes images \(3, height, width\); got inputs \(30,\)"),
        ("resnet18", torch.rand(2, 1, 32, 32), "takes images"),
        ("alexnet", images(16), r"cannot take inputs \(3, 16, 16\).*choose a model for images"),
        ("lenet", torch.rand(2, 30), "lenet takes images"),
        ("lenet", images(4), "at least 8 x 8"),
        ("conv1d", torch.rand(2, 30), "conv1d takes series"),
        ("maxvit_t", images(64), "multiple of 224"),
        ("mlp", {"input_ids": torch.zeros(2, 4)}, "takes tensors"),
    ],
)
def test_inputs_that_do_not_fit(name: str, example: Tensor, message: str) -> None:
    with pytest.raises(DomadaptError, match=message):
        build_backbone(name, example)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match="no weights file"):
        read_state(tmp_path / "none.pth")
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"\x10\x00\x00")
        with pytest.raises(DomadaptError, match=r"torn.* is no weights file"):
            read_state(tmp_path / name)
    torch.save(models.squeezenet1_1(), tmp_path / "pickled.pt")
    with pytest.raises(DomadaptError, match=r"whole pickled model.*model\.state_dict\(\)"):
        read_state(tmp_path / "pickled.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(DomadaptError, match="holds no state_dict"):
        read_state(tmp_path / "list.pt")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pt")
    with pytest.raises(DomadaptError, match=r"it lacks .* and \d+ more"):
        build_backbone("resnet18", images(), weights=str(tmp_path / "part.pt"))


# timm


def test_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    name = "timm:resnet10t"
    asked = preprocessing_of(name, "w.pth")
    assert asked == Preprocessing((176, 176), 201, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    whole = timm.create_model("resnet10t", num_classes=3).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    made = build_backbone(name, images(), weights=str(tmp_path / "w.pth"))
    with torch.no_grad():
        assert torch.equal(whole.fc(made.module.eval()(images())), whole(images()))
        made = build_backbone(name, images(), checkpoint=tmp_path / "w.pth", n_classes=3)
        assert torch.equal(as_network(made).eval()(images()), whole(images()))
    with pytest.raises(DomadaptError, match=r"timm has no model 'resnet10q'\. Near: .*resnet10t"):
        build_backbone("timm:resnet10q", images())
    with pytest.raises(DomadaptError, match=r"must be a file .* or DEFAULT"):
        build_backbone(name, images(), weights="BEST")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DomadaptError, match=r"pip install 'domadapt\[timm\]'"):
        build_backbone(name, images())


# Real weights


def data(path: str) -> Path:
    if DATA is None:
        pytest.skip("DOMADAPT_DATA is not set")
    if not (Path(DATA) / path).exists():
        pytest.skip(f"DOMADAPT_DATA has no {path}")
    return Path(DATA) / path


CIFAR = """
from torch.nn import functional as F
class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.more = (o - i) // 2
    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return F.relu(x + y)
class ResNet(nn.Module):
    def __init__(self, depth, n_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        def layer(i, o):
            n = (depth - 2) // 6
            rest = [Block(o, o, 1) for _ in range(n - 1)]
            return nn.Sequential(Block(i, o, 1 if i == o else 2), *rest)
        self.layer1, self.layer2, self.layer3 = layer(16, 16), layer(16, 32), layer(32, 64)
        self.linear = nn.Linear(64, n_classes)
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
def resnet20(n_classes=10):
    size = {"size": (32, 32), "mean": (.485, .456, .406), "std": (.229, .224, .225)}
    return ResNet(20, n_classes), size
"""


def test_a_pre_trained_network_of_ones_own(tmp_path: Path) -> None:
    checkpoint = data("models/resnet20-12fca82f.th")
    name = f"{own(tmp_path, CIFAR)}:resnet20"
    made = build_backbone(name, images(), checkpoint=checkpoint, n_classes=10)
    assert made.kind == "pretrained"
    assert made.head is not None
    assert width_of(made.module, images()) == 64
    kept = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    assert torch.equal(made.head.state_dict()["weight"], kept["module.linear.weight"])
    # Trained statistics standardise what passes: on noise, random weights would not differ.
    logits = as_network(made).eval()(images(n=8))
    assert logits.softmax(1).max(1).values.mean() > 0.3
    with pytest.raises(DomadaptError, match="has 10 classes, and the source has 31"):
        build_backbone(name, images(), checkpoint=checkpoint, n_classes=31)


def test_the_imagenet_mobilenet_gives_the_cached_features() -> None:
    """On Office-31 images straightened to 224 x 224, up to what re-coding the files changed."""
    file = data("office31_features/office31_mnv2.npz")
    folder = data("office31")
    data("models/mobilenet_v2_imagenet.safetensors")
    name = f"{ROOT / 'benchmarks' / 'backbones' / 'mobilenet_v2.py'}:mobilenet_v2"
    cached = np.load(file, allow_pickle=False)
    chosen = [0, 1500, 2900, 3500, 4000]
    raw = []
    for path in cached["path"][chosen]:
        domain, _, label, image = str(path).split("/")
        raw.append(decode_image(str(folder / domain / label / image), ImageReadMode.RGB))
    asked = preprocessing_of(name)
    assert asked is not None
    x = make_views("image", "none", asked).evaluation(raw)
    assert isinstance(x, Tensor)
    made = build_backbone(name, x)
    network = Network(
        made.module, nn.Identity(), None, Normalize(Tensor(asked.mean), Tensor(asked.std))
    )
    network.train()  # the batch norms stay as they are
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        z = network.features(x)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    expected = torch.from_numpy(cached["features"][chosen]).float()
    assert torch.nn.functional.cosine_similarity(z, expected).mean() > 0.985


def test_a_head_that_a_small_network_has_not_is_refused() -> None:
    with pytest.raises(DomadaptError, match="mlp has no head of its own"):
        build_backbone("mlp", torch.zeros(2, 5), n_classes=3, head="fc")
