"""Partials: what grows under a hidden name (`.NAME.partial-XXXXXXXX`) until it takes its place.

A partial is locked while its run lives. A run that starts the same NAME removes those whose lock it can
have, for they are a killed run's. Where the file system has no locks, nothing is ever removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial-"
_HIDDEN = re.compile(rf"\.(.+){re.escape(PARTIAL)}[0-9a-f]{{8}}")


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other run will choose."""
    return path.with_name(f".{path.name}{PARTIAL}{os.urandom(4).hex()}")  # `secrets` would load OpenSSL


class Partial:
    """A file or folder in the making, locked until `close`."""

    def __init__(self, final: Path, make: Callable[[Path], None]) -> None:
        """Have `make` begin a partial of `final`. Raises OSError."""
        self._lock: int | None = None
        while True:
            self.path = partial_name(final)
            make(self.path)
            try:
                self._lock = _lock(self.path)
            except (BlockingIOError, FileNotFoundError):
                continue  # a run that starts just now took it for abandoned: it was not locked yet
            return

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()


def remove_abandoned(final: Path) -> None:
    """Remove the partials of `final` whose runs have ended."""
    with suppress(OSError):
        for path in list(final.parent.iterdir()):
            if _final_name(path.name) == final.name:
                remove_if_abandoned(path)


def remove_if_abandoned(path: Path) -> None:
    """Remove the partial at `path`, if its run has ended and the system lets us."""
    with suppress(OSError):  # held, gone, or not ours to remove
        lock = _lock(path)
        if lock is not None:
            discard(path)
            os.close(lock)


def is_abandoned(path: Path) -> bool:
    """Whether the run of the partial at `path` has ended; False where there are no locks to tell."""
    with suppress(OSError):
        lock = _lock(path)
        if lock is not None:
            os.close(lock)
            return True
    return False


def find_partials(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The partials below `folder`, each with what it would have become; sorted by the latter's name."""
    for where, folders, files in os.walk(folder):
        found = {name: final for name in (*folders, *files) if (final := _final_name(name))}
        for name in sorted(found, key=lambda name: found[name]):
            yield Path(where, name), Path(where, found[name])
        folders[:] = sorted(name for name in folders if PARTIAL not in name)


def _final_name(name: str) -> str | None:
    """What a partial of that name would have become; None if it is no partial."""
    match = _HIDDEN.fullmatch(name)
    return match[1] if match else None


def discard(path: Path) -> None:
    """Remove a file or a folder as far as that can be done: it is hidden, and of no more use."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path`, None where there are no locks.

    Raises BlockingIOError if another has it, FileNotFoundError if it went away meanwhile.
    """
    held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(held), path.lstat()):
            raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(held)
        raise
    except OSError:
        os.close(held)
        return None
    return held
