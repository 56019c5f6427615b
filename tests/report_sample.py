"""Small reports for the tests: two Gaussian mixtures, classified by their nearest centre."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from domadapt.evaluation import Outputs, confidence, proxy_a_distance, score
from domadapt.report.embedding import embedding
from domadapt.report.report import Candidate, Report, versions
from domadapt.selection.validators import label_free


def sample(names, labels=True, methods=("source_only", "mcc"), n=60):
    """A report over the classes `names`; the second method's target is less shifted."""
    k = len(names)
    g = torch.Generator().manual_seed(k)
    centres = 2 * torch.randn(k, 6, generator=g)
    y_s, y_t = torch.randint(0, k, (2, n), generator=g)
    steps = np.linspace(0, 100, 21)
    candidates = []
    for shift, method in zip((2.0, 0.2), methods, strict=False):
        z_s = centres[y_s] + torch.randn(n, 6, generator=g)
        z_t = centres[y_t] + shift + torch.randn(n, 6, generator=g)
        source = Outputs(-torch.cdist(z_s, centres), z_s, y_s)
        target = Outputs(-torch.cdist(z_t, centres), z_t)
        history = {
            "step": steps.tolist(),
            "lr": [1e-3] * 21,
            "loss/source": (2 * np.exp(-steps / 30)).tolist(),
            "weight/source": [1.0] * 21,
            "seconds": (steps / 10).tolist(),
        }
        if method != "source_only":
            history |= {f"loss/{method}": [0.5, float("nan"), *[0.25] * 19]}
            history |= {f"weight/{method}": (steps / 100).tolist()}
        candidates.append(
            Candidate(
                name=method,
                method=method,
                settings={} if method == "source_only" else {"weight": 1.0},
                history=history,
                seconds=12.5,
                label_free=label_free(source, target),
                target=score(target.logits, y_t, names).to_dict() if labels else None,
                shift={"proxy_a_distance": proxy_a_distance(z_s, z_t), "mmd": shift / 10},
                confidence={"source_val": confidence(source), "target": confidence(target)},
                embedding=embedding(source, target, y_t.tolist() if labels else None),
            )
        )
    return Report(
        task={
            "name": "printed->handwritten",
            "kind": "image",
            "transductive": True,
            "class_names": list(names),
            "sizes": {"source_train": 48, "source_val": 12, "target_train": n, "target_test": n},
            "source_names": ["printed"],
            "target_name": "handwritten",
            "notes": ["handwritten: 2 files were skipped"],
        },
        chosen=candidates[-1].name,
        candidates=candidates,
        model={"backbone": "lenet", "parameters": 61_706, "input": [3, 16, 16]},
        training={"steps": 100, "lr": 1e-3},
        method={"weight": 1.0},
        versions=versions(),
        seed=3,
        command="domadapt adapt printed handwritten --out runs/first",
        created="2026-01-02T03:04:05+00:00",
        warnings=["Only 60 samples were scored."],
    )


CHOSEN = "Use the adapted model (mcc): estimated target accuracy about 82 %."
FELL = "it predicts 1.0 classes in effect where source_only predicts 2.9"
REFUSED = "The signs of its accuracy contradict each other: they lie between 12 and 97 %."
SHARES = (
    "The classes are not as frequent in the target as in the source: a (33 % in the source, about "
    "61 % in the target). Try --method bbse."
)


def estimate(accuracy: float, low: float, high: float, **parts: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": low, "high": high, "parts": parts, "refused": ""}


def judged(labels=True, names=("a", "b", "c"), **verdict):
    """A report with a verdict over four candidates, of which two are as they come from `sample`.

    mcc is chosen, entropy was set aside, and shot, which has no map either, has no estimate.
    """
    report = sample(names, labels=labels)
    before, after = report.candidates
    bare = {"embedding": None, "shift": {}}
    others = [
        dataclasses.replace(
            after,
            name="entropy",
            method="entropy",
            scores={"entropy": -0.01, "dev": -2345.6},
            set_aside=[FELL],
            estimate=dict.fromkeys(("accuracy", "low", "high"))
            | {"parts": {}, "refused": "The candidate is broken."},
            warnings=["The predictions have collapsed."],
            **bare,
        ),
        dataclasses.replace(
            after,
            name="shot",
            method="shot",
            scores={"entropy": -0.4, "bnm": 0.5, "dev": 0.00012},
            estimate=dict.fromkeys(("accuracy", "low", "high")) | {"parts": {}, "refused": REFUSED},
            **bare,
        ),
    ]
    before = dataclasses.replace(
        before,
        scores={"entropy": -1.5, "bnm": 0.5, "dev": -0.25},
        estimate=estimate(0.33, 0.19, 0.48, transport=0.54, average_confidence=0.78),
    )
    after = dataclasses.replace(
        after,
        scores={"entropy": -0.5, "bnm": 0.75, "dev": -0.5},
        estimate=estimate(0.82, 0.67, 0.97, transport=0.83),
    )
    said = {
        "chosen": "mcc",
        "sentence": CHOSEN,
        "because": ["mcc keeps 59 % of it.", f"entropy was set aside: {FELL}."],
        "ranking": {"mcc": 1.11, "shot": 0.7, "source_only": 0.46},
        "set_aside": {"entropy": [FELL]},
        "estimates": {},
        "findings": [
            {
                "kind": "label shift",
                "sentence": SHARES,
                "method": "bbse",
                "numbers": {"distance": 0.28, "share of a": 0.61},
            }
        ],
        "prior_t": [0.61, 0.2, 0.19],
        "baseline": "source_only",
        "rule": "7",
        "kept": "mcc",
        "calibration": {
            "temperature": 1.5,
            "prior_s": [0.34, 0.33, 0.33],
            "prior_t": [0.61, 0.2, 0.19],
            "ece_before": 0.134,
            "ece_after": 0.021,
            "trust": "On held-out source samples they are off by 2.1 points on average.",
        },
        "portfolio": "3",
        "budget": "standard",
        "left_out": {"dan": "It needs BatchNorm."},
    }
    return dataclasses.replace(
        report, candidates=[before, others[0], others[1], after], verdict=said | verdict
    )
