"""The verdict by evidence made by hand: what is chosen, what is set aside, and how it is said."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bnm_office_home import BASELINE, NAMES, run
from torch import Tensor

from domadapt import Task
from domadapt.evaluation import Outputs
from domadapt.selection import verdict
from domadapt.selection.choice import RULE, choose
from domadapt.selection.estimates import Estimate, estimate_accuracy
from domadapt.selection.evidence import Evidence, together
from domadapt.selection.guard import guard
from domadapt.selection.verdict import in_words, judge

CLASSES, N = 4, 200
WORDS = ["ant", "bee", "cat", "dog"]
CENTRES = 4.0 * torch.eye(CLASSES, 6)


def candidate(
    name: str,
    right: float,
    seed: int,
    margin: float = 4.0,
    shares: list[float] | None = None,
    source: float = 0.95,
    **more: bool,
) -> Evidence:
    """A network that says the class of a sample with this chance, or else any other one."""
    draw = np.random.default_rng(seed)
    y = np.arange(N) % CLASSES if shares is None else draw.choice(CLASSES, N, p=shares)

    def says(truth: np.ndarray, chance: float) -> Outputs:
        wrong = (truth + draw.integers(1, CLASSES, len(truth))) % CLASSES
        said = torch.from_numpy(np.where(draw.random(len(truth)) < chance, truth, wrong))
        z = CENTRES[said] + torch.from_numpy(draw.normal(0, 0.3, (len(truth), 6))).float()
        logits = margin * torch.nn.functional.one_hot(said, CLASSES).float()
        return Outputs(logits + 0.1 * z[:, :CLASSES], z)

    labels = np.arange(120) % CLASSES
    held = replace(says(labels, source), y=torch.from_numpy(labels))
    return Evidence(name, says(y, right), held, held, **more)


BEFORE = candidate("source_only", 0.7, 0, 2.0)


def collapsed(name: str = "entropy") -> Evidence:
    one = torch.zeros(N, CLASSES)
    one[:, 2] = 20.0
    return replace(candidate(name, 0.9, 9), target=Outputs(one, torch.randn(N, 6)))


def verdict_of(*candidates: Evidence, **stopped: str):
    return judge(together(list(candidates)), "source_only", WORDS, stopped)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks made by hand know no features, from which estimates could be told: none counts."""
    monkeypatch.setattr(verdict, "LOWER", 1.0)


# Which one -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lenient")
def test_a_better_candidate_is_chosen_and_said_so() -> None:
    good = candidate("mcc", 0.9, 1)
    found = verdict_of(BEFORE, good)
    assert found.chosen == "mcc"
    assert (found.baseline, found.rule) == ("source_only", RULE)
    after, before = found.estimates["mcc"], found.estimates["source_only"]
    assert found.sentence.startswith(
        f"Use the adapted model (mcc): estimated target accuracy {in_words(after)}, against "
        f"{in_words(before)} of the source-only model."
    )
    assert after.accuracy is not None
    assert before.accuracy is not None
    alike = after.accuracy <= before.accuracy + 0.01
    assert ("do not tell them apart" in found.sentence) == alike
    assert found.because[0].startswith("mcc still decides like source_only")
    assert "% of its confidence" in found.because[0]
    assert (
        found.because[1]
        == "Nothing speaks against it; source_only alone remains to compare it with."
    )
    assert found.set_aside == {}


@pytest.mark.parametrize(("after", "chosen"), [(0.9, "mcc"), (0.66, "mcc"), (0.6, "source_only")])
def test_the_only_adapted_one_must_not_be_expected_to_be_worse(
    monkeypatch: pytest.MonkeyPatch, after: float, chosen: str
) -> None:
    expected = {"source_only": 0.7, "mcc": after, "dan": 0.2}

    def known(evidence: Evidence, *_: object) -> Estimate:
        value = expected[evidence.name]
        return Estimate(value, value - 0.1, value + 0.1)

    monkeypatch.setattr(verdict, "estimate_accuracy", known)
    found = verdict_of(BEFORE, candidate("mcc", 0.9, 1))
    assert found.chosen == next(iter(found.ranking)) == chosen
    if chosen == "source_only":
        assert found.sentence.startswith("Keep the source-only model")
        assert found.because[0].startswith("mcc is expected to be right on 60 % of the target")
    # With others to ask, the rule decides.
    several = verdict_of(BEFORE, candidate("mcc", 0.9, 1), candidate("dan", 0.85, 2))
    assert several.chosen == "mcc"


def test_disagreement_on_how_frequent_the_classes_are_is_a_caution() -> None:
    many = [0.85, 0.05, 0.05, 0.05]
    before = candidate("source_only", 0.9, 0, 4.0, many)
    even = candidate("mcc", 0.9, 1)
    other = candidate("dan", 0.85, 2)
    assert "disagree" not in " ".join(verdict_of(BEFORE, even, other).because)
    assert verdict._frequencies(before, before, WORDS) == []
    assert "ant: " in verdict._frequencies(before, even, WORDS)[0]


def test_a_collapsed_one_leaves_the_source_only_model() -> None:
    found = verdict_of(BEFORE, collapsed())
    assert found.chosen == "source_only"
    assert found.sentence == (
        "Keep the source-only model: no adapted candidate is safely better. Its estimated target "
        f"accuracy is {in_words(found.estimates['source_only'])}."
    )
    assert list(found.ranking) == ["source_only"]
    reasons = found.set_aside["entropy"]
    assert reasons[0].startswith("its predictions fall into 1.0 classes in effect")
    assert found.because == [f"entropy was set aside: {'; '.join(reasons)}."]
    assert found.estimates["entropy"].accuracy is None
    assert "broken" in found.estimates["entropy"].refused


@pytest.mark.usefixtures("lenient")
def test_nan_and_a_lost_source_are_set_aside_with_their_reason() -> None:
    nan = candidate("dann", 0.9, 2)
    nan.target.logits[3, 1] = math.nan
    lost = candidate("mcc", 0.9, 3, source=0.5)
    good = candidate("shot", 0.9, 4, source=0.5, trains_on_source=False)
    found = verdict_of(BEFORE, nan, lost, good)
    assert found.set_aside["dann"] == ["some of its outputs are NaN or infinite"]
    assert "points of accuracy on the source's validation samples" in found.set_aside["mcc"][0]
    assert found.chosen == "shot"
    for name, reasons in found.set_aside.items():
        assert f"{name} was set aside: {'; '.join(reasons)}." in found.because


def test_what_was_stopped_is_set_aside_first_for_that() -> None:
    sound, good = candidate("mcc", 0.9, 1), candidate("dan", 0.85, 2)
    assert "mcc" not in verdict_of(BEFORE, sound, good).set_aside
    found = verdict_of(BEFORE, sound, good, mcc="it predicted 1.0 classes")
    assert found.set_aside["mcc"] == ["its training was stopped early: it predicted 1.0 classes"]
    found = verdict_of(BEFORE, collapsed("mcc"), good, mcc="it predicted 1.0 classes")
    assert len(found.set_aside["mcc"]) > 1
    # An empty reason is none.
    assert "mcc" not in verdict_of(BEFORE, sound, good, mcc="").set_aside


def test_what_contradicts_the_baseline_is_set_aside_by_the_rule() -> None:
    shuffled = candidate("infomax", 0.95, 5)
    order = torch.tensor([1, 2, 3, 0])
    moved = Outputs(shuffled.target.logits[:, order], shuffled.target.z)
    found = verdict_of(BEFORE, replace(shuffled, target=moved))
    assert found.chosen == "source_only"
    assert found.set_aside["infomax"][0].startswith("it contradicts ")


def test_the_baseline_is_kept_however_bad_it_is() -> None:
    poor = replace(
        collapsed("source_only"), source_val=candidate("x", 0.5, 6, source=0.3).source_val
    )
    found = verdict_of(poor, collapsed("entropy"))
    assert "source_only" not in found.set_aside
    assert found.chosen in ("source_only", "entropy")
    alone = verdict_of(poor)
    assert alone.chosen == "source_only"
    assert alone.sentence.startswith("Only source_only was trained; its estimated target accuracy")


def test_several_are_ranked_as_the_rule_ranks_them() -> None:
    given = [BEFORE, *(candidate(n, 0.9, 10 + i) for i, n in enumerate(("dan", "mcc", "shot")))]
    given.append(collapsed())
    found = verdict_of(*given)
    told = together(given)
    by_rule = choose([e for e in told if e.name != "entropy"], "source_only")
    assert found.ranking == by_rule.ranking
    assert found.chosen == next(iter(by_rule.ranking))
    assert list(found.set_aside) == ["entropy"]
    first, second = list(by_rule.ranking.items())[:2]
    assert f"score {first[1]:.2f}, next {second[0]} with {second[1]:.2f}." in " ".join(
        found.because
    )
    # Each estimate is that of the candidate beside all others.
    for e in told:
        assert found.estimates[e.name] == estimate_accuracy(e, told[0], told)


def test_the_order_in_which_they_are_given_decides_nothing() -> None:
    given = [BEFORE, *(candidate(n, 0.9, 10 + i) for i, n in enumerate(("dan", "mcc", "shot")))]
    found = verdict_of(*given)
    draw = np.random.default_rng(0)
    for _ in range(4):
        again = verdict_of(*(given[i] for i in draw.permutation(len(given))))
        assert again.chosen == found.chosen
        assert list(again.ranking) == list(found.ranking)
        assert again.sentence == found.sentence


# In words and as data --------------------------------------------------------------------------


def test_an_estimate_in_words() -> None:
    assert in_words(Estimate(0.876, 0.804, 0.931)) == "about 88 % (90 % interval 80 to 93 %)"
    assert in_words(Estimate(None, None, None, {}, "why")) == "unknown"
    assert in_words(None) == "unknown"


def test_an_unknown_accuracy_is_said_with_its_reason() -> None:
    free = [
        replace(e, source_val=None, source_train=None) for e in (BEFORE, candidate("shot", 0.9, 1))
    ]
    found = verdict_of(*free)
    assert found.chosen == "shot"
    assert found.sentence.startswith(
        "Use the adapted model (shot). Its target accuracy is not known: Without labelled source"
    )


@pytest.mark.usefixtures("lenient")
def test_it_is_plain_data() -> None:
    found = verdict_of(BEFORE, candidate("mcc", 0.9, 1), collapsed())
    held = found.to_dict()
    assert json.loads(json.dumps(held)) == held
    assert held["chosen"] == "mcc"
    assert held["estimates"]["mcc"]["accuracy"] == found.estimates["mcc"].accuracy
    shifted = replace(found, prior_t=torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert json.loads(json.dumps(shifted.to_dict()))["prior_t"] == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.usefixtures("lenient")
def test_a_label_shift_is_found_and_its_shares_are_kept() -> None:
    shares = [0.7, 0.1, 0.1, 0.1]
    before, after = (
        candidate("source_only", 0.85, 0, 2.0, shares),
        candidate("mcc", 0.95, 0, 4.0, shares),
    )
    found = verdict_of(before, after)
    assert "label shift" in [f.kind for f in found.findings]
    assert any("ant" in f.sentence for f in found.findings)
    assert found.prior_t is not None
    assert float(found.prior_t.sum()) == pytest.approx(1)
    assert found.prior_t.tolist() == pytest.approx(shares, abs=0.1)
    assert verdict_of(BEFORE, candidate("mcc", 0.9, 1)).prior_t is None


# The firewall, and the recorded case -----------------------------------------------------------


@pytest.mark.usefixtures("lenient")
def test_judging_cannot_reach_target_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Task) -> Tensor:
        raise AssertionError("target labels were asked for")

    monkeypatch.setattr(Task, "_labels_for_evaluate", never)
    monkeypatch.setattr(Task, "oracle", never)
    assert verdict_of(BEFORE, candidate("mcc", 0.9, 1)).chosen == "mcc"


def test_the_weight_of_bnm() -> None:
    """As in test_choice: confidence takes the last weight, the verdict one of the best three."""
    y, given = run(seed=4)
    assert not any(guard(e, given[0]) for e in given)
    found = judge(given, BASELINE, [str(c) for c in range(65)])
    accuracy = {e.name: float((e.target.logits.argmax(1) == y).double().mean()) for e in given}
    assert found.chosen in NAMES[3:6]
    assert found.chosen in sorted(accuracy, key=accuracy.__getitem__)[-3:]
    assert max(given, key=lambda e: float(e.p.amax(1).mean())).name == NAMES[-1]
