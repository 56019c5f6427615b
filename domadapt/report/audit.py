"""An audit as tables, for the terminal and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from domadapt.selection.audit import (
    ALWAYS_BASELINE,
    RANDOM,
    SELECTOR,
    Audit,
    Criterion,
    EstimateError,
    Pick,
    Spread,
)

#: Of fewer tasks a mean says little of the next task.
FEW_TASKS = 5
NOTHING = "–"
REFERENCES = (SELECTOR, ALWAYS_BASELINE, RANDOM)
#: How the tables are to be read.
LEGEND = (
    "oracle: compared with the true accuracy on the target, which nobody has when choosing.",
    "regret: points of accuracy lost against the best candidate by taking the criterion's first "
    "choice; 0 is best. Mean and standard deviation over the tasks.",
    "correlation: weighted Spearman rank correlation of scores and accuracies, where the top of "
    "the ranking weighs most (Musgrave et al., 2022, arXiv:2208.07360); 1 is best.",
    "all: of all candidates; elsewhere of those that the guard leaves, which sets broken ones "
    "aside.",
    "below source-only: in how many pools (task and seed) the pick is less accurate than that.",
    "refused: no value was given. in interval: share of the intervals that hold the true accuracy.",
)


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and the rows, all as text."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables(audit: Audit) -> list[Table]:
    """The criteria, the smallest regret first, and the estimates where there are any."""
    found = [
        Table(
            "Criteria against the truth (oracle)",
            [
                "criterion",
                "regret",
                "worst task",
                "regret, all",
                "correlation",
                "correlation, all",
                "below source-only",
            ],
            [_criterion(criterion) for criterion in audit.criteria],
        )
    ]
    if audit.estimates:
        heads = ["estimate", "of", "candidates", "refused", "mean error (oracle)"]
        heads += ["bias (oracle)", "in interval (oracle)", "interval width"]
        found.append(
            Table(
                "Estimates against the truth (oracle)",
                heads,
                [_estimate(e) for e in audit.estimates],
            )
        )
    return found


def _criterion(criterion: Criterion) -> list[str]:
    regret, below = criterion.regret_oracle, criterion.gain_oracle
    return [
        criterion.name,
        _spread(regret, 100, 1),
        NOTHING if regret is None else f"{100 * regret.largest:.1f}",
        _spread(criterion.regret_all_oracle, 100, 1),
        _spread(criterion.correlation_oracle, 1, 2),
        _spread(criterion.correlation_all_oracle, 1, 2),
        NOTHING if below is None else f"{criterion.below_oracle} of {criterion.pools}",
    ]


def _spread(spread: Spread | None, factor: int, digits: int) -> str:
    if spread is None:
        return NOTHING
    text = f"{factor * spread.mean:.{digits}f}"
    if spread.deviation is None:
        return text
    return f"{text} ± {factor * spread.deviation:.{digits}f}"


def _estimate(estimate: EstimateError) -> list[str]:
    def points(value: float | None, sign: str = "") -> str:
        return NOTHING if value is None else f"{100 * value:{sign}.1f}"

    covered = estimate.covered_oracle
    return [
        estimate.name,
        estimate.scope,
        str(estimate.candidates),
        str(estimate.refused),
        points(estimate.error_oracle),
        points(estimate.bias_oracle, "+"),
        NOTHING if covered is None else f"{100 * covered:.0f} %",
        points(estimate.width),
    ]


def headline(audit: Audit) -> list[str]:
    """What was audited and what came out, in a few sentences."""
    pools = {(pick.task, pick.seed) for pick in audit.picks}
    text = (
        f"{_count(len(audit.tasks), 'task')}, {_count(len(pools), 'pool')} of candidates (a task "
        f"and a seed). The best candidate of a pool (oracle) has an accuracy of "
        f"{100 * audit.best_oracle:.1f} % on average."
    )
    found = [text]
    judged = [
        criterion
        for criterion in audit.criteria
        if criterion.kind == "validator" and criterion.regret_oracle is not None
    ]
    if judged:
        least = judged[0].regret_oracle
        assert least is not None
        equal = [c.name for c in judged if c.regret_oracle and c.regret_oracle.mean == least.mean]
        found.append(
            f"Smallest regret of a validator under the guard (oracle): {', '.join(equal)}, "
            f"{100 * least.mean:.1f} points on average, {100 * least.largest:.1f} on its worst "
            "task."
        )
    plain = {c.name: c.regret_oracle.mean for c in audit.criteria if c.regret_oracle is not None}
    lost = [f"{name} {100 * plain[name]:.1f}" for name in REFERENCES if name in plain]
    if lost:
        found.append(f"Regret without a validator (oracle): {', '.join(lost)}.")
    if len(audit.tasks) < FEW_TASKS:
        found.append(
            f"{_count(len(audit.tasks), 'task')} cannot say which criterion is best elsewhere: "
            "differences smaller than their spread over tasks are chance."
        )
    return found


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def terminal(audit: Audit) -> str:
    """The audit as plain text of aligned columns."""
    lines = headline(audit)
    for table in tables(audit):
        widths = [max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True)]
        lines += ["", f"{table.title}"]
        for row in (table.heads, *table.rows):
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
    lines += ["", *LEGEND]
    lines += [f"Note: {note}" for note in audit.notes]
    return "\n".join(lines)


def markdown(audit: Audit) -> str:
    """The audit as a Markdown page beside ``audit.png``."""
    lines = ["# Which criterion can be trusted? (oracle)", "", *_paragraphs(headline(audit))]
    lines += ["![regret, rank correlation and estimates, all against the oracle](audit.png)", ""]
    for table in tables(audit):
        lines += [f"## {table.title}", "", _pipes(table.heads)]
        lines.append(_pipes(["---", *["---:"] * (len(table.heads) - 1)]))
        lines += [*(_pipes(row) for row in table.rows), ""]
    lines += ["## How to read it", "", *(f"- {line}" for line in LEGEND), ""]
    if audit.notes:
        lines += ["## Notes", "", *(f"- {_escaped(note)}" for note in audit.notes), ""]
    return "\n".join(lines)


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in (_escaped(sentence), "")]


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\|`*_<" else c for c in " ".join(text.split()))


def to_csv(audit: Audit) -> str:
    """A row per task, seed and criterion: what the criterion picked there and what it lost."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [one.name for one in dataclasses.fields(Pick)]
    writer.writerow(names)
    for pick in audit.picks:
        values = {name: getattr(pick, name) for name in names}
        values["picked"] = "; ".join(pick.picked)
        writer.writerow(["" if v is None else v for v in values.values()])
    return stream.getvalue()


def to_json(audit: Audit) -> str:
    """All of the audit as JSON."""
    data = {"legend": LEGEND, **dataclasses.asdict(audit)}
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
