"""What a run has done so far, kept beside its output, so that a run after a crash goes on from there.

What was staged in a store stays there when a run dies (`Resumable`), but what the run had found out on
the way, the digests above all, would be lost. So every now and then that is written to a small blob
called NAME.journal. A later run with the same key, on whatever machine, adopts the blocks that the
journal names if they are all still there, and does the rest. Its key says everything that the output's
bytes depend on; a journal of anything else, or a damaged one, is as good as none.

    8       "PDJRNL01"
    32      the key
    5 x u64 bytes of a block; blocks; then of the tail: the next block, its end, bytes not yet written
    ...     a bit for each block, the lowest first: whether it is done
    ...     the tables, one after another
    ...     for each writer: u64 N, then N x (u64 offset, u64 bytes, 64 characters)
    ...     the tail's bytes that are not yet written
    32      BLAKE3 of all this
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.plan import Input, Plan, Ragged
from pipeline.engine.tail import OrderedTail, TailState
from pipeline.errors import PipelineError
from pipeline.storage.base import Reader, Resumable, Staged, Store, Writer
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_bytes

SUFFIX = ".journal"
EVERY_S = 20.0
_COST = 30  # times as long as writing a journal took is waited before the next
_MAGIC = b"PDJRNL01"
_HEAD = struct.Struct(f"<8s{DIGEST_BYTES}s5Q")
_COUNT = struct.Struct("<Q")
_STAGED = np.dtype([("offset", "<u8"), ("nbytes", "<u8"), ("mark", "S64")])

Tables = Sequence[NDArray[Any]]

_log = logging.getLogger(__name__)


def run_key(what: str, options: Sequence[Any], readers: Sequence[Reader], plan: Plan) -> Digest:
    """A digest of everything that a run's bytes depend on.

    what: the operation and its version. options: their `repr` must say all. readers: their names and
    versions are what is read.
    """
    parts = [what, *(repr(option) for option in options)]
    parts += [f"{reader.name} {reader.version} {reader.nbytes}" for reader in readers]
    for job in plan.jobs:
        parts.append(f"{job.writer} {job.offset} {job.itemsize} {job.count}")
        for source in job.inputs:
            match source:
                case Input():
                    parts.append(repr(source))
                case Ragged():
                    ends = digest_bytes(source.starts.tobytes() + source.ends.tobytes())
                    parts.append(f"{source.reader} {source.offset} {ends}")
                case None:
                    parts.append("none")
    return digest_bytes("\0".join(parts).encode())


@dataclass(frozen=True, slots=True)
class _State:
    """A journal's content. done: for each block. staged: for each writer."""

    block_bytes: int
    done: NDArray[np.bool_]
    tail: TailState
    tables: bytes
    staged: list[list[Staged]]


class Journal:
    """The journal of one run. `note` and `is_done` may be called from several threads."""

    def __init__(
        self,
        store: Store,
        name: str,
        key: Callable[[], Digest],
        tables: Tables,
        *,
        restart: bool = False,
    ) -> None:
        """Of the output `name`; `tables` are what the run fills in, a row or more for each chunk.

        key: makes the run's key, if it is needed. restart: whether an earlier run's journal is to be
        ignored.
        """
        self._store = store
        self._name = name + SUFFIX
        self._make_key = key
        self._key = Digest(bytes(DIGEST_BYTES))
        self._tables = tables
        self._restart = restart
        self._lock = threading.Lock()
        self._is_saving = False
        self._due = time.monotonic() + EVERY_S
        self._done = np.zeros(0, np.bool_)
        self._writers: Sequence[Resumable] = []
        self._tail: OrderedTail | None = None
        self._block_bytes = 0

    def begin(
        self, plan: Plan, block_bytes: int, writers: Sequence[Writer], tail: OrderedTail | None
    ) -> int:
        """Take up what an earlier run has done; returns how many bytes of the plan's it had moved.

        If the writers can't be taken up again, nothing is done here, now and later.
        """
        outputs = [*writers, *([tail.writer] if tail else [])]
        resumable = [output for output in outputs if isinstance(output, Resumable)]
        if len(resumable) < len(outputs):
            return 0
        self._writers, self._key = resumable, self._make_key()
        blocks = [(block.moved_bytes, block.writer, block.offset, block.nbytes)
                  for block in plan.blocks(block_bytes)]  # fmt: skip
        self._done = np.zeros(len(blocks), np.bool_)
        self._tail, self._block_bytes = tail, block_bytes
        state = None if self._restart else self._load()
        if state is None or state.block_bytes != block_bytes or len(state.done) != len(blocks):
            return 0
        places = [block[1:] for block in blocks] if writers else []
        if not self._adopt(state, places):
            _log.warning("%s: what it says was staged is gone; beginning again", self._store.url)
            return 0
        return sum(block[0] for block, done in zip(blocks, self._done, strict=True) if done)

    def _adopt(self, state: _State, places: Sequence[tuple[int, int, int]]) -> bool:
        """Take up what `state` says was done; False, and nothing is, if any of it is gone.

        places: for each block its writer, offset and bytes; empty if blocks have only a tail.
        """
        found = [{each.offset: each for each in staged} for staged in state.staged]
        done = state.done.copy()
        wanted: list[tuple[Resumable, Staged]] = []
        for number, (writer, offset, nbytes) in enumerate(places):
            if done[number] and nbytes:
                each = found[writer].get(offset)
                if each is None or each.nbytes != nbytes:
                    done[number] = False  # it was small, and held back
                else:
                    wanted.append((self._writers[writer], each))
        if self._tail is not None:
            if not done[: state.tail.next_block].all():
                return False
            begin, end = self._tail.end, state.tail.written
            pieces = [each for each in state.staged[-1] if begin <= each.offset < end]
            wanted += [(self._writers[-1], each) for each in pieces]
            if sum(each.nbytes for each in pieces) != end - begin:
                return False
        if not all(output.has(each) for output, each in wanted):
            return False
        for output, each in wanted:
            output.adopt(each)
        self._fill(state.tables)
        if self._tail is not None:
            self._tail.resume(state.tail)
        self._done[:] = done
        return True

    def is_done(self, number: int) -> bool:
        """Whether block `number` needs not be done again."""
        return bool(self._writers) and bool(self._done[number])

    def note(self, number: int) -> None:
        """Note that block `number` is written, or left to the tail; from time to time, say so."""
        if not self._writers:
            return
        with self._lock:
            self._done[number] = True
            if self._is_saving or time.monotonic() < self._due:
                return
            self._is_saving = True
        began = time.monotonic()
        try:
            self._save()
        finally:
            with self._lock:
                self._is_saving = False
                now = time.monotonic()
                self._due = now + max(EVERY_S, _COST * (now - began))

    def finish(self) -> None:
        """Remove the journal: the output is published."""
        if self._writers:
            with suppress(PipelineError):
                for seen in self._store.look(self._name):
                    if seen.name == self._name:
                        self._store.delete(seen)

    def _save(self) -> None:
        tail, done = TailState(0, 0, b""), self._done
        if self._tail is not None:
            settled = self._tail.settled()
            if settled is None:
                return
            tail, done = settled, np.arange(len(self._done)) < settled.next_block
        with self._lock:
            done = done.copy()
        data = self._to_bytes(
            _State(
                self._block_bytes,
                done,
                tail,
                b"".join(table.tobytes() for table in self._tables),
                [writer.staged() for writer in self._writers],
            )
        )
        try:
            with self._store.create(self._name, size_hint=len(data), overwrite=True) as writer:
                writer.write(0, data)
                writer.commit()
        except PipelineError as error:  # a run can do without
            _log.warning("no journal was written: %s", error)

    def _to_bytes(self, state: _State) -> bytes:
        tail = state.tail
        parts = [
            _HEAD.pack(
                _MAGIC, self._key.raw, state.block_bytes, len(state.done),
                tail.next_block, tail.written, len(tail.ready),
            ),
            np.packbits(state.done, bitorder="little").tobytes(),
            state.tables,
        ]  # fmt: skip
        for staged in state.staged:
            rows = [(each.offset, each.nbytes, each.mark.encode()) for each in staged]
            parts += [_COUNT.pack(len(staged)), np.array(rows, _STAGED).tobytes()]
        data = b"".join((*parts, tail.ready))
        return data + digest_bytes(data).raw

    def _load(self) -> _State | None:
        """What the journal says; None if there is none, or it is of another run."""
        try:
            if self._store.stat(self._name) is None:
                return None
            reader = self._store.open(self._name)
            data = bytearray(reader.nbytes)
            reader.read_into(0, memoryview(data))
            reader.close()
            return self._parse(bytes(data))
        except (PipelineError, ValueError, struct.error) as error:
            _log.warning("%s is not of use: %s", self._name, error)
            return None

    def _parse(self, data: bytes) -> _State | None:
        """The content of `data`. Raises ValueError if it is damaged, None if of another run."""
        body = data[:-DIGEST_BYTES]
        if digest_bytes(body).raw != data[-DIGEST_BYTES:]:
            raise ValueError("it does not match its digest")
        magic, key, block_bytes, blocks, next_block, written, left = _HEAD.unpack_from(body)
        if (magic, key) != (_MAGIC, self._key.raw):
            return None
        at = _HEAD.size
        bits = np.frombuffer(body, np.uint8, -(-blocks // 8), at)
        at += len(bits)
        tables = body[at : at + sum(table.nbytes for table in self._tables)]
        at += len(tables)
        staged = []
        for _ in self._writers:
            (count,) = _COUNT.unpack_from(body, at)
            rows = np.frombuffer(body, _STAGED, count, at + _COUNT.size)
            staged.append([Staged(int(o), int(n), m.decode()) for o, n, m in rows])
            at += _COUNT.size + rows.nbytes
        if len(body) - at != left:
            raise ValueError("it has another length than it should")
        done = np.unpackbits(bits, count=blocks, bitorder="little").astype(np.bool_)
        return _State(block_bytes, done, TailState(next_block, written, body[at:]), tables, staged)

    def _fill(self, data: bytes) -> None:
        """Put the tables back."""
        sizes = [table.nbytes for table in self._tables]
        for table, begin in zip(self._tables, accumulate(sizes, initial=0), strict=False):
            values = np.frombuffer(data, table.dtype, table.size, begin)
            table[...] = values.reshape(table.shape)
