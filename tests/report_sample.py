"""Small reports for the tests: two Gaussian mixtures, classified by their nearest centre."""

from __future__ import annotations

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
