"""scikit-learn: a pipeline that adapts, and a search that reads no target label."""

import argparse

import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domadapt.closed_form import Coral
from domadapt.estimator import DomainAdaptationClassifier
from domadapt.label_free import label_free_scorer, target_folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    x, y = make_classification(800, 10, n_informative=8, n_classes=3, random_state=0)
    domain = np.repeat([1, -1], 400)  # positive: source, negative: target
    x[domain < 0] = x[domain < 0] @ (np.eye(10) + 0.2) + 1

    model = make_pipeline(
        StandardScaler(), Coral(), DomainAdaptationClassifier(training={"steps": args.steps})
    )
    told = {"coral__sample_domain": domain, "domainadaptationclassifier__sample_domain": domain}
    search = GridSearchCV(
        model,
        {"domainadaptationclassifier__method": ["source_only", "dann", "mcc"]},
        scoring=label_free_scorer("information_maximisation"),
        cv=target_folds(domain, 1),  # trains with all rows, scores the target rows
    )
    search.fit(x, np.where(domain > 0, y, -1), **told)  # target labels: hidden
    print("Chosen without target labels:", search.best_params_)
    print("Accuracy on the target:", (search.predict(x) == y)[domain < 0].mean())


if __name__ == "__main__":
    main()
