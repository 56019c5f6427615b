"""The Ray engine on a real cluster of two nodes on this machine; nodes and processes are killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import ray_works
import torch
from cell_works import cell
from cell_works import work as cell_work
from ray_suite_work import SecondNodeHangs
from test_benchmark_run import FAILS, TRAINING, run_here, timeless

from domadapt.benchmark import Suite, report
from domadapt.benchmark import work as work_module
from domadapt.benchmark.cells import cells_of, planned
from domadapt.benchmark.engines import engine_for
from domadapt.benchmark.results import write_plan
from domadapt.benchmark.work import SuiteWork, paths_in
from domadapt.errors import DomadaptError
from domadapt.methods import registry
from domadapt.runs import ray_cluster, ray_engine
from domadapt.runs.cell import RESULT, Cell, Cells
from domadapt.runs.ray_engine import _Left
from domadapt.runs.ray_server import Server

HERE = Path(__file__).parent


# Without a cluster ------------------------------------------------------------------------------


def test_a_cell_travels_whole(tmp_path: Path) -> None:
    there, here = Cells(tmp_path / "there"), Cells(tmp_path / "here")
    one = cell(seed=3)
    there.perform(one, _made)
    here.unpack(one.key, there.pack(one.key))
    files = [p.relative_to(there.place(one.key)) for p in there.place(one.key).rglob("*")]
    assert Path("deep/numbers.bin") in files
    for file in files:
        if (there.place(one.key) / file).is_file():
            assert (here.place(one.key) / file).read_bytes() == (
                there.place(one.key) / file
            ).read_bytes()
    assert here.result(one.key)["value"] == 3
    assert list((tmp_path / "here" / "work").iterdir()) == []
    with pytest.raises(DomadaptError, match="was asked for"):
        here.unpack(cell(seed=4).key, there.pack(one.key))
    assert not here.finished(cell(seed=4).key)


def _made(cell: Cell, room: Path, made: Path, cells: Cells) -> dict[str, Any]:
    (made / "deep").mkdir()
    (made / "deep" / "numbers.bin").write_bytes(bytes(range(256)))
    return {"value": cell.seed}


def test_cells_are_given_by_task_and_after_what_they_need(tmp_path: Path) -> None:
    cells, first = Cells(tmp_path), cell("works", "b")
    later = [cell("later", "b", s, needs=(first.key,)) for s in range(2)]
    wanted = [*later, first, cell(task="a"), cell(task="a", seed=1)]
    left = _Left(cells, wanted)
    assert left.needed == {first.key}
    one = left.take(None, Counter())
    assert one == first
    other = left.take(None, Counter({"b": 1}))
    assert other is not None
    assert other.task == "a"
    # The others of b wait, so that who was at b takes of a as well.
    assert left.take("b", Counter({"a": 1, "b": 1})) == wanted[4]
    assert left.take("b", Counter()) is None
    left.ended(first.key)
    assert [left.take("b", Counter()) for _ in range(3)] == [*later, None]
    left.hold(other)
    assert left.take("a", Counter()) is None
    time.sleep(ray_engine.PAUSE + 0.01)
    assert left.take("a", Counter()) == other
    for one in wanted:
        left.ended(one.key)
    assert not left.keys


def test_ten_thousand_cells_are_given_in_a_moment(tmp_path: Path) -> None:
    wanted = [cell(task=f"t{s % 20}", seed=s) for s in range(10_000)]
    left, given = _Left(Cells(tmp_path), wanted), set()
    task = None
    while (one := left.take(task, Counter())) is not None:
        task = one.task
        given.add(one.key)
        left.ended(one.key)
    assert len(given) == 10_000
    assert not left.keys


def test_slots_are_of_single_machines_and_single_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    has = [{"CPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}, {"GPU": 4.0}]
    monkeypatch.setattr(ray_cluster, "machines", lambda: has)
    assert ray_cluster.slots(1) == 11
    assert ray_cluster.slots(2) == 1 + 4
    assert ray_cluster.slots(1, 0.5) == 4
    assert ray_cluster.slots(1, 0.3) == 6
    assert ray_cluster.slots(1, 0.1) == 8
    assert ray_cluster.slots(4, 1.0) == 2


def test_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def ready(*given: Any, **more: Any) -> None:
        with engine_for(*given, **more):
            pass

    with pytest.raises(DomadaptError, match=r"no engine 'rai'.*Did you mean 'ray'"):
        ready("rai", "auto")
    with pytest.raises(DomadaptError, match="add --engine ray"):
        ready("local", "auto", address="auto")
    with pytest.raises(DomadaptError, match="at least 1"):
        ready("ray", "auto", processes=0)
    with pytest.raises(DomadaptError, match="from 0 to 1; got 2"):
        ray_cluster.check_share(2)
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.raises(DomadaptError, match=r"HOST:PORT, or auto.*got 'ray://x:1'"):
        ready("ray", "auto", address="ray://x:1")
    with socket.socket() as closed:
        # Bound and not listening: whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DomadaptError, match=r"Nobody answers at 127\.0\.0\.1:"):
            ready("ray", "auto", address=f"127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(DomadaptError, match=r"pip install 'domadapt\[ray\]'"):
        ready("ray", "auto")


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """A suite of own files: a task, a method and a frozen backbone."""
    place = tmp_path / "mine+more"
    place.mkdir()
    (place / "tasks.py").write_text((HERE / "benchmark_tasks.py").read_text())
    (place / "nets.py").write_text((HERE / "ray_works.py").read_text())
    (place / "fails.py").write_text(FAILS.replace('"fails"', '"fails_far"'))
    return Suite(
        "s",
        tasks=["tasks.py:near"],
        methods=["shot", "fails.py"],
        seeds=1,
        model={"name": "nets.py:encoder", "freeze": True},
        training=TRAINING,
        folder=place,
    ).checked()


def test_own_files_go_with_the_work(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that sees neither the folder nor the files, without Ray around it."""
    work, wanted = SuiteWork(suite), cells_of(suite)
    files = work.files()
    assert {Path(f).name for f in files} == {"tasks.py", "nets.py", "fails.py"}
    assert paths_in("cdan+mcc") == []
    contents = [Path(f).read_bytes() for f in files]
    for file in files:
        Path(file).unlink()
    # Another process knows of no method that the suite's reading has registered.
    for name in [n for n, cls in registry._METHODS.items() if "_domadapt_file" in cls.__module__]:
        monkeypatch.delitem(registry._METHODS, name)
    server = Server()
    near, lacks = server.begin(
        Cells("/nowhere"), work, dict.fromkeys(files, "?"), "t", f"test-{os.getpid()}", 1
    )
    try:
        assert (near, lacks) == (False, files)
        server.receive(files, *contents)
        source = wanted[0]
        refused, made = server.prepare(source, {})
        assert refused == ""
        assert len(made) == 2
        assert all(name.startswith("features-") for name in made)
        driver = Cells(tmp_path / "driver")
        for one in wanted:
            word, packed = server.perform(one, {}, one.key == source.key)
            assert word == "done"
            assert isinstance(packed, bytes)
            driver.unpack(one.key, packed)
        errors = {c.method: driver.error(c.key) for c in wanted}
        assert errors.pop("fails_far") == "ZeroDivisionError: on purpose"
        assert set(errors.values()) == {None}
        # Of what was sent, that stays which others go on from, and the last one.
        assert server.cells.keys() == {source.key, wanted[-1].key}
        other = Cell(source.task, "dan", 0, {**source.config, "data": "others"})
        work_module._latest.clear()
        assert server.perform(other, {}, False) == (
            "refuses",
            "its data of tasks:near are not those of the machine that runs the benchmark",
        )
        elsewhere = Cell(source.task, "dan", 0, {**source.config, "device": "cuda"})
        assert "it trains on cpu" in server.perform(elsewhere, {}, False)[1]
    finally:
        server.clear()
    assert not server.own.exists()


# With a cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A cluster whose first node has one slot."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{HERE.parent}"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = {
        "worker_niceness": 0,
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2000,
        "health_check_failure_threshold": 3,
    }
    own = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**own, "_system_config": settings})
    try:
        with ray_cluster.cluster(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def second(head: Any) -> Iterator[Any]:
    """The second node, with one slot as well."""
    node = head.add_node(num_cpus=1, object_store_memory=80_000_000, env_vars={ray_works.NODE: "2"})
    head.wait_for_nodes()
    try:
        yield node
    finally:
        if node in head.worker_nodes:
            head.remove_node(node, allow_graceful=False)
        until = time.monotonic() + 20
        while len(ray_cluster.machines()) > 1 and time.monotonic() < until:
            time.sleep(0.1)


def kill_node(node: Any) -> None:
    """What a power cut leaves of a machine: the raylet and all that it started, at once."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    everything = [raylet, *raylet.children(recursive=True)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()


@pytest.mark.slow
def test_a_node_is_killed_and_the_results_are_those_of_a_local_run(
    second: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    suite = Suite(
        "s",
        tasks=["benchmark_tasks.py:near", "benchmark_tasks.py:far"],
        methods=["dan", "shot"],
        seeds=2,
        model={"name": "mlp"},
        training=TRAINING,
        folder=HERE,
    ).checked()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = run_here(suite, tmp_path / "local")
    torch.set_num_threads(before)
    local = report(tmp_path / "local")
    folder = tmp_path / "ray"
    write_plan(folder, suite, planned(wanted))
    finished: dict[str, int] = {}

    def look() -> None:
        if not finished and (folder / "hangs").exists():
            kill_node(second)
            for file in (folder / "cells").glob("*/result.json"):
                finished[file.parent.name] = file.stat().st_mtime_ns

    work = SecondNodeHangs(suite)
    said: list[str] = []
    ray_engine.run(Cells(folder), wanted, work, look=look, say=said.append)
    assert finished, "the second node took no part"
    hung = (folder / "hangs").read_text()
    assert "raylet" not in "".join(capfd.readouterr()), "Ray is not quiet"
    assert hung not in finished
    title = next(c.title for c in wanted if c.key == hung)
    assert len(said) == 1
    # Ray tells of a machine's end by the death of the process or by its broken connection,
    # whichever it notices first.
    ends = [f" {how}; {title} runs again." for how in ("is lost", "does not answer")]
    assert said[0].endswith(tuple(ends))
    calls = Counter((folder / "calls.txt").read_text().split())
    assert calls == {c.key: 2 if c.key == hung else 1 for c in wanted}
    for key, then in finished.items():
        assert (folder / "cells" / key / RESULT).stat().st_mtime_ns == then
    found = report(folder)
    assert found.missing == 0
    assert not found.failures
    pd.testing.assert_frame_equal(timeless(found.frame), timeless(local.frame), check_exact=True)
    read = pd.read_parquet(folder / "results.parquet")
    pd.testing.assert_frame_equal(timeless(read), timeless(local.frame), check_exact=True)
    assert list((folder / "work").iterdir()) == []
    assert not list((folder / "locks").glob("ray-*"))


@pytest.mark.slow
def test_processes_die_and_the_rest_goes_on(head: Any, tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    good = [cell(seed=s) for s in range(3)]
    bad = {name: cell(name) for name in ("dies", "dies once", "breaks")}
    after = cell("later", needs=(bad["dies"].key,))
    wanted = [after, *bad.values(), *good]
    looks = []
    ray_engine.run(cells, wanted, cell_work, look=lambda: looks.append(1))
    assert all(cells.error(c.key) is None for c in (*good, bad["dies once"]))
    assert "died 2 times" in (cells.error(bad["dies"].key) or "")
    assert "It goes on from another cell, which failed" in (cells.error(after.key) or "")
    assert cells.error(bad["breaks"].key) == "ZeroDivisionError: no number"
    calls = Counter((tmp_path / "calls.txt").read_text().split())
    assert calls[bad["dies"].key] == calls[bad["dies once"].key] == 2
    assert all(calls[c.key] == 1 for c in (*good, bad["breaks"]))
    assert looks
    # Nothing is left to do, and nothing is started.
    ray_engine.run(cells, wanted, cell_work)
    assert Counter((tmp_path / "calls.txt").read_text().split()) == calls


@pytest.mark.slow
def test_results_go_back_where_the_folder_is_not_seen(second: Any, tmp_path: Path) -> None:
    cells = ray_works.Hidden(tmp_path)
    meet = {"meet": str(tmp_path / "meet")}
    (tmp_path / "meet").mkdir()
    config = {**meet, "method": "first"}
    first = [Cell(task, "first", seed, config) for task in "ab" for seed in range(3)]
    config = {**meet, "method": "then"}
    then = [Cell(c.task, "then", c.seed, config, (c.key,)) for c in first]
    ray_engine.run(cells, [*first, *then], ray_works.where)
    results = [cells.result(c.key) for c in [*first, *then]]
    assert {r["node"] for r in results} == {"1", "2"}
    for one, result in zip([*first, *then], results, strict=True):
        assert result["error"] is None
        assert (result["folder"] == str(tmp_path)) == (result["node"] == "1")
        assert (result["threads"], result["variable"]) == (1, "1")
        place = cells.place(one.key)
        text = "firstthen" if one.method == "then" else "first"
        assert (place / "output.txt").read_text() == text
        assert (place / "deep" / "numbers.bin").read_bytes() == bytes(range(256))
    # What was on the other machine is gone from there.
    far = {Path(r["folder"]) for r in results if r["node"] == "2"}
    assert len(far) == 1
    assert not far.pop().exists()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_refusals_of_a_cluster(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, one = Cells(tmp_path), cell()
    with pytest.raises(DomadaptError, match="No machine of the cluster has 64 CPUs for a cell"):
        ray_engine.run(cells, [one], cell_work, threads=64)
    with pytest.raises(DomadaptError, match=r"1 CPU and 0\.5 of a GPU"):
        ray_engine.run(cells, [one], cell_work, gpus_per_cell=0.5)
    with pytest.raises(DomadaptError, match=r"cannot take part: No space left.*somewhere"):
        ray_engine.run(cells, [cell("full disk")], cell_work)
    ours = ray_engine.versions_here()
    monkeypatch.setattr(ray_engine, "versions_here", lambda: {**ours, "torch": "1.0"})
    with pytest.raises(DomadaptError, match=rf"{re.escape(torch.__version__)}, .* torch 1\.0"):
        ray_engine.run(cells, [one], cell_work)
    assert not cells.finished(one.key)


@pytest.mark.slow
def test_the_command_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    (tmp_path / "tasks.py").write_text((HERE / "benchmark_tasks.py").read_text())
    (tmp_path / "tiny.toml").write_text(
        'tasks = ["tasks.py:near"]\nmethods = ["dan"]\nseeds = 1\nmodel = {name = "mlp"}\n'
        'training = {steps = 12, batch_size = 16, device = "cpu"}\n'
    )
    line = [sys.executable, "-m", "domadapt.cli", "benchmark", "tiny.toml", "--out", "b"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["PYTHONPATH"] = str(HERE.parent)
    done = subprocess.run(
        [*line, "--engine", "ray", "--processes", "1"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert told[0] == "3 cells, 0 of them finished; 1 at a time on 1 machine of Ray."
    assert any(line.startswith("3 of 3 cells") for line in told)
    loud = [line for line in told[1:] if re.search(r"ray|gcs|worker|\[20\d\d", line, re.IGNORECASE)]
    assert not loud, "Ray is not quiet"
    assert done.stdout.startswith("# ")
    assert "| target_only (oracle) |" in done.stdout
