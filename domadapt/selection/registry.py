"""Validators by name: what each is, what fools it, and its score of a candidate's evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from domadapt.errors import DomadaptError, unknown
from domadapt.selection.evidence import Evidence

#: What a validator reads beside the target's outputs.
Need = Literal["source_val", "source_train", "others", "mixed"]
Score = Callable[[Evidence], float]


@dataclass(frozen=True)
class Validator:
    """A score of a candidate that needs no target label; larger is better.

    Attributes:
        name: how it is called.
        what: what it measures, the first line of its docstring.
        range: the values it can take.
        cost: what it costs beside one pass over the target.
        fooled_by: the bad candidates that it likes.
        needs: the parts of the evidence that it reads beside the target's outputs.
        function: the score itself.
    """

    name: str
    what: str
    range: str
    cost: str
    fooled_by: str
    needs: tuple[Need, ...]
    function: Score

    def lacks(self, evidence: Evidence) -> list[Need]:
        """The parts of the evidence that it needs and that are not there."""
        return [need for need in self.needs if getattr(evidence, need) is None]

    def score(self, evidence: Evidence) -> float:
        """The candidate's score; larger is better.

        Raises:
            DomadaptError: a part of the evidence that it needs is missing.
        """
        lacking = self.lacks(evidence)
        if lacking:
            raise DomadaptError(
                f"{self.name} needs {' and '.join(lacking)} of the candidate {evidence.name!r}, "
                "which there is not; choose a validator that does without, such as "
                "information_maximisation."
            )
        return float(self.function(evidence))


_VALIDATORS: dict[str, Validator] = {}


def validator(
    name: str, *, range: str, cost: str, fooled_by: str, needs: tuple[Need, ...] = ()
) -> Callable[[Score], Score]:
    """Register a function of `Evidence` as the validator `name`."""

    def register(function: Score) -> Score:
        what = (function.__doc__ or "").strip().split("\n")[0].rstrip(".")
        _VALIDATORS[name] = Validator(name, what, range, cost, fooled_by, needs, function)
        return function

    return register


def validators() -> dict[str, Validator]:
    """All validators by name."""
    import domadapt.selection.validators  # noqa: F401  (they register themselves)

    return dict(_VALIDATORS)


def get_validator(name: str) -> Validator:
    """A validator by name; a miss suggests the nearest."""
    known = validators()
    if name not in known:
        raise unknown("validator", name, known)
    return known[name]
