"""The model as a file: weights, a program for torch alone (.pt2), and ONNX.

A program holds the whole network, normalisation included, in evaluation mode; the size of the
batch is free, and that of texts as well. Exporting leaves the network as it was.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.checkpoint import module_state, save_tensors, write_atomically
from domadapt.errors import DomadaptError
from domadapt.task import Inputs

#: The version of ONNX's operators that `export_onnx` writes.
ONNX_OPSET = 18


def save_weights(network: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors; what several layers share is written once."""
    save_tensors(path, module_state(network), {})


def export_pt2(network: nn.Module, example: Inputs, path: Path) -> None:
    """Write a program that ``torch.export.load(path).module()(x)`` runs, without domadapt.

    Args:
        network: maps inputs to logits; exported in evaluation mode, on the CPU.
        example: a batch of inputs, from which the shapes other than the batch's are taken.
        path: the file to write, by convention ``.pt2``.

    Raises:
        DomadaptError: the network depends on its data in a way that torch.export cannot follow.
    """
    model, x = _prepared(network, example)
    with _quiet():
        try:
            program = torch.export.export(model, (x,), dynamic_shapes=(_free(x),))
        except Exception as error:  # torch.export raises errors of many kinds
            raise _cannot("torch.export", network, error) from error
        # Through memory: torch.export.save wants a name ending in .pt2, which a temporary lacks.
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    write_atomically(path, lambda p: p.write_bytes(buffer.getvalue()))


def export_onnx(network: nn.Module, example: Inputs, path: Path) -> None:
    """Write the network as ONNX, opset 18, inputs ``x`` to ``logits``, the batch's size free.

    Args:
        network: maps inputs to logits; exported in evaluation mode, on the CPU.
        example: a batch of inputs; of text, each field becomes an input of its own name.
        path: the file to write, weights included.

    Raises:
        DomadaptError: the extra is not installed, or the network cannot be expressed in ONNX.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DomadaptError("ONNX export needs the extra: pip install 'domadapt[onnx]'.") from error
    model, x = _prepared(network, example)
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                model,
                # A dictionary at the end would be taken for arguments by name.
                (x, {}),
                input_names=list(x) if isinstance(x, dict) else ["x"],
                output_names=["logits"],
                dynamic_shapes=(_free(x),),
                opset_version=ONNX_OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises errors of many kinds
            raise _cannot("ONNX export", network, error) from error
    proto = program.model_proto
    onnx.checker.check_model(proto)
    write_atomically(path, lambda p: p.write_bytes(proto.SerializeToString()))


def _prepared(network: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy in evaluation mode on the CPU, and an example of two samples.

    A batch of one would be taken for a constant.
    """
    model = copy.deepcopy(network).cpu().eval().requires_grad_(False)

    def two(x: Tensor) -> Tensor:
        x = x.detach().cpu()
        return x[:2].clone() if len(x) > 1 else torch.cat([x, x])

    if isinstance(example, Tensor):
        return model, two(example)
    return model, {name: two(x) for name, x in example.items()}


def _free(x: Inputs) -> Any:
    """What of the sizes of inputs may differ: the batch's, and the length of texts."""
    batch = torch.export.Dim("batch", min=1)
    if isinstance(x, Tensor):
        return {0: batch}
    # Up to the longest text that the model takes, which torch.export finds out.
    length = torch.export.Dim.DYNAMIC
    return {n: {0: batch, 1: length} if v.ndim > 1 else {0: batch} for n, v in x.items()}


def _cannot(what: str, network: nn.Module, error: Exception) -> DomadaptError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return DomadaptError(
        f"{what} cannot follow this {type(network).__name__} ({type(error).__name__}: "
        f"{reason[:200]}). Its forward must not branch on the values or the number of samples; the "
        "weights are saved in any case."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
