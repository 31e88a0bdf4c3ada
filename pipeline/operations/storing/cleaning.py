"""clean: what killed and abandoned runs have left in a store, found and removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.checkpoints.files import read_all
from pipeline.errors import AccessError, CorruptFile, OutputExists, StorageError, UsageError
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.storing.shelf import open_shelf
from pipeline.settings import Settings
from pipeline.storage.base import Leftover, Store

DEFAULT_AGE = "1d"
_UNITS = {"": "days", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Found:
    """One leftover. age: in seconds, None if nobody knows. kept: why it stays, None if it need not."""

    name: str
    kind: str
    nbytes: int
    age: float | None
    kept: str | None


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What clean found. nbytes: of what is removed, or would be."""

    store: str
    items: Sequence[Found]
    nbytes: int
    dry_run: bool
    removed: int


def clean(
    prefix: str | None = None,
    *,
    store: str | None = None,
    older_than: str | float = DEFAULT_AGE,
    dry_run: bool = False,
    agree: Callable[[CleanReport], bool] = lambda report: True,
) -> CleanReport:
    """Remove what ended runs have left under names that begin with `prefix`.

    Kept are what belongs to a run that holds a lease or a lock, what is younger than `older_than` ("1d",
    "12h", "30m", or days), and what could not go without something else. The age of blocks that were
    staged without a journal is known to nobody: `agree` is asked, once, with all that was found.
    """
    oldest = parse_age(older_than)
    shelf, start = open_shelf(prefix, Settings.load(store=store))
    now = datetime.now(UTC)
    leftovers = list(shelf.leftovers(start))
    items = [_judge(shelf, leftover, now, oldest) for leftover in leftovers]
    report = CleanReport(
        store=shelf.url,
        items=items,
        nbytes=sum(item.nbytes for item in items if not item.kept),
        dry_run=dry_run,
        removed=0,
    )
    if dry_run or all(item.kept for item in items) or not agree(report):
        return report
    done = [
        item if item.kept else _remove(shelf, leftover, item)
        for leftover, item in zip(leftovers, items, strict=True)
    ]
    gone = [item for item in done if not item.kept]
    return replace(report, items=done, nbytes=sum(item.nbytes for item in gone), removed=len(gone))


def parse_age(text: str | float) -> timedelta:
    """The time meant by `text`: "1d", "12h", "30m", "45s", or a number of days. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*([smhd]?)\s*", str(text))
    if match is None:
        raise UsageError(f"{text!r} is not an age", hint="write it as 1d, 12h or 30m")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def _judge(store: Store, leftover: Leftover, now: datetime, oldest: timedelta) -> Found:
    age = now - leftover.modified if leftover.modified else None
    kept = leftover.stuck
    if age is not None and age < oldest:
        kept = "too young"
    elif leftover.kind == "folder" and _may_be_whole(store, leftover.name):
        kept = (
            "a whole model may lie in it: publish it again with --overwrite, "
            f"or `cli.py delete {leftover.name}`"
        )
    seconds = max(0.0, age.total_seconds()) if age is not None else None
    return Found(leftover.name, leftover.kind, leftover.nbytes, seconds, kept)


def _may_be_whole(store: Store, name: str) -> bool:
    """Whether all files are there that a provenance names: the run may have ended before it began."""
    folder = store.folder(name)
    if folder.stat(PROVENANCE) is None:
        return False
    reader = folder.open(PROVENANCE)
    try:
        said = Provenance.parse(read_all(reader), where=reader.name)
    except CorruptFile:
        return False
    finally:
        reader.close()
    found = {file.name for file in folder.list()}
    return found.issuperset({*said.files, *said.shards})


def _remove(store: Store, leftover: Leftover, item: Found) -> Found:
    try:
        store.clear(leftover)
    except AccessError:
        raise
    except (StorageError, OutputExists) as error:  # somebody is at work there after all
        return replace(item, kept=error.what)
    return item
