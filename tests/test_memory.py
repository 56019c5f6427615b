"""Freed memory stays with the process, where glibc is asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys, torch
from domadapt.memory import give_back_freed_memory, keep_freed_memory
torch.set_num_threads(1)
done = {call}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    before = faults()
    for size in range(2, 31):
        torch.ones(size << 18)
    return faults() - before
print(int(done), work(), [work() for _ in range(5)][-1])
give_back_freed_memory()
print(work())
"""


def said(call: str, **variables: str) -> list[list[int]]:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[1]), **variables},
    )
    return [list(map(int, line.split())) for line in ran.stdout.splitlines()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_memory_is_asked_for_once() -> None:
    (_, plain, _), _ = said("False")
    (done, _, kept), (after,) = said("keep_freed_memory()")
    if not done:
        pytest.skip("a C library without mallopt")
    # Each is larger than all that were freed before it, so that left alone glibc asks the system
    # for every one (464 MiB: 118,784 pages of 4 KiB, 232 of 2 MiB), whatever lies on its heap. If
    # it is told to keep them, what the first rounds have left behind is room for all.
    assert kept < plain / 10
    assert after > kept


def test_the_users_own_settings_stand() -> None:
    assert said("keep_freed_memory()", MALLOC_ARENA_MAX="2")[0][0] == 0
