"""The kernel of apply: a chunk of the new base and of each delta in, a chunk of the result out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.deltas.chunks import ChunkDecoder
from pipeline.deltas.delta import Delta
from pipeline.deltas.format import BASE, POST
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Slice
from pipeline.errors import CorruptFile, OtherCheckpoint, PipelineError
from pipeline.operations.fit import Fitted
from pipeline.tensors.arithmetic import Arithmetic, Corrections, Operand, Term
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into
from pipeline.tensors.norms import fold, measure_into


class NotTheSameBase(PipelineError):
    """A chunk of the base differs from the one that the delta was made on."""


@dataclass(frozen=True)
class Found:
    """What the walk finds out about each chunk; rows are written by one worker each.

    base, result: digests. distance: see `tensors.norms`, of new base - old base, if the old one is read.
    """

    base: NDArray[np.uint8]
    result: NDArray[np.uint8]
    nonfinite: NDArray[np.int64]
    distance: NDArray[np.float64]

    @property
    def base_distance(self) -> float | None:
        """|new base - old base| / |old base|, None where that is no number."""
        norms = fold(self.distance)
        if norms.delta_l2 is None or not norms.base_l2:
            return None
        return norms.delta_l2 / norms.base_l2

    @classmethod
    def empty(cls, rows: int) -> Found:
        """Tables for `rows` chunks."""
        digests = np.zeros((2, rows, DIGEST_BYTES), np.uint8)
        return cls(digests[0], digests[1], np.zeros(rows, np.int64), np.zeros((rows, 3)))


@dataclass
class AddKernel:
    """One worker's kernel: new base, stored deltas and corrections in, the result out."""

    tensors: Sequence[Fitted]
    deltas: Sequence[Delta]
    scales: Sequence[float]
    found: Found
    arithmetic: Arithmetic
    decoders: Sequence[ChunkDecoder]
    same_base: bool

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        item = self.tensors[part.job]
        base, old = inputs[:2]
        if len(old):
            self._measure(item, part, base, old)
        if len(base):  # else rows that only a delta has
            digest_into(self.found.base[part.row], base.data)
        if self.same_base and not np.array_equal(
            self.found.base[part.row], item.stored[0].digests[part.chunk, BASE]
        ):
            raise NotTheSameBase(f"{item.result.name} differs")
        if item.result.dtype.is_float:
            self._add(item, part, inputs, out)
        else:
            self._carry(item, part, inputs, out)
        digest_into(self.found.result[part.row], out.data)
        if self.same_base and not np.array_equal(
            self.found.result[part.row], item.stored[0].digests[part.chunk, POST]
        ):
            raise CorruptFile(
                f"{item.result.name} does not come out as post's, bit for bit",
                where=self.deltas[0].location,
                hint="the delta's corrections are damaged: fetch or compute it again",
            )
        return b""

    def _measure(self, item: Fitted, part: Slice, base: Bytes, old: Bytes) -> None:
        """How far the new base is from the old one. Raises OtherCheckpoint if that is another."""
        found = np.empty(DIGEST_BYTES, np.uint8)
        digest_into(found, old.data)
        if not np.array_equal(found, item.stored[0].digests[part.chunk, BASE]):
            raise OtherCheckpoint(
                f"{item.result.name} is not that of the base of {self.deltas[0].location}",
                where="--old-base",
                hint="see `cli.py inspect` for the base that the delta was made on",
            )
        if item.base.dtype.is_float and len(old) // item.stored[0].record.base.itemsize <= part.count:
            before = Operand(old, item.stored[0].record.base)
            measure_into(self.found.distance[part.row], Operand(base, item.base.dtype), before)

    def _add(self, item: Fitted, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> None:
        result = Operand(out, item.result.dtype)
        parts = list(self._terms(item, part, inputs))
        self.found.nonfinite[part.row] = self.arithmetic.add(
            Operand(inputs[0], item.base.dtype), [term for term, _ in parts], result
        )
        if self.same_base:
            _, exceptions = parts[0]
            result.bits[exceptions.lost_at] = exceptions.lost

    def _terms(
        self, item: Fitted, part: Slice, inputs: Sequence[Bytes]
    ) -> Iterator[tuple[Term, Corrections]]:
        """Each delta's share in the sum, and its corrections, checked against its digest."""
        for stored, scale, values, corrections in self._decoded(item, part, inputs):
            record = stored.record
            term = Term(
                Operand(values, record.stored),
                scale,
                corrections.rest_at,
                corrections.rest,
                record.width,
            )
            yield term, corrections

    def _decoded(
        self, item: Fitted, part: Slice, inputs: Sequence[Bytes]
    ) -> Iterator[tuple[StoredTensor, float, Bytes, Corrections]]:
        """Each delta's chunk, but for those that end before it: the new base has rows they know not."""
        parts = zip(item.stored, self.scales, self.decoders, inputs[2::2], inputs[3::2], strict=True)
        for stored, scale, decode, values, rest in parts:
            if part.chunk < len(stored.digests):
                yield stored, scale, *decode(stored, part.chunk, values, rest)

    def _carry(self, item: Fitted, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> None:
        """The new base's values, under those of each delta that changed the tensor."""
        if item.result.dtype == item.base.dtype:
            out[: len(inputs[0])] = inputs[0]
        for stored, _, values, _ in self._decoded(item, part, inputs):
            if stored.record.changed and stored.record.post == item.result.dtype:
                out[: len(values)] = values
