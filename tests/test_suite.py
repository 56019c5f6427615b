"""Suites: what a file may say, what is refused, and the configuration of the cells."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from domadapt.benchmark import Entry, Suite, read_suite
from domadapt.benchmark.cells import cells_of
from domadapt.benchmark.suite import load_task_of, title_of
from domadapt.data.digits import NAMES
from domadapt.errors import DomadaptError
from domadapt.methods import method_names, method_settings, registry
from domadapt.runs.cell import Cell

HERE = Path(__file__).parent
READY = sorted((HERE.parent / "benchmarks").glob("*.toml"))
TINY = Suite(
    name="tiny",
    tasks=["benchmark_tasks.py:near"],
    methods=["mcc", "shot"],
    seeds=2,
    model={"name": "mlp"},
    training={"steps": 4, "batch_size": 16, "device": "cpu"},
    folder=HERE,
)
MINE = '''
from domadapt.methods import Method, register


@register("mine")
class Mine(Method):
    """Mine.

    Args:
        mine_weight: how much.
    """

    def __init__(self, network, *, mine_weight: float = 2.0):
        super().__init__(network)
        self.mine_weight = mine_weight

    def terms(self, out, batch):
        return {"mine": out.z_t.square().mean()}
'''


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    method_names()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def write(folder: Path, text: str) -> Path:
    file = folder / "suite.toml"
    file.write_text(text)
    return file


def keys(suite: Suite, **how: int) -> dict[tuple[str, int], str]:
    return {(c.method, c.seed): c.key for c in cells_of(suite.checked(), **how)}


@pytest.mark.parametrize("file", READY, ids=lambda p: p.stem)
def test_the_ready_suites_can_be_read(file: Path) -> None:
    suite = read_suite(file)
    names = [e.name for e in suite.methods if isinstance(e, Entry)]
    assert suite.name == file.stem
    assert names[0] == "source_only"
    assert names[-1] == "target_only"
    assert len(suite.tasks) == len(set(suite.tasks)) > 0


def test_digits_has_144_cells() -> None:
    suite = read_suite(HERE.parent / "benchmarks" / "digits.toml")
    assert isinstance(suite.seeds, tuple)
    assert (len(suite.tasks), len(suite.methods), len(suite.seeds)) == (6, 8, 3)
    assert "digits:printed->handwritten" in suite.tasks


def test_a_star_stands_for_the_methods_that_take_any_model() -> None:
    suite = read_suite(HERE.parent / "benchmarks" / "digits-all.toml")
    names = [m.name for m in suite.methods if isinstance(m, Entry)]
    assert names[0] == "source_only"
    assert names[-2:] == ["cdan+mcc", "target_only"]
    assert {"adabn", "bbse", "dann", "pada", "shot"} <= set(names)
    assert not {"coral", "mdan", "osbp"} & set(names)
    own = Suite("own", TINY.tasks, ["*", Entry("mcc", {"temperature": 3.0})], folder=HERE).checked()
    given = [m.given for m in own.methods if isinstance(m, Entry) and m.name == "mcc"]
    assert given == [("temperature",)]


def test_a_model_may_be_a_name_alone(tmp_path: Path) -> None:
    text = 'tasks = ["digits:printed->photo"]\nmethods = ["mcc"]\nmodel = "lenet"\n'
    assert read_suite(write(tmp_path, text)).model == {"name": "lenet"}
    with pytest.raises(
        DomadaptError, match=r"A suite's model is a table, such as .*got \['lenet'\]"
    ):
        read_suite(write(tmp_path, text.replace('"lenet"', '["lenet"]')))


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    shutil.copy(HERE / "benchmark_tasks.py", tmp_path / "t.py")
    file = write(
        tmp_path,
        """
        tasks = ["t.py:near", "digits:printed->*"]
        methods = [
            "source_only",
            {method = "mcc", settings = {temperature = 1}, name = "mcc cold"},
            "dan+mcc",
            "mine.py",
        ]
        seeds = [3, 5]
        metric = "macro_f1"
        [model]
        name = "mlp"
        """,
    )
    suite = read_suite(file)
    assert suite.name == "suite"
    assert suite.seeds == (3, 5)
    others = [f"digits:printed->{name}" for name in NAMES if name != "printed"]
    assert [title_of(t) for t in suite.tasks] == ["t:near", *others]
    entries = {e.name: e for e in suite.methods if isinstance(e, Entry)}
    assert list(entries) == ["source_only", "mcc cold", "dan+mcc", "mine", "target_only"]
    assert entries["mcc cold"].settings["temperature"] == 1.0
    assert entries["mine"].settings == {"mine_weight": 2.0}
    defaults = {k: s.default for k, s in method_settings("dan+mcc").items()}
    assert entries["dan+mcc"].settings == defaults
    assert [e.name for e in suite.methods if isinstance(e, Entry) and e.oracle] == ["target_only"]
    again = dataclasses.replace(
        suite,
        methods=["mcc"],
        tasks=["t.py:near"],
    ).checked()
    assert again.tasks == (f"{tmp_path}/t.py:near",)
    # What is checked can be checked again.
    assert suite.checked() == suite


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('methods = ["mcc"]', "A suite needs tasks"),
        ('tasks = ["digits:*->*"]', "A suite needs methods"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nsedes = 3', "Did you mean 'seeds'"),
        ('tasks = ["digits:*->*"]\nmethods = ["mc"]', "There is no method 'mc'. Did you mean"),
        ('tasks = ["nothing:*->*"]\nmethods = ["mcc"]', "No named task is like"),
        ('tasks = ["digits:prnted->*"]\nmethods = ["mcc"]', "mean those like 'digits:printed->"),
        ('tasks = ["a.csv->b.csv"]\nmethods = ["mcc"]', "file.py:function"),
        ('tasks = []\nmethods = ["mcc"]', "tasks as a list of one or more"),
        ('tasks = "digits:*->*"\nmethods = ["mcc"]', "tasks as a list of one or more"),
        ('tasks = [3]\nmethods = ["mcc"]', "tasks of a suite are names; got 3"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc", "mcc"]', "'mcc' occurs twice"),
        (
            'tasks = ["digits:*->*"]\nmethods = [{method = "mcc", setings = {}}]',
            "Did you mean 'settings'",
        ),
        (
            'tasks = ["digits:*->*"]\nmethods = [{method = "mcc", settings = {temprature = 1}}]',
            "Did you mean 'temperature'",
        ),
        (
            'tasks = ["digits:*->*"]\nmethods = [{method = "mcc", settings = {temperature = "a"}}]',
            "temperature must be a number",
        ),
        ('tasks = ["digits:*->*"]\nmethods = [{name = "mcc"}]', "got {'name': 'mcc'}"),
        (
            'tasks = ["digits:*->*"]\nmethods = [{method = "mcc", name = "source_only"}]',
            "is the name of the baseline",
        ),
        (
            'tasks = ["digits:*->*"]\nmethods = [{method="target_only", settings={a=1}}]',
            "target_only takes no settings",
        ),
        ('tasks = ["digits:*->*"]\nmethods = ["other.py"]', "There is no file"),
        ('tasks = ["other.py:f"]\nmethods = ["mcc"]', "There is no file"),
        ('tasks = ["other.py"]\nmethods = ["mcc"]', "path.py:function"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nseeds = 0', "one seed or more"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nseeds = [1, 1]', "each once"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nseeds = [-1]', "whole numbers from 0 on"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nmetric = "acuracy"', "mean 'accuracy'"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\nvalidators = ["envs"]', "mean 'ensv'"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\n[model]\nnam = "mlp"', "mean 'name'"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\n[training]\nstep = 3', "mean 'steps'"),
        ('tasks = ["digits:*->*"]\nmethods = ["mcc"]\n[training]\nseed = 3', "seeds are given"),
        ("tasks = [", "is no TOML file"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DomadaptError) as error:
        read_suite(write(tmp_path, text))
    assert said in str(error.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(
        DomadaptError, match=r"there is no .*suit\.toml\. Did you mean .*suite\.toml"
    ):
        read_suite(tmp_path / "suit.toml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": ["digits:printed->nowhere"]}, "There is no domain of digits 'nowhere'"),
        ({"tasks": ["benchmark_tasks.py:naer"]}, "Did you mean 'near'"),
        ({"tasks": ["benchmark_tasks.py:wrong"]}, "must return a Task; it returned str"),
        ({"tasks": ["benchmark_tasks.py:unlabelled"]}, "needs a target with labels"),
        ({"model": {"name": "mlpp"}}, "There is no model 'mlpp'"),
    ],
)
def test_what_only_the_data_tell_is_refused_before_anything_runs(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(DomadaptError) as error:
        cells_of(dataclasses.replace(TINY, **change).checked())  # type: ignore[arg-type]
    assert said in str(error.value)


def test_cells_in_order_and_what_they_need() -> None:
    cells = cells_of(TINY.checked())
    assert [(c.method, c.seed) for c in cells] == [
        (m, s) for m in ("source_only", "mcc", "shot", "target_only") for s in (0, 1)
    ]
    by = {(c.method, c.seed): c for c in cells}
    assert by["shot", 1].needs == (by["source_only", 1].key,)
    assert all(c.needs == () for c in cells if c.method != "shot")
    assert [c.config["oracle"] for c in cells].count(True) == 2
    assert len({c.key for c in cells}) == len(cells)


def test_what_changes_a_key_and_what_does_not(tmp_path: Path) -> None:
    first = keys(TINY)
    assert keys(TINY) == first
    for change in (
        {"seeds": [0, 1, 7]},
        {"name": "other"},
        {"metric": "macro_f1"},
        {"training": {**TINY.training, "checkpoint_every": 1, "workers": 1}},
        {"methods": ["mcc", "shot", "dan"]},
    ):
        other = keys(dataclasses.replace(TINY, **change))  # type: ignore[arg-type]
        assert first.items() <= other.items(), change
    hot = Entry("mcc", {"temperature": 9.0})
    other = keys(dataclasses.replace(TINY, methods=[hot, "shot"]))
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {("mcc", 0), ("mcc", 1)}
    for change in (
        {"training": {**TINY.training, "steps": 5}},
        {"model": {"name": "mlp", "bottleneck": 8}},
        {"tasks": ["benchmark_tasks.py:far"]},
    ):
        other = keys(dataclasses.replace(TINY, **change))  # type: ignore[arg-type]
        assert not set(first.values()) & set(other.values()), change
    assert not set(first.values()) & set(keys(TINY, threads=2).values())
    # Where the files lie is no matter, what is in them is.
    shutil.copy(HERE / "benchmark_tasks.py", tmp_path / "benchmark_tasks.py")
    assert keys(dataclasses.replace(TINY, folder=tmp_path)) == first


def test_other_target_labels_are_other_cells(tmp_path: Path) -> None:
    text = (HERE / "benchmark_tasks.py").read_text()
    text = text.replace("def near", "def near_").replace("def relabelled", "def near")
    (tmp_path / "benchmark_tasks.py").write_text(text)
    other = keys(dataclasses.replace(TINY, folder=tmp_path))
    assert not set(other.values()) & set(keys(TINY).values())


def test_a_method_of_a_file_is_hashed(tmp_path: Path) -> None:
    def made(folder: Path, text: str) -> Cell:
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        (folder / "t.py").write_text((HERE / "benchmark_tasks.py").read_text())
        suite = dataclasses.replace(TINY, tasks=["t.py:near"], methods=["mine.py"], folder=folder)
        # On another machine nothing is registered by the first one.
        registry._METHODS.pop("mine", None)
        return next(c for c in cells_of(suite.checked()) if c.method == "mine")

    first = made(tmp_path / "a", MINE)
    assert first.config["method"] == "mine.py"
    assert str(tmp_path) not in str(first.config)
    assert made(tmp_path / "b", MINE).key == first.key
    assert made(tmp_path / "c", MINE + "\n# another").key != first.key


def test_tasks_by_path() -> None:
    assert load_task_of(f"{HERE}/benchmark_tasks.py:far").name == "far"
    assert title_of("some/where/mine.py:far") == "mine:far"
    with pytest.raises(DomadaptError, match="There is no file"):
        load_task_of("nowhere.py:far")
