"""The Ray engine: the cells of a folder on the machines of a cluster.

This process, the driver, hires one process per slot of the cluster (an actor of Ray) and gives each
one cell at a time. Actors instead of one task of Ray per cell: the driver chooses who gets which
cell, so that what the cells of a task share is made once in a process; a process that dies was at
one known cell; and never is more under way than there are slots, however many cells there are.

A process that sees the driver's folder (it looks for a file that the driver has just written there)
works in it as a local one does. Any other works in a folder of its own machine: what a cell needs
is brought to it, and the finished cell goes back in one piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import secrets
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domadapt.errors import DomadaptError
from domadapt.runs.cell import Cell, Cells, Work
from domadapt.runs.engine import _THREADS, DEATHS, PAUSE
from domadapt.runs.ray_cluster import check_share, library, needs, slots
from domadapt.runs.ray_server import (
    Server,
    Travelling,
    content_of,
    put,
    token_file,
    versions_here,
)

#: Seconds between two looks at which machines there are.
FIT = 2.0
#: So many processes in a row that end before they are ready are no chance.
UNBORN = 3


def run(
    cells: Cells,
    wanted: Sequence[Cell],
    work: Work,
    *,
    processes: int | None = None,
    threads: int = 1,
    gpus_per_cell: float = 0.0,
    look: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Compute all wanted cells on the cluster of `cluster`; finished ones are not run again.

    What is under way on a machine that is lost runs again, however often. A cell whose own process
    died twice is recorded as failed.

    Args:
        cells: the folder.
        wanted: the cells; what one of them needs is among them.
        work: computes one; see `Travelling` for what it may offer.
        processes: how many at most; by default as many as the cluster holds at any time. More than
            it holds wait, and ask an autoscaler for machines.
        threads: of each process, which takes as many CPUs of the cluster.
        gpus_per_cell: the share of a GPU that each takes, from 0 to 1.
        look: is called at least about once a second, to tell how far it is.
        say: is told when a machine or a process is lost.

    Raises:
        DomadaptError: no machine of the cluster is large enough, or one has other versions or lacks
            something, or cannot write.
    """
    if threads < 1 or (processes is not None and processes < 1):
        raise DomadaptError(
            f"processes and threads must be at least 1; got {processes} and {threads}."
        )
    check_share(gpus_per_cell)
    if not cells.folder.is_absolute():
        cells = Cells(cells.folder.absolute())
    left = _Left(cells, wanted)
    if not left.keys:
        return
    if processes is None and not slots(threads, gpus_per_cell):
        raise DomadaptError(
            f"No machine of the cluster has {needs(threads, gpus_per_cell)}; ask for less "
            "(--threads, --gpus-per-cell), start larger ones, or give --processes to wait for them."
        )
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(_token(cells))
        # Who is alone finds again what was under way on other machines when a driver was killed.
        alone = stack.enter_context(cells.claim("ray"))
        said = f"{socket.gethostname()}:{cells.folder}:{'' if alone else token}"
        far = hashlib.sha256(said.encode()).hexdigest()[:16]
        crew = _Crew(cells, left, work, token, far, processes, threads, gpus_per_cell, say)
        try:
            while left.keys:
                crew.hire()
                crew.give()
                crew.hear()
                if look is not None:
                    look()
            crew.clear()
        except OSError as error:
            raise DomadaptError(f"{error.strerror or error}: {error.filename}.") from error
        finally:
            crew.dismiss()


@contextlib.contextmanager
def _token(cells: Cells) -> Iterator[str]:
    """A word in a file of that name; who can read it there sees the same folder."""
    token = secrets.token_hex(8)
    file = token_file(cells, token)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(token, encoding="ascii")
    try:
        yield token
    finally:
        file.unlink(missing_ok=True)


class _Left:
    """The cells that are left: by task those that may run; the others wait for what they need."""

    def __init__(self, cells: Cells, wanted: Sequence[Cell]) -> None:
        todo = [cell for cell in wanted if not cells.finished(cell.key)]
        self.keys = {cell.key for cell in todo}
        #: What others go on from.
        self.needed = {key for cell in wanted for key in cell.needs}
        self.ready: dict[str, deque[Cell]] = {cell.task: deque() for cell in todo}
        self.waiting: dict[str, list[Cell]] = defaultdict(list)
        self.held: deque[tuple[float, Cell]] = deque()
        for cell in todo:
            self.wait(cell)

    def wait(self, cell: Cell) -> None:
        """Put a cell behind what it needs first, or among those that may run."""
        for key in cell.needs:
            if key in self.keys:
                self.waiting[key].append(cell)
                return
        self.ready[cell.task].append(cell)

    def take(self, latest: str | None, taken: Counter[str]) -> Cell | None:
        """The next cell for a process: of its latest task, else of that which fewest are at."""
        while self.held and self.held[0][0] <= time.monotonic():
            self.back(self.held.popleft()[1])
        if latest is not None and self.ready.get(latest):
            return self.ready[latest].popleft()
        open_ = [task for task, some in self.ready.items() if some]
        return self.ready[min(open_, key=lambda t: taken[t])].popleft() if open_ else None

    def back(self, cell: Cell) -> None:
        """Let a cell run once more, before the others."""
        self.ready[cell.task].appendleft(cell)

    def hold(self, cell: Cell) -> None:
        """Leave a cell that somebody else is at for a moment."""
        self.held.append((time.monotonic() + PAUSE, cell))

    def ended(self, key: str) -> None:
        """A cell is finished; those that waited for it need wait no more."""
        self.keys.discard(key)
        for cell in self.waiting.pop(key, ()):
            self.wait(cell)


@dataclass
class _Hand:
    """A process of the cluster as the driver sees it.

    Attributes:
        actor: it.
        stage: what it was told last, or "idle".
        ref: its answer to that, when it comes.
        node, host: its machine; unknown before its first word.
        near: whether it sees the driver's folder.
        task: that which it was last at.
        at: the cell that it is at.
        claims: held for it by the driver, as it cannot reach them.
    """

    actor: Any
    stage: str
    ref: Any
    node: str = ""
    host: str = "a machine of the cluster"
    near: bool = True
    visits: bool = False
    task: str | None = None
    at: Cell | None = None
    claims: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass(frozen=True)
class _Suspect:
    """A cell whose process died; a probe says whether its machine did."""

    cell: Cell
    host: str
    probe: Any
    why: str


class _Crew:
    """All processes of a run, and who does what."""

    def __init__(
        self,
        cells: Cells,
        left: _Left,
        work: Work,
        token: str,
        far: str,
        processes: int | None,
        threads: int,
        gpus_per_cell: float,
        say: Callable[[str], None] | None,
    ) -> None:
        self.ray = library()
        self.cells, self.left, self.token, self.far = cells, left, token, far
        self.processes, self.threads, self.gpus_per_cell = processes, threads, gpus_per_cell
        self.say = say or (lambda text: None)
        self.travelling = work if isinstance(work, Travelling) else None
        named: list[str] = [] if self.travelling is None else self.travelling.files()
        self.files = {path: content_of(path) for path in named}
        self.parcels: dict[str, Any] = {}
        self.work = self.ray.put(work)
        self.hands: list[_Hand] = []
        self.suspects: list[_Suspect] = []
        self.deaths: Counter[str] = Counter()
        self.unborn = 0
        self.fitted = -FIT
        self.slots = 1
        #: By machine: finished cells and files of the cache that lie there, tasks made ready there.
        self.has: dict[str, set[str]] = defaultdict(set)
        self.cached: dict[str, set[str]] = defaultdict(set)
        self.prepared: dict[str, set[str]] = defaultdict(set)

    def hire(self) -> None:
        """As many processes as there are slots, but no more than cells."""
        if self.processes is None and time.monotonic() - self.fitted >= FIT:
            self.fitted = time.monotonic()
            self.slots = max(1, slots(self.threads, self.gpus_per_cell))
        many = min(self.processes or self.slots, len(self.left.keys))
        own = dict.fromkeys(_THREADS, str(self.threads))
        if not self.gpus_per_cell:
            own["CUDA_VISIBLE_DEVICES"] = ""
        while len(self.hands) < many:
            options = {
                "num_cpus": self.threads,
                "num_gpus": self.gpus_per_cell,
                "runtime_env": {"env_vars": own},
                "scheduling_strategy": "SPREAD",
            }
            actor = self.ray.remote(Server).options(**options).remote()
            self.hands.append(_Hand(actor, "about", actor.about.remote()))

    def give(self) -> None:
        """A cell for each process that has none."""
        taken = Counter(h.at.task for h in self.hands if h.at is not None)
        for hand in self.hands:
            while hand.stage == "idle":
                cell = self.left.take(hand.task, taken)
                if cell is None:
                    return
                if self.cells.finished(cell.key):
                    # By another runner.
                    self.left.ended(cell.key)
                elif not self._give(hand, cell):
                    break
                else:
                    taken[cell.task] += 1

    def _give(self, hand: _Hand, cell: Cell) -> bool:
        """Whether the process could be told to do the cell."""
        if hand.near:
            hand.at, hand.task = cell, cell.task
            self._tell(hand, "perform", cell, {}, False)
            return True
        if not hand.claims.enter_context(self.cells.claim(cell.key)):
            hand.claims.close()
            self.left.hold(cell)
            return False
        shares = self.travelling is not None and self.travelling.shares_cache
        if shares and cell.task not in self.prepared[hand.node]:
            # What a task's cells share is made by one process, on whichever machine.
            if not hand.claims.enter_context(self.cells.claim("features")):
                hand.claims.close()
                self.left.hold(cell)
                return False
            lacks = {
                p.name: p.read_bytes()
                for p in (self.cells.folder / "cache").glob("*.npy")
                if p.name not in self.cached[hand.node]
            }
            self.cached[hand.node] |= lacks.keys()
            hand.at, hand.task = cell, cell.task
            self._tell(hand, "prepare", cell, lacks)
            return True
        self._send(hand, cell)
        return True

    def _send(self, hand: _Hand, cell: Cell) -> None:
        """Let a far process perform a cell, with what it needs and does not have."""
        lacks = [key for key in cell.needs if key not in self.has[hand.node]]
        brought = {key: self.cells.pack(key) for key in lacks}
        self.has[hand.node].update(lacks)
        hand.at, hand.task = cell, cell.task
        self._tell(hand, "perform", cell, brought, cell.key in self.left.needed)

    def _tell(self, hand: _Hand, stage: str, *what: Any) -> None:
        hand.stage = stage
        hand.ref = getattr(hand.actor, stage).remote(*what)

    def hear(self) -> None:
        """What the processes have to say, at most a second long."""
        refs = [h.ref for h in self.hands if h.ref is not None]
        refs += [s.probe for s in self.suspects]
        idle = any(h.stage == "idle" for h in self.hands)
        if not refs:
            if idle and not self.left.held:
                missing = next(iter(self.left.waiting), "")
                raise DomadaptError(f"Cells need {missing}, which is not among those wanted.")
            time.sleep(PAUSE)
            return
        self.ray.wait(refs, timeout=PAUSE if idle else 1.0)
        ready = set(self.ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        for hand in [h for h in self.hands if h.ref in ready]:
            self._hear(hand)
        for suspect in [s for s in self.suspects if s.probe in ready]:
            self._judge(suspect)

    def _hear(self, hand: _Hand) -> None:
        errors = self.ray.exceptions
        try:
            said = self.ray.get(hand.ref)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", error)
            raise DomadaptError(
                f"{hand.host} cannot take part: {type(cause).__name__}: {cause}"
            ) from error
        except errors.RayError as error:
            kinds = (errors.ActorDiedError, errors.OutOfMemoryError, errors.WorkerCrashedError)
            self._lost(hand, error, isinstance(error, kinds))
            return
        hand.ref = None
        getattr(self, f"_heard_{hand.stage}")(hand, said)

    def _heard_about(self, hand: _Hand, said: tuple[str, str, dict[str, str]]) -> None:
        hand.node, hand.host, theirs = said
        for what, ours in versions_here().items():
            if theirs[what] != ours:
                raise DomadaptError(
                    f"{hand.host} has {what} {theirs[what]}, and this process has {what} {ours}; "
                    "cells of one table need the same versions: install the same on all machines."
                )
        rest = (self.files, self.token, self.far, self.threads)
        self._tell(hand, "begin", self.cells, self.work, *rest)

    def _heard_begin(self, hand: _Hand, said: tuple[bool, list[str]]) -> None:
        hand.near, lacks = said
        hand.visits = not hand.near or bool(lacks)
        for path in lacks:
            if self.files[path] == "folder":
                raise DomadaptError(
                    f"{hand.host} has no folder {path}, which the suite names; put it where all "
                    "machines see it under this path."
                )
            if path not in self.parcels:
                self.parcels[path] = self.ray.put(Path(path).read_bytes())
        if lacks:
            self._tell(hand, "receive", lacks, *(self.parcels[path] for path in lacks))
        else:
            self._heard_receive(hand, None)

    def _heard_receive(self, hand: _Hand, said: None) -> None:
        self.unborn = 0
        hand.stage = "idle"

    def _heard_prepare(self, hand: _Hand, said: tuple[str, dict[str, bytes]]) -> None:
        lacks, made = said
        assert hand.at is not None
        if lacks:
            self._refuse(hand, lacks)
        for name, content in made.items():
            put(self.cells.folder / "cache" / Path(name).name, content)
        self.cached[hand.node] |= made.keys()
        self.prepared[hand.node].add(hand.at.task)
        # Of the claims that of the cell alone is needed further.
        hand.claims.close()
        if hand.claims.enter_context(self.cells.claim(hand.at.key)):
            self._send(hand, hand.at)
        else:
            self.left.hold(hand.at)
            self._free(hand)

    def _heard_perform(self, hand: _Hand, said: tuple[str, str | bytes]) -> None:
        word, what = said
        cell = hand.at
        assert cell is not None
        if word == "refuses":
            self._refuse(hand, str(what))
        if word == "busy":
            self.left.hold(cell)
        else:
            if isinstance(what, bytes):
                self.cells.unpack(cell.key, what)
                if cell.key in self.left.needed:
                    self.has[hand.node].add(cell.key)
            self.left.ended(cell.key)
        self._free(hand)

    def _refuse(self, hand: _Hand, why: str) -> None:
        raise DomadaptError(
            f"{hand.host} cannot take part: {why.rstrip('.')}. Every machine needs the data under "
            "the same path (or DOMADAPT_DATA there) and room to write."
        )

    def _free(self, hand: _Hand) -> None:
        hand.claims.close()
        hand.at, hand.stage = None, "idle"

    def _lost(self, hand: _Hand, error: Exception, died: bool) -> None:
        """A process is gone: was it its own death, or that of its machine?"""
        self.hands.remove(hand)
        hand.claims.close()
        self._kill(hand)
        why = _reason(error)
        # What its machine's end took with it says nothing of those that begin elsewhere.
        if hand.stage in ("about", "begin", "receive") and "node has died" not in str(error):
            self.unborn += 1
            if self.unborn >= UNBORN or getattr(error, "actor_init_failed", False):
                raise DomadaptError(
                    f"Processes of Ray do not start: {why} Every machine needs domadapt with its "
                    "extra ray, the same version as here."
                )
        if hand.at is None:
            return
        if not died:
            # Its connection broke, or what it sent was lost; neither is the cell's doing.
            self.say(f"{hand.host} does not answer; {hand.at.title} runs again.")
            self.left.back(hand.at)
            return
        # Ray starts something there, or says that there is no such machine any more.
        probe = self.ray.remote(num_cpus=0, max_retries=0)(platform.node)
        there = self._there(hand.node)
        asked = probe.options(scheduling_strategy=there).remote()
        self.suspects.append(_Suspect(hand.at, hand.host, asked, why))

    def _there(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _judge(self, suspect: _Suspect) -> None:
        self.suspects.remove(suspect)
        cell = suspect.cell
        try:
            self.ray.get(suspect.probe)
        except self.ray.exceptions.RayError:
            self.say(f"{suspect.host} is lost; {cell.title} runs again.")
            self.left.back(cell)
            return
        self.deaths[cell.key] += 1
        if self.deaths[cell.key] < DEATHS:
            self.say(f"The process of {cell.title} died on {suspect.host}; it runs again.")
            self.left.back(cell)
            return
        with self.cells.claim(cell.key) as mine:
            if not mine:
                self.left.hold(cell)
                return
            if not self.cells.finished(cell.key):
                died = f"its process died {DEATHS} times, the last time on {suspect.host}"
                self.cells.fail(cell, f"{died}, mostly for lack of memory. Ray says: {suspect.why}")
        self.left.ended(cell.key)

    def clear(self) -> None:
        """Leave nothing behind on machines that do not see the folder."""
        one = {h.node: h for h in self.hands if h.visits and h.stage == "idle"}
        asked = [hand.actor.clear.remote() for hand in one.values()]
        if asked:
            self.ray.wait(asked, num_returns=len(asked), timeout=30.0)

    def dismiss(self) -> None:
        """End all processes, whatever they are at."""
        for hand in self.hands:
            hand.claims.close()
            self._kill(hand)

    def _kill(self, hand: _Hand) -> None:
        with contextlib.suppress(Exception):
            self.ray.kill(hand.actor)


def _reason(error: Exception) -> str:
    """What happened, of the pages that Ray says: where a process did not start, the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("The actor", "Task was", "Memory"))]
    if getattr(error, "actor_init_failed", False):
        telling = lines
    said = (telling or lines or [type(error).__name__])[-1]
    return said.partition(" Some common causes")[0][:400].rstrip(".") + "."
