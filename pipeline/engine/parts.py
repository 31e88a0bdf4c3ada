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

from pipeline.engine.plan import Block, Part
from pipeline.engine.schedule import Limits
from pipeline.engine.tail import OrderedTail, TailState
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.progress import silent
from pipeline.storage.base import Resumable, Staged, Writer

_ROOM_BYTES = 1 << 40  # more than one part leaves; times the number of blocks it must stay below 2^64


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block goes, and what it takes: see `Block`."""

    number: int
    writer: int | None
    offset: int
    nbytes: int
    moved_bytes: int
    first_row: int
    stop_row: int

    @classmethod
    def of(cls, block: Block) -> Place:
        """The place of `block`, without its slices: a large plan has many."""
        rows = block.slices[0].row, block.slices[-1].row + 1
        return cls(block.number, block.writer, block.offset, block.nbytes, block.moved_bytes, *rows)


@dataclass(frozen=True, slots=True)
class Share:
    """What walking a part has come to.

    tables: the part's rows of each of the work's findings. staged: for each writer, its blocks.
    grown: the tail's blocks in order, in a room of their own.
    """

    tables: Sequence[bytes]
    staged: Sequence[Sequence[Staged]]
    grown: Sequence[Staged]


def part_of(places: Sequence[Place], block_bytes: int) -> Part:
    """The part of these neighbouring blocks."""
    first, last = places[0], places[-1]
    return Part(block_bytes, first.number, last.number + 1, first.first_row, last.stop_row)


def cut(
    places: Sequence[Place], part_bytes: int, is_done: Callable[[int], bool]
) -> Iterator[Sequence[Place]]:
    """Neighbouring blocks that move about `part_bytes` together, without what is done at either end.

    Where they part depends on plan and sizes alone: so a run that goes on stages the same blocks.
    """
    group: list[Place] = []
    nbytes = 0
    for place in places:
        if group and nbytes + place.moved_bytes > part_bytes:
            yield from _open(group, is_done)
            group, nbytes = [], 0
        group.append(place)
        nbytes += place.moved_bytes
    yield from _open(group, is_done)


def _open(group: Sequence[Place], is_done: Callable[[int], bool]) -> Iterator[Sequence[Place]]:
    """These neighbours from the first that is not done to the last, if there is any."""
    undone = [number for number, place in enumerate(group) if not is_done(place.number)]
    if undone:
        yield group[undone[0] : undone[-1] + 1]


def walk_part(
    work: Work,
    limits: Limits,
    part: Part,
    *,
    writers: Sequence[Writer],
    tail: OrderedTail | None,
) -> Share:
    """Walk a part of `work`, and return what somebody else needs who will publish the whole.

    All outputs must be `Resumable`. `tail` itself is left as it is.
    """
    own = None
    if tail is not None:
        room = _ROOM_BYTES * (1 + part.first)
        own = OrderedTail(tail.writer, room)
        own.resume(TailState(part.first, room, b""))
    walk(work, limits, silent, writers=writers, tail=own, part=part)
    grown: list[Staged] = []
    if own is not None:
        own.flush()
        grown = [each for each in _staged(own.writer) if each.offset >= _ROOM_BYTES]
    rows = slice(part.first_row, part.stop_row)
    return Share(
        [table[rows].tobytes() for table in work.findings],
        [[each for each in _staged(writer) if each.offset < _ROOM_BYTES] for writer in writers],
        sorted(grown, key=lambda each: each.offset),
    )


def take_up(
    share: Share,
    places: Sequence[Place],
    work: Work,
    *,
    writers: Sequence[Writer],
    tail: OrderedTail | None,
) -> list[Place]:
    """Count what walking the part of these blocks has come to as done here; with a tail, in order.

    Returns those that are still to do: a folder's writers hold small ones back. Whether what was staged
    lies there is seen at the commit, which names it.
    """
    rows = slice(places[0].first_row, places[-1].stop_row)
    for table, data in zip(work.findings, share.tables, strict=True):
        table[rows] = np.frombuffer(data, table.dtype).reshape(table[rows].shape)
    found = [{each.offset: each for each in staged} for staged in share.staged]
    missing = []
    for place in places:
        if place.writer is not None and place.nbytes:
            each = found[place.writer].get(place.offset)
            if each is None or each.nbytes != place.nbytes:
                missing.append(place)
            else:
                _adopt(writers[place.writer], each)
    if tail is not None:
        tail.flush()  # what an earlier run had left for its next block
        end = tail.end
        for each in share.grown:
            _adopt(tail.writer, Staged(end, each.nbytes, each.mark))
            end += each.nbytes
        tail.resume(TailState(places[-1].number + 1, end, b""))
    return missing


def _staged(writer: Writer) -> list[Staged]:
    assert isinstance(writer, Resumable), "only what stays when its run ends can be handed over"
    return writer.staged()


def _adopt(writer: Writer, block: Staged) -> None:
    assert isinstance(writer, Resumable), "only what stays when its run ends can be taken up"
    writer.adopt(block)
