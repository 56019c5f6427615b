"""The findings as a table, and the reason of each failure in a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from domadapt.selftest.invariant import INVARIANTS, Finding
from domadapt.selftest.subject import Subject

MARKS = {True: ".", False: "X", None: "-"}


def examine(subject: Subject) -> Iterator[Finding]:
    """One finding per invariant, in order; if it cannot even be built, that one alone."""
    for invariant in INVARIANTS:
        finding = invariant.examine(subject)
        yield finding
        if finding.kept is False and invariant.name == "builds":
            return


def legend(verbose: bool = False) -> list[str]:
    """The legend: each invariant's number and name, with its meaning if `verbose`."""
    if verbose:
        return [f"{i:>2} {inv.name:<17} {inv.meaning}" for i, inv in enumerate(INVARIANTS, 1)]
    numbered = [f"{i:>2} {inv.name}" for i, inv in enumerate(INVARIANTS, 1)]
    rows = -(-len(numbered) // 4)
    return ["".join(f"{n:<21}" for n in numbered[row::rows]).rstrip() for row in range(rows)]


def columns(width: int) -> str:
    """The line of numbers over the marks."""
    numbers = "".join(f"{i:>3}" for i in range(1, len(INVARIANTS) + 1))
    return f"{'method':<{width}}{numbers}"


def row(findings: Sequence[Finding], width: int, verbose: bool = False) -> str:
    """A method's marks: ``.`` kept, ``X`` not kept, ``-`` does not apply."""
    found = {finding.invariant.name: MARKS[finding.kept] for finding in findings}
    marks = "".join(f"{found.get(inv.name, ' '):>3}" for inv in INVARIANTS)
    seconds = f"  {sum(f.seconds for f in findings):5.1f} s" if verbose else ""
    return f"{findings[0].method:<{width}}{marks}{seconds}"


def reasons(findings: Iterable[Finding]) -> list[str]:
    """One line for each invariant that is not kept."""
    return [f"{f.method}: {f.invariant.name}: {f.reason}" for f in findings if f.kept is False]
