"""The tensors of two checkpoints whose difference is a delta, stored or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.checkpoints.alignment import Pair, pair_up
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.meeting import NameNotes, bring_together
from pipeline.checkpoints.vocabulary_rows import AlignedBase, align_base
from pipeline.deltas.format import is_reserved
from pipeline.errors import NotACheckpoint


@dataclass(frozen=True)
class Pairing:
    """Base and post under common names, base's rows in post's order; notes: what that took.

    found: both as they lie.
    """

    found: tuple[Checkpoint, Checkpoint]
    post: Checkpoint
    aligned: AlignedBase
    notes: NameNotes
    pairs: Sequence[Pair]

    @property
    def base(self) -> Checkpoint:
        """As post sees it."""
        return self.aligned.base

    @classmethod
    def of(cls, base: Checkpoint, post: Checkpoint, *, reads: bool) -> Self:
        """What a delta of the two is made of. reads: see `align_base`. Raises what pairing raises."""
        ours, theirs, notes = bring_together(base, post)
        aligned = align_base(ours, theirs, reads=reads)
        pairs = _pair_for_delta(aligned.base, theirs)
        return cls((base, post), theirs, aligned, notes, pairs)


def _pair_for_delta(base: Checkpoint, post: Checkpoint) -> list[Pair]:
    """Each tensor of `post` with its counterpart in `base`, in the order of post's files.

    Raises Mismatch where they do not fit, and NotACheckpoint for names that deltas keep.
    """
    pairs = pair_up(base, post)
    if reserved := [pair.name for pair in pairs if is_reserved(pair.name)]:
        raise NotACheckpoint(
            f"a tensor can't be called {reserved[0]!r}: safetensors and deltas keep such names "
            "for themselves",
            where=post.location,
        )
    return pairs
