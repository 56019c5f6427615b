"""LogME's speed and values beside the structure of the released algorithm.

    python benchmarks/logme.py [--released LogME.py] [--out results/logme.json]

The peer is written here after the released algorithm step by step: the singular value decomposition
of ``F^T F``, the left singular vectors formed from it, and for each class a product with all of
them and a fixed point of its own. ``--released`` takes the authors' file as well (its decorator
``numba.njit`` becomes the identity where numba is not installed). All are run in turn in one
process; the ratio is one of medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from domadapt.transfer import logme

HERE = Path(__file__).parent
#: The bar: so many times as fast as the released structure, with the same value.
FASTER, SAME = 3.0, 1e-6


def draw(n: int, d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features as of a network: correlated, not negative, with classes of different means."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    latent = rng.normal(size=(n, d // 2)) + 0.5 * rng.normal(size=(classes, d // 2))[y]
    f = np.maximum(latent @ rng.normal(size=(d // 2, d)) / math.sqrt(d / 2), 0)
    return (f + 0.05 * rng.normal(size=(n, d))).astype(np.float32), y


def one_by_one(features: np.ndarray, y: np.ndarray, corrected: bool = False) -> float:
    """The released algorithm's structure; `corrected` counts the rank where it counts d."""
    f = features.astype(np.float64)
    n, d = f.shape
    if n > d:
        _, squares, rows = np.linalg.svd(f.transpose() @ f)
        values = np.sqrt(squares)
        kept = int((values > 1e-10).sum())
        values = values[:kept]
        left = (f @ rows.transpose())[:, :kept] / values
    else:
        left, values, _ = np.linalg.svd(f, full_matrices=False)
    sigma = (values**2)[:, None]
    counted = len(sigma) if corrected else d
    found = []
    for c in range(int(y.max()) + 1):
        target = (y == c).astype(np.float64)[:, None]
        x2 = (left.T @ target) ** 2
        rest = (target**2).sum() - x2.sum()
        a = b = 1.0
        for _ in range(11):
            t = a / b
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x2 / (t + sigma) ** 2).sum()
            r2 = (x2 / (1 + sigma / t) ** 2).sum() + rest
            a, b = gamma / (m2 + 1e-5), (n - gamma) / (r2 + 1e-5)
            if abs(a / b - t) / t <= 1e-3:
                break
        logs = counted * np.log(a) + n * np.log(b) - np.log(a + b * sigma).sum()
        found.append((logs - b * r2 - a * m2 - n * np.log(2 * np.pi)) / (2 * n))
    return float(np.mean(found))


def compiler() -> str:
    """What compiles the authors' file here."""
    try:
        import numba
    except ImportError:
        return "none"
    return f"numba {numba.__version__}"


def released(path: Path) -> Callable[[np.ndarray, np.ndarray], float]:
    """The authors' function from their file."""
    if compiler() == "none":
        stand_in: Any = types.ModuleType("numba")
        stand_in.njit = lambda function: function
        sys.modules["numba"] = stand_in
    spec = importlib.util.spec_from_file_location("released_logme", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda f, y: float(module.LogME(regression=False).fit(f, y))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(20_000, 768, 100))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--released", type=Path, help="the authors' LogME.py, run beside")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "logme.json")
    args = parser.parse_args()
    runs: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "domadapt": logme,
        "one class at a time": one_by_one,
    }
    if args.released is not None:
        runs["released"] = released(args.released)
    n, d, classes = args.size
    f, y = draw(n, d, classes, 0)
    values = {name: run(f, y) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(f, y)
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: m / medians["domadapt"] for name, m in medians.items() if name != "domadapt"}
    off = {name: abs(v - values["domadapt"]) for name, v in values.items() if name != "domadapt"}
    f, y = draw(100, d, 3, 1)
    wide = {"domadapt": logme(f, y), "released structure": one_by_one(f, y)}
    wide["with the rank counted"] = one_by_one(f, y, corrected=True)
    misses = [f"only {r:.2f} times as fast as {name}" for name, r in ratios.items() if r < FASTER]
    misses += [f"{o:.1e} off {name}" for name, o in off.items() if o > SAME]
    if abs(wide["domadapt"] - wide["with the rank counted"]) > SAME:
        misses.append("the wide case is off the corrected one")
    result = {
        "size": {"samples": n, "features": d, "classes": classes},
        "rounds": args.rounds,
        "values": values,
        "median seconds": medians,
        "times as fast as": ratios,
        f"wide case, 100 x {d}": wide,
        "compiler of the released file": None if args.released is None else compiler(),
        "versions": {"numpy": np.__version__, "python": platform.python_version()},
        "off the bar": misses,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, m in medians.items():
        ratio = f"{ratios[name]:.2f} times ours" if name in ratios else ""
        print(f"{name:22s} {m:7.3f} s  {values[name]:.9f}  {ratio}")
    print(f"wide: {wide}")
    print("\n".join(misses))
    return bool(misses)


if __name__ == "__main__":
    sys.exit(main())
