"""What the walk over deltas finds out, in tables that several workers fill.

Floats have a row for each chunk, written by one worker; counts are integers, which add up to the same in
any order. So nothing depends on how many workers there are.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.naming import Seat
from pipeline.analysis.report import GROUPS, Spectrum
from pipeline.analysis.sketch import Sketch, matrix_of
from pipeline.analysis.statistics import BINS, Sizes
from pipeline.checkpoints.header import Entry
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.manifest import TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

Ranges = Sequence[tuple[int, int]]  # (first, behind the last), ascending


@dataclass(frozen=True)
class Item:
    """One tensor name: its tensor in each delta, None where there is none, and in the measured base.

    lacking: of each delta's tensor, the elements of rows that base lacks among those that it has.
    """

    name: str
    seat: Seat
    stored: Sequence[StoredTensor | None]
    base: Entry | None
    lacking: Sequence[Ranges]

    def span(self, delta: int) -> int:
        """How many of the tensor's elements, the first ones, its base has, but for what is `lacking`."""
        stored = self.stored[delta]
        if stored is None or stored.record.carried:
            return 0
        return math.prod(stored.record.base_shape)

    def lacks(self, delta: int) -> int:
        """How many elements are `lacking`."""
        return sum(stop - first for first, stop in self.lacking[delta])

    def counted(self, delta: int) -> int:
        """How many elements are counted: those that base has."""
        return self.span(delta) - self.lacks(delta)

    def clear(self, delta: int, start: int, values: NDArray[np.floating]) -> None:
        """Set to zero what is `lacking` of `values`, which are the elements from `start` on."""
        ranges = self.lacking[delta]
        for first, stop in ranges[bisect_right(ranges, start, key=itemgetter(1)) :]:
            if first >= start + len(values):
                break
            values[max(first - start, 0) : stop - start] = 0

    def is_compared(self, first: int, second: int) -> bool:
        """Whether two deltas have the tensor in a form in which element stands against element."""
        one, other = self.stored[first], self.stored[second]
        if one is None or other is None or not self.counted(first):
            return False
        same = one.record.base_shape == other.record.base_shape and self.span(second) > 0
        return same and self.lacking[first] == self.lacking[second]


def lacking(record: TensorRecord, rows: BaseRows | None) -> Ranges:
    """The elements of rows that base lacks and that do not stand behind its own. rows: the delta's."""
    if rows is None or record.name not in rows.tensors:
        return ()
    width = math.prod(record.shape[1:])
    return [(first * width, stop * width) for first, stop in rows.order.absent]


def pairs_of(deltas: int) -> list[tuple[int, int]]:
    """Each pair of so many deltas, by their numbers."""
    return [(first, second) for first in range(deltas) for second in range(first + 1, deltas)]


@dataclass(frozen=True)
class Tables:
    """Tables of a run.

    squares, largest, base_squares: (chunks, deltas). products: (chunks, pairs). done: (chunks).
    counts: (jobs, deltas, 2), zeros and what is not finite. agreed: (jobs, pairs, 2), nonzero in both
    and of one sign. bins: (deltas, groups, BINS). spectra: by job and delta.
    """

    squares: NDArray[np.float64]
    largest: NDArray[np.float64]
    base_squares: NDArray[np.float64]
    products: NDArray[np.float64]
    counts: NDArray[np.int64]
    agreed: NDArray[np.int64]
    bins: NDArray[np.int64]
    done: NDArray[np.bool_]
    spectra: dict[tuple[int, int], Spectrum]
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def empty(cls, chunks: int, jobs: int, deltas: int) -> Tables:
        """Tables to be filled."""
        pairs = len(pairs_of(deltas))
        return cls(
            squares=np.zeros((chunks, deltas)),
            largest=np.zeros((chunks, deltas)),
            base_squares=np.zeros((chunks, deltas)),
            products=np.zeros((chunks, pairs)),
            counts=np.zeros((jobs, deltas, 2), np.int64),
            agreed=np.zeros((jobs, pairs, 2), np.int64),
            bins=np.zeros((deltas, len(GROUPS), BINS), np.int64),
            done=np.zeros(chunks, bool),
            spectra={},
        )

    def note(self, row: int, job: int, delta: int, seat: Seat, sizes: Sizes) -> None:
        """Take in the figures of one chunk of a delta."""
        self.squares[row, delta], self.largest[row, delta] = sizes.squares, sizes.largest
        with self.lock:
            self.counts[job, delta] += sizes.zeros, sizes.nonfinite
            self.bins[delta, GROUPS.index(seat.group)] += sizes.bins

    def note_agreement(self, job: int, pair: int, agreed: tuple[int, int]) -> None:
        """Take in what two deltas have in common in one chunk."""
        with self.lock:
            self.agreed[job, pair] += agreed


class Sketches:
    """Sketches of tensors that are being read; each is evaluated, and let go, with its last chunk."""

    def __init__(self, items: Sequence[Item], tables: Tables, size: int) -> None:
        self._items = items
        self._tables = tables
        self._size = size
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], tuple[Sketch, list[int]]] = {}

    def add(self, job: int, delta: int, start: int, values: NDArray[np.floating]) -> None:
        """Take in a chunk of a delta's tensor, which begins with element `start`; finite values."""
        stored = self._items[job].stored[delta]
        if stored is None or not self._size:
            return
        matrix = matrix_of(stored.record.base_shape)
        largest = stored.record.delta_max
        if matrix is None or not largest:
            return
        with self._lock:
            if (job, delta) not in self._open:
                chunks = -(-self._items[job].span(delta) // CHUNK_ELEMENTS)
                self._open[job, delta] = Sketch(*matrix, largest, self._size), [chunks]
            sketch, missing = self._open[job, delta]
        sketch.add(start, values)
        with self._lock:
            missing[0] -= 1
            if missing[0]:
                return
            del self._open[job, delta]
        spectrum = sketch.spectrum()
        if spectrum is not None:
            with self._tables.lock:
                self._tables.spectra[job, delta] = spectrum
