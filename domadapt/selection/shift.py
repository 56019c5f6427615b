"""How the target's classes differ from the source's: other shares, missing ones, unknown ones.

Read from predictions and features, without target labels. Each finding is cautious: it is made
where the source-only and the chosen model point the same way, since a class that one of them
mistakes for another looks like a shift to that one alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.losses.label_shift import bbse_weights, confusion_matrix
from domadapt.selection.calibration import class_shares, fit_temperature
from domadapt.selection.estimates import estimate_accuracy
from domadapt.selection.evidence import Evidence

Kind = Literal["label shift", "missing classes", "unknown samples"]

#: The least total variation distance of class shares, beyond sampling error, called a label shift.
LEAST_SHIFT = 0.15
#: The source-only model must confirm at least this part of a change of a class's share.
CONFIRMED = 0.5
#: A class is missing where the chosen model predicts less than this part of its source share, and
#: the source-only model less than that one.
MISSING, MISSING_BEFORE = 0.2, 0.6
#: The fewest samples of a class that the source's shares must let expect before it can be missed.
EXPECTED = 8
#: One class that takes up more than this part of what others lose is a confusion, not a shift.
SWALLOWED = 0.6
#: A target sample is far from the source where its distance is above this quantile of those of
#: source validation. Nothing is said of unknown samples unless the median one is nearer than the
#: second quantile: the shift of the known classes must be bridged first.
FAR, BRIDGED = 0.99, 0.9
#: Source neighbours whose mean cosine distance is the distance of a sample.
NEIGHBOURS = 5
#: The least share of samples that are far and disputed which is called unknown; up to 0.093 occur
#: on closed sets of the digits and HAR.
LEAST_UNKNOWN = 0.15
#: The most source training samples to which distances are taken.
MOST = 2_000
#: Draws of the bootstrap that gives the sampling error.
DRAWS = 100


@dataclass(frozen=True)
class Finding:
    """A difference between the classes of source and target.

    Attributes:
        kind: which one.
        sentence: what was found and what to do, in words.
        method: the method to try (``--method``), where one is made for it.
        numbers: what it rests on, by name.
    """

    kind: Kind
    sentence: str
    method: str
    numbers: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as a `Report` keeps it."""
        return dataclasses.asdict(self)


def target_shares(evidence: Evidence) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Class shares of the target by black-box shift estimation, and their standard errors.

    ``share_c = w_c prior_c`` with `bbse_weights` w from the decisions on source validation and on
    the target. The error is the standard deviation over bootstrap draws of both samples; it does
    not cover that the network may err otherwise on the target than on the source.

    Source: Lipton et al. (2018), arXiv:1802.03916.

    Raises:
        DomadaptError: no labelled source validation.
    """
    held = evidence.source_val
    if held is None or held.y is None:
        raise DomadaptError(
            "Class shares of the target need labelled source validation samples; there are none."
        )
    classes = evidence.classes
    hard_v = torch.nn.functional.one_hot(held.logits.argmax(1), classes).double()
    said = evidence.target.logits.argmax(1)

    def shares(rows_v: Tensor, rows_t: Tensor) -> Tensor:
        assert held is not None
        assert held.y is not None
        joint = confusion_matrix(hard_v[rows_v], held.y[rows_v])
        predicted = torch.bincount(said[rows_t], minlength=classes).double() / len(rows_t)
        # A class that the split lacks keeps its predictions: nothing says whom they belong to.
        found = bbse_weights(joint, predicted) * joint.sum(0)
        lacking = joint.sum(0) == 0
        found[lacking] = predicted[lacking]
        return found / found.sum()

    n_v, n_t = len(hard_v), len(said)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [
            shares(
                torch.randint(n_v, (n_v,), generator=draw),
                torch.randint(n_t, (n_t,), generator=draw),
            )
            for _ in range(DRAWS)
        ]
    )
    return shares(torch.arange(n_v), torch.arange(n_t)), drawn.std(0)


def detect_shift(baseline: Evidence, chosen: Evidence, class_names: Sequence[str]) -> list[Finding]:
    """What the classes of the target have otherwise than those of the source; empty if nothing.

    Missing classes: the chosen model predicts a class hardly ever (less than `MISSING` of its
    source share) and the source-only model seldom, and what it loses is spread over the other
    classes. Label shift: class shares (`target_shares`) of both models differ from the source's in
    the same direction (`common_shift`), by a total variation distance of `LEAST_SHIFT` beyond
    sampling error. Where the source-only model is the chosen one nobody confirms it, and the
    distance must be larger than its estimated error as well. Unknown samples: see `unknown_share`.

    Nothing is said without labelled source validation, or where the outputs are not the classes.

    Args:
        baseline: the evidence on source_only.
        chosen: the evidence on the chosen candidate, which may be the same.
        class_names: the source's classes in order.
    """
    held = chosen.source_val
    if held is None or held.y is None or baseline.source_val is None:
        return []
    if not chosen.classes == baseline.classes == len(class_names) or len(class_names) < 2:
        return []
    y = [o.y for o in (held, chosen.source_train) if o is not None and o.y is not None]
    prior = class_shares(torch.cat(y), chosen.classes)
    now, error = target_shares(chosen)
    before = now if baseline.name == chosen.name else target_shares(baseline)[0]
    missing = missing_classes(now, before, prior, len(chosen.target.logits))
    found = []
    if bool(missing.any()):
        found.append(_missing(missing, now, prior, class_names))
    kept = ~missing
    shift = common_shift(_within(now, kept), _within(before, kept), _within(prior, kept), error)
    distance = 0.5 * float(shift.abs().sum())
    if distance >= _least(baseline, chosen) and not swallowed(shift):
        found.append(_shifted(distance, shift, now, prior, class_names))
    # An adapted model may have drawn unknown samples into known classes, so both are asked.
    shares = [unknown_share(baseline, model) for model in (baseline, chosen)]
    strange = max((share for share in shares if share is not None), default=0.0)
    if strange >= LEAST_UNKNOWN:
        found.append(_unknown(strange))
    return found


def unknown_share(baseline: Evidence, chosen: Evidence) -> float | None:
    """The share of target samples that are far from all source samples, and disputed.

    Distance is one less the mean cosine to the five nearest source training samples, in the chosen
    model's features; far is beyond the 99 % quantile of source validation. Disputed is what the
    source-only model calls otherwise, or, where it is the chosen one, is less than half sure of.

    None where it cannot be told: without source samples, or where more than half of the target is
    farther than the 90 % quantile of source validation. There the shift of the known classes
    itself explains the distance. Samples of unknown classes that the model has drawn into a known
    one are not counted: the share is a lower bound.
    """
    trained, held = chosen.source_train, chosen.source_val
    if trained is None or held is None:
        return None
    reference = torch.nn.functional.normalize(trained.z[:MOST].float(), dim=1)
    k = min(NEIGHBOURS, len(reference))

    def distance(z: Tensor) -> Tensor:
        near = torch.nn.functional.normalize(z.float(), dim=1) @ reference.T
        return 1 - near.topk(k, 1).values.mean(1)

    usual, seen = distance(held.z), distance(chosen.target.z)
    if float(seen.median()) > float(usual.quantile(BRIDGED)):
        return None
    rows = chosen.target.rows
    said, before = (
        (o.target.logits[: len(seen)] if rows is None else o.target.logits[rows])
        for o in (chosen, baseline)
    )
    disputed = said.argmax(1) != before.argmax(1)
    if baseline.name == chosen.name:
        assert held.y is not None
        temperature = fit_temperature(held.logits, held.y)
        disputed = (said.double() / temperature).softmax(1).amax(1) < 0.5
    return float(((seen > usual.quantile(FAR)) & disputed).double().mean())


def _least(baseline: Evidence, chosen: Evidence) -> float:
    """The least distance of class shares that is called a label shift."""
    if baseline.name != chosen.name:
        return LEAST_SHIFT
    accuracy = estimate_accuracy(chosen, baseline).accuracy
    return max(LEAST_SHIFT, 1.0 - (accuracy or 0.0))


def missing_classes(
    now: Float[Tensor, " c"], before: Float[Tensor, " c"], prior: Float[Tensor, " c"], n: int
) -> Bool[Tensor, " c"]:
    """Which classes the target seems to lack.

    Args:
        now: class shares of the target by the chosen model.
        before: the same by the source-only model.
        prior: class shares of the source.
        n: how many target samples there are.
    """
    missing = (now < MISSING * prior) & (before < MISSING_BEFORE * prior) & (n * prior >= EXPECTED)
    lost = float(prior[missing].sum())
    if not bool(missing.any()) or bool(missing.all()):
        return torch.zeros_like(missing)
    # Were they missing, the others would all be more frequent by the same factor.
    surplus = (now - prior / (1 - lost))[~missing]
    swallows = len(surplus) > 1 and float(surplus.max()) > SWALLOWED * lost
    return missing & (not swallows)


def common_shift(
    now: Float[Tensor, " c"],
    before: Float[Tensor, " c"],
    prior: Float[Tensor, " c"],
    error: Float[Tensor, " c"],
) -> Float[Tensor, " c"]:
    """What both models say of how each class's share differs from the source's.

    Zero where they differ in direction; else the chosen model's difference, at most twice that of
    the source-only model (``1 / CONFIRMED``), which is the worse of the two on the target; and
    that less two standard errors.
    """
    a, b = now - prior, before - prior
    least = torch.where(a * b > 0, torch.minimum(a.abs(), b.abs() / CONFIRMED), 0.0)
    return a.sign() * (least - 2 * error).clamp_min(0.0)


def swallowed(shift: Float[Tensor, " c"]) -> bool:
    """Whether one class gains most of what one other loses, of more than two classes."""
    gained, lost = shift.clamp_min(0.0), (-shift).clamp_min(0.0)
    if len(shift) < 3 or not float(gained.sum()) > 0 or not float(lost.sum()) > 0:
        return False
    most = min(float(gained.max() / gained.sum()), float(lost.max() / lost.sum()))
    return most > SWALLOWED


def _within(shares: Tensor, kept: Tensor) -> Tensor:
    """Shares among the kept classes; 0 for the others."""
    rest = torch.where(kept, shares, 0.0)
    return rest / rest.sum()


def _missing(missing: Tensor, now: Tensor, prior: Tensor, names: Sequence[str]) -> Finding:
    which = missing.nonzero().flatten().tolist()
    named = _listed([names[i] for i in which])
    some = len(which) > 1
    return Finding(
        "missing classes",
        f"The target seems to lack {len(which)} of {len(names)} classes of the source ({named}): "
        f"{'they make' if some else 'it makes'} up {100 * float(prior[which].sum()):.0f} % of the "
        f"source and {100 * float(now[which].sum()):.1f} % of what is predicted there. If "
        f"{'they are' if some else 'it is'} absent, try --method pada or iwan, which weigh such "
        "classes down.",
        "pada",
        {
            "classes": float(len(which)),
            "share_source": float(prior[which].sum()),
            "share_target": float(now[which].sum()),
        },
    )


def _shifted(
    distance: float, shift: Tensor, now: Tensor, prior: Tensor, names: Sequence[str]
) -> Finding:
    changes = [
        f"{names[i]} ({100 * float(prior[i]):.0f} % in the source, about "
        f"{100 * float(now[i]):.0f} % in the target)"
        for i in shift.abs().argsort(descending=True)[:3].tolist()
        if float(shift[i].abs()) > 0
    ]
    return Finding(
        "label shift",
        f"The classes are not as frequent in the target as in the source: {_listed(changes)}. At "
        f"least {100 * distance:.0f} % of the samples would have to change class to make them "
        "alike. Try --method bbse, which corrects for it, and be wary of methods that balance "
        "their predictions (infomax, shot).",
        "bbse",
        {
            "distance": distance,
            **{f"share of {c}": float(s) for c, s in zip(names, now, strict=True)},
        },
    )


def _unknown(share: float) -> Finding:
    return Finding(
        "unknown samples",
        f"At least {100 * share:.0f} % of the target samples are unlike any source sample and "
        "their class is in doubt, while most of the target lies close to the source: they may be "
        "of classes that the source lacks. If so, use --extra-classes unknown with --method "
        "ovanet or osbp.",
        "ovanet",
        {"share": share},
    )


def _listed(items: Sequence[str], most: int = 6) -> str:
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
