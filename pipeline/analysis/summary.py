"""From a run's tables to figures: of each tensor, of sizes, and of how two deltas agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.parts import ANY, Key, Split, ratio, root_of, total_of
from pipeline.analysis.report import GROUPS, Agreement, Group, Histogram, PairFigures, TensorFigures
from pipeline.analysis.statistics import LOWEST
from pipeline.analysis.tables import Item, Tables
from pipeline.engine.plan import Plan

MOST_UNCOMPARED = 100  # names that a report lists


@dataclass(frozen=True)
class Summary:
    """The figures of a finished run. measured: whether a base was read beside the deltas."""

    items: Sequence[Item]
    plan: Plan
    tables: Tables
    measured: bool

    def tensors(self, delta: int) -> list[TensorFigures]:
        """The figures of each tensor of a delta."""
        jobs = [job for job, item in enumerate(self.items) if item.stored[delta] is not None]
        return [self._tensor(job, delta) for job in jobs]

    def _tensor(self, job: int, delta: int) -> TensorFigures:
        item = self.items[job]
        stored = item.stored[delta]
        assert stored is not None, "only a delta's own tensors are asked for"
        record, seat, elements = stored.record, item.seat, item.counted(delta)
        tables, rows = self.tables, self.plan.rows_of(job)
        zeros, nonfinite = self._zeros(job, delta), int(tables.counts[job, delta, 1])
        head: dict[str, Any] = {
            "name": item.name,
            "shape": record.shape,
            "dtype": record.stored.name,
            "layer": seat.layer,
            "group": seat.group,
            "module": seat.module,
        }
        if not elements:
            left_out = "no element of it is in the base, or it has none"
            if record.carried:
                left_out = f"is {record.post}, which is carried whole and never subtracted"
            nothing: dict[str, Any] = dict.fromkeys(("changed", "l2", "base_l2", "relative", "max"))
            return TensorFigures(**head, **nothing, elements=0, left_out=left_out)
        l2 = root_of(tables.squares[rows, delta].tolist())
        base_l2 = root_of(tables.base_squares[rows, delta].tolist()) if self.measured else record.base_l2
        missing = math.prod(record.shape) - elements
        return TensorFigures(
            **head,
            elements=elements,
            changed=(elements - zeros) / elements,
            l2=l2,
            base_l2=base_l2,
            relative=ratio(l2, base_l2),
            max=float(np.max(tables.largest[rows, delta])),
            spectrum=tables.spectra.get((job, delta)),
            grown_rows=missing // math.prod(record.shape[1:]),
            nonfinite=nonfinite,
        )

    def _zeros(self, job: int, delta: int) -> int:
        """How many counted elements of a tensor are zero; others were set to it."""
        return int(self.tables.counts[job, delta, 0]) - self.items[job].lacks(delta)

    def histograms(self, delta: int) -> list[Histogram]:
        """The sizes of a delta's elements: of all, then of each group that it has."""
        zeros = [0] * len(GROUPS)
        for job, item in enumerate(self.items):
            zeros[GROUPS.index(item.seat.group)] += self._zeros(job, delta)
        bins = self.tables.bins[delta]
        found = [_histogram(None, bins.sum(axis=0), sum(zeros))]
        for group, ours, nothing in zip(GROUPS, bins, zeros, strict=True):
            if ours.any() or nothing:
                found.append(_histogram(group, ours, nothing))
        return found

    def pair(self, number: int, first: int, second: int) -> PairFigures:
        """How the deltas `first` and `second`, pair `number`, agree."""
        rows: list[_Compared] = []
        uncompared: list[str] = []
        for job, item in enumerate(self.items):
            if item.is_compared(first, second):
                rows.append(self._compare(job, number, first, second))
            elif item.counted(first) or item.counted(second):
                uncompared.append(item.name)
        split = Split.of(rows, lambda row: row.place)
        return PairFigures(
            first,
            second,
            total=_agreement(ANY, rows),
            groups=[_agreement(*each) for each in split.groups],
            layers=[_agreement(*each) for each in split.layers],
            layer_groups=[_agreement(*each) for each in split.layer_groups],
            cells=[_agreement(*each) for each in split.cells],
            uncompared=uncompared[:MOST_UNCOMPARED],
            uncompared_count=len(uncompared),
        )

    def _compare(self, job: int, number: int, first: int, second: int) -> _Compared:
        item, tables, chunks = self.items[job], self.tables, self.plan.rows_of(job)
        both, same = tables.agreed[job, number].tolist()
        return _Compared(
            place=(item.seat.layer, item.seat.group, item.seat.module),
            elements=item.counted(first),
            product=total_of(tables.products[chunks, number].tolist()),
            first=total_of(tables.squares[chunks, first].tolist()),
            second=total_of(tables.squares[chunks, second].tolist()),
            both=both,
            same=same,
        )


@dataclass(frozen=True, slots=True)
class _Compared:
    """One tensor of two deltas. product, first, second: sums of products and squares, if finite."""

    place: Key
    elements: int
    product: float | None
    first: float | None
    second: float | None
    both: int
    same: int


def _agreement(key: Key, rows: Sequence[_Compared]) -> Agreement:
    elements = sum(row.elements for row in rows)
    both, same = (sum(getattr(row, name) for row in rows) for name in ("both", "same"))
    sums = []
    for name in ("product", "first", "second"):
        column = [getattr(row, name) for row in rows]
        sums.append(None if None in column else total_of(column))
    product, first, second = sums
    cosine = None
    if product is not None and first and second:
        found = product / math.sqrt(first) / math.sqrt(second)
        cosine = min(1.0, max(-1.0, found))
    return Agreement(
        *key,
        elements=elements,
        cosine=cosine,
        both=both / elements if elements else None,
        same_sign=same / both if both else None,
    )


def _histogram(group: Group | None, bins: NDArray[np.int64], zeros: int) -> Histogram:
    """A histogram from the first bin that has anything to the last."""
    used = np.flatnonzero(bins)
    if not len(used):
        return Histogram(group, 0, (), zeros)
    first, last = int(used[0]), int(used[-1])
    return Histogram(group, LOWEST + first, tuple(bins[first : last + 1].tolist()), zeros)
