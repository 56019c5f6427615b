"""What there is to know of each method at a glance: one row, from its class and measured figures.

The figures come from ``benchmarks/methods.py``, which writes ``measured.json`` beside this file.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from domadapt.methods.base import Method
from domadapt.methods.registry import method_class, method_names
from domadapt.settings import settings_of

_PAPER = re.compile(r"\(([^()]+, (?:19|20)\d\d), ((?:arXiv|doi):[^\s,)]+)")


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: its registered name. what: the first line of its docstring.
        setting: what it is made for, such as "closed set" or "source-free".
        needs: what it asks of data and network beside a source and a target.
        paper: authors and year; `link`: its arXiv number or DOI.
        defaults: its settings, as flags would give them.
        cost: time of a step in units of `source_only`'s; None where not measured.
        digits: mean target accuracy in percent on the six embedded digits pairs; `spread` is the
            standard deviation over seeds of that mean, and `seeds` how many there were.
        rows: whether the digits were rows of pixels before a frozen backbone, as methods need them
            that work on rows of features in closed form.
    """

    name: str
    what: str
    setting: str
    needs: str
    paper: str
    link: str
    defaults: str
    cost: float | None = None
    digits: float | None = None
    spread: float | None = None
    seeds: int = 0
    rows: bool = False


def needs_of(cls: type[Method]) -> str:
    """What a method asks for beside unlabelled target data, in words."""
    needs = [] if cls.needs_target else ["source only"]
    if not cls.needs_source:
        needs.append("a trained model, no source data")
    if cls.closed_form:
        needs.append("rows of features")
    if cls.needs_text:
        needs.append("texts")
    if cls.needs_batchnorm:
        needs.append("BatchNorm")
    if cls.needs_strong:
        needs.append("strong views")
    if cls.needs_source_val:
        needs.append("held-out source")
    if cls.single_process:
        needs.append("one process")
    return ", ".join(needs)


@cache
def measured() -> dict[str, dict[str, Any]]:
    """Measured figures by method; empty for a method that was not measured."""
    file = resources.files("domadapt.methods").joinpath("measured.json")
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def row(name: str) -> Row:
    """What there is to know of one method."""
    cls = method_class(name)
    text = inspect.getdoc(cls) or ""
    paper = _PAPER.search(" ".join(text.split()))
    defaults = ", ".join(f"{key} {s.default}" for key, s in settings_of(cls).items())
    return Row(
        cls.name,
        re.sub(r"\s*\(.*", "", text.split("\n", 1)[0]).rstrip("."),
        cls.setting,
        needs_of(cls),
        paper[1] if paper else "",
        paper[2] if paper else "",
        defaults,
        **measured().get(name, {}),
    )


def rows() -> list[Row]:
    """Every registered method, source_only first."""
    return sorted((row(name) for name in method_names()), key=lambda r: r.name != "source_only")


def cost_text(of: Row) -> str:
    """The cost of a step as a multiple of source_only's."""
    return "not measured" if of.cost is None else f"{of.cost:.1f}x"


def digits_text(of: Row) -> str:
    """Mean accuracy on the digits pairs, with its spread over seeds."""
    if of.digits is None:
        return "not measured"
    spread = "" if of.spread is None else f" ± {of.spread:.1f}"
    return f"{of.digits:.1f}{spread}{' (rows)' if of.rows else ''}"
