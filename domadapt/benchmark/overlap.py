"""Samples that are in two parts of a task, or twice in one: looked for once, on the raw data.

Equal samples have equal bytes; a hash of 64 bits of each is kept, so that cost and memory grow with
the number of samples alone. Images that only look alike are a hint: their 8x8 average hash is the
same and their 8x8 thumbnails differ by little. Labels have no part in it. The 77,291 images of
usps->mnist took 3 s on one core.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from domadapt import checkpoint
from domadapt.benchmark.fair import Check
from domadapt.benchmark.suite import Suite, load_task_of, title_of
from domadapt.errors import listed
from domadapt.task import Raw, Split, Task

#: What was found of each task lies here, by the fingerprint of its data; it may be deleted.
FOLDER = "overlap"
SCHEMA = 1
#: So many samples of a split are hashed, and so many of its images compared by their looks, evenly
#: spaced where there are more.
MOST, MOST_ALIKE = 100_000, 20_000
#: Thumbnails look alike where they differ by so many grey levels of 255, on average.
ALIKE = 4.0
#: Of one average hash so many images are compared, so that a blank one costs no more than others.
BUCKET = 32
#: Of the samples of the first it is counted how many are in the second.
PAIRS = (
    ("source_val", "source_train"),
    ("target_train", "source"),
    ("target_test", "source"),
    ("target_test", "target_train"),
)
#: Tasks that a line names before it counts.
NAMED = 4


@dataclass(frozen=True)
class Overlap:
    """What two parts of a task have in common. Keys are split names, or ``first in second``.

    Attributes:
        task: its name; transductive: whether target_test is target_train.
        sizes: samples of each split; looked: how many of them were hashed.
        within: how many are equal to an earlier one of the same split.
        equal: how many of the first are among the second.
        alike: of those that are not equal, how many look like one of the second; only of images.
        alike_of: how many of the first were compared for that.
        groups: how many groups have samples in both; only where there are groups.
        seconds: what looking took.
    """

    task: str
    transductive: bool
    sizes: dict[str, int]
    looked: dict[str, int]
    within: dict[str, int]
    equal: dict[str, int]
    alike: dict[str, int]
    alike_of: dict[str, int]
    groups: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class _Prints:
    """Hashes of samples ``(n,)``; of some images their average hash and thumbnail ``(m, 64)``."""

    digests: np.ndarray
    looks: np.ndarray
    thumbs: np.ndarray
    #: The digests of the images that have looks.
    of_looks: np.ndarray


def overlap(task: Task, most: int = MOST, most_alike: int = MOST_ALIKE) -> Overlap:
    """Look for samples that are in two parts of a task.

    Args:
        task: the task over raw samples.
        most: how many samples of a split are hashed at most.
        most_alike: of how many of these the looks are compared, if they are images.
    """
    begun = time.perf_counter()
    splits = [task.source_train, task.source_val, task.target_train]
    splits += [] if task.transductive else [task.target_test]
    image = task.kind == "image"
    prints = {s.name: _prints(s, most, most_alike if image else 0) for s in splits}
    looked = {name: len(p.digests) for name, p in prints.items()}
    prints["source"] = _joined(prints["source_train"], prints["source_val"])
    equal, alike, alike_of = {}, {}, {}
    for first, second in PAIRS:
        if first not in prints:
            continue
        name = f"{first} in {second}"
        equal[name] = int(np.isin(prints[first].digests, prints[second].digests).sum())
        if image:
            alike[name] = _alike(prints[first], prints[second])
            alike_of[name] = len(prints[first].looks)
    return Overlap(
        task=task.name,
        transductive=task.transductive,
        sizes={s.name: len(s) for s in splits},
        looked=looked,
        within={s.name: looked[s.name] - len(np.unique(prints[s.name].digests)) for s in splits},
        equal=equal,
        alike=alike,
        alike_of=alike_of,
        groups=_groups(task),
        seconds=time.perf_counter() - begun,
    )


def _spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of ``0..n-1``, evenly."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def _prints(split: Split, most: int, most_alike: int) -> _Prints:
    index = _spaced(len(split), most)
    shown = np.zeros(len(index), dtype=bool)
    shown[_spaced(len(index), most_alike)] = most_alike > 0
    digests = np.zeros(len(index), dtype=np.uint64)
    thumbs = []
    for start in range(0, len(index), 256):
        here = slice(start, start + 256)
        rows = _rows(split.fetch(index[here]))
        digests[here] = [_digest(row) for row in rows]
        thumbs += [_thumb(rows[i]) for i in np.flatnonzero(shown[here])]
    small = torch.stack(thumbs).numpy() if thumbs else np.zeros((0, 64), dtype=np.float32)
    bits = small > small.mean(1, keepdims=True)
    looks = np.packbits(bits, axis=1).view(np.uint64).ravel()
    return _Prints(digests, looks, small, digests[shown])


def _rows(raw: Raw) -> list[tuple[Tensor, ...]]:
    """The tensors of each sample; of token dictionaries without the padding of their batch."""
    if not isinstance(raw, dict):
        return [(row,) for row in raw]
    mask = raw.get("attention_mask")
    rows: list[tuple[Tensor, ...]] = []
    for row in zip(*(raw[key] for key in sorted(raw)), strict=True):
        kept = None if mask is None else mask[len(rows)].bool()
        rows.append(
            row
            if kept is None
            else tuple(field[kept] if field.shape == kept.shape else field for field in row)
        )
    return rows


def _digest(row: tuple[Tensor, ...]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for field in row:
        value = field.detach().cpu().contiguous()
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(digest.digest(), "little")


def _thumb(row: tuple[Tensor, ...]) -> Tensor:
    """The image as 8x8 grey values of 255 ``(64,)``."""
    grey = row[0].float().mean(0, keepdim=True)
    return functional.adaptive_avg_pool2d(grey, 8).flatten()


def _joined(one: _Prints, two: _Prints) -> _Prints:
    return _Prints(
        *(
            np.concatenate([getattr(one, name), getattr(two, name)])
            for name in ("digests", "looks", "thumbs", "of_looks")
        )
    )


def _alike(first: _Prints, second: _Prints) -> int:
    """How many of the first look like one of the second without being equal to any."""
    buckets: dict[int, list[int]] = {}
    for i, look in enumerate(second.looks.tolist()):
        bucket = buckets.setdefault(look, [])
        if len(bucket) < BUCKET:
            bucket.append(i)
    count = 0
    known = np.isin(first.of_looks, second.digests)
    for i in np.flatnonzero(~known).tolist():
        near = buckets.get(int(first.looks[i]))
        if near is not None:
            apart = np.abs(second.thumbs[near] - first.thumbs[i]).mean(1)
            count += bool((apart <= ALIKE).any())
    return count


def _groups(task: Task) -> dict[str, int]:
    """Groups with samples in both of two splits of one domain, where it has groups."""
    pairs = [(task.source_val, task.source_train)]
    pairs += [] if task.transductive else [(task.target_test, task.target_train)]
    found = {}
    for first, second in pairs:
        one, two = _groups_of(first), _groups_of(second)
        if one and two:
            found[f"{first.name} in {second.name}"] = len(one & two)
    return found


def _groups_of(split: Split) -> set[str]:
    groups = split.domain.groups
    return set() if groups is None else {str(g) for g in groups[split.indices]}


def keep_overlap(
    folder: Path,
    suite: Suite,
    fingerprints: Mapping[str, str],
    data_root: Path | str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Look at the tasks of a suite that were not looked at before, and keep it in the folder.

    Args:
        folder: of the benchmark.
        suite: a checked suite.
        fingerprints: of the data of each task, by its title.
        data_root: the folder of the catalogue's data sets.
        say: is told what takes time.
    """
    for spec in suite.tasks:
        title = title_of(spec)
        file = _file(folder, fingerprints[title])
        if known(folder, fingerprints[title]) is not None:
            continue
        if say is not None:
            say(f"Looking for samples that are twice in {title}.")
        file.parent.mkdir(parents=True, exist_ok=True)
        found = overlap(load_task_of(spec, data_root))
        checkpoint.write_json(file, {"schema": SCHEMA, **asdict(found), "task": title})


def known(folder: Path, fingerprint: str) -> Overlap | None:
    """What was found of the data with this fingerprint; None where nobody has looked."""
    file = _file(folder, fingerprint)
    said: dict[str, Any] = checkpoint.read_json(file) if file.exists() else {}
    return Overlap(**said) if said.pop("schema", None) == SCHEMA else None


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / FOLDER / f"{fingerprint}.json"


def overlap_checks(found: Mapping[str, Overlap | None]) -> list[Check]:
    """What is said of overlap beside the other checks of fair play.

    Args:
        found: what is known of each task by its title; None where nobody has looked.
    """
    seen = {title: one for title, one in found.items() if one is not None}
    checks = []
    if seen:
        checks = [
            _protocol(seen),
            _apart("source_val apart from source_train", seen, ["source_val in source_train"]),
            _apart(
                "target apart from the source",
                seen,
                ["target_train in source", "target_test in source"],
            ),
            _within(seen),
        ]
        shared = {t: sum(o.groups.values()) for t, o in seen.items() if o.groups}
        if shared:
            hits = [f"{t}: {n}" for t, n in shared.items() if n]
            said = listed(hits, NAMED) or f"none in two splits, {_tasks(len(shared))} with groups"
            checks.append(Check("groups whole", not hits, said))
    unseen = [title for title in found if title not in seen]
    if unseen:
        said = f"not looked for yet: {listed(unseen, NAMED)}"
        checks.append(Check("overlap and duplicates", False, said))
    return checks


def _protocol(seen: Mapping[str, Overlap]) -> Check:
    """Where target_test is target_train that is a protocol, no fault, and must be said."""
    parts = []
    same = [title for title, one in seen.items() if one.transductive]
    if same:
        parts.append(
            f"transductive, scored on the unlabelled samples trained with ({_tasks(len(same))})"
        )
    other = {title: one for title, one in seen.items() if not one.transductive}
    if other:
        key = "target_test in target_train"
        hits = [
            f"{title} {one.equal[key]} of {one.looked['target_test']}"
            for title, one in other.items()
            if one.equal[key]
        ]
        parts.append(f"inductive, scored on samples of their own ({_tasks(len(other))})")
        if hits:
            parts.append(
                "but in part transductive, as scored samples equal unlabelled ones trained with: "
                + listed(hits, NAMED)
            )
        parts += _alike_said(other, [key])
    return Check("protocol", True, "; ".join(parts))


def _apart(what: str, seen: Mapping[str, Overlap], keys: Sequence[str]) -> Check:
    hits = []
    for title, one in seen.items():
        for key in keys:
            if one.equal.get(key):
                first = key.partition(" ")[0]
                named = f"{first} of {title}" if len(keys) > 1 else title
                hits.append(f"{named} {one.equal[key]} of {one.looked[first]}")
    parts = [
        f"equal samples: {listed(hits, NAMED)}"
        if hits
        else f"no equal samples, {_tasks(len(seen))}"
    ]
    parts += _alike_said(seen, keys)
    return Check(what, not hits, "; ".join(parts))


def _alike_said(seen: Mapping[str, Overlap], keys: Sequence[str]) -> list[str]:
    """How many more look alike, as a hint."""
    hits, compared = [], 0
    for title, one in seen.items():
        count = sum(one.alike.get(key, 0) for key in keys)
        of = sum(one.alike_of.get(key, 0) for key in keys)
        compared += of
        if count:
            hits.append(f"{title} {count} of {of}")
    if not compared:
        return []
    said = listed(hits, NAMED) or "none"
    return [f"look alike by 8x8 average hash (a hint, no proof): {said}"]


def _within(seen: Mapping[str, Overlap]) -> Check:
    hits, capped = [], []
    for title, one in seen.items():
        hits += [
            f"{split} of {title} {count} of {one.looked[split]}"
            for split, count in one.within.items()
            if count
        ]
        capped += [
            f"{split} of {title} {one.looked[split]} of {size}"
            for split, size in one.sizes.items()
            if one.looked[split] < size
        ]
    total = sum(sum(one.looked.values()) for one in seen.values())
    took = sum(one.seconds for one in seen.values())
    said = f"equal samples: {listed(hits, NAMED)}" if hits else "no equal samples"
    said += f" among {total:,}, looked at in {took:.1f} s"
    if capped:
        said += f"; not all were looked at: {listed(capped, NAMED)}"
    return Check("no sample twice within a split", not hits, said)


def _tasks(count: int) -> str:
    return f"{count} task{'s' * (count != 1)}"
