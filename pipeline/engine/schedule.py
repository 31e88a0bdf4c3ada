"""How a plan fits into the limits of a run: how many blocks at once, how large, with what buffers."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, field

from pipeline.engine.plan import Part, Plan
from pipeline.engine.tail import OrderedTail
from pipeline.errors import UsageError
from pipeline.storage.remote import REMOTE_WORKERS
from pipeline.units import MIB, format_bytes

REMOTE_BLOCK_BYTES = 8 * MIB  # at least, so that a read is long beside its round trip
SMALLEST_BLOCK_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use: bytes for buffers and scratch space, and threads that compute.

    Runs that are given the same limits take turns at computing, but each has the memory for itself.
    """

    memory_bytes: int
    workers: int
    turns: threading.BoundedSemaphore = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", threading.BoundedSemaphore(self.workers))

    @classmethod
    def of(cls, memory_bytes: int, workers: int | None) -> Limits:
        """Limits with as many workers as this process may use cores, unless told otherwise.

        Raises UsageError.
        """
        if workers is not None and workers < 1:
            raise UsageError(f"{workers} workers can do nothing", hint="give --workers 1 or more")
        return cls(memory_bytes, workers or len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a plan is walked within limits: workers, bytes per block, each worker's buffer, all memory."""

    workers: int
    block_bytes: int
    buffer_bytes: int
    memory_bytes: int


def schedule(
    plan: Plan,
    limits: Limits,
    *,
    remote: bool,
    block_bytes: int,
    scratch_bytes: int,
    tail: OrderedTail | None = None,
    left_bytes: int = 0,
    part: Part | None = None,
) -> Schedule:
    """The most workers and the largest blocks, up to `block_bytes`, that fit into the limits.

    A tail takes its share of the memory first; the others are explained at `walk`. Blocks of a `part`
    are as large as it says: only their number is what fits.
    Raises UsageError if not even one worker with the smallest block fits.
    """
    size, smallest = block_bytes, SMALLEST_BLOCK_BYTES
    if part is not None:
        size = smallest = part.block_bytes
    share = tail.take_share(limits.memory_bytes) if tail else 0
    memory = limits.memory_bytes - share
    wanted = max(limits.workers, REMOTE_WORKERS) if remote else limits.workers
    while True:
        buffer_bytes, elements = plan.largest_block(size, part)
        each = buffer_bytes + scratch_bytes + elements * left_bytes
        workers = max(0, min(wanted, memory // each)) if each else wanted
        if workers >= min(wanted, limits.workers) or (workers and size <= smallest):
            return Schedule(workers, size, buffer_bytes, share + workers * each)
        if size <= smallest:
            least = tail.least_memory(each) if tail else each
            raise UsageError(
                f"{format_bytes(limits.memory_bytes)} of memory is less than one slice takes",
                hint=f"give --memory {math.ceil(least / MIB)}MiB or more",
            )
        size = max(smallest, size // 2)
