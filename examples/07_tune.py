"""Search the settings of two methods without a target label, and keep the best model as a run."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification

import domadapt
from domadapt.tune import tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--out", default=None, help="a folder; the same again goes on with it")
    args = parser.parse_args()
    out = Path(args.out or tempfile.mkdtemp())
    x, y = make_classification(800, 10, n_informative=8, n_classes=3, random_state=0)
    source = domadapt.from_arrays(x[:400], y[:400], name="before")
    target = domadapt.from_arrays(x[400:] @ (np.eye(10) + 0.2) + 1, name="after")  # no labels

    found = tune(
        (source, target),
        methods=["dann", "mcc"],
        trials=args.trials,  # of each method, all of the same number of steps
        validator="ensv",  # agreement with the vote of all; the default is class_ami
        settings={"mcc": {"temperature": 2.5}},  # fixed, so that only mcc_weight is searched
        training={"steps": args.steps},
        out=out,
        say=print,
    )
    print(found.table().to_string(index=False))
    print(f"{found.chosen.method} is kept: domadapt.load_run({str(out)!r}) loads it.")


if __name__ == "__main__":
    main()
