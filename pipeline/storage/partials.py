"""Partials: what grows under a hidden name (`.NAME.partial-XXXXXXXX`) until it takes its place.

A partial is locked while its run lives. A run that starts the same NAME removes those whose lock it can
have, for they are a killed run's. Where the file system has no locks, nothing is ever removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial-"


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other run will choose."""
    return path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")


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
    pattern = re.compile(re.escape(f".{final.name}{PARTIAL}") + "[0-9a-f]{8}")
    with suppress(OSError):
        for path in list(final.parent.iterdir()):
            if pattern.fullmatch(path.name):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    with suppress(OSError):  # held, gone, or not ours to remove
        lock = _lock(path)
        if lock is not None:
            discard(path)
            os.close(lock)


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
