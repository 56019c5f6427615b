"""Validators of pytorch-adapt as scores of `domadapt.evaluation.Outputs`."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.bridges.pytorch_adapt.extra import library, name_of
from domadapt.errors import DomadaptError, unknown
from domadapt.evaluation import Outputs

#: What a validator needs so that its defaults work without faiss.
_NEIGHBOURS = ("KNNValidator", "TargetKNNValidator")
_SPLITS = ("src_train", "src_val", "target_train", "target_val")


class Score:
    """A validator of pytorch-adapt as a function of `Outputs`; larger is better.

    Features that are known of a part of a split only (`Outputs.rows`) restrict a validator that
    looks at features to that part. Labels of the target are never passed on, whatever they are.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def __call__(
        self, source_val: Outputs, target: Outputs, source_train: Outputs | None = None
    ) -> float:
        """The score of a candidate.

        Args:
            source_val: the source's validation split, with its labels.
            target: unlabelled target samples.
            source_train: the source's training split; None lets `source_val` stand in where a
                validator asks for it.

        Raises:
            DomadaptError: the validator asks for what it may not have (labels of the target, other
                splits), or cannot work with these outputs.
        """
        wanted = list(self.validator.required_data)
        strange = sorted(set(wanted) - set(_SPLITS))
        if strange:
            raise DomadaptError(
                f"{name_of(self.validator)} asks for the splits {', '.join(strange)}; there are "
                f"{', '.join(_SPLITS)}."
            )
        splits = {
            "src_train": source_val if source_train is None else source_train,
            "src_val": source_val,
            "target_train": target,
            "target_val": target,
        }
        narrow = _looks_at_features(self.validator)
        given = {key: _split(splits[key], key.startswith("src"), narrow) for key in wanted}
        # Clustering begins at random, and a score must be the same twice; nobody else's numbers
        # are touched.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            with torch.no_grad():
                score = self.validator(**given)
        except (AssertionError, ImportError, KeyError, TypeError, ValueError, NameError) as error:
            raise DomadaptError(
                f"{name_of(self.validator)} of pytorch-adapt cannot score these outputs: "
                f"{name_of(error)}: {' '.join(str(error).split())}"
            ) from error
        finally:
            np.random.set_state(state)  # noqa: NPY002
        if isinstance(score, tuple):
            score = score[0]
        # What it returns as a score is the information that nearest neighbours have of the domain,
        # which the paper makes small (Shi and Sha, 2012, arXiv:1206.6438).
        return -float(score) if name_of(self.validator) == "ISTValidator" else float(score)


def validator(which: str | Any, **arguments: Any) -> Score:
    """A validator of pytorch-adapt, by name with its arguments or as one that was made already.

    Defaults that do not work are replaced: `MMDValidator` gets ``mmd_type="quadratic"`` (its own
    default raises, and "linear" would want as many source as target samples), and the validators
    that look for neighbours get a search in torch (theirs needs faiss). The sign of
    `ISTValidator` is turned, so that more is better. `DeepEmbeddedValidator` needs a
    ``temp_folder`` and pytorch-ignite.

    Raises:
        DomadaptError: pytorch-adapt is not installed; there is no such validator; it cannot be
            made from these arguments.
    """
    base = library("pytorch_adapt.validators").BaseValidator
    if not isinstance(which, str):
        if not isinstance(which, base) or arguments:
            raise DomadaptError(
                "validator takes a name with arguments, or a validator of pytorch-adapt alone; got "
                f"{name_of(which)}{' with arguments' if arguments else ''}."
            )
        return Score(which)
    known = _validator_classes()
    if which not in known:
        raise unknown("validator of pytorch-adapt", which, known)
    if which == "MMDValidator":
        arguments["mmd_kwargs"] = {"mmd_type": "quadratic", **(arguments.get("mmd_kwargs") or {})}
    if which in _NEIGHBOURS:
        distance = library("pytorch_metric_learning.distances").LpDistance
        search = library("pytorch_metric_learning.utils.inference").CustomKNN
        arguments.setdefault("knn_func", search(distance(normalize_embeddings=False)))
        # Never called for a measure of neighbours, and its default needs faiss as well.
        arguments.setdefault("kmeans_func", _no_clustering)
        arguments.setdefault("device", torch.device("cpu"))
    try:
        return Score(known[which](**arguments))
    except (KeyError, TypeError, ValueError) as error:
        raise DomadaptError(
            f"{which} cannot be made from these arguments ({', '.join(arguments) or 'none'}): "
            f"{error}"
        ) from error


def validator_names() -> list[str]:
    """The validators of pytorch-adapt."""
    return sorted(_validator_classes())


def _validator_classes() -> dict[str, type[Any]]:
    module = library("pytorch_adapt.validators")
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, module.BaseValidator) and cls.__name__ == name
        and not inspect.isabstract(cls)
    }  # fmt: skip


def _no_clustering(*_: Any) -> None:
    raise DomadaptError("This measure clusters; give kmeans_func.")


def _looks_at_features(one: Any) -> bool:
    if getattr(one, "layer", None) == "features":
        return True
    inner = [
        *getattr(one, "validators", {}).values(),
        *filter(None, [getattr(one, "validator", 0)]),
    ]
    return any(_looks_at_features(v) for v in inner)


def _split(outputs: Outputs, source: bool, narrow: bool) -> dict[str, Tensor]:
    """What a validator gets of a split, under its names."""
    rows = torch.arange(len(outputs.z)) if outputs.rows is None else outputs.rows
    logits = outputs.logits[rows] if narrow else outputs.logits
    given = {
        "features": outputs.z,
        "logits": logits,
        "preds": logits.softmax(1),
        "domain": torch.full((len(logits),), 0 if source else 1),
    }
    if source and outputs.y is not None:
        given["labels"] = outputs.y[rows] if narrow else outputs.y
    return given
