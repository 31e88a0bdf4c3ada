"""Bytes of unknown size that blocks leave behind, written in the order of blocks.

Workers finish blocks in any order; what they leave for the tail must lie in the file in the plan's
order, so that the same inputs give the same bytes with any number of workers.
"""

from __future__ import annotations

import threading

from pipeline.storage.base import Writer
from pipeline.units import MIB

PENDING_BYTES = 16 * MIB  # workers that run ahead of a slow one wait beyond this


class OrderedTail:
    """Appends payloads to a writer from `offset` on, block number 0 first.

    `end` is where the next byte will go once `flush` has been called.
    """

    def __init__(self, writer: Writer, offset: int) -> None:
        self._writer = writer
        self._written = offset
        self._ready = bytearray()
        self._waiting: dict[int, bytes] = {}
        self._waiting_bytes = 0
        self._next = 0
        self._given_up = False
        self._turn = threading.Condition()

    def put(self, number: int, payload: bytes) -> None:
        """Take the payload of block `number`, which may have to wait for those before it."""
        with self._turn:
            self._turn.wait_for(
                lambda: (
                    number == self._next
                    or self._waiting_bytes + len(payload) <= PENDING_BYTES
                    or self._given_up
                )
            )
            self._waiting[number] = payload
            self._waiting_bytes += len(payload)
            while self._next in self._waiting:
                ready = self._waiting.pop(self._next)
                self._waiting_bytes -= len(ready)
                self._next += 1
                self.append(ready)
            self._turn.notify_all()

    def append(self, data: bytes) -> int:
        """Add bytes behind everything so far; returns where they begin in the file."""
        begin = self.end
        self._ready += data
        size = self._writer.block_bytes
        while len(self._ready) >= size:
            self._write(size)
        return begin

    @property
    def end(self) -> int:
        """The offset of the next byte."""
        return self._written + len(self._ready)

    def flush(self) -> None:
        """Write what is left."""
        if self._ready:
            self._write(len(self._ready))

    def give_up(self) -> None:
        """Let waiting workers go on: the run has failed."""
        with self._turn:
            self._given_up = True
            self._turn.notify_all()

    def _write(self, nbytes: int) -> None:
        self._writer.write(self._written, bytes(self._ready[:nbytes]))
        del self._ready[:nbytes]
        self._written += nbytes
