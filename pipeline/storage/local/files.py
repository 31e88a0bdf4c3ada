"""What the local store asks of the operating system, and what its refusals mean."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from pipeline.errors import NotFound, PipelineError, StorageError
from pipeline.storage.errors import exists
from pipeline.units import format_bytes

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def explain(error: OSError, path: Path) -> PipelineError:
    """The pipeline's own error for what the operating system said about `path`."""
    where = str(path)
    match error.errno:
        case errno.ENOENT:
            return NotFound("no such file or folder", where=where)
        case errno.ENOSPC | errno.EDQUOT:
            free = format_bytes(free_bytes(path))
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


def free_bytes(path: Path) -> int:
    """What the disk under `path` has left."""
    for folder in (path, *path.parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return 0


def make_file(path: Path) -> None:
    """Make an empty file. Readable like any: tempfile's 0600 would lock out those it is meant for."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def rename_to_new(source: Path, target: Path) -> None:
    """Rename a file, failing with FileExistsError if `target` is there, with no gap between."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        # A file system without hard links (exFAT, some network mounts): look, then rename. Another
        # run could slip in between, but no reader ever sees half a file.
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
        source.rename(target)
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
