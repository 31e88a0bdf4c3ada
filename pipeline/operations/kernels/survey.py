"""The kernel of a survey: a chunk of each delta in, what a method must know of whole tensors out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics import widen
from pipeline.deltas.corrections import NO_CORRECTIONS
from pipeline.engine.plan import Slice
from pipeline.operations.fit import Fitted
from pipeline.operations.kernels.deltas import Deltas, Edges, thinned_of
from pipeline.operations.kernels.fuse import models
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Operand
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fusion import (
    HIGH_BINS,
    LOW_BINS,
    Floats,
    count_high,
    count_low,
    sum_products,
    sum_sizes,
)
from pipeline.tensors.fusion_select import (
    MOST_OTHERS,
    Banded,
    Kept,
    Lows,
    Rank,
    Tally,
    Totals,
    ends_of,
    find_band,
    nothing_kept,
)

LIST_BYTES = 128 << 20  # of all tallies of a walk: beyond it chunks are counted again

Ranks = Sequence[tuple[Rank, Rank] | None]  # of one job: for each delta the bins of what ends it
LowPairs = list[tuple[Lows, Lows] | None]  # of one row: for each delta the counts in these bins


@dataclass(frozen=True)
class Chunk:
    """What is measured: the deltas of a chunk of `item`, and the base's values where they are read."""

    item: Fitted
    part: Slice
    deltas: Deltas
    edges: Edges
    base: Floats | None


class Measure(Protocol):
    """Notes what is to be known of a chunk, in rows of its own or under a lock."""

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`. The chunk's deltas may be changed."""


@dataclass
class SurveyKernel:
    """One worker's kernel. done: for each row, whether it is measured already."""

    items: Sequence[Fitted]
    deltas: Deltas
    measure: Measure
    done: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self._room = np.empty(CHUNK_ELEMENTS, np.float32)

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        if self.done[part.row]:
            return b""  # the block is done again, for another slice of it came damaged over the wire
        item, own = self.items[part.job], None
        edges = self.deltas.read_edges(item, part, inputs)
        self.deltas.decode(item, part, inputs)
        if len(inputs[0]):
            own = widen(Operand(inputs[0], item.base.dtype), NO_CORRECTIONS, self._room)
        with np.errstate(all="ignore"):
            self.measure(Chunk(item, part, self.deltas, edges, own))
        self.done[part.row] = True
        return b""


class HighCounts:
    """For each job and delta how many elements have which upper bits of magnitude.

    tallies: for each row and delta all of its magnitudes, where they can be kept, in `LIST_BYTES`.
    """

    def __init__(self, rows: int, jobs: int, deltas: int) -> None:
        self.bins: list[list[Totals]] = [
            [np.zeros(HIGH_BINS, np.int64) for _ in range(deltas)] for _ in range(jobs)
        ]
        self.tallies: list[list[Tally | None]] = [[None] * deltas for _ in range(rows)]
        self._room_bytes = LIST_BYTES
        self._lock = threading.Lock()

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        others = np.empty(MOST_OTHERS + 2, np.uint32)  # one too many is enough to know
        for number, tensor in enumerate(chunk.item.added):
            found = np.zeros(HIGH_BINS, np.uint32)
            values = chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)]
            count = count_high(values, found, others)
            tally = Tally.of(found, others[:count])
            with self._lock:
                self.bins[chunk.part.job][number] += found
                if tally and tally.nbytes <= self._room_bytes:
                    self._room_bytes -= tally.nbytes
                    self.tallies[chunk.part.row][number] = tally

    def lows(self, rows: slice, ranks: Ranks) -> list[LowPairs] | None:
        """What `LowCounts` would find in these rows of one job; None if they must be walked for it."""
        found: list[LowPairs] = []
        for row in self.tallies[rows]:
            pairs: LowPairs = []
            for tally, ends in zip(row, ranks, strict=True):
                if ends is not None and tally is None:
                    return None
                pairs.append(_pair(tally.lows, ends) if tally and ends else None)
            found.append(pairs)
        return found


class LowCounts:
    """For each row and delta how many elements of two bins have which lower bits of magnitude.

    ranks: by job and delta; None where nothing is to be found.
    """

    def __init__(self, rows: int, ranks: Sequence[Ranks]) -> None:
        deltas = len(ranks[0]) if ranks else 0
        self.lows: list[LowPairs] = [[None] * deltas for _ in range(rows)]
        self._ranks = ranks

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        for number, tensor in enumerate(chunk.item.added):
            ranks = self._ranks[chunk.part.job][number]
            values = chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)]
            if ranks is None or not len(values):
                continue
            self.lows[chunk.part.row][number] = _pair(partial(_lows, values), ranks)


class Bands:
    """For each job of a single chunk, and each delta, which magnitudes stay: all in one look.

    kept: by job and delta. found: likewise, with what `find_band` says of equals.
    """

    def __init__(self, kept: Sequence[Sequence[Kept]]) -> None:
        self.found: list[list[Banded]] = [[nothing_kept(1)] * len(each) for each in kept]
        self._kept = kept

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        nowhere = np.empty(1, np.uint32)
        for number, tensor in enumerate(chunk.item.added):
            kept = self._kept[chunk.part.job][number]
            values = chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)]
            bins = np.zeros(HIGH_BINS, np.uint32)
            count_high(values, bins, nowhere)
            if len(values) and (ends := ends_of(kept, bins)):
                lows = _pair(partial(_lows, values), ends)
                self.found[chunk.part.job][number] = find_band(kept, ends, [lows])


def _lows(values: Floats, high: int) -> Lows:
    found = np.zeros(LOW_BINS, np.uint32)
    count_low(values, high, found)
    return Lows.of(found)


def _pair(lows: Callable[[int], Lows], ends: tuple[Rank, Rank]) -> tuple[Lows, Lows]:
    first = lows(ends[0].high)
    return first, first if ends[0].high == ends[1].high else lows(ends[1].high)


class Masses:
    """For each row and delta the sum of sizes, of all elements and of those that chance keeps."""

    def __init__(self, rows: int, deltas: int) -> None:
        self.sums = np.zeros((rows, deltas, 2))

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        for number, tensor in enumerate(chunk.item.added):
            row = self.sums[chunk.part.row, number]
            row[0] = sum_sizes(chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)])
            row[1] = sum_sizes(chunk.deltas.thin(chunk.item, chunk.part, number, None, chunk.edges))


class Products:
    """For each row the inner products of all pairs: of the deltas, or of the models that slerp takes."""

    def __init__(self, rows: int, deltas: int) -> None:
        count = max(deltas, 2)
        self.sums = np.zeros((rows, count, count))

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        count = chunk.part.count
        vectors: Sequence[Floats] = [row[:count] for row in chunk.deltas.matrix]
        if chunk.base is not None:
            vectors = models(chunk.base, chunk.deltas.matrix[:, :count])
        for i, left in enumerate(vectors):
            for j, right in enumerate(vectors[: i + 1]):
                self.sums[chunk.part.row, i, j] = sum_products(left, right)
