"""The rows of one tensor in the order of another: which row of the source stands in each place.

Written as runs of neighbours, so that a vocabulary that only grew, or gave a few tokens other ids, takes
a few numbers, whatever its size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

ABSENT = -1  # in place of a source's row: there is none, and zeros stand for it
MAX_ROWS = 1 << 24
MAX_RUNS = 1 << 20


@dataclass(frozen=True)
class RowOrder:
    """rows: how many the source has. runs: (the first row of the source, or `ABSENT`; how many)."""

    rows: int
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, sources: Iterable[int], rows: int) -> RowOrder:
        """The order in which row i is row `sources[i]` of a source that has `rows`."""
        runs: list[tuple[int, int]] = []
        for row in sources:
            first, count = runs[-1] if runs else (ABSENT, 0)
            if count and row == (ABSENT if first == ABSENT else first + count):
                runs[-1] = first, count + 1
            else:
                runs.append((row, 1))
        return cls(rows, tuple(runs))

    @classmethod
    def parse(cls, content: Any) -> RowOrder:
        """The order that JSON from outside says. Raises ValueError, TypeError and KeyError.

        Every row of the source stands in one place at most, and no run goes on where the one before
        it ended: so one order has one form.
        """
        rows, runs = content["rows"], content["runs"]
        if type(rows) is not int or not 0 <= rows <= MAX_ROWS or type(runs) is not list:
            raise ValueError("the base's rows have no order")
        if not 0 < len(runs) <= MAX_RUNS:
            raise ValueError(f"{len(runs)} runs of rows")
        found = tuple(_run(run, rows) for run in runs)
        for (first, count), (other, _) in pairwise(found):
            if other == (ABSENT if first == ABSENT else first + count):
                raise ValueError("two runs of rows are one")
        used = sorted(run for run in found if run[0] != ABSENT)
        if any(a + count > b for (a, count), (b, _) in pairwise(used)):
            raise ValueError("a row of the base stands in two places")
        if sum(count for _, count in found) > MAX_ROWS:
            raise ValueError("too many rows")
        return cls(rows, found)

    @cached_property
    def starts(self) -> list[int]:
        """In which place each run begins, and at the end where the last ends."""
        return list(accumulate((count for _, count in self.runs), initial=0))

    @property
    def count(self) -> int:
        """How many places there are."""
        return self.starts[-1]

    @cached_property
    def absent(self) -> list[tuple[int, int]]:
        """The places that no row of the source has, as (first, behind the last)."""
        pairs = zip(self.starts, self.runs, strict=False)
        return [(start, start + count) for start, (first, count) in pairs if first == ABSENT]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The runs that make up the places start..stop, cut to them."""
        number = bisect_right(self.starts, start) - 1
        while start < stop:
            first, count = self.runs[number]
            skipped = start - self.starts[number]
            taken = min(count - skipped, stop - start)
            yield (ABSENT if first == ABSENT else first + skipped), taken
            start += taken
            number += 1


def _run(run: Any, rows: int) -> tuple[int, int]:
    if type(run) is not list or len(run) != 2 or any(type(number) is not int for number in run):
        raise ValueError(f"{run!r} is not a run of rows")
    first, count = run
    if not 0 < count <= MAX_ROWS or (first != ABSENT and not 0 <= first <= rows - count):
        raise ValueError(f"rows {first} and {count - 1} more are not the base's")
    return first, count
