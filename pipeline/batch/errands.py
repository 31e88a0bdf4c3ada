"""What the nodes of a cluster are asked to do, and what they answer: a step, or one part of it.

An errand is plain values. It carries no secret: a node has credentials of its own. Nor does anything
that goes wrong leave the node but as an answer, for what a task raises is shown in logs and dashboards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Unpack

from pipeline.batch.faults import explain
from pipeline.batch.specification import Specification
from pipeline.engine.parts import Share, walk_part
from pipeline.engine.plan import Part
from pipeline.engine.schedule import Limits
from pipeline.engine.walk import Outputs
from pipeline.engine.work import Work
from pipeline.errors import PipelineError, StorageError
from pipeline.progress import Progressing, silent
from pipeline.redaction import redact, redacting
from pipeline.tensors.fingerprint import Digest

# Of whoever publishes, and nobody else's.
_PUBLISHING = ("sign_key", "push_to_hub", "private", "revision", "key", "require_signature")


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of one walk of a step.

    key: of the work that is walked. before: how the walks before it ended, in the operation's course.
    """

    part: Part
    key: Digest
    before: Sequence[PipelineError]


@dataclass(frozen=True, slots=True)
class Errand:
    """A step, or a piece of it, to be done within `memory_bytes` by so many `workers`.

    folder: the current directory of who asks, which relative paths are meant from.
    """

    spec: Specification
    memory_bytes: int
    workers: int
    folder: str
    piece: Piece | None = None

    def of_piece(self, piece: Piece) -> Errand:
        """The errand of one piece of the same step."""
        given = {n: v for n, v in self.spec.arguments.items() if n not in _PUBLISHING}
        return replace(self, spec=replace(self.spec, arguments=given), piece=piece)


@dataclass(frozen=True, slots=True)
class Answer:
    """What has come of an errand: a report, a share, or an error; a bug is known by its words."""

    report: Mapping[str, Any] | None = None
    share: Share | None = None
    error: PipelineError | None = None
    bug: str | None = None

    def check(self) -> Answer:
        """This answer, if it is none of an error. Raises what the node met."""
        if self.error is not None:
            raise self.error
        if self.bug is not None:
            raise RuntimeError(self.bug)
        return self


def run_errand(errand: Errand) -> Answer:
    """Do what is asked, in this process. Nothing but an interrupt is raised."""
    with redacting():
        try:
            return _run(errand)
        except PipelineError as error:
            return Answer(error=_without_secrets(error))
        except Exception as error:
            return Answer(bug=redact(explain(error)[0]))


def _run(errand: Errand) -> Answer:
    with suppress(OSError):  # then only what is read by absolute paths, or from afar, will be found
        os.chdir(errand.folder)
    limits = Limits.of(errand.memory_bytes, errand.workers)
    if errand.piece is None:
        return Answer(report=errand.spec.perform(limits=limits, progress=silent))
    try:
        errand.spec.perform(limits=limits, progress=silent, walker=_PieceWalker(errand.piece))
    except _Ended as ended:
        return ended.answer
    raise AssertionError("an operation has ended without a walk")


class _Ended(Exception):
    """A piece is done, and the operation is left: what is still to do in it is another's."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__("done")


class _PieceWalker:
    """Walks a piece where the operation would walk the whole, and leaves the operation."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._before = list(piece.before)

    def __call__(
        self, work: Work, limits: Limits, progress: Progressing, **outputs: Unpack[Outputs]
    ) -> None:
        """See `Walker`. Raises _Ended, which no operation handles."""
        if self._before:
            raise self._before.pop(0)  # so that the operation takes the same course here
        piece = self._piece
        try:
            if work.key() != piece.key:
                raise StorageError(
                    "this node does not see what the others see: an input has changed, or is another",
                    where=work.title,
                    hint="run it again; local paths must lead to the same files on every node",
                )
            writers, tail = outputs.get("writers", ()), outputs.get("tail")
            share = walk_part(work, limits, piece.part, writers=writers, tail=tail)
        except PipelineError as error:
            raise _Ended(Answer(error=_without_secrets(error))) from error
        raise _Ended(Answer(share=share))


def _without_secrets(error: PipelineError) -> PipelineError:
    """The error as it may travel."""
    for name, value in vars(error).items():
        if isinstance(value, str):
            setattr(error, name, redact(value))
        elif isinstance(value, tuple):
            setattr(error, name, tuple(redact(str(each)) for each in value))
    error.args = tuple(redact(str(each)) for each in error.args)
    return error
