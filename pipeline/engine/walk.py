"""The one loop that walks a plan: read, compute, write, with a bounded number of buffers.

Workers take blocks in order. Each owns one buffer for the whole run (the first touch of fresh memory
costs more than the arithmetic) and does read, compute and write itself, which beats handing blocks
through queues. How many reads are under way and how many threads compute are two numbers: a store
with round trips gets more workers than there are cores, and a semaphore keeps computing to the cores.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.engine.journal import Journal
from pipeline.engine.plan import ALIGNMENT, Block, Plan, Slice, Span
from pipeline.engine.tail import OrderedTail
from pipeline.errors import PipelineError, UsageError
from pipeline.storage.base import Reader, Writer
from pipeline.tensors.dtypes import Bytes
from pipeline.units import MIB, format_bytes

REMOTE_WORKERS = 12  # blocks under way at once where each read is a round trip
REMOTE_BLOCK_BYTES = 8 * MIB  # at least, so that a read is long beside its round trip
SMALLEST_BLOCK_BYTES = MIB

Advance = Callable[[int], None]


class Kernel(Protocol):
    """What is done with one slice. An instance belongs to one worker."""

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """Fill `out` from `inputs` (an empty array where the slice has no span).

        What it returns goes to the tail, in the order of slices.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use: bytes for buffers and scratch space, and threads that compute."""

    memory_bytes: int
    workers: int

    @classmethod
    def of(cls, memory_bytes: int, workers: int | None) -> Limits:
        """Limits with as many workers as this process may use cores, unless told otherwise."""
        if workers is not None and workers < 1:
            raise UsageError(f"{workers} workers can do nothing", hint="give --workers 1 or more")
        return cls(memory_bytes, workers or len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a plan is walked within limits: workers, bytes per block, and each worker's buffer."""

    workers: int
    block_bytes: int
    buffer_bytes: int


def schedule(
    plan: Plan,
    limits: Limits,
    *,
    remote: bool,
    block_bytes: int,
    scratch_bytes: int,
    tail: OrderedTail | None = None,
    left_bytes: int = 0,
) -> Schedule:
    """The most workers and the largest blocks, up to `block_bytes`, that fit into the limits.

    A tail takes its share of the memory first; the others are explained at `walk`.
    Raises UsageError if not even one worker with the smallest block fits.
    """
    memory = limits.memory_bytes - (tail.take_share(limits.memory_bytes) if tail else 0)
    wanted = max(limits.workers, REMOTE_WORKERS) if remote else limits.workers
    size = block_bytes
    while True:
        buffer_bytes, elements = plan.largest_block(size)
        each = buffer_bytes + scratch_bytes + elements * left_bytes
        workers = max(0, min(wanted, memory // each)) if each else wanted
        if workers >= min(wanted, limits.workers) or (workers and size <= SMALLEST_BLOCK_BYTES):
            return Schedule(workers, size, buffer_bytes)
        if size <= SMALLEST_BLOCK_BYTES:
            least = tail.least_memory(each) if tail else each
            raise UsageError(
                f"{format_bytes(limits.memory_bytes)} of memory is less than one slice takes",
                hint=f"give --memory {math.ceil(least / MIB)}MiB or more",
            )
        size = max(SMALLEST_BLOCK_BYTES, size // 2)


def walk(
    plan: Plan,
    *,
    readers: Sequence[Reader],
    writers: Sequence[Writer],
    make_kernel: Callable[[], Kernel],
    limits: Limits,
    scratch_bytes: int,
    advance: Advance,
    tail: OrderedTail | None = None,
    left_bytes: int = 0,
    journal: Journal | None = None,
) -> None:
    """Do everything that `plan` says, and return when all of it is written.

    scratch_bytes: what a kernel needs at most beside its inputs and its output. left_bytes: what it
    leaves for the tail, at most, for each element. `advance` is told of bytes read and written.
    journal: says what an earlier run has done already, and learns what this one does.
    The first error stops the other workers and is raised; nothing is committed here.
    """
    outputs = [*writers, *([tail.writer] if tail else [])]
    remote = any(r.is_remote for r in readers) or any(w.is_remote for w in outputs)
    block_bytes = max((writer.block_bytes for writer in outputs), default=MIB)
    if any(reader.is_remote for reader in readers):
        block_bytes = max(block_bytes, REMOTE_BLOCK_BYTES)
    if tail is not None:
        scratch_bytes += tail.writer.block_bytes  # that a worker may be writing
    timetable = schedule(
        plan,
        limits,
        remote=remote,
        block_bytes=block_bytes,
        scratch_bytes=scratch_bytes,
        tail=tail,
        left_bytes=left_bytes,
    )
    blocks = plan.blocks(timetable.block_bytes)
    if journal is not None:
        advance(journal.begin(plan, timetable.block_bytes, writers, tail))
        blocks = (block for block in blocks if not journal.is_done(block.number))
    crew = _Crew(blocks, limits.workers)

    def work() -> None:
        worker = _Worker(readers, writers, make_kernel(), timetable.buffer_bytes, crew.computing)
        while (block := crew.next_block()) is not None:
            payloads = worker.do(block)
            if tail is not None:
                tail.put(block.number, *payloads)
            del payloads  # before the next are made
            if journal is not None:
                journal.note(block.number)
            advance(block.moved_bytes)

    with ThreadPoolExecutor(timetable.workers, thread_name_prefix="walk") as pool:
        futures = [pool.submit(work) for _ in range(timetable.workers)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also when interrupted: the others stop after the block in hand
            crew.stop()
            if tail is not None:
                tail.give_up()
    for future in futures:
        future.result()


class _Crew:
    """What the workers share: the blocks still to do, and the permission to compute."""

    def __init__(self, blocks: Iterator[Block], computing: int) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._stopped = False
        self.computing = threading.BoundedSemaphore(computing)

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
        readers: Sequence[Reader],
        writers: Sequence[Writer],
        kernel: Kernel,
        buffer_bytes: int,
        computing: threading.BoundedSemaphore,
    ) -> None:
        self._readers = readers
        self._writers = writers
        self._kernel = kernel
        self._buffer = aligned(buffer_bytes)
        self._computing = computing

    def do(self, block: Block) -> list[bytes]:
        """Read, compute and write one block; returns what its slices have for the tail."""
        out = self._buffer[: block.nbytes]
        try:
            payloads = self._compute(block, out)
        except PipelineError:
            if not any(self._readers[span.reader].is_remote for span in block.spans):
                raise
            payloads = self._compute(block, out)  # the wire may have spoiled it, and only the wire
        if self._writers:
            self._writers[block.writer].write(block.offset, out.data)
        return payloads

    def _compute(self, block: Block, out: Bytes) -> list[bytes]:
        """Read a block's inputs and fill `out`."""
        inputs = self._read(block)
        with self._computing:
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
