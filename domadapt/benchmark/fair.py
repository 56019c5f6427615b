"""Fair play: what must be the same for all methods of a comparison, checked on what was run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domadapt.benchmark.cells import Planned
from domadapt.benchmark.search import DIGITS
from domadapt.errors import DomadaptError
from domadapt.report.report import BASELINE


@dataclass(frozen=True)
class Check:
    """One check: what it is about, whether it holds, and what was found."""

    what: str
    kept: bool
    found: str


def checks(
    of: Sequence[Planned],
    found: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Whether all finished cells of a comparison had the same terms.

    Args:
        of: the cells, of a search those of the chosen trials.
        found: their results by key; failures are left out.
        about: the suite as plain data, for what was searched.
    """
    every = [(c, found[c.key]) for c in of if c.key in found and found[c.key]["error"] is None]
    # Rows that adapt nothing train nothing, and have no terms to keep.
    done = [(c, r) for c, r in every if r.get("adapted", True)]
    honest = [(c, r) for c, r in done if not r["oracle"]]
    if not honest:
        return []
    return [
        _same("backbone", done, lambda r: _without_empty(r["config"]["model"])),
        _same("weights at the start, per task and seed", done, _first, by=_pool),
        _same("training (optimiser, rates, batch, schedule)", done, _training),
        _steps(done),
        _same("augmentation", done, lambda r: r["config"]["views"], by=lambda c: c.task),
        _same("data, per task", done, lambda r: r["config"]["data"], by=lambda c: c.task),
        _same("versions, device and threads", done, _machine),
        _tuning(honest, (about or {}).get("trials", ())),
        _complete(of, every),
    ]


def _pool(cell: Planned) -> str:
    return f"{cell.task}, seed {cell.seed}"


def _first(result: Mapping[str, Any]) -> Any:
    return result["initial_weights"]


def _training(result: Mapping[str, Any]) -> Any:
    """The settings of training, with the learning rate as it was before a search changed it."""
    config = result["config"]
    lr = config["training"]["lr"] / config.get("lr_factor", 1.0)
    return {**config["training"], "lr": float(f"{lr:.{DIGITS - 1}g}")}


def _machine(result: Mapping[str, Any]) -> Any:
    config = result["config"]
    return {k: config[k] for k in ("torch", "domadapt", "device", "threads")}


def _without_empty(model: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in model.items() if v not in (None, False)}


def _same(
    what: str,
    done: Sequence[tuple[Planned, Mapping[str, Any]]],
    of: Callable[[Mapping[str, Any]], Any],
    by: Callable[[Planned], str] | None = None,
) -> Check:
    """Whether something is the same over all cells, or over those of one group."""
    groups: dict[str, dict[str, list[str]]] = {}
    for cell, result in done:
        group = groups.setdefault("" if by is None else by(cell), {})
        group.setdefault(json.dumps(of(result), sort_keys=True), []).append(cell.method)
    for name, values in groups.items():
        if len(values) > 1:
            (one, a), (two, b) = list(values.items())[:2]
            where = f" on {name}" if name else ""
            said = f"{a[0]} has {_short(one)}, {b[0]} has {_short(two)}{where}"
            return Check(f"same {what}", False, said)
    if by is not None:
        return Check(f"same {what}", True, f"{len(groups)} groups compared")
    return Check(f"same {what}", True, _short(next(iter(groups[""]))))


def _short(said: str) -> str:
    value = json.loads(said)
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return str(value)


def _steps(done: Sequence[tuple[Planned, Mapping[str, Any]]]) -> Check:
    """Steps are as asked for, but of methods that have a measure of their own."""
    asked = {int(result["config"]["training"]["steps"]) for _, result in done}
    other = {
        cell.method: int(result["steps"]) for cell, result in done if result["steps"] not in asked
    }
    if not other:
        return Check("same steps", True, f"{', '.join(map(str, sorted(asked)))} each")
    said = ", ".join(f"{name} {steps}" for name, steps in other.items())
    return Check("same steps", False, f"{sorted(asked)[0]}, but by their own measure: {said}")


def _tuning(
    honest: Sequence[tuple[Planned, Mapping[str, Any]]], trials: Sequence[Mapping[str, Any]]
) -> Check:
    """Every method has its defaults, or the same search; what the suite sets stands out."""
    from domadapt.methods import method_settings

    searched = {trial["method"]: trial for trial in trials}
    changed: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for cell, result in honest:
        if cell.method in changed:
            continue
        config = result["config"]
        if config["method"] not in settings:
            try:
                settings[config["method"]] = method_settings(config["method"])
            except DomadaptError:
                # A method of a file that is not at hand where the table is made.
                settings[config["method"]] = {}
        known = settings[config["method"]]
        own = {
            name: value
            for name, value in config["settings"].items()
            if name not in searched.get(cell.method, {}).get("values", ())
            and name in known
            and value != known[name].default
            and value != str(known[name].default)
        }
        if own:
            changed[cell.method] = ", ".join(f"{k}={v}" for k, v in own.items())
    methods = list(dict.fromkeys(cell.method for cell, _ in honest))
    same, said = _budgets(methods, trials) if searched else (True, "")
    if changed:
        others = "; ".join(f"{name}: {values}" for name, values in changed.items())
        said = f"settings other than the defaults for {others}" + (f"; {said}" if said else "")
        return Check("same tuning", False, said)
    if not searched:
        said = f"none: every method, {BASELINE} too, has its defaults"
    return Check("same tuning", same, said)


def _budgets(methods: Sequence[str], trials: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether all methods had the same search, and in words which they had."""
    searched = {trial["method"]: trial for trial in trials}
    terms: dict[str, list[str]] = {}
    for method in methods:
        own = searched.get(method)
        said = "no search" if own is None else f"{own['budget']} trials by {own['validator']}"
        if own is not None and own["lr"]:
            said += ", learning rate too"
        terms.setdefault(said, []).append(method)
    none = [m for m in methods if m in searched and not searched[m]["values"]]
    if len(terms) > 1:
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in terms.items())
    else:
        said = f"{next(iter(terms))} each, {BASELINE} too, without target labels"
    if none:
        said += f"; nothing to search in {', '.join(none)}"
    return len(terms) == 1, said


def _complete(of: Sequence[Planned], done: Sequence[tuple[Planned, Any]]) -> Check:
    said = f"{len(done)} of {len(of)} cells have a result"
    return Check("complete", len(done) == len(of), said)
