"""Adapt a digit classifier from printed to handwritten digits, and look at what it gained."""

import argparse

import domadapt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", default=None, help="folder for report.html, the model, ...")
    args = parser.parse_args()

    network, report = domadapt.adapt(
        "digits:printed->handwritten",
        method="mcc",
        training={"steps": args.steps},
        out=args.out,
    )
    print(report.summary())
    print(f"The adapted network is a plain {type(network).__name__} in evaluation mode.")


if __name__ == "__main__":
    main()
