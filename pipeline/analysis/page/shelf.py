"""The page of a whole store: what lies in it, and which deltas fit which base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.page.facts import Model, Verdict
from pipeline.analysis.page.templates import fill


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a store. kind: delta, release, model, adapter or other. modified: UTC.

    parts: how many deltas were combined into it. deltas: what a release was made of. problem: why it
    can't be used, if so. signed_by: the key whose signature was seen to hold.
    """

    name: str
    kind: str
    nbytes: int
    modified: str
    is_signed: bool = False
    fingerprint: str | None = None
    base: Model | None = None
    post: Model | None = None
    parts: int = 0
    deltas: Sequence[Model] = ()
    case: str | None = None
    problem: str | None = None
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """A base by its fingerprint: where it was seen, the deltas made of it, the releases made on it."""

    fingerprint: str
    locations: Sequence[str]
    deltas: Sequence[Entry]
    releases: Sequence[Entry]


def build_catalog(
    store: str, prefix: str, entries: Sequence[Entry], verdicts: Sequence[Verdict]
) -> bytes:
    """The page of `entries`, as HTML in UTF-8, with nothing in it that is loaded from elsewhere."""
    kinds: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        has_table = entry.kind in ("delta", "release") and not entry.problem
        kinds[entry.kind if has_table else "other"].append(entry)
    return fill(
        "catalog.html",
        store=store,
        prefix=prefix,
        deltas=kinds["delta"],
        releases=kinds["release"],
        others=kinds["other"],
        bases=bases_of(entries),
        verdicts=_by_model(verdicts),
        names={entry.fingerprint: entry.name for entry in reversed(entries) if entry.fingerprint},
        nbytes=sum(entry.nbytes for entry in entries),
    )


def bases_of(entries: Sequence[Entry]) -> list[Base]:
    """The bases that entries were made of, those with most deltas first."""
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.base is not None and entry.base.fingerprint:
            groups[entry.base.fingerprint].append(entry)
    bases = [
        Base(
            fingerprint,
            list(dict.fromkeys(e.base.location for e in group if e.base and e.base.location)),
            [entry for entry in group if entry.kind == "delta"],
            [entry for entry in group if entry.kind == "release"],
        )
        for fingerprint, group in groups.items()
    ]
    return sorted(bases, key=lambda base: -len(base.deltas))


def _by_model(verdicts: Sequence[Verdict]) -> Mapping[str, bool]:
    """Whether the gates let a model pass, by its fingerprint: all of them must."""
    found: dict[str, bool] = {}
    for verdict in verdicts:
        if key := verdict.model.fingerprint:
            found[key] = found.get(key, True) and verdict.passed
    return found
