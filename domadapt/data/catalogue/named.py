"""Domains and tasks by name: which collection, which domain, where it lies."""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from domadapt.data.catalogue import activities, descriptors, photographs, reviews, scans
from domadapt.data.catalogue.collection import Collection, fetched, key
from domadapt.data.digits import NAMES as DIGITS
from domadapt.data.digits import digits_domain
from domadapt.errors import DomadaptError, listed, unknown
from domadapt.task import Domain, Task

COLLECTIONS: dict[str, Collection] = {
    "digits": Collection(
        what="printed digits, handwritten ones, and handwritten ones on photographs, 16x16",
        origin="embedded",
        layout="the package",
        classes=10,
        domains=DIGITS,
        load=lambda name, part, where: digits_domain(name),
    ),
    **scans.COLLECTIONS,
    **photographs.COLLECTIONS,
    **descriptors.COLLECTIONS,
    **reviews.COLLECTIONS,
    **activities.COLLECTIONS,
}


def _rooms() -> Iterator[ModuleType]:
    """The modules beside this one, so that a new one need be named nowhere."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.name != Path(__file__).stem:
            yield importlib.import_module(f"{__package__}.{found.name}")


for _room in _rooms():
    # Those above keep their order; others follow.
    COLLECTIONS |= {
        name: of
        for name, of in getattr(_room, "COLLECTIONS", {}).items()
        if name not in COLLECTIONS
    }
#: Collections that go together in a task.
SCANS = tuple(scans.COLLECTIONS)


@dataclass(frozen=True)
class Entry:
    """A line of ``domadapt list tasks``.

    Attributes:
        name: what `domain` or `task` takes.
        what: what it is.
        classes: the number of classes.
        origin: where the data come from.
        at_hand: whether the data are found now; whether they are whole is not checked.
    """

    name: str
    what: str
    classes: int
    origin: str
    at_hand: bool


def domain(spec: str, data_root: Path | str | None = None) -> Domain:
    """A domain by name, such as ``digits:printed``, ``usps:test``, ``office31:amazon``, ``har:2``.

    Without a part, ``mnist``, ``usps``, ``svhn``, ``mnist-m`` and ``amazon:*`` are their training
    parts and ``har:*`` is all of a subject. Forms: MNIST, USPS and SVHN are uint8 images of 28, 16
    and 32 pixels with augmentation "glyph"; image folders are streamed; ``office31-features`` are
    vectors as stored; ``office-caltech`` are SURF histograms, each brought to sum 1 and then each
    word z-scored within the domain (the protocol of Long et al., 2013, JDA); ``amazon`` are
    5,000 words and pairs of words as tf-idf of length 1: ``(1 + log count) (1 + log((1 + n) /
    (1 + df)))``, ``df`` counted in the domain's own training part, without labels; ``har`` are
    series ``(9, 128)`` whose windows overlap by half, so that a random validation part of one
    subject is optimistic.

    Args:
        spec: ``collection``, ``collection:domain`` or ``collection:domain:part``.
        data_root: the folder of data sets; by default the environment variable DOMADAPT_DATA.

    Raises:
        DomadaptError: an unknown name, or data that are not there and cannot be downloaded.
    """
    collection, name, part = _parse(spec)
    return _load(collection, name, part, _root(data_root))


def task(spec: str, data_root: Path | str | None = None, *, val_fraction: float = 0.2) -> Task:
    """A task by name, such as ``digits:printed->handwritten``, ``mnist->usps``, ``har:2->11``.

    Transductive, scored on the target samples it trains with: ``digits``, ``office31``,
    ``office-home``, ``visda2017``, ``domainnet``, ``pacs``, ``office31-features``,
    ``office-caltech`` and ``amazon-reviews``. Inductive, trained on the labelled training part of
    the source and the unlabelled one of the target and scored on the test part of the target: the
    tasks between ``mnist``, ``usps``, ``svhn`` and ``mnist-m`` (full official sets), ``amazon`` and
    ``har``.

    MNIST, USPS and SVHN of one task get one size, bilinearly and once: 32 pixels where SVHN is one
    of them, else 28. MNIST-M is streamed at its own size.

    Args:
        spec: ``source->target``; the target may leave out the source's collection. Several source
            domains are joined by ``+``.
        data_root: as for `domain`.
        val_fraction: share of the source kept for validation (see `Task`).

    Raises:
        DomadaptError: as for `domain`; or source and target of collections that do not go together.
    """
    sides = _sides(spec)
    *sources, (collection, name, _) = sides
    root = _root(data_root)
    size = 32 if any(c == "svhn" for c, *_ in sides) else 28
    parts = COLLECTIONS[collection].parts
    inductive = "test" in parts

    def get(collection: str, name: str, part: str | None) -> Domain:
        loaded = _load(collection, name, part, root)
        return scans.resized(loaded, size) if collection in SCANS else loaded

    return Task(
        [get(c, n, "train" if inductive else None) for c, n, _ in sources],
        get(collection, name, "train" if inductive else None),
        target_test=get(collection, name, "test") if inductive else None,
        val_fraction=val_fraction,
        name=_task_spec([(c, n) for c, n, _ in sides]),
    )


def protocol(spec: str) -> tuple[str, str]:
    """The name of a task as the catalogue spells it, and "transductive" or "inductive".

    Raises:
        DomadaptError: no task has this name. Whether its data are there is not asked.
    """
    named = [(collection, name) for collection, name, _ in _sides(spec)]
    inductive = "test" in COLLECTIONS[named[-1][0]].parts
    return _task_spec(named), "inductive" if inductive else "transductive"


def pairs(collection: str) -> list[str]:
    """The names of the tasks between any two domains of a collection."""
    of = COLLECTIONS[collection]
    return [
        _task_spec(((collection, a), (collection, b)))
        for a, b in itertools.permutations(of.domains, 2)
    ]


def _sides(spec: str) -> list[tuple[str, str, str | None]]:
    """The sources of a task and, last, its target."""
    left, arrow, right = (s.strip() for s in spec.partition("->"))
    if not (left and arrow and right):
        raise DomadaptError(
            f"A task is named 'collection:source->target', such as 'digits:printed->handwritten' "
            f"or 'mnist->usps'; got {spec!r}. Quote it, so that the shell does not redirect."
        )
    first = _parse(left.split("+")[0])
    sides = [first, *(_parse(s, first[0]) for s in (*left.split("+")[1:], right))]
    for collection, name, part in sides:
        if part is not None:
            raise DomadaptError(
                f"A task chooses training and test parts itself; got part {part!r} of "
                f"{_spec(collection, name)!r}. Leave it out."
            )
        if collection != first[0] and not {collection, first[0]} <= set(SCANS):
            raise DomadaptError(
                f"The source and target of a named task must be of one collection, or two of "
                f"{', '.join(SCANS)}; got {first[0]!r} and {collection!r}. To join others, build "
                f"a Task from two domains."
            )
    return sides


def domains(data_root: Path | str | None = None) -> list[Entry]:
    """Every named domain."""
    root = _root(data_root)
    return [
        _entry(_spec(c, name), [(c, name)], root)
        for c, of in COLLECTIONS.items()
        for name in of.domains or (c,)
    ]


def tasks(data_root: Path | str | None = None) -> list[Entry]:
    """The named tasks of one source; of ``har``, the ten that are usual."""
    root = _root(data_root)
    pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for c, of in COLLECTIONS.items():
        if of.domains:
            chosen = itertools.permutations(of.domains, 2) if of.pairs is None else of.pairs
            pairs += [((c, a), (c, b)) for a, b in chosen]
        elif of.pairs:
            pairs += [((a, a), (b, b)) for a, b in of.pairs]
    return [_entry(_task_spec(pair), pair, root) for pair in pairs]


def _entry(spec: str, of: Iterable[tuple[str, str]], root: Path | None) -> Entry:
    ends = [(COLLECTIONS[c], c, name) for c, name in of]
    distinct = list({c: end for end, c, _ in ends}.values())
    return Entry(
        name=spec,
        what="; ".join(c.what for c in distinct),
        classes=distinct[0].classes,
        origin="; ".join(c.origin for c in distinct),
        at_hand=all(_at_hand(c, name, root) for _, c, name in ends),
    )


def _at_hand(collection: str, name: str, root: Path | None) -> bool:
    try:
        return _find(collection, name, root) is not None
    except DomadaptError:
        return False


def _spec(collection: str, name: str) -> str:
    return f"{collection}:{name}" if COLLECTIONS[collection].domains else collection


def _task_spec(sides: Iterable[tuple[str, str]]) -> str:
    (collection, name), *others = sides
    rest = [n for _, n in others]
    return f"{'+'.join([_spec(collection, name), *rest[:-1]])}->{rest[-1]}"


def _parse(spec: str, within: str | None = None) -> tuple[str, str, str | None]:
    """(collection, domain, part or None) of a spec; `within` is the collection it may leave out."""
    words = spec.strip().split(":")
    collection = _match(words[0], COLLECTIONS)
    # office31 and the reviews both have an "amazon": a lone word is first a domain of `within`.
    if within is not None and COLLECTIONS[within].domains:
        lone = len(words) == 1 and _domain_name(within, words[0]) is not None
        if lone or collection is None:
            words, collection = [within, *words], within
    if collection is None:
        raise unknown("collection", words[0], COLLECTIONS)
    of = COLLECTIONS[collection]
    rest = words[1:]
    name: str | None = collection
    if of.domains:
        if not rest or not rest[0]:
            raise DomadaptError(
                f"{collection!r} has several domains; name one, such as "
                f"'{collection}:{of.domains[0]}'. It has {', '.join(of.domains)}."
            )
        name = _domain_name(collection, rest[0])
        if name is None:
            raise unknown(f"domain of {collection}", rest[0], of.domains)
        rest = rest[1:]
    assert name is not None
    if not rest:
        return collection, name, None
    if not of.parts or len(rest) > 1:
        raise DomadaptError(
            f"A domain is named 'collection:domain'{' or with a part' if of.parts else ''}; "
            f"{spec!r} has too many colons: {_spec(collection, name)!r} is enough."
        )
    if rest[0] not in of.parts:
        raise unknown(f"part of {_spec(collection, name)}", rest[0], of.parts)
    return collection, name, rest[0]


def _domain_name(collection: str, given: str) -> str | None:
    of = COLLECTIONS[collection]
    return of.short.get(given.lower()) or _match(given, of.domains)


def _match(given: str, known: Iterable[str]) -> str | None:
    return next((name for name in known if key(name) == key(given)), None)


def _root(given: Path | str | None) -> Path | None:
    where = given or os.environ.get("DOMADAPT_DATA")
    if not where:
        return None
    if not Path(where).is_dir():
        raise DomadaptError(
            f"The data root must be a folder; {str(where)!r} is none. Give another one "
            "(--data-root, or the environment variable DOMADAPT_DATA)."
        )
    return Path(where)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "domadapt"


def _find(collection: str, name: str, root: Path | None) -> Path | None:
    of = COLLECTIONS[collection]
    if of.origin == "embedded":
        return Path()
    places = [root] if root else []
    if of.download:
        places.append(_cache())
    found = (of.find(name, place) for place in places)
    return next((place for place in found if place is not None), None)


def _load(collection: str, name: str, part: str | None, root: Path | None) -> Domain:
    of = COLLECTIONS[collection]
    where = _find(collection, name, root)
    if where is None and of.download:
        where = fetched(collection, of, (root or _cache()) / collection)
    if where is None:
        place = f"{str(root)!r} does not hold it" if root else "there is no data root"
        here = [d for d in of.domains if _find(collection, d, root) is not None]
        if here:
            raise DomadaptError(
                f"{_spec(collection, name)!r} is not among the data in {str(root)!r}, which hold "
                f"{listed([_spec(collection, d) for d in here])}. Choose one of these, or add it "
                f"as {of.layout} ({of.origin})."
            )
        raise DomadaptError(
            f"{_spec(collection, name)!r} is read from {of.layout} below the data root, but "
            f"{place}. Put the data there ({of.origin}), or name the folder that holds them "
            "(--data-root, or the environment variable DOMADAPT_DATA)."
        )
    return of.load(name, part, where)
