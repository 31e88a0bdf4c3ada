"""Deleting files and folders only as they were seen, and finding what ended runs have left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import OutputExists, StorageError
from pipeline.storage.base import Leftover, Listed
from pipeline.storage.errors import changed
from pipeline.storage.local.files import explain, rename_to_new
from pipeline.storage.local.partials import (
    PARTIAL,
    Partial,
    discard,
    find_partials,
    is_abandoned,
    remove_if_abandoned,
)


def listed(name: str, path: Path) -> Listed:
    """The file at `path` as it is now. Raises OSError."""
    stat = path.stat()
    version = f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    return Listed(name, stat.st_size, version, datetime.fromtimestamp(stat.st_mtime, UTC))


def delete_file(path: Path, seen: Listed) -> None:
    """Delete the file at `path`: hidden first, looked at, and put back if it is another."""
    hold = _hide(path)
    if hold is None:
        return
    try:
        if listed(seen.name, hold.path) != seen:
            rename_to_new(hold.path, path)
            raise changed(str(path))
        hold.path.unlink()
    except OSError as error:
        raise explain(error, path) from error
    finally:
        hold.close()


def delete_folder(path: Path, files: Mapping[str, Listed]) -> None:
    """Delete the folder at `path`, of which `files`, by their names in it, are all."""
    if not path.is_dir():
        return
    if any(not is_abandoned(partial) for partial, _ in find_partials(path)):
        raise OutputExists(
            "another run is writing there", where=str(path), hint="let it finish, then look again"
        )
    hold = _hide(path)
    if hold is None:
        return
    try:
        if _versions(hold.path) != {name: file.version for name, file in files.items()}:
            hold.path.rename(path)
            raise changed(str(path))
        discard(hold.path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        hold.close()
    if hold.path.exists():
        raise StorageError(
            "is hidden now, but could not be removed whole",
            where=str(hold.path),
            hint="check its owner and mode, then run `cli.py clean`",
        )


def _hide(path: Path) -> Partial | None:
    """Give what is at `path` a hidden name: a leftover if we end here. None if it is gone."""

    def rename(hidden: Path) -> None:
        path.rename(hidden)

    try:
        return Partial(path, rename)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, path) from error


def _versions(folder: Path) -> dict[str, str]:
    """The versions of all files below `folder`, but for what ended runs have left in it."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: listed(name, path).version for name, path in found.items() if PARTIAL not in name}


def find_leftovers(root: Path, prefix: str) -> Iterator[Leftover]:
    """The partials below `root` whose runs have ended, and whose names begin with `prefix`."""
    for path, final in find_partials(root / prefix.rpartition("/")[0]):
        name = final.relative_to(root).as_posix()
        if name.startswith(prefix) and is_abandoned(path):
            with suppress(FileNotFoundError):
                yield _describe(root, path, name)


def _describe(root: Path, path: Path, name: str) -> Leftover:
    stats = [each.lstat() for each in (path, *path.rglob("*")) if each.is_file() or each == path]
    nbytes = sum(stat.st_size for stat in stats[path.is_dir() :])
    newest = max(stat.st_mtime_ns for stat in stats)
    return Leftover(
        name=name,
        kind="partial",
        nbytes=nbytes,
        modified=datetime.fromtimestamp(newest / 1e9, UTC),
        version=f"{nbytes}-{newest}",
        place=path.relative_to(root).as_posix(),
    )


def clear(root: Path, leftover: Leftover) -> None:
    """Remove a leftover, unless it is another by now."""
    path = root / leftover.place
    with suppress(FileNotFoundError):
        if _describe(root, path, leftover.name) != leftover:
            raise changed(str(path))
    remove_if_abandoned(path)
    if os.path.lexists(path):
        raise StorageError("could not be removed", where=str(path), hint="check its owner and mode")
