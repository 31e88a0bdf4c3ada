"""What every store may refuse or miss, in the same words wherever it happens."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import CorruptFile, OutputExists, StorageError


class Reason(NamedTuple):
    """Why something failed, and what to try next: what an error says."""

    what: str
    hint: str


def exists(where: str) -> OutputExists:
    """The error for an output whose name is taken."""
    return OutputExists(
        "already exists", where=where, hint="add --overwrite to replace it, or name another output"
    )


def changed(where: str) -> StorageError:
    """The error for what was to be removed as it had been seen, and is no longer so."""
    return StorageError(
        "has changed since it was listed: it is left alone",
        where=where,
        hint="another run may be writing there: look again, then run the command again",
    )


def overtaken(where: str) -> OutputExists:
    """The error for an output that another run has published while this one was at work."""
    return OutputExists(
        "another run has published there, or begun to, while this one did",
        where=where,
        hint="run this again with --overwrite if it is still wanted",
    )


def truncated(where: str, *, end: int, wanted: int) -> CorruptFile:
    """The error for a blob of `end` bytes that should have `wanted` at least."""
    return CorruptFile(
        f"ends at byte {end}, expected at least {wanted}",
        where=where,
        hint="it is truncated: fetch it again",
    )
