"""Bytes of unknown size that blocks leave behind, written in the order of blocks.

Workers finish blocks in any order; what they leave for the tail must lie in the file in the plan's
order, so that the same inputs give the same bytes with any number of workers.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from pipeline.storage.base import Writer
from pipeline.units import MIB

PENDING_BYTES = 16 * MIB  # workers that run ahead of a slow one wait beyond this
_SHARE = 8  # of a run's memory, one part of so many may wait


@dataclass(frozen=True, slots=True)
class TailState:
    """How far a tail has come: blocks before `next_block` are in it, bytes before `written` are stored.

    ready: the bytes from there on.
    """

    next_block: int
    written: int
    ready: bytes


class OrderedTail:
    """Appends payloads to `writer` from `offset` on, block number 0 first.

    `end` is where the next byte will go; it is written for good once `flush` has been called.
    """

    def __init__(self, writer: Writer, offset: int) -> None:
        self.writer = writer
        self._written = offset
        self._ready: deque[memoryview] = deque()  # in order, less than a piece between calls
        self._ready_bytes = 0
        self._waiting: dict[int, tuple[bytes, ...]] = {}
        self._held = 0  # bytes that wait for their turn, or for their piece to be written
        self._pending_bytes = PENDING_BYTES
        self._next = 0
        self._given_up = False
        self._under_way: set[int] = set()  # offsets of pieces that are being written
        self._turn = threading.Condition()

    def take_share(self, memory_bytes: int) -> int:
        """Let no more be held than a run of `memory_bytes` can spare; returns all that the tail takes.

        That is also the begun piece. Not in it is what a worker brings, and the piece that it writes.
        """
        self._pending_bytes = min(PENDING_BYTES, memory_bytes // _SHARE)
        return self._pending_bytes + self.writer.block_bytes

    def least_memory(self, others: int) -> int:
        """The least memory of which `others` bytes are left once the tail has taken its share."""
        rest = others + self.writer.block_bytes
        return min(math.ceil(rest * _SHARE / (_SHARE - 1)), rest + PENDING_BYTES)

    def put(self, number: int, *payload: bytes) -> None:
        """Take the payload of block `number`, in parts; it may have to wait for those before it.

        Who completes a piece writes it, while the others go on: uploads are under way side by side.
        """
        nbytes = sum(len(part) for part in payload)
        with self._turn:
            self._turn.wait_for(
                lambda: (
                    number == self._next or self._held + nbytes <= self._pending_bytes or self._given_up
                )
            )
            self._waiting[number] = payload
            self._held += nbytes
            while self._next in self._waiting:
                self._held -= self._take(*self._waiting.pop(self._next))
                self._next += 1
            pieces = self._cut()
            self._held += sum(piece.nbytes for piece in pieces)
            self._under_way |= {piece.offset for piece in pieces}
            self._turn.notify_all()
        while pieces:
            piece = pieces.popleft()
            self.writer.write(piece.offset, b"".join(piece.parts))
            with self._turn:
                self._held -= piece.nbytes
                self._under_way.discard(piece.offset)
                self._turn.notify_all()

    def settled(self) -> TailState | None:
        """How far it has come now, once what is before that is written; None if the run has failed.

        Not for a worker that is writing a piece itself.
        """
        with self._turn:
            state = TailState(self._next, self._written, b"".join(self._ready))
            before = frozenset(self._under_way)
            self._turn.wait_for(lambda: self._given_up or not before & self._under_way)
            return None if before & self._under_way else state

    def resume(self, state: TailState) -> None:
        """Go on from where a run before had come."""
        self._next, self._written = state.next_block, state.written
        self._ready = deque([memoryview(state.ready)] if state.ready else [])
        self._ready_bytes = len(state.ready)

    def append(self, data: bytes) -> int:
        """Add bytes behind everything so far; returns where they begin in the file."""
        begin = self.end
        self._take(data)
        for piece in self._cut():
            self.writer.write(piece.offset, b"".join(piece.parts))
        return begin

    @property
    def end(self) -> int:
        """The offset of the next byte."""
        return self._written + self._ready_bytes

    def flush(self) -> None:
        """Write what is left."""
        if self._ready:
            piece = self._next_piece(self._ready_bytes)
            self.writer.write(piece.offset, b"".join(piece.parts))

    def give_up(self) -> None:
        """Let waiting workers go on: the run has failed."""
        with self._turn:
            self._given_up = True
            self._turn.notify_all()

    def _take(self, *payload: bytes) -> int:
        """Add `payload` to what is ready; returns how many bytes it has."""
        self._ready += [memoryview(part) for part in payload if part]
        nbytes = sum(len(part) for part in payload)
        self._ready_bytes += nbytes
        return nbytes

    def _cut(self) -> deque[_Piece]:
        """All whole pieces of what is ready."""
        size = self.writer.block_bytes
        pieces = deque(self._next_piece(size) for _ in range(self._ready_bytes // size))
        if pieces:  # what is left must not keep alive the payload that it is the end of
            self._ready = deque([memoryview(b"".join(self._ready))] if self._ready else [])
        return pieces

    def _next_piece(self, size: int) -> _Piece:
        piece = _Piece(self._written, size, [])
        missing = size
        while missing:
            part = self._ready.popleft()
            if len(part) > missing:
                self._ready.appendleft(part[missing:])
                part = part[:missing]
            piece.parts.append(part)
            missing -= len(part)
        self._written += size
        self._ready_bytes -= size
        return piece


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes for one write: their place, how many they are, and what they are made of, in order."""

    offset: int
    nbytes: int
    parts: list[memoryview]
