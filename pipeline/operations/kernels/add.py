"""The kernel of apply: a chunk of the new base and of each addend in, a chunk of the result out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.deltas.format import BASE, POST
from pipeline.engine.plan import Slice
from pipeline.errors import CorruptFile, OtherCheckpoint, PipelineError
from pipeline.operations.addends.addend import AddedTensor, Addend, Decoder
from pipeline.operations.fit import Fitted
from pipeline.tensors.arithmetic import Arithmetic, Corrections, Operand, Term
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into
from pipeline.tensors.norms import fold, measure_into


class NotTheSameBase(PipelineError):
    """A chunk of the base differs from the one that the addend was made on."""


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """A chunk of an addend: its values, and what they lost."""

    tensor: AddedTensor
    scale: float
    values: Bytes
    corrections: Corrections

    @property
    def term(self) -> Term:
        """Its share in the sum."""
        record, lost = self.tensor.record, self.corrections
        stored = Operand(self.values, record.stored)
        return Term(stored, self.scale, lost.rest_at, lost.rest, record.width)


@dataclass
class AddKernel:
    """One worker's kernel: new base and what the decoders take in, the result out."""

    tensors: Sequence[Fitted]
    addends: Sequence[Addend]
    scales: Sequence[float]
    found: Found
    arithmetic: Arithmetic
    decoders: Sequence[Decoder]
    same_base: bool

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        item = self.tensors[part.job]
        base, old = inputs[:2]
        decoded = list(self._decoded(item, part, inputs))
        if len(old):
            self._measure(item, part, base, old)
        if len(base):  # else rows that only an addend has
            digest_into(self.found.base[part.row], base.data)
        if self.same_base and not self._matches(self.found.base, item, part, BASE):
            raise NotTheSameBase(f"{item.result.name} differs")
        if item.result.dtype.is_float:
            self._add(item, part, base, decoded, out)
        else:
            _carry(item, base, decoded, out)
        digest_into(self.found.result[part.row], out.data)
        if self.same_base and not self._matches(self.found.result, item, part, POST):
            raise CorruptFile(
                f"{item.result.name} does not come out as post's, bit for bit",
                where=self.addends[0].location,
                hint="the delta's corrections are damaged: fetch or compute it again",
            )
        return b""

    def _decoded(self, item: Fitted, part: Slice, inputs: Sequence[Bytes]) -> Iterator[Decoded]:
        """Each addend's chunk, but for those that end before it: the new base has rows they know not."""
        parts = zip(item.added, self.scales, self.decoders, inputs[2::2], inputs[3::2], strict=True)
        for tensor, scale, decode, first, second in parts:
            if part.chunk < len(tensor.digests):
                yield Decoded(tensor, scale, *decode(item.result.name, part.chunk, first, second))

    def _matches(self, found: NDArray[np.uint8], item: Fitted, part: Slice, side: int) -> bool:
        """Whether what was digested here is that side's of the one addend that there is."""
        return np.array_equal(found[part.row], item.added[0].digests[part.chunk, side])

    def _measure(self, item: Fitted, part: Slice, base: Bytes, old: Bytes) -> None:
        """How far the new base is from the old one. Raises OtherCheckpoint if that is another."""
        found = np.empty(DIGEST_BYTES, np.uint8)
        digest_into(found, old.data)
        first = item.added[0]
        if not np.array_equal(found, first.digests[part.chunk, BASE]):
            raise OtherCheckpoint(
                f"{item.result.name} is not that of the base of {self.addends[0].location}",
                where="--old-base",
                hint="see `cli.py inspect` for the base that the delta was made on",
            )
        if item.base.dtype.is_float and len(old) // first.record.base.itemsize <= part.count:
            before = Operand(old, first.record.base)
            measure_into(self.found.distance[part.row], Operand(base, item.base.dtype), before)

    def _add(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], out: Bytes
    ) -> None:
        result = Operand(out, item.result.dtype)
        self.found.nonfinite[part.row] = self.arithmetic.add(
            Operand(base, item.base.dtype), [each.term for each in decoded], result
        )
        if self.same_base:
            exceptions = decoded[0].corrections
            result.bits[exceptions.lost_at] = exceptions.lost


def _carry(item: Fitted, base: Bytes, decoded: Sequence[Decoded], out: Bytes) -> None:
    """The new base's values, under those of each addend that changed the tensor."""
    if item.result.dtype == item.base.dtype:
        out[: len(base)] = base
    for each in decoded:
        if each.tensor.changed and each.tensor.record.post == item.result.dtype:
            out[: len(each.values)] = each.values
