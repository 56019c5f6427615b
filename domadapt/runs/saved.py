"""A finished run's folder: what it holds, and how its model is taken up again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domadapt import checkpoint
from domadapt.backbones import LAST_LINEAR, build_backbone, preprocessing_of
from domadapt.data.tokens import Tokenizer
from domadapt.data.views import Views, views_from_config
from domadapt.errors import DomadaptError
from domadapt.inference import inputs_of
from domadapt.methods import build_method, method_class, method_names
from domadapt.network import Network
from domadapt.open_set import closed_network, open_network, rule_from, rule_of
from domadapt.ops import batch_size as size_of
from domadapt.optimizers import make_optimizer
from domadapt.task import UNKNOWN, Batch, Domain, Inputs, Split, Task, label_ids
from domadapt.training import Training

CONFIG, MODEL, EXPORT = "config.json", "model.safetensors", "model.pt2"
REPORT, PAGE, PREDICTIONS = "report.json", "report.html", "predictions.csv"
#: What builds an encoder of Hugging Face again, without its weights; and such a classifier, whole.
ENCODER, CLASSIFIER = "encoder", "huggingface"
#: What an open-set model says "unknown" by, beside the network in `MODEL`.
UNKNOWN_MODEL = "unknown.safetensors"
#: In place of a rule's name: a network of a method's own, which the export alone brings back.
OWN_RULE = "own"
#: Why a run ended without a model, where its settings are to blame.
FAILED = "failed.json"
CONFIG_SCHEMA = 1


@dataclass(frozen=True)
class SavedRun:
    """A run's model with what is needed to use it.

    Attributes:
        model: returns logits for prepared inputs; in evaluation mode. A `Network` unless the
            backbone was a module given in Python, which only the export can bring back.
        views: how raw samples become its inputs.
        class_names: the classes of its logits, in order; with "unknown" as the last one where the
            run was of an open-set task.
        kind: what a sample is.
        config: all of ``config.json``.
        calibration: temperature and offset that make its logits calibrated ones; None where there
            is none, or where the model is the run's program, which has them within.
    """

    model: nn.Module
    views: Views
    class_names: tuple[str, ...]
    kind: str
    config: dict[str, Any]
    calibration: tuple[float, Tensor] | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities of the model's logits, calibrated where the run says how."""
        if self.calibration is None:
            return logits.softmax(1)
        temperature, offset = self.calibration
        return (logits / temperature + offset).softmax(1)

    @property
    def open_set(self) -> bool:
        """Whether its last output is "unknown"."""
        return UNKNOWN in self.config

    @property
    def regression(self) -> bool:
        """Whether its outputs are values, of what `class_names` name."""
        return is_regression(self.config)


def is_regression(config: dict[str, Any]) -> bool:
    """Whether a run's configuration is that of a regression."""
    return config.get("task_type") == "regression"


def save_model(folder: Path, network: Network, task: Task) -> dict[str, str]:
    """Write a run's weights; returns what its configuration says of the output "unknown".

    The network without that output stands in `MODEL`, so that any run may go on from it.
    """
    rule, about = rule_of(network), {"class_names": list(task.class_names)}
    state = checkpoint.module_state(closed_network(network))
    checkpoint.save_tensors(folder / MODEL, state, about)
    if rule is None:
        return {UNKNOWN: OWN_RULE} if task.open_set else {}
    own = checkpoint.module_state(cast(nn.Module, rule))
    checkpoint.save_tensors(folder / UNKNOWN_MODEL, own, {"rule": rule.rule})
    return {UNKNOWN: rule.rule}


def failure(folder: Path) -> str:
    """Why the run in a folder diverged; nothing where it did not."""
    file = folder / FAILED
    return str(checkpoint.read_json(file)["reason"]) if file.exists() else ""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a finished run; anything else is refused with a sentence."""
    if not folder.is_dir():
        raise DomadaptError(
            f"A run folder is required, as `domadapt adapt --out` makes it; there is no folder "
            f"{folder}."
        )
    if not (folder / CONFIG).exists():
        reason = failure(folder)
        if reason:
            raise DomadaptError(f"The run in {folder} has no model: {reason}")
        unfinished = (folder / "run.json").exists()
        raise DomadaptError(
            f"The run in {folder} is not finished; go on with `domadapt adapt --resume {folder}`."
            if unfinished
            else f"{folder} is no run folder: it has no {CONFIG}."
        )
    config: dict[str, Any] = checkpoint.read_json(folder / CONFIG)
    if config.get("schema", 0) > CONFIG_SCHEMA:
        raise DomadaptError(
            f"{folder / CONFIG} has schema {config['schema']}, and this domadapt reads up to "
            f"{CONFIG_SCHEMA}; upgrade domadapt."
        )
    missing = [k for k in ("class_names", "kind", "model", "views") if k not in config]
    if missing:
        raise DomadaptError(
            f"{folder / CONFIG} is no configuration of a run: it lacks {', '.join(missing)}."
        )
    return config


def load_run(folder: str | Path) -> SavedRun:
    """The adapted model of a run folder.

    A backbone from a file of one's own is built by the copy in the folder. Where that fails, such
    as when weights that it reads are gone, the run's export serves in its place.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = _model(folder, config)
    return SavedRun(
        model,
        views_from_config(config["views"], _tokenizer(folder, config)),
        (*config["class_names"], *([UNKNOWN] if UNKNOWN in config else [])),
        config["kind"],
        config,
        None if isinstance(model, torch.fx.GraphModule) else _calibration(config),
    )


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer | None:
    """What makes tokens of texts for a run's model; None where it takes something else."""
    if config["kind"] != "text" or "encoder" not in config["model"]:
        return None
    from domadapt.hf.encoder import tokenizer_of

    name = model_arguments(folder, config)["name"]
    return tokenizer_of(name, config["views"]["max_length"])


def _calibration(config: dict[str, Any]) -> tuple[float, Tensor] | None:
    found = config.get("calibration")
    return None if found is None else (found["temperature"], torch.tensor(found["offset"]))


def _model(folder: Path, config: dict[str, Any]) -> nn.Module:
    arguments = model_arguments(folder, config)
    if arguments["name"] == "module" or config.get(UNKNOWN) == OWN_RULE:
        return _exported(folder / EXPORT)
    if "file" in config["model"]:
        try:
            preprocessing_of(arguments["name"])
        except DomadaptError:
            if (folder / EXPORT).exists():
                return _exported(folder / EXPORT)
            raise
    example: Inputs = torch.zeros(2, *config["model"]["input"])
    if config["kind"] == "text":
        ones = torch.ones(2, 4, dtype=torch.long)
        example = {"input_ids": ones, "attention_mask": ones}
    made = build_backbone(
        example=example,
        checkpoint=folder / MODEL,
        n_classes=len(config["class_names"]),
        **arguments,
    )
    if UNKNOWN not in config:
        return made.module.eval()
    state, _ = checkpoint.load_tensors(folder / UNKNOWN_MODEL)
    rule = rule_from(config[UNKNOWN], state)
    checkpoint.load_module_state(rule, state, folder / UNKNOWN_MODEL)
    return open_network(cast(Network, made.module), rule).eval()


def model_arguments(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What `build_backbone` must be told, beside the weights, to build a run's network again."""
    spec = config["model"]["spec"]
    name = spec["name"]
    if "file" in config["model"]:
        function = name.rpartition(":")[2]
        name = f"{folder / 'source' / config['model']['file']}:{function}"
    if "encoder" in config["model"]:
        name = f"hf:{folder / config['model']['encoder']}"
    head = spec["head"] or (LAST_LINEAR if spec["checkpoint"] is not None else None)
    return {"name": name, "head": head, "pooling": spec.get("pooling")}


def _exported(path: Path) -> nn.Module:
    if not path.exists():
        raise DomadaptError(f"There is no file {path}, which this run's model is read from.")
    program: Any = torch.export.load(str(path))
    model: nn.Module = program.module()
    return model


def class_ids(run: SavedRun, domain: Domain, extra_classes: str | None = None) -> np.ndarray:
    """The labels of a domain as a run's class ids; -1 for a sample that is not scored.

    Args:
        run: whose classes they are.
        domain: it must have labels.
        extra_classes: as of a `Task`; None takes "unknown" where the run has that output, else
            "error".

    Raises:
        DomadaptError: no sample has a label of the run's classes, or one has another label.
    """
    how = extra_classes or ("unknown" if run.open_set else "error")
    if how == "unknown" and not run.open_set:
        raise DomadaptError(
            "This run's model has no output 'unknown'; adapt with --extra-classes unknown, or "
            "leave samples of other classes out of the scores (--extra-classes unscored)."
        )
    ids = label_ids(domain, run.config["class_names"], how)
    if ids is None:
        raise DomadaptError(
            f"Evaluation needs labels, and {domain.name!r} has none; give class folders, "
            "--label-column, or an array y."
        )
    if not (ids >= 0).any():
        raise DomadaptError(f"No sample of {domain.name!r} has a label of the model's classes.")
    return ids


def true_values(domain: Domain, names: tuple[str, ...]) -> np.ndarray:
    """The values ``(n, k)`` of a domain, to score the model of a regression with."""
    y = domain.values
    if y is None or y.shape[1] != len(names):
        raise DomadaptError(
            f"Evaluation needs the values of {', '.join(names)}, and {domain.name!r} has "
            f"{'none' if y is None else f'{y.shape[1]} columns of values'}; give --label-column, "
            "or an array y (regression=True)."
        )
    return y


def whole(domain: Domain) -> Split:
    """All of a domain, without its labels."""
    return Split("all", domain.unlabelled(), np.arange(len(domain)))


def predict(
    run: SavedRun, domain: Domain, batch_size: int | None = None, *, online: bool = False
) -> Tensor:
    """Class probabilities ``(n, classes)`` of every sample of a domain; of a regression values
    ``(n, k)``, in the units of the labels. Columns come in the order of ``run.class_names``, and
    the probabilities are calibrated, as the logits of the network that `adapt` returns are not.

    Args:
        run: what `load_run` returned.
        domain: the samples; labels, if any, are not looked at.
        batch_size: samples at a time; None takes 256, or the run's own batch size where `online`.
        online: go on adapting while predicting, with a run of a test-time method (tent, adabn):
            each batch is first adapted to by one step of the method, then predicted. What is
            adapted is ``run.model``, in memory; the folder stays as it is.

    Raises:
        DomadaptError: the domain does not fit the model, or the run's method is not one that can
            adapt online.
    """
    if not isinstance(domain, Domain):
        raise DomadaptError(
            f"predict takes a run and a domain; got a {type(domain).__name__}. Make one first: "
            "domadapt.from_arrays(x) of rows or images, domadapt.data.load(PATH) of files."
        )
    adapt = _online_step(run) if online else None
    if batch_size is None:
        batch_size = int(run.config["training"]["batch_size"]) if online else 256
    if domain.kind != run.kind:
        raise DomadaptError(
            f"The model takes data of kind {run.kind!r}; {domain.name!r} is of kind "
            f"{domain.kind!r}."
        )
    wanted = list(run.config["model"]["input"])
    parts = []
    for x in inputs_of(whole(domain), run.views, batch_size):
        if isinstance(x, Tensor) and list(x.shape[1:]) != wanted:
            raise DomadaptError(
                f"The model takes inputs of shape {tuple(wanted)}; those of {domain.name!r} have "
                f"{tuple(x.shape[1:])}."
            )
        if adapt is not None:
            adapt(x)
        with torch.no_grad():
            said = run.model(x).float()
            parts.append(said if run.regression else run.probabilities(said))
    return torch.cat(parts)


def _online_step(run: SavedRun) -> Callable[[Inputs], None]:
    """What adapts the model of a run to one more batch, by the run's method."""
    name = run.config["method"]["name"]
    can = [n for n in method_names() if method_class(n).online]
    if name not in can:
        raise DomadaptError(
            f"Predicting online needs a run of a test-time method ({', '.join(can)}); this one is "
            f"of {name}. Make one: domadapt adapt --from RUN TARGET --method {can[0]}."
        )
    if not isinstance(run.model, Network):
        raise DomadaptError(
            "Predicting online needs the network itself; this run's backbone was a module given in "
            "Python, of which only the export is kept."
        )
    method = build_method(name, closed_network(run.model), run.config["method"]["settings"])
    optimizer = (
        make_optimizer(method, Training(**run.config["training"])) if method.trains else None
    )

    def step(x: Inputs) -> None:
        if size_of(x) < 2:
            # One sample has no statistics: it is predicted by those there are.
            return
        method.train()
        losses = method(Batch(None, None, x, progress=0.0))
        if optimizer is not None:
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad()
        method.eval()

    return step


def value_table(ids: list[str], values: Tensor, names: tuple[str, ...]) -> pd.DataFrame:
    """One row per sample: its name and its ``value``; of several outputs, a ``value_NAME`` each.

    Seven digits, which are all that float32 has.
    """
    columns = ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
    rounded = [[float(f"{v:.7g}") for v in column] for column in values.T.tolist()]
    return pd.DataFrame({"id": ids, **dict(zip(columns, rounded, strict=True))})


def prediction_table(
    ids: list[str], p: Tensor, class_names: tuple[str, ...], per_class: bool = False
) -> pd.DataFrame:
    """One row per sample: its name, the class, its probability, and on request all of them."""
    top = p.max(1)
    table = pd.DataFrame(
        {
            "id": ids,
            "class": [class_names[i] for i in top.indices.tolist()],
            "probability": top.values.numpy().round(6),
        }
    )
    if per_class:
        for i, name in enumerate(class_names):
            table[f"p_{name}"] = p[:, i].numpy().round(6)
    return table
