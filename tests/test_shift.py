"""Shifts of the classes put in by construction: found, named, and not seen where absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection.evidence import Evidence
from domadapt.selection.shift import (
    common_shift,
    detect_shift,
    missing_classes,
    swallowed,
    target_shares,
    unknown_share,
)

CLASSES = 5
NAMES = tuple("abcde")


def _said(y: np.ndarray, wrong: float, rng: np.random.Generator) -> Outputs:
    """Outputs for true classes of which a share is called another class; features around each."""
    moved = rng.random(len(y)) < wrong
    said = np.where(moved, (y + rng.integers(1, CLASSES, len(y))) % CLASSES, y)
    corners = np.eye(CLASSES, 8)
    z = corners[np.minimum(y, CLASSES - 1)] + 0.1 * rng.normal(size=(len(y), 8))
    logits = 6.0 * np.eye(CLASSES)[said] + 0.1 * rng.normal(size=(len(y), CLASSES))
    return Outputs(torch.tensor(logits).float(), torch.tensor(z).float())


def _evidence(
    name: str,
    target: np.ndarray,
    wrong_s: float = 0.0,
    wrong_t: float = 0.0,
    seed: int = 0,
    n_s: int = 500,
) -> Evidence:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_s) % CLASSES)
    held = replace(_said(y, wrong_s, rng), y=torch.tensor(y))
    return Evidence(name, _said(target, wrong_t, rng), held, held)


def _pair(target: np.ndarray, wrong_before: float = 0.2) -> tuple[Evidence, Evidence]:
    """The source-only model, which errs more on the target, and an adapted one."""
    return (
        _evidence("source_only", target, wrong_t=wrong_before, seed=1),
        _evidence("dann", target, wrong_t=0.02, seed=2),
    )


def _drawn(shares: list[float], n: int = 800) -> np.ndarray:
    counts = (np.array(shares) * n).round().astype(int)
    return np.repeat(np.arange(len(shares)), counts)


def test_nothing_is_found_where_nothing_differs() -> None:
    assert detect_shift(*_pair(_drawn([0.2] * 5)), NAMES) == []


def test_shares_are_recovered_through_the_errors_of_the_network() -> None:
    # The network errs alike in both domains, as black-box shift estimation assumes.
    truth = [0.4, 0.25, 0.2, 0.1, 0.05]
    made = _evidence("a", _drawn(truth, 4_000), wrong_s=0.3, wrong_t=0.3, n_s=4_000)
    plain = torch.bincount(made.target.logits.argmax(1), minlength=5) / 4_000
    shares, error = target_shares(made)
    expected = torch.tensor(truth).double()
    assert float((shares - expected).abs().max()) < 0.03
    assert float((plain - expected).abs().max()) > 0.06
    assert float(((shares - expected).abs() / error).max()) < 4


def test_the_sampling_error_is_that_of_counts_for_a_network_that_never_errs() -> None:
    made = _evidence("a", _drawn([0.2] * 5, 1_000))
    _, error = target_shares(made)
    by_formula = np.sqrt(0.2 * 0.8 / 1_000)
    assert error.numpy() == pytest.approx(np.full(5, by_formula), rel=0.35)


def test_a_label_shift_is_found_and_names_what_changed_most() -> None:
    found = detect_shift(*_pair(_drawn([0.4, 0.3, 0.1, 0.1, 0.1])), NAMES)
    assert [f.kind for f in found] == ["label shift"]
    assert "a (20 % in the source, about" in found[0].sentence
    assert found[0].method == "bbse"
    assert 0.15 <= found[0].numbers["distance"] <= 0.3
    assert found[0].numbers["share of a"] == pytest.approx(0.4, abs=0.05)
    assert found[0].to_dict()["kind"] == "label shift"


def test_a_shift_that_only_one_model_sees_is_not_believed() -> None:
    _, chosen = _pair(_drawn([0.4, 0.3, 0.1, 0.1, 0.1]))
    steady = _evidence("source_only", _drawn([0.2] * 5), seed=3)
    assert detect_shift(steady, chosen, NAMES) == []


def test_missing_classes_are_named() -> None:
    found = detect_shift(*_pair(_drawn([1 / 3, 1 / 3, 1 / 3, 0, 0]), wrong_before=0.1), NAMES)
    assert [f.kind for f in found] == ["missing classes"]
    assert "(d and e)" in found[0].sentence
    assert found[0].method == "pada"
    assert found[0].numbers["classes"] == 2.0
    assert found[0].numbers["share_source"] == pytest.approx(0.4, abs=0.01)


def test_a_class_that_another_one_swallows_is_not_called_missing() -> None:
    target = _drawn([0.2] * 5)
    target[target == 4] = 3
    assert detect_shift(*_pair(target, wrong_before=0.0), NAMES) == []


def test_missing_by_hand() -> None:
    prior = torch.full((4,), 0.25)
    now = torch.tensor([0.34, 0.33, 0.32, 0.01])
    before = torch.tensor([0.3, 0.3, 0.3, 0.1])
    assert missing_classes(now, before, prior, 400).tolist() == [False, False, False, True]
    # Too few samples to miss a class; the source-only model sees it; one class has it all.
    assert not missing_classes(now, before, prior, 20).any()
    assert not missing_classes(now, torch.full((4,), 0.25), prior, 400).any()
    swallowed_by_one = torch.tensor([0.49, 0.25, 0.25, 0.01])
    assert not missing_classes(swallowed_by_one, before, prior, 400).any()


def test_common_shift_by_hand() -> None:
    prior = torch.full((4,), 0.25)
    now = torch.tensor([0.45, 0.35, 0.15, 0.05])
    before = torch.tensor([0.35, 0.45, 0.3, -0.1])
    error = torch.tensor([0.01, 0.01, 0.01, 0.01])
    # +0.2 of which 0.1 is half; +0.1, confirmed; other directions; -0.2, confirmed.
    expected = [0.18, 0.08, 0.0, -0.18]
    assert common_shift(now, before, prior, error).tolist() == pytest.approx(expected)


def test_one_class_for_one_other_is_a_confusion() -> None:
    assert swallowed(torch.tensor([0.2, -0.2, 0.0]))
    assert not swallowed(torch.tensor([0.2, -0.1, -0.1]))
    assert not swallowed(torch.tensor([0.2, -0.2]))
    assert not swallowed(torch.zeros(3))


def _with_strangers(share: float, disputed: bool) -> tuple[Evidence, Evidence]:
    """Some target samples lie where no source sample does."""
    before, chosen = _pair(_drawn([0.2] * 5), wrong_before=0.0)
    n = len(chosen.target.logits)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: int(share * n)]
    z = chosen.target.z.clone()
    z[rows] = 0.1 * torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(1))
    z[rows, 7] += 1.0
    logits: Tensor = before.target.logits.clone()
    if disputed:
        logits[rows] = logits[rows].roll(1, 1)
    return (
        replace(before, target=replace(before.target, logits=logits)),
        replace(chosen, target=replace(chosen.target, z=z)),
    )


def test_samples_of_no_known_class_are_found() -> None:
    pair = _with_strangers(0.3, disputed=True)
    assert unknown_share(*pair) == pytest.approx(0.3, abs=0.02)
    found = detect_shift(*pair, NAMES)
    assert [f.kind for f in found] == ["unknown samples"]
    assert "ovanet" in found[0].sentence
    assert "--extra-classes unknown" in found[0].sentence


def test_distance_without_dispute_or_of_nearly_all_samples_is_not_called_unknown() -> None:
    share = unknown_share(*_with_strangers(0.3, disputed=False))
    assert share is not None
    assert share < 0.05
    assert unknown_share(*_with_strangers(0.8, disputed=True)) is None


def test_where_there_is_nothing_to_compare_with_nothing_is_said() -> None:
    before, chosen = _pair(_drawn([0.2] * 5))
    assert detect_shift(before, replace(chosen, source_val=None), NAMES) == []
    assert detect_shift(before, chosen, NAMES[:4]) == []
    assert unknown_share(before, replace(chosen, source_train=None)) is None
    with pytest.raises(DomadaptError, match="source validation"):
        target_shares(replace(chosen, source_val=None))


def test_the_source_only_model_alone_is_believed_as_far_as_it_is_right() -> None:
    shifted = _drawn([0.4, 0.3, 0.1, 0.1, 0.1])
    good = _evidence("source_only", shifted, wrong_t=0.02)
    assert [f.kind for f in detect_shift(good, good, NAMES)] == ["label shift"]
    poor = _evidence("source_only", shifted, wrong_t=0.5)
    assert detect_shift(poor, poor, NAMES) == []
