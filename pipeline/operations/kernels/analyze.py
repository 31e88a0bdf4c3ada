"""The kernel of analyze: a chunk of each delta in, and of a base; figures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics import count_agreement, measure, sum_products, widen
from pipeline.analysis.tables import Item, Sketches, Tables, pairs_of
from pipeline.deltas.chunks import ChunkDecoder
from pipeline.deltas.corrections import NO_CORRECTIONS
from pipeline.engine.plan import Slice
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Operand
from pipeline.tensors.dtypes import F64, Bytes, DType, compute_dtype

Floats = NDArray[np.floating]


@dataclass
class AnalyzeKernel:
    """One worker's kernel. Inputs: two parts of each delta's chunk, then the base's. No output."""

    items: Sequence[Item]
    tables: Tables
    sketches: Sketches
    decoders: Sequence[ChunkDecoder]

    def __post_init__(self) -> None:
        self._rooms: dict[tuple[int, DType], Floats] = {}

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        if self.tables.done[part.row]:
            return b""  # the block is done again, for another slice of it came damaged over the wire
        item = self.items[part.job]
        values = [
            self._values(item, part, delta, inputs[2 * delta], inputs[2 * delta + 1])
            for delta in range(len(self.decoders))
        ]
        for delta, found in enumerate(values):
            if found is not None:
                self.tables.note(part.row, part.job, delta, item.seat, measure(found))
                self.sketches.add(part.job, delta, part.start, found)
        for number, (first, second) in enumerate(pairs_of(len(values))):
            left, right = values[first], values[second]
            if left is not None and right is not None and item.is_compared(first, second):
                self.tables.products[part.row, number] = sum_products(left, right)
                self.tables.note_agreement(part.job, number, count_agreement(left, right))
        if len(inputs[-1]) and item.base is not None:
            self._measure_base(part.row, Operand(inputs[-1], item.base.dtype), values)
        self.tables.done[part.row] = True
        return b""

    def _values(self, item: Item, part: Slice, delta: int, first: Bytes, second: Bytes) -> Floats | None:
        """One delta's values of a chunk, zeros for what is not counted; None if nothing of it is."""
        stored = item.stored[delta]
        if stored is None or part.chunk >= len(stored.digests):
            return None
        # Also what is not counted: a damaged chunk is damaged.
        data, corrections = self.decoders[delta](stored, part.chunk, first, second)
        length = min(item.span(delta) - part.start, CHUNK_ELEMENTS)
        if length <= 0:
            return None
        room = self._room(delta, stored.record.width)
        values: Floats = widen(Operand(data, stored.record.stored), corrections, room)[:length]
        item.clear(delta, part.start, values)
        return values

    def _measure_base(self, row: int, base: Operand, values: Sequence[Floats | None]) -> None:
        """Note the squares of the base's elements that each delta's belong to."""
        wide: Floats = widen(base, NO_CORRECTIONS, self._room(-1, compute_dtype(base.dtype)))
        sums: dict[int, float] = {}
        for delta, each in enumerate(values):
            if each is not None:
                count = len(each)
                if count not in sums:
                    sums[count] = sum_products(wide[:count], wide[:count])
                self.tables.base_squares[row, delta] = sums[count]

    def _room(self, slot: int, width: DType) -> Floats:
        """Room for a chunk's values; it is kept for the next chunk."""
        if (slot, width) not in self._rooms:
            kind = np.float64 if width == F64 else np.float32
            self._rooms[slot, width] = np.empty(CHUNK_ELEMENTS, kind)
        return self._rooms[slot, width]
