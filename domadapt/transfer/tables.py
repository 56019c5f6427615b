"""A ranking as tables, for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from domadapt.transfer.models import short_names
from domadapt.transfer.rank import PROBE, SIZE, Ranking, Score

NOTHING = "–"
#: What is known of such scores, told with every ranking.
EVIDENCE = (
    "A list of models by size alone agreed with fine-tuned accuracy better than every score on the "
    "usual benchmark: correlation 0.91, LogME 0.57 (Singh et al., 2025, arXiv:2510.06448). So a "
    "score that disagrees with both size and probe needs a reason to be believed.",
    "Few of 13 scores matched plain ImageNet accuracy, and all did worse on medical images (Chaves "
    "et al., 2024, arXiv:2405.20420).",
    "Over 715,000 set-ups no score won everywhere, and small changes of a set-up changed the "
    "winner (Agostinelli et al., 2022, arXiv:2204.01403).",
    "Of 23 scores none did well everywhere; a vote of nearest neighbours did better than all of "
    "them (Sorkhei et al., 2025, arXiv:2503.18528).",
    "All of these judge the labelled domain alone; none saw the target.",
)
#: What each column is and what misleads it.
READING = {
    PROBE: "cross-validated accuracy (of measurements: R²) of a linear classifier of the features, "
    "± standard deviation over the folds; blind to what fine-tuning changes",
    SIZE: "parameters of the feature extractor",
    "k-NN": "accuracy of the vote of 5 nearest neighbours, leave-one-out",
    "LogME": "log evidence per sample of a Bayesian linear model (arXiv:2102.11005)",
    "H-score": "variance between classes after whitening; grows with the number of features, at "
    "most classes - 1, which it reaches wherever features outnumber samples (arXiv:2212.10082)",
    "regularised H": "the same with a shrunk covariance (arXiv:2110.06893)",
    "TransRate": "coding rate of all features less that within classes; depends on their scale and "
    "number (arXiv:2106.09362)",
    "N-LEEP": "mean log probability of the class given the cluster (arXiv:2011.11200)",
    "GBC": "overlap of classes as Gaussians, 0 for none (arXiv:2111.12780)",
    "SFDA": "mean probability of the own class under discriminant analysis; depends on the "
    "features' scale (arXiv:2207.03036)",
    "LEEP": "mean log probability of the class given the old head's answer (arXiv:2002.12462)",
    "NCE": "the same given its most probable answer alone (arXiv:1908.08142)",
}
#: The column of weights in words.
WEIGHTS = (
    "weights: pretrained are those that were named; random ones are of seed 0; own is whatever a "
    "function of one's own has loaded; a run is scored after its bottleneck; none: inputs are "
    "features already"
)


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and the rows, all as text."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def number(value: float | None) -> str:
    """A score with four significant digits."""
    if value is None:
        return NOTHING
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def size_text(parameters: int) -> str:
    """A number of parameters: 11.2 M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def tables(ranking: Ranking) -> list[Table]:
    """Models, their scores, what these took, and how far they agree."""
    names = [n for n in ranking.score_names if n != PROBE]
    probe = "linear probe, R²" if ranking.classes == 0 else "linear probe, %"
    percent = 1 if ranking.classes == 0 else 100
    digits = 3 if ranking.classes == 0 else 1
    called = short_names([m.model for m in ranking.models])
    rows = []
    for name, m in zip(called, ranking.models, strict=True):
        mean = m.scores[PROBE].value
        assert mean is not None
        shown = f"{percent * mean:.{digits}f} ± {percent * m.probe_std:.{digits}f}"
        rows.append([name, m.weights, size_text(m.parameters), str(m.width), shown])
    found = [Table("Models", ["model", "weights", SIZE, "features", probe], rows)]
    scores = [
        [name, *(number(_value(m.scores, n)) for n in names)]
        for name, m in zip(called, ranking.models, strict=True)
    ]
    found.append(Table("Scores, larger is better", ["model", *names], scores))
    times = [
        [name, f"{m.seconds:.2f}", *(_seconds(m.scores, n) for n in (PROBE, *names))]
        for name, m in zip(called, ranking.models, strict=True)
    ]
    found.append(Table("Seconds", ["model", "features", PROBE, *names], times))
    if any(v is not None for row in ranking.agreement.values() for v in row.values()):
        columns = list(ranking.agreement)
        rows = [
            [a, *("·" if a == b else _tau(ranking.agreement[a][b]) for b in columns)]
            for a in columns
        ]
        title = "Rank agreement (weighted Kendall's tau: 1 the same order, -1 the reverse)"
        found.append(Table(title, ["", *columns], rows))
    return found


def _value(scores: dict[str, Score], name: str) -> float | None:
    return scores[name].value if name in scores else None


def _seconds(scores: dict[str, Score], name: str) -> str:
    seconds = scores[name].seconds if name in scores else None
    return NOTHING if seconds is None else f"{seconds:.2f}"


def _tau(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def headline(ranking: Ranking) -> str:
    """What was ranked, in one sentence."""
    of = "measurements" if ranking.classes == 0 else f"{ranking.classes} classes"
    count = len(ranking.models)
    return (
        f"{count} model{'s' * (count != 1)} for {ranking.domain} ({ranking.samples} labelled "
        f"samples, {of}), the best linear probe first."
    )


def terminal(ranking: Ranking) -> str:
    """The ranking as plain text of aligned columns."""
    lines = [headline(ranking)]
    for table in tables(ranking):
        widths = [max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True)]
        lines += ["", table.title]
        for row in (table.heads, *table.rows):
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
    lines += ["", "What such scores are worth:", *(f"- {line}" for line in EVIDENCE)]
    lines += [f"Note: {note}" for note in ranking.notes]
    return "\n".join(lines)


def markdown(ranking: Ranking) -> str:
    """The ranking as a Markdown page beside ``rank.png``."""
    lines = ["# Which model to start from", "", _escaped(headline(ranking)), ""]
    lines += ["![linear probe of each model, and its rank by every score](rank.png)", ""]
    for table in tables(ranking):
        lines += [f"## {table.title}", "", _pipes(table.heads)]
        lines.append(_pipes(["---", *["---:"] * (len(table.heads) - 1)]))
        lines += [*(_pipes(row) for row in table.rows), ""]
    lines += ["## What such scores are worth", "", *(f"- {line}" for line in EVIDENCE), ""]
    known = [PROBE, SIZE, *(n for n in ranking.score_names if n != PROBE)]
    lines += [
        "## How to read it",
        "",
        f"- {WEIGHTS}.",
        *(f"- {name}: {READING[name]}." for name in known),
        "",
    ]
    if ranking.notes:
        lines += ["## Notes", "", *(f"- {_escaped(note)}" for note in ranking.notes), ""]
    return "\n".join(lines)


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\|`*_<" else c for c in " ".join(text.split()))


def to_json(ranking: Ranking) -> str:
    """All of the ranking as JSON, with its schema version and the evidence."""
    data = {"schema": 1, **dataclasses.asdict(ranking), "reading": READING, "evidence": EVIDENCE}
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
