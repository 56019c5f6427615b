"""What the library costs: the Trainer's step against a bare loop, and MMD on a large batch.

    python benchmarks/speed.py --what step                       # MLP, then ResNet-18
    python benchmarks/speed.py --what mmd --threads 2
    python benchmarks/speed.py --what step --peer pytorch-adapt  # needs the extra of that name

The Trainer runs as a person runs it: checks, curves, accelerate. The bare loop is what a person
would write by hand for the same method: the same batched loader, networks, losses, optimiser and
schedule, and nothing else. Both live in one process and take turns: after every block of the
Trainer's steps, its logging callback stops the clock and runs a block of each other loop. Both
start from the same weights, and the largest difference of their weights at the end is printed, so
that a loop which does other work than the Trainer shows. The ratio is the median over blocks of
(Trainer's time / bare loop's time just after); the first block warms up and is not counted.
Garbage is collected between blocks, outside the clock; the collector stays on within them.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from domadapt.batches import BatchStream, batch_loader
from domadapt.curves import Log
from domadapt.data import from_arrays
from domadapt.data.views import Views, make_views
from domadapt.losses.adversarial import domain_loss
from domadapt.losses.mmd import mmd
from domadapt.losses.prediction import mcc
from domadapt.methods import Method, build_method
from domadapt.network import Network
from domadapt.ops import ramp, reverse_gradient
from domadapt.task import Batch, Task
from domadapt.trainer import Trainer
from domadapt.training import Training

METHODS = ("source_only", "dann", "mcc")
MODELS = ("mlp", "resnet18")
N_CLASSES, N_SAMPLES, SEED = 10, 1024, 0
#: The most that a step may cost, as a multiple of the bare loop's.
BARS = {"mlp": 1.10, "resnet18": 1.03}
MMD_BAR_MS, MMD_BAR_MIB = 15.0, 50.0


#: "cpu" counts this process's processor time alone, which is steadier on a busy machine.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Loop(Protocol):
    """A training loop that takes its steps when asked to."""

    def run(self, steps: int) -> None: ...


def make_case(model: str, width: int, image: int) -> tuple[Task, Views, Network]:
    """Random data of two domains and a fresh network; speed does not depend on the values."""
    rng = np.random.default_rng(SEED)
    labels = np.arange(N_SAMPLES) % N_CLASSES
    torch.manual_seed(SEED)
    if model == "mlp":
        x: np.ndarray = rng.normal(size=(2, N_SAMPLES, width)).astype(np.float32)
        views = make_views("vector", "none")
        backbone: nn.Module = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        network = Network(backbone, nn.Linear(width, N_CLASSES))
    else:
        x = rng.integers(0, 256, size=(2, N_SAMPLES, 3, image, image), dtype=np.uint8)
        views = make_views("image", "none")
        network = Network.from_classifier(torchvision.models.resnet18(num_classes=N_CLASSES))
    task = Task(from_arrays(x[0], labels, name="source"), from_arrays(x[1], name="target"))
    return task, views, network


def batches(
    task: Task, views: Views, training: Training, device: torch.device, target: bool
) -> Iterator[Batch]:
    """The Trainer's batches, on the device."""
    stream = BatchStream(
        task.source_train,
        task.target_train if target else None,
        views,
        batch_size_s=training.batch_size,
        batch_size_t=training.batch_size,
        strong=False,
        seed=training.seed,
        steps=training.steps,
    )
    loader = batch_loader(stream, 0, 0, pin_memory=device.type == "cuda")
    return loader if device.type == "cpu" else (b.to(device) for b in loader)


def decay_groups(training: Training, *modules: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters, none on biases and scales."""
    all_ = [p for m in modules for p in m.parameters()]
    return [
        {"params": [p for p in all_ if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in all_ if p.ndim <= 1], "weight_decay": 0.0},
    ]


class BareLoop:
    """The loop that a person would write by hand for one of three methods."""

    def __init__(
        self, name: str, method: Method, task: Task, views: Views, training: Training
    ) -> None:
        self.training = training
        device = next(method.parameters()).device
        self.loss: Callable[[Any], Tensor] = getattr(self, name)
        own = copy.deepcopy(method).train()
        self.network = own.network
        modules = [self.network]
        if name == "dann":
            self.discriminator = own.get_submodule("discriminator")
            modules.append(self.discriminator)  # type: ignore[arg-type]
        self.batches = batches(task, views, training, device, target=name != "source_only")
        self.optimizer = torch.optim.AdamW(
            decay_groups(training, *modules), lr=training.lr, fused=True
        )

    # A batch's parts are optional to the type checker, which is told otherwise by `Any`.
    def source_only(self, batch: Any) -> Tensor:
        return cross_entropy(self.network(batch.x_s), batch.y_s)

    def dann(self, batch: Any) -> Tensor:
        z = self.network.features(torch.cat((batch.x_s, batch.x_t)))
        n = len(batch.y_s)
        logits = self.network.head(z)
        z = reverse_gradient(z, ramp(batch.progress))
        adversarial = domain_loss(self.discriminator(z[:n]), self.discriminator(z[n:]))
        return cross_entropy(logits[:n], batch.y_s) + adversarial

    def mcc(self, batch: Any) -> Tensor:
        logits = self.network(torch.cat((batch.x_s, batch.x_t)))
        n = len(batch.y_s)
        return cross_entropy(logits[:n], batch.y_s) + mcc(logits[n:], 2.5)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self.batches)
            lr = self.training.lr * self.training.lr_factor(batch.progress)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.loss(batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class PytorchAdaptDANN:
    """pytorch-adapt's DANN over the same batches, networks and optimiser.

    As it comes: its gradient reversal has a constant weight, and each part has an optimiser.
    """

    def __init__(self, method: Method, task: Task, views: Views, training: Training) -> None:
        from pytorch_adapt.adapters import DANN
        from pytorch_adapt.containers import Models, Optimizers

        self.training = training
        device = next(method.parameters()).device
        own = copy.deepcopy(method).train()
        head, discriminator = own.network.head, own.get_submodule("discriminator")
        own.network.head = nn.Identity()
        models = Models({"G": own.network, "C": head, "D": discriminator})
        settings = {"lr": training.lr, "weight_decay": training.weight_decay, "fused": True}
        self.adapter = DANN(
            models=models, optimizers=Optimizers((torch.optim.AdamW, settings), multipliers={})
        )
        self.batches = batches(task, views, training, device, target=True)
        n = training.batch_size
        self.domains = {
            "src_domain": torch.zeros(n, device=device),
            "target_domain": torch.ones(n, device=device),
        }

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self.batches)
            lr = self.training.lr * self.training.lr_factor(batch.progress)
            for optimizer in self.adapter.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = lr
            self.adapter.training_step(
                {
                    "src_imgs": batch.x_s,
                    "src_labels": batch.y_s,
                    "target_imgs": batch.x_t,
                    **self.domains,
                }
            )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    trainer: Trainer,
    others: dict[str, Loop],
    block: int,
    device: torch.device,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per block, of the Trainer and of every other loop; the first block is left out."""
    times: dict[str, list[float]] = {name: [] for name in ("trainer", *others)}
    started = 0.0

    def on_log(log: Log) -> None:
        nonlocal started
        if log.step % block:
            return
        synchronize(device)
        times["trainer"].append(now() - started)
        for name, loop in others.items():
            gc.collect()
            begin = now()
            loop.run(block)
            synchronize(device)
            times[name].append(now() - begin)
        gc.collect()
        started = now()

    trainer.fit(on_log)
    return {name: values[1:] for name, values in times.items()}


def weight_difference(one: nn.Module, two: nn.Module) -> float:
    """The largest absolute difference of two networks' parameters."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def step_rows(args: argparse.Namespace, model: str, device: torch.device) -> list[dict[str, Any]]:
    block = args.mlp_block if model == "mlp" else args.resnet_block
    batch_size = args.mlp_batch if model == "mlp" else args.resnet_batch
    training = Training(
        steps=block * (args.blocks + 1),
        batch_size=batch_size,
        # Shorter than the default only where a block is: that makes logging dearer, not cheaper.
        log_every=min(Training.log_every, block),
        device=args.device,
        seed=SEED,
    )
    rows = []
    for name in args.methods:
        task, views, network = make_case(model, args.width, args.image)
        method = build_method(name, network).to(device)
        others: dict[str, Loop] = {"bare": BareLoop(name, method, task, views, training)}
        if args.peer and name == "dann":
            others[args.peer] = PytorchAdaptDANN(method, task, views, training)
        trainer = Trainer(method, task, views, training)
        times = take_turns(trainer, others, block, device, CLOCKS[args.clock])
        bare = others["bare"]
        assert isinstance(bare, BareLoop)
        difference = weight_difference(method.network, bare.network)
        for who in times:
            if who == "bare":
                continue
            ratios = [a / b for a, b in zip(times[who], times["bare"], strict=True)]
            low, middle, high = quartiles(ratios)
            rows.append(
                {
                    "what": "step",
                    "who": "domadapt" if who == "trainer" else who,
                    "model": model,
                    "method": name,
                    "batch": f"{batch_size}+{0 if name == 'source_only' else batch_size}",
                    "blocks": args.blocks,
                    "steps_per_block": block,
                    "log_every": training.log_every,
                    "bare_ms": 1e3 * statistics.median(times["bare"]) / block,
                    "ms": 1e3 * statistics.median(times[who]) / block,
                    "ratio": middle,
                    "ratio_quartiles": [low, high],
                    "bar": BARS[model] if who == "trainer" else None,
                    "weight_difference": difference if who == "trainer" else None,
                }
            )
    return rows


def resident_peak(reset: bool = False) -> float | None:
    """The most memory this process has held since the last reset, in MiB; None off Linux."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not clear.exists():
        return None
    if reset:
        clear.write_text("5")
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def mmd_once(n: int, d: int, device: torch.device) -> Callable[[], None]:
    g = torch.Generator().manual_seed(SEED)
    z_s = torch.randn(n, d, generator=g).to(device).requires_grad_()
    z_t = (torch.randn(n, d, generator=g) + 0.1).to(device).requires_grad_()

    def once() -> None:
        z_s.grad = z_t.grad = None
        mmd(z_s, z_t).backward()

    return once


def mmd_memory(n: int, d: int, device: torch.device) -> float | None:
    """Extra memory of the first forward and backward pass, in MiB, in this fresh process."""
    mmd_once(8, 8, device)()  # the libraries' own buffers are not MMD's
    once = mmd_once(n, d, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        once()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    held = resident_peak(reset=True)
    once()
    peak = resident_peak()
    return None if held is None or peak is None else peak - held


def mmd_row(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    n, d = args.mmd_samples, args.mmd_features
    once = mmd_once(n, d, device)
    now, times = CLOCKS[args.clock], []
    for _ in range(args.blocks + 5):
        synchronize(device)
        begin = now()
        once()
        synchronize(device)
        times.append(now() - begin)
    low, middle, high = quartiles([1e3 * t for t in times[5:]])
    # A process of its own: what this one has already held would hide what MMD takes.
    command = [sys.executable, __file__, "--mmd-memory", "--device", args.device]
    command += ["--threads", str(args.threads)]
    command += ["--mmd-samples", str(n), "--mmd-features", str(d)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    return {
        "what": "mmd",
        "samples": f"{n}+{n}",
        "features": d,
        "ms": middle,
        "ms_quartiles": [low, high],
        "mib": json.loads(child.stdout),
        "bar_ms": MMD_BAR_MS,
        "bar_mib": MMD_BAR_MIB,
    }


def show(rows: list[dict[str, Any]]) -> str:
    lines = []
    steps = [r for r in rows if r["what"] == "step"]
    if steps:
        lines.append(
            f"{'loop':14} {'model':9} {'method':12} {'batch':>7} {'bare ms':>8} {'ms':>8} "
            f"{'ratio':>6} {'quartiles':>14} {'bar':>5}  weights differ by"
        )
    for r in steps:
        low, high = r["ratio_quartiles"]
        bar = "" if r["bar"] is None else f"{r['bar']:.2f}"
        differ = "" if r["weight_difference"] is None else f"{r['weight_difference']:.1e}"
        lines.append(
            f"{r['who']:14} {r['model']:9} {r['method']:12} {r['batch']:>7} {r['bare_ms']:8.3f} "
            f"{r['ms']:8.3f} {r['ratio']:6.3f} {low:6.3f}..{high:.3f} {bar:>5}  {differ}"
        )
    for r in rows:
        if r["what"] == "mmd":
            low, high = r["ms_quartiles"]
            memory = "not measured here" if r["mib"] is None else f"{r['mib']:.1f} MiB"
            lines.append(
                f"mmd {r['samples']} samples of {r['features']} features, forward and backward: "
                f"{r['ms']:.2f} ms ({low:.2f}..{high:.2f}; bar {r['bar_ms']:g}), "
                f"extra memory {memory} (bar {r['bar_mib']:g} MiB)"
            )
    return "\n".join(lines)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--what", choices=["step", "mmd", "all"], default="all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--peer", choices=["pytorch-adapt"], help="also time its DANN step")
    parser.add_argument("--blocks", type=int, default=20, help="counted blocks of each loop")
    parser.add_argument("--mlp-block", type=int, default=100, help="steps in a block of the MLP")
    parser.add_argument("--mlp-batch", type=int, default=64, help="samples of each domain")
    parser.add_argument("--width", type=int, default=256, help="inputs and hidden units of the MLP")
    parser.add_argument("--resnet-block", type=int, default=5)
    parser.add_argument("--resnet-batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=64, help="height and width of the images")
    parser.add_argument("--mmd-samples", type=int, default=256)
    parser.add_argument("--mmd-features", type=int, default=512)
    parser.add_argument("--mmd-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda needs an NVIDIA GPU, and torch finds none; leave it out.")
    if args.peer and importlib.util.find_spec("pytorch_adapt") is None:
        sys.exit("--peer pytorch-adapt needs its package: pip install 'domadapt[pytorch-adapt]'.")
    if args.device == "cuda" and args.clock == "cpu":
        sys.exit("--clock cpu does not see a GPU's work; leave it out with --device cuda.")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.mmd_memory:
        print(json.dumps(mmd_memory(args.mmd_samples, args.mmd_features, device)))
        return
    rows: list[dict[str, Any]] = []
    if args.what in ("step", "all"):
        for model in args.models:
            rows += step_rows(args, model, device)
    if args.what in ("mmd", "all"):
        rows.append(mmd_row(args, device))
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "threads": args.threads,
        "clock": args.clock,
        "seed": SEED,
        "width": args.width,
        "image": args.image,
    }
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    print(show(rows))
    if args.out is not None:
        args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
