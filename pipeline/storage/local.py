"""The local file system as a store: positioned reads and writes, published by one rename.

A file grows under a hidden name beside its final one (`.NAME.partial-XXXX`) and takes its place by
`link` (which fails if the name is taken) or `replace` (which is atomic). A folder does the same with
`rename`. A killed run leaves at most such a hidden partial; nothing under a final name is ever
incomplete. With `PIPELINE_FSYNC=1` files are also forced to the disk before they are published, so
that this holds through a power cut.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import CorruptFile, NotFound, PipelineError, StorageError
from pipeline.storage.base import (
    Aborting,
    BlobInfo,
    Buffer,
    Extents,
    FolderWriter,
    Writer,
    exists,
)
from pipeline.storage.names import safe_name
from pipeline.units import MIB, format_bytes

PARTIAL = ".partial-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
BLOCK_BYTES = MIB  # one compute slice: still in the cache when it is written


def explain(error: OSError, path: Path) -> PipelineError:
    """The pipeline's own error for what the operating system said about `path`."""
    where = str(path)
    match error.errno:
        case errno.ENOENT:
            return NotFound("no such file or folder", where=where)
        case errno.ENOSPC | errno.EDQUOT:
            free = format_bytes(_free_bytes(path))
            return StorageError(
                f"no space left ({free} free)",
                where=where,
                hint="free some room, or name an --output on another disk or in a container",
            )
        case errno.EEXIST | errno.ENOTEMPTY:
            return exists(where)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StorageError(
                f"not allowed: {error.strerror}", where=where, hint="check its owner and mode"
            )
    return StorageError(error.strerror or str(error), where=where)


def _free_bytes(path: Path) -> int:
    for folder in (path, *path.parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return 0


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
        self.nbytes = os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        done, wanted = 0, len(buffer)
        while done < wanted:
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise explain(error, self._path) from error
            if count == 0:
                raise CorruptFile(
                    f"ends at byte {offset + done}, expected at least {offset + wanted}",
                    where=self.name,
                    hint="it is truncated: fetch it again",
                )
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
    """

    is_remote = False
    block_bytes = BLOCK_BYTES

    def __init__(self, path: Path, *, overwrite: bool, fsync: bool) -> None:
        self._final = path
        self._overwrite = overwrite
        self._fsync = fsync
        self._extents = Extents()
        self._lock = threading.Lock()
        self._partial: Path | None = None
        make_folder(path.parent)
        partial = partial_name(path)
        try:
            # Readable like any file: tempfile's 0600 would lock out the colleagues it is meant for.
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except OSError as error:
            raise explain(error, path) from error
        self._partial = partial

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

    def abort(self) -> None:
        """Remove the hidden file, unless it was committed."""
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None


class LocalFolderWriter(Aborting):
    """A folder that grows under a hidden name."""

    def __init__(self, path: Path, *, overwrite: bool, fsync: bool) -> None:
        self._final = path
        self._overwrite = overwrite
        self._fsync = fsync
        self._partial: Path | None = None
        make_folder(path.parent)
        partial = partial_name(path)
        make_folder(partial)
        self._partial = partial

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one file of the folder; see `FolderWriter.create`."""
        assert self._partial is not None, "create after publish or abort"
        path = self._partial / safe_name(name)
        return LocalWriter(path, overwrite=False, fsync=self._fsync)

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

    def _swap(self, partial: Path) -> None:
        """Put the new folder in the old one's place, at once where the system can exchange names."""
        if exchange(partial, self._final):
            old = partial
        else:
            old = partial_name(self._final)
            os.rename(self._final, old)
            os.rename(partial, self._final)
        shutil.rmtree(old) if old.is_dir() else old.unlink()

    def abort(self) -> None:
        """Remove the hidden folder, unless it was published."""
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None


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

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All files whose path below the root begins with `prefix`, sorted; no partial ones."""
        folder = self.root / prefix.rpartition("/")[0]  # never walk more than the prefix names
        found = {path.relative_to(self.root).as_posix(): path for path in folder.rglob("*")}
        for name, path in sorted(found.items()):
            if name.startswith(prefix) and PARTIAL not in name and path.is_file():
                yield BlobInfo(name, path.stat().st_size)

    def open(self, name: str) -> LocalReader:
        """Open a file for reading. Raises NotFound."""
        return LocalReader(self.path(name))

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a file. Raises OutputExists, and StorageError if `size_hint` bytes can't fit."""
        path = self.path(name)
        if path.exists() and (not overwrite or path.is_dir()):
            raise exists(str(path))
        self._require_room(path, size_hint)
        return LocalWriter(path, overwrite=overwrite, fsync=self._fsync)

    def settled(self) -> LocalStore:
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
        self._require_room(path, size_hint)
        return LocalFolderWriter(path, overwrite=overwrite, fsync=self._fsync)

    def _require_room(self, path: Path, nbytes: int) -> None:
        """Stop before the first byte when the disk can't hold the result."""
        if nbytes > _free_bytes(path):
            raise explain(OSError(errno.ENOSPC, "no space left"), path)


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other run will choose."""
    return path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")


def rename_to_new(source: Path, target: Path) -> None:
    """Rename a file, failing with FileExistsError if `target` is there, with no gap between."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        # A file system without hard links (exFAT, some network mounts): look, then rename. Another
        # run could slip in between, but no reader ever sees half a file.
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
        os.rename(source, target)
        return
    source.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises StorageError if a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            "a file is where a folder should be", where=str(path), hint="name another output"
        ) from error
    except OSError as error:
        raise explain(error, path) from error


def exchange(left: Path, right: Path) -> bool:
    """Exchange two names at once, so that `right` is never missing; False where that can't be done.

    renameat2(2) with RENAME_EXCHANGE, which Python does not offer; Linux on most file systems.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    return int(done) == 0


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
