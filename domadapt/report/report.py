"""`Report`: a finished run as plain data, enough to draw every plot and table again."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.regression import fifth_names
from domadapt.task import Task

SCHEMA_VERSION = 1
#: The method without adaptation that every other candidate is compared with.
BASELINE = "source_only"


@dataclass(frozen=True)
class Embedding:
    """A two-dimensional map of the features of both domains, source samples first.

    Attributes:
        x, y: coordinates of each point.
        domain: 0 for a source sample, 1 for a target sample.
        label: the true class id of a source sample, the predicted one of a target sample.
        target_label: the true class id of a target sample where there are labels to evaluate
            with; None for a source sample and for one that has no label.
        perplexity, seed: of the t-SNE.
        n_s, n_t: how many source and target samples the map shows.
    """

    x: list[float]
    y: list[float]
    domain: list[int]
    label: list[int]
    target_label: list[int | None]
    perplexity: float
    seed: int
    n_s: int
    n_t: int


@dataclass(frozen=True)
class Candidate:
    """One trained model of a run, the source-only one or an adapted one.

    Attributes:
        name: how the run calls it; its folder under ``candidates/``.
        method: the registered name of its method.
        settings: the method's own arguments.
        history: equally long lists of what was logged: ``step``, ``lr``, ``loss/source``,
            ``loss/<term>`` (raw values), ``weight/<term>`` (what they were multiplied by),
            ``seconds``, ``doctor/<what>``. NaN where a term has no value at a step.
        seconds: how long its training took.
        label_free: scores that need no target label (`domadapt.selection.validators.label_free`).
        target: its `Scores` on the target test set as a dictionary; None without labels.
        shift: distance of the domains in its features (`domadapt.evaluation.domain_shift`).
        confidence: ``source_val`` and ``target``, each the shares of 20 equal parts of [0, 1].
        embedding: a map of its features; of a regression, its classes are `fifths`.
        values: of a regression ``source_val`` and, with labels, ``target_test``: some samples,
            ``predicted`` and ``true``, a row of values each.
        warnings: what the doctor found while it was trained.
        scores: of every validator that could look at it (`domadapt.selection.validators`), by name;
            larger is better.
        set_aside: why the guard does not let it be chosen; empty where it may.
        estimate: its estimated target accuracy (`domadapt.selection.estimates.Estimate`) as a
            dictionary; None where nothing was estimated.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    label_free: dict[str, float] = field(default_factory=dict)
    target: dict[str, Any] | None = None
    shift: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, list[float]] = field(default_factory=dict)
    embedding: Embedding | None = None
    values: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    estimate: dict[str, Any] | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """Everything that the page, the plots and the tables of one run show.

    Attributes:
        task: ``name, kind, transductive, class_names`` (of the models' outputs), ``sizes`` (by
            split), ``source_names, target_name, notes``, and ``open_set`` where the last class is
            "unknown"; of a regression ``task_type`` and, in words, the ``fifths`` of the source's
            values; see `describe`.
        chosen: name of the candidate whose model the run folder holds.
        candidates: every model that was trained.
        model: ``backbone`` (its name), ``parameters`` (how many), ``input`` (its shape), and more.
        training: all settings of the training.
        method: all settings of the chosen method.
        versions: of the libraries; see `versions`.
        seed: of the training.
        command: what repeats the run; None where it was not started from a command line.
        created: time of writing, ISO 8601.
        warnings: sentences that a reader must not miss.
        verdict: which model was chosen and why, from evidence without target labels
            (`domadapt.selection.verdict.Verdict`) as a dictionary; None of a regression.
        layers: probes and CKA of each block (`domadapt.adaptation.layers.analysed`) where that was
            asked for.
        schema_version: of this form.
    """

    task: dict[str, Any]
    chosen: str
    candidates: list[Candidate]
    model: dict[str, Any]
    training: dict[str, Any]
    method: dict[str, Any]
    versions: dict[str, str]
    seed: int
    command: str | None
    created: str
    warnings: list[str] = field(default_factory=list)
    verdict: dict[str, Any] | None = None
    layers: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        names = [c.name for c in self.candidates]
        if self.chosen not in names or len(set(names)) < len(names):
            raise DomadaptError(
                "A report needs candidates of different names, the chosen one among them; got "
                f"{', '.join(names) or 'none'}, and {self.chosen!r} was chosen."
            )

    def __repr__(self) -> str:
        return f"Report({self.task['name']}, chosen {self.chosen!r}; see summary())"

    @property
    def regression(self) -> bool:
        """Whether labels are measurements."""
        return bool(self.task.get("task_type") == "regression")

    @property
    def baseline(self) -> Candidate | None:
        """The source-only candidate, if it was trained."""
        return next((c for c in self.candidates if c.method == BASELINE), None)

    @property
    def adapted(self) -> Candidate | None:
        """The chosen candidate, or the best-ranked adapted one where the baseline was chosen."""
        others = [c for c in self.ranked if c.method != BASELINE]
        return next((c for c in others if c.name == self.chosen), others[0] if others else None)

    @property
    def ranked(self) -> list[Candidate]:
        """The candidates in the order of the verdict, those that were set aside last.

        As they were trained where there is no verdict, and among those set aside.
        """
        order = list((self.verdict or {}).get("ranking", {}))
        return sorted(
            self.candidates,
            key=lambda c: order.index(c.name) if c.name in order else len(order),
        )

    def to_json(self) -> str:
        """This report as JSON text; a number that is not finite becomes null."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote.

        Raises:
            DomadaptError: it is no such text, or was written by a newer domadapt.
        """
        try:
            data = json.loads(text)
            version = data["schema_version"]
            newer = version > SCHEMA_VERSION
        except (ValueError, KeyError, TypeError) as e:
            raise DomadaptError(_FOREIGN) from e
        if newer:
            raise DomadaptError(
                f"This report has schema version {version}; this domadapt reads up to "
                f"{SCHEMA_VERSION}. Upgrade domadapt (pip install --upgrade domadapt)."
            )
        try:
            candidates = [_candidate(c) for c in data.pop("candidates")]
            return cls(candidates=candidates, **data)
        except DomadaptError:
            raise
        except (KeyError, TypeError, AttributeError) as e:
            raise DomadaptError(_FOREIGN) from e

    def save(self, path: str | Path) -> None:
        """Write `to_json` to `path`."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote; `path` is the file, or the run folder that holds it."""
        file = Path(path)
        file = file / "report.json" if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DomadaptError(
                f"A report is read from a run folder or its report.json; {str(file)!r} cannot be "
                "read. Give the folder that `domadapt adapt --out` wrote."
            ) from e
        return cls.from_json(text)

    def summary(self) -> str:
        """A few plain lines for the terminal; the verdict first, where there is one."""
        from domadapt.report.summary import summary

        return summary(self)

    def gain(self) -> float | None:
        """Target accuracy of `adapted` minus that of `baseline`; None where either is unknown.

        In a regression, by how much the mean absolute error is smaller.
        """
        before, after = self.baseline, self.adapted
        if before is None or after is None or before.target is None or after.target is None:
            return None
        if self.regression:
            return float(before.target["mae"] - after.target["mae"])
        return float(after.target["accuracy"] - before.target["accuracy"])


_FOREIGN = (
    "This is not a report of domadapt: report.json must be the JSON text that `domadapt adapt` "
    "wrote. Give another run folder, or run it again."
)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _numbers(value: Mapping[str, float | None]) -> dict[str, float]:
    return {k: math.nan if v is None else v for k, v in value.items()}


def _candidate(data: dict[str, Any]) -> Candidate:
    history = {
        k: [math.nan if v is None else v for v in values] for k, values in data["history"].items()
    }
    embedding = data["embedding"]
    return Candidate(
        **{
            **data,
            "history": history,
            "label_free": _numbers(data["label_free"]),
            "shift": _numbers(data["shift"]),
            "scores": _numbers(data.get("scores", {})),
            "embedding": None if embedding is None else Embedding(**embedding),
        }
    )


def describe(task: Task) -> dict[str, Any]:
    """What a `Report` keeps of a task."""
    splits = (task.source_train, task.source_val, task.target_train, task.target_test)
    return {
        "name": task.name,
        "kind": task.kind,
        "transductive": task.transductive,
        "class_names": list(task.output_names),
        **({"open_set": True} if task.open_set else {}),
        "sizes": {split.name: len(split) for split in splits},
        "source_names": list(task.source_names),
        "target_name": task.target_name,
        "notes": list(task.notes),
        **(_described_values(task) if task.regression else {}),
    }


def _described_values(task: Task) -> dict[str, Any]:
    y = task.source_train.y
    names = [] if y is None or len(y) == 0 else fifth_names(y.numpy())
    return {"task_type": "regression", "fifths": names}


def versions(model: str | None = None, finetune: str = "full") -> dict[str, str]:
    """Versions of Python, of domadapt and of the libraries that a result depends on.

    Args:
        model: the name of the backbone, which may come from a library of its own.
        finetune: the strategy, which may need one.
    """
    found = {"python": platform.python_version()}
    names: tuple[str, ...]
    names = ("domadapt", "torch", "torchvision", "accelerate", "numpy", "scikit-learn", "openTSNE")
    if model is not None and model.startswith("hf:"):
        names += ("transformers", "tokenizers", "safetensors")
    if model is not None and model.startswith("timm:"):
        names += ("timm",)
    if finetune.startswith("lora"):
        names += ("peft",)
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
