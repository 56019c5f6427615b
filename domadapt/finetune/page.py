"""A comparison shown: figures, tables, one Markdown file, and one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from domadapt.finetune.curves import still_rising
from domadapt.finetune.heads import alone, is_shared
from domadapt.finetune.study import NEAR, Comparison, Row
from domadapt.finetune.work import SCRATCH
from domadapt.report.drawing import AFTER, BEFORE, CLASSES, INK, blank, dress, legend, plain, to_svg
from domadapt.strategies.spec import meaning

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and the rows, all as text."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def called(strategy: str) -> str:
    """A strategy as tables call it."""
    return "from scratch" if strategy == SCRATCH else strategy


def _accuracy(row: Row | None) -> str:
    if row is None:
        return NOTHING
    mean, spread = row.accuracy
    return (
        f"{100 * mean:.1f} ± {100 * spread:.1f}" if len(row.accuracies) > 1 else f"{100 * mean:.1f}"
    )


def tables(comparison: Comparison) -> list[Table]:
    """Final accuracy by size, what training takes, and what transfer is worth."""
    names, sizes = comparison.strategies, comparison.sizes
    heads = [_size(comparison, size) for size in sizes]
    found = [
        Table(
            "Accuracy on held-out data, %",
            ["strategy", *heads],
            [[called(n), *(_accuracy(comparison.row(n, s)) for s in sizes)] for n in names],
        )
    ]
    last = [row for n in names if (row := comparison.row(n, sizes[-1])) is not None]
    counted = any(row.reached or row.steps_to is not None for row in last)
    heads = ["strategy", "parameters trained", "of all, %", "macro F1, %", "seconds"]
    rows = [
        [
            called(r.strategy),
            f"{r.trained:,}",
            f"{100 * r.trained / r.parameters:.1f}",
            f"{100 * r.macro_f1:.1f}",
            f"{r.seconds:.1f}",
            *([_steps(r)] if counted else []),
        ]
        for r in last
    ]
    if counted:
        heads.append(f"steps to {_level(comparison)}")
    found.append(Table(f"What it takes, with {sizes[-1]} training samples", heads, rows))
    worth = [r for r in comparison.rows if r.transferred is not None]
    if worth:
        found.append(
            Table(
                "What transfer is worth: labelled samples that training from scratch needs more",
                ["strategy", *(_size(comparison, size) for size in sizes)],
                [
                    [called(n), *(_worth(comparison.row(n, s)) for s in sizes)]
                    for n in names
                    if n != SCRATCH
                ],
            )
        )
    return found


def _size(comparison: Comparison, size: str) -> str:
    samples = next((r.samples for r in comparison.rows if r.size == size), math.nan)
    return size if size == f"{samples:.0f}" else f"{size} ({samples:,.0f})"


def _steps(row: Row) -> str:
    runs = len(row.accuracies)
    if row.steps_to is None:
        return f"not reached ({row.reached} of {runs})" if row.reached else "not reached"
    return f"{row.steps_to:,.0f}" + (f" ({row.reached} of {runs})" if row.reached < runs else "")


def _level(comparison: Comparison) -> str:
    if comparison.level is None:
        return f"{100 * NEAR:g} % of from scratch"
    return f"{100 * comparison.level:g} %"


def _worth(row: Row | None) -> str:
    return NOTHING if row is None or row.transferred is None else row.transferred.words()


def headline(comparison: Comparison) -> list[str]:
    """The answer in a few sentences, of the largest and of the smallest size."""
    best = comparison.best()
    mean, spread = best.accuracy
    several = len(comparison.strategies) > 1
    said = [
        f"{'Best at ' if several else 'At '}{best.samples:,.0f} training samples"
        f"{' of those compared' if several else ''}: {best.strategy}, {100 * mean:.1f} % "
        f"(standard deviation {100 * spread:.1f}) on held-out data, with {best.trained:,} of "
        f"{best.parameters:,} parameters trained."
    ]
    scratch = comparison.row(SCRATCH, best.size)
    if scratch is not None and scratch.accuracy[0] > mean:
        # What a reader came for: here the answer is no.
        said[:] = [
            f"At {best.samples:,.0f} training samples no strategy reaches training from scratch: "
            f"{100 * mean:.1f} % by {best.strategy}, the best of them, against "
            f"{100 * scratch.accuracy[0]:.1f} %."
        ]
    elif scratch is not None:
        gain = 100 * (mean - scratch.accuracy[0])
        said.append(
            f"From scratch the same network reaches {100 * scratch.accuracy[0]:.1f} %: "
            f"fine-tuning is {gain:.1f} points better."
        )
    if len(comparison.sizes) > 1:
        few = comparison.best(comparison.sizes[0])
        words = f"With {few.samples:,.0f} samples {few.strategy} is best, {_accuracy(few)} %"
        low = comparison.row(SCRATCH, few.size)
        said.append(f"{words}{'' if low is None else f' (from scratch {_accuracy(low)} %)'}.")
    rising = [
        called(row.strategy)
        for row in comparison.rows
        if row.size == best.size and still_rising(row.curve)
    ]
    if rising:
        said.append(
            f"Still rising when training ended, by more than 2 points in its last quarter: "
            f"{', '.join(rising)}; with more --steps or a higher --lr the order may be another."
        )
    return said


def meanings(comparison: Comparison) -> list[str]:
    """What each part of the compared strategies means."""
    parts = [p for n in comparison.strategies if n != SCRATCH for p in alone(n).split("+")]
    found = [f"{part}: {meaning(part)}" for part in dict.fromkeys(parts)]
    if any(map(is_shared, comparison.strategies)):
        found.append("shared: the encoder learns from the other data sets as well, a head for each")
    if any(row.transferred is not None for row in comparison.rows):
        found.append(
            "what transfer is worth (effective data transferred): 'more than' where training from "
            "scratch did not get there with the largest size; with that size itself it is not "
            "measured then"
        )
    if SCRATCH in comparison.strategies:
        found.append(
            "from scratch: the same network with everything it had learnt taken from it, trained "
            "with the defaults of a network that begins at random"
        )
    return found


def terminal(comparison: Comparison) -> str:
    """The comparison as plain text."""
    lines = headline(comparison)
    for table in tables(comparison):
        widths = [max(map(len, column)) for column in zip(table.heads, *table.rows, strict=True)]
        lines += ["", table.title]
        for row in (table.heads, *table.rows):
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    lines += [f"Failed: {title}: {why}" for title, why in comparison.failures]
    return "\n".join(lines)


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown page."""
    lines = ["# Fine-tuning", "", subtitle(comparison), "", *headline(comparison), ""]
    for table in tables(comparison):
        lines += [f"## {table.title}", "", _pipes(table.heads)]
        lines.append(_pipes(["---", *["---:"] * (len(table.heads) - 1)], plain_text=True))
        lines += [*(_pipes(row) for row in table.rows), ""]
    lines += ["## How to read it", "", *(f"- {line}." for line in meanings(comparison)), ""]
    lines += [f"- Note: {_escaped(note)}" for note in comparison.notes]
    lines += [f"- Failed: {_escaped(f'{t}: {why}')}" for t, why in comparison.failures]
    return "\n".join(lines).rstrip() + "\n"


def model_name(model: str) -> str:
    """A model without the folders that its files lie in."""
    name, equals, weights = model.partition("=")
    prefix = "hf:" if name.startswith("hf:") else ""
    name = name.removeprefix("hf:").rstrip("/").rpartition("/")[2]
    return f"{prefix}{name}{equals}{weights.rpartition('/')[2]}"


def subtitle(comparison: Comparison) -> str:
    """What was compared on what."""
    on = f"{comparison.folds} folds that take turns" if comparison.test is None else comparison.test
    seeds = f"{comparison.seeds} seed{'s' * (comparison.seeds > 1)}"
    return (
        f"{model_name(comparison.model)} on {comparison.domain} ({comparison.samples:,} labelled "
        f"samples, {comparison.classes} classes), scored on {on}, {seeds}"
    )


def _pipes(cells: Sequence[str], plain_text: bool = False) -> str:
    return f"| {' | '.join(c if plain_text else _escaped(c) for c in cells)} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\|`*_<" else c for c in " ".join(text.split()))


# Figures


def colour(comparison: Comparison, strategy: str) -> str:
    """Grey for training from scratch, and a colour of its own for each strategy."""
    if strategy == SCRATCH:
        return BEFORE
    tuned = [s for s in comparison.strategies if s != SCRATCH]
    return (AFTER, *CLASSES)[tuned.index(strategy) % (1 + len(CLASSES))]


def size_figure(comparison: Comparison) -> Figure:
    """Accuracy over the number of training samples, with spreads; dashed: from scratch."""
    drawn = blank(6.4, 3.6)
    ax = drawn.subplots()
    names = comparison.strategies
    for number, name in enumerate(names):
        rows = [r for r in comparison.rows if r.strategy == name]
        # A little apart, so that no spread hides another.
        x = [r.samples * 1.025 ** (number - (len(names) - 1) / 2) for r in rows]
        means, spreads = zip(*(r.accuracy for r in rows), strict=True)
        ax.errorbar(
            x,
            [100 * m for m in means],
            yerr=[100 * s for s in spreads],
            color=colour(comparison, name),
            linestyle="--" if name == SCRATCH else "-",
            marker="o",
            markersize=4,
            linewidth=1.6,
            capsize=2,
        )
    ax.set_xscale("log")
    measured = sorted({r.samples for r in comparison.rows})
    ax.set_xticks(measured, [f"{n:,.0f}" for n in measured])
    ax.set_xticks([], minor=True)
    dress(ax, "Accuracy on held-out data")
    ax.set(xlabel="training samples (logarithmic)", ylabel="%")
    _marks(drawn, ax, comparison)
    return drawn


def step_figure(comparison: Comparison, size: str) -> Figure:
    """Accuracy during training at one size, mean over folds and seeds."""
    drawn = blank(6.4, 3.3)
    ax = drawn.subplots()
    for name in comparison.strategies:
        row = comparison.row(name, size)
        if row is not None:
            steps, values = zip(*row.curve, strict=True)
            style = "--" if name == SCRATCH else "-"
            shade = colour(comparison, name)
            ax.plot(steps, [100 * v for v in values], style, color=shade, linewidth=1.6)
    dress(ax, f"During training, {_size(comparison, size)} samples")
    ax.set(xlabel="step", ylabel="% on held-out data")
    _marks(drawn, ax, comparison)
    return drawn


def _marks(drawn: Figure, ax: Axes, comparison: Comparison) -> None:
    ax.xaxis.label.set_color(INK)
    marks = [
        Line2D(
            [],
            [],
            color=colour(comparison, name),
            linestyle="--" if name == SCRATCH else "-",
            label=plain(called(name), 32),
        )
        for name in comparison.strategies
    ]
    legend(drawn, marks, 3, loc="outside lower left")


def render(comparison: Comparison) -> str:
    """The page as HTML: inline styles and figures, no script, no network."""
    sizes = comparison.sizes

    def draw(figure: Figure, name: str, words: str) -> Markup:
        svg = to_svg(figure, name)
        # Safe: to_svg escapes every text, and the label is escaped here.
        return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1))

    figures = []
    if len(sizes) > 1:
        words = "; ".join(
            f"{called(n)} {', '.join(_accuracy(comparison.row(n, s)) for s in sizes)}"
            for n in comparison.strategies
        )
        figures.append(draw(size_figure(comparison), "sizes", f"Accuracy by size in %: {words}."))
    shown = sizes if len(sizes) < 3 else [sizes[0], sizes[-1]]
    for number, size in enumerate(shown):
        words = f"Accuracy during training with {size} samples; the table has the last values."
        figures.append(draw(step_figure(comparison, size), f"steps{number}", words))
    environment = Environment(
        loader=PackageLoader("domadapt", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("finetune.html.j2").render(
        title=f"Fine-tuning {model_name(comparison.model)} on {comparison.domain}",
        subtitle=subtitle(comparison),
        answer=headline(comparison),
        tables=tables(comparison),
        figures=figures,
        meanings=meanings(comparison),
        notes=comparison.notes,
        failures=comparison.failures,
        settings={
            called(name): ", ".join(f"{k}={v}" for k, v in values.items())
            for name, values in comparison.training.items()
        },
    )
