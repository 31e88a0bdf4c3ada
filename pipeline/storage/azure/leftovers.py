"""Finding what killed or abandoned runs have left in a container.

Blocks that were staged and never committed: under a name that has no blob, the service lists it if it is
asked to; under one that has, only the blob's own block list tells, one request each. They have no time
of their own: a journal beside them, `NAME.journal`, says when their run last wrote. A claim whose lease
has run out means a folder that nobody can read. What lies under a lease belongs to a run that lives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.errors import NotFound
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.azure.container import Container
from pipeline.storage.azure.errors import Changed
from pipeline.storage.azure.etags import etag_of
from pipeline.storage.base import Leftover

JOURNAL = ".journal"
_REQUESTS = 8  # at once


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks under one name. nbytes: of those that are not committed."""

    committed: tuple[str, ...]
    uncommitted: tuple[tuple[str, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that no blob has."""
        return sum(size for _, size in self.uncommitted)

    @property
    def version(self) -> str:
        """Changes with every block that is staged."""
        return hashlib.sha256(repr(self.uncommitted).encode()).hexdigest()


def find_leftovers(container: Container, prefix: str) -> Iterator[Leftover]:
    """See `Store.leftovers`. The folders that `prefix` lies in count, too."""
    # In this order: what is committed in between is in the second.
    all_names = [name for name, _ in container.blobs(prefix, uncommitted=True)]
    committed = dict(container.blobs(prefix))
    known = {**_above(container, prefix), **committed}
    claims = {_folder(name): blob for name, blob in known.items() if _file(name) == CLAIM}
    live = {folder for folder, claim in claims.items() if _is_leased(claim)}
    dead = set(claims) - live
    for folder in sorted(dead):
        if folder and f"{folder}/{CLAIM}" in committed:
            yield _unpublished(folder, committed, claims[folder])
    free = [
        name
        for name in sorted(all_names)
        if not any(_is_leased(known.get(each)) for each in (name, _subject(name)))
        and not _is_leased((_journal(name, known) or ("", None))[1])
        and not _is_below(name, live)
        and _subject(name) not in live
        and not (name in committed and _is_below(name, dead))
    ]
    asked_for = [name for name in free if name not in committed or _has_blocks(committed[name])]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = pool.map(lambda name: blocks_under(container, name), asked_for)
        staged = dict(zip(asked_for, found, strict=True))
    for name in free:
        blocks = staged.get(name)
        blob = committed.get(name)
        if blocks is not None and blocks.uncommitted:
            yield _blocks(name, blocks, blob, _journal(name, known))
        elif blob is not None and name.endswith(JOURNAL) and not _speaks(_subject(name), staged):
            yield Leftover(name, "journal", int(blob.size), blob.last_modified, etag_of(blob))


def blocks_under(container: Container, name: str) -> Blocks | None:
    """The blocks under `name`; None if there is nothing, or nothing that is made of blocks."""
    try:
        found = container.ask(name, lambda: container.client(name).get_block_list("all"))
    except (NotFound, Changed):  # gone; or an append or page blob, which the service calls a conflict
        return None
    committed, uncommitted = found
    return Blocks(
        tuple(_value(block, "id") for block in committed),
        tuple((_value(block, "id"), int(_value(block, "size"))) for block in uncommitted),
    )


def _value(block: Any, name: str) -> Any:
    """A property of a block, which the SDK gives as an object that is also a mapping."""
    return block[name] if isinstance(block, Mapping) else getattr(block, name)


def _blocks(name: str, staged: Blocks, blob: Any | None, journal: tuple[str, Any] | None) -> Leftover:
    whole = blob is None or staged.committed or not blob.size
    place, written = journal or ("", None)
    return Leftover(
        name=name,
        kind="blocks",
        nbytes=staged.nbytes,
        modified=written.last_modified if written else None,
        version=staged.version,
        place=place,
        stuck=None if whole else "its blob was not made of blocks, and would be lost with them",
    )


def _unpublished(folder: str, blobs: Mapping[str, Any], claim: Any) -> Leftover:
    inside = [blob for name, blob in blobs.items() if name.startswith(f"{folder}/")]
    return Leftover(
        name=folder,
        kind="folder",
        nbytes=sum(int(blob.size) for blob in inside),
        modified=max(blob.last_modified for blob in inside),
        version=etag_of(claim),
    )


def _above(container: Container, prefix: str) -> dict[str, Any]:
    """The claims on folders in which all that begins with `prefix` lies, and their journals."""
    parts = prefix.split("/")[:-1]
    folders = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    wanted = [name for folder in folders for name in (f"{folder}/{CLAIM}", folder + JOURNAL)]
    return {name: blob for name in wanted for found, blob in container.blobs(name) if found == name}


def _journal(name: str, known: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The journal of the run that staged `name`: beside it, or beside a folder that it lies in."""
    parts = name.split("/")
    names = ["/".join(parts[:count]) + JOURNAL for count in range(len(parts), 0, -1)]
    return next(((each, known[each]) for each in names if each in known), None)


def _subject(name: str) -> str:
    """What a journal is of; another file is its own."""
    return name.removesuffix(JOURNAL)


def _is_leased(blob: Any | None) -> bool:
    return blob is not None and blob.lease.state in ("leased", "breaking")


def _has_blocks(blob: Any) -> bool:
    return str(getattr(blob.blob_type, "value", blob.blob_type)) == "BlockBlob"


def _is_below(name: str, folders: set[str]) -> bool:
    return any(not folder or name.startswith(f"{folder}/") for folder in folders)


def _speaks(name: str, staged: Mapping[str, Blocks | None]) -> bool:
    """Whether a journal of `name` goes with blocks that are listed by themselves."""
    return any(
        blocks is not None and blocks.uncommitted and (each == name or each.startswith(f"{name}/"))
        for each, blocks in staged.items()
    )


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _file(name: str) -> str:
    return name.rpartition("/")[2]
