"""Bottleneck adapters: small residual modules put into a network that otherwise stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from domadapt.errors import DomadaptError
from domadapt.network import Network
from domadapt.strategies.depth import depths
from domadapt.task import Inputs

#: The dense layers of a transformer's layer whose outputs are added to its input; the first that
#: are there are taken. Houlsby's two places.
_PLACES = (
    ("attention.output.dense", "output.dense"),
    ("attention.output.dense", "ffn.lin2"),
    ("attention.out_lin", "ffn.lin2"),
)


class Adapter(nn.Module):
    """``x + up(relu(down(x)))`` over the channels; the identity at the start.

    After (Houlsby et al., 2019, arXiv:1902.00751), section 2.1. They draw both layers near zero;
    here `up` begins at zero and `down` as layers usually do, so that the function of the network is
    the same to the last bit before the first step.

    Args:
        channels: how many the input has.
        width: how many the bottleneck has.
        first: whether channels stand after the batch, ``(n, c, ...)``, as in a convolution net;
            else they stand last, ``(n, ..., c)``.
    """

    def __init__(self, channels: int, width: int, first: bool) -> None:
        super().__init__()
        kind: Any = (lambda i, o: nn.Conv1d(i, o, 1)) if first else nn.Linear
        self.down: nn.Module = kind(channels, width)
        self.up: nn.Module = kind(width, channels)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """The adapted ``x``, of the same shape."""
        if not isinstance(self.down, nn.Conv1d):
            y: Tensor = self.up(torch.relu(self.down(x)))
            return x + y
        flat = x.flatten(2) if x.ndim > 2 else x[:, :, None]
        return x + self.up(torch.relu(self.down(flat))).reshape(x.shape)


class Adapted(nn.Module):
    """A block and, after it, its adapter; where the block returns a tuple, of its first entry."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block = block
        self.adapter = adapter

    def __getattr__(self, name: str) -> Any:
        # Encoders ask their layers for this and that; the block answers in its stead.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("block", "adapter"):
                raise
            return getattr(self.block, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block returns, adapted."""
        out = self.block(*args, **kwargs)
        if isinstance(out, tuple):
            return (self.adapter(out[0]), *out[1:])
        return self.adapter(out)


def is_adapted(network: Network) -> bool:
    """Whether the network has adapters."""
    return any(isinstance(m, Adapted) for m in network.modules())


def adapter_modules(network: Network) -> Iterator[Adapter]:
    """The adapters of a network."""
    return (m.adapter for m in network.modules() if isinstance(m, Adapted))


@torch.no_grad()
def insert_adapters(network: Network, example: Inputs, width: int, seed: int) -> None:
    """Put an adapter after each block of the backbone, in place; a network that has some keeps
    them.

    A layer of a transformer gets two: after the dense layers of its attention and of its
    feed-forward part, before these are added to the layer's input, as in the paper. Other blocks
    get one after their output.

    Args:
        network: its blocks are those of `Network.blocks`.
        example: a small batch of inputs, to see what the blocks return.
        width: of the bottleneck.
        seed: of the adapters' weights, which disturb no other random numbers.

    Raises:
        DomadaptError: the backbone has no blocks, or one that returns no tensor.
    """
    if is_adapted(network):
        return
    places = _places(network)
    if not places:
        raise DomadaptError(
            "Adapters stand after the blocks of a backbone, and this one has none with parameters; "
            "choose another strategy, or leave out --freeze."
        )
    shapes: dict[str, Tensor] = {}

    def see(name: str) -> Any:
        def keep(_: nn.Module, __: Any, out: Any) -> None:
            shapes[name] = out[0] if isinstance(out, tuple) else out

        return keep

    handles = [network.backbone.get_submodule(n).register_forward_hook(see(n)) for n in places]
    modes = [(m, m.training) for m in network.modules()]
    try:
        network.eval()
        network.features(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, was in modes:
            module.training = was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 1_000_003 + 29) % 2**63)
        for name in places:
            z = shapes.get(name)
            if not isinstance(z, Tensor) or z.ndim < 2:
                raise DomadaptError(
                    f"An adapter needs a block that returns a tensor (n, channels, ...); "
                    f"{name!r} does not. Choose another strategy."
                )
            block = network.backbone.get_submodule(name)
            first = z.ndim > 2 and _channels_first(block, z.shape[1])
            channels = z.shape[1] if first or z.ndim == 2 else z.shape[-1]
            adapter = Adapter(channels, width, first).to(z.device)
            _put(network.backbone, name, Adapted(block, adapter))


def _places(network: Network) -> list[str]:
    """The modules of the backbone that get an adapter behind them, by name."""
    blocks = network.blocks()
    # A backbone without blocks has no place of its own.
    names = [name for name in depths(network).blocks if name in blocks]
    within: list[str] = []
    for name in names:
        inner = dict(blocks[name].named_modules())
        fits = next((p for p in _PLACES if all(place in inner for place in p)), ())
        within += [f"{name}.{place}" for place in fits]
    # Of a transformer the layers alone: its embeddings get none.
    return within or names


def _channels_first(block: nn.Module, width: int) -> bool:
    """Whether a block's output has its channels after the batch: it ends in a convolution net."""
    convolutions = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    return any(
        isinstance(m, convolutions)
        and width in (getattr(m, "out_channels", None), getattr(m, "num_features", None))
        for m in block.modules()
    )


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(owner), leaf, module)


def restore_adapters(network: Network, state: Mapping[str, Tensor]) -> None:
    """Put the adapters into a network, in place, that saved weights name; there may be none."""
    ends = ".adapter.down.weight"
    for key, weight in state.items():
        if not (key.startswith("backbone.") and key.endswith(ends)):
            continue
        name = key.removeprefix("backbone.").removesuffix(ends)
        block = network.backbone.get_submodule(name)
        if isinstance(block, Adapted):
            continue
        adapter = Adapter(weight.shape[1], weight.shape[0], weight.ndim == 3)
        _put(network.backbone, name, Adapted(block, adapter))
