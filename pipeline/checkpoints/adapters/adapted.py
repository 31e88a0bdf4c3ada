"""A base with an adapter merged into it, as a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.storage.base import Reader
from pipeline.tensors.fingerprint import Digest, digest_bytes


@dataclass(frozen=True)
class AdaptedCheckpoint(Checkpoint):
    """A base with an adapter merged into it. Closing it leaves the base open.

    notes: what people should know of it.
    """

    own: Sequence[Reader] = ()
    notes: Sequence[str] = ()

    @property
    def identity(self) -> Digest:
        """Of base and adapter: the commit of one alone does not say what the merged weights are."""
        return digest_bytes("\0".join(f"{r.name} {r.nbytes} {r.version}" for r in self.readers).encode())

    def close(self) -> None:
        """Close the adapter's files."""
        for reader in self.own:
            reader.close()


def notes_of(post: Checkpoint) -> Sequence[str]:
    """What people should know of a post that `open_post` opened."""
    return post.notes if isinstance(post, AdaptedCheckpoint) else ()
