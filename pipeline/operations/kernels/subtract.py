"""The kernel of compute: a chunk of post and of base in, a chunk of the delta out, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.checkpoints.alignment import Pair
from pipeline.checkpoints.kept_digests import KeptDigests
from pipeline.deltas.chunks import ChunkEncoder
from pipeline.deltas.format import BASE, POST, STORED
from pipeline.deltas.manifest import TensorRecord
from pipeline.engine.plan import Plan, Slice
from pipeline.operations.kernels.findings import Findings
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Arithmetic, Operand
from pipeline.tensors.dtypes import Bytes, DType
from pipeline.tensors.fingerprint import fold_tensor
from pipeline.tensors.norms import Norms, measure_into
from pipeline.tensors.norms import fold as fold_norms


@dataclass
class SubtractKernel:
    """One worker's kernel: post and base in, the stored chunk out, corrections to the tail.

    known: of `BASE` and of `POST`.
    """

    pairs: Sequence[Pair]
    stored: Sequence[DType]
    found: Findings
    known: Mapping[int, KeptDigests]
    arithmetic: Arithmetic
    encode: ChunkEncoder

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        post, base = inputs
        pair = self.pairs[part.job]
        digests = self.found.tables.digests[part.row]
        if len(base):  # else rows that only post has
            self.known[BASE].digest_into(digests[BASE], pair.name, part.chunk, base)
        self.known[POST].digest_into(digests[POST], pair.name, part.chunk, post)
        corrections = None
        if pair.post.entry.dtype.is_float:
            after = Operand(post, pair.post.entry.dtype)
            before = Operand(base, pair.base.entry.dtype)
            found = self.arithmetic.subtract(after, before, Operand(out, self.stored[part.job]))
            corrections = found.lost
            counts = (found.changed, len(corrections.rest_at), len(corrections.lost_at))
            measure_into(self.found.norms[part.row], after, before, found.squares)
        else:
            out[:] = post
            counts = (_differing(post, base, pair), 0, 0)
        self.found.counts[part.row] = counts
        return self.encode(part.row, out, self.stored[part.job], corrections)


def describe_difference(
    found: Findings, plan: Plan, pairs: Sequence[Pair], stored: Sequence[DType]
) -> list[TensorRecord]:
    """What the manifest says of each tensor, once the walk is done. stored: their formats."""
    return [
        _record(found, pair, dtype, plan.rows_of(job))
        for job, (pair, dtype) in enumerate(zip(pairs, stored, strict=True))
    ]


def _record(found: Findings, pair: Pair, stored: DType, rows: slice) -> TensorRecord:
    post, base = pair.post.entry, pair.base.entry
    digests = found.tables.digests[rows]
    base_chunks = -(-base.count // CHUNK_ELEMENTS)
    changed, remainders, exceptions = (int(total) for total in found.counts[rows].sum(axis=0))
    norms = fold_norms(found.norms[rows]) if post.dtype.is_float else Norms()
    return TensorRecord(
        name=pair.name,
        shape=post.shape,
        base_shape=base.shape,
        stored=stored,
        base=base.dtype,
        post=post.dtype,
        changed=changed,
        remainders=remainders,
        exceptions=exceptions,
        base_digest=fold_tensor(base.dtype, base.shape, digests[:base_chunks, BASE]),
        post_digest=fold_tensor(post.dtype, post.shape, digests[:, POST]),
        stored_digest=fold_tensor(stored, post.shape, digests[:, STORED]),
        delta_l2=norms.delta_l2,
        base_l2=norms.base_l2,
        delta_max=norms.delta_max,
    )


def _differing(post: Bytes, base: Bytes, pair: Pair) -> int:
    """How many elements of a carried tensor differ or are new; all of them if the dtype does."""
    ours, theirs = pair.post.entry.dtype, pair.base.entry.dtype
    count, known = len(post) // ours.itemsize, len(base) // theirs.itemsize
    if ours != theirs:
        return count
    same = np.count_nonzero(post.view(ours.bits)[:known] == base.view(ours.bits))
    return count - int(same)
