"""Readers, writers and kernels for walks: real ones, in memory or in files, some of which fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from pipeline.engine.plan import Input, Job, Plan, Slice
from pipeline.engine.schedule import Limits
from pipeline.engine.tail import OrderedTail
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.errors import StorageError
from pipeline.storage.base import Aborting
from pipeline.storage.local.store import LocalReader, LocalStore
from pipeline.tensors.dtypes import Bytes
from pipeline.units import MIB


class Memory:
    """Bytes as a reader. `fails_at`: the first byte that cannot be read."""

    is_remote = False

    def __init__(self, data: bytes, fails_at: int | None = None, is_remote: bool = False) -> None:
        self.name = "memory"
        self.version = str(len(data))
        self.nbytes = len(data)
        self.is_remote = is_remote
        self._data = data
        self._fails_at = fails_at

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._fails_at is not None and offset + len(buffer) > self._fails_at:
            raise StorageError("the disk is on fire")
        buffer[:] = self._data[offset : offset + len(buffer)]

    def close(self) -> None:
        """Nothing to close."""


class Sink(Aborting):
    """A writer into memory that notes how often each byte was written."""

    is_remote = False

    def __init__(self, nbytes: int, block_bytes: int = MIB, fails_at: int | None = None) -> None:
        self.block_bytes = block_bytes
        self.data = bytearray(nbytes)
        self.times = np.zeros(nbytes, np.uint8)
        self.calls: list[tuple[int, int]] = []
        self._fails_at = fails_at
        self._lock = threading.Lock()

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self._fails_at is not None and offset + len(data) > self._fails_at:
            raise StorageError("no space left")
        with self._lock:
            assert offset + len(data) <= len(self.data)
            self.data[offset : offset + len(data)] = data
            self.times[offset : offset + len(data)] += 1
            self.calls.append((offset, len(data)))

    def commit(self) -> None:
        """Nothing to publish."""

    def abort(self) -> None:
        """Nothing to throw away."""


def copy(part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
    """A kernel: the first input is the output, nothing is left for the tail."""
    out[:] = inputs[0]
    return b""


def add(part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
    """A kernel: the sum of all inputs, missing bytes counting as zero; its place goes to the tail."""
    out[:] = 0
    for data in inputs:
        out[: len(data)] += data
    return f"{part.job}/{part.chunk}={int(out.sum(dtype=np.int64))};".encode() * (part.row % 3)


def nothing(nbytes: int) -> None:
    """An `advance` that tells nobody."""


def copies(counts: Sequence[int], itemsize: int = 1, *, gap: int = 0) -> Plan:
    """A plan that copies one tensor of each count from reader 0 to the same place of writer 0."""
    jobs, at = [], 0
    for count in counts:
        jobs.append(Job(0, at, itemsize, count, (Input(0, at, itemsize, count),)))
        at += count * itemsize + gap
    return Plan(jobs)


def run(
    plan: Plan,
    readers: Sequence[object],
    writers: Sequence[object],
    *,
    make_kernel: Callable[[], object] = lambda: copy,
    workers: int = 2,
    memory: int = 64 * MIB,
    scratch: int = 0,
    tail: OrderedTail | None = None,
    advance: Callable[[int], None] = nothing,
) -> None:
    """`walk` with the arguments that tests seldom change."""
    work = Work("copy", plan, readers, make_kernel, scratch_bytes=scratch)
    walk(
        work,
        Limits(memory, workers),
        lambda title, nbytes: nullcontext(advance),
        writers=writers,
        tail=tail,
    )


def within(seconds: float, function: Callable[[], object]) -> object:
    """What `function` returns or raises; a failure if it takes longer, which means that it hangs."""
    outcome: list[object] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still not done after {seconds} s"
    if errors:
        raise errors[0]
    return outcome[0]


def write_file(path: Path, data: bytes) -> LocalReader:
    """A real file with `data`, opened."""
    path.write_bytes(data)
    return LocalStore(path.parent).open(path.name)
