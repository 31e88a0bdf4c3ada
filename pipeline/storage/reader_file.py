"""A store's reader as a file, for libraries that want one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pipeline.storage.base import Reader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ReaderFile(io.RawIOBase):
    """A `Reader` as a seekable stream of bytes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere else."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._reader.nbytes}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read on; fewer bytes than asked for at the end only."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._reader.nbytes - self._at))
        if count:
            self._reader.read_into(self._at, view[:count])
        self._at += count
        return count
