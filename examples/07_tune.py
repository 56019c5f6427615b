"""Search the settings of two methods without a target label, and keep the best model as a run."""

import argparse
import tempfile
from pathlib import Path

import domadapt
from domadapt.tune import tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--out", default=None, help="a folder; the same again goes on with it")
    args = parser.parse_args()
    out = Path(args.out or tempfile.mkdtemp())

    found = tune(
        "digits:printed->handwritten",
        methods=["dann", "mcc"],
        trials=args.trials,  # of each method, all of the same number of steps
        validator="ensv",  # agreement with the vote of all candidates
        settings={"mcc": {"temperature": 2.5}},  # fixed, so that only mcc_weight is searched
        training={"steps": args.steps},
        out=out,
        say=print,
    )
    print(found.table().to_string(index=False))
    print(f"{found.chosen.method} with {found.chosen.settings} is the run in {out}.")
    run = domadapt.load_run(out)
    print(f"Its classes: {', '.join(run.class_names)}.")


if __name__ == "__main__":
    main()
