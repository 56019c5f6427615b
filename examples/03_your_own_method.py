"""Your own method is one class; it trains, combines and resumes like those of the library."""

import argparse

from torch import Tensor

import domadapt
from domadapt.methods import BatchOutputs


@domadapt.register("mean_matching")
class MeanMatching(domadapt.Method):
    """Distance of the domains' mean features, |mean z_s - mean z_t|^2.

    Args:
        mean_weight: factor of the distance.
    """

    def __init__(self, network: domadapt.Network, *, mean_weight: float = 1.0) -> None:
        super().__init__(network)
        self.mean_weight = mean_weight

    def terms(self, out: BatchOutputs, batch: domadapt.Batch) -> dict[str, Tensor]:
        return {"mean": (out.z_s.mean(0) - out.z_t.mean(0)).square().sum()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    for method in ("mean_matching", "mean_matching+mcc"):
        task, how = "digits:printed->handwritten", {"steps": args.steps}
        _, report = domadapt.adapt(task, method=method, training=how, look=False)
        print(report.summary())


if __name__ == "__main__":
    main()
