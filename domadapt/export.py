"""The network as a file that needs no domadapt: torch.export, ONNX."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.task import Inputs


def _prepared(network: nn.Module, example: Inputs) -> tuple[nn.Module, Tensor]:
    if not isinstance(example, Tensor):
        raise DomadaptError("Only networks whose input is one tensor can be exported yet.")
    # A copy: exporting changes modes, and a compiled backbone cannot be traced.
    return copy.deepcopy(network).cpu().eval(), example.detach().cpu()


def export_pt2(network: nn.Module, example: Inputs, path: Path) -> None:
    """Write `network` in evaluation mode with torch.export, its batch size left open.

    ``torch.export.load(path).module()(x)`` then gives logits without domadapt. `example` is a
    batch of at least 2 inputs.
    """
    model, x = _prepared(network, example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        with path.open("wb") as f:
            torch.export.save(program, f)


def export_onnx(network: nn.Module, example: Inputs, path: Path) -> None:
    """Write `network` in evaluation mode as ONNX (extra ``onnx``), its batch size left open."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise DomadaptError(
                f"ONNX export needs the package {package}: pip install 'domadapt[onnx]'."
            )
    model, x = _prepared(network, example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
        if program is None:
            raise DomadaptError("torch.onnx gave no program for this network.")
        program.save(str(path))
