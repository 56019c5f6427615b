"""domadapt beside pytorch-adapt 0.0.83 and skada 0.6.0: accuracy, time, memory, lines.

    python benchmarks/compare.py                                    # domadapt and pytorch-adapt
    python benchmarks/compare.py --skada-python skada/bin/python    # and skada, see below
    python benchmarks/compare.py --tasks printed-handwritten-mlp --methods dann --seeds 1

What is the same for all: tensors, splits, network and its first weights, discriminator and its
first weights, batch size, steps, AdamW without decay, cosine schedule, weights of the losses,
threads. Convolution nets are given to the peers in channels_last as well, which domadapt's Trainer
sees to itself and which is quicker here; `pytorch-adapt, contiguous` is without that favour: the
network in the layout that it is made in, as its users would hand it over. How each
library is used stands in `peers/`, one file each. Target labels are read once, after training, by
the same code for all; nothing was tuned for this comparison.

Each library trains in a process of its own. The processes take turns, a block of steps each, one
at a time, so that whatever else the machine does meets all of them; a ratio is that of one block
of the peer to the block of domadapt in the same round, and the median over rounds and seeds is
told, with its quartiles. The first block of a run warms up and is not counted. Two ratios are told:
"loop" is all that a step takes, batches included, and "step" leaves out the making of batches on
both sides: what a user of the peer would have who wrote a loader of whole batches. The clock is
that of the process (--clock cpu), which other work on the machine disturbs least; that on the wall
is kept in the results as well. domadapt's blocks hold its checks, curves and doctor, which looks
eight times a run however long that is: longer runs cost less by the step.

Memory is what training added to the process at most (Linux), beyond libraries and data. Lines are
those of `peers/` that the method needs, from data to trained network, without blank lines,
comments, docstrings and imports, after one formatter for all. Those of domadapt include data and
network, which the peers are handed; those that count steps for the driver are in all.

Known faults, and what was done so that each library is measured at its best:

=============  ===================================================  ===============================
library        fault                                                here
=============  ===================================================  ===============================
pytorch-adapt  source samples are drawn by NumPy's global           NumPy is seeded; the draw with
               generator, with replacement                          replacement stays
pytorch-adapt  reversal and CDAN's encoder loss have no schedule    set before each step
pytorch-adapt  the reversal's default weight is an integer tensor,  made with 1.0
               so that every weight in (0, 1) set later becomes 0
pytorch-adapt  losses are averaged, so a weight depends on their    `SumWeighter`
               number
pytorch-adapt  linear-time MMD with one kernel by default           all pairs, five kernels
pytorch-adapt  source and target pass through BatchNorm one after   stays; see below
               the other
pytorch-adapt  every loss is read off its tensor at every step      stays
skada          the domain classifier ends in a softmax of one       one of our own with logits
               number: DANN and CDAN train nothing
skada          the reversal has no schedule                         a callback sets it
skada          CDAN takes raw logits, with their gradient, and      a module of our own
               resets the global seed where it projects
skada          kernels of the distance instead of its square, sum   the kernels stay; the sum is
               of 33                                                weighted by 1/33
skada          the sampler reads the data set when it is made       stays; once a run, before the
                                                                     first block that is counted
skada          a fifth of the data is held out by default           `train_split=None`
=============  ===================================================  ===============================

What BatchNorm sees is no matter of taste: pytorch-adapt can only pass the domains one after the
other, skada only together, and domadapt does what `batch_statistics` says, apart by default. So
domadapt stands twice: as it comes, the equal of pytorch-adapt, and with the domains together, the
equal of skada.

`pytorch-adapt as it comes` is its hooks with their defaults instead (see the file), for those who
ask what its shortest use gives. CDAN is compared without and with weights by entropy (+E), which
domadapt has by default and skada has not.

skada wants an environment of its own, since its import changes scikit-learn for the process:
`python -m venv skada && skada/bin/pip install -e . 'skada[deep]==0.6.0'`. Without --skada-python
its rows are absent, and the table says so.

Finished rows are kept, by task, method, library, seed and settings; delete the results to begin
anew. Where a library fails, the row says why.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.job import METHODS, Job, make_job, prepare, resident

from domadapt.evaluation import evaluate
from domadapt.inference import outputs_of
from domadapt.runs.plan import Plan
from domadapt.training import Training

HERE = Path(__file__).parent
#: A name, and the task and the model that it stands for.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "printed-handwritten-mlp": ("digits:printed->handwritten", {"name": "mlp"}),
    "printed-handwritten-lenet": ("digits:printed->handwritten", {"name": "lenet"}),
    "handwritten-printed-lenet": ("digits:handwritten->printed", {"name": "lenet"}),
    "office31-features": ("office31-features:amazon->webcam", {"name": "features"}),
    "amazon": ("amazon:books->kitchen", {"name": "features", "bottleneck": 100}),
}
#: Module and function of each library, and the package whose version is noted.
LIBRARIES = {
    "domadapt": ("with_domadapt", "train", "domadapt"),
    "domadapt, domains together": ("with_domadapt", "train_together", "domadapt"),
    "pytorch-adapt": ("with_pytorch_adapt", "train", "pytorch-adapt"),
    "pytorch-adapt, contiguous": ("with_pytorch_adapt", "train_contiguous", "pytorch-adapt"),
    "pytorch-adapt as it comes": ("with_pytorch_adapt", "train_as_it_comes", "pytorch-adapt"),
    "skada": ("with_skada", "train", "skada"),
}
OURS, TOGETHER = "domadapt", "domadapt, domains together"
#: The peer that a bar is set for, as it is given a convolution net.
BARRED = ("pytorch-adapt", "pytorch-adapt, contiguous")
CLOCKS = ("cpu", "wall")
#: How much faster a step must be than pytorch-adapt's, by the kind of network.
BARS = {"lenet": 1.1, "mlp": 1.3, "features": 1.3}


# The process of one library -------------------------------------------------------------------


def library(name: str) -> Any:
    return importlib.import_module(f"peers.{LIBRARIES[name][0]}")


def training_of(args: argparse.Namespace, seed: int) -> Training:
    return Training(
        steps=args.steps,
        batch_size=args.batch,
        lr=1e-3,
        weight_decay=0.0,
        checkpoint_every=0,
        log_every=math.gcd(args.block, Training.log_every),
        device="cpu",
        seed=seed,
    )


def accuracy_of(job: Job) -> float:
    """Of the network as it is now, on the target's test split; the labels are read here only."""
    test = outputs_of(job.network, job.plan.task.target_test, job.plan.views)
    scores = evaluate(job.plan.task, test)
    assert scores is not None
    return scores.accuracy


def serve(args: argparse.Namespace) -> None:
    """Train what the driver asks for, each job in a process of its own.

    The jobs are forked from this process, which has imported the library and read the data: what
    that takes is spent once, and no job begins with what another has left in memory.
    """
    name = args.work
    train: Callable[[Job], Any] = getattr(library(name), LIBRARIES[name][1])
    # Threads do not survive a fork, so none are begun here.
    torch.set_num_threads(1)
    plans: dict[str, Plan] = {}
    while line := sys.stdin.readline():
        asked = json.loads(line)
        task = asked["task"]
        if task not in plans:
            plans = {task: prepare(*TASKS[task])}
        child = os.fork()
        if not child:
            try:
                work(name, train, plans[task], asked, args)
            except BaseException as error:
                print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            print(json.dumps({"failed": f"ended with status {status}"}), flush=True)


def work(
    name: str,
    train: Callable[[Job], Any],
    plan: Plan,
    asked: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """One training, block by block; every line that is printed is a report to the driver."""
    torch.set_num_threads(args.threads)
    job = make_job(plan, asked["method"], training_of(args, asked["seed"]), args.block)
    before = resident("VmRSS")
    version = importlib.metadata.version(LIBRARIES[name][2])
    job.turn.begin(version=version, lines=code_lines(name, asked["method"]))
    job.network = train(job)
    peak = resident("VmHWM")
    added = None if before is None or peak is None else peak - before
    print(json.dumps({"accuracy": accuracy_of(job), "mib": peak, "mib_added": added}), flush=True)


# The driver -----------------------------------------------------------------------------------


class Worker:
    """The process of a library, which does what it is told to."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name = name
        python = args.skada_python if name == "skada" else sys.executable
        command = [python, __file__, "--work", name]
        for key in ("steps", "batch", "block", "threads"):
            command += [f"--{key}", str(getattr(args, key))]
        # The package is read from this checkout, whatever the environment of a peer holds.
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(args.threads)}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=env,
        )
        self.reports: list[dict[str, Any]] = []
        self.failure = ""

    def say(self, line: str) -> None:
        """Have a line read by the process, unless it has failed."""
        assert self.process.stdin is not None
        if not self.failure:
            # A broken pipe is found out about by `hear`.
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    def begin(self, task: str, method: str, seed: int) -> None:
        self.reports, self.failure = [], ""
        self.say(json.dumps({"task": task, "method": method, "seed": seed}))

    def hear(self) -> None:
        """Wait for the next report, unless it has failed."""
        if self.failure:
            return
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                report = json.loads(line)
                self.failure = report.get("failed", "")
                self.reports.append(report)
                return
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        self.failure = said[-1] if said else f"exit code {self.process.returncode}"

    def stop(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.errors):
            if stream is not None:
                stream.close()


def take_turns(workers: list[Worker], cell: tuple[str, str, int], blocks: int) -> None:
    """Have all train the same, one at a time, a block of steps each."""
    for worker in workers:
        worker.begin(*cell)
        worker.hear()
    for turn in range(blocks + 1):
        # Whoever comes second meets other caches than the first, so the order alternates. The last
        # word is that after the last block: it lets them finish.
        for worker in workers if turn % 2 == 0 else workers[::-1]:
            worker.say("go")
            worker.hear()


def row_of(reports: list[dict[str, Any]], ours: list[dict[str, Any]], block: int) -> dict[str, Any]:
    """What one library did; the first block of steps warms up and is not counted."""
    mine = [r for r in reports if "step" in r][1:]
    theirs = [r for r in ours if "step" in r][1:]
    both = list(zip(mine, theirs, strict=False))
    row = {**reports[0], **reports[-1]}
    for clock in CLOCKS:
        row[f"{clock}_ms"] = 1e3 * statistics.median(r[clock] for r in mine) / block
        made = f"{clock}_loading"
        row[f"{made}_ms"] = 1e3 * statistics.median(r[made] for r in mine) / block
        row[f"{clock}_loop_ratios"] = [round(a[clock] / b[clock], 3) for a, b in both]
        row[f"{clock}_step_ratios"] = [
            round((a[clock] - a[made]) / (b[clock] - b[made]), 3) for a, b in both
        ]
    return row


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is not in the results file yet."""
    about = {
        "steps": args.steps,
        "batch": args.batch,
        "block": args.block,
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    kept = json.loads(args.out.read_text()) if args.out.exists() else {"about": about, "rows": []}
    if kept["about"] != about:
        changed = [k for k in about if kept["about"].get(k) != about[k]]
        sys.exit(
            f"{args.out} was made with other {', '.join(changed)}; give the same, name another "
            "--out, or delete it."
        )
    rows = kept["rows"]
    done = {(r["task"], r["method"], r["library"], r["seed"]) for r in rows}
    workers: dict[str, Worker] = {}
    try:
        for seed, task, method in itertools.product(range(args.seeds), args.tasks, args.methods):
            names = [n for n in able(task, method, args) if (task, method, n, seed) not in done]
            if not names:
                continue
            # Ratios are to domadapt in the same rounds, so it runs again beside a peer that is new.
            names = [OURS, *(n for n in names if n != OURS)]
            for name in names:
                if name not in workers:
                    workers[name] = Worker(name, args)
            chosen = [workers[n] for n in names]
            take_turns(chosen, (task, method, seed), args.steps // args.block)
            if chosen[0].failure:
                sys.exit(f"domadapt failed on {task} with {method}: {chosen[0].failure}")
            for worker in chosen:
                if (task, method, worker.name, seed) in done:
                    continue
                row = {"task": task, "method": method, "library": worker.name, "seed": seed}
                if worker.failure:
                    row["failure"] = worker.failure
                else:
                    row |= row_of(worker.reports, chosen[0].reports, args.block)
                rows.append(row)
                print(line_of(row), flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(kept, indent=1) + "\n")
            dead = [n for n, w in workers.items() if w.process.poll() is not None]
            for name in dead:
                workers.pop(name).stop()
    finally:
        for worker in workers.values():
            worker.stop()
    return kept


def able(task: str, method: str, args: argparse.Namespace) -> list[str]:
    """The libraries that have a method and are to be measured on a task, domadapt first."""
    without = {"skada"} if method == "cdan+e" or not args.skada_python else set()
    if TASKS[task][1]["name"] != "lenet":
        # Layouts are a matter of images.
        without.add("pytorch-adapt, contiguous")
    asked = {OURS, *args.libraries}
    return [n for n in LIBRARIES if n in asked and n not in without]


def line_of(row: dict[str, Any]) -> str:
    what = f"{row['task']} {row['method']} seed {row['seed']} {row['library']}"
    if "failure" in row:
        return f"{what}: failed, {row['failure']}"
    loop, step = (statistics.median(row[f"cpu_{k}_ratios"]) for k in ("loop", "step"))
    return (
        f"{what}: {row['accuracy']:.4f}, {row['cpu_ms']:.2f} ms, loop {loop:.2f}, step {step:.2f}, "
        f"{row['mib_added'] or 0:.0f} MiB added"
    )


COLUMNS = (
    *("method", "library", "accuracy", "domadapt ahead by", "domains together ahead by"),
    *("ms", "loop", "step", "bar", "MiB added", "lines"),
)


# Tables ---------------------------------------------------------------------------------------


def lines_of(functions: Sequence[Any]) -> int:
    """Lines of code of functions and classes: not blank, no comment, no docstring."""
    return sum(_lines(textwrap.dedent(inspect.getsource(f))) for f in functions)


def _lines(source: str) -> int:
    idle = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    idle.add(tokenize.ENDMARKER)
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in idle:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            found -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(found)


def code_lines(name: str, method: str) -> int | None:
    """Lines that a user of the library writes for a method."""
    return None if name.endswith("as it comes") else lines_of(library(name).CODE[method])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval by Student's t; infinite for one value."""
    n = len(values)
    if n < 2:
        return values[0], math.inf
    # Imported here: the libraries' processes do without it.
    from scipy import stats

    spread = statistics.stdev(values) / math.sqrt(n)
    return statistics.mean(values), float(stats.t.ppf(0.975, n - 1)) * spread


def summary(rows: list[dict[str, Any]], clock: str) -> list[dict[str, Any]]:
    """One entry by task, method and library: means over seeds, medians over blocks, the bars."""
    cells: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if "failure" not in row:
            key = (row["task"], row["method"], row["library"])
            cells.setdefault(key, {})[row["seed"]] = row
    entries = []
    for (task, method, name), mine in cells.items():
        ours = cells[task, method, OURS]
        mean, half = interval([r["accuracy"] for r in mine.values()])
        entry = {
            "task": task,
            "method": method,
            "library": name,
            "seeds": len(mine),
            "accuracy": mean,
            "half": half,
            "ms": statistics.median(r[f"{clock}_ms"] for r in mine.values()),
            "mib_added": max(
                (r["mib_added"] for r in mine.values() if r["mib_added"]), default=None
            ),
            "lines": next(iter(mine.values()))["lines"],
        }
        if name != OURS:
            other = cells.get((task, method, TOGETHER), {})
            entry["gain"], entry["together"] = gain_of(ours, mine), gain_of(other, mine)
            for what in ("loop", "step"):
                ratios = [x for r in mine.values() for x in r[f"{clock}_{what}_ratios"]]
                entry[what] = np.quantile(ratios, (0.5, 0.25, 0.75)).tolist()
            bar = BARS[TASKS[task][1]["name"]]
            fast = [entry[what][0] >= bar for what in ("loop", "step")]
            entry |= {"bar": bar, "fast": fast}
        entries.append(entry)
    return entries


def gain_of(
    ours: dict[int, dict[str, Any]], mine: dict[int, dict[str, Any]]
) -> tuple[float, float] | None:
    """How far ahead ours is by pairs of equal seed, and half of the interval; None without any."""
    pairs = [ours[s]["accuracy"] - mine[s]["accuracy"] for s in sorted(set(ours) & set(mine))]
    return interval(pairs) if pairs else None


def markdown(kept: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    about, rows = kept["about"], kept["rows"]
    versions = {r["library"]: r["version"] for r in rows if "version" in r}
    lines = [
        "# domadapt beside other libraries",
        "",
        f"{about['steps']} steps of {about['batch']} + {about['batch']} samples, "
        f"{about['threads']} thread(s), torch {about['torch']}; "
        + ", ".join(f"{n} {versions[n]}" for n in (OURS, "pytorch-adapt", "skada") if n in versions)
        + ". How each is used and measured: `compare.py` and `peers/`.",
        "",
        "Accuracy in percent on the target, mean ± half of its 95 % interval (seeds); ahead: "
        "domadapt minus the library, by pairs of equal seed; the interval of "
        "few seeds is wide. Loop and step: the library's time per "
        "step as a multiple of domadapt's, all of it, and without the making of its batches; bar: "
        "what the step ratio must reach. MiB: what training added to the process at most.",
        "",
    ]
    if "skada" not in versions:
        lines += ["skada was not measured: no --skada-python was given.", ""]
    for task in dict.fromkeys(e["task"] for e in entries):
        lines += [
            f"## {TASKS[task][0]}, {TASKS[task][1]['name']}",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "| --- " * len(COLUMNS) + "|",
        ]
        for e in sorted(
            (e for e in entries if e["task"] == task),
            key=lambda e: (list(METHODS).index(e["method"]), list(LIBRARIES).index(e["library"])),
        ):
            loop = step = bar = ""
            if e["library"] != OURS:
                loop, step = ("{:.2f} ({:.2f}..{:.2f})".format(*e[k]) for k in ("loop", "step"))
                if e["library"] in BARRED:
                    met = ", ".join("met" if fast else "missed" for fast in e["fast"])
                    bar = f"{e['bar']:.1f}: {met}"
            mib = "" if e["mib_added"] is None else f"{e['mib_added']:.0f}"
            count = e["lines"]
            cells = [
                e["method"],
                e["library"],
                f"{_pm(e['accuracy'], e['half'], '.1f')} ({e['seeds']})",
                *("" if e.get(k) is None else _pm(*e[k], "+.1f") for k in ("gain", "together")),
                f"{e['ms']:.1f}",
                *(loop, step, bar, mib),
                "" if count is None else str(count),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    failed = [r for r in rows if "failure" in r]
    if failed:
        lines += ["Failed:", "", *(f"- {line_of(r)}" for r in failed), ""]
    return "\n".join(lines)


def _pm(mean: float, half: float, form: str) -> str:
    spread = "" if math.isinf(half) else f" ± {100 * half:.1f}"
    return f"{100 * mean:{form}}{spread}"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS)[:4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64, help="samples of each domain")
    parser.add_argument("--block", type=int, default=25, help="steps in a turn")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="of the table")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--skada-python", default="", help="Python of an environment with skada")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compare.json")
    parser.add_argument("--work", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.steps % args.block or args.steps < 2 * args.block:
        parser.error("--steps must be a multiple of --block, and at least two of them")
    return args


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    if args.work:
        serve(args)
        return
    kept = run(args)
    table = markdown(kept, summary(kept["rows"], args.clock))
    args.out.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
