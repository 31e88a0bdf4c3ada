"""What every store offers: bytes by range in, bytes by block out, nothing half-published.

A store is a flat namespace of blobs under one root. A blob appears whole, by one atomic commit, or
not at all. Nothing in this package knows what the bytes mean.

    reader = store.open("deltas/x.safetensors")
    reader.read_into(0, buffer)

    with store.create("deltas/y.safetensors", size_hint=n, overwrite=False) as writer:
        writer.write(0, first)          # from any thread, in any order
        writer.write(len(first), rest)
        writer.commit()                 # without it, leaving the block throws the work away
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob of a store: its name under the store's root, and its size in bytes."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Listed(BlobInfo):
    """A blob as it was when a store listed it. version: changes whenever the blob does."""

    version: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a run that was killed or given up has left, of no use to readers.

    name: what it would have become, or of a journal its own. kind: "partial" grew under a hidden name,
    "blocks" were staged and never committed, a "journal" has nothing left to say, a "folder" was begun
    to be published or deleted, and its files can't be read. modified: when its run last wrote, None if
    nobody knows. stuck: why it can't be removed, if so. version: it is removed only as it was seen.
    place: of a partial, its hidden name; of blocks, the journal beside them.
    """

    name: str
    kind: Literal["partial", "blocks", "journal", "folder"]
    nbytes: int
    modified: datetime | None
    version: str
    place: str = ""
    stuck: str | None = None


class Reader(Protocol):
    """Random access to one immutable blob. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """The blob, as people should see it in a message."""

    @property
    def nbytes(self) -> int:
        """Size of the blob in bytes."""

    @property
    def version(self) -> str:
        """What is another if the content is: an etag, a commit, or a file's size, time and number."""

    @property
    def is_remote(self) -> bool:
        """Whether a read costs a round trip, so that more of them should be under way at once."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises CorruptFile if the blob ends before the buffer is full or has changed since it was
        opened.
        """

    def close(self) -> None:
        """Let go of what the reader holds."""


class Aborting(Protocol):
    """Something in the making: leaving its `with` block aborts what was not finished."""

    def abort(self) -> None:
        """Throw away what was written. Harmless once it is finished."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


class Writer(Aborting, Protocol):
    """One blob in the making. `write` may be called from several threads, in any order."""

    @property
    def is_remote(self) -> bool:
        """Whether a write costs a round trip, so that more of them should be under way at once."""

    @property
    def block_bytes(self) -> int:
        """The size of write that suits this store best."""

    def write(self, offset: int, data: Buffer) -> None:
        """Put `data` at `offset`; `data` may be reused once this returns. Ranges must not overlap."""

    def label(self, labels: Mapping[str, str]) -> None:
        """Say what the content is, where the store has a place for that."""

    def commit(self) -> None:
        """Publish the blob whole, under its name, at once.

        Raises OutputExists if the name was taken meanwhile and overwriting was not asked for.
        """


@dataclass(frozen=True, slots=True)
class Staged:
    """A block that lies in a store, to be committed; `mark` is the store's name for its content."""

    offset: int
    nbytes: int
    mark: str


@runtime_checkable
class Resumable(Protocol):
    """A writer whose blocks stay when its run dies, so that another run can take them up."""

    def staged(self) -> list[Staged]:
        """The blocks that this run has written or adopted."""

    def has(self, block: Staged) -> bool:
        """Whether that very block still lies there."""

    def adopt(self, block: Staged) -> None:
        """Count it as written."""


@runtime_checkable
class Puller(Protocol):
    """A writer whose store can fetch bytes from where a reader has them, past this machine."""

    def can_pull(self, reader: Reader) -> bool:
        """Whether `reader` reads from the same account."""

    def pull(self, offset: int, nbytes: int, reader: Reader) -> None:
        """Like `write` of what `reader` has in that range. Raises if the blob has changed since."""


class FolderWriter(Aborting, Protocol):
    """A folder of blobs in the making, which appears under its name only by `publish`."""

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one file of the folder. Its `commit` finishes it without making it visible."""

    def publish(self, order: Sequence[str]) -> None:
        """Make the whole folder visible; where a store can only do so file by file, in `order`."""


class Files(Protocol):
    """What can be read in a place."""

    @property
    def url(self) -> str:
        """The place as a location, without secrets."""

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose name begins with `prefix`, sorted by name."""

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""


@runtime_checkable
class Store(Files, Protocol):
    """A place where deltas and models lie."""

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """The same, each blob with what is needed to delete what was listed and nothing else."""

    def published(self) -> Files | None:
        """The store's root as one run published it, for reading; None while it is being published.

        None, too, if that was interrupted. What changes after this call is refused by its readers.
        """

    def has_folder(self, name: str) -> bool:
        """Whether `create_folder` would refuse `name` without `overwrite`."""

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a blob of about `size_hint` bytes. Raises OutputExists."""

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder of about `size_hint` bytes.

        Raises OutputExists if anything lies there and `overwrite` is not set.
        """

    def folder(self, name: str) -> Store:
        """The store whose root is the folder `name` of this one."""

    def delete(self, file: Listed) -> None:
        """Delete a blob. Raises StorageError if it is not as it was listed; none at all is fine."""

    def delete_folder(self, name: str, files: Sequence[Listed]) -> None:
        """Delete the folder `name`, of which `files`, named from this store's root, are all.

        From the first change on, nobody reads what is left as a model. Raises StorageError if the folder
        is not as it was listed, OutputExists if another run is publishing there.
        """

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """What ended runs have left under names that begin with `prefix`; nothing of those that live."""

    def clear(self, leftover: Leftover) -> None:
        """Remove a leftover. Raises StorageError if it is not, or not any more, as it was seen."""
