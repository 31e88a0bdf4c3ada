"""The one loop that walks a plan: read, compute, write, with a bounded number of buffers.

Workers take blocks in order. Each owns one buffer for the whole run (the first touch of fresh memory
costs more than the arithmetic) and does read, compute and write itself, which beats handing blocks
through queues. How many reads are under way and how many threads compute are two numbers: a store
with round trips gets more workers than there are cores, and a semaphore keeps computing to the cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Protocol, TypedDict, Unpack

import numpy as np

from pipeline.engine.journal import Journal
from pipeline.engine.plan import ALIGNMENT, Block, Part, Span
from pipeline.engine.schedule import REMOTE_BLOCK_BYTES, Limits, Schedule, schedule
from pipeline.engine.tail import OrderedTail
from pipeline.engine.work import Work
from pipeline.errors import PipelineError
from pipeline.progress import Progressing
from pipeline.storage.base import Writer
from pipeline.tensors.dtypes import Bytes
from pipeline.units import MIB


class Outputs(TypedDict, total=False):
    """Where a walk leaves what it makes, and what it notes of itself; see `walk`."""

    writers: Sequence[Writer]
    tail: OrderedTail | None
    journal: Journal | None


class Walker(Protocol):
    """Does a work, as `walk` does, here or elsewhere."""

    def __call__(
        self, work: Work, limits: Limits, progress: Progressing, **outputs: Unpack[Outputs]
    ) -> None:
        """See `walk`."""


def walk(
    work: Work,
    limits: Limits,
    progress: Progressing,
    *,
    writers: Sequence[Writer] = (),
    tail: OrderedTail | None = None,
    journal: Journal | None = None,
    part: Part | None = None,
) -> None:
    """Do everything that `work` says, and return when all of it is written.

    writers: the plan's outputs, by number. tail: takes what kernels return.
    journal: says what an earlier run has done already, and learns what this one does.
    part: which blocks alone to do, if not all; then there is no journal.
    The first error stops the other workers and is raised; nothing is committed here.
    """
    timetable = timetable_of(work, limits, writers=writers, tail=tail, part=part)
    blocks = work.plan.blocks(timetable.block_bytes, part)
    with progress(work.title, work.plan.moved_bytes) as advance:
        if journal is not None:
            advance(journal.begin(timetable.block_bytes, writers, tail))
            blocks = (block for block in blocks if not journal.is_done(block.number))
        crew = _Crew(blocks)

        def labour() -> None:
            worker = _Worker(work, writers, timetable.buffer_bytes, limits.turns)
            while (block := crew.next_block()) is not None:
                payloads = worker.do(block)
                if tail is not None:
                    tail.put(block.number, *payloads)
                del payloads  # before the next are made
                if journal is not None:
                    journal.note(block.number)
                advance(block.moved_bytes)

        try:
            _work_together(labour, timetable.workers, crew, tail)
        except KeyboardInterrupt:
            if journal is not None:
                journal.keep()
            raise


def _work_together(
    labour: Callable[[], None], workers: int, crew: _Crew, tail: OrderedTail | None
) -> None:
    """Run `labour` in so many threads. The first error stops the others and is raised."""
    with ThreadPoolExecutor(workers, thread_name_prefix="walk") as pool:
        futures = [pool.submit(labour) for _ in range(workers)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also when interrupted: the others stop after the block in hand
            crew.stop()
            if tail is not None:
                tail.give_up()
    for future in futures:
        future.result()


def timetable_of(
    work: Work,
    limits: Limits,
    *,
    writers: Sequence[Writer] = (),
    tail: OrderedTail | None = None,
    part: Part | None = None,
) -> Schedule:
    """The schedule of `walk` with the same arguments. Raises UsageError if nothing fits the limits."""
    outputs = [*writers, *([tail.writer] if tail else [])]
    from_afar = any(reader.is_remote for reader in work.readers)
    block_bytes = max((writer.block_bytes for writer in outputs), default=MIB)
    if from_afar:
        block_bytes = max(block_bytes, REMOTE_BLOCK_BYTES)
    return schedule(
        work.plan,
        limits,
        remote=from_afar or any(writer.is_remote for writer in outputs),
        block_bytes=block_bytes,
        # A worker may be writing a piece of the tail.
        scratch_bytes=work.scratch_bytes + (tail.writer.block_bytes if tail else 0),
        tail=tail,
        left_bytes=work.left_bytes,
        part=part,
    )


class _Crew:
    """What the workers share: the blocks still to do."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._stopped = False

    def next_block(self) -> Block | None:
        """The next block, or None when all are handed out or the run was stopped."""
        with self._lock:
            return None if self._stopped else next(self._blocks, None)

    def stop(self) -> None:
        """Hand out no more blocks."""
        with self._lock:
            self._stopped = True


class _Worker:
    """One thread's readers, buffer and kernel."""

    def __init__(
        self,
        work: Work,
        writers: Sequence[Writer],
        buffer_bytes: int,
        turns: threading.BoundedSemaphore,
    ) -> None:
        self._readers = work.readers
        self._writers = writers
        self._kernel = work.make_kernel()
        self._buffer = aligned(buffer_bytes)
        self._turns = turns

    def do(self, block: Block) -> list[bytes]:
        """Read, compute and write one block; returns what its slices have for the tail."""
        out = self._buffer[: block.nbytes]
        try:
            payloads = self._compute(block, out)
        except PipelineError:
            if not any(self._readers[span.reader].is_remote for span in block.spans):
                raise
            payloads = self._compute(block, out)  # the wire may have spoiled it, and only the wire
        if block.writer is not None:
            self._writers[block.writer].write(block.offset, out.data)
        return payloads

    def _compute(self, block: Block, out: Bytes) -> list[bytes]:
        """Read a block's inputs and fill `out`."""
        inputs = self._read(block)
        with self._turns:
            return [
                self._kernel(part, arrays, out[part.offset - block.offset :][: part.nbytes])
                for part, arrays in zip(block.slices, inputs, strict=True)
            ]

    def _read(self, block: Block) -> list[list[Bytes]]:
        """The bytes of every span of every slice; neighbouring spans are read together."""
        empty = self._buffer[:0]
        inputs = [[empty] * len(part.spans) for part in block.slices]
        wanted = [
            (span, row, column)
            for row, part in enumerate(block.slices)
            for column, span in enumerate(part.spans)
            if span
        ]
        wanted.sort(key=lambda item: (item[0].reader, item[0].offset))
        free = _round_up(block.nbytes)
        start, previous = free, None
        for span, row, column in wanted:
            if previous and not _continues(previous, span, free - start):
                self._fill(previous.reader, previous.offset + previous.nbytes, start, free)
                start = free = _round_up(free)
            inputs[row][column] = self._buffer[free : free + span.nbytes]
            free += span.nbytes
            previous = span
        if previous:
            self._fill(previous.reader, previous.offset + previous.nbytes, start, free)
        return inputs

    def _fill(self, reader: int, end: int, start: int, stop: int) -> None:
        """Read buffer[start:stop]; the range in the input ends at `end`."""
        view = self._buffer[start:stop].data
        self._readers[reader].read_into(end - len(view), view)


def _continues(previous: Span, span: Span, distance: int) -> bool:
    """Whether `span` can be read together with `previous` and still lie aligned in memory."""
    follows = span.reader == previous.reader and span.offset == previous.offset + previous.nbytes
    return follows and distance % span.alignment == 0


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned(nbytes: int) -> Bytes:
    """An uninitialised array of bytes that begins on a cache line."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + nbytes]
