"""The kernel of apply: a chunk of the new base and of each addend in, a chunk of the result out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import is_absent
from pipeline.checkpoints.kept_digests import KeptDigests, Rows
from pipeline.deltas.format import BASE, POST
from pipeline.engine.plan import Slice
from pipeline.errors import CorruptFile, OtherCheckpoint, PipelineError
from pipeline.operations.addends.addend import AddedTensor, Addend, Decoder, MakeArithmetic
from pipeline.operations.fit import Fitted
from pipeline.operations.kernels.overflow import count_overflows
from pipeline.operations.kernels.rows import settle_rows
from pipeline.operations.lineage.movement import Movements
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Arithmetic, Corrections, Operand, Term
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into
from pipeline.tensors.movements import correlate_into
from pipeline.tensors.norms import fold, measure_into

# Of a tensor's chunks, every so many are measured for how much the result differs from the base: all of
# them would cost a sixth of the whole work, and say the same.
CHANGE_STEP = 8


class NotTheSameBase(PipelineError):
    """A chunk of the base differs from the one that the addend was made on."""


@dataclass(frozen=True)
class Found:
    """What the walk finds out about each chunk; rows are written by one worker each.

    base, result: digests. distance: see `tensors.norms`, of new base - old base, if the old one is read.
    overflows: those of `nonfinite` whose inputs were finite. change, way: see `Movements`.
    """

    base: NDArray[np.uint8]
    result: NDArray[np.uint8]
    nonfinite: NDArray[np.int64]
    overflows: NDArray[np.int64]
    distance: NDArray[np.float64]
    change: NDArray[np.float64]
    way: NDArray[np.float64]

    @property
    def movements(self) -> Movements:
        """What the walk measures of the bases, the first addend and the result."""
        return Movements(self.change, self.distance, self.way)

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
        counts, measured = np.zeros((2, rows), np.int64), np.zeros((3, rows, 3))
        return cls(digests[0], digests[1], *counts, *measured)


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


@dataclass(frozen=True, slots=True)
class Adding:
    """What all workers of a sum have in common.

    tensors: by job. known: of the new base, before it is read. same_base: whether a post is restored.
    """

    tensors: Sequence[Fitted]
    addends: Sequence[Addend]
    scales: Sequence[float]
    found: Found
    known: KeptDigests
    same_base: bool

    @property
    def recalled_bytes(self) -> int:
        """Of the models that are read, the bytes whose digests are known before."""
        return self.known.nbytes + sum(addend.recalled_bytes for addend in self.addends)

    def keep_digests(self, base: Callable[[], Mapping[str, Rows]]) -> None:
        """Keep those of all models, once the walk is done. base: those of the new base, by tensor.

        Raises CorruptFile if a model was changed meanwhile.
        """
        self.known.keep(base)
        for addend in self.addends:
            addend.keep_digests()


@dataclass
class AddKernel:
    """One worker's kernel: new base and what the decoders take in, the result out."""

    adding: Adding
    arithmetic: Arithmetic
    decoders: Sequence[Decoder]

    @classmethod
    def of(cls, adding: Adding, arithmetic: MakeArithmetic, *more: Any) -> Self:
        """A kernel with its own decoders. more: what only this kind takes."""
        decoders = [addend.decoder(arithmetic) for addend in adding.addends]
        return cls(adding, arithmetic(), decoders, *more)

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        adding, found = self.adding, self.adding.found
        item = adding.tensors[part.job]
        base, old = inputs[:2]
        decoded = list(self._decoded(item, part, inputs))
        if len(old):
            self._measure(item, part, base, old, decoded)
        if len(base):  # else rows that only an addend has
            adding.known.digest_into(found.base[part.row], item.result.name, part.chunk, base)
        if adding.same_base and not self._matches(found.base, item, part, BASE):
            raise NotTheSameBase(f"{item.result.name} differs")
        if item.result.dtype.is_float:
            self._add(item, part, base, decoded, out)
            if not adding.same_base and len(base):
                self._measure_change(item, part, base, out)
        else:
            _carry(item, base, decoded, out)
        digest_into(found.result[part.row], out.data)
        if adding.same_base and not self._matches(found.result, item, part, POST):
            raise CorruptFile(
                f"{item.result.name} does not come out as post's, bit for bit",
                where=adding.addends[0].location,
                hint="the delta's corrections are damaged: fetch or compute it again",
            )
        return b""

    def _decoded(self, item: Fitted, part: Slice, inputs: Sequence[Bytes]) -> Iterator[Decoded]:
        """Each addend's chunk, but for those that end before it: the new base has rows they know not."""
        parts = zip(
            item.added, self.adding.scales, self.decoders, inputs[2::2], inputs[3::2], strict=True
        )
        for tensor, scale, decode, first, second in parts:
            if part.chunk < len(tensor.digests):
                if is_absent(tensor.record.base_shape, tensor.record.shape):
                    scale = 1.0  # not a difference: post's own values, carried whole
                yield Decoded(tensor, scale, *decode(item.result.name, part.chunk, first, second))

    def _matches(self, found: NDArray[np.uint8], item: Fitted, part: Slice, side: int) -> bool:
        """Whether what was digested here is that side's of the one addend that there is."""
        return np.array_equal(found[part.row], item.added[0].digests[part.chunk, side])

    def _measure_change(self, item: Fitted, part: Slice, base: Bytes, out: Bytes) -> None:
        """How much the result differs from the new base: one chunk for itself and those behind it."""
        if part.chunk % CHANGE_STEP:
            return
        before = Operand(base, item.base.dtype)
        after = Operand(out[: len(before.bits) * item.result.dtype.itemsize], item.result.dtype)
        row = self.adding.found.change[part.row]
        measure_into(row, after, before)
        row[:2] *= min(CHANGE_STEP, -(-item.result.count // CHUNK_ELEMENTS) - part.chunk)

    def _measure(
        self, item: Fitted, part: Slice, base: Bytes, old: Bytes, decoded: Sequence[Decoded]
    ) -> None:
        """How far the new base is from the old one. Raises OtherCheckpoint if that is another."""
        found = np.empty(DIGEST_BYTES, np.uint8)
        digest_into(found, old.data)
        first = item.added[0]
        if not np.array_equal(found, first.digests[part.chunk, BASE]):
            raise OtherCheckpoint(
                f"{item.result.name} is not that of the base of {self.adding.addends[0].location}",
                where="--old-base",
                hint="see `cli.py inspect` for the base that the delta was made on",
            )
        if item.base.dtype.is_float and len(old) // first.record.base.itemsize <= part.count:
            before = Operand(old, first.record.base)
            after = Operand(base, item.base.dtype)
            measure_into(self.adding.found.distance[part.row], after, before)
            if decoded:  # of what is left out nothing is decoded
                correlate_into(self.adding.found.way[part.row], after, before, decoded[0].term)

    def _add(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], out: Bytes
    ) -> None:
        result, found = Operand(out, item.result.dtype), self.adding.found
        self._put_together(item, part, base, decoded, out)
        if item.rules:
            found.nonfinite[part.row] += self._settle_rows(item, part, base, decoded, result)
        if found.nonfinite[part.row]:
            before, terms = Operand(base, item.base.dtype), [each.term for each in decoded]
            found.overflows[part.row] = count_overflows(before, terms, result)
        whole = item.is_whole and len(decoded) == 1
        if self.adding.same_base or (whole and decoded[0].tensor.record.post == result.dtype):
            exceptions = decoded[0].corrections
            result.bits[exceptions.lost_at] = exceptions.lost

    def _put_together(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], out: Bytes
    ) -> None:
        """Fill `out` from base and deltas, by their sum, and count what is not finite."""
        self.adding.found.nonfinite[part.row] = self.arithmetic.add(
            Operand(base, item.base.dtype),
            [each.term for each in decoded],
            Operand(out, item.result.dtype),
        )

    def _settle_rows(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], result: Operand
    ) -> int:
        numbers = {id(tensor): number for number, tensor in enumerate(item.added)}
        terms = [(numbers[id(each.tensor)], each.term) for each in decoded]
        width = math.prod(item.result.shape[1:])
        before = Operand(base, item.base.dtype)
        return settle_rows(self.arithmetic, item.rules, width, part, before, terms, result)


def _carry(item: Fitted, base: Bytes, decoded: Sequence[Decoded], out: Bytes) -> None:
    """The new base's values, under those of each addend that changed the tensor."""
    if item.result.dtype == item.base.dtype:
        out[: len(base)] = base
    for each in decoded:
        if each.tensor.changed and each.tensor.record.post == item.result.dtype:
            out[: len(each.values)] = each.values
