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
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pipeline.errors import CorruptFile, OutputExists

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob of a store: its name under the store's root, and its size in bytes."""

    name: str
    nbytes: int


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


class Writer(Protocol):
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

    def abort(self) -> None:
        """Throw away what was written. Harmless after `commit`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


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
class Removing(Protocol):
    """A store that removes a blob of a certain version."""

    def remove(self, name: str, version: str) -> None:
        """Remove the blob called `name`, if it is still of that version."""


class FolderWriter(Protocol):
    """A folder of blobs in the making, which appears under its name only by `publish`."""

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one file of the folder. Its `commit` finishes it without making it visible."""

    def publish(self, order: Sequence[str]) -> None:
        """Make the whole folder visible; where a store can only do so file by file, in `order`."""

    def abort(self) -> None:
        """Throw the folder away. Harmless after `publish`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


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

    def settled(self) -> Files | None:
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


class Aborting:
    """Mixin: leaving the `with` block aborts what was not published."""

    def abort(self) -> None:
        """Throw away what was written."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


@dataclass(slots=True)
class Extents:
    """The ranges that a writer has received, so that a commit can prove that none is missing."""

    sizes: dict[int, int] = field(default_factory=dict)  # offset -> bytes

    def add(self, offset: int, nbytes: int) -> None:
        """Note that `nbytes` were written at `offset`."""
        self.sizes[offset] = nbytes

    def ordered(self, *, where: str) -> list[tuple[int, int]]:
        """All (offset, bytes) in order. Raises CorruptFile if they leave a hole or overlap."""
        end = 0
        ordered = sorted(self.sizes.items())
        for offset, nbytes in ordered:
            if offset != end:
                what = f"bytes {min(end, offset)}..{max(end, offset)} were written never or twice"
                raise CorruptFile(what, where=where, hint="please report this as a bug")
            end = offset + nbytes
        return ordered


def exists(where: str) -> OutputExists:
    """The error for an output whose name is taken."""
    return OutputExists(
        "already exists", where=where, hint="add --overwrite to replace it, or name another output"
    )
