"""The leaderboard as text: Markdown for readers, LaTeX for papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domadapt.benchmark.fair import Check
from domadapt.benchmark.statistics import Interval
from domadapt.benchmark.suite import ORACLE, UPPER
from domadapt.benchmark.summary import Standing, Summary
from domadapt.report.report import BASELINE

NOTHING = "–"
#: At which corrected p-value a difference is marked.
LEVEL = 0.05


def markdown(
    summary: Summary,
    checks: Sequence[Check] = (),
    failures: Sequence[tuple[str, str]] = (),
    about: Mapping[str, Any] | None = None,
) -> str:
    """The leaderboard as Markdown.

    Args:
        summary: its numbers.
        checks: of fair play.
        failures: cells that failed, each with its reason.
        about: the suite as plain data: ``name``, ``about``.
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
        "## Against source_only",
        _comparisons(summary),
        _ranks_said(summary),
    ]
    if summary.picks:
        parts += ["## Chosen without target labels", _picked(summary)]
    if checks:
        parts += ["## Fair play", _checked(checks)]
    if failures:
        parts += ["## Cells without a result", *(f"- {title}: {why}" for title, why in failures)]
    return "\n\n".join(parts) + "\n"


def latex(summary: Summary) -> str:
    """The table of accuracies in LaTeX, for the package booktabs; the best of a task is bold."""
    short = _short_names(summary.tasks)
    heads = ["method", *short, "mean"]
    lines = [
        f"% Target {summary.metric} in percent, mean and half of the 95 % interval over seeds.",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(_escaped(head) for head in heads) + r" \\",
        r"\midrule",
    ]
    best = _best(summary)
    for one in summary.standings:
        if one.oracle:
            lines.append(r"\midrule")
        cells = [_escaped(_titled(one))]
        for task in summary.tasks:
            value = one.tasks.get(task)
            text = NOTHING if value is None else _number(value, r" \pm ")
            bold = value is not None and not one.oracle and value.mean >= best[task]
            cells.append(
                "--" if value is None else (rf"$\mathbf{{{text}}}$" if bold else f"${text}$")
            )
        cells.append("--" if one.mean is None else f"{100 * one.mean:.1f}")
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _accuracies(summary: Summary) -> str:
    best = _best(summary)
    rows = []
    for one in summary.standings:
        cells = [_titled(one)]
        for task in summary.tasks:
            value = one.tasks.get(task)
            text = NOTHING if value is None else _number(value, " ± ")
            if value is not None and value.n < summary.seeds:
                text += f" ({value.n} of {summary.seeds} seeds)"
            bold = value is not None and not one.oracle and value.mean >= best[task]
            cells.append(f"**{text}**" if bold else text)
        cells.append(_percent(one.mean))
        rows.append(cells)
    return _table(["method", *_short_names(summary.tasks), "mean"], rows)


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
                NOTHING if p is None else f"{p.p_holm:.3f}{'*' * marked}",
                NOTHING if one.gap is None else f"{round(100 * one.gap)} %",
                NOTHING if one.method == BASELINE or one.oracle else f"{below} of {of}",
                NOTHING if one.rank is None else f"{one.rank:.2f}",
                NOTHING if one.oracle else str(one.set_aside),
                NOTHING if one.time is None else f"{one.time:.1f} x",
                NOTHING if one.step_time is None else f"{one.step_time:.1f} x",
                NOTHING if one.memory is None else f"{one.memory / 2**20:.0f}",
            ]
        )
    said = (
        "Difference: mean over tasks in points. p: Wilcoxon's signed-rank test over tasks, "
        f"corrected by Holm; * below {LEVEL}. Gap closed: (method - source_only) / (target_only - "
        "source_only) of the means over tasks. Negative transfers: cells below source_only of the "
        "same task and seed. Set aside: cells that the guard refuses without target labels. Time "
        "is of training, relative to source_only; a source-free method begins after it. Memory is "
        "the largest peak of a process, data included."
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
                f"{name} {count}"
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


def _checked(checks: Sequence[Check]) -> str:
    return "\n".join(f"- {'yes' if c.kept else 'NO'}: {c.what}: {c.found}" for c in checks)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _titled(one: Standing) -> str:
    return f"{one.method} ({ORACLE})" if one.oracle else one.method


def _best(summary: Summary) -> dict[str, float]:
    honest = [one for one in summary.standings if not one.oracle]
    return {
        task: max((one.tasks[task].mean for one in honest if task in one.tasks), default=2.0)
        for task in summary.tasks
    }


def _number(value: Interval, sign: str) -> str:
    half = value.half
    return f"{100 * value.mean:.1f}" + ("" if half is None else f"{sign}{100 * half:.1f}")


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _short_names(tasks: Sequence[str]) -> list[str]:
    """The tasks without the collection that all of them share."""
    shared = {task.partition(":")[0] for task in tasks}
    if len(shared) > 1 or not all(":" in task for task in tasks):
        return list(tasks)
    return [task.partition(":")[2] for task in tasks]


def _escaped(text: str) -> str:
    marks = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "->": r"$\to$", "–": "--"}
    for mark, shown in marks.items():
        text = text.replace(mark, shown)
    return text
