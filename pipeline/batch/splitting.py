"""One large step on several nodes: they stage blocks of the same blobs, committed once, here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol, Unpack

from pipeline.batch.errands import Answer, Errand, Piece
from pipeline.engine.journal import Journal
from pipeline.engine.parts import Place, Share, cut, part_of, take_up
from pipeline.engine.schedule import Limits
from pipeline.engine.tail import OrderedTail
from pipeline.engine.walk import Outputs, timetable_of, walk
from pipeline.engine.work import Work
from pipeline.errors import PipelineError
from pipeline.progress import Progressing, silent
from pipeline.storage.base import Resumable, Writer
from pipeline.units import GIB

PIECE_BYTES = 4 * GIB  # to read and write: long beside opening the inputs, short beside the whole
MOST_PIECES = 256


class Nodes(Protocol):
    """Those who run errands."""

    def run(self, errands: Sequence[Errand], watch: Callable[[], None]) -> Generator[tuple[int, Answer]]:
        """The answers with the errands' numbers, as they come; `watch` is called now and then.

        Once the iterator is closed, nothing that is still under way is wanted.
        """


class NotSplit(Exception):
    """The outputs are such that one process must write them."""


@dataclass
class SplitWalker:
    """A `Walker` of the step of `errand`, with `nodes` to do the work. piece_bytes: to move in each.

    limits: of one node. What this process does itself is the little that a folder's writers hold back.
    """

    errand: Errand
    nodes: Nodes
    limits: Limits
    piece_bytes: int = PIECE_BYTES
    _ended: list[PipelineError] = field(default_factory=list, init=False)  # how walks before this did

    def __call__(
        self, work: Work, limits: Limits, progress: Progressing, **outputs: Unpack[Outputs]
    ) -> None:
        """See `Walker`. Raises NotSplit before anything is done."""
        writers, tail = outputs.get("writers", ()), outputs.get("tail")
        journal = outputs.get("journal")
        if not all(map(_can_be_shared, [*writers, *([tail.writer] if tail else [])])):
            raise NotSplit
        try:
            self._walk(work, progress, writers, tail, journal)
        except PipelineError as error:
            self._ended.append(error)
            raise
        except KeyboardInterrupt:
            if journal is not None:
                journal.keep()
            raise

    def _walk(
        self,
        work: Work,
        progress: Progressing,
        writers: Sequence[Writer],
        tail: OrderedTail | None,
        journal: Journal | None,
    ) -> None:
        size = timetable_of(work, self.limits, writers=writers, tail=tail).block_bytes
        places = [Place.of(block) for block in work.plan.blocks(size)]
        is_done = journal.is_done if journal is not None else lambda number: False
        held_back: list[Place] = []
        with progress(work.title, work.plan.moved_bytes) as advance:
            if journal is not None:
                advance(journal.begin(size, writers, tail))
            wanted = list(cut(places, self._part_bytes(work), is_done))
            for mine, share in self._shares(work, wanted, size, advance):
                missing = take_up(share, mine, work, writers=writers, tail=tail)
                held_back += missing
                if journal is not None:
                    for place in mine:
                        if place not in missing:
                            journal.note(place.number)
            for place in held_back:
                walk(work, self.limits, silent, writers=writers, part=part_of([place], size))

    def _part_bytes(self, work: Work) -> int:
        return max(self.piece_bytes, work.plan.moved_bytes // MOST_PIECES)

    def _shares(
        self,
        work: Work,
        wanted: Sequence[Sequence[Place]],
        block_bytes: int,
        advance: Callable[[int], None],
    ) -> Iterator[tuple[Sequence[Place], Share]]:
        """What the nodes make of these blocks, in order."""
        key, before = work.key(), tuple(self._ended)
        errands = [
            self.errand.of_piece(Piece(part_of(places, block_bytes), key, before)) for places in wanted
        ]
        waiting: dict[int, Share] = {}
        order = deque(range(len(wanted)))
        with closing(self.nodes.run(errands, lambda: advance(0))) as answers:
            for number, answer in answers:
                share = answer.check().share
                assert share is not None
                waiting[number] = share
                advance(sum(place.moved_bytes for place in wanted[number]))
                while order and order[0] in waiting:
                    number = order.popleft()
                    yield wanted[number], waiting.pop(number)


def _can_be_shared(output: Writer) -> bool:
    """Whether several processes can stage what it will publish."""
    return isinstance(output, Resumable) and output.is_remote
