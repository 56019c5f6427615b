from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from domadapt.backbones import build_backbone
from domadapt.errors import DomadaptError
from domadapt.export import export_onnx, export_pt2, save_weights
from domadapt.network import Network, Normalize, width_of

SHAPES = {
    "mlp": (12,),
    "lenet": (3, 16, 16),
    "conv1d": (3, 40),
    "resnet18": (3, 32, 32),
    "mobilenet_v3_small": (3, 32, 32),
}
#: Loads a program without domadapt and without its libraries for data.
LOADER = """
import sys
for name in ("domadapt", "torchvision", "safetensors", "accelerate"):
    sys.modules[name] = None
import numpy as np
import torch
folder = sys.argv[1]
for name in sys.argv[2:]:
    model = torch.export.load(f"{folder}/{name}.pt2").module()
    inputs = np.load(f"{folder}/{name}.npz")
    logits = {k: model(torch.from_numpy(x)) for k, x in inputs.items()}
    np.savez(f"{folder}/{name}-out.npz", **logits)
"""


def batch(name: str, n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPES[name], generator=torch.Generator().manual_seed(seed))


def network(name: str, bottleneck: bool = True) -> Network:
    """With a normalisation and BatchNorm statistics that would show if they were missing."""
    torch.manual_seed(0)
    x = batch(name, 2)
    backbone = build_backbone(name, x).module
    width = width_of(backbone, x)
    layers = nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU())
    channels = SHAPES[name][0]
    net = Network(
        backbone,
        nn.Linear(16 if bottleneck else width, 5),
        layers if bottleneck else None,
        Normalize(torch.rand(channels), 0.5 + torch.rand(channels)),
    )
    net.train()
    for seed in range(3):
        net(batch(name, 8, seed))
    return net


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Every network's logits, eager and from its program in a process without domadapt."""
    folder = tmp_path_factory.mktemp("programs")
    eager: dict[str, list[Tensor]] = {}
    for name in SHAPES:
        net = network(name)
        inputs = {str(n): batch(name, n, n) for n in (1, 7, 64)}
        export_pt2(net, batch(name, 2), folder / f"{name}.pt2")
        np.savez(folder / f"{name}.npz", **{k: x.numpy() for k, x in inputs.items()})
        with torch.no_grad():
            eager[name] = [net.eval()(x) for x in inputs.values()]
    subprocess.run([sys.executable, "-c", LOADER, str(folder), *SHAPES], check=True)
    found = {}
    for name in SHAPES:
        with np.load(folder / f"{name}-out.npz") as out:
            found[name] = [(want, torch.from_numpy(out[str(len(want))])) for want in eager[name]]
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_a_program_runs_with_torch_alone(
    programs: dict[str, list[tuple[Tensor, Tensor]]], name: str
) -> None:
    assert [len(want) for want, _ in programs[name]] == [1, 7, 64]
    for want, got in programs[name]:
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_exporting_leaves_the_network_as_it_was(tmp_path: Path, training: bool) -> None:
    net = network("lenet").train(training)
    net.backbone[0].eval()
    net.head.requires_grad_(False)
    modes = [m.training for m in net.modules()]
    grads = [p.requires_grad for p in net.parameters()]
    before = copy.deepcopy(net.state_dict())
    example = batch("lenet", 2).requires_grad_()
    export_pt2(net, example, tmp_path / "m.pt2")
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == grads
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_an_example_of_one_sample_does(tmp_path: Path) -> None:
    net = network("mlp").eval()
    export_pt2(net, batch("mlp", 1), tmp_path / "m.pt2")
    x = batch("mlp", 9)
    program = torch.export.load(tmp_path / "m.pt2").module()
    torch.testing.assert_close(program(x), net(x), atol=1e-6, rtol=0)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        mask = x["attention_mask"].unsqueeze(-1).float()
        return self.head((self.words(x["input_ids"]) * mask).sum(1) / mask.sum(1))


def text(n: int) -> dict[str, Tensor]:
    ids = torch.randint(20, (n, 4), generator=torch.Generator().manual_seed(n))
    return {
        "input_ids": ids,
        "attention_mask": (ids > 3).long() | torch.eye(4, dtype=torch.long)[:1],
    }


def test_inputs_that_are_a_dictionary(tmp_path: Path) -> None:
    net = Reader().eval()
    export_pt2(net, text(2), tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    for n in (1, 5):
        torch.testing.assert_close(program(text(n)), net(text(n)))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match="cannot follow this Branching"):
        export_pt2(Branching(), torch.rand(2, 3), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_weights_are_whole_and_what_is_shared_is_written_once(tmp_path: Path) -> None:
    net = network("mlp")
    net.backbone.add_module("again", nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    net.backbone.again[1].weight = net.backbone.again[0].weight
    save_weights(net, tmp_path / "m.safetensors")
    state = load_file(tmp_path / "m.safetensors")
    missing = net.state_dict().keys() - state.keys()
    assert missing == {"backbone.again.1.weight"}
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())


@pytest.mark.parametrize("name", ["mlp", "lenet", "conv1d"])
def test_onnx_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net = network(name, bottleneck=name != "conv1d")
    export_onnx(net, batch(name, 2), tmp_path / "m.onnx")
    assert net.training
    model = onnx.load(tmp_path / "m.onnx")
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert model.opset_import[0].version == 18
    try:
        import onnxruntime

        run = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run
    except ImportError:
        run = onnx.reference.ReferenceEvaluator(model).run
    for n in (1, 7):
        x = batch(name, n, n)
        with torch.no_grad():
            want = net.eval()(x)
        (got,) = run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-5, rtol=1e-4)


def test_onnx_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DomadaptError, match=r"pip install 'domadapt\[onnx\]'"):
        export_onnx(network("mlp"), batch("mlp", 2), tmp_path / "m.onnx")
