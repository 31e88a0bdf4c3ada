"""delete: deltas with their signatures, and whole model folders, only as they were listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.operations.storing.shelf import Item, find_item, is_root
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is deleted under one name."""

    name: str
    kind: str
    files: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """What delete did, or would do. deleted: False after a dry run, or if it was not agreed to."""

    items: Sequence[Doomed]
    files: int
    nbytes: int
    dry_run: bool
    deleted: bool


def delete(
    names: Sequence[str],
    *,
    store: str | None = None,
    dry_run: bool = False,
    agree: Callable[[DeleteReport], bool] = lambda report: True,
) -> DeleteReport:
    """Delete each of `names`: a delta or another file, with its signature, or a model folder.

    All are looked up before anything goes, and `agree` is asked, once, with what would go. Each goes
    only as it was seen then. A model folder that is half deleted is read by nobody.
    Raises NotFound, UsageError, OutputExists while another run is publishing there, and StorageError.
    """
    settings = Settings.load(store=store)
    doomed = [_look_up(name, settings) for name in dict.fromkeys(names)]
    if not doomed:
        raise UsageError("nothing is named", hint="cli.py delete deltas/v1.safetensors")
    report = DeleteReport(
        items=[Doomed(name, _kind(item), len(item.files), item.nbytes) for name, _, item in doomed],
        files=sum(len(item.files) for _, _, item in doomed),
        nbytes=sum(item.nbytes for _, _, item in doomed),
        dry_run=dry_run,
        deleted=False,
    )
    if dry_run or not agree(report):
        return report
    for _, place, item in doomed:
        if item.is_model:
            place.delete_folder(item.name, item.files)
        else:
            for file in item.files:  # the signature last: alone it says nothing
                place.delete(file)
    return replace(report, deleted=True)


def _look_up(name: str, settings: Settings) -> tuple[str, Store, Item]:
    """The name as it may be shown, the store that holds it, and what is there."""
    location = parse_delta(name.rstrip("/") or name)
    if is_root(location):
        raise UsageError("is a whole store, and is not deleted here", where=str(location))
    store, inner = open_parent(location, settings)
    return str(location), store, find_item(store, inner)


def _kind(item: Item) -> str:
    return "model" if item.is_model else "file"
