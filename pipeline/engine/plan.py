"""The layout of a run, known before a byte moves: which ranges are read, computed and written where.

A `Job` is one output tensor with its inputs. A `Plan` cuts jobs into slices of one chunk each and
groups slices whose outputs are neighbours into blocks, the unit of work: everything that a block reads
and writes is known from the plan, so blocks may be walked in any order, by any number of workers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

ALIGNMENT = 64  # bytes: a cache line, and more than any element needs

_FEW = 3  # blocks of a tensor, of which none is left out


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of input number `reader`, to lie in memory at a multiple of `alignment`."""

    reader: int
    offset: int
    nbytes: int
    alignment: int = 1


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor to read for a job: where it begins, its element's size, how many it has."""

    reader: int
    offset: int
    itemsize: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.count * self.itemsize

    def span(self, start: int, stop: int) -> Span | None:
        """The bytes of elements start..stop, as far as the tensor has them."""
        stop = min(stop, self.count)
        if start >= stop:
            return None
        size = (stop - start) * self.itemsize
        return Span(self.reader, self.offset + start * self.itemsize, size, self.itemsize)


@dataclass(frozen=True, slots=True)
class Ragged:
    """An input whose chunks have sizes of their own: chunk i is bytes starts[i]..ends[i]."""

    reader: int
    offset: int
    starts: NDArray[np.uint64]
    ends: NDArray[np.uint64]

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks."""
        return int(self.ends.sum()) - int(self.starts.sum())

    def span(self, start: int, stop: int) -> Span | None:
        """The bytes that belong to the chunk that begins with element `start`."""
        chunk = start // CHUNK_ELEMENTS
        if chunk >= len(self.starts):
            return None
        begin, end = int(self.starts[chunk]), int(self.ends[chunk])
        return Span(self.reader, self.offset + begin, end - begin) if end > begin else None


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor: `count` elements of `itemsize` bytes at `offset` of output number `writer`.

    No writer means that the output is only room for kernels, and `offset` its place among others.
    """

    writer: int | None
    offset: int
    itemsize: int
    count: int
    inputs: tuple[Input | Ragged | None, ...]

    @property
    def chunks(self) -> int:
        """How many slices the job makes. An empty tensor has none."""
        return math.ceil(self.count / CHUNK_ELEMENTS)


@dataclass(frozen=True, slots=True)
class Slice:
    """One chunk of one job: its elements, its inputs' bytes, and where in its output they end up."""

    job: int
    chunk: int  # within the job
    row: int  # within the plan: chunks counted through all jobs
    start: int
    count: int
    spans: tuple[Span | None, ...]
    offset: int
    nbytes: int

    @property
    def read_bytes(self) -> int:
        """Bytes of its inputs."""
        return sum(span.nbytes for span in self.spans if span)


@dataclass(frozen=True, slots=True)
class Block:
    """Slices whose outputs are one range of bytes."""

    number: int
    writer: int | None
    offset: int
    nbytes: int
    slices: tuple[Slice, ...]

    @property
    def moved_bytes(self) -> int:
        """Bytes that the block reads and writes."""
        return self.read_bytes + (self.nbytes if self.writer is not None else 0)

    @property
    def read_bytes(self) -> int:
        """Bytes that the block reads."""
        return sum(span.nbytes for span in self.spans)

    @property
    def spans(self) -> list[Span]:
        """The bytes that the block's slices read."""
        return [span for part in self.slices for span in part.spans if span]


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks first..stop of a plan that is cut into blocks of `block_bytes`, and their rows."""

    block_bytes: int
    first: int
    stop: int
    first_row: int
    stop_row: int

    @property
    def rows(self) -> range:
        """Of the plan's slices, those that are in it."""
        return range(self.first_row, self.stop_row)


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, in the order in which they are walked."""

    jobs: Sequence[Job]

    @cached_property
    def first_rows(self) -> list[int]:
        """For each job the number of its first chunk, and at the end the number of all chunks."""
        return list(accumulate((job.chunks for job in self.jobs), initial=0))

    @property
    def rows(self) -> int:
        """The number of chunks of all jobs."""
        return self.first_rows[-1]

    @property
    def read_bytes(self) -> int:
        """Bytes that a walk reads."""
        return sum(source.nbytes for job in self.jobs for source in job.inputs if source)

    @property
    def written_bytes(self) -> int:
        """Bytes that a walk writes."""
        return sum(job.count * job.itemsize for job in self.jobs if job.writer is not None)

    @property
    def moved_bytes(self) -> int:
        """Bytes that a walk reads and writes."""
        return self.read_bytes + self.written_bytes

    def rows_of(self, job: int) -> slice:
        """The rows of one job's chunks in tables that have a row for each chunk."""
        return slice(self.first_rows[job], self.first_rows[job + 1])

    def largest_block(self, block_bytes: int, part: Part | None = None) -> tuple[int, int]:
        """Of `blocks(block_bytes)`: memory for the largest, each range aligned; most elements of any.

        A little more memory than that where chunks of a large tensor's input are of unlike sizes.
        """
        nbytes = elements = 0
        plan = self if part else self._shortened(block_bytes)
        for block in plan.blocks(block_bytes, part):
            room = block.read_bytes + block.nbytes
            nbytes = max(nbytes, room + ALIGNMENT * (len(block.spans) + 1))
            elements = max(elements, sum(part.count for part in block.slices))
        return nbytes, elements

    def _shortened(self, block_bytes: int) -> Plan:
        """The plan without blocks that are as large as their neighbours, inside large tensors."""
        jobs, gone = [], 0
        for job in self.jobs:
            kept = _without_alike(job, block_bytes)
            jobs.append(replace(kept, offset=job.offset - gone) if gone else kept)
            gone += (job.count - kept.count) * job.itemsize
        return Plan(jobs)

    def slices(self, rows: range | None = None) -> Iterator[Slice]:
        """Every slice, in order, or those of `rows`."""
        rows = range(self.rows) if rows is None else rows
        for number in range(bisect_right(self.first_rows, rows.start) - 1, len(self.jobs)):
            job, begin = self.jobs[number], self.first_rows[number]
            if begin >= rows.stop:
                return
            for chunk in range(max(0, rows.start - begin), min(job.chunks, rows.stop - begin)):
                start = chunk * CHUNK_ELEMENTS
                stop = min(start + CHUNK_ELEMENTS, job.count)
                spans = tuple(source.span(start, stop) if source else None for source in job.inputs)
                yield Slice(
                    number, chunk, begin + chunk, start, stop - start, spans,
                    job.offset + start * job.itemsize, (stop - start) * job.itemsize,
                )  # fmt: skip

    def blocks(self, block_bytes: int, only: Part | None = None) -> Iterator[Block]:
        """Slices grouped while their outputs are neighbours and together at most `block_bytes`.

        Where there is no output, what they read is. A slice larger than that is a block of its own.
        only: the part whose blocks alone are wanted; it is cut as the whole is.
        """
        group: list[Slice] = []
        number, nbytes = only.first if only else 0, 0
        for part in self.slices(only.rows if only else None):
            size = part.nbytes or part.read_bytes
            if group and not (self._follows(group[-1], part) and nbytes + size <= block_bytes):
                yield self._block(number, group)
                number += 1
                group, nbytes = [], 0
            group.append(part)
            nbytes += size
        if group:
            yield self._block(number, group)

    def _follows(self, last: Slice, part: Slice) -> bool:
        """Whether the outputs of two slices are neighbours."""
        same = self.jobs[last.job].writer == self.jobs[part.job].writer
        return same and last.offset + last.nbytes == part.offset

    def _block(self, number: int, group: list[Slice]) -> Block:
        first, last = group[0], group[-1]
        nbytes = last.offset + last.nbytes - first.offset
        return Block(number, self.jobs[first.job].writer, first.offset, nbytes, tuple(group))


def _without_alike(job: Job, block_bytes: int) -> Job:
    """`job` without the blocks in its middle that are all alike, but for one; see `Plan._shortened`."""
    if job.count <= _FEW * CHUNK_ELEMENTS or not all(_goes_along(source, job) for source in job.inputs):
        return job
    itemsizes = [source.itemsize for source in job.inputs if isinstance(source, Input)]
    size = CHUNK_ELEMENTS * (job.itemsize or sum(itemsizes))
    together = max(1, block_bytes // max(size, 1))
    alike = job.count // CHUNK_ELEMENTS // together - _FEW  # one, and those at either end, stay
    if alike <= 0:
        return job
    count = job.count - alike * together * CHUNK_ELEMENTS
    return replace(job, count=count, inputs=tuple(_first(source, count) for source in job.inputs))


def _goes_along(source: Input | Ragged | None, job: Job) -> bool:
    """Whether all full chunks of `job` read as much of `source`, or may be taken to."""
    if isinstance(source, Ragged):
        return job.itemsize > 0  # else blocks are cut by what is read
    return source is None or source.count == job.count


def _first(source: Input | Ragged | None, count: int) -> Input | Ragged | None:
    """What `count` elements read of `source`. Of chunks of unlike sizes all count as the largest."""
    if isinstance(source, Input):
        return replace(source, count=count)
    if source is None:
        return None
    starts = source.starts[: math.ceil(count / CHUNK_ELEMENTS)]
    return replace(source, starts=starts, ends=starts + (source.ends - source.starts).max(initial=0))
