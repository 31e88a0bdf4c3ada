"""An Azure Blob container as a store, through the real SDK: ranged reads, staged blocks, one commit.

A blob is written by Put Block (any order, ids derived from the offset) and appears by one conditional
Put Block List: `If-None-Match: *`, or `If-Match` on what was seen at the start when overwriting. A
random commit id in the blob's metadata tells our own success from another writer's when the answer to
the commit is lost. Ranges carry `If-Match` and their length is checked: the SDK lets short ones pass.
"""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import CorruptFile
from pipeline.storage.azure_client import error_code, explained
from pipeline.storage.base import (
    Aborting,
    BlobInfo,
    Buffer,
    Extents,
    FolderWriter,
    Reader,
    Writer,
    exists,
)
from pipeline.storage.names import safe_name
from pipeline.storage.retry import retried
from pipeline.units import MIB

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

BLOCK_BYTES = 8 * MIB
MAX_BLOCKS = 50_000
COMMIT_KEY = "paramdelta_commit"
CLAIM = ".being-published"
SMALL_BYTES = MIB


class AzureReader:
    """Ranges of one blob as it was when it was opened."""

    is_remote = True

    def __init__(self, client: BlobClient, name: str) -> None:
        self.name = name
        self._client = client
        with explained(name):
            properties = client.get_blob_properties()
        self.nbytes = int(properties.size)
        self._etag = properties.etag

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
    """A blob whose blocks are staged, and which appears by one commit."""

    is_remote = True

    def __init__(
        self, client: BlobClient, name: str, *, size_hint: int, etag: str | None, claimed: bool = False
    ) -> None:
        """Etag: of the blob to be replaced, None if there must be none. Claimed: whatever is there."""
        self._client = client
        self._name = name
        self._etag = etag
        self._claimed = claimed
        self._run = secrets.token_hex(4)
        self._extents = Extents()
        self._lock = threading.Lock()
        blocks_wanted = math.ceil(size_hint * 1.25 / (MAX_BLOCKS * BLOCK_BYTES))
        self.block_bytes = BLOCK_BYTES * max(1, blocks_wanted)

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
        """Publish the blob by one conditional Put Block List; see `Writer.commit`."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobBlock, ContentSettings

        blocks = [BlobBlock(self._block_id(at)) for at, _ in self._extents.ordered(where=self._name)]
        commit_id = secrets.token_hex(16)
        condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if self._claimed:
            condition = {}
        elif self._etag is not None:
            condition = {"match_condition": MatchConditions.IfNotModified, "etag": self._etag}

        def attempt() -> None:
            with explained(self._name):
                try:
                    self._client.commit_block_list(
                        blocks,
                        **condition,
                        metadata={COMMIT_KEY: commit_id},
                        content_settings=ContentSettings(content_type="application/octet-stream"),
                    )
                except HttpResponseError as error:
                    if error.status_code not in (409, 412):
                        raise
                    if self._found_commit() == commit_id:
                        return  # the answer to our own commit was lost, and it was sent again
                    if self._etag is not None:
                        raise
                    raise exists(self._name) from error

        retried(attempt)

    def _found_commit(self) -> str | None:
        metadata: dict[str, str] = self._client.get_blob_properties().metadata or {}
        return metadata.get(COMMIT_KEY)

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible, and the service collects them after a week."""


class AzureFolderWriter(Aborting):
    """A folder of blobs, staged one by one and committed together at the end.

    A container has no commit for several blobs, so a folder that is being published holds a claim, a
    small blob that says so: one run publishes at a time, and what a killed one has left is known for
    what it is. What readers look for first is removed first and committed last, so that at no time new
    and old files pass for one model.
    """

    def __init__(self, store: AzureStore, name: str, *, overwrite: bool) -> None:
        self._store = store
        self._prefix = name
        self._overwrite = overwrite
        self._files: dict[str, _Staged] = {}

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one blob of the folder; see `FolderWriter.create`."""
        staged = _Staged(self._store.stage(f"{self._prefix}/{safe_name(name)}", size_hint))
        self._files[name] = staged
        return staged

    def publish(self, order: Sequence[str]) -> None:
        """Commit the blobs in `order`, whose last should be what readers look for first."""
        if set(order) != set(self._files):
            raise ValueError("the order must name every file of the folder once")
        alone = len(order) == 1  # one commit is atomic by itself
        old = self._old_files() if alone else self._claim()
        last = f"{self._prefix}/{order[-1]}"
        kept = {f"{self._prefix}/{name}" for name in order} - {last}
        for name in sorted(set(old) - kept, key=lambda name: name != last):
            self._store.remove(name)
        for name in order:
            self._files[name].publish()
        if not alone:
            self._store.remove(self._claim_name)

    @property
    def _claim_name(self) -> str:
        return f"{self._prefix}/{CLAIM}"

    def _old_files(self) -> list[str]:
        """What lies under the name. Raises OutputExists if it is a whole folder, not to be replaced."""
        found = [blob.name for blob in self._store.list(f"{self._prefix}/")]
        if found and self._claim_name not in found and not self._overwrite:
            raise exists(self._prefix)
        return [name for name in found if name != self._claim_name]

    def _claim(self) -> list[str]:
        """Say that the folder is being published; returns what lies there. Raises OutputExists."""
        old = self._old_files()
        self._store.mark(self._claim_name)
        return old

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible."""


class _Staged(Aborting):
    """A blob of a folder: `commit` waits for the folder's `publish`.

    The bytes of a small one wait here, for what is staged under a name goes when its old blob does.
    """

    is_remote = True

    def __init__(self, inner: AzureWriter) -> None:
        self._inner = inner
        self._small: dict[int, bytes] = {}
        self.block_bytes = inner.block_bytes

    def write(self, offset: int, data: Buffer) -> None:
        """Stage a block, or keep it if it is small."""
        if memoryview(data).nbytes < SMALL_BYTES:
            self._small[offset] = bytes(data)
        else:
            self._inner.write(offset, data)

    def commit(self) -> None:
        """Nothing yet."""

    def publish(self) -> None:
        """Stage what was kept, and commit."""
        for offset, data in self._small.items():
            self._inner.write(offset, data)
        self._inner.commit()

    def abort(self) -> None:
        """Nothing: see `AzureWriter.abort`."""


class AzureStore:
    """The blobs of one container below `prefix`."""

    def __init__(self, container: ContainerClient, *, prefix: str = "") -> None:
        self._container = container
        self._prefix = f"{prefix}/" if prefix else ""
        account = str(container.primary_endpoint).partition("?")[0]
        self._address = account.rstrip("/")

    @property
    def url(self) -> str:
        """The container's address, and the prefix; never a SAS."""
        return f"{self._address}/{self._prefix}".rstrip("/")

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""
        safe_name(name)
        with explained(self._where(name)):
            found = self._properties(name)
        return BlobInfo(name, int(found.size)) if found else None

    def _properties(self, name: str) -> Any | None:
        from azure.core.exceptions import ResourceNotFoundError

        client = self._client(name)
        try:
            return client.get_blob_properties()
        except ResourceNotFoundError as error:
            if error_code(error) == "ContainerNotFound":
                raise
            return None

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose name begins with `prefix`, sorted by name."""
        with explained(self.url):
            for blob in self._container.list_blobs(name_starts_with=self._prefix + prefix):
                yield BlobInfo(blob.name[len(self._prefix) :], int(blob.size))

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""
        return AzureReader(self._client(name), self._where(name))

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a blob. Raises OutputExists before anything is sent."""
        with explained(self._where(name)):
            found = self._properties(name)
        if found and not overwrite:
            raise exists(self._where(name))
        etag = found.etag if found else None
        return AzureWriter(self._client(name), self._where(name), size_hint=size_hint, etag=etag)

    def has_folder(self, name: str) -> bool:
        """Whether a blob, or a folder that was published whole, has that name."""
        blobs = [blob.name for blob in self.list(f"{safe_name(name)}/")]
        return bool(self.stat(name)) or (bool(blobs) and f"{name}/{CLAIM}" not in blobs)

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder. Raises OutputExists if a blob, or a whole folder, has that name."""
        if self.stat(name) or (self.has_folder(name) and not overwrite):
            raise exists(self._where(name))
        return AzureFolderWriter(self, name, overwrite=overwrite)

    def stage(self, name: str, size_hint: int) -> AzureWriter:
        """A writer for one file of a claimed folder: its commit replaces what is there."""
        where = self._where(name)
        return AzureWriter(self._client(name), where, size_hint=size_hint, etag=None, claimed=True)

    def mark(self, name: str) -> None:
        """Put an empty blob."""
        with explained(self._where(name)):
            self._client(name).upload_blob(b"", overwrite=True)

    def remove(self, name: str) -> None:
        """Delete a blob, if it is there."""
        from azure.core.exceptions import ResourceNotFoundError

        with explained(self._where(name)), suppress(ResourceNotFoundError):
            self._client(name).delete_blob()

    def _client(self, name: str) -> BlobClient:
        return self._container.get_blob_client(self._prefix + safe_name(name))

    def _where(self, name: str) -> str:
        return f"{self._address}/{self._prefix}{name}"
