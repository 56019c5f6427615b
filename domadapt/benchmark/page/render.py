"""From the numbers of a benchmark to its page; all that is drawn stands in `Content`."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb

import domadapt
from domadapt.benchmark import statistics
from domadapt.benchmark.baselines import NOT_ADAPTED
from domadapt.benchmark.cells import Planned
from domadapt.benchmark.fair import Check
from domadapt.benchmark.leaderboard import NOTHING, Section, not_adapted, short_names
from domadapt.benchmark.page.curves import Curves, curves_of
from domadapt.benchmark.page.draw import curve_panel, map_panel, rank_diagram
from domadapt.benchmark.page.maps import MOST, Map, maps_of
from domadapt.benchmark.results import RESULTS
from domadapt.benchmark.statistics import LEVEL, Interval
from domadapt.benchmark.suite import ORACLE, UPPER
from domadapt.benchmark.summary import BY_VERDICT, Searched, Standing, Summary
from domadapt.report import curves, drawing
from domadapt.report.page import setting_in_words
from domadapt.report.report import BASELINE
from domadapt.runs.cell import Cells

#: Its name in the folder of a benchmark.
PAGE = "benchmark.html"
#: Steps of the heat map's colours; failures listed by name; letters of a reason, at most.
_COLOURS, _NAMED, _REASON = 21, 12, 600
#: Dashes of the methods' lines: a new one after each five, as colours alone are not enough.
_DASHES = ("", "6 3", "2 2.5", "8 3 2 3")
#: Names of the quantities that are drawn over the steps.
_QUANTITIES = {
    "doctor/effective_classes": "effective classes, target",
    "doctor/adaptation_share": "adaptation's share of the gradient",
    "doctor/batchnorm_gap": "domains apart at BatchNorm",
}
_CHECKED = "doctor/discriminator_accuracy/"


@dataclass(frozen=True)
class Count:
    """How many cells of a method on a task are planned, have a result, and failed."""

    planned: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Content:
    """All that the page of a benchmark says.

    Attributes:
        about: the suite as plain data: ``name``, ``about``, ``metric``, ``seeds``, ``command``.
        summary: the numbers; None where no cell has a result.
        counts: of cells, by method and task, in the order of the suite.
        oracle: the methods that saw target labels.
        checks: of fair play.
        failures: cells that failed, each with its reason.
        curves: means over seeds; points of each at most; quantities left out.
        maps: t-SNE; tasks with samples that are left out.
        settings: named tables of settings.
        sections: further tables, in their order.
        missing: cells that are not finished, those of trials among them.
    """

    about: Mapping[str, Any]
    summary: Summary | None
    counts: Mapping[tuple[str, str], Count]
    oracle: frozenset[str]
    checks: Sequence[Check] = ()
    failures: Sequence[tuple[str, str]] = ()
    curves: Curves = field(default_factory=dict)
    points: int = 0
    quantities_left: int = 0
    maps: Sequence[Map] = ()
    tasks_without_map: int = 0
    settings: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    sections: Sequence[Section] = ()
    missing: int = 0

    @property
    def methods(self) -> list[str]:
        """All that were planned, in order."""
        return list(dict.fromkeys(method for method, _ in self.counts))

    @property
    def tasks(self) -> list[str]:
        """All that were planned, in order."""
        return list(dict.fromkeys(task for _, task in self.counts))


def content_of(
    folder: Path,
    about: Mapping[str, Any],
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
    summary: Summary | None,
    checks: Sequence[Check] = (),
    failures: Sequence[tuple[str, str]] = (),
    sections: Sequence[Section] = (),
    missing: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Content:
    """What the page says of a benchmark's folder; reads curves and samples of its cells.

    Args:
        folder: of the benchmark.
        about: the suite as plain data.
        of: its cells.
        found: the results of those that are finished, by key.
        summary, checks, failures: what stands in the leaderboard.
        sections: further tables.
        missing: cells that are not finished, those of trials among them.
        say: is told what takes long.
    """
    counts: dict[tuple[str, str], Count] = {}
    for cell in of:
        old = counts.get((cell.method, cell.task), Count())
        result = found.get(cell.key)
        failed = result is not None and result["error"] is not None
        counts[cell.method, cell.task] = Count(
            old.planned + 1,
            old.done + (result is not None and not failed),
            old.failed + failed,
        )
    cells = Cells(folder)
    curves, points, left = curves_of(cells, of, found)
    maps, without = maps_of(cells, of, found, str(about.get("metric", "accuracy")), say)
    return Content(
        about=about,
        summary=summary,
        counts=counts,
        oracle=frozenset({UPPER, *(c.method for c in of if found.get(c.key, {}).get("oracle"))}),
        checks=checks,
        failures=failures,
        curves=curves,
        points=points,
        quantities_left=left,
        maps=maps,
        tasks_without_map=without,
        settings=_settings(about, of, found, [] if summary is None else summary.searches),
        sections=sections,
        missing=missing,
    )


def render(content: Content) -> str:
    """The page as HTML: styles, script, figures and data within; it loads nothing."""
    ids = {name: i for i, name in enumerate(content.methods)}
    names = [name.replace("->", " → ") for name in short_names(content.tasks)]
    short = dict(zip(content.tasks, names, strict=True))
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("domadapt", "benchmark/page"), PackageLoader("domadapt", "report")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = files("domadapt").joinpath("benchmark/page/page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    summary = content.summary
    order = _order(content)
    return environment.get_template("benchmark.html.j2").render(
        c=content,
        version=domadapt.__version__,
        summary=summary,
        metric=str(content.about.get("metric", "accuracy")).replace("_", " "),
        methods=[_method(name, content, ids) for name in content.methods],
        tasks=[{"id": i, "name": t, "short": short[t]} for i, t in enumerate(content.tasks)],
        bodies=[
            [name for name in order if name not in content.oracle],
            [name for name in order if name in content.oracle],
        ],
        ids=ids,
        columns=_COLUMNS,
        still=" ".join([] if summary is None else not_adapted(summary)),
        rows={} if summary is None else {s.method: _row(s) for s in summary.standings},
        heat=_heat(content),
        tiles=_tiles(content),
        state=_state(content),
        ranks=_ranks(content, ids),
        curves=_curve_sections(content, ids, short),
        maps=_map_sections(content, short),
        most_maps=MOST,
        line_styles=[_line_style(name, content, i) for i, name in enumerate(content.methods)],
        class_colours=drawing.class_colours(
            max((len(m.class_names) for m in content.maps), default=0)
        ),
        heat_colours=_heat_colours(),
        failures=_failures(content.failures),
        results=RESULTS,
        # The page's own file: it holds no text of others, and its hash alone lets it run.
        script=Markup(script),
        script_hash=digest,
        level=LEVEL,
        oracle=ORACLE,
        baseline=BASELINE,
        nothing=NOTHING,
    )


def _method(name: str, content: Content, ids: Mapping[str, int]) -> dict[str, Any]:
    still = name in NOT_ADAPTED
    return {"id": ids[name], "name": name, "oracle": name in content.oracle, "still": still}


def _order(content: Content) -> list[str]:
    """Methods by their mean, best first; those without one last."""
    means = {s.method: s.mean for s in content.summary.standings} if content.summary else {}

    def key(name: str) -> float:
        mean = means.get(name)
        return math.inf if mean is None else -mean

    return sorted(content.methods, key=key)


@dataclass(frozen=True)
class _Cell:
    """A cell of the table: its text, what it is sorted by (None: last), and its classes."""

    text: str
    value: float | None
    kind: str = ""


#: Heads of the table, and by which end a column is sorted first.
_COLUMNS = (
    ("mean", "descending"),
    (f"against {BASELINE}", "descending"),
    ("p (Holm)", "ascending"),
    ("gap closed", "descending"),
    ("negative transfers", "ascending"),
    ("average rank", "ascending"),
    ("set aside", "ascending"),
    ("time", "ascending"),
    ("time per step", "ascending"),
    ("memory (MiB)", "ascending"),
)


def _row(one: Standing) -> list[_Cell]:
    """The cells of a method in the order of `_COLUMNS`."""
    paired, (below, of) = one.paired, one.negative
    adapts = not one.oracle and one.method not in NOT_ADAPTED
    against = one.method != BASELINE and adapts
    sure = paired is not None and paired.p_holm < LEVEL
    sign = "" if paired is None or not sure else "good" if paired.difference > 0 else "bad"
    return [
        _Cell(_percent(one.mean) + _half(one.interval), one.mean),
        _cell(None if paired is None else paired.difference, _signed, sign),
        _cell(
            None if paired is None or not paired.tells else paired.p_holm,
            lambda v: f"{v:.3f}{'*' * sure}",
        ),
        _cell(one.gap, lambda v: f"{100 * v:.0f} %".replace("-", "−")),
        _Cell(f"{below} of {of}", below / of) if against and of else _Cell(NOTHING, None),
        _cell(one.rank, lambda v: f"{v:.2f}"),
        _cell(float(one.set_aside) if adapts else None, lambda v: f"{v:.0f}"),
        _cell(one.time, lambda v: f"{v:.1f} ×"),
        _cell(one.step_time, lambda v: f"{v:.1f} ×"),
        _cell(one.memory, lambda v: f"{v / 2**20:,.0f}"),
    ]


def _cell(value: float | None, write: Callable[[float], str], kind: str = "") -> _Cell:
    if value is None or not math.isfinite(value):
        return _Cell(NOTHING, None)
    return _Cell(write(value), value, kind)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _half(interval: Interval | None) -> str:
    half = None if interval is None else interval.half
    return "" if half is None else f" ± {100 * half:.1f}"


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


@dataclass(frozen=True)
class _Heat:
    """A cell of the heat map: mean and half interval, difference, colours, and what is missing."""

    value: float | None
    mean: str
    half: str
    difference: str
    kind: str
    note: str


def _heat(content: Content) -> dict[str, Any]:
    """The cells of the heat map by method, and the ends of both scales."""
    standings = {s.method: s for s in content.summary.standings} if content.summary else {}
    means = {
        (m, t): s.tasks[t].mean for m, s in standings.items() for t in content.tasks if t in s.tasks
    }
    low, high = min(means.values(), default=0.0), max(means.values(), default=1.0)
    gaps = {(m, t): v - means[BASELINE, t] for (m, t), v in means.items() if (BASELINE, t) in means}
    most = max((abs(v) for v in gaps.values()), default=0.0)
    cells: dict[str, list[_Heat]] = {}
    for m in content.methods:
        for t in content.tasks:
            count, note = content.counts.get((m, t), Count()), ""
            if count.done < count.planned:
                note = f"{count.done} of {count.planned} seeds"
                note += f", {count.failed} failed" if count.failed else ""
            value = means.get((m, t))
            if value is None:
                what = "failed" if count.failed else "missing"
                cells.setdefault(m, []).append(_Heat(None, what, "", what, "gone", note))
                continue
            gap = gaps.get((m, t))
            kinds = [f"a{_level(value, low, high)}"]
            kinds += ["dx" if gap is None else f"d{_level(gap, -most, most)}"]
            kinds += ["part"] if note else []
            cells.setdefault(m, []).append(
                _Heat(
                    value,
                    f"{100 * value:.1f}",
                    _half(standings[m].tasks[t]).replace(" ", ""),
                    NOTHING if gap is None else _signed(gap),
                    " ".join(kinds),
                    note,
                )
            )
    ends = {"low": _percent(low), "high": _percent(high), "most": _percent(most)}
    return {"cells": cells, **ends}


def _level(value: float, low: float, high: float) -> int:
    share = (value - low) / (high - low) if high - low > statistics.ROUNDING else 0.5
    return round((_COLOURS - 1) * min(max(share, 0.0), 1.0))


def _heat_colours() -> list[tuple[str, str, str]]:
    """Class, ground and ink of the heat map: scales that the colour-blind can read."""
    scale = colormaps["cividis"]
    both = LinearSegmentedColormap.from_list(
        "", ["#a8500b", "#e8a35c", "#f3f1ec", "#6fa8dc", "#1c5a9c"]
    )
    found = []
    for name, colours in (("a", scale), ("d", both)):
        for i in range(_COLOURS):
            rgb = to_rgb(colours(i / (_COLOURS - 1)))
            found.append((f"{name}{i}", to_hex(rgb), _ink_on(rgb)))
    return found


def _ink_on(rgb: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2, relative luminance)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    luminance = sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"


def _tiles(content: Content) -> list[tuple[str, str, str]]:
    """The numbers at the head: what, how much, and a word on it."""
    if content.summary is None:
        return []
    by_name = {s.method: s for s in content.summary.standings}
    tiles = []
    before = by_name.get(BASELINE)
    if before is not None and before.mean is not None:
        tiles.append((BASELINE, f"{_percent(before.mean)} %", "without adapting"))
    honest = [s for s in by_name.values() if not s.oracle and s.method not in NOT_ADAPTED]
    honest = [s for s in honest if s.mean is not None]
    if len(honest) > 1:
        best = max(honest, key=lambda s: s.mean or 0.0)
        said = f"largest mean of {len(honest)} methods, known by target labels only"
        tiles.append((best.method, f"{_percent(best.mean)} %", said))
    pick = next((p for p in content.summary.picks if p.criterion == BY_VERDICT), None)
    if pick is not None:
        said = f"picked without target labels, of each of {pick.pools} tasks and seeds"
        tiles.append(("by the verdict", f"{_percent(pick.mean)} %", said))
    upper = by_name.get(UPPER)
    if upper is not None and upper.mean is not None:
        said = f"upper bound, saw target labels ({ORACLE})"
        tiles.append((UPPER, f"{_percent(upper.mean)} %", said))
    return tiles


def _state(content: Content) -> dict[str, Any]:
    counts = content.counts.values()
    planned, done, failed = (
        sum(getattr(c, what) for c in counts) for what in ("planned", "done", "failed")
    )
    return {
        "planned": planned,
        "done": done,
        "failed": failed,
        "missing": content.missing,
        "broken": [check for check in content.checks if not check.kept],
    }


def _ranks(content: Content, ids: Mapping[str, int]) -> dict[str, Any]:
    """The diagram, or the sentence why there is none."""
    if content.summary is None:
        return {"figure": None, "said": "No cell has a result."}
    ranks = content.summary.ranks
    over = f"{ranks.tasks} task{'s' * (ranks.tasks != 1)}"
    if ranks.tasks == 0:
        said = "There are no average ranks: no task has a result of every method."
    elif ranks.critical_difference is None:
        what = "One task" if ranks.tasks == 1 else "One method"
        said = f"{what} has no critical difference; the ranks stand in the table."
    else:
        groups = statistics.groups_not_told_apart(ranks)
        said = (
            f"Average ranks over {over} that have all methods; the best is at the left. A bar "
            f"joins methods whose ranks differ by less than {ranks.critical_difference:.2f}: they "
            "are not told apart (Nemenyi's test, 0.05)."
        )
        if not groups:
            said += " There is no such pair."
        if ranks.friedman is not None:
            p = ranks.friedman
            said += (
                f" That all are equal has p = {p:.3f}"
                if p >= 0.001
                else " That all are equal has p < 0.001"
            )
            said += " (Friedman)"
            said += "; so no two of them should be read as different." if p >= LEVEL else "."
        return {"figure": rank_diagram(ranks, groups, ids), "said": said}
    return {"figure": None, "said": said}


def _title_of(name: str) -> str:
    if name.startswith("loss/"):
        return curves.title_of(name)
    if name.startswith(_CHECKED):
        return f"accuracy of the {name.removeprefix(_CHECKED)}"
    return _QUANTITIES.get(name, name.rpartition("/")[2].replace("_", " "))


def _curve_sections(
    content: Content, ids: Mapping[str, int], short: Mapping[str, str]
) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "name": short[task],
            "figures": [
                curve_panel(curves, _title_of(name), short[task], ids)
                for name, curves in content.curves[task].items()
            ],
        }
        for i, task in enumerate(content.tasks)
        if content.curves.get(task)
    ]


def _map_sections(content: Content, short: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for i, task in enumerate(content.tasks):
        maps = [m for m in content.maps if m.task == task]
        if maps:
            names = maps[0].class_names
            found.append(
                {
                    "id": i,
                    "name": short[task],
                    "seed": maps[0].seed,
                    "n_s": maps[0].n_s,
                    "n_t": len(maps[0].xy) - maps[0].n_s,
                    "classes": names if len(names) <= drawing.MAX_LEGEND else [],
                    "maps": [(m, map_panel(m, lambda name: short[name])) for m in maps],
                }
            )
    return found


def _line_style(name: str, content: Content, index: int) -> tuple[str, str]:
    """Colour and dashes of a method's line: grey for source_only, ink for the oracle."""
    if name == BASELINE:
        return drawing.BEFORE, ""
    if name in content.oracle:
        return "currentColor", "1.5 2.5"
    others = [m for m in content.methods if m != BASELINE and m not in content.oracle]
    i = others.index(name)
    colours = (drawing.AFTER, *drawing.CLASSES)
    return colours[i % len(colours)], _DASHES[i // 5 % len(_DASHES)]


def _failures(failures: Sequence[tuple[str, str]]) -> list[tuple[str, list[str], int]]:
    """Reasons with the cells that have them, the most frequent first; how many more there are."""
    by_reason: dict[str, list[str]] = {}
    for title, why in failures:
        by_reason.setdefault(why, []).append(title)
    found = []
    for why, titles in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        said = why if len(why) <= _REASON else why[: _REASON - 1] + "…"
        found.append((said, titles[:_NAMED], len(titles) - len(titles[:_NAMED])))
    return found


def _settings(
    about: Mapping[str, Any],
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
    searches: Sequence[Searched],
) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was run, as tables; of settings that all cells share, those of the first."""
    done = [found[c.key] for c in of if c.key in found and found[c.key]["error"] is None]
    first = next((r for r in done if not r.get("oracle")), done[0] if done else None)
    suite = {k: about[k] for k in ("name", "metric", "seeds", "validators") if k in about}
    methods = {
        m["name"]: ", ".join(f"{k}: {v}" for k, v in m["settings"].items()) or "its defaults"
        for m in about.get("methods", ())
    }
    methods |= {
        one.method: f"searched, {one.trials} trials a task, by {one.validator}: see above"
        for one in searches
    }
    tables: dict[str, Mapping[str, Any]] = {"Suite": suite, "Methods": methods}
    if first is not None:
        config = first["config"]
        tables["Model"] = {k: v for k, v in config["model"].items() if v not in (None, False)}
        tables["Training"] = config["training"]
        versions = {"domadapt": config["domadapt"], "torch": config["torch"]}
        machine = {k: config[k] for k in ("device", "threads") if k in config}
        tables["Versions and machine"] = {**first.get("versions", versions), **machine}
    return [
        (name, [(str(k).replace("_", " "), setting_in_words(v)) for k, v in values.items()])
        for name, values in tables.items()
        if values
    ]
