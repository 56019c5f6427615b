"""Validators against naive loops, hand constants and pytorch-adapt, and what must hold of all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domadapt.errors import DomadaptError
from domadapt.evaluation import Outputs
from domadapt.selection import geometry, predictions
from domadapt.selection.evidence import Evidence, together
from domadapt.selection.mixtures import SHARE, mixing_pairs
from domadapt.selection.registry import get_validator, validators
from domadapt.selection.validators import mixval_parts, scores_of

ALL = [
    "source_val_accuracy",
    "entropy",
    "information_maximisation",
    "bnm",
    "snd",
    "iwcv",
    "dev",
    "devn",
    "class_ami",
    "corr_c",
    "rankme",
    "mixval",
    "mano",
    "ensv",
    "reverse_validation",
]
CLASSES, DIM = 4, 5
CERTAIN = 40.0


class Net:
    """A small fixed network: features and logits of inputs ``(n, 5)``."""

    def __init__(self, seed: int = 0, classes: int = CLASSES, scale: float = 3.0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.a = torch.randn(DIM, DIM, generator=draw)
        self.b = torch.randn(DIM, classes, generator=draw) * scale

    def outputs(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Outputs:
        z = torch.tanh(x @ self.a)
        return Outputs(z @ self.b, z, y)


def rows(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)) + shift


def evidence(n: int = 60, name: str = "a", seed: int = 0, classes: int = CLASSES) -> Evidence:
    """A candidate with every part of the evidence."""
    net = Net(seed, classes)
    x_t, x_v, x_s = rows(n, 1, 0.5), rows(40, 2), rows(50, 3)
    y_v, y_s = (Net(7, classes).outputs(x).logits.argmax(1) for x in (x_v, x_s))

    def mixed(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
        return net.outputs(share * x_t[a] + (1 - share) * x_t[b]).logits

    found = Evidence(
        name, net.outputs(x_t), net.outputs(x_v, y_v), net.outputs(x_s, y_s), mixed=mixed
    )
    other = Evidence("other", Net(5, classes).outputs(x_t))
    return together([found, other])[0]


def of_target(logits: torch.Tensor, z: torch.Tensor | None = None) -> Evidence:
    return Evidence("a", Outputs(logits.float(), logits.float() if z is None else z.float()))


def certain(ids: list[int], classes: int = CLASSES) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(ids), classes).float() * CERTAIN


def softmax(logits: torch.Tensor) -> np.ndarray:
    e = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def score(name: str, of: Evidence) -> float:
    return get_validator(name).score(of)


# ---- what must hold of all -------------------------------------------------------------------


def test_every_validator_of_the_plan_is_registered_and_described():
    known = validators()
    assert set(ALL) <= set(known)
    for name in ALL:
        one = known[name]
        assert one.what, name
        assert one.range, name
        assert one.cost, name
        assert one.fooled_by, name


def test_scores_of_says_all_that_can_be_said_and_nothing_infinite():
    found = scores_of(evidence())
    assert set(ALL) <= set(found)
    assert all(math.isfinite(v) for v in found.values())
    assert found["bnm"] == score("bnm", evidence())


def test_scores_of_leaves_out_what_lacks_its_parts():
    bare = scores_of(Evidence("a", evidence().target))
    assert {"entropy", "snd", "class_ami", "rankme"} <= set(bare)
    for name in ("source_val_accuracy", "iwcv", "dev", "devn", "mixval", "ensv"):
        assert name not in bare
        with pytest.raises(DomadaptError, match=rf"{name} needs .* of the candidate 'a'"):
            score(name, Evidence("a", evidence().target))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_in_words(name, bad):
    whole = evidence()

    def broken(outputs: Outputs | None) -> Outputs:
        assert outputs is not None
        logits, z = outputs.logits.clone(), outputs.z.clone()
        logits[3, 1] = z[3, 1] = bad
        return replace(outputs, logits=logits, z=z)

    sick = replace(
        whole,
        target=broken(whole.target),
        source_val=broken(whole.source_val),
        source_train=broken(whole.source_train),
    )
    with pytest.raises(DomadaptError, match=r"finite .* of the candidate 'a' .* NaN or infinite"):
        score(name, sick)
    assert scores_of(sick) == {}


def test_target_labels_cannot_enter():
    said = evidence().target
    with pytest.raises(DomadaptError, match="must not hold target labels"):
        Evidence("a", replace(said, y=torch.zeros(len(said.logits), dtype=torch.long)))


@pytest.mark.parametrize("name", [n for n in ALL if n != "mixval"])  # its pairs are drawn by place
def test_the_order_of_samples_does_not_matter(name):
    one = evidence()
    draw = torch.Generator().manual_seed(3)

    def shuffled(outputs: Outputs | None) -> Outputs:
        assert outputs is not None
        order = torch.randperm(len(outputs.logits), generator=draw)
        y = None if outputs.y is None else outputs.y[order]
        return Outputs(outputs.logits[order], outputs.z[order], y)

    order = torch.randperm(len(one.target.logits), generator=torch.Generator().manual_seed(4))
    other = replace(
        one,
        target=Outputs(one.target.logits[order], one.target.z[order]),
        source_val=shuffled(one.source_val),
        source_train=shuffled(one.source_train),
        others={k: v[order] for k, v in (one.others or {}).items()},
    )
    assert score(name, other) == pytest.approx(score(name, one), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_two_samples_of_two_classes(name):
    assert math.isfinite(score(name, evidence(n=2, classes=2)))


@pytest.mark.parametrize("factor", [0.0, 1e-20, 1e4, 1e30])
def test_logits_of_any_scale(factor):
    one = evidence()

    def scaled(outputs: Outputs | None) -> Outputs:
        assert outputs is not None
        return replace(outputs, logits=outputs.logits * factor)

    assert one.mixed is not None
    mixed = one.mixed
    found = scores_of(
        replace(
            one,
            target=scaled(one.target),
            source_val=scaled(one.source_val),
            source_train=scaled(one.source_train),
            others={k: v * factor for k, v in (one.others or {}).items()},
            mixed=lambda a, b, share: mixed(a, b, share) * factor,
        )
    )
    assert set(ALL) <= set(found)


#: Bounds of the documented ranges for n samples of c classes in d dimensions.
BOUNDS = {
    "source_val_accuracy": lambda n, c, d: (0, 1),
    "entropy": lambda n, c, d: (-math.log(c), 0),
    "information_maximisation": lambda n, c, d: (0, math.log(c)),
    "bnm": lambda n, c, d: (1 / math.sqrt(c * min(n, c)), 1),
    "snd": lambda n, c, d: (0, math.log(n - 1)),
    "corr_c": lambda n, c, d: (1, math.sqrt(c)),
    "mano": lambda n, c, d: (1 / c, c**-0.25),
    "iwcv": lambda n, c, d: (-math.inf, 0),
    "class_ami": lambda n, c, d: (-0.1, 1),
    "rankme": lambda n, c, d: (1, min(n, d)),
    "mixval": lambda n, c, d: (0, 1),
    "ensv": lambda n, c, d: (0, 1),
    "reverse_validation": lambda n, c, d: (0, 1),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_scores_keep_their_range(name):
    for n in (2, 3, 60):
        for logits in (rows(n, 5)[:, :CLASSES] * 1e3, certain([i % 4 for i in range(n)]), None):
            one = evidence(n)
            said = one.target.logits * 0 if logits is None else logits
            one = replace(one, target=Outputs(said, one.target.z))
            low, high = BOUNDS[name](n, CLASSES, DIM)
            assert low - 1e-9 <= score(name, one) <= high + 1e-9


def test_features_of_a_part_of_the_split_go_with_their_rows():
    one = evidence()
    assert one.source_val is not None
    assert one.source_val.y is not None
    part, part_v = torch.tensor([50, 4, 17, 30, 31, 8, 22, 41]), torch.tensor([33, 2, 18, 9])
    cut = replace(
        one,
        target=replace(one.target, z=one.target.z[part], rows=part),
        source_val=replace(one.source_val, z=one.source_val.z[part_v], rows=part_v),
    )
    small = replace(
        one,
        target=Outputs(one.target.logits[part], one.target.z[part]),
        source_val=Outputs(
            one.source_val.logits[part_v], one.source_val.z[part_v], one.source_val.y[part_v]
        ),
    )
    for name in ("class_ami", "rankme", "reverse_validation", "iwcv", "dev", "devn"):
        assert score(name, cut) == pytest.approx(score(name, small)), name
    assert score("entropy", cut) == score("entropy", one)


def test_features_that_were_not_kept_are_missed_in_words():
    none = Evidence("a", Outputs(torch.zeros(3, 2), torch.zeros(0, 2)))
    with pytest.raises(DomadaptError, match="needs those of the target of the candidate 'a'"):
        score("rankme", none)
    assert "rankme" not in scores_of(none)


# ---- predictions ------------------------------------------------------------------------------


def test_entropy_and_information_maximisation_against_scipy():
    p = softmax(evidence().target.logits)
    each = scipy.stats.entropy(p, axis=1).mean()
    assert score("entropy", evidence()) == pytest.approx(-each)
    expected = scipy.stats.entropy(p.mean(0)) - each
    assert score("information_maximisation", evidence()) == pytest.approx(expected)


def test_nuclear_norm_against_eigenvalues_and_by_hand():
    p = softmax(evidence().target.logits)
    norm = np.sqrt(np.linalg.eigvalsh(p.T @ p).clip(0)).sum()
    assert score("bnm", evidence()) == pytest.approx(norm / math.sqrt(CLASSES * len(p)))
    assert score("bnm", of_target(certain([0, 1, 2, 3] * 5))) == pytest.approx(1)
    assert score("bnm", of_target(certain([0, 1]))) == pytest.approx(1)
    assert score("bnm", of_target(certain([2] * 20))) == pytest.approx(1 / 2)
    assert score("bnm", of_target(torch.zeros(20, 4))) == pytest.approx(1 / 4)


def snd_by_loop(p: np.ndarray, temperature: float = 0.05) -> float:
    found = []
    for i in range(len(p)):
        cosines = [
            float(p[i] @ p[j]) / math.sqrt(float(p[i] @ p[i]) * float(p[j] @ p[j]))
            for j in range(len(p))
            if j != i
        ]
        e = np.exp(np.array(cosines) / temperature)
        share = e / e.sum()
        found.append(-sum(s * math.log(s) for s in share if s > 0))
    return float(np.mean(found))


def test_neighbourhood_density_against_a_loop_and_by_hand():
    logits = evidence(31).target.logits
    expected = snd_by_loop(softmax(logits))
    assert score("snd", of_target(logits)) == pytest.approx(expected)
    for block in (1, 7, 31, 100):
        assert predictions.neighbourhood_density(logits, block=block) == pytest.approx(expected)
    # All the same: each of 9 others has the share 1/9. Two tight groups of 5: log 4.
    assert score("snd", of_target(certain([1] * 10))) == pytest.approx(math.log(9))
    two = score("snd", of_target(certain([0, 1] * 5)))
    assert two == pytest.approx(math.log(4), abs=1e-6)


def test_one_sample_has_no_neighbour():
    with pytest.raises(DomadaptError, match="at least 2 target samples"):
        score("snd", of_target(torch.zeros(1, 3)))
    assert "entropy" in scores_of(of_target(torch.zeros(1, 3)))


def test_corr_c_against_a_loop_and_by_hand():
    p = softmax(evidence().target.logits)
    c = np.zeros((CLASSES, CLASSES))
    for row in p:
        c += np.outer(row, row)
    expected = sum(c[k, k] for k in range(CLASSES)) / math.sqrt((c * c).sum())
    assert score("corr_c", evidence()) == pytest.approx(expected)
    assert score("corr_c", of_target(certain([0, 1, 2, 3]))) == pytest.approx(2)
    assert score("corr_c", of_target(certain([0] * 4))) == pytest.approx(1)
    assert score("corr_c", of_target(torch.zeros(4, 4))) == pytest.approx(1)


def test_mano_by_hand_on_both_sides_of_its_threshold():
    # Small logits: v(0) = 1, v(1) = 2.5, rows 1/3.5 and 2.5/3.5.
    small = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = ((1 / 3.5**4 + (2.5 / 3.5) ** 4) / 2) ** 0.25
    assert score("mano", of_target(small)) == pytest.approx(expected)
    # -mean log p = 50 for logits (100, 0): above 5, so that the softmax is taken, which is certain.
    large = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert score("mano", of_target(large)) == pytest.approx(0.5**0.25)
    # Just under and above the criterion of 5 for two classes: log(1 + e^-a) + a/2 = 5.
    for a, taylor in ((9.9, True), (10.1, False)):
        v = (1.0, 1 + a + a * a / 2) if taylor else (1.0, math.exp(a))
        q = [x / sum(v) for x in v]
        expected = (sum(x**4 for x in q) / 2) ** 0.25
        one = of_target(torch.tensor([[0.0, a]]))
        assert score("mano", one) == pytest.approx(expected, rel=1e-6), a


def test_ensemble_by_hand_and_without_a_vote_for_a_broken_candidate():
    a = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    b = torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0]])
    made = together([Evidence(n, Outputs(v, v)) for n, v in (("a", a), ("b", b))])
    # The ensemble follows b wherever they differ, as b is surer.
    assert score("ensv", made[0]) == 0.5
    assert score("ensv", made[1]) == 1.0
    broken = torch.full((4, 2), float("nan"))
    three = together([*(replace(e, others=None) for e in made), Evidence("c", Outputs(broken, b))])
    assert score("ensv", three[0]) == 0.5
    assert score("ensv", three[1]) == 1.0
    with pytest.raises(DomadaptError, match="'c'"):
        score("ensv", three[2])


def test_ensemble_is_of_probabilities_not_of_logits():
    a, b = torch.tensor([[20.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    third = torch.tensor([[-2.0, 2.0]])
    made = together([Evidence(n, Outputs(v, v)) for n, v in (("a", a), ("b", b), ("c", third))])
    # Probabilities of the first class: 1, .12, .02, mean .38; the mean logit would say the first.
    assert score("ensv", made[0]) == 0.0
    assert score("ensv", made[1]) == 1.0


# ---- mixtures ---------------------------------------------------------------------------------


def test_mixval_against_a_loop():
    one = evidence()
    predicted = one.target.logits.argmax(1)
    a, b, same = mixing_pairs(predicted)
    assert one.mixed is not None
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for i in range(len(a)):
        said = one.mixed(a[i : i + 1], b[i : i + 1], SHARE)
        hits[bool(same[i])].append(int(said.argmax()) == int(predicted[a[i]]))
    intra, inter = np.mean(hits[True]), np.mean(hits[False])
    assert mixval_parts(one) == (pytest.approx(intra), pytest.approx(inter))
    assert score("mixval", one) == pytest.approx((intra + inter) / 2)


def follows(b_wins: bool):
    """Mixtures that are classified as their smaller part, or as their larger one."""

    def make(logits: torch.Tensor) -> Evidence:
        return replace(
            of_target(logits), mixed=lambda a, b, share: logits[b if b_wins else a].float()
        )

    return make


def test_mixval_by_hand():
    logits = certain([0, 0, 1, 1])
    assert mixval_parts(follows(False)(logits)) == (1.0, 1.0)
    assert score("mixval", follows(False)(logits)) == 1.0
    assert mixval_parts(follows(True)(logits)) == (1.0, 0.0)
    assert score("mixval", follows(True)(logits)) == 0.5


def test_mixval_of_a_collapsed_network_is_nothing():
    one = follows(False)(certain([2] * 6))
    assert mixval_parts(one) == (1.0, None)
    assert score("mixval", one) == 0.0
    assert score("mixval", follows(False)(certain([1]))) == 0.0


def test_mixval_of_single_samples_stands_on_pairs_of_two_classes():
    assert mixval_parts(follows(False)(certain([0, 1, 2]))) == (None, 1.0)
    assert score("mixval", follows(True)(certain([0, 1, 2]))) == 0.0


def test_mixtures_that_are_not_finite_are_refused():
    one = replace(
        of_target(certain([0, 0, 1])), mixed=lambda a, b, share: torch.full((len(a), 4), math.nan)
    )
    with pytest.raises(DomadaptError, match="logits of mixtures"):
        score("mixval", one)


# ---- features ---------------------------------------------------------------------------------


def test_rankme_by_hand():
    eye = torch.eye(4).repeat(3, 1)
    assert score("rankme", of_target(certain([0] * 12), eye)) == pytest.approx(4)
    line = torch.outer(torch.arange(1.0, 6), torch.tensor([1.0, -2, 3]))
    assert score("rankme", of_target(certain([0] * 5), line)) == pytest.approx(1)
    # What rounding leaves of 199 singular values that are 0 does not count.
    large = torch.outer(torch.arange(1, 301) % 7 + 1, torch.arange(200) % 11 + 3.0)
    assert score("rankme", of_target(certain([0] * 300), large)) == pytest.approx(1, rel=1e-6)
    # Singular values 3 and 1: shares .75 and .25.
    two = torch.tensor([[3.0, 0], [0, 1], [0, 0]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert score("rankme", of_target(certain([0] * 3), two)) == pytest.approx(expected)
    assert score("rankme", of_target(certain([0] * 3), torch.zeros(3, 2))) == 0.0


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 30), (1, 5)])
def test_rankme_against_singular_values(shape):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    z = z * torch.logspace(0, -6, shape[1])
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    expected = math.exp(scipy.stats.entropy(sigma))
    one = of_target(torch.zeros(shape[0], 3), z)
    assert score("rankme", one) == pytest.approx(expected, rel=1e-6)
    assert score("rankme", replace(one, target=replace(one.target, z=z * 1e-20))) == pytest.approx(
        expected, rel=1e-5
    )


def blobs(each: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Four tight, far groups of features, and the group of each row."""
    centres = torch.tensor([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    ids = torch.arange(4).repeat(each)
    return centres[ids] + rows(len(ids), 9)[:, :2] * 0.1, ids


def test_class_ami_of_clusters_that_are_known():
    z, ids = blobs()
    right = of_target(certain(ids.tolist()), z)
    assert score("class_ami", right) == pytest.approx(1)
    merged = torch.where(ids == 3, 2, ids)
    expected = adjusted_mutual_info_score(merged.numpy(), ids.numpy())
    assert score("class_ami", of_target(certain(merged.tolist()), z)) == pytest.approx(expected)
    random = torch.randint(4, (len(ids),), generator=torch.Generator().manual_seed(0))
    assert abs(score("class_ami", of_target(certain(random.tolist()), z))) < 0.2


def test_class_ami_of_collapsed_networks_is_nothing():
    z, _ = blobs()
    assert score("class_ami", of_target(certain([1] * len(z)), z)) == 0.0
    # One class in one cluster would agree perfectly.
    assert score("class_ami", of_target(certain([1] * 6), torch.ones(6, 2))) == 0.0
    # Fewer distinct rows than classes.
    two = torch.tensor([[0.0], [1.0]]).repeat(4, 1)
    assert score("class_ami", of_target(certain([0, 1] * 4), two)) == pytest.approx(1)


def test_reverse_validation_against_scikit_learn():
    one = evidence()
    assert one.source_val is not None
    predicted = one.target.logits.argmax(1)
    back = make_pipeline(StandardScaler(), NearestCentroid())
    back.fit(one.target.z.double().numpy(), predicted.numpy())
    expected = back.score(one.source_val.z.double().numpy(), one.source_val.y.numpy())
    assert 0.1 < expected < 0.9
    assert score("reverse_validation", one) == pytest.approx(expected)


def test_reverse_validation_with_one_predicted_class_is_its_share_in_the_source():
    one = evidence()
    assert one.source_val is not None
    assert one.source_val.y is not None
    ones = replace(one, target=Outputs(certain([2] * 60), one.target.z))
    share = sum(int(y) == 2 for y in one.source_val.y) / len(one.source_val.y)
    assert score("reverse_validation", ones) == pytest.approx(share)


def test_reverse_validation_ignores_scale_offset_and_constant_features():
    z_t, ids = blobs()
    z_s, y_s = blobs(5)
    assert geometry.reverse_accuracy(z_t, ids, z_s, y_s) == 1.0

    def wide(z: torch.Tensor, constant: float) -> torch.Tensor:
        # The third feature is constant up to the rounding of float32.
        noise = 1e-5 * torch.randn(len(z), 1, generator=torch.Generator().manual_seed(2))
        return torch.cat([z * torch.tensor([1e4, 1e-4]), constant + noise], 1)

    assert geometry.reverse_accuracy(wide(z_t, 100), ids, wide(z_s, 100.01), y_s) == 1.0
    offset = torch.tensor([7e3, -7e3])
    assert geometry.reverse_accuracy(z_t + offset, ids, z_s + offset, y_s) == 1.0
    swapped = torch.tensor([1, 0, 2, 3])[ids]
    assert geometry.reverse_accuracy(z_t, swapped, z_s, y_s) == pytest.approx(0.5)


def test_source_accuracy_by_hand():
    val = Outputs(certain([0, 1, 2, 3]), certain([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0]))
    one = Evidence("a", evidence().target, source_val=val)
    assert score("source_val_accuracy", one) == 0.75


# ---- pytorch-adapt ----------------------------------------------------------------------------


def test_agreement_with_pytorch_adapt():
    theirs = pytest.importorskip("pytorch_adapt.validators")
    one = evidence(50)
    logits, z = one.target.logits.double(), one.target.z
    n = len(logits)
    given = {"target_train": {"logits": logits, "preds": logits.softmax(1), "features": z}}
    assert score("snd", one) == pytest.approx(theirs.SNDValidator()(**given), rel=1e-5)
    bnm = score("bnm", one) * math.sqrt(CLASSES * n) / n
    assert bnm == pytest.approx(theirs.BNMValidator()(**given), rel=1e-6)
    assert score("entropy", one) == pytest.approx(theirs.EntropyValidator()(**given), rel=1e-6)
    im = theirs.IMValidator()(**given)
    assert score("information_maximisation", one) == pytest.approx(im, abs=1e-5)


def test_class_ami_agrees_with_pytorch_adapt_where_clusters_are_clear():
    theirs = pytest.importorskip("pytorch_adapt.validators")
    z, ids = blobs()
    logits = certain(torch.where(ids == 1, 0, ids).tolist())
    given = {"target_train": {"logits": logits, "preds": logits.softmax(1), "features": z}}
    # Groups this far apart are found whatever its k-means draws.
    other = theirs.ClassClusterValidator()
    assert score("class_ami", of_target(logits, z)) == pytest.approx(other(**given), rel=1e-6)
