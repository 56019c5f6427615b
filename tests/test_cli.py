"""The command line as a person uses it: every kind of data, every mistake, every command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from small import arrays

from domadapt import cli, progress
from domadapt.adaptation import DEFAULT_METHOD
from domadapt.curves import Log
from domadapt.defaults import training_settings
from domadapt.methods import method_names, method_settings


class Result:
    """How a command ended and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[[str], Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a command line to `main`, in this process."""

    def command(line: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["domadapt", *shlex.split(line)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return Result(end.value.code or 0, said.out, said.err)  # type: ignore[arg-type]

    return command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small task in every form."""
    at = tmp_path_factory.mktemp("data")
    (x_s, y_s), (x_t, y_t) = arrays(seed=1, shift=0.0), arrays(seed=2, shift=2.0, n=90)
    np.savez(at / "s.npz", x=x_s, y=y_s)
    np.savez(at / "t.npz", x=x_t, y=y_t)
    np.save(at / "bare.npy", x_t)
    np.savez(at / "wide.npz", x=np.hstack([x_t, x_t]), y=y_t)
    np.savez(at / "strange.npz", x=x_t, y=np.where(np.arange(90) == 3, 7, y_t))
    for name, x, y in (("s", x_s, y_s), ("t", x_t, y_t)):
        table = pd.DataFrame(x, columns=list("abcdef"))
        table.insert(2, "species", [f"kind{i}" for i in y])
        table.to_csv(at / f"{name}.csv", index=False)
        table.to_parquet(at / f"{name}.parquet")
    pd.DataFrame(x_t, columns=list("abcdef")).to_csv(at / "bare.csv", index=False)
    pd.DataFrame(x_t[:, :5], columns=list("abcde")).to_csv(at / "narrow.csv", index=False)
    rng = np.random.default_rng(0)
    for k in range(24):
        level = 60 if k % 2 else 180
        pixels = rng.integers(level - 40, level + 40, (12, 12, 3)).astype(np.uint8)
        for folder in (at / "photos" / ("dark" if k % 2 else "light"), at / "flat"):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{k}.png")
    (at / "empty").mkdir()
    return at


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.delenv("DOMADAPT_DATA", raising=False)
    return place


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run over the arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        line = "adapt s.npz t.npz --method mcc --keep adapted --steps 40 --out done --device cpu"
        patch.setattr(sys, "argv", ["domadapt", *line.split()])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    return place / "done"


def mistake(result: Result) -> str:
    """The one sentence in which a mistake ends."""
    assert result.code == 2
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line and not line.endswith(" ...")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("Error: ")
    return lines[0]


# Help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["adapt", "--help"], ["predict", "--help"]])
def test_help_does_not_import_torch(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from domadapt.cli import main\n"
        f"sys.argv = ['domadapt', *{words!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    print('ended', end.code)\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert "ended 0" in done.stdout
    assert "heavy []" in done.stdout


def test_no_words_show_the_help(run: Run) -> None:
    shown = run("")
    assert shown.code == 0
    assert "adapt" in shown.out
    assert "evaluate" in shown.out


def test_help_has_every_training_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("adapt --help")
    assert shown.code == 0
    missing = [n for n in training_settings() if f"--{n.replace('_', '-')}" not in shown.out]
    assert missing == []


@pytest.mark.parametrize("name", method_names())
def test_method_help_has_every_setting(run: Run, name: str) -> None:
    shown = run(f"adapt --method {name} --help")
    assert shown.code == 0
    for key, setting in method_settings(name).items():
        assert f"--{key.replace('_', '-')}" in shown.out
        assert str(setting.default) in shown.out


def test_help_of_a_combination_names_the_parts(run: Run) -> None:
    shown = run("adapt --help --method=dann+mcc")
    assert "--dann.domain-weight" in shown.out
    assert "--mcc.temperature" in shown.out


def test_the_default_method_is_one() -> None:
    import inspect

    assert inspect.signature(cli.adapt.adapt).parameters["method"].default == DEFAULT_METHOD


@pytest.mark.parametrize("name", method_names())
def test_no_method_setting_hides_a_flag_of_the_command(name: str) -> None:
    import inspect

    taken = set(inspect.signature(cli.adapt.adapt).parameters)
    assert taken > set(training_settings())
    assert taken.isdisjoint(method_settings(name))


# Mistakes --------------------------------------------------------------------------------------

ADAPT = "adapt s.npz t.npz --out never "

MISTAKES = {
    "adpat s.npz t.npz": ["adpat", "'adapt'"],
    "adapt": ["SOURCE and TARGET"],
    "adapt s.npz": ["SOURCE and TARGET"],
    ADAPT + "--method mccx": ["'mccx'", "'mcc'", "dann"],
    ADAPT + "--method dann+mccx": ["'mccx'", "'mcc'"],
    ADAPT + "--method mcc+mcc": ["twice"],
    ADAPT + "--method source_only+mcc": ["source_only", "alone"],
    ADAPT + "--method none.py": ["none.py"],
    ADAPT + "--model lenett": ["'lenett'", "'lenet'"],
    ADAPT + "--model none.py:f": ["none.py"],
    ADAPT + "--method mcc --temperatur 3": ["--temperatur", "--temperature"],
    ADAPT + "--method dann+mcc --temperature 3": ["--mcc.temperature"],
    ADAPT + "--method dan --temperature 3": ["--temperature"],
    ADAPT + "--step 3": ["--step", "--steps"],
    ADAPT + "--method mcc --temperature abc": ["temperature", "number", "'abc'"],
    ADAPT + "--method mcc --temperature": ["--temperature needs a value"],
    ADAPT + "--method dan --estimator best": ["estimator", "'biased'", "'best'"],
    ADAPT + "--method dan --kernels 2.5": ["kernels", "whole number", "'2.5'"],
    ADAPT + "--steps abc": ["--steps", "integer", "'abc'"],
    ADAPT + "--steps=abc": ["--steps", "integer", "'abc'"],
    ADAPT + "--steps 0": ["steps", "at least 1", "got 0"],
    ADAPT + "--lr nan": ["lr", "finite"],
    ADAPT + "--seed -1": ["seed", "got -1"],
    ADAPT + "--batch-size 1": ["batch_size", "at least 2"],
    ADAPT + "--optimizer adam": ["'adam'", "'adamw'", "'sgd'"],
    ADAPT + "--metric acc": ["'acc'", "'accuracy'"],
    ADAPT + "--export foo": ["'foo'", "'onnx'"],
    ADAPT + "--log-with foo": ["'foo'", "'tensorboard'"],
    ADAPT + "--augment photo": ["'photo'", "vector"],
    ADAPT + "--image-size 32": ["image_size", "vector"],
    ADAPT + "--bottleneck -1": ["bottleneck", "-1"],
    ADAPT + "--weights none.pt": ["none.pt"],
    ADAPT + "--from none.pt": ["none.pt"],
    ADAPT + "--group-column g": ["'g'"],
    "adapt s.npz t.npz --out s.npz": ["s.npz", "written"],
    "adapt s.npz t.npz --out s.npz/below": ["s.npz/below", "written"],
    "adapt none.npz t.npz --out never": ["none.npz"],
    "adapt s.np t.npz --out never": ["'s.np'", "'s.npz'"],
    "adapt bare.npy t.npz --out never": ["Labels", "bare.npy"],
    "adapt flat photos --out never": ["Labels", "flat"],
    "adapt empty photos --out never": ["empty"],
    "adapt photos empty --out never": ["empty"],
    "adapt s.npz photos --out never": ["image", "vector"],
    "adapt s.npz wide.npz --out never": ["(6,)", "(12,)"],
    "adapt s.npz strange.npz --out never": ["7", "0, 1, 2"],
    "adapt s.npz t.npz --label-column species --out never": ["label_column", "table"],
    "adapt s.csv narrow.csv --label-column species --out never": ["f"],
    "adapt s.csv t.csv --label-column species --group-column g --out never": ["'g'"],
    "adapt digits:printd digits:handwritten --out never": ["'printd'", "'printed'"],
    "adapt digit:printed digits:handwritten --out never": ["'digit'", "'digits'"],
    "adapt --resume none": ["none"],
    "adapt --resume empty": ["empty", "run.json"],
    "adapt s.npz t.npz --resume empty": ["s.npz", "--resume"],
    "adapt --resume empty --steps 4": ["--steps", "--resume"],
    "predict none t.npz": ["none"],
    "predict empty t.npz": ["empty", "config.json"],
    "predict s.npz t.npz": ["s.npz"],
    "evaluate empty t.npz": ["empty"],
    "report none": ["none"],
    "report empty": ["report.json"],
    "list": ["methods", "models", "tasks"],
    "list foo": ["'foo'", "'methods'"],
    "list tasks --data-root none": ["none"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_ends_in_one_sentence_and_writes_nothing(run: Run, here: Path, line: str) -> None:
    before = sorted(p.name for p in here.iterdir())
    said = mistake(run(line))
    for part in MISTAKES[line]:
        assert part in said
    assert sorted(p.name for p in here.iterdir()) == before


def test_mistakes_with_a_run(run: Run, finished: Path, here: Path) -> None:
    assert "already holds a run" in mistake(run("adapt s.npz t.npz --out done"))
    assert "already holds a run" in mistake(run("adapt s.npz t.npz --out done --dry-run"))
    assert "finished" in mistake(run("adapt --resume done"))
    shape = mistake(run("predict done wide.npz"))
    assert "(6,)" in shape
    assert "(12,)" in shape
    assert "'image'" in mistake(run("predict done photos"))
    assert "none.npz" in mistake(run("predict done none.npz"))
    assert "s.npz/p.csv" in mistake(run("predict done t.npz -o s.npz/p.csv"))
    assert "empty" in mistake(run("predict done t.npz -o empty"))
    assert "empty" in mistake(run("report done -o empty"))
    assert "Labels are required" in mistake(run("evaluate done bare.npy"))
    assert "7" in mistake(run("evaluate done strange.npz"))
    assert "'acc'" in mistake(run("evaluate done t.npz --metric acc"))


def copy_of(run_folder: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(run_folder, to)
    return to


def test_torn_and_foreign_files_are_refused(
    run: Run, finished: Path, here: Path, tmp_path: Path
) -> None:
    torn = copy_of(finished, tmp_path / "torn")
    whole = (torn / "config.json").read_text()
    (torn / "config.json").write_text(whole[: len(whole) // 2])
    assert "config.json" in mistake(run(f"predict {torn} t.npz"))
    (torn / "config.json").write_text(whole.replace('"schema": 1', '"schema": 99'))
    assert "upgrade" in mistake(run(f"predict {torn} t.npz"))
    (torn / "config.json").write_text(whole)
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors" in mistake(run(f"predict {torn} t.npz"))
    (torn / "report.json").write_text("[]")
    assert "report" in mistake(run(f"report {torn}"))
    (torn / "config.json").unlink()
    assert "--resume" in mistake(run(f"predict {torn} t.npz"))
    (torn / "run.json").write_text("[]")
    assert "run.json" in mistake(run(f"adapt --resume {torn}"))
    (torn / "run.json").write_text('{"source": ')
    assert "run.json" in mistake(run(f"adapt --resume {torn}"))


def test_a_refused_run_may_be_corrected(run: Run, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    mistake(run(f"adapt s.npz t.npz --out {out} --steps 2 --model lenett"))
    mistake(run(f"adapt s.npz t.npz --out {out} --steps 2 --method mcc --temperature x"))
    assert run(f"adapt s.npz t.npz --out {out} --steps 2 --method source_only").code == 0


def test_wandb_without_its_package(
    run: Run, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in ("wandb", "onnx") else there(n, *a)
    )
    said = mistake(run(f"adapt s.npz t.npz --out {tmp_path / 'r'} --log-with wandb"))
    assert "domadapt[tracking]" in said
    said = mistake(run(f"adapt s.npz t.npz --out {tmp_path / 'r'} --export onnx"))
    assert "domadapt[onnx]" in said
    assert not (tmp_path / "r").exists()


# What it does ----------------------------------------------------------------------------------


def test_dry_run_writes_nothing(run: Run, here: Path) -> None:
    before = sorted(str(p) for p in here.rglob("*"))
    said = run(
        "adapt s.npz t.npz --dry-run --out r --method dann+mcc --mcc.temperature 3 --steps 7"
    )
    assert said.code == 0
    assert sorted(str(p) for p in here.rglob("*")) == before
    for part in ("Nothing was done", "source_only, dann+mcc", "steps=7", "0, 1, 2", "mlp"):
        assert part in said.out
    frozen = run("adapt photos flat --dry-run --out r --model resnet18 --freeze")
    assert "frozen" in frozen.out
    assert "none: the target has no labels" in frozen.out
    assert sorted(str(p) for p in here.rglob("*")) == before


def test_a_finished_run(finished: Path) -> None:
    files = {p.name for p in finished.iterdir()}
    wanted = {"model.safetensors", "model.pt2", "config.json", "report.json", "report.html"}
    assert files == wanted | {"predictions.csv", "run.json", "candidates"}
    for name in ("source_only", "mcc"):
        held = {p.name for p in (finished / "candidates" / name).iterdir()}
        assert held == {"model.safetensors", "result.json"}
    config = json.loads((finished / "config.json").read_text())
    assert config["method"] == {"name": "mcc", "settings": {"mcc_weight": 1.0, "temperature": 2.5}}


def test_plain_lines_without_a_terminal(run: Run, here: Path, tmp_path: Path) -> None:
    said = run(f"adapt s.npz t.npz --method mcc --keep adapted --steps 100 --out {tmp_path / 'r'}")
    assert said.code == 0
    assert "\x1b" not in said.err + said.out
    lines = said.err.splitlines()
    assert lines[0] == "preparing data ..."
    assert "source_only (100 steps) ..." in lines
    last = [line for line in lines if line.startswith("  mcc 100/100")]
    assert len(last) == 1
    for part in ("source ", "mcc ", "steps/s", "0 s left"):
        assert part in last[0]
    assert "mcc against source-only" in said.out


def test_time_left_is_read_from_the_whole_training() -> None:
    def pace(step: int, seconds: float) -> str:
        return progress._pace(Log(step, 1000, {}, {}, 0.1, seconds))

    assert pace(500, 10.0) == "50 steps/s, 10 s left"
    assert pace(10, 100.0) == "0.1 steps/s, 2 h 45 min left"
    assert pace(250, 50.0) == "5.0 steps/s, 2 min 30 s left"


@pytest.mark.parametrize(
    ("source", "target"),
    [("s.csv", "t.csv"), ("s.parquet", "bare.csv"), ("s.csv", "t.npz"), ("s.csv", "bare.npy")],
)
def test_tables(run: Run, here: Path, tmp_path: Path, source: str, target: str) -> None:
    out = tmp_path / "r"
    labels = target != "t.npz"
    if not labels:
        np.savez(tmp_path / "t.npz", x=np.load("t.npz")["x"])
        target = str(tmp_path / "t.npz")
    said = run(f"adapt {source} {target} --label-column species --steps 3 --out {out}")
    assert said.code == 0, said.err
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == 90
    assert set(table["class"]) <= {"kind0", "kind1", "kind2"}
    known = target == "t.csv"
    assert ("cannot be known" in said.out) == (not known)
    report = json.loads((out / "report.json").read_text())
    assert all((c["target"] is not None) == known for c in report["candidates"])
    assert any("no labels" in w for w in report["warnings"]) == (not known)
    # The same samples in another form, columns in another order, labels present or not.
    shuffled = pd.read_csv("t.csv")[["species", *"fedcba"]]
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    assert run(f"predict {out} {tmp_path / 'shuffled.csv'} -o {tmp_path / 'p.csv'}").code == 0
    assert list(pd.read_csv(tmp_path / "p.csv")["class"]) == list(table["class"])
    assert run(f"predict {out} bare.npy -o {tmp_path / 'q.csv'}").code == 0
    assert list(pd.read_csv(tmp_path / "q.csv")["class"]) == list(table["class"])
    # The run remembers how the column of labels is called; arrays have none.
    scored = run(f"evaluate {out} {tmp_path / 'shuffled.csv'} --json")
    named = run(f"evaluate {out} {tmp_path / 'shuffled.csv'} --json --label-column species")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out) == json.loads(named.out)
    x, y = shuffled[list("abcdef")].to_numpy(), shuffled["species"].to_numpy(dtype=str)
    np.savez(tmp_path / "named.npz", x=x, y=y)
    assert run(f"evaluate {out} {tmp_path / 'named.npz'}").code == 0
    assert "'kind'" in mistake(
        run(f"evaluate {out} {tmp_path / 'shuffled.csv'} --label-column kind")
    )


def test_image_folders(run: Run, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    line = f"adapt photos flat --steps 3 --batch-size 8 --out {out} --export onnx --method adamatch"
    said = run(line)
    assert said.code == 0, said.err
    assert "cannot be known" in said.out
    table = pd.read_csv(out / "predictions.csv")
    assert sorted(table["id"]) == sorted(p.name for p in (here / "flat").iterdir())
    assert {"model.pt2", "model.onnx"} <= {p.name for p in out.iterdir()}
    said = run(f"evaluate {out} photos --json")
    assert json.loads(said.out)["n"] == 24


def test_catalogue(run: Run, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    said = run(
        f"adapt digits:handwritten digits:photo --steps 2 --batch-size 8 --out {out} "
        "--method source_only"
    )
    assert said.code == 0, said.err
    report = json.loads((out / "report.json").read_text())
    assert report["candidates"][0]["target"]["n"] == len(pd.read_csv(out / "predictions.csv"))


def test_target_test_is_what_is_scored(run: Run, here: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    x, y = np.load("t.npz").values()
    np.savez(tmp_path / "test.npz", x=x[:30], y=y[:30])
    said = run(
        f"adapt s.npz bare.npy --target-test {tmp_path / 'test.npz'} --steps 30 --out {out} "
        "--method mcc --keep adapted --metric macro_f1"
    )
    assert said.code == 0, said.err
    report = json.loads((out / "report.json").read_text())
    assert report["task"]["transductive"] is False
    assert [c["target"]["n"] for c in report["candidates"]] == [30, 30]
    assert "macro f1" in said.out
    table = pd.read_csv(out / "predictions.csv")
    assert table["split"].value_counts().to_dict() == {"target_train": 90, "target_test": 30}
    test = table[table["split"] == "target_test"]
    right = (test["class"].to_numpy() == y[:30]).mean()
    assert report["candidates"][1]["target"]["accuracy"] == pytest.approx(right)


def test_source_free_from_a_run_and_online(
    run: Run, finished: Path, here: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tent"
    said = run(f"adapt --from {finished} t.npz --method tent --batch-size 16 --out {out}")
    assert said.code == 0, said.err
    report = json.loads((out / "report.json").read_text())
    assert report["task"]["name"] == "model->t"
    assert report["task"]["sizes"]["source_train"] == 0
    # The model that was brought along is the baseline as it was: it predicts as its own run does.
    before = json.loads((finished / "report.json").read_text())["candidates"][-1]
    assert report["candidates"][0]["target"]["accuracy"] == before["target"]["accuracy"]
    assert "source_val_accuracy" not in report["candidates"][0]["label_free"]
    tables = []
    for flag in ("", "--online", ""):
        assert run(f"predict {out} t.npz --per-class {flag} -o {tmp_path / 'p.csv'}").code == 0
        tables.append(pd.read_csv(tmp_path / "p.csv").drop(columns=["id", "class"]).to_numpy())
    assert not np.allclose(tables[0], tables[1], atol=1e-4)
    assert np.array_equal(tables[0], tables[2]), "predicting online changed the run's folder"
    assert "test-time method" in mistake(run(f"predict {finished} t.npz --online"))
    never = tmp_path / "never"
    wants = run(f"adapt --from {finished} t.npz --method dann --out {never}")
    assert "SOURCE and TARGET" in mistake(wants)
    assert not never.exists()


def test_several_sources_and_labelled_target_samples(run: Run, here: Path, tmp_path: Path) -> None:
    x, y = arrays(12, seed=5, shift=2.0)
    np.savez(tmp_path / "few.npz", x=x, y=y)
    out = tmp_path / "r"
    np.savez(tmp_path / "more.npz", x=arrays(60, seed=8)[0], y=arrays(60, seed=8)[1])
    said = run(
        f"adapt s.npz t.npz --also-source {tmp_path / 'more.npz'} --target-labelled "
        f"{tmp_path / 'few.npz'} --method mdan --steps 5 --out {out}"
    )
    assert said.code == 0, said.err
    report = json.loads((out / "report.json").read_text())
    assert report["task"]["source_names"] == ["s", "more"]
    assert "loss/labelled" in report["candidates"][1]["history"]
    other = run(
        "adapt s.npz t.npz --also-source s.csv --label-column species --dry-run --extra-classes "
        f"unscored --out {tmp_path / 'no'}"
    )
    assert "s: has no sample of the class(es) kind0, kind1, kind2" in other.out
    leaking = run(f"adapt s.npz t.npz --target-labelled t.npz --steps 5 --out {tmp_path / 'no'}")
    assert "must not be scored" in mistake(leaking)


def test_predict_and_evaluate(run: Run, finished: Path, here: Path, tmp_path: Path) -> None:
    said = run("predict done t.npz --per-class")
    assert said.code == 0
    from io import StringIO

    table = pd.read_csv(StringIO(said.out))
    assert list(table.columns) == ["id", "class", "probability", "p_0", "p_1", "p_2"]
    p = table[["p_0", "p_1", "p_2"]].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(p.max(1), table["probability"], atol=1e-6)
    assert list(p.argmax(1)) == list(table["class"])
    kept = pd.read_csv(finished / "predictions.csv")
    assert list(kept["class"]) == list(table["class"])

    found = json.loads(run("evaluate done t.npz --json").out)
    y = np.load("t.npz")["y"]
    assert found["accuracy"] == pytest.approx((table["class"].to_numpy() == y).mean())
    report = json.loads((finished / "report.json").read_text())
    scored = report["candidates"][-1]["target"]
    assert scored["confusion"] == found["confusion"]
    areas = [roc_auc_score(y == c, p[:, c]) for c in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    # The report scores the network's own probabilities: the same before calibration.
    how = json.loads((finished / "config.json").read_text())["calibration"]
    raw = how["temperature"] * (np.log(p) - np.asarray(how.get("offset") or 0.0))
    raw = np.exp(raw - raw.max(1, keepdims=True))
    raw /= raw.sum(1, keepdims=True)
    areas = [roc_auc_score(y == c, raw[:, c]) for c in range(3)]
    assert scored["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    alone = run("evaluate done t.npz --metric macro_f1").out
    assert float(alone) == pytest.approx(found["macro_f1"], abs=1e-6)
    shown = run("evaluate done t.npz").out
    assert f"{found['accuracy']:.4f}" in shown
    unscored = run("evaluate done strange.npz --extra-classes unscored --json")
    assert json.loads(unscored.out)["n"] == 89


def test_report_draws_again_without_training(
    run: Run, finished: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from domadapt.trainer import Trainer

    def refuse(*_: Any) -> None:
        raise AssertionError("the report must not train")

    monkeypatch.setattr(Trainer, "fit", refuse)
    page = tmp_path / "again.html"
    said = run(f"report done -o {page}")
    assert said.code == 0
    assert page.read_text() == (finished / "report.html").read_text()
    assert "mcc against source-only" in said.out


def test_tensorboard_gets_event_files(run: Run, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "r"
    said = run(f"adapt s.npz t.npz --steps 4 --log-every 2 --out {out} --log-with tensorboard")
    assert said.code == 0, said.err
    for name in ("source_only", "mcc"):
        events = list((out / "candidates" / name).rglob("events.out.tfevents*"))
        assert events
        assert b"loss/source" in b"".join(e.read_bytes() for e in events)


def test_own_method_and_own_backbone(run: Run, here: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from domadapt.methods import Method, register\n"
        "@register('halve')\n"
        "class Halve(Method):\n"
        "    '''Pulls the target's features to nought.'''\n"
        "    def __init__(self, network, *, pull_weight: float = 0.5):\n"
        "        super().__init__(network)\n"
        "        self.pull_weight = pull_weight\n"
        "    def terms(self, out, batch):\n"
        "        return {'pull': out.z_t.square().mean()}\n"
    )
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Linear(6, 8), nn.ReLU())\n"
    )
    out = tmp_path / "r"
    said = run(
        f"adapt s.npz t.npz --steps 3 --out {out} --method {tmp_path / 'mine.py'} "
        f"--model {tmp_path / 'net.py'}:small --pull-weight 0.25 --keep adapted"
    )
    assert said.code == 0, said.err
    assert sorted(p.name for p in (out / "candidates").iterdir()) == ["halve", "source_only"]
    config = json.loads((out / "config.json").read_text())
    assert config["method"]["settings"] == {"pull_weight": 0.25}
    # The run is enough: the files it was made from may go.
    (tmp_path / "net.py").unlink()
    (tmp_path / "mine.py").unlink()
    assert run(f"predict {out} t.npz").code == 0


@pytest.mark.parametrize(
    ("what", "name"), [("methods", "mcc"), ("models", "lenet"), ("validators", "class_ami")]
)
def test_list(run: Run, what: str, name: str) -> None:
    said = run(f"list {what}")
    assert said.code == 0
    assert name in [line.split("\t")[0] for line in said.out.splitlines()]


def test_list_tasks(run: Run, here: Path) -> None:
    rows = [line.split("\t") for line in run("list tasks").out.splitlines()]
    at_hand = {row[0]: row[-1] for row in rows}
    assert at_hand["digits:printed->handwritten"] == "yes"


def test_interrupt_ends_in_one_sentence(
    run: Run, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from domadapt.trainer import Trainer

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupted)
        said = run(f"adapt s.npz t.npz --steps 3 --out {tmp_path / 'r'}")
    assert said.code == 130
    assert "Traceback" not in said.err
    assert said.err.splitlines()[-1] == (
        f"Interrupted; go on with `domadapt adapt --resume {tmp_path / 'r'}`."
    )
    # Paths in the request hold from anywhere.
    monkeypatch.chdir(tmp_path)
    assert run("adapt --resume r").code == 0
    assert "finished" in mistake(run("adapt --resume r"))


def test_a_setting_with_the_name_of_a_flag_is_refused(run: Run, here: Path) -> None:
    (here / "clash.py").write_text(
        "from domadapt.methods import Method, register\n"
        "@register('clash')\n"
        "class Clash(Method):\n"
        "    def __init__(self, network, *, steps: int = 5):\n"
        "        super().__init__(network)\n"
        "        self.steps = steps\n"
        "    def terms(self, out, batch):\n"
        "        return {'x': out.z_t.mean()}\n"
    )
    said = run("adapt s.npz t.npz --method clash.py --steps 10 --out never")
    assert said.code == 2
    assert "'steps', which is the name of a flag of adapt" in said.err


def test_a_run_keeps_the_whole_path_of_a_file_of_ones_own(
    run: Run, here: Path, tmp_path: Path
) -> None:
    (here / "own.py").write_text(
        "from domadapt.methods import Method, register\n"
        "@register('own')\n"
        "class Own(Method):\n"
        "    def terms(self, out, batch):\n"
        "        return {'x': out.z_t.square().mean()}\n"
    )
    out = tmp_path / "whole"
    assert run(f"adapt s.npz t.npz --method own.py+mcc --steps 2 --out {out}").code == 0
    method = json.loads((out / "run.json").read_text())["arguments"]["method"]
    assert method == f"{(here / 'own.py').resolve()}+mcc"
