"""Metrics, measures of shift and label-free scores against hand constants and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from domadapt.errors import DomadaptError
from domadapt.evaluation import (
    Outputs,
    confidence,
    confusion,
    evaluate,
    labels_for_plot,
    metrics,
    mmd,
    per_class,
    probabilities,
    proxy_a_distance,
    score,
)
from domadapt.selection.validators import (
    effective_classes,
    entropy,
    information_maximisation,
    label_free,
    source_val_accuracy,
)
from domadapt.task import Domain, Task

ABC = ("a", "b", "c")


class Rows:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices):
        return self.x[list(indices)]


def onehot(ids, k=3, scale=5.0):
    return torch.nn.functional.one_hot(torch.tensor(ids), k).float() * scale


def test_scores_against_hand_constants():
    # True a a b b; predicted a b b b: recall 1/2 and 1, F1 2/3 and 4/5, class c does not occur.
    s = score(onehot([0, 1, 1, 1]), [0, 0, 1, 1], ABC)
    assert s.accuracy == 0.75
    assert s.per_class == [0.5, 1.0, None]
    assert s.per_class_mean == 0.75
    assert s.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert s.confusion == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert s.n == 4


@pytest.mark.parametrize("k", [2, 5])
def test_metrics_agree_with_sklearn(k):
    g = torch.Generator().manual_seed(k)
    logits = torch.randn(300, k, generator=g)
    y = torch.randint(0, k, (300,), generator=g)
    p = logits.double().softmax(1).numpy()
    predicted, true = p.argmax(1), y.numpy()
    area = (
        sk.roc_auc_score(true, p[:, 1])
        if k == 2
        else sk.roc_auc_score(true, p, multi_class="ovr", average="macro")
    )
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "macro_f1": sk.f1_score(true, predicted, average="macro"),
        "per_class_mean": sk.balanced_accuracy_score(true, predicted),
        "auroc": area,
    }
    names = [str(i) for i in range(k)]
    assert metrics(logits, y, names) == pytest.approx(expected)
    assert metrics(torch.from_numpy(p), y, names) == pytest.approx(expected)
    assert confusion(logits, y, names) == sk.confusion_matrix(true, predicted).tolist()


def test_rows_without_a_label_are_not_scored():
    logits = onehot([0, 1, 2, 2])
    assert score(logits, [0, -1, 2, -1], ABC) == score(logits[[0, 2]], [0, 2], ABC)
    assert score(logits, [1, -1, 2, -1], ABC).accuracy == 0.5


def test_auroc_is_left_out_where_it_is_undefined():
    assert "auroc" not in metrics(onehot([0, 1]), [0, 0], ABC)
    assert score(onehot([0, 1]), [0, 0], ABC).auroc is None


def test_auroc_survives_confident_logits():
    # In float32 both probabilities of class b would round to exactly 1 and tie.
    logits = torch.tensor([[0.0, 20.0], [0.0, 25.0]])
    assert metrics(logits, [0, 1], ("a", "b"))["auroc"] == 1.0


def test_probabilities_are_kept_and_logits_are_not():
    p = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    assert probabilities(p) == pytest.approx(p.double().numpy())
    assert probabilities(torch.tensor([[0.0, math.log(3)]])) == pytest.approx(
        np.array([[0.25, 0.75]])
    )


@pytest.mark.parametrize(
    ("logits", "y", "word"),
    [
        (torch.zeros(3, 2), [0, 0, 0], "3 logits"),
        (torch.zeros(3, 3), [0, 0], "per sample"),
        (torch.zeros(2, 3), [0, 3], "between 0 and 2"),
        (torch.zeros(2, 3), [-1, -1], "none of the samples"),
        (torch.full((2, 3), float("nan")), [0, 1], "finite"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(logits, y, word):
    with pytest.raises(DomadaptError, match=word):
        score(logits, y, ABC)


def a_task(target_labels):
    x = torch.arange(30.0)[:, None]
    source = Domain("s", Rows(x), labels=np.array(["a", "b", "c"] * 10))
    return Task(source, Domain("t", Rows(x[:4]), labels=target_labels))


def test_evaluate_scores_the_target_test_labels_and_nothing_without_them():
    logits = onehot([0, 1, 2, 2])
    outputs = Outputs(logits, torch.zeros(4, 1))
    task = a_task(np.array(["a", "b", "c", None], dtype=object))
    assert evaluate(task, outputs) == score(logits, [0, 1, 2, -1], ABC)
    assert labels_for_plot(task, [3, 0]) == [None, 0]
    assert evaluate(a_task(None), outputs) is None
    assert labels_for_plot(a_task(None), [0]) is None


def test_evaluate_refuses_outputs_of_another_split():
    with pytest.raises(DomadaptError, match="per sample"):
        evaluate(a_task(np.array(list("abca"))), Outputs(torch.zeros(3, 3), torch.zeros(3, 1)))


def test_confidence_counts_shares():
    p = torch.tensor([[0.52, 0.48], [0.98, 0.02], [1.0, 0.0], [0.51, 0.49]])
    shares = confidence(Outputs(p, torch.zeros(4, 1)))
    assert len(shares) == 20
    assert shares[10] == 0.5
    assert shares[19] == 0.5


def test_proxy_a_distance_of_one_and_of_two_distributions():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(600, 8, generator=g), torch.randn(400, 8, generator=g)
    assert proxy_a_distance(a, b) < 0.25
    assert proxy_a_distance(a, b + 4) > 1.95
    assert 0.5 < proxy_a_distance(a, b + 0.4) < 1.5
    assert proxy_a_distance(a, b + 0.4) == proxy_a_distance(a, b + 0.4)


def test_proxy_a_distance_is_that_of_the_bayes_error():
    # Two unit Gaussians 2 apart: the best linear error is Phi(-1) = 0.1587.
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2000, 1, generator=g), torch.randn(2000, 1, generator=g) + 2
    assert proxy_a_distance(a, b) == pytest.approx(2 * (1 - 2 * 0.1587), abs=0.06)


def test_proxy_a_distance_is_held_out():
    # 40 samples in 200 dimensions can always be separated, but what separates them is noise.
    g = torch.Generator().manual_seed(2)
    assert proxy_a_distance(*torch.randn(2, 20, 200, generator=g)) < 1.0


def test_proxy_a_distance_of_unequal_sizes_does_not_reward_the_larger_domain():
    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(1500, 4, generator=g), torch.randn(100, 4, generator=g)
    assert proxy_a_distance(a, b) < 0.6


def test_measures_of_shift_need_two_samples():
    with pytest.raises(DomadaptError, match="at least 2"):
        proxy_a_distance(torch.zeros(1, 3), torch.zeros(5, 3))


def test_mmd_sees_a_shift_and_none_where_there_is_none():
    pytest.importorskip("domadapt.losses.mmd")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(1200, 5, generator=g), torch.randn(300, 5, generator=g)
    assert abs(mmd(a, b)) < 0.02
    assert mmd(a, b + 1) > 0.1
    assert mmd(a, b + 1) == mmd(a, b + 1)


# Two samples: p = (3/4, 1/4) and (1/4, 3/4); their mean is uniform.
LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
H = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))


def test_label_free_scores_against_hand_constants():
    target = Outputs(LOGITS, torch.zeros(2, 1))
    source = Outputs(LOGITS, torch.zeros(2, 1), torch.tensor([0, 0]))
    assert entropy(target) == pytest.approx(H)
    assert information_maximisation(target) == pytest.approx(math.log(2) - H)
    assert effective_classes(target) == pytest.approx(2.0)
    assert source_val_accuracy(source) == 0.5
    assert list(label_free(source, target)) == [
        "source_val_accuracy",
        "entropy",
        "information_maximisation",
        "effective_classes",
    ]


def test_label_free_scores_of_a_collapsed_network():
    target = Outputs(onehot([1] * 6, scale=1e4), torch.zeros(6, 1))
    assert entropy(target) == 0
    assert information_maximisation(target) == pytest.approx(0)
    assert effective_classes(target) == pytest.approx(1)


def test_source_accuracy_needs_labels():
    with pytest.raises(DomadaptError, match="labels of the source"):
        source_val_accuracy(Outputs(LOGITS, torch.zeros(2, 1)))


def test_per_class_of_an_absent_class_is_none():
    assert per_class(onehot([2, 2]), [2, 0], ABC) == [0.0, None, 1.0]


def test_gain_interval_is_paired() -> None:
    from small import small_task

    from domadapt.evaluation import gain_interval

    task = small_task()
    y = torch.arange(90) % 3
    right, wrong = torch.eye(3)[y], torch.eye(3)[(y + 1) % 3]
    assert gain_interval(task, right, right) == (0.0, 0.0)
    low, high = gain_interval(task, wrong, right) or (0, 0)
    assert (low, high) == (1.0, 1.0)
    some = right.clone()
    some[:9] = wrong[:9]
    low, high = gain_interval(task, some, right) or (0, 0)
    half = 1.96 * (0.1 * 0.9 / 90) ** 0.5
    assert low == pytest.approx(0.1 - half)
    assert high == pytest.approx(0.1 + half)
    assert gain_interval(small_task(None), right, right) is None
