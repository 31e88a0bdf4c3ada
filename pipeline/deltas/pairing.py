"""The tensors of two checkpoints whose difference is a delta, stored or not."""

from __future__ import annotations

from pipeline.checkpoints.alignment import Pair, check_vocabulary, pair_up
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.format import is_reserved
from pipeline.errors import NotACheckpoint


def pair_for_delta(base: Checkpoint, post: Checkpoint) -> list[Pair]:
    """Each tensor of `post` with its counterpart in `base`, in the order of post's files.

    Raises Mismatch where they do not fit, and NotACheckpoint for names that deltas keep.
    """
    pairs = pair_up(base, post)
    where = f"{base.location} and {post.location}"
    check_vocabulary(base.read_tokenizer(), post.read_tokenizer(), where=where)
    if reserved := [pair.name for pair in pairs if is_reserved(pair.name)]:
        raise NotACheckpoint(
            f"a tensor can't be called {reserved[0]!r}: safetensors and deltas keep such names "
            "for themselves",
            where=post.location,
        )
    return pairs
