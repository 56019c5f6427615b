"""Who computes the cells: processes of this machine, or those of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from domadapt.errors import DomadaptError, unknown
from domadapt.runs import engine as local
from domadapt.runs import ray_cluster, ray_engine

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """An engine that is ready.

    Attributes:
        run: ``run(cells, wanted, work, look=...)`` computes what is not finished.
        said: how many cells at a time, for a person.
        device: the type of device of all cells; None: what is found on this machine.
        note: something that a person should know, or nothing.
    """

    run: Callable[..., None]
    said: str
    device: str | None = None
    note: str = ""


@contextmanager
def engine_for(
    name: str,
    device: str,
    *,
    processes: int | None = None,
    threads: int = 1,
    address: str | None = None,
    gpus_per_cell: float | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[Engine]:
    """The engine of a name, connected while the context lasts; see `domadapt.benchmark.benchmark`.

    Args:
        name: "local" or "ray".
        device: the device that the suite asks for, or "auto".
        processes: how many, or None.
        threads: of each.
        address: of a Ray cluster.
        gpus_per_cell: the share of a GPU of the cluster that a cell takes.
        say: is told what happens to its machines.

    Raises:
        DomadaptError: these do not go together, or the cluster cannot be reached.
    """
    if threads < 1 or (processes is not None and processes < 1):
        raise DomadaptError(
            f"processes and threads must be at least 1; got {processes} and {threads}."
        )
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == "ray":
        with ray_cluster.cluster(address):
            ready = _ray(device, processes, threads, gpus_per_cell)
            yield replace(ready, run=partial(ready.run, say=say))
        return
    if address is not None or gpus_per_cell is not None:
        raise DomadaptError(
            "An address and a share of a GPU are of a Ray cluster; add --engine ray (in Python "
            'engine="ray"), or leave them out.'
        )
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    many = local.divided(threads, gpus) if processes is None else processes
    note = ""
    if not gpus and many * threads > local.cores():
        note = (
            f"Note: {many} processes of {threads} threads share {local.cores()} cores; fewer are "
            "quicker."
        )
    run = partial(local.run, processes=many, threads=threads, gpus=gpus)
    yield Engine(run, f"{many} processes", note=note)


def _ray(device: str, processes: int | None, threads: int, gpus_per_cell: float | None) -> Engine:
    machines = ray_cluster.machines()
    share = gpus_per_cell
    if share is None:
        share = float(device != "cpu" and any(has.get("GPU", 0) >= 1 for has in machines))
    ray_cluster.check_share(share)
    if (device == "cpu" and share) or (device == "cuda" and not share):
        raise DomadaptError(
            f"The suite's device is {device!r}, and each cell would take {share:g} of a GPU; give "
            "another --gpus-per-cell, or another device in the suite."
        )
    run = partial(ray_engine.run, processes=processes, threads=threads, gpus_per_cell=share)
    held = ray_cluster.slots(threads, share)
    many = held if processes is None else processes
    said = f"{many} at a time on {len(machines)} machine{'s' * (len(machines) != 1)} of Ray"
    # Processes of the cluster see a GPU where they have a share of one, whatever there is here.
    seen = "cuda" if share else "cpu" if torch.cuda.is_available() else None
    return Engine(run, said, seen)
