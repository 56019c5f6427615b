"""What a reader of a run must not miss, in sentences."""

from __future__ import annotations

from domadapt.adaptation.measure import Measured
from domadapt.evaluation import gain_interval
from domadapt.methods import is_source_free, method_class, method_names, method_parts
from domadapt.open_set import BelowThreshold, rule_of
from domadapt.runs.candidate import Trained
from domadapt.task import Task


def _unlearnt(method: str) -> str:
    """What a loss on the source's own samples may mean."""
    if any(method_class(part).closed_form for part in method_parts(method)):
        return "it learnt from source samples fitted to the target; these are as they were."
    return "it may have unlearnt the task."


def _value_warnings(before: Measured, after: Measured, task: Task) -> list[str]:
    """Those of `warnings_of` that compare both models, for a regression."""
    said = []
    name = after.candidate.name
    errors = [m.candidate.label_free.get("source_val_mae", 0.0) for m in (before, after)]
    if errors[1] > 1.25 * errors[0]:
        said.append(
            f"{name}'s mean absolute error on the source's validation samples is {errors[1]:.4g}, "
            f"source_only's {errors[0]:.4g}: {_unlearnt(after.candidate.method)}"
        )
    spread = [m.predictions["target_test"].std(0) for m in (before, after)]
    share = float((spread[1] / spread[0].clamp_min(1e-30)).min())
    if share < 0.5:
        said.append(
            f"{name}'s predictions on the target vary by only {100 * share:.0f} % of what "
            "source_only's vary by: it may have collapsed to one value."
        )
    interval = gain_interval(
        task, before.predictions["target_test"], after.predictions["target_test"]
    )
    if interval is not None and interval[0] <= 0 <= interval[1]:
        said.append(
            f"The difference between source_only and {name} is within chance: on these "
            f"{len(task.target_test)} samples the 95 % interval of what the mean absolute error "
            f"lost reaches from {interval[0]:+.3g} to {interval[1]:+.3g}."
        )
    return said


def warnings_of(
    trained: list[Trained], measured: list[Measured], task: Task, shown: str
) -> list[str]:
    """What a reader must not miss of source_only and of the adapted candidate `shown`."""
    place = [t.name for t in trained].index(shown)
    of = trained[place]
    seen = trained if place == 0 else [trained[0], of]
    said = [f"{t.name}: {sentence}" for t in seen for sentence in t.warnings]
    first, last = measured[0], measured[place]
    before, after = first.candidate.label_free, last.candidate.label_free
    name = of.name
    if place and task.regression:
        said += _value_warnings(first, last, task)
    elif place:
        drop = before.get("source_val_accuracy", 0.0) - after.get("source_val_accuracy", 0.0)
        # A source-free method's network is the target's; the source is behind it.
        if drop > 0.05 and not is_source_free(of.method):
            said.append(
                f"{name} lost {100 * drop:.0f} points of accuracy on the source's validation "
                f"samples: {_unlearnt(of.method)}"
            )
        if after["effective_classes"] < 0.5 * before["effective_classes"]:
            said.append(
                f"{name} predicts {after['effective_classes']:.1f} classes in effect, source_only "
                f"{before['effective_classes']:.1f}: it may have collapsed."
            )
        interval = gain_interval(
            task, first.predictions["target_test"], last.predictions["target_test"]
        )
        if interval is not None and interval[0] <= 0 <= interval[1]:
            said.append(
                f"The difference between source_only and {name} is within chance: on these "
                f"{len(task.target_test)} samples its 95 % interval reaches from "
                f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} points."
            )
    if of.trains_on_confidence:
        said.append(
            f"{name} trains on its own confidence: high probabilities say little about how often "
            "it is right."
        )
        if isinstance(rule_of(of.network), BelowThreshold):
            made = [n for n in method_names() if method_class(n).setting == "open set"]
            said.append(
                f"{name} becomes sure of nearly every sample, so that few fall below the threshold "
                f"and are called unknown. Made for unknown classes: {', '.join(made)}."
            )
    if not task.has_test_labels:
        said.append(
            "The target has no labels: whether adapting helped cannot be measured here. Label a "
            "few dozen random target samples and give them as --target-test."
        )
    return said
