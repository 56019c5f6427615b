"""Your own arrays: sensors of two machines, the second one without labels."""

import argparse

import numpy as np
import torch

import domadapt


def readings(rng: np.random.Generator, n: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    state = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    x[np.arange(n), state] += 2.5
    return gain * x + (gain - 1), state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x_source, y_source = readings(rng, 600, gain=1.0)
    x_target, _ = readings(rng, 600, gain=1.6)

    source = domadapt.from_arrays(x_source, y_source, name="machine A")
    target = domadapt.from_arrays(x_target, name="machine B")
    task = domadapt.Task(source, target)
    network, report = domadapt.adapt(task, "mlp", "dan", training={"steps": args.steps})
    print(report.summary())
    print("First predictions:", network(torch.from_numpy(x_target[:5])).argmax(1).tolist())


if __name__ == "__main__":
    main()
