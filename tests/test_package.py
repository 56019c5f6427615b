"""The package: what its wheel holds, and that importing it does nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import domadapt

ROOT = Path(domadapt.__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel that was built from the tree."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("domadapt is installed, not checked out: there is no tree to build from")
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    [file] = builder.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel: list[str]) -> None:
    assert "domadapt/report/page.html.j2" in wheel
    assert "domadapt/py.typed" in wheel
    assert any(name.endswith("entry_points.txt") for name in wheel)
    assert any(name.endswith("LICENSE") for name in wheel)
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "domadapt").rglob("*.py")}
    assert modules <= set(wheel)
    top = {name.split("/")[0] for name in wheel}
    assert top == {"domadapt", f"domadapt-{domadapt.__version__}.dist-info"}


IMPORT = """
import os, random, sys, warnings
before = set(sys.modules)
state, environment, filters = random.getstate(), dict(os.environ), list(warnings.filters)
import domadapt
new = {m.split(".")[0] for m in set(sys.modules) - before}
foreign = sorted(m for m in new if m not in sys.stdlib_module_names and m != "domadapt")
print("foreign", foreign)
print("kept", state == random.getstate(), environment == dict(os.environ))
print("filters", filters == warnings.filters)
from domadapt import *
print("names", all(name in globals() for name in domadapt.__all__))
heavy = {"timm", "onnx", "onnxscript", "transformers", "matplotlib.pyplot", "tensorboard"}
print("heavy", sorted(heavy & set(sys.modules)))
"""


def test_import_has_no_side_effects_and_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "foreign []"
    assert lines[1] == "kept True True"
    assert lines[2] == "filters True"
    assert lines[3] == "names True"
    assert lines[-1] == "heavy []"


@pytest.mark.parametrize("name", domadapt.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(domadapt, name)
    assert value is getattr(domadapt, name)
    assert name in dir(domadapt)


def test_types_and_names_agree() -> None:
    """What type checkers see in the package is what it hands out."""
    text = Path(domadapt.__file__).read_text()
    seen = {line.split(" as ")[-1].strip() for line in text.splitlines() if " import " in line}
    seen -= {"importlib", "from typing import TYPE_CHECKING, Any"}
    seen = {name for name in seen if " " not in name}
    assert seen == set(domadapt.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        domadapt.nonsense  # noqa: B018


def test_every_module_imports() -> None:
    for file in (ROOT / "domadapt").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        importlib.import_module(".".join(p for p in parts if p != "__init__"))
