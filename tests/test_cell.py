"""Cells: their names, folders and claims, and the local engine that runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cell_works import cell, work

from domadapt.errors import DomadaptError
from domadapt.runs import engine
from domadapt.runs.cell import RESULT, Cell, Cells
from domadapt.runs.engine import shared

HERE = Path(__file__).parent


def test_the_key_is_of_the_whole_configuration() -> None:
    first = Cell("a", "m", 0, {"x": 1, "y": {"p": 2, "q": 3}})
    assert first.key == Cell("a", "m", 0, {"y": {"q": 3, "p": 2}, "x": 1}).key
    others = [
        Cell("b", "m", 0, first.config),
        Cell("a", "m", 1, first.config),
        Cell("a", "m", 0, {"x": 1, "y": {"p": 2, "q": 4}}),
        Cell("a", "m", 0, {"x": 1, "y": {"p": 2, "q": 3}, "z": 0}),
        Cell("a", "m", 0, {"x": "1", "y": {"p": 2, "q": 3}}),
    ]
    assert len({first.key, *(c.key for c in others)}) == 6


def test_a_finished_cell_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    cells, one = Cells(tmp_path), cell(seed=3)
    assert not cells.finished(one.key)
    cells.perform(one, work)
    assert cells.finished(one.key)
    said = json.loads((cells.place(one.key) / RESULT).read_text())
    assert (said["task"], said["method"], said["seed"]) == ("a", "works", 3)
    assert (said["key"], said["config"], said["value"]) == (one.key, {"method": "works"}, 3)
    assert (cells.place(one.key) / "output.txt").read_text() == "whole"
    assert cells.error(one.key) is None
    assert cells.keys() == {one.key}
    assert list((tmp_path / "work").iterdir()) == []


def test_what_was_written_before_a_kill_is_no_cell(tmp_path: Path) -> None:
    cells, one = Cells(tmp_path), cell()
    left = tmp_path / "work" / one.key / "cell"
    left.mkdir(parents=True)
    (left / RESULT).write_text("{torn")
    (left / "old.txt").touch()
    assert not cells.finished(one.key)
    cells.perform(one, work)
    assert {p.name for p in cells.place(one.key).iterdir()} == {RESULT, "output.txt"}


@pytest.mark.parametrize(
    ("method", "reason"),
    [("refuses", "This needs something else."), ("breaks", "ZeroDivisionError: no number")],
)
def test_a_failure_is_recorded_with_its_reason(tmp_path: Path, method: str, reason: str) -> None:
    cells, one = Cells(tmp_path), cell(method)
    cells.perform(one, work)
    assert cells.finished(one.key)
    assert cells.error(one.key) == reason
    assert ("traceback" in cells.result(one.key)) == (method == "breaks")
    assert cells.forget_failures() == 1
    assert not cells.finished(one.key)
    assert cells.keys() == set()


def test_forgetting_failures_keeps_results(tmp_path: Path) -> None:
    cells, good = Cells(tmp_path), cell()
    cells.perform(good, work)
    assert cells.forget_failures() == 0
    assert cells.finished(good.key)


def test_a_full_disk_is_not_the_cell(tmp_path: Path) -> None:
    cells, one = Cells(tmp_path), cell("full disk")
    with pytest.raises(OSError, match="No space left"):
        cells.perform(one, work)
    assert not cells.finished(one.key)


def test_a_cell_that_goes_on_from_a_failed_one_fails(tmp_path: Path) -> None:
    cells, first = Cells(tmp_path), cell("refuses")
    second = cell("works", needs=(first.key,))
    cells.perform(first, work)
    cells.perform(second, work)
    assert "which failed: This needs something else." in (cells.error(second.key) or "")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    cells, one = Cells(tmp_path), cell()
    cells.perform(one, work)
    file = cells.place(one.key) / RESULT
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(DomadaptError, match="schema 99"):
        cells.result(one.key)


def test_a_claim_is_of_one_process_and_falls_with_it(tmp_path: Path) -> None:
    cells, one = Cells(tmp_path), cell()
    holder = subprocess.Popen(
        [sys.executable, str(HERE / "cell_works.py"), str(tmp_path), one.key],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with cells.claim(one.key) as mine:
            assert not mine
        with cells.claim(cell(seed=1).key) as mine:
            assert mine
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with cells.claim(one.key) as mine:
            assert mine
    finally:
        holder.kill()
        holder.stdout.close()


def test_sharing_gives_each_cell_once(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    wanted = [cell(task=t, seed=s) for t in "abc" for s in range(4)]
    had: list[list[Cell]] = [[], []]
    both = threading.Barrier(2)

    def runner(who: int) -> None:
        both.wait()
        for one in shared(cells, wanted, who):
            had[who].append(one)
            cells.perform(one, slow)

    threads = [threading.Thread(target=runner, args=(who,)) for who in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(c.key for c in had[0] + had[1]) == Counter({c.key: 1 for c in wanted})
    assert [some[0].task for some in had] == ["a", "b"]
    assert min(map(len, had)) >= 3


def test_what_a_kill_left_of_a_finished_cell_is_swept(tmp_path: Path) -> None:
    cells, done, other = Cells(tmp_path), cell(seed=1), cell(seed=2)
    cells.perform(done, work)
    rooms = [tmp_path / "work" / one.key for one in (done, other)]
    for room in rooms:
        room.mkdir()
    cells.sweep()
    # What is not finished goes on from its room.
    assert [room.exists() for room in rooms] == [False, True]
    for one in shared(cells, [done, other]):
        rooms[0].mkdir()
        cells.perform(one, work)
    assert [room.exists() for room in rooms] == [False, False]


def slow(*given: Any) -> dict[str, Any]:
    time.sleep(0.02)
    return work(*given)


def test_a_cell_waits_for_what_it_needs(tmp_path: Path) -> None:
    cells, first = Cells(tmp_path), cell("works", "b")
    second = cell("later", "a", needs=(first.key,))
    seen = []
    for one in shared(cells, [second, first]):
        seen.append(one.method)
        cells.perform(one, work)
    assert seen == ["works", "later"]
    assert list(shared(cells, [second, first])) == []


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 8)
    assert [engine.divided(t) for t in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert engine.divided(1, gpus=2) == 2


@pytest.mark.slow
def test_processes_die_and_the_rest_goes_on(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    good = [cell(seed=s) for s in range(3)]
    bad = {name: cell(name) for name in ("dies", "dies once", "breaks")}
    looks = []
    wanted = [*bad.values(), *good]
    engine.run(cells, wanted, work, processes=1, threads=3, look=lambda: looks.append(1))
    assert all(cells.error(c.key) is None for c in (*good, bad["dies once"]))
    assert "died 2 times (exit code -9)" in (cells.error(bad["dies"].key) or "")
    assert cells.error(bad["breaks"].key) == "ZeroDivisionError: no number"
    assert cells.result(good[0].key)["threads"] == "3"
    calls = Counter((tmp_path / "calls.txt").read_text().split())
    assert calls[bad["dies"].key] == calls[bad["dies once"].key] == 2
    assert all(calls[c.key] == 1 for c in (*good, bad["breaks"]))
    assert looks
    # Nothing is left to do: no process is started, and nothing runs again.
    engine.run(cells, wanted, work, processes=4)
    assert Counter((tmp_path / "calls.txt").read_text().split()) == calls


def test_a_full_disk_ends_the_engine_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DomadaptError, match="No space left on device: somewhere"):
        engine.run(Cells(tmp_path), [cell("full disk")], work, processes=1)
    with pytest.raises(DomadaptError, match="at least 1"):
        engine.run(Cells(tmp_path), [], work, processes=0)
