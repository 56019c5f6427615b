"""What a study found: every score, and what follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from domadapt.benchmark.statistics import Interval, t_interval
from domadapt.errors import DomadaptError
from domadapt.network import short_blocks

SCHEMA = 1
#: Of every interval over seeds.
LEVEL = 0.9
#: Metrics that are shares, and read best in percent.
SHARES = ("accuracy", "macro_f1", "per_class_mean", "auroc")
METRIC_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "per_class_mean": "per-class mean",
    "auroc": "AUROC",
    "r2": "R²",
    "spearman": "rank correlation",
}


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        study: its name, or "whole" (nothing re-initialised) or "scratch" (everything).
        position: of progressive, anb, anb+ and probing how many of the first blocks are kept; of
            localised and inverse the first block of the window; of permutation the number of the
            order; else 0.
        size: training samples.
        seed: of the run.
        score: on held-out source samples. target: on the target, where that has labels.
    """

    study: str
    position: int
    size: int
    seed: int
    score: float
    target: float | None = None


@dataclass(frozen=True)
class LayerStudy:
    """What a study of layers found, as plain data.

    Attributes:
        model, data, target: what it is of; `target` is None without one.
        metric: of all scores. unit: "points" where it is a share, shown in percent, else "".
        blocks: their names in order. parameters: how many each has. outside: how many the rest of
            the backbone has, which is always kept, but from scratch.
        samples: training samples there are. held_out: samples that are scored.
        sizes: numbers of training samples. seeds: see `Settings`.
        studies: their names, in the order asked for.
        window: blocks in a window.
        initialisation: what re-initialised blocks begin with, in words.
        settings: all settings, and how everything was fine-tuned.
        rows: see `Row`.
        orders: of the permutation study, the block whose weights each block got.
        looks: of criticality and cka, what was found for each size and seed.
        notes: what a reader should know, failures among it.
        seconds: wall time of all cells, one after the other. cpu_seconds: processor time.
        versions: of what computed it.
    """

    model: str
    data: str
    target: str | None
    metric: str
    blocks: tuple[str, ...]
    parameters: tuple[int, ...]
    outside: int
    samples: int
    held_out: int
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    studies: tuple[str, ...]
    window: int
    initialisation: str
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    orders: tuple[tuple[int, ...], ...] = ()
    looks: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def unit(self) -> str:
        """What a difference of scores is called."""
        return "points" if self.metric in SHARES else ""

    @property
    def factor(self) -> int:
        """What scores are multiplied by to be shown."""
        return 100 if self.metric in SHARES else 1

    def scores(self, study: str, position: int, size: int) -> dict[int, float]:
        """The scores of one variant by seed."""
        return {
            r.seed: r.score
            for r in self.rows
            if (r.study, r.position, r.size) == (study, position, size) and math.isfinite(r.score)
        }

    def curve(self, study: str, size: int) -> dict[int, Interval]:
        """Mean and interval over seeds of a study at each position that was scored."""
        found = {}
        for position in sorted({r.position for r in self.rows if r.study == study}):
            values = list(self.scores(study, position, size).values())
            if values:
                found[position] = t_interval(values, LEVEL)
        return found

    def lost(self, size: int) -> dict[int, Interval]:
        """What is lost without each block: its transferability.

        The score of the whole network less that with the block re-initialised, seed by seed: both
        have the same samples, head and order of batches. With windows of several blocks the mean
        over those that hold the block.
        """
        whole = self.scores("whole", 0, size)
        per_window = [
            self.scores("localised", s, size) for s in range(len(self.blocks) - self.window + 1)
        ]
        found = {}
        for i in range(len(self.blocks)):
            first, last = max(0, i - self.window + 1), min(i, len(per_window) - 1)
            inside = per_window[first : last + 1]
            shared = [s for s in whole if all(s in scores for scores in inside)]
            values = [whole[s] - float(np.mean([scores[s] for scores in inside])) for s in shared]
            if values:
                found[i] = t_interval(values, LEVEL)
        return found

    def agreement(self, size: int) -> float | None:
        """Spearman's rank correlation of each block's probe and of what is lost without it.

        None where either was not studied, or fewer than three blocks have both.
        """
        probes, lost = self.curve("probing", size), self.lost(size)
        both = [i for i in lost if i + 1 in probes]
        a = [probes[i + 1].mean for i in both]
        b = [lost[i].mean for i in both]
        if len(both) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
            return None
        return float(spearmanr(a, b).statistic)

    def look(self, what: str, key: str, size: int) -> list[Interval | None] | None:
        """Mean and interval over seeds, block by block, of what was measured of fine-tuned ones.

        Args:
            what: "criticality" or "cka". key: one of its measurements. size: training samples.
        """
        found = [
            entry[what][key]
            for entry in self.looks
            if entry["size"] == size and entry.get(what, {}).get(key) is not None
        ]
        if not found:
            return None
        columns = [[v for v in column if math.isfinite(v)] for column in zip(*found, strict=True)]
        return [t_interval(values, LEVEL) if values else None for values in columns]

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(_plain(asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LayerStudy:
        """What `to_json` wrote.

        Raises:
            DomadaptError: another text, or one of another version.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise DomadaptError(
                    f"This study has schema {data['schema']}, and {SCHEMA} is required; run it "
                    "again with this version."
                )
            rows = tuple(
                Row(**{**row, "score": math.nan if row["score"] is None else row["score"]})
                for row in data.pop("rows")
            )
            orders = tuple(tuple(order) for order in data.pop("orders"))
            lists: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
            }
            return cls(rows=rows, orders=orders, **lists)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DomadaptError(
                "This is no study of layers: layers.json must be the text that `domadapt "
                f"transferability layers` wrote ({error})."
            ) from error


def _plain(value: Any) -> Any:
    """JSON's values: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value


def size_name(study: LayerStudy, size: int) -> str:
    """A number of training samples for a person."""
    return f"all {size:,} samples" if size == study.samples else f"{size:,} samples"


def shown(study: LayerStudy, value: Interval | None, *, signed: bool = False) -> str:
    """A mean with its interval, in percent where the metric is a share."""
    if value is None:
        return "–"
    f, digits = study.factor, 1 if study.factor == 100 else 3
    sign = "+" if signed else ""
    text = f"{f * value.mean:{sign}.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} ({f * value.low:.{digits}f} to {f * value.high:.{digits}f})"


def called(block: str) -> str:
    """A block in a sentence: those of a plain chain have numbers for names."""
    return f"block {block}" if block.isdigit() or len(block) == 1 else block


#: How far below a linear probe a fine-tuned network shows that it was trained too briefly.
BEHIND = 0.05


def headline(study: LayerStudy) -> str:
    """The story in a sentence: which block is missed most, by how much, with how many samples."""
    parts = []
    for size in study.sizes:
        lost = study.lost(size)
        if not lost:
            continue
        top = max(lost, key=lambda k: lost[k].mean)
        sure = [k for k, v in lost.items() if (v.low or 0.0) > 0]
        i = max(sure, key=lambda k: lost[k].mean) if sure else top
        value = lost[i]
        amount = f"{study.factor * value.mean:.{1 if study.factor == 100 else 3}f}"
        amount = f"{amount} {study.unit} of {METRIC_WORDS[study.metric]}".replace("  ", " ")
        where, name = f"with {size_name(study, size)}", called(short_blocks(study.blocks)[i])
        if value.mean <= 0:
            parts.append(f"{where} no block is missed")
        elif sure and i != top:
            parts.append(f"{where} {name} is clearly missed, {amount} are lost without it")
        elif sure or value.low is None:
            parts.append(f"{where} {name} is missed most, {amount} are lost without it")
        else:
            parts.append(f"{where} no single block is clearly missed (most {name}, {amount})")
    if not parts:
        return _too_brief(study) or _without_windows(study)
    said = "; ".join(parts)
    once = " One seed: nothing is known of the spread." if len(study.seeds) == 1 else ""
    return _too_brief(study) or f"{said[0].upper()}{said[1:]}.{_first_blocks(study)}{once}"


def _too_brief(study: LayerStudy) -> str:
    """Why nothing can be said of blocks: the fine-tuned network ends below a probe of a frozen one.

    Empty where it does not, or where it is not known.
    """
    if study.metric not in SHARES:
        return ""
    for size in study.sizes:
        whole, probes = study.curve("whole", size).get(0), study.curve("probing", size)
        best = max((v.mean for v in probes.values()), default=-math.inf)
        if whole is not None and whole.mean < best - BEHIND:
            return (
                f"Fine-tuned with {size_name(study, size)} the whole network ends at "
                f"{shown(study, whole)}, below the {study.factor * best:.1f} of a linear probe of "
                "it frozen: it was trained too briefly to say which blocks matter. Raise --steps."
            )
    return ""


def _first_blocks(study: LayerStudy) -> str:
    """How few of the first blocks bring nearly all, with most samples; empty where unknown."""
    size, near = study.sizes[0], 0.02
    whole, kept = study.curve("whole", size).get(0), study.curve("progressive", size)
    if whole is None:
        return ""
    enough = [k for k, v in kept.items() if whole.mean - v.mean <= near]
    if not enough or not 0 < min(enough) < len(study.blocks):
        return ""
    k = min(enough)
    less = study.factor * (whole.mean - kept[k].mean)
    amount = f"{abs(less):.{1 if study.factor == 100 else 3}f} {study.unit}".strip()
    return (
        f" The first {k} of {len(study.blocks)} blocks alone end {amount} "
        f"{'below' if less > 0 else 'above'} all of them."
    )


def _without_windows(study: LayerStudy) -> str:
    """The same where no single block was taken away."""
    for name in ("progressive", "inverse", "anb", "anb+", "probing"):
        curves = [(size, study.curve(name, size)) for size in study.sizes]
        curves = [(size, c) for size, c in curves if c]
        if not curves:
            continue
        size, curve = curves[0]
        best = max(curve, key=lambda k: curve[k].mean)
        value = shown(study, curve[best])
        where = f"with {size_name(study, size)}"
        if name == "probing":
            name = called(short_blocks(study.blocks)[best - 1])
            return f"A linear probe reads most after {name}: {value} {where}."
        if name == "inverse":
            return (
                f"Alone, {called(short_blocks(study.blocks)[best])} brings most: {value} {where}."
            )
        return f"Keeping the first {best} of {len(study.blocks)} blocks is best: {value} {where}."
    return f"What was measured of the {len(study.blocks)} blocks of {study.model}."
