"""A walk in parts, by several processes that stage blocks of the same blobs.

All of them make the same plan from the same headers. Who has walked a part says what it found out and
which blocks it staged; who publishes takes that up as if it had walked there itself.

What is left for a tail has no place in the file before all that comes before it is known. So each part
stages it in a room of its own, beyond any file's end: a block's offset is part of its name there, and
its place is settled when it is taken up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.engine.plan import Block, Plan
from pipeline.engine.schedule import Limits
from pipeline.engine.tail import OrderedTail, TailState
from pipeline.engine.walk import Part, walk
from pipeline.engine.work import Work
from pipeline.progress import silent
from pipeline.storage.base import Resumable, Staged, Writer

_ROOM_BYTES = 1 << 40  # more than one part leaves; times the number of blocks it must stay below 2^64


@dataclass(frozen=True, slots=True)
class Stretch:
    """The neighbouring blocks first..stop of a plan, their rows, and the bytes that they move."""

    first: int
    stop: int
    first_row: int
    stop_row: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """What walking a stretch has come to.

    tables: the stretch's rows of each of the work's findings. staged: for each writer, its blocks.
    grown: the tail's blocks in order, in a room of their own.
    """

    tables: Sequence[bytes]
    staged: Sequence[Sequence[Staged]]
    grown: Sequence[Staged]


def stretches(
    plan: Plan, block_bytes: int, part_bytes: int, is_done: Callable[[int], bool]
) -> Iterator[Stretch]:
    """The plan in stretches of about `part_bytes` to move, without what is done at either end of them.

    Where they part depends on plan and sizes alone: so a run that goes on stages the same blocks.
    """
    group: list[Block] = []
    nbytes = 0
    for block in plan.blocks(block_bytes):
        if group and nbytes + block.moved_bytes > part_bytes:
            yield from _stretch(group, is_done)
            group, nbytes = [], 0
        group.append(block)
        nbytes += block.moved_bytes
    yield from _stretch(group, is_done)


def _stretch(group: Sequence[Block], is_done: Callable[[int], bool]) -> Iterator[Stretch]:
    """The stretch of these neighbouring blocks, if there is anything to do."""
    open_blocks = [block for block in group if not is_done(block.number)]
    if open_blocks:
        first, last = open_blocks[0], open_blocks[-1]
        moved = sum(block.moved_bytes for block in open_blocks)
        yield Stretch(first.number, last.number + 1, first.slices[0].row, last.slices[-1].row + 1, moved)


def walk_stretch(
    work: Work,
    limits: Limits,
    stretch: Stretch,
    block_bytes: int,
    *,
    writers: Sequence[Writer],
    tail: OrderedTail | None,
) -> Share:
    """Walk one stretch of `work`, and return what somebody else needs who will publish the whole.

    All outputs must be `Resumable`. `tail` itself is left as it is.
    """
    own = None
    if tail is not None:
        room = _ROOM_BYTES * (1 + stretch.first)
        own = OrderedTail(tail.writer, room)
        own.resume(TailState(stretch.first, room, b""))
    part = Part(block_bytes, range(stretch.first, stretch.stop))
    walk(work, limits, silent, writers=writers, tail=own, part=part)
    grown: list[Staged] = []
    if own is not None:
        own.flush()
        grown = [each for each in _staged(own.writer) if each.offset >= _ROOM_BYTES]
    rows = slice(stretch.first_row, stretch.stop_row)
    return Share(
        [table[rows].tobytes() for table in work.findings],
        [[each for each in _staged(writer) if each.offset < _ROOM_BYTES] for writer in writers],
        sorted(grown, key=lambda each: each.offset),
    )


def take_up(
    share: Share,
    stretch: Stretch,
    work: Work,
    *,
    writers: Sequence[Writer],
    tail: OrderedTail | None,
    blocks: Sequence[tuple[int, int | None, int, int]],
) -> list[int]:
    """Count what a stretch has come to as done here; with a tail, the stretches in order.

    blocks: the stretch's, each with its number, writer, offset and bytes. Returns the numbers of those
    that are still to do: a folder holds small ones back.
    Whether what was staged lies there is seen at the commit, which names it.
    """
    rows = slice(stretch.first_row, stretch.stop_row)
    for table, data in zip(work.findings, share.tables, strict=True):
        found = np.frombuffer(data, table.dtype)
        table[rows] = found.reshape(table[rows].shape)
    found_at = [{each.offset: each for each in staged} for staged in share.staged]
    missing = []
    for number, writer, offset, nbytes in blocks:
        if writer is not None and nbytes:
            each = found_at[writer].get(offset)
            if each is None or each.nbytes != nbytes:
                missing.append(number)
            else:
                _adopt(writers[writer], each)
    if tail is not None:
        tail.flush()  # what an earlier run had left for its next block
        end = tail.end
        for each in share.grown:
            _adopt(tail.writer, Staged(end, each.nbytes, each.mark))
            end += each.nbytes
        tail.resume(TailState(stretch.stop, end, b""))
    return missing


def _staged(writer: Writer) -> list[Staged]:
    assert isinstance(writer, Resumable), "only what stays when its run ends can be handed over"
    return writer.staged()


def _adopt(writer: Writer, block: Staged) -> None:
    assert isinstance(writer, Resumable), "only what stays when its run ends can be taken up"
    writer.adopt(block)
