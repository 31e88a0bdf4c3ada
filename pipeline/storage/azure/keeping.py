"""Deleting folders of blobs only as they were seen, and removing what ended runs have left."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.errors import OutputExists, StorageError
from pipeline.storage.azure.blob import blocks_in_state
from pipeline.storage.azure.claim import CLAIM, Claim
from pipeline.storage.azure.errors import Changed
from pipeline.storage.azure.leftovers import Staged, staged_under
from pipeline.storage.base import Leftover, changed

if TYPE_CHECKING:
    from pipeline.storage.azure.store import AzureStore


def delete_folder(store: AzureStore, name: str, etags: Mapping[str, str]) -> None:
    """Delete the folder `name`, if its files have these etags; see `Store.delete_folder`.

    It is claimed as for publishing (see `folder`), so that no reader of ours takes what is left
    for a model; if we end in the middle, the claim stays, and whoever runs it again goes on.
    """
    claim = Claim(store.client(f"{name}/{CLAIM}"), store.where(name), ())
    untouched = True
    try:
        found = _files(store, name)
        if found != {file: etag for file, etag in etags.items() if file != CLAIM}:
            raise changed(store.where(name))
        untouched = False
        claim.begin()
        for file, etag in found.items():
            claim.keep()
            store.remove(f"{name}/{file}", etag)
        for file in claim.names:
            claim.keep()
            _discard_all(store, f"{name}/{file}")
        if not claim.remove() and _files(store, name):
            raise Changed("the claim was taken over")
    except BaseException as error:
        claim.give_up(untouched=untouched)
        if isinstance(error, Changed | OutputExists):
            raise changed(store.where(name)) from error
        raise


def _files(store: AzureStore, name: str) -> dict[str, str]:
    found = store.versions(f"{name}/")
    return {file: etag for file, etag in found.items() if file != CLAIM}


def _discard_all(store: AzureStore, name: str) -> None:
    """Discard the blocks under a name that has no blob: any commit does that, an empty one too.

    A run that has lost its claim can't commit them any more, and blocks with ids of any length may come.
    """
    empty = store.stage(name, 0)
    empty.commit()
    store.remove(name, empty.etag or "")


def clear(store: AzureStore, leftover: Leftover) -> None:
    """Remove a leftover; see `Store.clear`."""
    name, where = leftover.name, store.where(leftover.name)
    if leftover.stuck:
        raise changed(where)
    match leftover.kind:
        case "journal":
            _remove_as_seen(store, name, leftover.version)
        case "folder":
            etags = store.versions(f"{name}/")
            if etags.get(CLAIM) != _quoted(leftover.version):
                raise changed(where)
            delete_folder(store, name, etags)
        case "blocks":
            staged = staged_under(store, name)
            if staged is not None and staged.uncommitted:
                if staged.version != leftover.version:
                    raise changed(where)
                _discard(store, name, staged)
            if leftover.place:
                journal = store.versions(leftover.place).get("")
                if journal is not None:
                    _remove_as_seen(store, leftover.place, journal)


def _remove_as_seen(store: AzureStore, name: str, etag: str) -> None:
    try:
        store.remove(name, _quoted(etag))
    except Changed as error:
        raise changed(store.where(name)) from error


def _discard(store: AzureStore, name: str, staged: Staged) -> None:
    """Discard uncommitted blocks: by an empty blob, or by the blob that is there, committed again."""
    from azure.core.exceptions import ResourceNotFoundError

    client, where = store.client(name), store.where(name)

    def look() -> Any | None:
        try:
            return client.get_blob_properties()
        except ResourceNotFoundError:
            return None

    properties = store.ask(where, look)
    try:
        if properties is None:
            _discard_all(store, name)
        else:
            _commit_again(store, name, properties, staged)
    except (Changed, OutputExists) as error:
        left = staged_under(store, name)
        if left is not None and left.uncommitted:  # else we did, and the answer was lost
            raise changed(where) from error


def _commit_again(store: AzureStore, name: str, blob: Any, staged: Staged) -> None:
    """Commit the blob's own blocks with all that it says of itself, if it is still the same."""
    from azure.core import MatchConditions
    from azure.storage.blob import StandardBlobTier

    if blob.size and not staged.committed:
        raise changed(store.where(name))
    client, tags = store.client(name), None
    with suppress(StorageError):  # there are accounts without tags; may we not read them, we stop
        tags = store.ask(store.where(name), client.get_blob_tags)
    own = None if blob.blob_tier_inferred else blob.blob_tier
    tier = next((tier for tier in StandardBlobTier if tier.value == own), None)
    blocks = blocks_in_state("committed", staged.committed)
    store.ask(
        store.where(name),
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


def _quoted(etag: str) -> str:
    """An etag as conditions want it: lists have it bare."""
    return '"' + etag.strip('"') + '"'
