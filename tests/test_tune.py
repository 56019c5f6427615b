"""`tune`: what it searches, what it chooses by, and that it goes on as if never interrupted."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import N_FEATURES, arrays, small_task

from domadapt import checkpoint, cli
from domadapt.adaptation import adapt
from domadapt.data import from_arrays
from domadapt.errors import DomadaptError
from domadapt.methods import method_class, method_names, registry
from domadapt.report import drawing
from domadapt.runs.saved import load_run, predict
from domadapt.settings import settings_of
from domadapt.task import Task
from domadapt.trainer import Trainer

optuna = pytest.importorskip("optuna", reason="the search needs the extra optuna")

from domadapt.tune import LR, Found, Tuned, search_space, tune  # noqa: E402  (needs optuna)
from domadapt.tune import run as entrance  # noqa: E402
from domadapt.tune import search as module  # noqa: E402
from domadapt.tune.space import Space  # noqa: E402

#: Trials; the last one is proposed by what the sampler has learnt from five.
N = 6
TRAINING = {"steps": 6, "batch_size": 16, "device": "cpu", "log_every": 2, "checkpoint_every": 2}

#: At the default rate, which some tests search, nothing is learnt in so few steps.
FAST = {**TRAINING, "steps": 12, "lr": 3e-3}


def hasten(patch: pytest.MonkeyPatch) -> None:
    """The run at the end without maps and pictures, and files that nobody flushes to the disk."""
    patch.setattr(entrance, "adapt", partial(adapt, look=False))
    patch.setattr(drawing, "to_svg", lambda *_, **__: "<svg/>")
    patch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick, and methods of a test stay in it."""
    hasten(monkeypatch)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def search(out: Path, **more: Any) -> Tuned:
    given: dict[str, Any] = {
        "methods": "dann",
        "trials": 3,
        "validator": "information_maximisation",
        "training": FAST,
        "export": (),
    }
    task = more.pop("task", None) or small_task()
    return tune(task, "mlp", out=out, **{**given, **more})


def trials_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def told(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what a clock said."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# What is searched ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", method_names())
def test_the_space_of_every_method(name: str) -> None:
    """Real settings, ranges that they can take, and the default within."""
    cls, settings = method_class(name), settings_of(method_class(name))
    found = search_space(name)
    assert set(found) == set(cls.space) <= set(settings)
    for key, given in cls.space.items():
        default = settings[key].default
        if isinstance(given, list):
            assert len(set(given)) == len(given) > 1
            assert default in given
            assert tuple(found[key].choices) == tuple(given)
            continue
        low, high, scale = given
        assert low <= default <= high
        assert low < high
        assert scale in ("log", "linear")
        assert low > 0 or scale == "linear"
        assert (found[key].low, found[key].high, found[key].log) == (low, high, scale == "log")
        whole = isinstance(default, int)
        assert isinstance(found[key], optuna.distributions.IntDistribution) == whole


def test_the_space_of_a_combination_and_of_the_learning_rate() -> None:
    assert set(search_space("dann+mcc")) == {
        "dann.domain_weight",
        "mcc.mcc_weight",
        "mcc.temperature",
    }
    assert set(search_space("mcc", fixed=["temperature"])) == {"mcc_weight"}
    lr = search_space("mcc", lr=0.02)[LR]
    assert (lr.low, lr.high, lr.log) == (pytest.approx(0.002), pytest.approx(0.2), True)
    assert search_space("source_only", lr=0.02).keys() == {LR}
    assert search_space("adabn", lr=0.02) == {}  # it minimises nothing


METHOD = """
import torch
from domadapt.methods.base import Method
from domadapt.methods.registry import register

@register("{name}")
class Mine(Method):
    '''Its own.'''
    space = {space}
    def __init__(self, network, *, mine_weight: float = 1.0, whole: int = 2, way: str = "a"):
        super().__init__(network)
        self.mine_weight, self.whole, self.way = mine_weight, whole, way
    def terms(self, out, batch):
        return {{"mine": {term}}}
"""


def own_method(place: Path, name: str, space: str, term: str = "out.z_t.square().mean()") -> str:
    file = place / f"{name}.py"
    file.write_text(METHOD.format(name=name, space=space, term=term))
    return str(file)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{'strange': (0.1, 1.0, 'log')}", "strange: the method has no such setting"),
        ("{'mine_weight': (1.0, 0.1, 'log')}", "low must be below high"),
        ("{'mine_weight': (0.0, 1.0, 'log')}", "above 0"),
        ("{'mine_weight': (0.1, 1.0)}", "a list of choices is required"),
        ("{'mine_weight': (0.1, 1.0, 'cubic')}", "a list of choices is required"),
        ("{'whole': (0.5, 2.5, 'linear')}", "must be a whole number"),
        ("{'mine_weight': []}", "the list of choices is empty"),
    ],
)
def test_a_wrong_space_is_refused(tmp_path: Path, space: str, said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        search_space(own_method(tmp_path, "mine_wrong", space))


# What is found ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tuned, Path]]:
    """A search that nobody interrupted."""
    folder = tmp_path_factory.mktemp("tune") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        yield search(folder, methods="mcc", trials=N), folder


def logits_of(folder: Path) -> np.ndarray:
    tensors, _ = checkpoint.load_tensors(folder / module.EVIDENCE)
    return tensors["logits"].double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def mutual_information(logits: np.ndarray) -> float:
    p = softmax(logits)
    q = p.mean(0)
    return float((p * np.log(p)).sum(1).mean() - (q * np.log(q)).sum())


def test_the_first_trial_has_the_defaults_and_the_others_lie_in_the_space(
    whole: tuple[Tuned, Path],
) -> None:
    rows = trials_of(whole[1])
    assert [row["trial"] for row in rows] == [str(i) for i in range(N)]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    settings = [(float(row["set:mcc_weight"]), float(row["set:temperature"])) for row in rows]
    assert settings[0] == (1.0, 2.5)
    assert len(set(settings)) == N
    assert all(0.1 <= w <= 3.0 and 1.0 <= t <= 5.0 for w, t in settings)


def test_the_highest_score_is_chosen(whole: tuple[Tuned, Path]) -> None:
    """The scores are the formula's on what each trial says; the labels only follow."""
    found, folder = whole
    rows = trials_of(folder)
    scores = [float(row["score"]) for row in rows]
    by_method = {row.method: row for row in found.rows}
    assert set(by_method) == {"mcc", "source_only"}
    best = by_method["mcc"]
    assert best.number == int(np.argmax(scores))
    assert best.score == max(scores)
    assert best.folder is not None
    assert best.score == pytest.approx(mutual_information(logits_of(best.folder)), rel=1e-9)
    assert best.searched == {
        "mcc_weight": float(rows[best.number]["set:mcc_weight"]),
        "temperature": float(rows[best.number]["set:temperature"]),
    }
    assert (best.trials, best.set_aside, best.failed) == (N, 0, 0)
    assert found.chosen is found.rows[0]
    assert found.chosen.score == max(row.score or 0.0 for row in found.rows)


def test_the_chosen_model_is_the_run(whole: tuple[Tuned, Path]) -> None:
    """The run keeps the trial itself, whatever its verdict, with calibrated probabilities."""
    found, folder = whole
    report = json.loads((folder / "report.json").read_text())
    assert report["chosen"] == found.chosen.method == "mcc"
    assert report["method"] == found.chosen.settings
    x, y = arrays(seed=2, shift=2.0, n=90)
    with torch.no_grad():
        p = found.network(torch.from_numpy(x)).softmax(1).numpy()
    assert found.chosen.folder is not None
    logits = logits_of(found.chosen.folder)
    np.testing.assert_allclose(p, softmax(logits), atol=1e-5)
    saved = predict(load_run(folder), from_arrays(x))
    calibration = report["verdict"]["calibration"]
    scaled = logits / calibration["temperature"]
    if calibration["prior_t"] is not None:
        scaled = scaled + np.log(np.array(calibration["prior_t"]) / calibration["prior_s"])
    np.testing.assert_allclose(saved.numpy(), softmax(scaled), atol=1e-5)
    accuracy = float((logits.argmax(1) == y).mean())
    assert found.chosen.target_accuracy == pytest.approx(accuracy)
    assert "target accuracy (labels, after the choice)" in found.table().columns


def forbidden(*_: Any, **__: Any) -> None:
    raise AssertionError("a finished trial was trained again")


def test_a_finished_search_is_not_run_again(
    whole: tuple[Tuned, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = whole
    before = told(trials_of(folder))
    written = (folder / "report.html").stat().st_mtime_ns
    monkeypatch.setattr(Trainer, "fit", forbidden)
    again = search(folder, methods="mcc", trials=N)
    assert again.rows == found.rows
    assert told(trials_of(folder)) == before
    assert (folder / "report.html").stat().st_mtime_ns == written


def test_more_trials_go_on_with_the_study(tmp_path: Path, whole: tuple[Tuned, Path]) -> None:
    first = search(tmp_path / "out", methods="mcc", trials=2)
    assert first.rows[0].folder is not None
    more = search(tmp_path / "out", methods="mcc", trials=N)
    assert {row.trials for row in more.rows} == {1, N}
    assert told(trials_of(tmp_path / "out")) == told(trials_of(whole[1]))
    assert (more.chosen.method, more.chosen.score) == (
        whole[0].chosen.method,
        whole[0].chosen.score,
    )


def test_target_labels_change_nothing(tmp_path: Path, whole: tuple[Tuned, Path]) -> None:
    """Other labels, and none at all: the same trials and the same choice."""
    wrong = small_task(np.zeros(90, dtype=np.int64))
    found = search(tmp_path / "out", methods="mcc", task=wrong)
    rows = told(trials_of(tmp_path / "out"))
    assert rows == told(trials_of(whole[1]))[:3]
    best = next(row for row in found.rows if row.method == "mcc")
    assert best.number == int(np.argmax([float(row["score"]) for row in rows]))
    assert best.target_accuracy is not None
    none = search(tmp_path / "none", task=small_task(None), trials=1)
    assert all(row.target_accuracy is None for row in none.rows)
    assert not [c for c in none.table().columns if "accuracy" in c]


# Killed -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
import test_tune as t

class Deadly:
    '''Kills its process at a step of a trial, counted over all trainings.'''
    stages = 0
    def stage(self, name, steps):
        Deadly.stages += 1
    def log(self, point):
        if Deadly.stages == int(sys.argv[3]) and point.step >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

t.search(Path(sys.argv[1]), methods="mcc", trials=t.N, progress=Deadly())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_in_the_middle_of_a_trial(
    tmp_path: Path, whole: tuple[Tuned, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the sixth trial, where the sampler has learnt from those before it."""
    out = tmp_path / "out"
    # Trainings in order: source_only, then the trials.
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), str(Path(__file__).parent), str(N + 1)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    study = optuna.load_study(study_name="domadapt/mcc", storage=f"sqlite:///{out / 'study.db'}")
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * (N - 1) + ["RUNNING"]
    ended = [t.datetime_complete for t in study.trials[: N - 1]]
    trained = []
    fit = Trainer.fit

    def counted(self: Trainer, *args: Any, **more: Any) -> Any:
        trained.append(self.method.name)
        return fit(self, *args, **more)

    monkeypatch.setattr(Trainer, "fit", counted)
    found = search(out, methods="mcc", trials=N)
    assert trained == ["mcc"]
    assert [t.datetime_complete for t in study.trials[: N - 1]] == ended
    assert told(trials_of(out)) == told(trials_of(whole[1]))
    assert found.chosen.score == whole[0].chosen.score
    p = found.network.state_dict()
    for key, value in whole[0].network.state_dict().items():
        assert torch.equal(p[key], value), key


# Parts of it, by themselves -----------------------------------------------------------------------


def make_search(folder: Path, trials: int = 4, seed: int = 0) -> Any:
    """A search that is opened and has trained nothing, with the space of mcc."""
    from domadapt.runs.plan import ModelSpec, make_plan
    from domadapt.selection.registry import get_validator

    plan = make_plan(small_task(), ModelSpec("mlp"))
    objective = get_validator("information_maximisation")
    made = module.Search(
        folder, plan, torch.device("cpu"), TRAINING, objective, trials, seed, None, print
    )
    space = Space("mcc", "mcc", {}, search_space("mcc"))
    made.open(None, "domadapt", {"mcc": space})
    return made, space, made.studies["mcc"]


def ended(study: Any, space: Any, n: int) -> None:
    """`n` finished trials of made-up settings, the best at a low temperature."""
    for i in range(n):
        params = {"mcc_weight": 0.5 + 0.1 * i, "temperature": 1.0 + 0.3 * i}
        trial = optuna.trial.create_trial(
            params=params, distributions=space.searched, value=-params["temperature"]
        )
        study.add_trial(trial)


def test_a_proposal_follows_from_number_and_finished_trials(tmp_path: Path) -> None:
    made, space, study = make_search(tmp_path / "a", trials=20)
    assert made._propose(study, space) == {"mcc_weight": 1.0, "temperature": 2.5}
    ended(study, space, 12)
    first = made._propose(study, space)
    assert made._propose(study, space) == first
    other, _, elsewhere = make_search(tmp_path / "b", trials=20)
    ended(elsewhere, space, 12)
    assert other._propose(elsewhere, space) == first
    seeded, _, third = make_search(tmp_path / "c", trials=20, seed=1)
    ended(third, space, 12)
    assert seeded._propose(third, space) != first


def test_the_sampler_learns(tmp_path: Path) -> None:
    """With low temperatures the best, proposals are lower than half-way."""
    made, space, study = make_search(tmp_path / "a", trials=40)
    ended(study, space, 12)
    proposed = []
    for _ in range(8):
        params = made._propose(study, space)
        proposed.append(params["temperature"])
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=space.searched, value=-params["temperature"]
            )
        )
    assert np.mean(proposed) < 2.5  # a uniform draw from [1, 5] has the mean 3


def test_a_trial_that_another_process_just_finished_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the states and locking a trial, another may end it and let go of it."""
    made, space, study = make_search(tmp_path / "a", trials=1)
    trial, lock = made._claim(study, space)
    before = made.all_trials(study)
    made._finish(study, space, trial, {"score": 1.0})
    lock.release()
    late, _, same = make_search(tmp_path / "a", trials=1)
    reads = iter([before])
    monkeypatch.setattr(late, "all_trials", lambda s: next(reads, None) or s.get_trials())
    assert late._claim(same, space) is None


def test_processes_share_trials(tmp_path: Path) -> None:
    """A trial that somebody works on is left to them; one whose process is gone is taken up."""
    made, space, study = make_search(tmp_path / "a", trials=2)
    first, lock = made._claim(study, space)
    other, _, same = make_search(tmp_path / "a", trials=2)
    second, others_lock = other._claim(same, space)
    assert (first.number, second.number) == (0, 1)
    assert other._claim(same, space) is None  # both are being worked on
    lock.release()
    again, lock = other._claim(same, space)
    assert again.number == 0
    assert again.params == first.params
    other._finish(same, space, again, {"score": 1.0})
    others_lock.release()
    lock.release()
    left, lock = made._claim(study, space)
    assert left.number == 1
    made._finish(study, space, left, {"failed": "it diverged"})
    lock.release()
    assert made._claim(study, space) is None
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL"]
    assert study.trials[1].user_attrs == {"failed": "it diverged"}


# What goes wrong ----------------------------------------------------------------------------------


def test_a_trial_that_diverges_is_told_and_stops_nothing(tmp_path: Path) -> None:
    term = "out.z_t.square().mean() * (1e38 if self.mine_weight > 5 else 1e-3)"
    spec = own_method(tmp_path, "mine_diverges", "{'mine_weight': [1.0, 1e3]}", term)
    said: list[str] = []
    found = search(tmp_path / "out", methods=spec, trials=6, say=said.append)
    row = next(r for r in found.rows if r.method == "mine_diverges")
    rows = trials_of(tmp_path / "out")
    bad = [r for r in rows if float(r["set:mine_weight"]) == 1e3]
    assert bad
    assert all(r["state"] == "FAIL" and "became NaN or infinite" in r["failed"] for r in bad)
    assert all(r["state"] == "COMPLETE" for r in rows if r not in bad)
    assert (row.failed, row.trials, row.searched) == (len(bad), 6, {"mine_weight": 1.0})
    assert any("failed: Training of mine_diverges stopped" in line for line in said)


def test_what_the_guard_sets_aside_is_never_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.guard

    def strict(candidate: Any, baseline: Any) -> list[str]:
        kept = candidate.name in ("mcc 0", baseline.name)
        return real(candidate, baseline) if kept else ["it is too good", "to be true"]

    monkeypatch.setattr(module, "guard", strict)
    found = search(tmp_path / "out", methods="mcc")
    rows = trials_of(tmp_path / "out")
    assert [r["state"] for r in rows] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [r["set_aside"] for r in rows[1:]] == ["it is too good; to be true"] * 2
    row = next(r for r in found.rows if r.method == "mcc")
    assert (row.number, row.set_aside) == (0, 2)


def test_no_trial_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "guard", lambda a, b: [] if a.name == b.name else ["no"])
    found = search(tmp_path / "out", trials=1)
    assert found.chosen.method == "source_only"
    assert found.rows[1].score is None
    assert found.rows[1].folder is None
    assert "none: every trial" in found.table()["settings"][1]
    assert (tmp_path / "out/config.json").exists()


def test_a_disk_that_fails_is_no_answer_about_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        save = checkpoint.save_tensors
        patch.setattr(
            checkpoint,
            "save_tensors",
            lambda path, *rest: full() if path.name == module.EVIDENCE else save(path, *rest),
        )
        with pytest.raises(OSError, match="No space"):
            search(tmp_path / "out", trials=1)
    found = search(tmp_path / "out", trials=1)
    assert trials_of(tmp_path / "out")[0]["state"] == "COMPLETE"
    assert found.rows[0].failed == found.rows[1].failed == 0


# A validator that compares all candidates ---------------------------------------------------------


def test_agreement_with_the_ensemble_is_computed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, np.ndarray] = {}
    real = module.together

    def spied(found: Any) -> Any:
        seen.update({e.name: e.target.logits.double().numpy() for e in found})
        return real(found)

    monkeypatch.setattr(module, "together", spied)
    said: list[str] = []
    found = search(
        tmp_path / "out", methods=["mcc", "dann"], trials=2, validator="ensv", say=said.append
    )
    assert set(seen) == {"source_only", "mcc 0", "mcc 1", "dann 0", "dann 1"}
    assert any("until then information_maximisation guides" in line for line in said)
    vote = np.mean([softmax(v) for v in seen.values()], axis=0).argmax(1)
    agreement = {name: float((v.argmax(1) == vote).mean()) for name, v in seen.items()}
    for row in found.rows:
        own = [v for name, v in agreement.items() if name.split()[0] == row.method]
        assert row.score == pytest.approx(max(own)), row.method
    assert found.chosen.score == pytest.approx(max(agreement.values()))


# The learning rate, and methods that go on from another -------------------------------------------


def test_source_only_is_tuned_like_the_rest(tmp_path: Path) -> None:
    found = search(tmp_path / "out", methods=["mcc"], trials=2, tune_lr=True, training=TRAINING)
    rows = trials_of(tmp_path / "out")
    assert [(r["method"], r["trial"]) for r in rows] == [
        (m, str(i)) for m in ("source_only", "mcc") for i in range(2)
    ]
    rates = [float(r[f"set:{LR}"]) for r in rows]
    assert rates[0] == rates[2] == 1e-3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["training"]["lr"] == found.chosen.searched.get(LR, 1e-3)


def test_source_only_by_name_searches_its_learning_rate(tmp_path: Path) -> None:
    said: list[str] = []
    found = search(
        tmp_path / "out", methods="source_only", trials=2, say=said.append, training=TRAINING
    )
    assert len(found.rows) == 1
    assert found.rows[0].trials == 2
    assert any("the learning rate alone: there is nothing else" in line for line in said)
    with pytest.raises(DomadaptError, match="nothing to search but the learning rate"):
        search(tmp_path / "x", methods="source_only", training={**TRAINING, "lr": 0.1})


def test_a_source_free_method_goes_on_from_source_only(tmp_path: Path) -> None:
    found = search(tmp_path / "out", methods="shot", trials=2)
    assert {row.method for row in found.rows} == {"shot", "source_only"}
    shot = next(row for row in found.rows if row.method == "shot")
    # `adapt` does the same with the same settings.
    made = tmp_path / "run"
    adapt(
        small_task(),
        "mlp",
        "shot",
        settings=shot.settings,
        training=FAST,
        look=False,
        out=made,
        export=(),
    )
    assert shot.folder is not None
    own, _ = checkpoint.load_tensors(shot.folder / "model.safetensors")
    same, _ = checkpoint.load_tensors(made / "candidates/shot/model.safetensors")
    assert own.keys() == same.keys()
    assert all(torch.equal(own[k], same[k]) for k in own)


def test_a_target_alone(tmp_path: Path) -> None:
    adapt(small_task(), "mlp", "source_only", out=tmp_path / "run", training=TRAINING, look=False)
    x, _ = arrays(seed=2, shift=2.0, n=90)
    found = tune(
        from_arrays(x, name="target"),
        None,
        "shot",
        checkpoint_file=tmp_path / "run",
        out=tmp_path / "out",
        trials=1,
        validator="information_maximisation",
        training=TRAINING,
        export=(),
    )
    assert {row.method for row in found.rows} == {"shot", "source_only"}
    assert (tmp_path / "out/config.json").exists()


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"validator": "information_maximization"}, "Did you mean 'information_maximisation'"),
        ({"methods": "dan", "validator": "entropy", "trials": 0}, "trials must be at least 1"),
        ({"methods": []}, "one method or several different ones"),
        ({"methods": ["dann", "dann"]}, "several different ones"),
        ({"methods": "tent"}, r"tent has nothing to search.*--tune-lr"),
        (
            {"methods": "adabn", "tune_lr": True, "training": TRAINING},
            "adabn has nothing to search.*minimises nothing",
        ),
        (
            {"settings": {"dann": {"domain_weight": 0.5}}},
            "dann has nothing to search: all its searched settings are fixed",
        ),
        ({"settings": {"mcc": {"temperature": 2.0}}}, "not among the methods"),
        ({"settings": {"dann": {"temperature": 2.0}}}, "no setting of dann 'temperature'"),
        ({"tune_lr": True, "training": {"lr": 0.1}}, "leave out one of lr"),
    ],
)
def test_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(DomadaptError, match=said):
        search(tmp_path / "out", **given)
    assert not (tmp_path / "out/study.db").exists()


def test_a_study_of_something_else_is_refused(tmp_path: Path, whole: tuple[Tuned, Path]) -> None:
    folder = whole[1]

    def refused(said: str, **other: Any) -> None:
        with pytest.raises(DomadaptError, match=said):
            search(folder, **{"methods": "mcc", "trials": N, **other})

    refused("other training.*steps=12, now steps=7", training={**FAST, "steps": 7})
    refused("other space, fixed settings", settings={"mcc": {"temperature": 2.0}})
    refused("validator was information_maximisation, now entropy", validator="entropy")
    shifted = Task(
        from_arrays(*arrays(seed=1, shift=0.0)), from_arrays(arrays(seed=5, shift=3.0)[0])
    )
    refused("other task", task=shifted)
    with pytest.raises(DomadaptError, match=r"keeps its trials in .*whole"):
        search(tmp_path / "out", methods="mcc", trials=N, study=folder / "study.db")
    network = torch.nn.Sequential(torch.nn.Linear(N_FEATURES, 4), torch.nn.ReLU())
    with pytest.raises(DomadaptError, match=r"other model, initial weights"):
        tune(
            small_task(),
            network,
            "mcc",
            out=folder,
            validator="information_maximisation",
            training=FAST,
        )


def test_a_folder_or_study_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(DomadaptError, match="already holds a run"):
        search(tmp_path / "run")
    (tmp_path / "text.db").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(DomadaptError, match="cannot be opened"):
        search(tmp_path / "a", study=tmp_path / "text.db")
    with pytest.raises(DomadaptError, match="cannot be opened"):
        search(tmp_path / "b", study="nosuchdatabase://here/there")


def test_measurements_and_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = arrays()
    values = Task(
        from_arrays(x, y.astype(np.float32), regression=True), from_arrays(x, regression=True)
    )
    with pytest.raises(DomadaptError, match="labels of this task are measurements"):
        search(tmp_path / "out", task=values)
    find: Callable[..., Any] = entrance.importlib.util.find_spec
    monkeypatch.setattr(
        entrance.importlib.util, "find_spec", lambda n, *a: None if n == "optuna" else find(n, *a)
    )
    with pytest.raises(DomadaptError, match=r"domadapt\[optuna\]"):
        search(tmp_path / "out")


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (x_s, y_s), (x_t, y_t) = arrays(seed=1, shift=0.0), arrays(seed=2, shift=2.0, n=90)
    np.savez(tmp_path / "s.npz", x=x_s, y=y_s)
    np.savez(tmp_path / "t.npz", x=x_t, y=y_t)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


SHORT = "--trials 2 --validator information_maximisation --steps 6 --batch-size 16 --device cpu"


def test_the_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"tune s.npz t.npz --method dann,mcc --mcc.temperature 2 --hidden=32 {SHORT} --out out"
    assert command(monkeypatch, line) == 0
    said = capsys.readouterr()
    head, *rows = [row.split("\t") for row in said.out.splitlines() if "\t" in row]
    assert head[:3] == ["method", "settings", "information_maximisation"]
    assert head[-1] == "target accuracy (labels, after the choice)"
    assert sorted(row[0] for row in rows) == ["dann", "mcc", "source_only"]
    assert "2 methods x 2 trials x 6 steps" in said.err
    found = json.loads((place / "out/tuned.json").read_text())
    settings = {row["method"]: row["settings"] for row in found["rows"]}
    assert settings["mcc"]["temperature"] == 2.0
    assert settings["dann"]["hidden"] == 32
    trials = trials_of(place / "out")
    assert len(trials) == 4
    assert "set:temperature" not in trials[0]
    assert command(monkeypatch, "predict out t.npz -o p.csv") == 0
    assert len((place / "p.csv").read_text().splitlines()) == 91


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tune s.npz", "tune needs SOURCE and TARGET"),
        ("tune s.npz t.npz --method nonsense", "There is no method 'nonsense'"),
        ("tune s.npz t.npz --validator nonsense", "There is no validator 'nonsense'"),
        ("tune s.npz t.npz --method mcc --temperatur 2", "Did you mean --temperature?"),
        ("tune s.npz t.npz --method mcc --temperature", "--temperature needs a value"),
        ("tune s.npz t.npz --method mcc --temperature hot", "temperature must be a number"),
        ("tune s.npz t.npz --method tent", "tent has nothing to search"),
    ],
)
def test_the_commands_refusals(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    said: str,
) -> None:
    assert command(monkeypatch, line) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_found_is_plain(whole: tuple[Tuned, Path]) -> None:
    """What is written down can be read by anybody."""
    found = json.loads((whole[1] / "tuned.json").read_text())
    assert found["chosen"] == whole[0].chosen.folder.name  # type: ignore[union-attr]
    assert [row["method"] for row in found["rows"]] == [row.method for row in whole[0].rows]
    assert set(found["rows"][0]) == set(Found.__dataclass_fields__)
    assert time.time() - (whole[1] / "tuned.json").stat().st_mtime < 3600
