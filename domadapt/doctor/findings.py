"""What can be wrong with a run, each as a pure function of the evidence.

A finding is said once, in a sentence for a person: what is seen, what it means, what to do. The
thresholds are meant to stay silent where training works: they lie beyond what every registered
method showed at its defaults on the small tasks of the self-test and in 300 steps on the embedded
digits, where a threshold names no other origin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from domadapt.doctor.evidence import Evidence, Telling, Term
from domadapt.doctor.measure import NOTHING

#: Examinations that must agree before something is called a state rather than an accident.
ENOUGH = 3
#: A term whose gradient on the encoder is so many times the source's largest, at `ENOUGH`
#: examinations running, dominates; on the digits no term came above 0.71.
DOMINATING = 100.0
#: The share of classes beyond the first that a target batch must keep of those of the source; on
#: the digits entropy minimisation, which lost accuracy, kept the least, 0.6.
COLLAPSED = 0.2
#: Running standard deviations between the domains' means before a BatchNorm layer. Where both pass
#: as one batch of two halves, 2 is the most that can be, with no variance left within a domain; at
#: 1.7 the domains make up 72 % of it. Late in the runs on the digits the worst layer had 1.15.
APART = 1.7
#: The source loss over that of guessing.
RISEN = 1.2


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of a run.

    Attributes:
        name: of its kind; a run names each kind once.
        sentence: what is seen, what it means, what to do.
        numbers: the evidence.
    """

    name: str
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict)


def _terms(evidence: Evidence) -> Iterable[tuple[str, list[Term]]]:
    """The terms of the latest examination that have a weight, with their course."""
    for name, term in evidence.now.terms.items():
        if term.weight != 0:
            yield name, evidence.course(name)


def _silent(term: Term, floor: float) -> bool:
    """Whether nothing at all learns from the term."""
    return term.encoder <= floor and term.others <= floor


def _floor(evidence: Evidence) -> float:
    return NOTHING * evidence.source


def _steady(course: list[Term]) -> bool:
    """Whether a term has one and the same value other than 0; float32 has seven digits."""
    first = course[0].value
    return first != 0 and all(abs(t.value - first) <= 1e-6 * abs(first) for t in course)


def _vanished(term: Term, floor: float) -> bool:
    scales = term.attached and term.rescaled is not None and term.rescaled > 0.01
    return scales and _silent(term, floor)


def vanished_kernel(evidence: Evidence) -> Finding | None:
    """A term without a gradient that would change if the features had another scale."""
    floor = _floor(evidence)
    for name, course in _terms(evidence):
        recent = course[-ENOUGH:]
        if len(recent) == ENOUGH and all(_vanished(t, floor) and t.value != 0 for t in recent):
            return Finding(
                "vanished_kernel",
                f"The term {name!r} ({recent[-1].value:.3g}) has no gradient at the scale of these "
                "features, though it would change at another scale: its kernel is too narrow or "
                "too wide, and nothing is adapted. Let the bandwidth follow the distances in the "
                "batch (their median), or normalise the features.",
                {"value": recent[-1].value, "rescaled": recent[-1].rescaled or 0.0},
            )
    return None


def constant(evidence: Evidence) -> Finding | None:
    """A term that has no gradient and never changes, as behind a softmax over one output."""
    floor = _floor(evidence)
    for name, course in _terms(evidence):
        if len(course) < ENOUGH or not _steady(course):
            continue
        if all(_silent(t, floor) and not _vanished(t, floor) for t in course):
            return Finding(
                "constant",
                f"The term {name!r} has been {course[-1].value:.6g} at each of {len(course)} "
                "examinations and has no gradient: nothing learns from it. Look for a softmax over "
                "a single output, a detached tensor or a constant in place of a loss.",
                {"value": course[-1].value, "examinations": float(len(course))},
            )
    return None


def inert(evidence: Evidence) -> Finding | None:
    """A weighted term, or all of them together, that the encoder learns nothing from.

    A term computed without gradient is named after `ENOUGH` examinations. Pseudo-labels may wait
    for confident predictions: their term is named when six tenths of the run have passed and it
    was always 0. Another term that is always 0 may have nothing to correct, and is not named. Terms
    that only the method's own modules learn from may belong to a first phase; they are named at the
    end.
    """
    floor = _floor(evidence)
    if evidence.source <= 0:
        return None
    for name, course in _terms(evidence):
        if len(course) < ENOUGH or not all(_silent(t, floor) for t in course):
            continue
        if any(_vanished(t, floor) for t in course[-ENOUGH:]) or _steady(course):
            continue
        cut = all(not t.attached for t in course) and any(t.value != 0 for t in course)
        if cut:
            return Finding(
                "inert",
                f"The term {name!r} has weight {course[-1].weight:.3g} but no gradient: it is "
                "computed under no_grad or from detached tensors, and trains nothing. Compute it "
                "from out.z_s, out.z_t or the logits as they are.",
                {"value": course[-1].value, "weight": course[-1].weight},
            )
        zero = not any(evidence.logged(name)) and all(t.value == 0 for t in course)
        if not zero and all(t.value == 0 for t in course):
            continue
        if evidence.now.progress > 0.59 and (evidence.confident or not zero):
            advice = (
                "No prediction has been confident enough: lower the threshold, or take more steps."
                if zero
                else "Look for detached tensors on its way."
            )
            return Finding(
                "inert",
                f"The term {name!r} has had no gradient so far (its value is "
                f"{course[-1].value:.3g}): nothing has been learnt from it. {advice}",
                {"value": course[-1].value, "weight": course[-1].weight},
            )
    return _only_its_own(evidence, floor)


def _only_its_own(evidence: Evidence, floor: float) -> Finding | None:
    weighted = dict(_terms(evidence))
    if not (evidence.last and weighted and len(evidence.points) >= ENOUGH):
        return None
    if any(t.encoder > floor for course in weighted.values() for t in course):
        return None
    if not any(t.others > floor for course in weighted.values() for t in course):
        return None
    return Finding(
        "inert",
        f"No gradient of {_listed(weighted)} has reached the encoder in the whole run: only the "
        "method's own modules learnt from it, and the features are those of training on the "
        "source. Is the tensor detached on its way, or the coefficient of the reversal 0?",
        {"others": max(t.others for course in weighted.values() for t in course)},
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)


def not_reversed(evidence: Evidence) -> Finding | None:
    """An encoder that helps the discriminator, as where the gradient reversal is missing.

    The sign of a directional derivative (`measure._opposed`), not a matter of degree; so small a
    change that rounding could have turned it does not count. Where both domains have one label the
    sign means nothing.
    """
    if labelled_alike(evidence) is not None:
        return None
    for name, course in _terms(evidence):
        recent = [t for t in course if t.rival is not None][-2:]
        if len(recent) == 2 and all(t.rival is not None and t.rival < -1e-5 for t in recent):
            accuracy = _accuracies(evidence)
            seen = f" (it is right in {accuracy:.0%} of the cases)" if accuracy else ""
            return Finding(
                "not_reversed",
                f"The encoder's gradient of the term {name!r} helps the discriminator to tell the "
                f"domains apart{seen} instead of working against it: the gradient is not reversed, "
                "or twice. Pass the features through ops.reverse_gradient once, with a positive "
                "coefficient.",
                {"rival": recent[-1].rival or 0.0, "reversal": recent[-1].reversal or 0.0},
            )
    return None


def _accuracies(evidence: Evidence) -> float | None:
    found = [t.accuracy for t in evidence.now.tellings.values()]
    return sum(found) / len(found) if found else None


def labelled_alike(evidence: Evidence) -> Finding | None:
    """A discriminator whose training moves the logits of both domains the same way.

    With opposite labels all source logits go up and all target logits down, whatever their
    weights; nine tenths on one side, of both domains, at two examinations leave no doubt.
    """
    for before, point in itertools.pairwise(evidence.points):
        for name, telling in point.tellings.items():
            earlier = before.tellings.get(name)
            if earlier is not None and _alike(earlier) and _alike(telling):
                return Finding(
                    "labelled_alike",
                    f"The discriminator {name!r} is trained to give source and target the same "
                    "answer: both domains have one label, and it cannot tell them apart. Give the "
                    "source label 1 and the target label 0.",
                    {"pull_s": telling.pull_s or 0.0, "pull_t": telling.pull_t or 0.0},
                )
    return None


def _alike(telling: Telling) -> bool:
    return (
        telling.pull_s is not None
        and telling.pull_t is not None
        and telling.pull_s * telling.pull_t > 0.64
    )


def full_weight_at_once(evidence: Evidence) -> Finding | None:
    """A ramp that has its full value at the first step.

    Ramps of weights are asked at both ends of the run; the coefficient of a reversed gradient is
    measured at step 0, where the ramp of Ganin and Lempitsky (2015) is 0.
    """
    for name, term in evidence.now.terms.items():
        if term.ramp is not None and term.ramp[1] != 0:
            first, last = term.ramp
            if 0.9 <= first / last <= 1.1:
                return Finding(
                    "full_weight_at_once",
                    f"The ramp of {name!r} does not rise: its weight is {first:.3g} at the first "
                    f"step and {last:.3g} at the last. Let it be a function of progress, the share "
                    "of the run that is done, from 0 to 1.",
                    {"first": first, "last": last},
                )
    first_point = evidence.points[0]
    if first_point.step > 0:
        return None
    for name, term in first_point.terms.items():
        if term.reversal is not None and term.reversal >= 0.5:
            return Finding(
                "full_weight_at_once",
                f"At the first step the reversed gradient of {name!r} already has the coefficient "
                f"{term.reversal:.2f}, while its discriminator knows nothing yet. Let the "
                "coefficient rise from 0 with progress: ops.ramp(batch.progress).",
                {"reversal": term.reversal},
            )
    return None


def dominating(evidence: Evidence) -> Finding | None:
    """A term whose gradient drowns the source's, as a sum where a mean is due would."""
    if evidence.source <= 0:
        return None
    for name, course in _terms(evidence):
        ratios = [t.encoder / evidence.source for t in course[-ENOUGH:]]
        if len(ratios) < ENOUGH or not all(r > DOMINATING for r in ratios):
            continue
        # The first one found: later the features may have shrunk under the term's own weight.
        growth = next((t.growth for t in course if t.growth is not None), None)
        grows = growth is not None and growth > 1.5
        why = (
            f"It is {growth:.1f} times as large on a batch as on half of it: divide it by the "
            "batch size."
            if grows
            else "Lower its weight, or divide it by what it sums over."
        )
        return Finding(
            "dominating",
            f"The gradient of {name!r} on the encoder is {min(ratios):,.0f} times the largest of "
            f"the source loss: the task itself is hardly learnt. {why}",
            {"ratio": min(ratios), "growth": math.nan if growth is None else growth},
        )
    return None


def unbounded(evidence: Evidence) -> Finding | None:
    """A weight or coefficient that keeps doubling.

    The steepest of the usual ramps, a cube of progress, less than doubles at every examination
    from the fifth on, and is 125 times its first value by then; an exponential does not slow down.
    """
    for name, course in _terms(evidence):
        for what, values in (
            ("weight", [abs(t.weight) for t in course]),
            (
                "coefficient of the reversed gradient",
                [abs(t.reversal) for t in course if t.reversal],
            ),
        ):
            recent = values[-(ENOUGH + 1) :]
            steps = list(itertools.pairwise(recent))
            if len(recent) > ENOUGH and all(a > 0 and b >= 2 * a for a, b in steps):
                if recent[-1] < 100 * values[0]:
                    continue
                return Finding(
                    "unbounded",
                    f"The {what} of {name!r} has grown from {values[0]:.3g} to {recent[-1]:.3g} "
                    "and goes on doubling: it will outweigh everything else. Use a ramp that ends "
                    "at 1, such as ops.ramp.",
                    {"first": values[0], "now": recent[-1]},
                )
    return None


def forgotten_parameter(evidence: Evidence) -> Finding | None:
    """A parameter that gets a gradient and is in no group of the optimiser."""
    names = evidence.now.orphans
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Finding(
        "forgotten_parameter",
        f"{names[0]}{more} gets a gradient, but no optimiser moves it. Make it in __init__ or "
        "setup, as an attribute of the method that is a module or a parameter.",
        {"parameters": float(len(names))},
    )


def forgetful_optimizer(evidence: Evidence) -> Finding | None:
    """An optimiser whose state is made anew at each step; a few skipped steps are allowed."""
    now = evidence.now
    if now.age is None or len(evidence.points) < 2 or now.step < 5 or now.age > 1:
        return None
    return Finding(
        "forgetful_optimizer",
        f"At step {now.step} the optimiser remembers {now.age:.0f} steps: its state is made anew, "
        "and momentum and step sizes are lost. Make the optimiser once, before the first step.",
        {"step": float(now.step), "age": now.age},
    )


def global_random_numbers(evidence: Evidence) -> Finding | None:
    """Draws from NumPy's global generator, which the run's seed does not govern."""
    if not evidence.now.numpy_moved:
        return None
    return Finding(
        "global_random_numbers",
        "During training random numbers were drawn from NumPy's global generator, which the seed "
        "of the run does not set: two runs with one seed will differ. Draw from torch, or from a "
        "generator of your own that is made from the seed.",
    )


def collapse(evidence: Evidence) -> Finding | None:
    """A target that is predicted to be of one class, or few, while the source is not.

    ``(target - 1) / (source - 1)``, of effective classes: 1 where the target is as varied as the
    source, 0 where it is of a single class.
    """
    recent = [p for p in evidence.points if p.progress > 0.15][-2:]
    if len(recent) < 2:
        return None
    for p in recent:
        # Without source samples the number of classes is the measure.
        most = p.classes_s if p.classes_s is not None else float(p.n_classes)
        if p.classes_t is None or most < 1.5 or (p.classes_t - 1) / (most - 1) > COLLAPSED:
            return None
    now = recent[-1]
    assert now.classes_t is not None
    most = now.classes_s if now.classes_s is not None else float(now.n_classes)
    return Finding(
        "collapse",
        f"On the target batch {now.classes_t:.1f} classes are predicted in effect, against "
        f"{most:.1f} on the source: the predictions have collapsed. Unless the target really has "
        "so few classes, lower the weight of the adaptation terms or the learning rate.",
        {"target": now.classes_t, "source": most},
    )


def batchnorm_apart(evidence: Evidence) -> Finding | None:
    """Domains whose means lie far apart before a BatchNorm layer, late in the run.

    One normalisation then serves neither: its running statistics describe a mixture that no
    sample comes from.
    """
    late = [p for p in evidence.points if p.progress > 0.45][-2:]
    worst = [p.worst_gap for p in late]
    if len(worst) < 2 or any(w is None or w[1] < APART for w in worst) or worst[-1] is None:
        return None
    layer, gap = worst[-1]
    return Finding(
        "batchnorm_apart",
        f"Before the BatchNorm layer {layer!r} the means of source and target lie {gap:.1f} "
        "standard deviations apart: its running statistics fit neither domain. Try "
        "adabn after training, or a network without BatchNorm.",
        {"gap": gap},
    )


def rate_too_high(evidence: Evidence) -> Finding | None:
    """A source loss that explodes, stays at that of guessing or above, or bounces about it.

    The yardstick is the loss of a network that knows nothing, ``log(classes)`` (of a regression 1),
    or the loss at the start of the run where that is higher. A loss that rises below it need not be
    wrong: adaptation may cost some accuracy on the source, and small batches scatter.
    """
    curve = [v for v in evidence.logged("source") if math.isfinite(v)]
    if len(curve) < 6:
        return None
    start, guess, recent = curve[0], evidence.guess, curve[-3:]
    level = sum(recent) / 3
    advice = (
        f"Lower the learning rate (now {evidence.lr:.2g}) or the weight of the adaptation terms, "
        "or set clip=1."
    )
    numbers = {"start": start, "guess": guess, "now": level}
    if recent[-1] > 100 * max(start, guess) and recent[0] < recent[1] < recent[2]:
        return Finding(
            "rate_too_high",
            f"The source loss explodes: it began at {start:.3g} and is {recent[-1]:.3g} now; NaN "
            f"is near. {advice}",
            numbers,
        )
    if min(recent) > RISEN * max(start, guess):
        return Finding(
            "rate_too_high",
            f"The source loss began at {start:.3g} and is {level:.3g}, above that of guessing "
            f"({guess:.3g}): training goes the wrong way. {advice}",
            numbers,
        )
    window = curve[-8:]
    late = evidence.now.progress > 0.45 and evidence.now.step >= 80
    if late and min(window) > 0.9 * guess and level > 0.95 * sum(window[:3]) / 3:
        share = evidence.now.share
        cause = (
            f"Adaptation makes up {share:.0%} of the encoder's gradient: lower its weight."
            if share > 0.9
            else f"Change the learning rate (now {evidence.lr:.2g}), which is more often too high "
            "than too low."
        )
        return Finding(
            "rate_too_high",
            f"The source loss is {level:.3g}, still about that of guessing ({guess:.3g}), and does "
            f"not fall: nothing is learnt. {cause}",
            numbers | {"share": share},
        )
    jumps = sum(
        max(a, b) > 2 * min(a, b) and max(a, b) > guess for a, b in itertools.pairwise(window)
    )
    if len(window) == 8 and jumps >= 3:
        return Finding(
            "rate_too_high",
            f"The source loss bounces between {min(window):.3g} and {max(window):.3g}, which is "
            f"that of guessing or worse: steps are too long. {advice}",
            numbers | {"jumps": float(jumps)},
        )
    return None


def alignment(accuracy: float, a_distance: float) -> str:
    """What a discriminator's last accuracy says beside the proxy A-distance of the features.

    The distance (0 to 2) is that of a classifier trained afterwards, on features that hold still;
    1 is an accuracy of 0.75.
    """
    told = f"its discriminator ended with an accuracy of {accuracy:.2f}"
    fresh = f"the proxy A-distance is {a_distance:.2f}"
    if accuracy < 0.6 and a_distance > 1:
        return (
            f"{told}, which is near chance, but {fresh} of 2: a fresh classifier still tells the "
            "domains apart, so the discriminator was outrun rather than the features aligned."
        )
    if accuracy > 0.9 and a_distance > 1:
        return f"{told}, and {fresh} of 2: the domains can still be told apart."
    if a_distance <= 1:
        return f"{told}, and {fresh} of 2: the domains' features have come near to each other."
    return f"{told}, and {fresh} of 2."


#: All of them; the more particular stand before the more general.
FINDINGS: tuple[Callable[[Evidence], Finding | None], ...] = (
    vanished_kernel,
    constant,
    inert,
    not_reversed,
    labelled_alike,
    full_weight_at_once,
    dominating,
    unbounded,
    forgotten_parameter,
    forgetful_optimizer,
    global_random_numbers,
    collapse,
    batchnorm_apart,
    rate_too_high,
)
