"""What each of several processes runs for `test_distributed`; its results go to a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small import N_CLASSES, N_FEATURES, small_task, small_trainer
from torch import Tensor, nn

from domadapt.batches import BatchStream
from domadapt.data.views import Views, make_views
from domadapt.methods import Method, build_method
from domadapt.network import Network
from domadapt.task import Batch
from domadapt.trainer import Trainer
from domadapt.training import Training

LR = 0.1


def plain_views() -> Views:
    return make_views("vector", "none", None)


def plain_network() -> Network:
    """Without BatchNorm and dropout: the mean of two gradients is then that of the union."""
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Linear(N_FEATURES, 12), nn.Tanh())
    return Network(backbone, nn.Linear(12, N_CLASSES))


def step_of(name: str, batch_size: int, steps: int) -> tuple[Method, list[Tensor]]:
    """A method after plain gradient steps, and the source samples of each of this process."""
    training = Training(
        steps=steps,
        batch_size=batch_size,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        lr=LR,
        schedule="constant",
        device="cpu",
    )
    method = build_method(name, plain_network())
    trainer = Trainer(method, small_task(), plain_views(), training)
    seen: list[Tensor] = []
    place = trainer._place

    def watched(batch: Batch) -> Batch:
        assert batch.index_s is not None
        seen.append(batch.index_s)
        return place(batch)

    trainer._place = watched  # type: ignore[method-assign]
    trainer.fit()
    return method, seen


def gradients(name: str, batch_size: int, rank: int, world: int) -> dict[str, Tensor]:
    """The gradient of the first step of one process of `world`, computed by hand."""
    task = small_task()
    stream = BatchStream(
        task.source_train,
        task.target_train if name != "source_only" else None,
        plain_views(),
        batch_size_s=batch_size,
        batch_size_t=batch_size,
        strong=False,
        seed=0,
        steps=1,
        rank=rank,
        world=world,
    )
    method = build_method(name, plain_network())
    method.train()
    method(stream[0]).total.backward()
    return {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()}


def main(out: Path, data: Path) -> None:
    # The whole path first, as the command line starts it.
    from domadapt import cli

    line = f"adapt {data}/s.npz {data}/t.npz --out {out}/run --steps 6 --log-every 2 --device cpu"
    sys.argv = ["domadapt", *line.split(), "--method", "self_training+dann", "--keep", "adapted"]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise

    from accelerate.state import PartialState

    rank = PartialState().process_index
    assert PartialState().num_processes == 2
    results: dict[str, Any] = {}
    for name in ("dann", "dan"):
        method, _ = step_of(name, 8, 1)
        results |= {f"{name}/{k}": v for k, v in state_of(method).items()}
    method, seen = step_of("source_only", 8, 5)
    results |= {f"source_only/{k}": v for k, v in state_of(method).items()}
    results["seen"] = torch.stack(seen)
    # BatchNorm, dropout, auxiliary network and a target-wide pass.
    trainer = small_trainer("self_training+dann", dropout=0.2)
    trainer.fit()
    results |= {f"trained/{k}": v for k, v in state_of(trainer.method).items()}
    results["dropout"] = torch.rand(4)
    save_file(results, str(out / f"rank{rank}.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
