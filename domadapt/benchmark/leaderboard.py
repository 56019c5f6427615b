"""The leaderboard as text: Markdown for readers, LaTeX for papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domadapt.benchmark.baselines import LINEAR_PROBE, NOT_ADAPTED, ZERO_SHOT
from domadapt.benchmark.fair import Check
from domadapt.benchmark.published import Figure, Published
from domadapt.benchmark.statistics import LEVEL, Interval
from domadapt.benchmark.suite import ORACLE, UPPER
from domadapt.benchmark.summary import Standing, Summary
from domadapt.report.report import BASELINE

NOTHING = "–"


@dataclass(frozen=True)
class Section:
    """A table under a heading, as text, for leaderboard and page alike.

    Attributes:
        title: the heading.
        heads: of the columns; the first column names the row.
        rows: cells, one for each head.
        note: what a reader must know.
        places: where its figures were read, numbered from 1 on.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    places: Sequence[str] = ()


def markdown(
    summary: Summary,
    checks: Sequence[Check] = (),
    failures: Sequence[tuple[str, str]] = (),
    about: Mapping[str, Any] | None = None,
    published: Published | None = None,
) -> str:
    """The leaderboard as Markdown.

    Args:
        summary: its numbers.
        checks: of fair play.
        failures: cells that failed, each with its reason.
        about: the suite as plain data: ``name``, ``about``.
        published: figures of others for its tasks and backbone.
    """
    said = dict(about or {})
    metric = summary.metric.replace("_", " ")
    parts = [
        f"# {said.get('name', 'Benchmark')}",
        *([str(said["about"])] if said.get("about") else []),
        f"Target {metric} in percent after the last step, mean and 95 % interval (Student's t) "
        f"over {summary.seeds} seed{'s' * (summary.seeds != 1)}. {UPPER} is the upper bound and "
        f"saw target labels ({ORACLE}): it was trained on a part of the target and scored on "
        "another, which on transductive tasks is a fifth of the samples that score the others.",
        _accuracies(summary),
        *not_adapted(summary),
        "## Against source_only",
        _comparisons(summary),
        _ranks_said(summary),
    ]
    if summary.picks:
        parts += ["## Chosen without target labels", _picked(summary)]
    for section in sections(summary, published):
        parts += [f"## {section.title}", _table(section.heads, section.rows), section.note]
        if section.places:
            parts.append("\n".join(f"{i}. {place}" for i, place in enumerate(section.places, 1)))
    if checks:
        parts += ["## Fair play", _checked(checks)]
    if failures:
        parts += ["## Cells without a result", *(f"- {title}: {why}" for title, why in failures)]
    return "\n\n".join(parts) + "\n"


def sections(summary: Summary, published: Published | None = None) -> list[Section]:
    """The tables that only some benchmarks have: searches, checkpoints, published figures."""
    found = []
    if summary.searches:
        found += [_searched(summary), _chosen_settings(summary)]
    if summary.checkpoints:
        found.append(_side_by_side(summary))
    if published is not None and published.rows:
        found.append(_published(summary, published))
    return found


def latex(summary: Summary, published: Published | None = None) -> str:
    """The table of accuracies in LaTeX, for the package booktabs; the best of a task is bold.

    A second table holds the published figures, where there are any, and another one the checkpoints
    side by side.
    """
    short = short_names(summary.tasks)
    heads = ["method", *short, "mean"]
    lines = [
        f"% Target {summary.metric} in percent, mean and half of the 95 % interval over seeds.",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(_escaped(head) for head in heads) + r" \\",
        r"\midrule",
    ]
    best, best_mean = _best(summary), _best_mean(summary)
    for one in summary.standings:
        if one.oracle:
            lines.append(r"\midrule")
        cells = [_escaped(_titled(one))]
        for task in summary.tasks:
            value = one.tasks.get(task)
            text = NOTHING if value is None else _number(value, r" \pm ")
            bold = value is not None and _adapts(one) and value.mean >= best[task]
            cells.append(
                "--" if value is None else (rf"$\mathbf{{{text}}}$" if bold else f"${text}$")
            )
        text = _mean(one, r" \pm ")
        bold = one.mean is not None and _adapts(one) and one.mean >= best_mean
        cells.append(
            "--" if one.mean is None else (rf"$\mathbf{{{text}}}$" if bold else f"${text}$")
        )
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    if published is not None and published.rows:
        lines += _published_latex(summary, published)
    if summary.checkpoints:
        lines += _kept_latex(summary)
    return "\n".join(lines)


def _accuracies(summary: Summary) -> str:
    best, best_mean = _best(summary), _best_mean(summary)
    rows = []
    for one in summary.standings:
        cells = [_titled(one)]
        for task in summary.tasks:
            value = one.tasks.get(task)
            text = NOTHING if value is None else _number(value, " ± ")
            if value is not None and value.n < summary.seeds:
                text += f" ({value.n} of {summary.seeds} seeds)"
            bold = value is not None and _adapts(one) and value.mean >= best[task]
            cells.append(f"**{text}**" if bold else text)
        bold = one.mean is not None and _adapts(one) and one.mean >= best_mean
        cells.append(f"**{_mean(one, ' ± ')}**" if bold else _mean(one, " ± "))
        rows.append(cells)
    return _table(["method", *short_names(summary.tasks), "mean"], rows)


def not_adapted(summary: Summary) -> list[str]:
    """What the rows are that adapt nothing, where there are any."""
    what = {
        LINEAR_PROBE: "is a logistic regression of the frozen backbone's features on the source's "
        "labels, its penalty chosen by cross-validation on them",
        ZERO_SHOT: "is a CLIP model, another backbone than the methods have, that reads the names "
        "of the classes and has seen no label",
    }
    there = [one.method for one in summary.standings if one.method in NOT_ADAPTED]
    if not there:
        return []
    said = "; ".join(f"{name} {what[name]}" for name in there)
    return [f"Rows without adaptation are not ranked and not tested: {said}."]


def _comparisons(summary: Summary) -> str:
    heads = [
        "method",
        "difference",
        "tasks won / lost",
        "p (Holm)",
        "gap closed",
        "negative transfers",
        "average rank",
        "set aside",
        "time",
        "time per step",
        "memory (MiB)",
    ]
    rows = []
    for one in summary.standings:
        p = one.paired
        marked = p is not None and p.p_holm < LEVEL
        below, of = one.negative
        rows.append(
            [
                _titled(one),
                NOTHING if p is None else f"{100 * p.difference:+.1f}",
                NOTHING if p is None else f"{p.wins} / {p.losses}",
                NOTHING if p is None or not p.tells else f"{p.p_holm:.3f}{'*' * marked}",
                NOTHING if one.gap is None else f"{round(100 * one.gap)} %",
                NOTHING if one.method == BASELINE or not _adapts(one) else f"{below} of {of}",
                NOTHING if one.rank is None else f"{one.rank:.2f}",
                NOTHING if not _adapts(one) else str(one.set_aside),
                NOTHING if one.time is None else f"{one.time:.1f} x",
                NOTHING if one.step_time is None else f"{one.step_time:.1f} x",
                NOTHING if one.memory is None else f"{one.memory / 2**20:.0f}",
            ]
        )
    said = (
        "Difference: mean over tasks in points. p: Wilcoxon's signed-rank test over tasks, "
        f"corrected by Holm; * below {LEVEL}; none where the tasks are too few for so many methods "
        f"to fall below {LEVEL} even by being better on all. Gap closed: (method - source_only) / "
        "(target_only - source_only) of the means over tasks. Negative transfers: cells below "
        "source_only of the same task and seed. Set aside: cells that the guard refuses without "
        "target labels. Time is of training, by the clock, relative to source_only of the same "
        "task and seed; a source-free method begins after it. Cells that ran at other times or "
        "beside other work (a benchmark that went on later) compare badly in it. Memory is the "
        "largest peak of a process, data included."
    )
    return f"{_table(heads, rows)}\n\n{said}"


def _ranks_said(summary: Summary) -> str:
    ranks = summary.ranks
    if ranks.tasks == 0:
        return "There are no average ranks: no task has a result of every method."
    said = f"Average ranks are over {ranks.tasks} task{'s' * (ranks.tasks != 1)} with all methods."
    if ranks.critical_difference is None:
        return f"{said} One task or one method has no critical difference."
    said += (
        f" Methods whose ranks differ by less than {ranks.critical_difference:.2f} are not told "
        "apart (Nemenyi, 0.05)."
    )
    if ranks.friedman is not None:
        said += f" All being equal has p = {_p(ranks.friedman)} (Friedman)."
    return said


def _picked(summary: Summary) -> str:
    rows = [
        [
            pick.criterion,
            _percent(pick.mean),
            f"{100 * pick.regret:.1f}",
            f"{pick.below} of {pick.pools}",
            ", ".join(
                f"{name} ({count} times)"
                for name, count in sorted(pick.picks.items(), key=lambda item: -item[1])
            ),
        ]
        for pick in summary.picks
    ]
    heads = ["criterion", "mean", "regret", "below source_only", "picks"]
    said = (
        "Of each task and seed one method is picked: by the verdict of `domadapt adapt`, by the "
        "largest score of a validator among those that the guard lets pass, and with target labels "
        f"({ORACLE}). Regret is in points below the last."
    )
    return f"{_table(heads, rows)}\n\n{said}"


def _published(summary: Summary, published: Published) -> Section:
    heads, rows = _published_rows(summary, published)
    metric = summary.metric.replace("_", " ")
    said = (
        f"Figures of others, in percent, where task, backbone and {metric} are the same; here is "
        "this benchmark, after the last step. A figure whose checkpoint was chosen with target "
        "labels is not comparable with one that was not. The last column says what else differs "
        "from this suite. The mean is over the tasks of this table."
    )
    papers = {row.method: row.paper for row in published.rows}
    said += f" Methods: {'; '.join(f'{name} {paper}' for name, paper in papers.items())}."
    return Section("Published figures", heads, rows, said, published.places)


def _published_rows(summary: Summary, published: Published) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: each method's own figures of this benchmark, then those of others."""
    tasks = published.tasks
    chosen = "chosen with target labels"
    heads = ["method", "from", *short_names(tasks), "mean", chosen, "differs"]
    own = {one.method: one for one in summary.standings if not one.oracle}
    rows, before = [], ""
    for row in published.rows:
        mine = own.get(row.method)
        if mine is not None and row.method != before:
            means = [mine.tasks[t].mean if t in mine.tasks else None for t in tasks]
            there = [m for m in means if m is not None]
            mean = sum(there) / len(there) if tasks and len(there) == len(tasks) else None
            mean = mine.mean if not tasks else mean
            rows.append(
                [row.method, "here", *(_percent(m) for m in means), _percent(mean), "no", NOTHING]
            )
        before = row.method
        rows.append(
            [
                row.method,
                f"[{row.place}]",
                *(_figure(row.values.get(task)) for task in tasks),
                NOTHING if row.mean is None else f"{row.mean:.1f}",
                row.labels_selected,
                "; ".join(row.differs) or NOTHING,
            ]
        )
    return heads, rows


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{figure.value:.1f}" + ("" if figure.spread is None else f" ± {figure.spread:.1f}")


def _published_latex(summary: Summary, published: Published) -> list[str]:
    heads, rows = _published_rows(summary, published)
    # What differs is a sentence, too long for a column.
    kept = [[*row[:-1], "" if row[-1] == NOTHING else "*"] for row in [heads, *rows]]
    kept[0][-1] = "differs"
    lines = [rf"\begin{{tabular}}{{ll{'r' * (len(heads) - 4)}ll}}", r"\toprule"]
    for row in kept:
        lines.append(" & ".join(_escaped(cell) for cell in row) + r" \\")
        if row is kept[0]:
            lines.append(r"\midrule")
    places = [f"% [{i}] {place}" for i, place in enumerate(published.places, 1)]
    differs = [f"% {row[0]} {row[1]}: {row[-1]}" for row in rows if row[-1] != NOTHING]
    return ["% Published figures.", *places, *differs, *lines, r"\bottomrule", r"\end{tabular}", ""]


def _searched(summary: Summary) -> Section:
    heads = [
        "method",
        "trials",
        "chosen by",
        "as given",
        "chosen",
        f"best ({ORACLE})",
        "given settings kept",
        "set aside",
        "failed",
    ]
    rows = [
        [
            one.method,
            str(one.trials),
            one.validator,
            _percent(one.given),
            _percent(one.chosen),
            _percent(one.best),
            f"{one.kept} of {one.tasks}",
            str(one.set_aside),
            str(one.failed),
        ]
        for one in summary.searches
    ]
    gains = [
        (one.chosen - one.given, one.best - one.given)
        for one in summary.searches
        if one.chosen is not None and one.given is not None
    ]
    said = (
        "Means over tasks with the first seed, with which this many settings were tried on every "
        "task: the settings as given; those that were chosen without target labels, which make the "
        "method's row in the tables above with all seeds; and those that hindsight would choose "
        f"({ORACLE}), which are no honest result. The guard sets broken trials aside."
    )
    if gains:
        honest, hindsight = (_points(sum(g) / len(gains), "+") for g in zip(*gains, strict=True))
        said += (
            f" On average over methods the choice is {honest} points from the settings as given, "
            f"and hindsight {hindsight}."
        )
    said += " What was tried stands in results.parquet, in the rows of kind trial."
    return Section("Searched settings", heads, rows, said)


def _chosen_settings(summary: Summary) -> Section:
    short = short_names(summary.tasks)
    rows = [
        [one.method, *(one.settings.get(task, NOTHING) or "as given" for task in summary.tasks)]
        for one in summary.searches
    ]
    said = "What the rows of searched methods were trained with, task by task."
    return Section("Chosen settings", ["method", *short], rows, said)


def _side_by_side(summary: Summary) -> Section:
    heads, rows = _kept_rows(summary)
    gains = _gains(summary)
    looks = max(one.looks for one in summary.checkpoints)
    said = (
        f"Means over tasks. Each training was looked at {looks} times, evenly, the last step among "
        "them; the tables above are of the last checkpoint. Each validator chooses one checkpoint "
        "of every training without target labels, by its largest score; one that compares "
        f"candidates, as ensv does, compares those of the training. Best ({ORACLE}) is chosen with "
        f"target labels and no honest result: it lies {_points(gains[ORACLE])} points above the "
        "last on average over methods, and so much a table gains where checkpoints are chosen on "
        "labelled target data."
    )
    named = [f"{name} {_points(gains[name], '+')}" for name in summary.checkpoints[0].chosen]
    if named:
        said += f" Against the last, validators are at: {', '.join(named)} points."
    return Section("Checkpoints side by side", heads, rows, said)


def _points(share: float, sign: str = "") -> str:
    """A difference in points, rounded first, so that nothing is "-0.0"."""
    return f"{round(100 * share, 1) + 0.0:{sign}.1f}"


def _kept_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: accuracy of the last checkpoint, of those chosen, and of the best."""
    names = list(summary.checkpoints[0].chosen)
    heads = ["method", "last", *names, f"best ({ORACLE})"]
    rows = [
        [one.method, *map(_percent, (one.last, *(one.chosen[n] for n in names), one.best))]
        for one in summary.checkpoints
    ]
    return heads, rows


def _gains(summary: Summary) -> dict[str, float]:
    """How much each choice of a checkpoint gains over the last, on average over methods."""
    found = summary.checkpoints
    gains = {n: sum(c.chosen[n] - c.last for c in found) / len(found) for n in found[0].chosen}
    return {**gains, ORACLE: sum(c.best - c.last for c in found) / len(found)}


def _kept_latex(summary: Summary) -> list[str]:
    heads, rows = _kept_rows(summary)
    return [
        "",
        f"% Target {summary.metric} in percent, mean over tasks and seeds, by the checkpoint kept;",
        "% the best one is chosen with target labels.",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(_escaped(head) for head in heads) + r" \\",
        r"\midrule",
        *(" & ".join(_escaped(cell) for cell in row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]


def _checked(checks: Sequence[Check]) -> str:
    return "\n".join(f"- {'yes' if c.kept else 'NO'}: {c.what}: {c.found}" for c in checks)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _titled(one: Standing) -> str:
    if one.method in NOT_ADAPTED:
        return f"{one.method} (no adaptation)"
    return f"{one.method} ({ORACLE})" if one.oracle else one.method


def _adapts(one: Standing) -> bool:
    """Whether it is a method of the comparison, with the same terms as the others."""
    return not one.oracle and one.method not in NOT_ADAPTED


def _best(summary: Summary) -> dict[str, float]:
    honest = [one for one in summary.standings if _adapts(one)]
    return {
        task: max((one.tasks[task].mean for one in honest if task in one.tasks), default=2.0)
        for task in summary.tasks
    }


def _best_mean(summary: Summary) -> float:
    means = [one.mean for one in summary.standings if _adapts(one) and one.mean is not None]
    return max(means, default=2.0)


def _mean(one: Standing, sign: str) -> str:
    """The mean over tasks with its interval over seeds, where all cells are there."""
    if one.interval is not None and one.mean is not None:
        return _number(one.interval, sign)
    return _percent(one.mean)


def _number(value: Interval, sign: str) -> str:
    half = value.half
    return f"{100 * value.mean:.1f}" + ("" if half is None else f"{sign}{100 * half:.1f}")


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def short_names(tasks: Sequence[str]) -> list[str]:
    """The tasks without the collection that all of them share."""
    shared = {task.partition(":")[0] for task in tasks}
    if len(shared) > 1 or not all(":" in task for task in tasks):
        return list(tasks)
    return [task.partition(":")[2] for task in tasks]


def _escaped(text: str) -> str:
    marks = {
        "±": r"$\pm$",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "->": r"$\to$",
        "–": "--",
    }
    for mark, shown in marks.items():
        text = text.replace(mark, shown)
    return text
