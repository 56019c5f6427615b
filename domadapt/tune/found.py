"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from domadapt.network import Network


@dataclass(frozen=True)
class Found:
    """The best candidate of one method.

    Attributes:
        method: the method or combination; "source_only" is always there.
        settings: all its settings.
        searched: those of them that were searched, with the value found, and `LR` if it was.
        score: of the validator; larger is better. None where no candidate is left.
        trials: how many were run, of which `set_aside` by the guard and `failed`.
        number: of the trial; None for source_only as it stands.
        folder: where that candidate lies; None where there is none.
        target_accuracy: of the candidate as it was trained, where labels exist; they are read once
            all is chosen.
    """

    method: str
    settings: dict[str, Any]
    searched: dict[str, Any]
    score: float | None
    trials: int
    set_aside: int
    failed: int
    number: int | None
    folder: Path | None
    target_accuracy: float | None = None


@dataclass(frozen=True)
class Tuned:
    """What a search found: the best of each method, the best of them, and its network.

    `network` is a plain module in evaluation mode, as it was trained; `folder` is the run folder
    that holds it, with the calibration of its probabilities.
    """

    rows: list[Found]
    chosen: Found
    validator: str
    network: Network
    folder: Path

    def table(self) -> pd.DataFrame:
        """A row for each method, best first; what was read from labels says so in its name."""
        rows = []
        for row in self.rows:
            line = {
                "method": row.method,
                "settings": _in_words(row),
                self.validator: row.score,
                "trials": row.trials,
                "set aside": row.set_aside,
                "failed": row.failed,
            }
            if any(r.target_accuracy is not None for r in self.rows):
                line["target accuracy (labels, after the choice)"] = row.target_accuracy
            rows.append(line)
        return pd.DataFrame(rows)


def _in_words(row: Found) -> str:
    """The settings found, those that were not searched left out."""
    if row.folder is None:
        return "none: every trial failed or was set aside"
    return ", ".join(f"{k}={written(v)}" for k, v in row.searched.items()) or "defaults"


def written(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def place_of(row: Found) -> str | None:
    """The name of its folder; None where there is none."""
    return None if row.folder is None else row.folder.name
