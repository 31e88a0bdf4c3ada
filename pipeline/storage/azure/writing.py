"""One blob in the making: blocks staged in any order, and one commit by which it appears.

A block's id says where it belongs and what it holds: its offset and the MD5 that the service checked. So

- runs that write to one name can't mix: a commit names contents, and finds them or fails;
- a run that is begun again finds what an earlier one staged, on whatever machine, and sends the rest.

The commit is one conditional Put Block List: `If-None-Match: *`, or `If-Match` on what it is to replace.
A random commit id in the blob's metadata tells our own success from another writer's when the answer to
the commit is lost.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import AccessError, NotFound, StorageError, Unreachable
from pipeline.storage.azure.errors import AGAIN, Changed, error_code
from pipeline.storage.azure.etags import Etag, etag_of
from pipeline.storage.azure.traffic import Traffic
from pipeline.storage.base import Aborting, Buffer, Staged
from pipeline.storage.errors import exists, overtaken
from pipeline.storage.extents import Extents
from pipeline.units import MIB

if TYPE_CHECKING:
    from azure.storage.blob import BlobBlock, BlobClient

BLOCK_BYTES = 8 * MIB
MAX_BLOCKS = 50_000
COMMIT_KEY = "paramdelta_commit"
CONDITION_FAILED = ("BlobAlreadyExists", "ConditionNotMet")
COMMIT_REFUSALS = (*CONDITION_FAILED, "InvalidBlockList")  # what a commit that has won meets again

_log = logging.getLogger(__name__)


class AzureWriter(Aborting):
    """A blob whose blocks are staged, and which appears by one commit.

    etag: of the blob that is to be replaced, None if there must be none; after the commit, its own.
    tier: the access tier, None for the account's own. reused_bytes: what an earlier run had staged.
    """

    is_remote = True

    def __init__(
        self,
        client: BlobClient,
        name: str,
        *,
        size_hint: int,
        etag: Etag | None,
        traffic: Traffic,
        tier: str | None = None,
        overwrite: bool = False,
    ) -> None:
        self.etag = etag
        self._labels: dict[str, str] = {}
        self.reused_bytes = 0
        self._client = client
        self._name = name
        self._traffic = traffic
        self._tier = tier
        self._overwrite = overwrite
        self._extents = Extents()
        self._blocks: dict[int, str] = {}  # offset -> id
        self._lock = threading.Lock()
        blocks_wanted = math.ceil(size_hint * 1.25 / (MAX_BLOCKS * BLOCK_BYTES))
        self.block_bytes = BLOCK_BYTES * max(1, blocks_wanted)
        self._staged: dict[str, int] | None = None
        self._looks = size_hint > self.block_bytes  # one block is sent sooner than it is looked for

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been staged."""
        return not self._extents.sizes

    def write(self, offset: int, data: Buffer) -> None:
        """Stage `data` as the block of `offset`; see `Writer.write`."""
        view = memoryview(data).cast("B")
        if not len(view):
            return
        # A digest that the service checks; sent by us, or it would compute a slower one.
        digest = hashlib.md5(view, usedforsecurity=False).digest()
        block = Staged(offset, len(view), block_id(offset, digest))
        if self._looks and self.has(block):
            self.adopt(block)
        else:
            stage = partial(self._stage, block.mark, view, digest)
            self._traffic.ask(self._name, stage, nbytes=len(view))
            self._note(block)

    def label(self, labels: Mapping[str, str]) -> None:
        """In the blob's metadata and index tags; see `Writer.label`."""
        self._labels = dict(labels)

    def staged(self) -> list[Staged]:
        """See `Resumable.staged`."""
        with self._lock:
            sizes = self._extents.sizes
            return [Staged(offset, sizes[offset], mark) for offset, mark in self._blocks.items()]

    def has(self, block: Staged) -> bool:
        """See `Resumable.has`."""
        return self._found().get(block.mark) == block.nbytes

    def adopt(self, block: Staged) -> None:
        """See `Resumable.adopt`."""
        self._note(block, reused_bytes=block.nbytes)

    def _note(self, block: Staged, *, reused_bytes: int = 0) -> None:
        """Remember that the block lies there, to be committed."""
        with self._lock:
            self._extents.add(block.offset, block.nbytes)
            self._blocks[block.offset] = block.mark
            self.reused_bytes += reused_bytes

    def _found(self) -> dict[str, int]:
        """The blocks that lie there uncommitted, each with its size; looked up once."""
        with self._lock:
            if self._staged is None:
                try:
                    _, blocks = self._traffic.ask(
                        self._name, lambda: self._client.get_block_list("uncommitted")
                    )
                except NotFound:
                    blocks = []
                self._staged = {str(block.id): int(block.size) for block in blocks}
            return self._staged

    def _stage(self, block: str, view: memoryview, digest: bytes) -> None:
        self._client.stage_block(
            block,
            _Body(view),  # type: ignore[arg-type]  # as much of a file as is looked at
            length=len(view),
            transactional_content_md5=bytearray(digest),
        )

    def commit(self) -> None:
        """Publish the blob by one conditional Put Block List; see `Writer.commit`.

        Raises Changed if what was to be replaced is no longer there, or the staged blocks are not.
        """
        ordered = self._extents.ordered(where=self._name)
        blocks = [self._blocks[offset] for offset, _ in ordered]
        commit_id = secrets.token_hex(16)
        tags = dict(self._labels) or None
        try:
            self.etag = self._traffic.ask(self._name, partial(self._commit, blocks, commit_id, tags))
        except (AccessError, StorageError) as error:
            if tags is None or isinstance(error, Unreachable | Changed):
                raise
            # Index tags need a permission that many a SAS does not give, and not every account has them.
            self.etag = self._traffic.ask(self._name, partial(self._commit, blocks, commit_id, None))
            _log.warning("%s: published without index tags: they were refused", self._name)

    def _commit(self, blocks: list[str], commit_id: str, tags: dict[str, str] | None) -> Etag:
        """One Put Block List; returns the blob's etag."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import ContentSettings, StandardBlobTier

        options: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if self.etag is not None:
            options = {"match_condition": MatchConditions.IfNotModified, "etag": self.etag}
        if tags:
            options["tags"] = tags
        if self._tier:
            options["standard_blob_tier"] = StandardBlobTier(self._tier.capitalize())
        try:
            done = self._client.commit_block_list(
                blocks_in_state("uncommitted", blocks),
                metadata={COMMIT_KEY: commit_id, **self._labels},
                content_settings=ContentSettings(content_type="application/octet-stream"),
                validate_content=True,
                **options,
            )
        except HttpResponseError as error:
            code = error_code(error)
            if code not in COMMIT_REFUSALS and error.status_code != 400:
                raise
            if (etag := self._find_commit(commit_id)) is not None:
                return etag  # the answer to our own commit was lost, and it was sent again
            if self.etag is None and (code in CONDITION_FAILED or self._is_there()):
                raise (overtaken if self._overwrite else exists)(self._name) from error
            if code not in CONDITION_FAILED and self._is_staged(blocks):
                raise Unreachable("the commit came spoiled", where=self._name, hint=AGAIN) from error
            raise
        return Etag(str(done["etag"]))

    def _find_commit(self, commit_id: str) -> Etag | None:
        """The blob's etag, if it is the one that this commit has made."""
        from azure.core.exceptions import ResourceNotFoundError

        with suppress(ResourceNotFoundError):
            found = self._client.get_blob_properties()
            if (found.metadata or {}).get(COMMIT_KEY) == commit_id:
                return etag_of(found)
        return None

    def _is_staged(self, blocks: list[str]) -> bool:
        """Whether all that is to be committed lies there, so that the list of it was at fault."""
        _, found = self._client.get_block_list("uncommitted")
        return {str(block.id) for block in found}.issuperset(blocks)

    def _is_there(self) -> bool:
        """Whether another run has published under the name, whose commit discards all other blocks."""
        return bool(self._client.exists())

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible, and of use to the run that tries again.

        The service collects them after a week; `cli.py clean` sooner.
        """


class _Body:
    """A block on its way, sent piece by piece without a copy.

    Sent whole, it would have to leave within one timeout, which a slow link does not keep.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        """The next bytes."""
        end = len(self._view) if size < 0 else self._at + size
        piece = self._view[self._at : end]
        self._at += len(piece)
        return piece

    def tell(self) -> int:
        """How far it has come."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go back, to be sent again."""
        self._at = offset + (0, self._at, len(self._view))[whence]
        return self._at


@dataclass(frozen=True, slots=True)
class _State:
    """What the SDK (12.31) looks for in a block's state.

    It compares in lower case, but its own BlockState is capitalised: so it would ask for the latest
    block of an id, for a committed one where none is staged any more, or the other way round.
    """

    value: Literal["committed", "uncommitted"]


def blocks_in_state(state: Literal["committed", "uncommitted"], ids: Iterable[str]) -> list[BlobBlock]:
    """Blocks as `commit_block_list` takes them, which must be in this state."""
    from azure.storage.blob import BlobBlock

    blocks = [BlobBlock(each) for each in ids]
    for block in blocks:
        block.state = _State(state)  # type: ignore[assignment]
    return blocks


def block_id(offset: int, digest: bytes) -> str:
    """One id per offset and content, all of one length, at most 64, as the service demands."""
    return f"{offset:016x}-{digest.hex()}"
