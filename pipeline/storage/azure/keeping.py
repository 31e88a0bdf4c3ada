"""Deleting folders of blobs only as they were seen, and removing what ended runs have left."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.errors import OutputExists, StorageError
from pipeline.storage.azure.claim import CLAIM, Claim
from pipeline.storage.azure.container import Container
from pipeline.storage.azure.errors import Changed
from pipeline.storage.azure.etags import Etag
from pipeline.storage.azure.leftovers import Blocks, blocks_under
from pipeline.storage.azure.writing import blocks_in_state
from pipeline.storage.base import Leftover
from pipeline.storage.errors import changed


def delete_folder(container: Container, name: str, etags: Mapping[str, Etag]) -> None:
    """Delete the folder `name`, if its files have these etags; see `Store.delete_folder`.

    It is claimed as for publishing (see `publishing`), so that no reader of ours takes what is left
    for a model; if we end in the middle, the claim stays, and whoever runs it again goes on.
    """
    claim = Claim(container, name, ())
    untouched = True
    try:
        found = _files(container, name)
        if found != {file: etag for file, etag in etags.items() if file != CLAIM}:
            raise changed(container.where(name))
        untouched = False
        claim.begin()
        for file, etag in found.items():
            claim.keep()
            container.remove(f"{name}/{file}", etag)
        for file in claim.names:
            claim.keep()
            _discard_all(container, f"{name}/{file}")
        if not claim.remove() and _files(container, name):
            raise Changed("the claim was taken over")
    except BaseException as error:
        claim.give_up(untouched=untouched)
        if isinstance(error, Changed | OutputExists):
            raise changed(container.where(name)) from error
        raise


def _files(container: Container, name: str) -> dict[str, Etag]:
    found = container.etags(f"{name}/")
    return {file: etag for file, etag in found.items() if file != CLAIM}


def _discard_all(container: Container, name: str) -> None:
    """Discard the blocks under a name that has no blob: any commit does that, an empty one too.

    A run that has lost its claim can't commit them any more, and blocks with ids of any length may come.
    """
    empty = container.writer(name, 0)
    empty.commit()
    container.remove(name, empty.etag or Etag(""))


def clear(container: Container, leftover: Leftover) -> None:
    """Remove a leftover; see `Store.clear`."""
    name, where = leftover.name, container.where(leftover.name)
    if leftover.stuck:
        raise changed(where)
    match leftover.kind:
        case "journal":
            _remove_as_seen(container, name, Etag(leftover.version))
        case "folder":
            etags = container.etags(f"{name}/")
            if etags.get(CLAIM) != leftover.version:
                raise changed(where)
            delete_folder(container, name, etags)
        case "blocks":
            staged = blocks_under(container, name)
            if staged is not None and staged.uncommitted:
                if staged.version != leftover.version:
                    raise changed(where)
                _discard(container, name, staged)
            if leftover.place:
                journal = container.etags(leftover.place).get("")
                if journal is not None:
                    _remove_as_seen(container, leftover.place, journal)


def _remove_as_seen(container: Container, name: str, etag: Etag) -> None:
    try:
        container.remove(name, etag)
    except Changed as error:
        raise changed(container.where(name)) from error


def _discard(container: Container, name: str, staged: Blocks) -> None:
    """Discard uncommitted blocks: by an empty blob, or by the blob that is there, committed again."""
    properties = container.properties(name)
    try:
        if properties is None:
            _discard_all(container, name)
        else:
            _commit_again(container, name, properties, staged)
    except (Changed, OutputExists) as error:
        left = blocks_under(container, name)
        if left is not None and left.uncommitted:  # else we did, and the answer was lost
            raise changed(container.where(name)) from error


def _commit_again(container: Container, name: str, blob: Any, staged: Blocks) -> None:
    """Commit the blob's own blocks with all that it says of itself, if it is still the same."""
    from azure.core import MatchConditions
    from azure.storage.blob import StandardBlobTier

    if blob.size and not staged.committed:
        raise changed(container.where(name))
    client, tags = container.client(name), None
    with suppress(StorageError):  # there are accounts without tags; may we not read them, we stop
        tags = container.ask(name, client.get_blob_tags)
    own = None if blob.blob_tier_inferred else blob.blob_tier
    tier = next((tier for tier in StandardBlobTier if tier.value == own), None)
    blocks = blocks_in_state("committed", staged.committed)
    container.ask(
        name,
        lambda: client.commit_block_list(
            blocks,
            content_settings=blob.content_settings,
            metadata=blob.metadata,
            tags=tags or None,
            standard_blob_tier=tier,
            etag=blob.etag,
            match_condition=MatchConditions.IfNotModified,
        ),
    )
