"""Afterwards, over the methods of one task and seed: the guard, the verdict, and who would be kept.

A cell is computed alone, and a verdict compares. So cells keep what guard and choice look at, and
both are asked here, by the same functions that `adapt` uses. Target labels have no part in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domadapt.benchmark.cells import Planned
from domadapt.benchmark.work import OUTPUTS
from domadapt.checkpoint import read_json, write_json
from domadapt.evaluation import Outputs
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cells
from domadapt.selection.choice import RULE, choose
from domadapt.selection.evidence import Evidence, together
from domadapt.selection.guard import LEAST_RANK, guard
from domadapt.selection.predictions import accuracy, mean_probabilities

#: Where verdicts are kept; it may be deleted at any time.
VERDICTS = "verdicts.json"
#: Ranks from here on are alike to the guard, which asks for far less.
_RANK_ENOUGH = 4 * LEAST_RANK


@dataclass(frozen=True)
class Pool:
    """The verdict over the methods of one task and seed.

    Attributes:
        task, seed: name the pool.
        chosen: the method that the rule of `adapt` keeps.
        set_aside: why others may not be chosen, by method.
        ranking: the rule's score of each method that may be, best first.
        ensv: the score of the validator that compares all methods with each other.
    """

    task: str
    seed: int
    chosen: str
    set_aside: dict[str, list[str]]
    ranking: dict[str, float]
    ensv: dict[str, float]


def pools_of(
    cells: Cells, of: Sequence[Planned], found: Mapping[str, Mapping[str, Any]]
) -> list[Pool]:
    """The verdict of every task and seed that has its source_only; the oracle has no part in it.

    They are kept in ``verdicts.json``, and made anew where their cells change.

    Args:
        cells: the folder.
        of: the cells of the suite.
        found: their results by key, failures among them.
    """
    pools: dict[tuple[str, int], list[Planned]] = {}
    for cell in of:
        result = found.get(cell.key)
        if result is None or result["error"] is not None or result["oracle"]:
            continue
        # A row that adapts nothing is no candidate.
        if result.get("adapted", True):
            pools.setdefault((cell.task, cell.seed), []).append(cell)
    file = cells.folder / VERDICTS
    known = read_json(file) if file.exists() else {}
    made = {}
    for members in pools.values():
        if any(cell.method == BASELINE for cell in members):
            said = json.dumps([RULE, sorted((cell.key, cell.method) for cell in members)])
            name = hashlib.sha256(said.encode()).hexdigest()[:20]
            made[name] = known.get(name) or asdict(_pool(cells, members, found))
    if made != known:
        write_json(file, made)
    return [Pool(**pool) for pool in made.values()]


def _pool(cells: Cells, members: Sequence[Planned], found: Mapping[str, Mapping[str, Any]]) -> Pool:
    return judged(
        members[0].task,
        members[0].seed,
        [evidence_of(cells, cell, found[cell.key]) for cell in members],
        {cell.method: str(found[cell.key].get("stopped", "")) for cell in members},
    )


def judged(
    task: str, seed: int, candidates: Sequence[Evidence], stopped: Mapping[str, str]
) -> Pool:
    """The verdict on candidates, of which source_only is one; as `judge`, without estimates."""
    candidates = together(list(candidates))
    before = next(e for e in candidates if e.name == BASELINE)
    set_aside = {}
    for evidence in candidates:
        reasons = guard(evidence, before)
        if stopped.get(evidence.name):
            reasons.insert(0, f"its training was stopped early: {stopped[evidence.name]}")
        if reasons and evidence.name != BASELINE:
            set_aside[evidence.name] = reasons
    choice = choose([e for e in candidates if e.name not in set_aside], BASELINE)
    set_aside |= {name: [reason] for name, reason in choice.unsafe.items()}
    # As the validator of this name, with the ensemble made once for all.
    finite = {e.name: e.target.logits for e in candidates if bool(e.target.logits.isfinite().all())}
    ensemble = mean_probabilities(finite.values()).argmax(1)
    return Pool(
        task=task,
        seed=seed,
        chosen=next(iter(choice.ranking)),
        set_aside=set_aside,
        ranking=choice.ranking,
        ensv={name: accuracy(logits, ensemble) for name, logits in finite.items()},
    )


def evidence_of(cells: Cells, cell: Planned, result: Mapping[str, Any]) -> Evidence:
    """What is known of a cell without target labels, as far as it was kept."""
    with np.load(cells.place(cell.key) / OUTPUTS, allow_pickle=False) as kept:
        target, val, y = (
            torch.from_numpy(kept[name]) for name in ("target_logits", "val_logits", "val_y")
        )
    z = of_rank(float(result["feature_rank"]))
    return Evidence(
        name=cell.method,
        target=Outputs(target, z),
        source_val=Outputs(val, z[:0], y),
        trains_on_confidence=bool(result["trains_on_confidence"]),
        trains_on_source=bool(result["trains_on_source"]),
    )


def of_rank(rank: float) -> Tensor:
    """Features whose effective rank is `rank`, as the guard measures it: a stand-in for those kept.

    Their singular values are ones and one t in [0, 1] more, which makes up the fraction:
    ``exp H = rank``. Ranks above all that the guard asks for are cut.
    """
    rank = min(max(rank, 1.0), _RANK_ENOUGH)
    ones = math.floor(rank)
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        share = 1 / (ones + t)
        entropy = -ones * share * math.log(share) - (t * share) * math.log(max(t * share, 1e-300))
        low, high = (t, high) if entropy < math.log(rank) else (low, t)
    values = torch.diag(torch.tensor([1.0] * ones + [(low + high) / 2]).double())
    # With their mirror images they are centred, and no value changes but by a factor.
    return torch.cat([values, -values])
