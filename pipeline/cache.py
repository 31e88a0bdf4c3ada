"""Files that a process leaves in the user's own cache for the next, and never trusts to be whole.

The first bytes of each are the digest of the rest. It is put in place by one rename, so runs at the same
time do not disturb each other. One that is damaged, is not the user's own, or can't be read counts as
not there, and one that can't be written is no error: what a cache lacks is made again.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

UNUSED_S = 90 * 24 * 3600

_DIGEST_BYTES = 32


def cache_folder(*names: str) -> Path:
    """Our folder in the user's cache, or one in it."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().joinpath("paramdelta", *names)


def read_cached(path: Path, *, most_bytes: int | None = None) -> bytes | None:
    """The content that `write_cached` left at `path`; None if there is nothing to be relied on.

    most_bytes: of the file; a larger one is not read.
    """
    try:
        found = path.stat()
        if found.st_uid != os.getuid() or (most_bytes is not None and found.st_size > most_bytes):
            return None  # somebody else's: it may say what it likes
        data = path.read_bytes()
    except (OSError, AttributeError):  # no getuid, no owners
        return None
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if blake3(content).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # it is in use: see `forget_unused`
    return content


def write_cached(path: Path, content: bytes) -> None:
    """Leave `content` at `path`, if the disk lets us."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")  # `secrets` would load OpenSSL
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.write_bytes(blake3(content).digest() + content)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()


def forget_unused(folder: Path, pattern: str) -> None:
    """Of the files in `folder` called as `pattern`, remove those not read or written for `UNUSED_S`."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > UNUSED_S:
                path.unlink()
