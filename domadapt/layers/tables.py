"""A study as tables, for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domadapt.benchmark.statistics import Interval
from domadapt.layers.results import (
    LEVEL,
    METRIC_WORDS,
    LayerStudy,
    headline,
    shown,
    size_name,
)
from domadapt.layers.settings import STUDIES
from domadapt.transfer.tables import Table, size_text

#: What each kind of number means and what misleads it.
READING = {
    "lost": "the whole network's score less that with the block re-initialised and everything "
    "fine-tuned, seed by seed; below 0 the network does better without that block's pre-training",
    "kept": "the score with the blocks up to and including this one kept and the rest "
    "re-initialised",
    "alone": "the score with this block (or the window that begins here) kept and all others "
    "re-initialised",
    "frozen": "the score with the blocks up to this one kept and frozen with all that is no block, "
    "the rest re-initialised and trained",
    "probe": "the score of a linear classifier of this block's output in the frozen network; what "
    "a probe reads need not be what fine-tuning uses",
    "critical": "the least share of the way from pre-trained to fine-tuned values from which on "
    "the network keeps its score (0: the block need not have moved at all)",
}


def headed(study: LayerStudy) -> str:
    """What was studied, in one sentence."""
    words = METRIC_WORDS[study.metric]
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    target = "" if study.target is None else f", target {study.target}"
    return (
        f"{study.model} fine-tuned for {study.data}{target}: {len(study.blocks)} blocks, {seeds}, "
        f"{words} on {study.held_out:,} held-out samples."
    )


def tables(study: LayerStudy) -> list[Table]:
    """A table of blocks for each size, the references, orders, and looks at fine-tuned networks."""
    found = [t for size in study.sizes for t in (_blocks(study, size),) if t is not None]
    more = (_references(study), _target(study), _orders(study))
    found += [t for t in more if t is not None]
    for size in study.sizes:
        found += _looks(study, size)
    return found


def _blocks(study: LayerStudy, size: int) -> Table | None:
    columns: dict[str, Mapping[int, Interval]] = {}
    signed = set()
    if "localised" in study.studies:
        columns["lost without it"] = study.lost(size)
        signed.add("lost without it")
    for name, head, shift in (
        ("progressive", "kept up to it", -1),
        ("anb+", "kept up to it", -1),
        ("anb", "frozen up to it", -1),
        ("inverse", "it alone", 0),
        ("probing", "linear probe", -1),
    ):
        if name in study.studies and head not in columns:
            columns[head] = {p + shift: v for p, v in study.curve(name, size).items()}
    columns = {head: values for head, values in columns.items() if values}
    if not columns:
        return None
    rows = []
    if -1 in columns.get("kept up to it", {}):
        rows.append(["(none)", "", *_cells(study, columns, -1, signed)])
    for i, name in enumerate(study.blocks):
        parameters = size_text(study.parameters[i])
        rows.append([name, parameters, *_cells(study, columns, i, signed)])
    percent = ", %" if study.factor == 100 else ""
    title = f"By block, {size_name(study, size)} ({METRIC_WORDS[study.metric]}{percent})"
    return Table(title, ["block", "parameters", *columns], rows)


def _cells(
    study: LayerStudy, columns: Mapping[str, Mapping[int, Interval]], i: int, signed: set[str]
) -> list[str]:
    return [shown(study, values.get(i), signed=head in signed) for head, values in columns.items()]


def _references(study: LayerStudy) -> Table | None:
    rows = []
    for size in study.sizes:
        whole, scratch = (study.curve(name, size).get(0) for name in ("whole", "scratch"))
        agreement = study.agreement(size)
        if whole is not None or scratch is not None:
            said = "–" if agreement is None else f"{agreement:+.2f}"
            rows.append([size_name(study, size), shown(study, whole), shown(study, scratch), said])
    heads = ["training samples", "all pre-trained", "from scratch", "probe and loss agree"]
    return Table("The whole network", heads, rows) if rows else None


def _target(study: LayerStudy) -> Table | None:
    """What the same variants score on the target."""
    from domadapt.benchmark.statistics import t_interval

    known = [r for r in study.rows if r.target is not None]
    if not known:
        return None
    rows = []
    for study_name, position in dict.fromkeys((r.study, r.position) for r in known):
        cells = []
        for size in study.sizes:
            values = [
                r.target
                for r in known
                if (r.study, r.position, r.size) == (study_name, position, size)
                and r.target is not None
            ]
            cells.append(shown(study, t_interval(values, LEVEL) if values else None))
        rows.append([_variant(study, study_name, position), *cells])
    heads = ["variant", *(size_name(study, size) for size in study.sizes)]
    return Table(f"On the target {study.target}, with its labels", heads, rows)


def _variant(study: LayerStudy, name: str, position: int) -> str:
    """A variant in words."""
    blocks = study.blocks
    if name in ("whole", "scratch"):
        return "all pre-trained" if name == "whole" else "from scratch"
    if name in ("localised", "inverse"):
        last = position + study.window - 1
        span = blocks[position] if last == position else f"{blocks[position]} to {blocks[last]}"
        return f"without {span}" if name == "localised" else f"{span} alone"
    if name == "permutation":
        return f"order {position + 1}"
    frozen = " frozen" if name == "anb" else ""
    return f"kept{frozen} up to {blocks[position - 1]}" if position else "no block kept"


def _orders(study: LayerStudy) -> Table | None:
    rows = []
    for number, order in enumerate(study.orders):
        moved = [f"{study.blocks[i]} ← {study.blocks[j]}" for i, j in enumerate(order) if i != j]
        cells = [shown(study, study.curve("permutation", size).get(number)) for size in study.sizes]
        rows.append([", ".join(moved), *cells])
    heads = ["exchanged", *(size_name(study, size) for size in study.sizes)]
    return Table("Blocks in other orders", heads, rows) if rows else None


def _looks(study: LayerStudy, size: int) -> list[Table]:
    found = []
    critical = study.look("criticality", "critical", size)
    if critical is not None:
        rows = [[name, _number(value)] for name, value in zip(study.blocks, critical, strict=True)]
        title = f"Criticality, {size_name(study, size)}"
        found.append(Table(title, ["block", "critical from"], rows))
    known = {
        "source": "before and after, held out",
        "target": "before and after, target",
        "domains_before": "the domains, before",
        "domains_after": "the domains, after",
    }
    columns = {
        head: values
        for key, head in known.items()
        if (values := study.look("cka", key, size)) is not None
    }
    if columns:
        rows = [
            [name, *(_number(values[i]) for values in columns.values())]
            for i, name in enumerate(study.blocks)
        ]
        title = f"Linear CKA of each block, {size_name(study, size)} (1: alike)"
        found.append(Table(title, ["block", *columns], rows))
    return found


def _number(value: Interval | None) -> str:
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.mean:.2f}"
    return f"{value.mean:.2f} ({value.low:.2f} to {value.high:.2f})"


def remarks(study: LayerStudy) -> list[str]:
    """How it was done, in sentences."""
    said = [f"Re-initialised blocks: {study.initialisation}."]
    if study.outside:
        said.append(
            f"{size_text(study.outside)} parameters of the backbone belong to no block; they are "
            "kept in every variant but 'from scratch'."
        )
    if "localised" in study.studies and study.window > 1:
        said.append(
            f"Windows hold {study.window} blocks; what is lost without a block is the mean over "
            "the windows that hold it."
        )
    for size, how in dict(study.settings.get("training", {})).items():
        said.append(
            f"Fine-tuned with {int(size):,} samples: {how['steps']} steps of {how['batch_size']} "
            f"samples, {how['optimizer']}, learning rate {how['lr']:g} (head "
            f"{how['head_lr_multiple']:g} times), schedule {how['schedule']}; all of it with the "
            "same seed for every variant."
        )
    if len(study.seeds) > 1:
        said.append(
            f"In parentheses: {100 * LEVEL:.0f} % interval of the mean over "
            f"{len(study.seeds)} seeds (Student's t); the held-out samples are the same for all."
        )
    else:
        said.append("One seed: nothing is known of the spread.")
    return said


def readings(study: LayerStudy) -> list[str]:
    """How to read the columns that are there."""
    heads = {
        "lost": ("localised",),
        "kept": ("progressive", "anb+"),
        "frozen": ("anb",),
        "alone": ("inverse",),
        "probe": ("probing",),
        "critical": ("criticality",),
    }
    names = {
        "lost": "lost without it",
        "kept": "kept up to it",
        "frozen": "frozen up to it",
        "alone": "it alone",
        "probe": "linear probe",
        "critical": "critical from",
    }
    found = [
        f"{names[key]}: {READING[key]}."
        for key, studies in heads.items()
        if any(s in study.studies for s in studies)
    ]
    if {"localised", "probing"} <= set(study.studies):
        found.append(
            "probe and loss agree: rank correlation, over the blocks, of the probe's score and of "
            "what is lost; near 0 a probe does not tell which blocks matter."
        )
    return found


def terminal(study: LayerStudy) -> str:
    """The study as plain text of aligned columns."""
    lines = [headed(study), headline(study)]
    for table in tables(study):
        widths = [max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True)]
        lines += ["", table.title]
        for row in (table.heads, *table.rows):
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
    lines += ["", *remarks(study)]
    lines += [f"Note: {note}" for note in study.notes]
    return "\n".join(lines)


def markdown(study: LayerStudy) -> str:
    """The study as a Markdown page beside ``layers.png``."""
    lines = [f"# {headline(study)}", "", headed(study), "", f"![{headline(study)}](layers.png)", ""]
    for table in tables(study):
        lines += [f"## {table.title}", "", _pipes(table.heads)]
        lines.append(_pipes(["---", *["---:"] * (len(table.heads) - 1)]))
        lines += [*(_pipes(row) for row in table.rows), ""]
    lines += ["## How to read it", "", *(f"- {line}" for line in readings(study)), ""]
    lines += ["## How it was done", "", *(f"- {line}" for line in remarks(study)), ""]
    if study.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in study.notes), ""]
    return "\n".join(lines)


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def asked(study: LayerStudy) -> list[str]:
    """What each study did, in words."""
    return [f"{name}: {STUDIES[name]}" for name in study.studies]
