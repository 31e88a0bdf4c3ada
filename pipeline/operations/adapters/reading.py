"""A delta's tensor read chunk by chunk: as float32 differences, or as what it makes of its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.delta import Delta
from pipeline.deltas.format import BASE, POST
from pipeline.deltas.stored import StoredTensor
from pipeline.errors import CorruptFile, OtherCheckpoint, UsageError
from pipeline.operations.addends.addend import read_chunk
from pipeline.tensors.arithmetic import (
    CHUNK_ELEMENTS,
    Corrections,
    CpuArithmetic,
    Operand,
    Term,
    sum_bytes,
)
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into


@dataclass(frozen=True)
class DeltaValues:
    """What the tensors of a delta hold."""

    delta: Delta

    @property
    def scratch_bytes(self) -> int:
        """What reading takes beside what it gives: a decoder's, an arithmetic's, and a chunk's parts."""
        dtypes = self.delta.dtypes
        widest = max(dtype.itemsize for dtype in dtypes)
        return self.delta.decoding_bytes + sum_bytes(dtypes) + 4 * CHUNK_ELEMENTS * widest

    def matrix(self, name: str) -> NDArray[np.float32]:
        """A matrix of differences, whole. Raises UsageError if one of them is not finite in float32."""
        stored = self.delta.tensors[name]
        record = stored.record
        found = np.empty(stored.count, np.float32)
        arithmetic = CpuArithmetic()
        room = np.empty(CHUNK_ELEMENTS * record.stored.itemsize, np.uint8)
        for start, values, lost in self._chunks(stored):
            term = Term(Operand(values, record.stored), 1.0, lost.rest_at, lost.rest, record.width)
            total, _ = arithmetic.combine([term], Operand(room[: len(values)], record.stored))
            kind = np.float32 if total.dtype.itemsize == 4 else np.float64
            with np.errstate(over="ignore"):
                part = total.data.view(kind).astype(np.float32, copy=False)
            if not np.isfinite(part).all():
                raise UsageError(
                    f"{name!r} has differences that are not finite in float32",
                    where=self.delta.location,
                    hint="leave it out by --skip",
                )
            found[start : start + len(part)] = part
        return found.reshape(record.shape)

    def post(self, name: str, base: Checkpoint) -> Iterator[Bytes]:
        """Post's values, bit for bit, a chunk after the other; of a combination what it makes of base.

        Raises OtherCheckpoint if `base` is not the delta's own.
        """
        stored = self.delta.tensors[name]
        record = stored.record
        arithmetic, digest = CpuArithmetic(), np.empty(DIGEST_BYTES, np.uint8)
        for chunk, (_, values, lost) in enumerate(self._chunks(stored)):
            before = read_chunk(base, name, chunk)
            digest_into(digest, before.data)
            if len(before) and not np.array_equal(digest, stored.digests[chunk, BASE]):
                raise OtherCheckpoint(
                    f"{name} is not that of the base of {self.delta.location}",
                    where=base.location,
                    hint="see `cli.py inspect` for the base that the delta was made on",
                )
            count = len(values) // record.stored.itemsize
            result = Operand(np.empty(count * record.post.itemsize, np.uint8), record.post)
            term = Term(Operand(values, record.stored), 1.0, lost.rest_at, lost.rest, record.width)
            arithmetic.add(Operand(before, record.base), [term], result)
            result.bits[lost.lost_at] = lost.lost
            digest_into(digest, result.data.data)
            is_known = record.post_digest is not None  # a combination is of no post
            if is_known and not np.array_equal(digest, stored.digests[chunk, POST]):
                raise CorruptFile(f"{name} does not come out as post's", where=self.delta.location)
            yield result.data

    def _chunks(self, stored: StoredTensor) -> Iterator[tuple[int, Bytes, Corrections]]:
        """For each chunk its first element, its stored values, and what they lost."""
        decode = self.delta.decoder()
        inputs = self.delta.inputs(stored, 0)
        for chunk, start in enumerate(range(0, stored.count, CHUNK_ELEMENTS)):
            parts = []
            for each in inputs:
                span = each.span(start, start + CHUNK_ELEMENTS)
                data = np.empty(span.nbytes if span else 0, np.uint8)
                if span:
                    self.delta.reader.read_into(span.offset, data.data)
                parts.append(data)
            yield start, *decode(stored, chunk, *parts)
