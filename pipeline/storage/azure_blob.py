"""One blob, through the real SDK: ranged reads of what was opened, staged blocks and one commit.

A blob is written by Put Block (any order, ids derived from the offset) and appears by one conditional
Put Block List: `If-None-Match: *`, or `If-Match` on what it is to replace. A random commit id in the
blob's metadata tells our own success from another writer's when the answer to the commit is lost.
Ranges carry `If-Match` and their length is checked: the SDK lets short ones pass.
"""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import CorruptFile
from pipeline.storage.azure_errors import error_code, explained
from pipeline.storage.base import Aborting, Buffer, Extents, exists
from pipeline.storage.retry import retried
from pipeline.units import MIB

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

BLOCK_BYTES = 8 * MIB
MAX_BLOCKS = 50_000
COMMIT_KEY = "paramdelta_commit"
CONDITION_FAILED = ("BlobAlreadyExists", "ConditionNotMet")
COMMIT_REFUSALS = (*CONDITION_FAILED, "InvalidBlockList")  # what a commit that has won meets again


class AzureReader:
    """Ranges of one blob as it was when it had `etag`."""

    is_remote = True

    def __init__(self, client: BlobClient, name: str, *, nbytes: int, etag: str) -> None:
        self.name = name
        self.nbytes = nbytes
        self._client = client
        self._etag = etag

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        done = 0
        while done < len(buffer):
            part = buffer[done : done + BLOCK_BYTES]
            done += retried(partial(self._read, offset + done, part))

    def _read(self, offset: int, buffer: memoryview) -> int:
        """One ranged GET; returns how many bytes it brought."""
        from azure.core import MatchConditions

        with explained(self.name):
            data = self._client.download_blob(
                offset,
                len(buffer),
                etag=self._etag,
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
            ).readall()
        if not data or len(data) > len(buffer):
            raise CorruptFile(
                f"{len(data)} bytes came back for {len(buffer)} at offset {offset}",
                where=self.name,
                hint="it may be truncated: check its size, then run the command again",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Nothing to let go of: connections belong to the container's client."""


class AzureWriter(Aborting):
    """A blob whose blocks are staged, and which appears by one commit.

    etag: of the blob that is to be replaced, None if there must be none; after the commit, its own.
    """

    is_remote = True

    def __init__(self, client: BlobClient, name: str, *, size_hint: int, etag: str | None) -> None:
        self.etag = etag
        self._client = client
        self._name = name
        self._run = secrets.token_hex(4)
        self._extents = Extents()
        self._lock = threading.Lock()
        blocks_wanted = math.ceil(size_hint * 1.25 / (MAX_BLOCKS * BLOCK_BYTES))
        self.block_bytes = BLOCK_BYTES * max(1, blocks_wanted)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been staged."""
        return not self._extents.sizes

    def write(self, offset: int, data: Buffer) -> None:
        """Stage `data` as the block of `offset`; see `Writer.write`."""
        view = memoryview(data).cast("B")
        if not len(view):
            return
        retried(lambda: self._stage(offset, view))
        with self._lock:
            self._extents.add(offset, len(view))

    def _stage(self, offset: int, view: memoryview) -> None:
        # A digest that the service checks; sent by us, or it would compute a slower one.
        digest = bytearray(hashlib.md5(view, usedforsecurity=False).digest())
        with explained(self._name):
            self._client.stage_block(
                self._block_id(offset),
                view,  # type: ignore[arg-type]  # undocumented, but sent without a copy
                length=len(view),
                transactional_content_md5=digest,
            )

    def _block_id(self, offset: int) -> str:
        """One id per offset and run, all of one length, as the service demands."""
        return base64.b64encode(f"{self._run}-{offset:020d}".encode()).decode()

    def commit(self) -> None:
        """Publish the blob by one conditional Put Block List; see `Writer.commit`.

        Raises Changed if what was to be replaced is no longer there, or the staged blocks are not.
        """
        ordered = self._extents.ordered(where=self._name)
        blocks = [self._block_id(offset) for offset, _ in ordered]
        commit_id = secrets.token_hex(16)
        self.etag = retried(partial(self._commit, blocks, commit_id))

    def _commit(self, blocks: list[str], commit_id: str) -> str:
        """One Put Block List; returns the blob's etag."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobBlock, ContentSettings

        condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if self.etag is not None:
            condition = {"match_condition": MatchConditions.IfNotModified, "etag": self.etag}
        with explained(self._name):
            try:
                done = self._client.commit_block_list(
                    [BlobBlock(block) for block in blocks],
                    **condition,
                    metadata={COMMIT_KEY: commit_id},
                    content_settings=ContentSettings(content_type="application/octet-stream"),
                )
            except HttpResponseError as error:
                code = error_code(error)
                if code not in COMMIT_REFUSALS:
                    raise
                if (etag := self._find_commit(commit_id)) is not None:
                    return etag  # the answer to our own commit was lost, and it was sent again
                if self.etag is None and code in CONDITION_FAILED:
                    raise exists(self._name) from error
                raise
        return str(done["etag"])

    def _find_commit(self, commit_id: str) -> str | None:
        """The blob's etag, if it is the one that this commit has made."""
        from azure.core.exceptions import ResourceNotFoundError

        with suppress(ResourceNotFoundError):
            found = self._client.get_blob_properties()
            if (found.metadata or {}).get(COMMIT_KEY) == commit_id:
                return str(found.etag)
        return None

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible, and the service collects them after a week."""
