"""Closed-form methods on Office-Caltech beside independent implementations of them.

    python benchmarks/closed_form.py                              # reads DOMADAPT_DATA
    python benchmarks/closed_form.py --peer-python PYTHON         # and skada's, in its own place

SURF histograms as the catalogue gives them (z-scored per domain), all 12 pairs, transductive; a
1-nearest-neighbour classifier is fitted on the mapped source. Settings are the defaults, the same
for all pairs. `formula` is the method's formula in NumPy, written in this file and sharing no code
with the package; `pot` is POT's own class; `skada` runs in the environment of ``--peer-python``;
`skada, exact` is skada less what `KNOWN` names. Target labels are read once, for the accuracy. Exit
status 1 if an implementation is further than 0.5 points from ours on any pair for no known reason,
or a method is not above 1-NN alone on the mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

HERE = Path(__file__).parent
DOMAINS = ("caltech10", "amazon", "webcam", "dslr")
#: What the methods do by default, spelled out for the peers.
K, MU, REG_OT, REG_LINEAR = 20, 1.0, 0.1, 1e-3
#: Why rows may differ from ours; the rows "skada, exact" show that there is no other reason.
KNOWN = {
    ("subspace_alignment", "skada"): "PCA by a randomised solver, which has not converged",
    ("tca", "skada"): (
        "components of unit coefficients, where the paper's constraint asks for unit variance; "
        "besides, a solver for symmetric matrices on one that is symmetric only where the means "
        "of the domains agree, as they do in these z-scored data"
    ),
}
Mapping = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def nearest(x: np.ndarray, y: np.ndarray, x_t: np.ndarray, y_t: np.ndarray) -> float:
    """1-NN accuracy in percent, by scikit-learn: no method's own."""
    from sklearn.neighbors import KNeighborsClassifier

    return 100 * float(KNeighborsClassifier(1).fit(x, y).score(x_t, y_t))


# --- ours ---------------------------------------------------------------------------------------


def ours() -> dict[str, Mapping]:
    from domadapt import closed_form

    def of(name: str) -> Mapping:
        def mapping(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            method = getattr(closed_form, name)()
            return method.fit_transform(x_s, X_target=x_t), method.transform(x_t)

        return mapping

    return {
        "nearest_neighbour": lambda x_s, x_t: (x_s, x_t),
        "coral": of("Coral"),
        "subspace_alignment": of("SubspaceAlignment"),
        "tca": of("TCA"),
        "ot_da": of("OTDA"),
        "linear_ot": of("LinearOT"),
    }


# --- from the formulas, and POT's ---------------------------------------------------------------


def coral(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def half(x: np.ndarray) -> np.ndarray:
        # A square root by singular values of the rows, without a covariance's eigenvalues.
        _, s, vt = np.linalg.svd((x - x.mean(0)) / np.sqrt(len(x) - 1))
        full = np.zeros(x.shape[1])
        full[: len(s)] = s**2
        return (vt.T * np.sqrt(full + 1)) @ vt

    return x_s @ np.linalg.solve(half(x_s), half(x_t)), x_t


def subspace_alignment(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p_s, p_t = (np.linalg.eigh(np.cov(x.T))[1][:, -K:] for x in (x_s, x_t))
    return (x_s - x_s.mean(0)) @ p_s @ (p_s.T @ p_t), (x_t - x_t.mean(0)) @ p_t


def tca(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, n = np.vstack([x_s, x_t]), len(x_s) + len(x_t)
    k = x @ x.T
    v = np.concatenate([np.full(len(x_s), 1 / len(x_s)), np.full(len(x_t), -1 / len(x_t))])
    h = np.eye(n) - 1 / n
    khk = k @ h @ k
    # A matrix that is not symmetric: its leading eigenvectors by Arnoldi's iteration.
    from scipy.sparse.linalg import eigs

    left = np.outer(k @ v, k @ v) + MU * np.eye(n)
    values, vectors = eigs(np.linalg.solve(left, khk), k=K, v0=np.ones(n))
    w = vectors.real[:, values.real.argsort()[::-1]]
    z = k @ (w / np.sqrt(np.einsum("ik,ij,jk->k", w, khk, w, optimize=True)))
    return z[: len(x_s)], z[len(x_s) :]


def ot_da(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cost = ((x_s**2).sum(1)[:, None] + (x_t**2).sum(1) - 2 * x_s @ x_t.T).clip(0)
    k = np.exp(-cost / np.median(cost) / REG_OT)
    v = np.ones(len(x_t))
    for _ in range(2000):
        u = 1 / len(x_s) / (k @ v)
        v = 1 / len(x_t) / (k.T @ u)
    plan = u[:, None] * k * v
    return plan @ x_t / plan.sum(1, keepdims=True), x_t


def linear_ot(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    eye = REG_LINEAR * np.eye(x_s.shape[1])
    c_s, c_t = (np.cov(x.T, ddof=0) + eye for x in (x_s, x_t))
    # The same matrix another way: C_s^-1 # C_t = C_s^-1 (C_s C_t)^(1/2), by Schur's method.
    a = np.linalg.solve(c_s, scipy.linalg.sqrtm(c_s @ c_t).real)
    return (x_s - x_s.mean(0)) @ a + x_t.mean(0), x_t


def pot(name: str) -> Mapping:
    def mapping(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import ot

        method = (
            ot.da.LinearTransport(reg=REG_LINEAR)
            if name == "linear_ot"
            else ot.da.SinkhornTransport(reg_e=REG_OT, norm="median")
        )
        return method.fit(Xs=x_s, Xt=x_t).transform(Xs=x_s), x_t

    return mapping


FORMULAS: dict[str, Mapping] = {
    "coral": coral,
    "subspace_alignment": subspace_alignment,
    "tca": tca,
    "ot_da": ot_da,
    "linear_ot": linear_ot,
}
POT: dict[str, Mapping] = {"ot_da": pot("ot_da"), "linear_ot": pot("linear_ot")}

# --- skada, in a process of its own -------------------------------------------------------------


def skada_methods(*, exact: bool) -> dict[str, Mapping]:
    import skada
    from sklearn.decomposition import PCA

    def of(adapter: Callable[[], Any]) -> Mapping:
        def mapping(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            d = np.repeat([1, -2], [len(x_s), len(x_t)])
            x = adapter().fit_transform(np.vstack([x_s, x_t]), sample_domain=d)
            return x[d > 0], x[d < 0]

        return mapping

    def unit_variance(mapping: Mapping) -> Mapping:
        def scaled(x_s: np.ndarray, x_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            z_s, z_t = mapping(x_s, x_t)
            deviation = np.vstack([z_s, z_t]).std(0)
            return z_s / deviation, z_t / deviation

        return scaled

    skada._subspace.PCA = partial(PCA, svd_solver="full") if exact else PCA
    methods = {
        "subspace_alignment": of(
            lambda: skada.SubspaceAlignmentAdapter(n_components=K, random_state=0)
        ),
        "tca": of(
            lambda: skada.TransferComponentAnalysisAdapter(kernel="linear", n_components=K, mu=MU)
        ),
        "ot_da": of(lambda: skada.EntropicOTMappingAdapter(reg_e=REG_OT, norm="median")),
        "linear_ot": of(lambda: skada.LinearOTMappingAdapter(reg=REG_LINEAR)),
    }
    if not exact:
        return methods
    return {
        "subspace_alignment": methods["subspace_alignment"],
        "tca": unit_variance(methods["tca"]),
    }


def serve(arrays: str) -> None:
    """In the peer's environment: accuracies by method and pair, as JSON on the last line."""
    import skada

    data = np.load(arrays, allow_pickle=False)
    domains = {name: (data[f"x_{name}"], data[f"y_{name}"]) for name in DOMAINS}
    rows = {
        "skada": measure(skada_methods(exact=False), domains),
        "skada, exact": measure(skada_methods(exact=True), domains),
    }
    print(json.dumps({"version": skada.__version__, "rows": rows}))


# --- the table ----------------------------------------------------------------------------------


def measure(
    methods: dict[str, Mapping], domains: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, mapping in methods.items():
        begun, accuracy = time.perf_counter(), {}
        for s, t in itertools.permutations(DOMAINS, 2):
            (x_s, y_s), (x_t, y_t) = domains[s], domains[t]
            z_s, z_t = mapping(x_s, x_t)
            accuracy[f"{s}->{t}"] = nearest(z_s, y_s, z_t, y_t)
        seconds = round(time.perf_counter() - begun, 1)
        found[name] = {"accuracy": accuracy, "seconds": seconds}
        print(f"{name}: {seconds} s", file=sys.stderr, flush=True)
    return found


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Percent by method, implementation and pair, and the largest distance from ours."""
    short = {name: name[0].upper() for name in DOMAINS}
    pairs = list(itertools.permutations(DOMAINS, 2))
    head = [f"{short[s]}→{short[t]}" for s, t in pairs]
    lines = ["| method | by | " + " | ".join(head) + " | mean | off by at most |"]
    lines.append("| --- " * (len(head) + 4) + "|")
    for method, mine in results["domadapt"].items():
        for by, rows in results.items():
            if method not in rows:
                continue
            values = rows[method]["accuracy"]
            off = max(abs(values[p] - mine["accuracy"][p]) for p in values)
            cells = " | ".join(f"{v:.2f}" for v in values.values())
            mean = statistics.mean(values.values())
            away = "" if by == "domadapt" else f"{off:.2f}"
            lines.append(f"| {method} | {by} | {cells} | {mean:.2f} | {away} |")
    return "\n".join(lines)


def faults(results: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """What misses the bar: 0.5 points from ours on any pair, or not above 1-NN on the mean."""
    found = []
    mine = {m: r["accuracy"] for m, r in results["domadapt"].items()}
    plain = statistics.mean(mine["nearest_neighbour"].values())
    for method, values in mine.items():
        if method != "nearest_neighbour" and statistics.mean(values.values()) <= plain:
            found.append(f"{method} is not above 1-NN alone on the mean of the pairs")
    for by, rows in results.items():
        for method, row in rows.items():
            off = {p: abs(v - mine[method][p]) for p, v in row["accuracy"].items()}
            if max(off.values()) > 0.5 and (method, by) not in KNOWN:
                pair = max(off, key=lambda p: off[p])
                found.append(f"{method} by {by} is {off[pair]:.2f} points from ours on {pair}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", help="a Python that has skada; default: no such rows")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "closed_form.json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return 0

    import ot

    from domadapt.data.catalogue import domain
    from domadapt.report.report import versions

    domains = {}
    for name in DOMAINS:
        loaded = domain(f"office-caltech:{name}")
        x = loaded.samples.__getitems__(list(range(len(loaded.samples))))
        domains[name] = np.asarray(x, dtype=np.float64), np.asarray(loaded.labels)
    results = {
        "domadapt": measure(ours(), domains),
        "formula": measure(FORMULAS, domains),
        "pot": measure(POT, domains),
    }
    used = {**versions(), "pot": ot.__version__}
    if args.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "domains.npz"
            np.savez(
                file,
                **{f"x_{n}": x for n, (x, _) in domains.items()},
                **{f"y_{n}": y for n, (_, y) in domains.items()},
            )
            run = [args.peer_python, str(Path(__file__).resolve()), "--serve", str(file)]
            done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        results |= answer["rows"]
        used["skada"] = answer["version"]
    misses = faults(results)
    about = {
        "data": "office-caltech, SURF, z-scored per domain, all samples, transductive",
        "classifier": "1-NN",
        "settings": {
            "coral": {"reg": 1.0},
            "subspace_alignment": {"n_components": K},
            "tca": {"kernel": "linear", "mu": MU, "n_components": K},
            "ot_da": {"reg": REG_OT, "norm": "median"},
            "linear_ot": {"reg": REG_LINEAR},
        },
        "versions": used,
        "known differences": {f"{m} by {by}": why for (m, by), why in KNOWN.items()},
        "off the bar": misses,
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(about, indent=1) + "\n")
    print(table(results))
    known = [f"{m} by {by}: {why}" for (m, by), why in KNOWN.items() if by in results]
    print("\n".join(["", *known, *misses]))
    return bool(misses)


if __name__ == "__main__":
    sys.exit(main())
