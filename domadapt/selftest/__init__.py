"""What every method keeps, checked without pytest: `domadapt selftest`, and the contract tests.

Each invariant is a function of a method under test: it returns nothing, or raises the reason why
it is not kept. The files hold them by kind, and all of them stand in `INVARIANTS`. To add one,
write one more function under ``@invariant()``; its name and the first sentence of its docstring
become its row in the legend.
"""

# The order of these imports is the order of the table.
from domadapt.selftest import configuration, equation, batches, adversaries, training  # noqa: F401, I001
from domadapt.selftest.invariant import INVARIANTS, Finding, Invariant, NotKept
from domadapt.selftest.subject import Subject
from domadapt.selftest.table import examine

__all__ = ["INVARIANTS", "Finding", "Invariant", "NotKept", "Subject", "examine"]
