"""Models ranked for labelled data: what is computed, what is said, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import weightedtau

from domadapt import cli
from domadapt.adaptation import adapt
from domadapt.backbones import build_backbone
from domadapt.data import from_arrays, load
from domadapt.errors import DomadaptError
from domadapt.export import save_weights
from domadapt.network import Network
from domadapt.task import Task
from domadapt.transfer import leep, linear_probe, logme, nce
from domadapt.transfer.figure import figure, ranks
from domadapt.transfer.models import extract, labels_of, parse, short_names, subset, task_of
from domadapt.transfer.rank import PROBE, SIZE, agreement, rank
from domadapt.transfer.tables import markdown, number, size_text, tables, terminal, to_json

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("DOMADAPT_DATA")

OWN = """
import torch
from torch import nn


class Chosen(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x[:, self.columns] * self.scale


STATED = {"mean": [0.0], "std": [1.0]}


def telling():
    return Chosen([0, 1, 2]), STATED


def also():
    return telling()


def silent():
    return Chosen([3, 4, 5]), STATED


def classifier(n_classes=3):
    torch.manual_seed(3)
    return nn.Sequential(Chosen([0, 1, 2]), nn.Linear(3, n_classes)), STATED


def constant():
    class Zero(nn.Module):
        def forward(self, x):
            return 0 * x
    return Zero()


def whole():
    from domadapt.network import Network
    torch.manual_seed(5)
    return Network(Chosen([0, 1, 2]), nn.Linear(3, 4))
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return str(file)


def vectors(n=120, seed=0):
    """Three columns that tell the classes apart, three of noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, :3] += 2 * np.eye(3, dtype=np.float32)[y]
    return x, y


def domain(**more):
    x, y = vectors()
    return from_arrays(x, np.array(["ant", "bee", "crow"])[y], name="insects", **more)


# What is computed -------------------------------------------------------------------------------


def test_features_and_scores_are_those_of_the_backbone(own):
    x, y = vectors()
    found = rank([f"{own}:silent", f"{own}:telling"], domain())
    assert [m.model for m in found.models] == [f"{own}:telling", f"{own}:silent"]
    best = found.models[0]
    assert (best.parameters, best.width, best.weights) == (1, 3, "own")
    assert best.scores["LogME"].value == pytest.approx(logme(x[:, :3], y), abs=1e-6)
    probe = linear_probe(x[:, :3], y)
    assert best.scores[PROBE].value == pytest.approx(probe.mean, abs=1e-9)
    assert best.probe_folds == probe.folds
    for name, score in best.scores.items():
        if name not in ("LEEP", "NCE"):
            assert score.value > found.models[1].scores[name].value, name
            assert score.seconds >= 0
    assert (found.samples, found.of, found.classes) == (120, 120, 3)


def test_features_stand_in_the_order_of_the_domain(own):
    x, y = vectors()
    task = task_of(domain())
    np.testing.assert_array_equal(labels_of(task), y)
    made = extract(f"{own}:silent", task)
    np.testing.assert_array_equal(made.features, x[:, 3:])


def test_leep_is_of_the_trained_head(own, tmp_path):
    """A classifier of four other classes, its weights in a file: its answers are scored."""
    x, y = vectors()
    torch.manual_seed(7)
    head = torch.nn.Linear(3, 4)
    state = {"0.scale": torch.full((1,), 2.0), "1.weight": head.weight, "1.bias": head.bias}
    torch.save(state, tmp_path / "four.pth")
    found = rank([f"{own}:classifier={tmp_path / 'four.pth'}"], domain()).models[0]
    p = head(2 * torch.from_numpy(x[:, :3])).softmax(1).detach().double().numpy()
    assert found.scores["LEEP"].value == pytest.approx(leep(p, y), abs=1e-5)
    assert found.scores["NCE"].value == pytest.approx(nce(p.argmax(1), y), abs=1e-9)
    assert found.scores["LogME"].value == pytest.approx(logme(2 * x[:, :3], y), abs=1e-5)
    assert (found.weights, found.width, found.parameters) == ("pretrained", 3, 1)


def test_a_head_made_for_these_classes_answers_nothing(own):
    found = rank([f"{own}:classifier"], domain()).models[0]
    assert found.scores["LEEP"].value is None
    assert "head" in found.scores["LEEP"].why
    assert found.width == 3  # before the last layer, though that has as many outputs


def test_a_network_of_ones_own_brings_its_head(own):
    x, y = vectors()
    found = rank([f"{own}:whole"], domain()).models[0]
    torch.manual_seed(5)
    p = torch.nn.Linear(3, 4)(torch.from_numpy(x[:, :3])).softmax(1).detach().double().numpy()
    assert found.scores["LEEP"].value == pytest.approx(leep(p, y), abs=1e-5)


def test_the_weights_of_a_named_classifier_bring_its_head(tmp_path):
    """torchvision's ResNet-18 with seven classes in a file, as features and as answers."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.resnet18(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    digits = subset(load("digits:handwritten"), 60)
    task = task_of(digits)
    made = extract(f"resnet18={tmp_path / 'seven.pth'}", task, image_size=32)
    assert made.features.shape == (len(digits), 512)
    assert made.probabilities.shape == (len(digits), 7)
    logits = model.fc(torch.from_numpy(made.features))
    direct = logits.double().softmax(1).detach().numpy()
    np.testing.assert_allclose(made.probabilities, direct, atol=1e-6)
    assert made.weights == "pretrained"
    assert made.parameters == sum(p.numel() for p in model.parameters()) - 7 * 513


def test_the_weights_of_a_hub_bring_their_head(tmp_path, monkeypatch):
    """An entry of torchvision's hub, which is read from a file here."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.resnet18(num_classes=1000).eval()
    state = model.state_dict()
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: dict(state))
    task = task_of(subset(load("digits:handwritten"), 40))
    made = extract("resnet18=DEFAULT", task, image_size=32)
    direct = model.fc(torch.from_numpy(made.features)).double().softmax(1).detach().numpy()
    np.testing.assert_allclose(made.probabilities, direct, atol=1e-6)


@pytest.mark.parametrize("image", [True, False])
def test_a_classifier_of_hugging_face_brings_its_head(tmp_path, image):
    """What LEEP reads are the probabilities of the model as transformers runs it."""
    transformers = pytest.importorskip("transformers")
    import tiny

    torch.manual_seed(3)
    if image:
        folder = tmp_path / "vit"
        tiny.tiny_vit(folder)
        config = transformers.AutoConfig.from_pretrained(folder, num_labels=5)
        classifier = transformers.ViTForImageClassification(config).eval()
        given = subset(load("digits:handwritten"), 30)
    else:
        folder = tmp_path / "bert"
        tiny.tiny_bert(folder)
        config = transformers.AutoConfig.from_pretrained(folder, num_labels=5)
        classifier = transformers.BertForSequenceClassification(config).eval()
        texts = tiny.texts("books", 30, seed=len("books"))[0]
        given = tiny.domain("books", 30)
    without = extract(f"hf:{folder}", task_of(given))
    assert without.probabilities is None
    classifier.save_pretrained(folder)
    made = extract(f"hf:{folder}", task_of(given))
    assert made.probabilities.shape == (len(given), 5)
    if image:
        z = torch.from_numpy(made.features)
        direct = classifier.classifier(z).double().softmax(1).detach().numpy()
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        direct = classifier(**batch).logits.double().softmax(1).detach().numpy()
    np.testing.assert_allclose(made.probabilities, direct, atol=1e-5)


def test_the_folder_of_a_run_is_a_model(tmp_path):
    x, _ = vectors()
    task = Task(domain(), from_arrays(x + 0.5, name="t"))
    adapt(task, method="source_only", training={"steps": 30}, out=tmp_path / "run")
    found = rank([str(tmp_path / "run"), "mlp"], domain())
    run = next(m for m in found.models if m.model.endswith("run"))
    assert run.weights == "run"
    assert run.scores["NCE"].value > -0.8
    assert run.scores[PROBE].value > 0.8
    with pytest.raises(DomadaptError, match="kind 'vector'"):
        rank([str(tmp_path / "run")], load("digits:handwritten"))


def test_small_networks_and_timm_without_weights_on_digits():
    pytest.importorskip("timm")
    models = ["lenet", "mlp", "timm:test_resnet"]
    told = []
    found = rank(models, load("digits:handwritten"), samples=200, image_size=32, told=told.append)
    assert [line.partition(" ")[0] for line in told] == models
    assert all(m.weights == "random" for m in found.models)
    assert all(m.scores[PROBE].value > 0.5 for m in found.models)
    assert all(m.scores[name].value is not None for m in found.models for name in ("GBC", "SFDA"))
    assert abs(found.samples - 200) <= 5
    assert any("Random weights" in note for note in found.notes)
    assert any("drawn at random" in note for note in found.notes)


def test_features_are_computed_once_and_kept(own, tmp_path, monkeypatch):
    first = rank([f"{own}:telling"], domain(), cache=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("features-*.npy"))) == 1
    from domadapt.runs import plan

    def refuse(*_):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(plan, "_feature_batches", refuse)
    again = rank([f"{own}:telling"], domain(), cache=tmp_path / "kept")
    assert {n: s.value for n, s in again.models[0].scores.items()} == {
        n: s.value for n, s in first.models[0].scores.items()
    }


def test_measurements_have_logme_and_a_probe(own):
    x, _ = vectors()
    values = x[:, :3].sum(1) + 0.1 * np.sin(np.arange(120))
    measured = from_arrays(x, values, regression=True, name="heights")
    found = rank([f"{own}:telling", f"{own}:silent", "mlp"], measured)
    assert found.classes == 0
    assert found.models[0].model.endswith("telling")
    assert found.models[0].scores[PROBE].value > 0.98
    y = values.astype(np.float32)
    assert found.models[0].scores["LogME"].value == pytest.approx(
        logme(x[:, :3], y, regression=True), abs=1e-5
    )
    assert set(found.models[0].scores) == {PROBE, "LogME"}
    assert "R²" in terminal(found)
    figure(found)


def test_groups_stay_together(own):
    x, y = vectors()
    whose = np.repeat(np.arange(24), 5)
    found = rank([f"{own}:telling"], domain(groups=whose)).models[0]
    assert found.probe_folds == linear_probe(x[:, :3], y, groups=whose).folds


def test_a_subset_keeps_the_shares_of_the_classes():
    x, _ = vectors()
    y = np.repeat(["a", "b", "c"], [80, 38, 2])
    part = subset(from_arrays(x, y), 60)
    names, counts = np.unique(part.labels, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"a": 40, "b": 19, "c": 2}
    rows = part.samples.__getitems__(list(range(len(part)))).numpy()
    where = [int(np.flatnonzero((x == row).all(1))[0]) for row in rows]
    assert [y[i] for i in where] == part.labels.tolist()
    assert subset(from_arrays(x, y), 120) is not None


def test_agreement_is_weighted_kendalls_tau_over_the_models_that_have_both():
    a, b = [4.0, 3.0, 2.0, 1.0], [3.0, 4.0, 2.0, None]
    found = agreement({"a": a, "b": b, "same": [1.0, 1.0, 1.0, 1.0], "back": [1.0, 2.0, 3.0, 4.0]})
    assert found["a"]["b"] == pytest.approx(weightedtau(a[:3], b[:3]).statistic, abs=1e-12)
    # By hand: the ranks of three with the first two exchanged. Hyperbolic weights 1/1 + 1/2 for
    # that pair, 1 + 1/3 and 1/2 + 1/3 for the others; the same from both rankings.
    assert found["a"]["b"] == pytest.approx((-1.5 + 4 / 3 + 5 / 6) / (1.5 + 4 / 3 + 5 / 6))
    assert found["a"]["back"] == pytest.approx(-1)
    assert found["a"]["same"] is None
    assert found["b"]["b"] == pytest.approx(1)
    nearly = [30.0, 30.000000000001, 29.999999999999, 30.0]
    assert agreement({"a": a, "b": nearly})["a"]["b"] is None
    assert agreement({"a": [1.0, 2.0], "b": [1.0, 2.0]})["a"]["b"] is None


def test_real_weights_beat_random_ones_on_photographs():
    """The ImageNet MobileNetV2, where it and Office-31 are at hand."""
    if DATA is None:
        pytest.skip("DOMADAPT_DATA is not set")
    for path in ("models/mobilenet_v2_imagenet.safetensors", "office31/dslr"):
        if not (Path(DATA) / path).exists():
            pytest.skip(f"DOMADAPT_DATA has no {path}")
    name = f"{ROOT / 'benchmarks' / 'backbones' / 'mobilenet_v2.py'}:mobilenet_v2"
    photographs = few_classes(load(Path(DATA) / "office31" / "dslr"), 8)
    found = rank([name, "mobilenet_v2"], photographs, samples=60, folds=2, image_size=64)
    trained, random = found.models
    assert trained.model == name
    assert (trained.width, random.weights) == (1280, "random")
    assert trained.scores[PROBE].value > random.scores[PROBE].value + 0.2
    # Not by every score: with 1280 features of so few samples some hardly depend on them.
    for score in ("k-NN", "LogME", "GBC"):
        assert trained.scores[score].value > random.scores[score].value, score


def few_classes(domain, count):
    """The first classes of a domain."""
    kept = np.flatnonzero(np.isin(domain.labels, sorted(set(domain.labels))[:count]))
    names = domain.class_names and tuple(sorted(set(domain.labels[kept])))
    return dataclasses.replace(
        domain,
        samples=Rows(domain.samples, kept),
        labels=domain.labels[kept],
        ids=None,
        class_names=names,
    )


class Rows:
    """Some of the samples."""

    def __init__(self, samples, rows):
        self.samples, self.rows = samples, rows

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, indices):
        return self.samples.__getitems__(self.rows[np.asarray(indices)].tolist())


def test_the_cifar_resnet_brings_its_head(tmp_path):
    if DATA is None:
        pytest.skip("DOMADAPT_DATA is not set")
    weights = Path(DATA) / "models" / "resnet20-12fca82f.th"
    if not weights.exists():
        pytest.skip(f"there is no {weights}")
    file = tmp_path / "cifar.py"
    file.write_text(CIFAR)
    model = f"{file}:resnet20={weights}"
    found = rank([model, f"{file}:resnet20"], load("digits:handwritten"), samples=300)
    best = found.models[0]
    assert best.model == model
    assert best.width == 64
    assert -math.log(10) < best.scores["LEEP"].value < -0.5
    assert best.scores["k-NN"].value > found.models[1].scores["k-NN"].value + 0.05


CIFAR = """
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, o // i, 1, bias=False)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.more = (o - i) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for k, (i, o) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            setattr(self, f"layer{k}", nn.Sequential(Block(i, o), Block(o, o), Block(o, o)))
        self.linear = nn.Linear(64, n_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet20(n_classes=10):
    stated = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return ResNet(n_classes), {"size": (32, 32), **stated}
"""


# What is said -----------------------------------------------------------------------------------


def test_the_command_writes_tables_and_a_figure(own, tmp_path, monkeypatch, capsys):
    x, y = vectors()
    np.savez(tmp_path / "s.npz", x=x, y=y)
    line = f"transferability rank {own}:telling {own}:silent mlp --data {tmp_path / 's.npz'}"
    code, out, _ = command(f"{line} --out {tmp_path / 'out'}", monkeypatch, capsys)
    assert code == 0
    for said in ("own.py:telling", "LogME", "Rank agreement", "2510.06448", "none saw the target"):
        assert said in out
    assert str(tmp_path / "own.py") not in out  # the folder of one's own file is left out
    kept = json.loads((tmp_path / "out" / "rank.json").read_text())
    assert kept["models"][0]["model"] == f"{own}:telling"
    assert kept["models"][0]["scores"]["LogME"]["value"] == pytest.approx(logme(x[:, :3], y), 1e-5)
    assert kept["agreement"]["LogME"]["GBC"] == pytest.approx(1)
    page = (tmp_path / "out" / "rank.md").read_text()
    assert "rank.png" in page
    assert "arXiv:2102.11005" in page
    assert (tmp_path / "out" / "rank.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "out" / "rank.svg").read_text()


def command(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def test_tables_hold_every_model_and_score(own):
    found = rank([f"{own}:silent", f"{own}:telling"], domain())
    models, scores, seconds = tables(found)
    assert [row[0] for row in models.rows] == ["own.py:telling", "own.py:silent"]
    assert scores.heads == ["model", *(n for n in found.score_names if n != PROBE)]
    assert "LEEP" not in scores.heads  # no model has it
    assert len(seconds.rows[0]) == len(seconds.heads)
    assert any("at least 3 models" in note for note in found.notes)
    assert json.loads(to_json(found))["classes"] == 3
    assert "No trained head" in markdown(found)
    drawn = figure(found)
    texts = {t.get_text() for axes in drawn.axes for t in axes.texts}
    assert {"1", "2", number(found.models[0].scores["GBC"].value)} <= texts


def test_models_that_the_probe_cannot_tell_apart_are_named(own):
    found = rank([f"{own}:telling", f"{own}:silent", f"{own}:also"], domain())
    [note] = [note for note in found.notes if "cannot be told apart" in note]
    assert "(own.py:telling): own.py:also." in note
    assert "silent" not in note


def test_places_and_short_names():
    assert ranks([3.0, None, 5.0, 3.0, 1.0]) == [2, None, 1, 2, 4]
    assert ranks([30.0, 29.99999999999, 29.99]) == [1, 1, 3]
    names = ["a/own.py:f=w/1.pth", "a/own.py:g", "b/own.py:g", "timm:x/y", "runs/first"]
    assert short_names(names) == ["own.py:f=1.pth", *names[1:]]
    assert [size_text(n) for n in (12, 26_000, 11_689_512)] == ["12", "26 k", "11.7 M"]
    assert [number(v) for v in (None, 0.123456, 12345.6)] == ["–", "0.1235", "12346"]


def test_a_score_that_is_undefined_does_not_stop_the_others(own, monkeypatch):
    from domadapt.transfer import rank as module

    def broken(*_):
        raise DomadaptError("no such thing here.")

    monkeypatch.setitem(module.FEATURE_SCORES, "GBC", broken)
    monkeypatch.setitem(module.FEATURE_SCORES, "SFDA", lambda *_: math.nan)
    found = rank([f"{own}:telling"], domain())
    scores = found.models[0].scores
    assert (scores["GBC"].value, scores["SFDA"].value) == (None, None)
    assert scores["LogME"].value is not None
    assert any("no GBC (no such thing here.)" in note for note in found.notes)
    json.loads(to_json(found))


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([], "at least one"),
        (["mlp", "mlp"], "given twice"),
        (["resnet1"], "no model 'resnet1'"),
        (["mlp="], "backbone=WEIGHTS"),
        (["resnet18=nowhere.pth"], "no weights file nowhere.pth"),
        (["lenet"], "lenet takes images"),
        (["own.py"], "path.py:function"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_in_a_sentence(models, says, monkeypatch):
    with pytest.raises(DomadaptError) as refusal:
        rank(models, domain())
    assert says in str(refusal.value)


def test_names_are_checked_before_features_are_computed(own, monkeypatch):
    from domadapt.transfer import rank as module

    def refuse(*_, **__):
        raise AssertionError("features were computed")

    monkeypatch.setattr(module, "extract", refuse)
    with pytest.raises(DomadaptError, match="no model"):
        rank([f"{own}:telling", "resnet1"], domain())


def test_folders_and_files_of_runs_stand_alone(tmp_path):
    with pytest.raises(DomadaptError, match="run's folder is given alone"):
        parse(f"mlp={tmp_path}")
    made = build_backbone("features", torch.zeros(2, 3))
    save_weights(Network(made.module, torch.nn.Linear(3, 2)), tmp_path / "model.safetensors")
    with pytest.raises(DomadaptError, match=r"config\.json|run"):
        rank([str(tmp_path)], domain())


def test_features_without_difference_and_too_few_samples_are_refused(own):
    with pytest.raises(DomadaptError, match="constant cannot be probed: The features of all"):
        rank([f"{own}:constant"], domain())
    with pytest.raises(DomadaptError, match="at least 10 samples"):
        rank(["mlp"], domain(), samples=5)
    with pytest.raises(DomadaptError, match="must be labelled"):
        rank(["mlp"], from_arrays(vectors()[0]))


def test_the_command_refuses_in_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    x, y = vectors()
    np.savez(tmp_path / "s.npz", x=x, y=y)
    np.savez(tmp_path / "bare.npz", x=x)
    at = f"--data {tmp_path / 's.npz'}"
    for line, says in [
        (f"transferability rank mlp {at} --out {tmp_path / 'file'}", "--out needs a folder"),
        (f"transferability rank mlp {at} --cache {tmp_path / 'file'}", "--cache needs a folder"),
        (f"transferability rank mlp --data {tmp_path / 'bare.npz'}", "Labels are required"),
        ("transferability rank mlp", "--data"),
        (f"transferability rank {at}", "MODEL"),
        (f"transferability rank mlp {at} --folds 1", "at least 2 folds"),
    ]:
        code, _, err = command(line, monkeypatch, capsys)
        assert code == 2, line
        assert says in err, line
        assert "Traceback" not in err
    assert SIZE == "parameters"
