"""Strategies of fine-tuning as they are said: ``partial:2``, ``gradual+discriminative``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from domadapt.errors import DomadaptError, unknown

#: The number after each part's colon where none is given, and its meaning, {} being that number.
BASES: dict[str, tuple[float | None, str]] = {
    "full": (None, "every parameter trains"),
    "feature_extraction": (None, "the backbone stays as it is; head and bottleneck train"),
    "partial": (1.0, "of the blocks only the last {} train, with head and bottleneck"),
    "lp_ft": (0.3, "head and bottleneck alone for the first {} of the run, then everything"),
    "gradual": (0.5, "head first, then one block more from the top, all by {} of the run"),
    "bitfit": (None, "biases train, with head and bottleneck"),
    "adapters": (16.0, "bottlenecks of width {} after every block train, with norms and head"),
    "lora": (8.0, "low-rank updates of rank {} train, with head and bottleneck"),
}
MODIFIERS: dict[str, tuple[float, str]] = {
    "discriminative": (2.6, "each block learns {} times as slowly as the one above"),
    "layer_decay": (0.75, "each block's rate is {} of that of the one above"),
    "l2_sp": (0.1, "a pull of {} towards the weights at the start, in place of weight decay"),
}
#: Several parts in one word.
RECIPES = {"ulmfit": "gradual+discriminative"}
#: Where each comes from.
PAPERS = {
    "lp_ft": "(Kumar et al., 2022, arXiv:2202.10054)",
    "gradual": "(Howard and Ruder, 2018, arXiv:1801.06146)",
    "discriminative": "(Howard and Ruder, 2018, arXiv:1801.06146)",
    "ulmfit": "(Howard and Ruder, 2018, arXiv:1801.06146)",
    "bitfit": "(Ben Zaken et al., 2022, arXiv:2106.10199)",
    "adapters": "(Houlsby et al., 2019, arXiv:1902.00751)",
    "lora": "(Hu et al., 2022, arXiv:2106.09685)",
    "layer_decay": "(Clark et al., 2020, arXiv:2003.10555)",
    "l2_sp": "(Li et al., 2018, arXiv:1802.01483)",
}
_WHOLE = ("partial", "adapters", "lora")
_SHARES = ("lp_ft", "gradual", "layer_decay")


def meaning(part: str) -> str:
    """What one part of a known strategy does, such as ``lp_ft`` or ``lora:4``."""
    name, _, number = part.partition(":")
    if name in RECIPES:
        return f"{RECIPES[name]} with the slanted triangle of learning rates"
    usual, words = BASES.get(name) or MODIFIERS[name]
    return words.format(f"{float(number or usual or 0):g}")


@dataclass(frozen=True)
class Strategy:
    """What is trained of a network, when, and how fast.

    Attributes:
        text: as it was said.
        base: the key in `BASES`; `amount` is its number, 0 where it has none.
        decay: factor on the learning rate per block of distance from the head; 1 for none.
        l2_sp: strength of the pull to the weights at the start; 0 for none.
        schedule: the schedule of learning rates that belongs to it; None leaves that of the run.
    """

    text: str
    base: str
    amount: float
    decay: float
    l2_sp: float
    schedule: str | None

    @property
    def phased(self) -> bool:
        """Whether what trains changes during the run."""
        return self.base in ("lp_ft", "gradual")

    @property
    def restarts(self) -> bool:
        """Whether each phase has the whole schedule of learning rates to itself."""
        return self.base == "lp_ft"

    @property
    def plain(self) -> bool:
        """Whether it is nothing but training everything."""
        return self.base == "full" and self.decay == 1 and not self.l2_sp


#: Steps of self-supervised training where none are said.
SELF_SUPERVISED_STEPS = 500


@cache
def read_self_supervised(text: str) -> tuple[str, int]:
    """Kind and steps of ``none``, ``simclr``, ``reconstruction``, ``mlm``, or ``simclr:STEPS``.

    Raises:
        DomadaptError: it is none of these.
    """
    kind, colon, number = text.partition(":")
    known = ("none", "simclr", "reconstruction", "mlm")
    if kind not in known:
        raise unknown("self-supervised training", kind, known)
    if not colon:
        return kind, 0 if kind == "none" else SELF_SUPERVISED_STEPS
    if kind == "none" or not number.isdecimal() or int(number) < 1:
        raise DomadaptError(
            f"Self-supervised training takes a number of steps after its colon, such as "
            f"simclr:500; got {text!r}."
        )
    return kind, int(number)


def table() -> list[tuple[str, str, str]]:
    """Every part of a strategy as it is said with its default, what it means, and its paper."""
    parts = {**BASES, **MODIFIERS}
    rows = []
    for name, (number, _) in parts.items():
        shown = f"{'+' * (name in MODIFIERS)}{name}{'' if number is None else f':{number:g}'}"
        rows.append((shown, meaning(name), PAPERS.get(name, "")))
    return rows + [(name, meaning(name), PAPERS[name]) for name in RECIPES]


@cache
def read_strategy(text: str) -> Strategy:
    """The strategy of a text: one of `BASES` and any of `MODIFIERS`, joined by ``+``.

    A number after a colon says how much: ``partial:2``, ``lora:4``. Without a base everything
    trains: ``l2_sp`` is ``full+l2_sp``.

    Raises:
        DomadaptError: an unknown part, a number that it cannot have, or parts that exclude
            each other.
    """
    schedule = "slanted" if "ulmfit" in text.split("+") else None
    said = "+".join(RECIPES.get(part, part) for part in text.split("+"))
    base, amount, decay, l2_sp = "", 0.0, 1.0, 0.0
    seen: set[str] = set()
    for part in said.split("+"):
        name, colon, number = part.partition(":")
        if name not in BASES and name not in MODIFIERS:
            raise unknown("fine-tuning strategy", name, [*BASES, *MODIFIERS, *RECIPES])
        if name in seen:
            raise DomadaptError(f"A strategy names each part once; got {text!r}.")
        seen.add(name)
        default = (BASES.get(name) or MODIFIERS[name])[0]
        value = _number(name, number if colon else None, default)
        if name in BASES:
            if base:
                raise DomadaptError(
                    f"A strategy says once what trains; {text!r} says {base} and {name}. Leave out "
                    "one of the two."
                )
            base, amount = name, value
        elif name == "l2_sp":
            l2_sp = value
        else:
            if decay != 1:
                raise DomadaptError(
                    f"discriminative and layer_decay are two ways to say one thing; {text!r} has "
                    "both. Leave out one."
                )
            decay = 1 / value if name == "discriminative" else value
    if l2_sp and base in ("adapters", "lora", "bitfit", "feature_extraction"):
        raise DomadaptError(
            f"l2_sp pulls tuned weights of the backbone to where they began, and {base} keeps "
            "those as they are; leave one of the two out."
        )
    return Strategy(text, base or "full", amount, decay, l2_sp, schedule)


def _number(name: str, given: str | None, default: float | None) -> float:
    if default is None:
        if given is not None:
            raise DomadaptError(f"The strategy {name} takes no number; got {name}:{given}.")
        return 0.0
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if name in _WHOLE:
        fits, wanted = value >= 1 and value == int(value), "a whole number from 1"
    elif name in _SHARES:
        top = value <= 1 if name == "layer_decay" else value < 1
        fits, wanted = value > 0 and top, "a number above 0 and below 1"
    elif name == "discriminative":
        fits, wanted = 1 <= value < math.inf, "a number from 1"
    else:
        fits, wanted = 0 < value < math.inf, "a number above 0"
    if not fits:
        raise DomadaptError(
            f"The strategy {name} needs {wanted} after its colon, such as {name}:{default:g}; got "
            f"{name}:{given}."
        )
    return value
