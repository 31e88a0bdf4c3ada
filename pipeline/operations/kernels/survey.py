"""The kernel of a survey: a chunk of each delta in, what a method must know of whole tensors out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
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
from pipeline.tensors.fusion_select import Histogram, Lows, Rank


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
    """For each job and delta how many elements have which upper bits of magnitude."""

    def __init__(self, jobs: int, deltas: int) -> None:
        self.bins: list[list[Histogram]] = [
            [np.zeros(HIGH_BINS, np.uint32) for _ in range(deltas)] for _ in range(jobs)
        ]
        self._lock = threading.Lock()

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        for number, tensor in enumerate(chunk.item.added):
            found = np.zeros(HIGH_BINS, np.uint32)
            count_high(chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)], found)
            with self._lock:
                self.bins[chunk.part.job][number] += found


class LowCounts:
    """For each row and delta how many elements of two bins have which lower bits of magnitude.

    ranks: by job and delta; None where nothing is to be found.
    """

    def __init__(self, rows: int, ranks: Sequence[Sequence[tuple[Rank, Rank] | None]]) -> None:
        deltas = len(ranks[0]) if ranks else 0
        self.lows: list[list[tuple[Lows, Lows] | None]] = [[None] * deltas for _ in range(rows)]
        self._ranks = ranks

    def __call__(self, chunk: Chunk) -> None:
        """See `Measure`."""
        for number, tensor in enumerate(chunk.item.added):
            ranks = self._ranks[chunk.part.job][number]
            values = chunk.deltas.matrix[number, : thinned_of(tensor, chunk.part)]
            if ranks is None or not len(values):
                continue
            first = _lows(values, ranks[0].high)
            last = first if ranks[0].high == ranks[1].high else _lows(values, ranks[1].high)
            self.lows[chunk.part.row][number] = first, last


def _lows(values: Floats, high: int) -> Lows:
    found = np.zeros(LOW_BINS, np.uint32)
    count_low(values, high, found)
    return Lows.of(found)


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
