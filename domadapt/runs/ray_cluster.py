"""A connection to a Ray cluster, and what its machines hold."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.runs.engine import cores

#: Bytes of the object store of an own cluster: cells are files, and hardly anything goes through.
STORE = 100_000_000


_START = (
    "Start Ray there with `ray start --head`, or leave out the address for a cluster of this "
    "machine alone."
)


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """A connection to a Ray cluster; without an address one of this machine alone, ended after.

    Nothing is reported to anybody: usage statistics are off. Where the calling program has
    connected to Ray already, that connection is used and left as it is.

    Args:
        address: ``HOST:PORT`` of the head, or ``auto`` on one of its machines; where it is None
            the variable RAY_ADDRESS counts, which Ray's own launchers set.

    Raises:
        DomadaptError: Ray is not installed, no cluster answers, or it runs other versions.
    """
    ray = library()
    address = address or os.environ.get("RAY_ADDRESS") or None
    if ray.is_initialized():
        yield
        return
    if address not in (None, "auto"):
        _check_answers(address)
    own: dict[str, Any] = {"address": address}
    if address is None:
        own = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
        own["object_store_memory"] = STORE
        # Ray's processes give way to all others by default; the local engine's do not.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(**own, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        said = " ".join(str(error).split())[:400].rstrip(".")
        if address is None:
            raise DomadaptError(f"Ray could not start on this machine: {said}.") from error
        raise DomadaptError(f"Ray cannot be used at {address}: {said}. {_START}") from error
    # What Ray prints of dead processes are pages of its own state; the results say what came of it.
    with contextlib.suppress(AttributeError):
        ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself tries it for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise DomadaptError(
            f"The address of a Ray cluster is HOST:PORT, or auto on one of its machines; got "
            f"{address!r}. From outside submit the command with `ray job submit`."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise DomadaptError(f"Nobody answers at {address} ({error}). {_START}") from error


def library() -> Any:
    """The library, told to be quiet before it is imported."""
    if find_spec("ray") is None:
        raise DomadaptError("The engine ray needs its package: pip install 'domadapt[ray]'.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def machines() -> list[dict[str, float]]:
    """The resources of each machine of the cluster that is alive."""
    return [dict(node["Resources"]) for node in library().nodes() if node["Alive"]]


def slots(threads: int = 1, gpus_per_cell: float = 0.0) -> int:
    """How many cells the cluster holds at a time."""
    found = 0
    for has in machines():
        here = int(has.get("CPU", 0) // threads)
        if gpus_per_cell:
            # A share is of one GPU; 1 / 0.1 must not be 9.
            here = min(here, int(has.get("GPU", 0)) * int(1 / gpus_per_cell + 1e-6))
        found += here
    return found


def check_share(gpus_per_cell: float) -> None:
    """Refuse what is no share of a GPU."""
    if not 0 <= gpus_per_cell <= 1:
        raise DomadaptError(
            f"gpus_per_cell is the share of one GPU that a cell takes, from 0 to 1; got "
            f"{gpus_per_cell}."
        )


def needs(threads: int, gpus_per_cell: float) -> str:
    """What a machine must have for one cell, in words."""
    gpus = f" and {gpus_per_cell:g} of a GPU" if gpus_per_cell else ""
    return f"{threads} CPU{'s' if threads > 1 else ''}{gpus} for a cell"
