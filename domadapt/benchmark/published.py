"""Published figures of the tasks and the backbone of a suite, to stand beside its own.

They are read from ``published.toml``, where each has its source. A figure is compared only where
task, backbone and metric are those of the suite; what else differs is said beside it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domadapt.data import catalogue
from domadapt.errors import DomadaptError, unknown

FILE = Path(__file__).with_name("published.toml")
#: Whether target labels chose the checkpoint.
YES, NO, UNKNOWN = "yes", "no", "unknown"
PROTOCOLS = ("transductive", "inductive", UNKNOWN)
_TEXTS = (
    "source",
    "read_in",
    "backbone",
    "weights",
    "metric",
    "protocol",
    "labels_selected",
    "note",
)


@dataclass(frozen=True)
class Figure:
    """One published number.

    Attributes:
        task: the catalogue's name; ``collection:*->*`` is the average over all pairs as printed.
        backbone, weights: as a suite's model has them; weights may be "unknown".
        method: as in `domadapt list methods` where it is the same.
        value: in percent; spread: as the source means it, None where it has none.
        metric: one of `domadapt.benchmark.suite.METRICS`.
        source: who published it; read_in: where it was read; paper: of the method.
        protocol: "transductive", "inductive" or "unknown".
        labels_selected: whether target labels chose the checkpoint: "yes", "no" or "unknown".
        note: what else a reader should know.
    """

    task: str
    backbone: str
    weights: str
    method: str
    value: float
    spread: float | None
    metric: str
    source: str
    read_in: str
    paper: str
    protocol: str
    labels_selected: str
    note: str


@dataclass(frozen=True)
class Row:
    """One published method from one place, as a table shows it.

    Attributes:
        method: its name; place: number of its source, from 1 on.
        values: the figure of each task of the suite that has one.
        mean: the average that the source prints, where the suite has just the tasks it is of;
            else that of the figures, where each task of the table has one; else None.
        labels_selected: whether target labels chose the checkpoint.
        paper: of the method.
        differs: in what else the figures differ from the suite's terms.
    """

    method: str
    place: int
    values: dict[str, Figure]
    mean: float | None
    labels_selected: str
    paper: str
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """What is published of the tasks and backbone of a suite.

    Attributes:
        tasks: those with a figure, in the suite's order.
        rows: by method, those of the suite first.
        places: the sources that are numbered in the rows, with where each was read.
    """

    tasks: list[str]
    rows: list[Row]
    places: list[str]


def read_published(path: Path = FILE) -> list[Figure]:
    """All figures of a file such as ``published.toml``.

    Raises:
        DomadaptError: a field is missing or not among those allowed, or a value is no percentage.
    """
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    papers = said["papers"]
    found = []
    for table in said["table"]:
        texts = {key: table.get(key) for key in _TEXTS}
        lacks = [k for k, v in texts.items() if not isinstance(v, str) or (not v and k != "note")]
        if lacks:
            raise DomadaptError(
                f"A table of published figures needs {', '.join(_TEXTS)}; one of {path} lacks "
                f"{lacks[0]}."
            )
        for key, allowed in (("protocol", PROTOCOLS), ("labels_selected", (YES, NO, UNKNOWN))):
            if texts[key] not in allowed:
                raise unknown(f"{key} of published figures", texts[key], allowed)
        for method, values in table["figures"].items():
            if method not in papers:
                raise DomadaptError(f"[papers] of {path} lacks {method!r}; say where it is from.")
            if len(values) != len(table["tasks"]):
                raise DomadaptError(
                    f"{method} of {path} needs a figure for each of {len(table['tasks'])} tasks; "
                    f"it has {len(values)}."
                )
            for task, given in zip(table["tasks"], values, strict=True):
                value, spread = _value(given, f"{method} on {task}")
                found.append(
                    Figure(
                        task=task,
                        method=method,
                        value=value,
                        spread=spread,
                        paper=papers[method],
                        **texts,
                    )
                )
    return found


def _value(given: Any, of: str) -> tuple[float, float | None]:
    both = given if isinstance(given, dict) else {"value": given}
    value, spread = both.get("value"), both.get("spread")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise DomadaptError(f"A published figure is a percentage from 0 to 100; {of} has {given}.")
    return float(value), None if spread is None else float(spread)


def published_for(
    about: Mapping[str, Any],
    tasks: Sequence[str],
    methods: Sequence[str] = (),
    figures: Iterable[Figure] | None = None,
) -> Published:
    """The figures that stand beside those of a suite.

    Args:
        about: the suite as plain data: ``model``, ``metric`` and ``protocol`` (empty: each task's
            own, as the catalogue has it).
        tasks: the suite's tasks by name.
        methods: the suite's methods, for the order of rows.
        figures: among which is looked; by default those of ``published.toml``.
    """
    model = dict(about.get("model") or {})
    metric = about.get("metric", "accuracy")
    known = {name: own for name in tasks if (own := _known(name)) is not None}
    names = {canonical: name for name, (canonical, _) in known.items()}
    fitting = [
        figure
        for figure in (read_published() if figures is None else figures)
        if figure.backbone == model.get("name") and figure.metric == metric
    ]
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in fitting:
        if figure.task in names or _is_average(figure.task, names):
            key = (figure.method, figure.source, figure.read_in)
            groups.setdefault(key, []).append(figure)
    order = {name: i for i, name in enumerate(methods)}
    by_place = list(dict.fromkeys(_place(group[0]) for group in groups.values()))
    shown = [
        name for name in tasks if any(names.get(f.task) == name for g in groups.values() for f in g)
    ]
    rows = []
    for (method, _, _), group in groups.items():
        values = {names[f.task]: f for f in group if f.task in names}
        printed = next((f.value for f in group if f.task not in names), None)
        full = shown and all(name in values for name in shown)
        mean = sum(values[name].value for name in shown) / len(shown) if full else None
        here = {str(about.get("protocol") or known[name][1]) for name in values or known}
        first = group[0]
        rows.append(
            Row(
                method=method,
                place=by_place.index(_place(first)) + 1,
                values=values,
                mean=mean if printed is None else printed,
                labels_selected=first.labels_selected,
                paper=first.paper,
                differs=tuple(_differences(first, model, here)),
            )
        )
    rows.sort(key=lambda row: (order.get(row.method, len(order)), row.method.lower(), row.place))
    return Published(shown, rows, by_place)


def _known(task: str) -> tuple[str, str] | None:
    """The catalogue's name of a task and its protocol; None where it is no named task."""
    try:
        return catalogue.protocol(task)
    except DomadaptError:
        return None


def _is_average(task: str, names: Mapping[str, str]) -> bool:
    """Whether a figure is the average over just the tasks of the suite."""
    collection, _, rest = task.partition(":")
    return rest == "*->*" and set(catalogue.pairs(collection)) == set(names)


def _place(figure: Figure) -> str:
    note = f" {figure.note}" if figure.note else ""
    return f"{figure.source}; {figure.read_in}.{note}"


def _differences(figure: Figure, model: Mapping[str, Any], here: set[str]) -> list[str]:
    """In what the terms of a figure are not those of the suite, but for the checkpoint."""
    found = []
    if figure.protocol == UNKNOWN:
        found.append("protocol not known")
    elif here != {figure.protocol}:
        found.append(f"{figure.protocol}, here {' and '.join(sorted(here))}")
    weights = model.get("weights")
    if figure.weights == UNKNOWN:
        found.append("weights not known")
    elif weights != figure.weights:
        own = "none" if weights is None else Path(str(weights)).name
        found.append(f"weights {figure.weights}, here {own}")
    if model.get("freeze"):
        found.append("trained as a whole, here frozen")
    return found
