"""Thresholds of magnitude, exact, from counts: a radix select in two rounds over a tensor of any size.

The bits of float32 magnitudes grow as the magnitudes do. The first round counts their upper 16 bits,
which says in which bin the element of a given rank lies; the second counts the lower 15 within that bin,
chunk by chunk, which says what its bits are and how many equals each chunk has. Positions count from
zero, from the smallest up. NaN is larger than anything.

Differences of bfloat16 values seldom have any of the lower bits. So the first round also lists those
that have (`Tally`), and where they are few the second need not look at the elements again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.fusion import BEYOND, HIGH_BINS, LOW_BINS, LOW_BITS, NOTHING, Band

Histogram = NDArray[np.uint32]  # of a chunk
Totals = NDArray[np.int64]  # of a tensor
Banded = tuple[
    Band, NDArray[np.int64]
]  # and how many equals of its ends come before each chunk, and in all

MOST_OTHERS, MOST_BINS = 1 << 15, 1 << 14  # of a `Tally`, which so takes 0.44 bytes an element at most


@dataclass(frozen=True, slots=True)
class Kept:
    """Which positions of a tensor's elements stay: first..stop.

    later_first: whether equals are ordered from the last one in the tensor to the first.
    """

    first: int
    stop: int
    later_first: bool = False


def kept_largest(count: int, density: float) -> Kept:
    """The largest `density` of `count` elements, at least one; of equals those that come first.

    As in TIES (arXiv 2306.01708).
    """
    return Kept(count - max(1, int(density * count)), count, later_first=True)


def kept_middle(count: int, density: float, gamma: float) -> Kept:
    """`density` of `count` elements, without the largest `gamma`, or fewer of these if need be.

    As in Model Breadcrumbs (arXiv 2312.06795). Equals are ordered as they come.
    """
    target = int(density * count)
    bottom = max(0, count - target - int(gamma * count))
    return Kept(bottom, bottom + target)


@dataclass(frozen=True, slots=True)
class Rank:
    """Where the element of one position lies: its bin, and how many are in lower ones."""

    high: int
    below: int


@dataclass(frozen=True, slots=True)
class Lows:
    """One bin's counts in one chunk: those of the lower bits that are there, ascending."""

    bits: NDArray[np.uint16]
    counts: Histogram

    @classmethod
    def of(cls, bins: Histogram) -> Lows:
        """What is not zero of `bins`."""
        bits = np.flatnonzero(bins)
        return cls(bits.astype(np.uint16), bins[bits])

    def of_bits(self, low: int) -> int:
        """How many have just these lower bits."""
        place = int(np.searchsorted(self.bits, low))
        return int(self.counts[place]) if place < len(self.bits) and self.bits[place] == low else 0


@dataclass(frozen=True, slots=True)
class Tally:
    """All magnitudes of one chunk. highs, counts: what is not zero of the first round's counts.

    others: those with lower bits, in any order.
    """

    highs: NDArray[np.uint16]
    counts: Histogram
    others: NDArray[np.uint32]

    @classmethod
    def of(cls, bins: Histogram, others: NDArray[np.uint32]) -> Tally | None:
        """What one chunk's first round found; None if that is too much to be kept."""
        if len(others) > MOST_OTHERS:
            return None
        highs = np.flatnonzero(bins)
        if len(highs) > MOST_BINS:
            return None
        return cls(highs.astype(np.uint16), bins[highs], others.copy())

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return self.highs.nbytes + self.counts.nbytes + self.others.nbytes

    def lows(self, high: int) -> Lows:
        """What the second round would find in the bin `high`."""
        place = int(np.searchsorted(self.highs, high))
        if place == len(self.highs) or self.highs[place] != high:
            return Lows(np.empty(0, np.uint16), np.empty(0, np.uint32))
        mine = self.others[self.others >> LOW_BITS == high] & (LOW_BINS - 1)
        bits, counts = np.unique(mine, return_counts=True)
        without = int(self.counts[place]) - len(mine)
        if without:
            bits, counts = np.insert(bits, 0, 0), np.insert(counts, 0, without)
        return Lows(bits.astype(np.uint16), counts.astype(np.uint32))


def find_bin(bins: Totals | Histogram, position: int) -> Rank:
    """The bin of the element at `position`, from all counts of a tensor, or of its only chunk."""
    ends = np.cumsum(bins)
    high = int(np.searchsorted(ends, position, side="right"))
    return Rank(high, int(ends[high]) - int(bins[high]))


def ends_of(kept: Kept, bins: Totals | Histogram) -> tuple[Rank, Rank] | None:
    """The bins of the first and the last that stay; None if none does.

    Where all from the first on stay there is no other end, and both are that of the first.
    """
    assert len(bins) == HIGH_BINS
    if kept.first >= kept.stop:
        return None
    first = find_bin(bins, kept.first)
    return first, first if kept.later_first else find_bin(bins, kept.stop - 1)


@dataclass(frozen=True, slots=True)
class _Edge:
    """A magnitude's bits, how many are smaller, and how many equal it in all and in each chunk."""

    bits: int
    below: int
    equal: int
    by_chunk: NDArray[np.int64]


def find_band(kept: Kept, ranks: tuple[Rank, Rank], lows: Sequence[tuple[Lows, Lows]]) -> Banded:
    """The band that keeps just these.

    lows: for each chunk, the counts in the bins of the first that stays and of the last.
    """
    low = _find_edge(kept.first, ranks[0], [first for first, _ in lows])
    if kept.later_first:  # up to the largest: there is no other end
        stay = low.below + low.equal - kept.first
        return Band(low.bits, 0, stay, BEYOND, 0), _before(low, None)
    high = _find_edge(kept.stop - 1, ranks[1], [last for _, last in lows])
    until = kept.stop - high.below
    if low.bits == high.bits:
        return Band(low.bits, kept.first - low.below, until, low.bits, 0), _before(low, None)
    return Band(low.bits, kept.first - low.below, low.equal, high.bits, until), _before(low, high)


def nothing_kept(chunks: int) -> Banded:
    """What `find_band` would say if none stays."""
    return NOTHING, np.zeros((chunks + 1, 2), np.int64)


def _find_edge(position: int, rank: Rank, chunks: Sequence[Lows]) -> _Edge:
    counts = np.zeros(1 << LOW_BITS, np.int64)
    for each in chunks:
        counts[each.bits] += each.counts
    ends = np.cumsum(counts)
    low = int(np.searchsorted(ends, position - rank.below, side="right"))
    equal = int(counts[low])
    by_chunk = np.array([each.of_bits(low) for each in chunks], np.int64)
    return _Edge(rank.high << LOW_BITS | low, rank.below + int(ends[low]) - equal, equal, by_chunk)


def _before(low: _Edge, high: _Edge | None) -> NDArray[np.int64]:
    """For each chunk how many equals of both are in those before it; last, how many are in all."""
    found = np.zeros((len(low.by_chunk) + 1, 2), np.int64)
    for column, edge in enumerate((low, high)):
        if edge is not None:
            found[1:, column] = np.cumsum(edge.by_chunk)
    return found
