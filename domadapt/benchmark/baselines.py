"""Rows that adapt nothing: a linear probe of the frozen backbone, and CLIP without training.

Both are cells like others, stamped as no adaptation, and neither is ranked among the methods: the
probe has another classifier than they have, and CLIP another backbone. The target's images are
looked at to be classified, and for nothing else.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.errors import DomadaptError, unknown
from domadapt.evaluation import Outputs
from domadapt.inference import inputs_of
from domadapt.runs.plan import Plan
from domadapt.selection.evidence import some
from domadapt.task import Split, Task

LINEAR_PROBE, ZERO_SHOT = "linear_probe", "zero_shot"
#: Rows that adapt nothing.
NOT_ADAPTED = (LINEAR_PROBE, ZERO_SHOT)
PROMPT = "a photo of a {}."
#: The inverse strengths of the L2 penalty among which cross-validation chooses: ``1/2 |w|^2 + C
#: sum of losses``, of features of mean square 1/d. Folds, and samples that take part in it.
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
FOLDS, MOST = 5, 5000
ITERATIONS = 500


@dataclass(frozen=True)
class Untrained:
    """What a row without adaptation says.

    Attributes:
        test: logits of target_test; val: of source_val, with its labels.
        parameters: of what was fitted, or of CLIP.
        seconds: what it took, without the features of a frozen backbone.
        settings: how it was done.
    """

    test: Tensor
    val: Outputs
    parameters: int
    seconds: float
    settings: dict[str, Any]


def read_zero_shot(given: Any, folder: Path = Path()) -> dict[str, str]:
    """The table ``{model = "...", prompt = "a photo of a {}."}``; a path begins in `folder`."""
    if not given:
        return {}
    if not isinstance(given, Mapping) or not isinstance(given.get("model"), str):
        raise DomadaptError(
            "zero_shot is a table with a CLIP model, such as {model = "
            f'"openai/clip-vit-base-patch16", prompt = "{PROMPT}"}}; got {given!r}.'
        )
    for key in given:
        if key not in ("model", "prompt"):
            raise unknown("key of zero_shot", key, ("model", "prompt"))
    prompt = given.get("prompt", PROMPT)
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise DomadaptError(
            f"The prompt of zero_shot has {{}} once, where the class stands; got {prompt!r}."
        )
    model = given["model"]
    if (folder / model).exists():
        model = str((folder / model).resolve())
    return {"model": model, "prompt": prompt}


def check_baselines(
    methods: Mapping[str, Any], task: Task, kind: str, backbone: str | None
) -> None:
    """Refuse a row that this task or backbone cannot have.

    Args:
        methods: the names of the suite's methods.
        task: over raw samples.
        kind: of backbone; frozen where it is frozen.
        backbone: its name.
    """
    for name in NOT_ADAPTED:
        if name in methods and task.open_set:
            raise DomadaptError(
                f"{name} knows the classes of the source alone, and {task.name} has unknown ones; "
                "leave it out."
            )
    if LINEAR_PROBE in methods and kind == "scratch" and backbone != "features":
        raise DomadaptError(
            f"{LINEAR_PROBE} needs a backbone that has learnt something, frozen or with weights "
            f"(freeze, weights, checkpoint); {backbone} begins with random ones. Leave it out."
        )
    if ZERO_SHOT in methods and task.kind != "image":
        raise DomadaptError(
            f"{ZERO_SHOT} is for images; the samples of {task.name} are of kind {task.kind!r}. "
            "Leave it out."
        )


# Linear probe -----------------------------------------------------------------------------------


def linear_probe(plan: Plan, seed: int = 0) -> Untrained:
    """Logistic regression of frozen features on source labels.

    Features are standardised by source_train and divided by ``sqrt(d)``. The strength C of the
    penalty is the one with the largest accuracy in 5-fold cross-validation over (at most 5,000
    samples of) source_train, of equal ones the strongest penalty; groups stay whole in folds. Then
    it is fitted on all of source_train.

    Args:
        plan: of a frozen backbone, over its features.
        seed: of the folds.

    Raises:
        DomadaptError: all features are equal.
    """
    from sklearn.linear_model import LogisticRegression

    train = plan.task.source_train
    assert train.y is not None
    x, x_val, x_test = (
        _features(split, plan) for split in (train, plan.task.source_val, plan.task.target_test)
    )
    begun = time.perf_counter()
    mean, std = x.mean(0), x.std(0)
    alive = std > 1e-9 * np.maximum(np.abs(x).max(0), 1e-30)
    if not alive.any():
        raise DomadaptError(
            f"The features of all samples of {plan.task.name} are equal; {LINEAR_PROBE} has "
            "nothing to tell them apart by."
        )
    scale = std[alive] * np.sqrt(alive.sum())
    x, x_val, x_test = ((f[:, alive] - mean[alive]) / scale for f in (x, x_val, x_test))
    y = train.y.numpy()
    strength, accuracy = _strength(x, y, _groups(train), seed)
    model = LogisticRegression(C=strength, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        # Its accuracy has settled long before its weights.
        warnings.simplefilter("ignore")
        model.fit(x, y)
    k = plan.task.n_classes
    logits, val = (_log_probabilities(model, f, k) for f in (x_test, x_val))
    return Untrained(
        logits,
        Outputs(val, val[:0], plan.task.source_val.y),
        int(model.coef_.size + model.intercept_.size),
        time.perf_counter() - begun,
        {"C": strength, "cross_validated_accuracy": accuracy},
    )


def _features(split: Split, plan: Plan) -> np.ndarray:
    parts = [x for x in inputs_of(split, plan.views) if isinstance(x, Tensor)]
    found: np.ndarray = torch.cat(parts).float().flatten(1).numpy()
    return found


def _groups(split: Split) -> np.ndarray | None:
    groups = split.domain.groups
    return None if groups is None else np.asarray([str(g) for g in groups[split.indices]])


def _strength(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, seed: int
) -> tuple[float, float]:
    """The strength that cross-validation chooses, and its accuracy; 1 where there are no folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if len(y) > MOST:
        part = np.sort(np.random.default_rng(seed).permutation(len(y))[:MOST])
        x, y, groups = x[part], y[part], None if groups is None else groups[part]
    units = len(y) // 2 if groups is None else len(np.unique(groups))
    folds = min(FOLDS, units)
    if folds < 2:
        return 1.0, float("nan")
    split = StratifiedKFold if groups is None else StratifiedGroupKFold
    right = np.zeros(len(STRENGTHS))
    with warnings.catch_warnings():
        # Small classes are missing from some folds; accuracy settles before the weights do.
        warnings.simplefilter("ignore")
        cuts = split(n_splits=folds, shuffle=True, random_state=seed).split(x, y, groups)
        for train, test in cuts:
            if len(np.unique(y[train])) < 2:
                continue
            model = LogisticRegression(max_iter=ITERATIONS // 5, tol=1e-3, warm_start=True)
            # Each begins at the weights of the stronger penalty before it.
            for i, strength in enumerate(STRENGTHS):
                model.set_params(C=strength).fit(x[train], y[train])
                right[i] += (model.predict(x[test]) == y[test]).sum()
    best = int(np.argmax(right))
    return STRENGTHS[best], float(right[best] / len(y))


def _log_probabilities(model: Any, x: np.ndarray, n_classes: int) -> Tensor:
    """Logits ``(n, n_classes)``, of a class that was never fitted far below all others."""
    found = torch.full((len(x), n_classes), -1e4)
    p = np.log(np.maximum(model.predict_proba(x), 1e-30))
    found[:, torch.from_numpy(model.classes_.astype(np.int64))] = torch.from_numpy(p).float()
    return found


# Zero-shot --------------------------------------------------------------------------------------


def zero_shot(
    task: Task, model: str, prompt: str = PROMPT, device: torch.device | None = None
) -> Untrained:
    """A CLIP model (Radford et al., 2021, arXiv:2103.00020) classifies images by class names.

    ``logits = exp(s) cos(image, text of the class)`` with the model's own temperature s. One prompt
    per class, where the paper averages over 80; underscores in class names become spaces.

    Args:
        task: of images.
        model: the folder of a CLIP model as transformers saves it, or its name on the hub.
        prompt: with {} where the class stands.
        device: where it computes.

    Raises:
        DomadaptError: transformers is missing, or there is no such model.
    """
    network, tokens, prepare = _clip(model)
    begun = time.perf_counter()
    place = device or torch.device("cpu")
    network.to(place).eval()
    names = [prompt.format(name.replace("_", " ")) for name in task.class_names]
    asked = tokens(names, padding=True, truncation=True, return_tensors="pt").to(place)
    with torch.no_grad():
        texts = _unit(network.get_text_features(**asked))

    def logits(split: Split) -> Tensor:
        rows = []
        for start in range(0, len(split), 32):
            raw = split.fetch(np.arange(start, min(start + 32, len(split))))
            assert not isinstance(raw, dict)
            pixels = prepare(images=list(raw), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                images = _unit(network.get_image_features(pixel_values=pixels.to(place)))
                rows.append((network.logit_scale.exp() * images @ texts.T).float().cpu())
        return torch.cat(rows)

    test = logits(task.target_test)
    part = some(task.source_val, MOST)
    val = logits(part)
    parameters = sum(p.numel() for p in network.parameters())
    network.cpu()
    taken = time.perf_counter() - begun
    said = {"model": Path(model).name if Path(model).exists() else model, "prompt": prompt}
    return Untrained(test, Outputs(val, val[:0], part.y), parameters, taken, said)


def _unit(found: Any) -> Tensor:
    """Features of length 1, whichever way this version of transformers returns them."""
    z = found if isinstance(found, Tensor) else found.pooler_output
    unit: Tensor = z / z.norm(dim=-1, keepdim=True)
    return unit


def _clip(model: str) -> tuple[Any, Any, Any]:
    """The network, the tokenizer and the image processor of a CLIP model."""
    try:
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
        from transformers.utils import logging
    except ImportError as error:
        raise DomadaptError(
            f"{ZERO_SHOT} needs the package transformers; install it: pip install transformers."
        ) from error
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # Nothing is unpickled: weights are safetensors or none.
        network = CLIPModel.from_pretrained(model, use_safetensors=True)
        tokens = AutoTokenizer.from_pretrained(model)
        prepare = CLIPImageProcessor.from_pretrained(model)
    except Exception as error:  # the hub's client raises errors of its own
        first = (str(error).splitlines() or [""])[0]
        raise DomadaptError(
            f"The model of {ZERO_SHOT} must be a CLIP model with safetensors, by its folder or its "
            f"name on the hub; {model!r} is not to be had ({type(error).__name__}: {first})"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    return network, tokens, prepare


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of zero_shot for a cell's configuration: a folder by its content."""
    found = dict(settings)
    folder = Path(str(found.get("model", "")))
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            with file.open("rb") as opened:
                digest.update(file.name.encode())
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        found |= {"model": folder.name, "model_sha256": digest.hexdigest()}
    return found
