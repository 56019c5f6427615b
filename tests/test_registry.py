"""Methods by name and by path, and their settings."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from small import small_network

from domadapt.errors import DomadaptError
from domadapt.methods import build_method, method_class, method_names, method_settings, register
from domadapt.methods.base import Method
from domadapt.settings import Setting, parse_setting

MINE = '''
from domadapt.losses.coral import coral
from domadapt.methods import Method, register


@register("{name}")
class Mine(Method):
    """Mine (Someone, 2020).

    Args:
        mine_weight: how much.
    """

    def __init__(self, network, *, mine_weight: float = 2.0):
        super().__init__(network)
        self.mine_weight = mine_weight

    def terms(self, out, batch):
        return {{"mine": coral(out.z_s, out.z_t)}}
'''


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    from domadapt.methods import registry

    method_names()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def write(path: Path, *names: str) -> Path:
    path.write_text("\n".join(MINE.format(name=name) for name in names))
    return path


def test_every_name_gives_its_class() -> None:
    names = method_names()
    assert names == sorted(names)
    assert {"source_only", "dann", "dan", "deep_coral", "mcc", "self_training"} <= set(names)
    assert all(method_class(name).name == name for name in names)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        DomadaptError, match=r"no method 'dannn'\. Did you mean 'dann'\? Known: .*mcc"
    ):
        method_class("dannn")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "mine")
    for spec in (str(path), f"{path}:mine"):
        method = build_method(spec, small_network(), {"mine_weight": "0.5"})
        assert method.name == "mine"
        assert method.weight("mine", 0.0) == 0.5
        assert method_settings(spec)["mine_weight"].help == "how much."
    assert build_method(f"{path}+mcc", small_network()).name == "mine+mcc"


def test_a_file_with_several_methods(tmp_path: Path) -> None:
    path = write(tmp_path / "several.py", "first", "second")
    assert method_class(f"{path}:second").name == "second"
    with pytest.raises(DomadaptError, match=r"exactly one method.*registers first, second"):
        method_class(str(path))
    with pytest.raises(DomadaptError, match="Did you mean 'first'"):
        method_class(f"{path}:frist")
    path.write_text(MINE.format(name="second"))
    assert method_class(str(path)).name == "second"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no file"),
        ("x = 1", "it registers none"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("def f(:", "SyntaxError"),
        (MINE.format(name="dann"), "The method 'dann' is taken by"),
        (MINE.format(name="My Method"), "consists of a-z, 0-9 and _"),
        (MINE.format(name="m").replace("*, ", ""), "mine_weight is not keyword-only"),
        (MINE.format(name="m").replace(" = 2.0", ""), "mine_weight has no default"),
        (
            MINE.format(name="m").replace(
                "    def terms", "    ramps = {'mine': 0.5}\n    def terms"
            ),
            "ramps = {'mine': domadapt.ops.ramp}; got 0.5",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DomadaptError, match=re.escape(says)):
        method_class(str(path))


@pytest.mark.parametrize("own", ["self.layer = torch.nn.Linear(2, 2)", "self.mine_weight = 1.0"])
@pytest.mark.parametrize("beside", ["", "+mcc"])
def test_a_method_that_leaves_out_the_init_of_method(tmp_path: Path, own: str, beside: str) -> None:
    path = tmp_path / "mine.py"
    text = MINE.format(name="mine").replace("super().__init__(network)", own)
    path.write_text(f"import torch\n{text}")
    with pytest.raises(DomadaptError, match=r"begin with super\(\).__init__\(network\)"):
        build_method(f"{path}{beside}", small_network())
    # Another mistake there is the author's to see as it is.
    path.write_text(text.replace(own, "network.nothing()"))
    with pytest.raises(AttributeError, match="nothing"):
        build_method(str(path), small_network())


def test_a_broken_file_of_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from domadapt.methods import registry

    real = importlib.import_module

    def some(name: str) -> Any:
        if name.endswith(".mcc"):
            raise ImportError("no such loss")
        return real(name)

    monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=some))
    with pytest.raises(DomadaptError, match=r"methods/mcc\.py of domadapt could not be.*ImportErr"):
        method_names()


@pytest.mark.parametrize("spec", ["mcc+", "+mcc", "mcc++dan"])
def test_a_combination_names_both(spec: str) -> None:
    with pytest.raises(DomadaptError, match="on each side of every plus sign"):
        method_settings(spec)


def test_a_ramp_of_another_term_is_refused(tmp_path: Path) -> None:
    from domadapt.compatibility import check_terms

    path = tmp_path / "mine.py"
    ramps = "    ramps = {'mien': lambda p: p}\n\n    def terms"
    path.write_text(MINE.format(name="mine").replace("    def terms", ramps))
    method = build_method(str(path), small_network())
    with pytest.raises(DomadaptError, match=r"ramps of mine name the term 'mien'.*'mine'"):
        check_terms(method, {"mine": torch.zeros(())})
    # A term that is not there at every step is known by its weight.
    path.write_text(path.read_text().replace("mien", "mine"))
    check_terms(build_method(str(path), small_network()), {})


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = write(tmp_path / "a" / "mine.py", "one"), write(tmp_path / "b" / "mine.py", "two")
    assert method_class(str(one)).name == "one"
    assert method_class(str(two)).name == "two"
    assert method_class(str(one)).name == "one"


def test_loading_twice_takes_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "mine")
    first = method_class(str(path))
    path.write_text(MINE.format(name="mine").replace("2.0", "3.0"))
    assert method_class(str(path)) is not first
    assert build_method(str(path), small_network()).weight("mine", 0.0) == 3.0


def test_register_refuses_bad_names() -> None:
    with pytest.raises(DomadaptError, match="beginning with a letter; got '2nd'"):
        register("2nd")(Method)


# Settings -----------------------------------------------------------------------------------------


def test_unknown_setting() -> None:
    with pytest.raises(DomadaptError, match=r"no setting of mcc 'temp'.*Known: mcc_weight"):
        build_method("mcc", small_network(), {"temp": 1})


def test_settings_have_types_defaults_and_help() -> None:
    setting = method_settings("dann")["hidden"]
    assert (setting.type, setting.default) == (int, 256)
    assert setting.help == "width of the discriminator's two hidden layers."
    assert set(method_settings("dann+mcc")) == {
        "dann.domain_weight",
        "dann.hidden",
        "mcc.mcc_weight",
        "mcc.temperature",
    }


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (float, "0.5", 0.5),
        (float, "1e-3", 1e-3),
        (float, 2, 2.0),
        (int, "8", 8),
        (int, 8.0, 8),
        (int | None, "none", None),
        (int | None, "4", 4),
        (bool, "yes", True),
        (bool, "false", False),
        (bool, True, True),
        (str, "x", "x"),
        (Literal["a", "b"], "b", "b"),
    ],
)
def test_values_are_parsed(kind: Any, given: Any, expected: Any) -> None:
    value = parse_setting(Setting("x", kind, None), given)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (float, "much", "x must be a number; got 'much'"),
        (float, True, "x must be a number; got True"),
        (float, None, "x must be given; got None"),
        (float, "nan", "x must be a finite number; got 'nan'"),
        (int, float("inf"), "x must be a whole number; got inf"),
        (int, "1.5", "x must be a whole number; got '1.5'"),
        (int, 1.5, "x must be a whole number; got 1.5"),
        (bool, "perhaps", "x must be true or false; got 'perhaps'"),
        (Literal["a", "b"], "c", "x must be one of 'a', 'b'; got 'c'"),
    ],
)
def test_wrong_values_are_refused_in_words(kind: Any, given: Any, says: str) -> None:
    with pytest.raises(DomadaptError, match=re.escape(says)):
        parse_setting(Setting("x", kind, None), given)


def test_importing_a_method_by_path_does_not_touch_the_random_numbers(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    method_class(str(write(tmp_path / "mine.py", "mine")))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_path_may_hold_a_plus_sign(tmp_path: Path) -> None:
    from domadapt.methods import method_parts

    file = tmp_path / "a+b" / "mine.py"
    file.parent.mkdir()
    file.write_text("")
    assert method_parts(str(file)) == [str(file)]
    assert method_parts("dann+mcc") == ["dann", "mcc"]


def test_a_cell_of_a_notebook_may_register_again() -> None:
    code = (
        "from domadapt.methods import Method, register\n"
        "@register('cell')\n"
        "class Cell(Method):\n    pass\n"
    )
    for _ in range(2):
        exec(code, {"__name__": "a_module_without_file"})
