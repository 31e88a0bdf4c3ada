"""A run as data: everything that is read, computed and written, known before a byte moves.

Every operation makes one of these from headers alone. What a dry run shows, what memory is needed, how
far a run has come, what an interrupted one had done, and what is done next are all read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from pipeline.engine.plan import Input, Plan, Ragged, Slice
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.version import TOOL

Tables = Sequence[NDArray[Any]]


class Kernel(Protocol):
    """What is done with one slice. An instance belongs to one worker."""

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """Fill `out` from `inputs` (an empty array where the slice has no span).

        What it returns goes to the tail, in the order of slices.
        """


@dataclass(frozen=True)
class Work:
    """A plan, with what it takes to walk it.

    title: what people see. readers: the plan's inputs, by number. make_kernel: a kernel for one worker.
    findings: what kernels find out, tables with a row for each chunk, each filled by one worker.
    options: what the output depends on beside readers and plan; their `repr` must say all.
    scratch_bytes: what a kernel needs at most beside its inputs and its output. left_bytes: what it
    leaves for the tail, at most, for each element.
    """

    title: str
    plan: Plan
    readers: Sequence[Reader]
    make_kernel: Callable[[], Kernel]
    findings: Tables = ()
    options: Sequence[Any] = ()
    scratch_bytes: int = 0
    left_bytes: int = 0

    def key(self) -> Digest:
        """A digest of everything that the output's bytes depend on.

        The readers' names and versions stand for what is read.
        """
        parts = [TOOL, self.title, *(repr(option) for option in self.options)]
        parts += [f"{reader.name} {reader.version} {reader.nbytes}" for reader in self.readers]
        for job in self.plan.jobs:
            parts.append(f"{job.writer} {job.offset} {job.itemsize} {job.count}")
            parts += [_describe(source) for source in job.inputs]
        return digest_bytes("\0".join(parts).encode())


def _describe(source: Input | Ragged | None) -> str:
    match source:
        case Input():
            return repr(source)
        case Ragged():
            ends = digest_bytes(source.starts.tobytes() + source.ends.tobytes())
            return f"{source.reader} {source.offset} {ends}"
    return "none"
