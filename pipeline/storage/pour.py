"""One blob into another: through a few buffers of ours, in order, or past us inside one account."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import UsageError
from pipeline.storage.base import Puller, Reader, Writer
from pipeline.storage.remote import REMOTE_WORKERS
from pipeline.units import format_bytes

_PULLED_BLOCKS = 8  # of ours in one that the service copies by itself
_LOCAL_WORKERS = 2
_COPIES = 2  # of a block, while a client that knows nothing of buffers brings it

Feed = Callable[[memoryview], None]
Advance = Callable[[int], None]


def pour(reader: Reader, writer: Writer, *, memory_bytes: int, feed: Feed, advance: Advance) -> None:
    """Write all that `reader` has to `writer`, with buffers of `memory_bytes` at most.

    `feed` is given every byte, in order, before it is written; what it raises stops everything. Nothing
    is committed here. Raises UsageError if not even one block fits.
    """
    block = min(writer.block_bytes, max(1, reader.nbytes))
    room = memory_bytes // (_COPIES * block)
    if not room:
        wanted = format_bytes(_COPIES * block)
        raise UsageError(f"blocks of {wanted} do not fit", hint=f"give --memory {wanted} or more")
    most = REMOTE_WORKERS if reader.is_remote or writer.is_remote else _LOCAL_WORKERS
    blocks = _Turns(reader.nbytes, block)

    def work() -> None:
        buffer = memoryview(bytearray(block))
        for number, offset, nbytes in blocks:
            part = buffer[:nbytes]
            reader.read_into(offset, part)
            blocks.wait_for(number)
            feed(part)
            blocks.end(number)
            writer.write(offset, part)
            advance(nbytes)

    _together(min(room, most, max(1, blocks.count)), work, blocks)


def pull(reader: Reader, writer: Puller, *, block_bytes: int, advance: Advance) -> None:
    """Have the writer's store fetch all that `reader` has. Nothing is committed here.

    If it fails, `pour` may write everything after all: its blocks replace all that are there.
    """
    blocks = _Turns(reader.nbytes, block_bytes * _PULLED_BLOCKS)

    def work() -> None:
        for _, offset, nbytes in blocks:
            writer.pull(offset, nbytes, reader)
            advance(nbytes)

    _together(min(REMOTE_WORKERS, max(1, blocks.count)), work, blocks)


def _together(workers: int, work: Callable[[], None], blocks: _Turns) -> None:
    def run() -> None:
        try:
            work()
        except BaseException:
            blocks.stop()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="pour") as pool:
        futures = [pool.submit(run) for _ in range(workers)]
        try:
            errors = [error for future in futures if (error := future.exception())]
        except BaseException:  # interrupted: the others stop after the block in hand
            blocks.stop()
            raise
    for error in errors:
        if not isinstance(error, _Stopped):
            raise error


class _Stopped(Exception):
    """Another worker has failed."""


class _Turns:
    """The blocks of a blob, handed out in order to whoever asks, each with a turn of its own."""

    def __init__(self, nbytes: int, block_bytes: int) -> None:
        self._nbytes = nbytes
        self._block_bytes = block_bytes
        self._next = 0
        self._turn = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self._nbytes // self._block_bytes)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Number, offset and bytes of the next blocks that nobody has taken yet."""
        while True:
            with self._changed:
                number = self._next
                if self._stopped or number >= self.count:
                    return
                self._next += 1
            offset = number * self._block_bytes
            yield number, offset, min(self._block_bytes, self._nbytes - offset)

    def wait_for(self, number: int) -> None:
        """Wait until all blocks before this one have had their turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._turn == number)
            if self._stopped:
                raise _Stopped

    def end(self, number: int) -> None:
        """End the turn of a block."""
        with self._changed:
            self._turn = number + 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more, and wake those who wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
