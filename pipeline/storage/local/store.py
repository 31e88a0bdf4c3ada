"""The local file system as a store: positioned reads and writes, published by one rename.

A file grows under a hidden name beside its final one (`.NAME.partial-XXXX`) and takes its place by
`link` (which fails if the name is taken) or `replace` (which is atomic). A folder does the same with
`rename`. A killed run leaves at most such a hidden partial, which the next run of that name removes
(`partials`); nothing under a final name is ever incomplete. With `PIPELINE_FSYNC=1` files are also
forced to the disk before they are published, so that this holds through a power cut.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.storage.base import (
    Aborting,
    BlobInfo,
    Buffer,
    FolderWriter,
    Leftover,
    Listed,
    Writer,
)
from pipeline.storage.errors import exists, truncated
from pipeline.storage.extents import Extents
from pipeline.storage.local import keeping
from pipeline.storage.local.files import (
    exchange,
    explain,
    free_bytes,
    make_file,
    make_folder,
    rename_to_new,
    sync,
)
from pipeline.storage.local.partials import PARTIAL, Partial, discard, partial_name, remove_abandoned
from pipeline.storage.names import safe_name, safe_prefix
from pipeline.units import MIB

BLOCK_BYTES = MIB  # one compute slice: still in the cache when it is written
TICK_NS = 2 * 10**9  # the coarsest step of any file system's clock, FAT's


class LocalReader:
    """Positioned reads of one file."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise explain(error, path) from error
        self._path = path
        found, now = os.fstat(self._fd), time.time_ns()
        self.nbytes = found.st_size
        self.version = _version(found)
        # Which file of this machine it is, in which version; None while a change might not show in that.
        is_settled = now - found.st_ctime_ns > TICK_NS
        self.stamp = f"{found.st_dev}-{self.version}" if is_settled else None

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is still the version that was opened."""
        return _version(os.fstat(self._fd)) == self.version

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        done, wanted = 0, len(buffer)
        while done < wanted:
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise explain(error, self._path) from error
            if count == 0:
                raise truncated(self.name, end=offset + done, wanted=offset + wanted)
            done += count

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class LocalWriter(Aborting):
    """A file that grows under a hidden name. It is opened anew for every write: a model may have more
    shards than a process may have open files, and opening costs nothing beside writing a slice.

    alone: not in a folder in the making, whose lock is for all its files.
    """

    is_remote = False
    block_bytes = BLOCK_BYTES

    def __init__(self, path: Path, *, overwrite: bool, fsync: bool, alone: bool = True) -> None:
        self._final = path
        self._overwrite = overwrite
        self._fsync = fsync
        self._extents = Extents()
        self._lock = threading.Lock()
        self._hold: Partial | None = None
        self._partial: Path | None = None
        make_folder(path.parent)
        try:
            if alone:
                self._hold = Partial(path, make_file)
                self._partial = self._hold.path
            else:
                make_file(partial := partial_name(path))
                self._partial = partial
        except OSError as error:
            raise explain(error, path) from error

    def write(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`; see `Writer.write`."""
        assert self._partial is not None, "write after commit or abort"
        view = memoryview(data).cast("B")
        done = 0
        try:
            fd = os.open(self._partial, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while done < len(view):
                    done += os.pwrite(fd, view[done:], offset + done)
            finally:
                os.close(fd)
        except OSError as error:
            raise explain(error, self._final) from error
        if done:
            with self._lock:
                self._extents.add(offset, done)

    def label(self, labels: Mapping[str, str]) -> None:
        """Nothing: files have no place for that."""

    def commit(self) -> None:
        """Give the file its name; see `Writer.commit`."""
        assert self._partial is not None, "commit after commit or abort"
        self._extents.ordered(where=str(self._final))
        try:
            if self._fsync:
                sync(self._partial)
            if self._overwrite:
                os.replace(self._partial, self._final)
            else:
                rename_to_new(self._partial, self._final)
            if self._fsync:
                sync(self._final.parent)
        except OSError as error:
            raise explain(error, self._final) from error
        self._partial = None
        self._let_go()

    def abort(self) -> None:
        """Remove the hidden file, unless it was committed."""
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None
        self._let_go()

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()


class LocalFolderWriter(Aborting):
    """A folder that grows under a hidden name."""

    def __init__(self, path: Path, *, overwrite: bool, fsync: bool) -> None:
        self._final = path
        self._overwrite = overwrite
        self._fsync = fsync
        make_folder(path.parent)
        try:
            self._hold = Partial(path, lambda partial: partial.mkdir())
        except OSError as error:
            raise explain(error, path) from error
        self._partial: Path | None = self._hold.path

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one file of the folder; see `FolderWriter.create`."""
        assert self._partial is not None, "create after publish or abort"
        path = self._partial / safe_name(name)
        return LocalWriter(path, overwrite=False, fsync=self._fsync, alone=False)

    def publish(self, order: Sequence[str]) -> None:
        """Give the folder its name: one rename, so `order` does not matter here."""
        assert self._partial is not None, "publish after publish or abort"
        try:
            if self._overwrite and self._final.exists():
                self._swap(self._partial)
            else:
                os.rename(self._partial, self._final)
            if self._fsync:
                sync(self._final.parent)
        except OSError as error:
            raise explain(error, self._final) from error
        self._partial = None
        self._hold.close()

    def _swap(self, partial: Path) -> None:
        """Put the new folder in the old one's place, at once where the system can exchange names."""
        if exchange(partial, self._final):
            old = partial
        else:
            # Under a name that nobody removes by himself: if we end here, it is all that there is.
            old = self._final.with_name(f"{partial.name}-replaced")
            os.rename(self._final, old)
            os.rename(partial, self._final)
        discard(old)

    def abort(self) -> None:
        """Remove the hidden folder, unless it was published."""
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None
        self._hold.close()


class LocalStore:
    """All files below one folder. The folder itself is made by the first write."""

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self.root = root
        self._fsync = fsync

    @property
    def url(self) -> str:
        """The root folder's path."""
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where the blob `name` lies. Raises UsageError for a name that leaves the root."""
        return self.root / safe_name(name)

    def stat(self, name: str) -> BlobInfo | None:
        """The file called `name`, or None."""
        path = self.path(name)
        return BlobInfo(name, path.stat().st_size) if path.is_file() else None

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """All files whose path below the root begins with `prefix`, sorted; no partial ones."""
        # Never walk more than the prefix names.
        folder = self.root / safe_prefix(prefix).rpartition("/")[0]
        found = {path.relative_to(self.root).as_posix(): path for path in folder.rglob("*")}
        for name, path in sorted(found.items()):
            if name.startswith(prefix) and PARTIAL not in name and path.is_file():
                yield keeping.listed(name, path)

    def open(self, name: str) -> LocalReader:
        """Open a file for reading. Raises NotFound."""
        return LocalReader(self.path(name))

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a file. Raises OutputExists, and StorageError if `size_hint` bytes can't fit."""
        path = self.path(name)
        if path.exists() and (not overwrite or path.is_dir()):
            raise exists(str(path))
        remove_abandoned(path)
        self._require_room(path, size_hint)
        return LocalWriter(path, overwrite=overwrite, fsync=self._fsync)

    def published(self) -> LocalStore:
        """The store itself: a folder takes its name whole."""
        return self

    def has_folder(self, name: str) -> bool:
        """Whether a file, or a folder that is not empty, has that name."""
        path = self.path(name)
        return path.is_file() or (path.is_dir() and any(path.iterdir()))

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder. Raises OutputExists if it has content and `overwrite` is not set."""
        path = self.path(name)
        if not overwrite and self.has_folder(name):
            raise exists(str(path))
        remove_abandoned(path)
        self._require_room(path, size_hint)
        return LocalFolderWriter(path, overwrite=overwrite, fsync=self._fsync)

    def folder(self, name: str) -> LocalStore:
        """The store whose root is the folder `name`."""
        return LocalStore(self.path(name), fsync=self._fsync)

    def delete(self, file: Listed) -> None:
        """Delete a file as it was listed; see `Store.delete`."""
        keeping.delete_file(self.path(file.name), file)

    def delete_folder(self, name: str, files: Sequence[Listed]) -> None:
        """Delete a folder: it is hidden first, by one rename; see `Store.delete_folder`."""
        keeping.delete_folder(self.path(name), {f.name.removeprefix(f"{name}/"): f for f in files})

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """Hidden partials whose runs have ended; see `Store.leftovers`."""
        yield from keeping.find_leftovers(self.root, safe_prefix(prefix))

    def clear(self, leftover: Leftover) -> None:
        """Remove a leftover; see `Store.clear`."""
        keeping.clear(self.root, leftover)

    def _require_room(self, path: Path, nbytes: int) -> None:
        """Stop before the first byte when the disk can't hold the result."""
        if nbytes > free_bytes(path):
            raise explain(OSError(errno.ENOSPC, "no space left"), path)


def _version(found: os.stat_result) -> str:
    """Another for every content: of a file's times, nothing sets that of the last change back."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
