"""The digests by which the Hub lists files: SHA-256 for those in LFS, git's own for the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NewType

from pipeline.errors import CorruptFile
from pipeline.storage.base import Buffer
from pipeline.units import MIB

Digest = NewType("Digest", str)  # in hexadecimal; its length tells which of the two

TRIES = 3  # of a file that came damaged
_SHA256_DIGITS = 64


def matches(digest: Digest, nbytes: int, pieces: Iterable[Buffer]) -> bool:
    """Whether `pieces`, of `nbytes` together, are the content that the Hub lists by `digest`."""
    found = hashlib.sha256() if len(digest) == _SHA256_DIGITS else hashlib.sha1(b"blob %d\0" % nbytes)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest() == digest


def file_matches(digest: Digest, path: Path) -> bool:
    """The same for a file, which is read once."""
    buffer = memoryview(bytearray(MIB))
    with path.open("rb", buffering=0) as file:
        pieces = (buffer[:count] for count in iter(lambda: file.readinto(buffer), 0))
        return matches(digest, path.stat().st_size, pieces)


def damaged(where: str) -> CorruptFile:
    """The error for a file that came damaged each time."""
    return CorruptFile(
        "what comes is not what the Hub lists: its digest is another one",
        where=where,
        hint="check for a proxy that changes what it passes on",
    )
