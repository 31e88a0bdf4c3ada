"""What a run has done so far, kept beside its output, so that a run after a crash goes on from there.

What was staged in a store stays there when a run dies (`Resumable`), but what the run had found out on
the way, the digests above all, would be lost. So every now and then that is written to a small blob
called NAME.journal. A later run with the same key, on whatever machine, adopts the blocks that the
journal names if they are all still there, and does the rest. Its key says everything that the output's
bytes depend on; a journal of anything else, or a damaged one, is as good as none.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import numpy as np

from pipeline.engine.journal_format import JournalState, parse_journal
from pipeline.engine.tail import OrderedTail, TailState
from pipeline.engine.work import Work
from pipeline.errors import PipelineError
from pipeline.storage.base import Resumable, Staged, Store, Writer
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest

SUFFIX = ".journal"
EVERY_S = 20.0
_COST = 30  # times as long as writing a journal took is waited before the next

_log = logging.getLogger(__name__)


class Journal:
    """The journal of one run. `note` and `is_done` may be called from several threads."""

    def __init__(self, store: Store, name: str, work: Work, *, restart: bool = False) -> None:
        """Of the work whose output is `name`. restart: whether to ignore an earlier run's journal."""
        self._store = store
        self._name = name + SUFFIX
        self._work = work
        self._key = Digest(bytes(DIGEST_BYTES))
        self._tables = work.findings
        self._restart = restart
        self._lock = threading.Lock()
        self._is_saving = False
        self._due = time.monotonic() + EVERY_S
        self._done = np.zeros(0, np.bool_)
        self._writers: Sequence[Resumable] = []
        self._tail: OrderedTail | None = None
        self._block_bytes = 0

    def begin(self, block_bytes: int, writers: Sequence[Writer], tail: OrderedTail | None) -> int:
        """Take up what an earlier run has done; returns how many bytes of the plan's it had moved.

        If the writers can't be taken up again, nothing is done here, now and later.
        """
        outputs = [*writers, *([tail.writer] if tail else [])]
        resumable = [output for output in outputs if isinstance(output, Resumable)]
        if len(resumable) < len(outputs):
            return 0
        self._writers, self._key = resumable, self._work.key()
        blocks = [(block.moved_bytes, block.writer, block.offset, block.nbytes)
                  for block in self._work.plan.blocks(block_bytes)]  # fmt: skip
        self._done = np.zeros(len(blocks), np.bool_)
        self._tail, self._block_bytes = tail, block_bytes
        state = None if self._restart else self._load()
        if state is None or state.block_bytes != block_bytes or len(state.done) != len(blocks):
            return 0
        if not self._adopt(state, [block[1:] for block in blocks]):
            _log.warning("%s: what it says was staged is gone; beginning again", self._store.url)
            return 0
        return sum(block[0] for block, done in zip(blocks, self._done, strict=True) if done)

    def _adopt(self, state: JournalState, places: Sequence[tuple[int | None, int, int]]) -> bool:
        """Take up what `state` says was done; False, and nothing is, if any of it is gone.

        places: for each block its writer, offset and bytes.
        """
        found = [{each.offset: each for each in staged} for staged in state.staged]
        done = state.done.copy()
        wanted: list[tuple[Resumable, Staged]] = []
        for number, (writer, offset, nbytes) in enumerate(places):
            if writer is not None and done[number] and nbytes:
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

    def keep(self) -> None:
        """Say what is done: the run ends here, and another may go on."""
        if self._writers and self._done.any():
            self._save()

    def finish(self) -> None:
        """Remove the journal: the output is published."""
        if self._writers:
            with suppress(PipelineError):
                for seen in self._store.list(self._name):
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
        tables = b"".join(table.tobytes() for table in self._tables)
        staged = [writer.staged() for writer in self._writers]
        data = JournalState(self._block_bytes, done, tail, tables, staged).to_bytes(self._key)
        try:
            with self._store.create(self._name, size_hint=len(data), overwrite=True) as writer:
                writer.write(0, data)
                writer.commit()
        except PipelineError as error:  # a run can do without
            _log.warning("no journal was written: %s", error)

    def _load(self) -> JournalState | None:
        """What the journal says; None if there is none, or it is of another run."""
        try:
            if self._store.stat(self._name) is None:
                return None
            reader = self._store.open(self._name)
            data = bytearray(reader.nbytes)
            reader.read_into(0, memoryview(data))
            reader.close()
            size = sum(table.nbytes for table in self._tables)
            return parse_journal(bytes(data), self._key, tables_bytes=size, writers=len(self._writers))
        except (PipelineError, ValueError, struct.error) as error:
            _log.warning("%s is not of use: %s", self._name, error)
            return None

    def _fill(self, data: bytes) -> None:
        """Put the tables back."""
        sizes = [table.nbytes for table in self._tables]
        for table, begin in zip(self._tables, accumulate(sizes, initial=0), strict=False):
            values = np.frombuffer(data, table.dtype, table.size, begin)
            table[...] = values.reshape(table.shape)
