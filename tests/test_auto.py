"""`adapt(method="auto")`: what it tries, chooses and keeps, and that no target label has a say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from run_bits import bits
from small import N_CLASSES, N_FEATURES, arrays, calibrated, same_bits, small_task, trained_network
from torch import Tensor

from domadapt import DomadaptError, Network, Task, adapt, checkpoint, from_arrays
from domadapt.adaptation import candidate_names, check, cost_in_words
from domadapt.adaptation import folder as saving
from domadapt.adaptation import run as running
from domadapt.methods import Method, register, registry
from domadapt.methods.base import BatchOutputs
from domadapt.runs.saved import load_run, predict
from domadapt.selection import portfolio
from domadapt.selection.evidence import Evidence
from domadapt.selection.validators import scores_of
from domadapt.selection.verdict import Verdict
from domadapt.task import Batch

RENDER = saving.render
QUICK = {"steps": 20, "batch_size": 16, "log_every": 5, "checkpoint_every": 5, "device": "cpu"}
STANDARD = ["source_only", "dan", "mcc", "infomax", "shot"]


def auto(task: Any, **more: Any) -> Any:
    training = {**QUICK, **more.pop("training", {})}
    return adapt(task, training=training, **{"look": False, "export": (), **more})


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pages, which take most of the time, and files that nobody flushes to the disk."""
    monkeypatch.setattr(saving, "render", lambda _: "")
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Evidence], Verdict]]:
    """What every run after this judges, and how."""
    seen: list[tuple[list[Evidence], Verdict]] = []
    judge = running.judge

    def keeping(candidates: list[Evidence], *more: Any) -> Verdict:
        verdict = judge(candidates, *more)
        seen.append((candidates, verdict))
        return verdict

    monkeypatch.setattr(running, "judge", keeping)
    return seen


# Poison ----------------------------------------------------------------------------------------


def evidence_bits(candidates: list[Evidence]) -> dict[str, bytes]:
    """The bytes of every tensor that is judged."""
    found = {}
    for e in candidates:
        for what in ("target", "source_val", "source_train"):
            outputs = getattr(e, what)
            for part in ("logits", "z", "y", "rows"):
                value = getattr(outputs, part)
                if value is not None:
                    found[f"{e.name}/{what}/{part}"] = value.numpy().tobytes()
        assert e.others is not None
        assert e.mixed is not None
        found[f"{e.name}/mixed"] = e.mixed(torch.arange(9), torch.arange(9, 18), 0.55).numpy()
        found |= {f"{e.name}/others/{n}": x.numpy().tobytes() for n, x in e.others.items()}
        if e.twin is not None:
            found[f"{e.name}/twin"] = e.twin.numpy().tobytes()
    return {name: bytes(value) for name, value in found.items()}


def poisons() -> dict[str, Any]:
    y = arrays(seed=2, n=90)[1]
    return {
        "permuted": np.random.default_rng(0).permutation(y),
        "constant": np.zeros_like(y),
        "absent": None,
        "adversarial": (y + 1) % N_CLASSES,
        "partly": np.where(np.arange(90) < 45, y, np.nan),
    }


def test_target_labels_have_no_say(
    tmp_path: Path, judged: list[tuple[list[Evidence], Verdict]]
) -> None:
    true = auto(small_task(), out=tmp_path / "true").report
    assert [c.name for c in true.candidates] == STANDARD
    (evidence, verdict), *_ = judged
    assert all(e.target.y is None for e in evidence)
    assert true.candidates[1].scores == scores_of(evidence[1])
    for name, labels in poisons().items():
        false = auto(small_task(labels), out=tmp_path / name).report
        again, other = judged[-1]
        assert evidence_bits(again) == evidence_bits(evidence)
        assert other.to_dict() == verdict.to_dict()
        assert other.set_aside == verdict.set_aside
        assert false.verdict == true.verdict
        assert (false.chosen, false.method) == (true.chosen, true.method)
        assert bits(tmp_path / name) == bits(tmp_path / "true")
        for a, b in zip(true.candidates, false.candidates, strict=True):
            assert (a.scores, a.estimate, a.set_aside) == (b.scores, b.estimate, b.set_aside)
            assert a.target != b.target  # where alone they are read


def test_labels_of_the_test_samples_have_no_say(tmp_path: Path) -> None:
    x, y = arrays(seed=9, shift=2.0, n=60)
    (x_s, y_s), (x_t, y_t) = arrays(seed=1, shift=0.0), arrays(seed=2, shift=2.0, n=90)
    for name, of_target, of_test in (("true", y_t, y), ("false", None, (y + 1) % N_CLASSES)):
        task = Task(
            from_arrays(x_s, y_s, name="s"),
            from_arrays(x_t, of_target, name="t"),
            target_test=from_arrays(x, of_test, name="test"),
        )
        auto(task, budget="quick", out=tmp_path / name)
    assert bits(tmp_path / "true") == bits(tmp_path / "false")


def test_nothing_that_judges_can_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both doors of `Task` raise while candidates are trained and judged."""
    judge, gather, train = running._judge, running.gather, running._train
    done: list[str] = []

    def shut(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*given: Any, **more: Any) -> Any:
            def never(self: Task) -> None:
                raise AssertionError("target labels were asked for")

            with monkeypatch.context() as patch:
                patch.setattr(Task, "_labels_for_evaluate", never)
                patch.setattr(Task, "oracle", never)
                found = function(*given, **more)
            done.append(name)
            return found

        return inside

    calibration, evident = running._calibration, running._with_evidence
    for name, function in {
        "_judge": judge,
        "gather": gather,
        "_train": train,
        "_calibration": calibration,
        "_with_evidence": evident,
    }.items():
        monkeypatch.setattr(running, name, shut(name, function))
    auto(small_task(), budget="quick")
    assert set(done) == {"_judge", "gather", "_train", "_calibration", "_with_evidence"}


# Budgets ---------------------------------------------------------------------------------------


def test_quick_tries_fewer(judged: list[tuple[list[Evidence], Verdict]]) -> None:
    report = auto(small_task(), budget="quick").report
    assert [c.name for c in report.candidates] == ["source_only", "infomax", "shot"]
    assert report.verdict is not None
    assert report.verdict["budget"] == "quick"
    assert report.verdict["portfolio"] == portfolio.VERSION
    assert report.verdict["left_out"] == {}
    assert all(e.twin is None for e in judged[0][0])
    assert report.candidates[1].settings["infomax_weight"] == 0.1


def test_thorough_trains_each_twice_and_uses_the_twins(
    tmp_path: Path, judged: list[tuple[list[Evidence], Verdict]]
) -> None:
    report = auto(small_task(), budget="thorough", out=tmp_path / "run").report
    assert [c.name for c in report.candidates] == STANDARD
    evidence, verdict = judged[0]
    # The twins are the candidates of a run with the next seed.
    auto(small_task(), seed=1)
    by_name = {e.name: e for e in judged[1][0]}
    for e in evidence:
        assert e.twin is not None
        assert torch.equal(e.twin, by_name[e.name].target.logits)
        assert not torch.equal(e.twin, e.target.logits)
        same = (e.twin.argmax(1) == e.target.logits.argmax(1)).double().mean()
        parts = verdict.estimates[e.name].parts
        if verdict.estimates[e.name].accuracy is not None:
            assert parts["agreement_seeds"] == pytest.approx(float(same))
    # They are no candidates themselves, and change none.
    auto(small_task())
    assert evidence_bits(judged[2][0]).items() <= evidence_bits(evidence).items()
    kept = {p.name for p in (tmp_path / "run/second-seed/candidates").iterdir()}
    assert kept == set(STANDARD)


def test_the_cost_is_said_before_anything_is_done(tmp_path: Path) -> None:
    task = small_task()
    said = check(task, training=QUICK)
    assert "Candidates source_only, dan, mcc, infomax, shot, seed 0" in said
    assert "5 trainings (source_only, dan, mcc, infomax, shot; portfolio" in said
    assert "budget standard), about" in said
    assert "times one of source_only" in said
    assert "3 trainings (source_only, infomax, shot;" in check(task, budget="quick")
    assert cost_in_words(task, "auto", "thorough").startswith("10 trainings")
    one, two = portfolio.cost(("mcc",), 1), portfolio.cost(("mcc",), 2)
    assert one is not None
    assert two == pytest.approx(2 * one)
    assert "Cost" not in check(task, method="mcc")
    assert candidate_names(task, "auto", "quick") == ["source_only", "infomax", "shot"]


# Candidates that go wrong ----------------------------------------------------------------------


class Diverges(Method):
    """Not a number from a third of the way on (Nobody, 2026, arXiv:0000.00000)."""

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """A loss that is NaN later."""
        return {"toy": out.logits_t.mean() * (math.nan if batch.progress > 0.3 else 0.0)}


class Collapses(Method):
    """Everything becomes class 0 (Nobody, 2026, arXiv:0000.00000)."""

    def terms(self, out: BatchOutputs, batch: Batch) -> dict[str, Tensor]:
        """The distance from certainty of class 0."""
        first = torch.zeros(len(out.logits_t), dtype=torch.long)
        return {"toy": 1e3 * torch.nn.functional.cross_entropy(out.logits_t, first)}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick portfolio with one that diverges, one that collapses, and a sound one."""
    registry.method_names()  # all are registered before the registry is copied
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    register("toy_diverges")(Diverges)
    register("toy_collapses")(Collapses)
    entries = (("toy_diverges", {}), ("toy_collapses", {}), ("mcc", {}))
    monkeypatch.setitem(portfolio.PORTFOLIO, "quick", entries)


WRONG: dict[str, Any] = {"budget": "quick", "training": {"steps": 40, "lr": 0.02}}


@pytest.mark.usefixtures("toys")
def test_what_diverges_is_left_out_and_what_collapses_is_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = auto(small_task(), out=run, **WRONG).report
    assert [c.name for c in report.candidates] == ["source_only", "toy_collapses", "mcc"]
    assert report.verdict is not None
    assert list(report.verdict["left_out"]) == ["toy_diverges"]
    assert "the loss term 'toy' became NaN" in report.verdict["left_out"]["toy_diverges"]
    reason = "its predictions fell into 1.0 classes in effect, those of source_only into 2.9"
    first, second = report.verdict["set_aside"]["toy_collapses"][:2]
    assert first == f"its training was stopped early: {reason}"
    assert (
        second == "its predictions fall into 1.0 classes in effect, those of source_only into 2.9"
    )
    assert any(s.startswith("toy_collapses was set aside:") for s in report.verdict["because"])
    assert report.candidates[1].set_aside == report.verdict["set_aside"]["toy_collapses"]
    assert report.chosen == "mcc"
    held = {
        name: json.loads((run / f"candidates/{name}/result.json").read_text())
        for name in ("source_only", "toy_collapses", "mcc")
    }
    assert held["toy_collapses"]["stopped"] == reason
    assert held["mcc"]["stopped"] == held["source_only"]["stopped"] == ""
    # Half of the steps, and no more.
    assert held["toy_collapses"]["history"]["step"] == [5, 10, 15, 20]
    assert held["mcc"]["history"]["step"][-1] == 40
    # A method that is asked for by name is trained to its end, and one that diverges refused.
    named = auto(small_task(), method="toy_collapses", training=WRONG["training"]).report
    assert named.candidates[1].history["step"][-1] == 40
    with pytest.raises(DomadaptError, match="became NaN"):
        auto(small_task(), method="toy_diverges")


@pytest.mark.usefixtures("toys")
def test_a_candidate_is_stopped_whatever_the_curves_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No point of the curves falls on the check: one is made for it, and a page can be drawn."""
    monkeypatch.setattr(saving, "render", RENDER)
    how = {**WRONG, "training": {**WRONG["training"], "log_every": 33}}
    report = auto(small_task(), out=tmp_path / "run", **how).report
    assert report.candidates[1].history["step"] == [20]
    assert report.candidates[2].history["step"] == [33, 40]


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("which", ["toy_collapses", "mcc"])
def test_a_run_with_a_stopped_candidate_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    auto(small_task(), out=tmp_path / "whole", **WRONG)
    write = checkpoint.write_json

    def killed(path: Path, value: Any) -> None:
        # After training has ended, before that is known: what is left is the last checkpoint.
        if path.name == "result.json" and path.parent.name == which:
            raise KeyboardInterrupt
        write(path, value)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            auto(small_task(), out=run, **WRONG)
    assert (run / "candidates" / which / "checkpoint.safetensors").exists()
    auto(small_task(), out=run, resume=True, **WRONG)
    assert bits(run) == bits(tmp_path / "whole")
    for name in ("toy_collapses", "mcc"):
        one, two = (
            json.loads((tmp_path / f / f"candidates/{name}/result.json").read_text())
            for f in ("run", "whole")
        )
        assert one["stopped"] == two["stopped"]
        assert one["history"]["step"] == two["history"]["step"]
        assert one["history"]["loss/source"] == two["history"]["loss/source"]
    verdicts = []
    for folder in (run, tmp_path / "whole"):
        verdict = json.loads((folder / "report.json").read_text())["verdict"]
        # The only difference is the folder that is named.
        left = verdict["left_out"]["toy_diverges"].replace(str(folder), "")
        verdicts.append({**verdict, "left_out": left})
    assert verdicts[0] == verdicts[1]


def test_being_watched_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = auto(small_task(), budget="quick")
    asked: list[str] = []
    hopeless = running.hopeless

    def counted(*given: Any) -> Callable[[Network], str]:
        why = hopeless(*given)

        def ask(network: Network) -> str:
            asked.append("")
            return why(network)

        return ask

    monkeypatch.setattr(running, "hopeless", counted)
    again = auto(small_task(), budget="quick")
    assert len(asked) == 4  # two candidates, at half and at three quarters
    monkeypatch.setattr(running, "hopeless", lambda *_: None)
    alone = auto(small_task(), budget="quick")
    assert same_bits(watched.network, again.network)
    assert same_bits(watched.network, alone.network)
    for a, b in zip(watched.report.candidates, alone.report.candidates, strict=True):
        assert a.scores == b.scores
        assert a.history.get("loss/source") == b.history.get("loss/source")


# What is refused -------------------------------------------------------------------------------


def test_settings_are_of_one_method() -> None:
    with pytest.raises(DomadaptError, match="temperature is a setting of one method, and auto"):
        auto(small_task(), settings={"temperature": 3})
    with pytest.raises(DomadaptError, match="keep must be 'chosen' or 'adapted'; got 'best'"):
        auto(small_task(), keep="best")
    with pytest.raises(DomadaptError, match="standard"):
        auto(small_task(), budget="standart")


def test_a_regression_is_refused_in_a_sentence() -> None:
    x, _ = arrays()
    task = Task(from_arrays(x, x[:, 0], regression=True), from_arrays(x + 1))
    with pytest.raises(DomadaptError, match="labels of this task are measurements; name a method"):
        auto(task)
    with pytest.raises(DomadaptError, match="name a method"):
        check(task)
    # Named, it is trained beside source_only and kept: there is no criterion to choose by.
    report = auto(task, method="dan").report
    assert report.chosen == "dan"
    assert report.verdict is None


# What is kept ----------------------------------------------------------------------------------

COLLAPSE: dict[str, Any] = {
    "method": "entropy",
    "settings": {"entropy_weight": 1e4},
    "training": {"steps": 60, "lr": 0.05},
}


def crowded(target_labels: bool = False) -> Task:
    """Two thirds of the target lie where the classes meet."""
    x, y = arrays(seed=2, shift=2.0, n=90)
    x[30:, :N_CLASSES] = 1.0 + 0.3 * np.random.default_rng(0).normal(size=(60, N_CLASSES))
    x_s, y_s = arrays(seed=1, shift=0.0)
    return Task(from_arrays(x_s, y_s), from_arrays(x, y if target_labels else None))


def same_as_predicted(folder: Path, x: np.ndarray) -> Tensor:
    """The probabilities of a run's model, after a comparison with its table."""
    p = predict(load_run(folder), from_arrays(x))
    table = pd.read_csv(folder / "predictions.csv")
    names = json.loads((folder / "config.json").read_text())["class_names"]
    assert [names[i] for i in p.argmax(1)] == table["class"].astype(str).tolist()
    np.testing.assert_allclose(p.max(1).values.numpy(), table["probability"], atol=1e-6)
    return p


def test_a_collapsed_model_is_not_kept(tmp_path: Path) -> None:
    task = crowded()
    network, report = auto(task, out=tmp_path / "run", **COLLAPSE)
    assert report.verdict is not None
    assert report.verdict["sentence"].startswith(
        "Keep the source-only model: no adapted candidate is safely better. Its estimated target "
        "accuracy is"
    )
    assert report.summary().startswith(report.verdict["sentence"])
    assert list(report.verdict["set_aside"]) == ["entropy"]
    assert report.chosen == report.verdict["chosen"] == report.verdict["kept"] == "source_only"
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["method"]["name"] == "source_only"
    assert report.method == config["method"]["settings"]
    # The very network that is trained without a target.
    alone = auto(task, method="source_only", training=COLLAPSE["training"])
    assert same_bits(network, alone.network)
    x = task.target_train.fetch(np.arange(90))
    assert isinstance(x, Tensor)
    same_as_predicted(tmp_path / "run", x.numpy())


def test_it_is_kept_if_that_is_asked_for(tmp_path: Path) -> None:
    task = crowded()
    network, report = auto(task, out=tmp_path / "run", keep="adapted", **COLLAPSE)
    assert report.verdict is not None
    assert report.verdict["chosen"] == "source_only"
    assert report.verdict["sentence"].startswith("Keep the source-only model")
    assert report.chosen == report.verdict["kept"] == "entropy"
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["method"]["name"] == "entropy"
    assert config["method"]["settings"] == {"entropy_weight": 1e4}
    chosen, _ = checkpoint.load_tensors(tmp_path / "run/model.safetensors")
    own, _ = checkpoint.load_tensors(tmp_path / "run/candidates/entropy/model.safetensors")
    assert all(torch.equal(v, own[k]) for k, v in chosen.items())
    x = task.target_train.fetch(np.arange(90))
    assert isinstance(x, Tensor)
    p = same_as_predicted(tmp_path / "run", x.numpy())
    torch.testing.assert_close(p, calibrated(tmp_path / "run", network)(x).softmax(1))


def test_the_run_is_that_of_the_kept_model(tmp_path: Path) -> None:
    task = small_task()
    network, report = auto(task, out=tmp_path / "run", training={"steps": 60})
    assert report.verdict is not None
    kept = next(c for c in report.candidates if c.name == report.chosen)
    assert report.chosen == report.verdict["chosen"] == report.verdict["kept"]
    assert report.chosen == next(iter(report.verdict["ranking"]))
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["method"] == {"name": kept.method, "settings": kept.settings}
    assert report.method == kept.settings
    held, _ = checkpoint.load_tensors(tmp_path / f"run/candidates/{kept.name}/model.safetensors")
    assert all(torch.equal(v, held[k]) for k, v in network.cpu().state_dict().items())
    assert config["calibration"]["temperature"] == report.verdict["calibration"]["temperature"]
    x = arrays(seed=2, shift=2.0, n=90)[0]
    p = same_as_predicted(tmp_path / "run", x)
    # softmax(logits / T + offset), by NumPy
    with torch.no_grad():
        a = network(torch.from_numpy(x)).double().numpy() / config["calibration"]["temperature"]
    a += np.array(config["calibration"]["offset"])
    expected = np.exp(a - a.max(1, keepdims=True))
    np.testing.assert_allclose(p.numpy(), expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_probabilities_of_a_network_that_is_far_too_sure(tmp_path: Path) -> None:
    """Its probabilities vanish in float32, and the temperature brings them back."""
    network = trained_network()
    network.head.weight.data *= 100
    network.head.bias.data *= 100
    x_s, y_s = arrays(seed=1, shift=0.0)
    y_s = np.where(np.arange(120) % 5 == 0, (y_s + 1) % N_CLASSES, y_s)  # a fifth is mislabelled
    x, _ = arrays(seed=2, shift=2.0, n=90)
    task = Task(from_arrays(x_s, y_s), from_arrays(x))
    run = tmp_path / "run"
    auto(task, model=network, method="source_only", out=run, training={"steps": 1, "lr": 1e-9})
    config = json.loads((run / "config.json").read_text())
    assert config["calibration"]["temperature"] > 10
    with torch.no_grad():
        raw = network.eval()(torch.from_numpy(x))
    least = raw.softmax(1).min(1).values
    assert float((least < 1e-30).double().mean()) > 0.5
    same_as_predicted(run, x)


# Without a source ------------------------------------------------------------------------------


def test_auto_without_a_source(tmp_path: Path) -> None:
    first = tmp_path / "first"
    network, _ = auto(small_task(), method="source_only", out=first, training={"steps": 60})
    x = arrays(seed=4, shift=2.0, n=90)[0]
    out = tmp_path / "second"
    kept, report = auto(from_arrays(x), checkpoint_file=first, out=out)
    assert [c.name for c in report.candidates] == ["source_only", "adabn", "shot"]
    assert report.verdict is not None
    assert report.verdict["left_out"] == {}
    # The model that was brought along is the baseline, as it is.
    p = report.candidates[0].scores["entropy"]
    with torch.no_grad():
        said = network(torch.from_numpy(x)).double().softmax(1)
    assert -float(torch.special.entr(said).sum(1).mean()) == pytest.approx(p, rel=1e-4)
    # Nothing is known of accuracy without labels of any kind, and nothing is calibrated.
    for c in report.candidates:
        assert c.estimate is not None
        assert c.estimate["accuracy"] is None
        assert c.estimate["refused"].startswith("Without labelled source validation")
    config = json.loads((out / "config.json").read_text())
    assert config["calibration"] == {"temperature": 1.0, "offset": [0.0] * N_CLASSES}
    assert config["method"]["name"] == report.chosen
    p_t = same_as_predicted(out, x)
    with torch.no_grad():
        torch.testing.assert_close(p_t, kept(torch.from_numpy(x)).softmax(1))


def test_auto_without_a_source_or_batchnorm_leaves_adabn_out(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text(
        "from torch import nn\n\ndef plain():\n"
        f"    return nn.Sequential(nn.Linear({N_FEATURES}, 16), nn.ReLU())\n"
    )
    first = tmp_path / "first"
    auto(small_task(), model=f"{file}:plain", method="source_only", out=first)
    x = arrays(seed=4, shift=2.0, n=90)[0]
    report = auto(from_arrays(x), checkpoint_file=first).report
    assert [c.name for c in report.candidates] == ["source_only", "shot"]
    assert report.verdict is not None
    assert "BatchNorm" in report.verdict["left_out"]["adabn"]


def test_auto_on_an_open_set() -> None:
    (x_s, y_s), (x_t, y_t) = arrays(seed=1, shift=0.0), arrays(seed=2, shift=1.0, n=90)
    known = y_s < 2
    task = Task(from_arrays(x_s[known], y_s[known]), from_arrays(x_t, y_t), extra_classes="unknown")
    report = auto(task).report
    assert [c.name for c in report.candidates] == ["source_only", "dann", "ovanet"]
    assert report.verdict is not None
    assert report.chosen == report.verdict["chosen"]
