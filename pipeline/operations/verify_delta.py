"""The walk over a delta that proves it: digests, the base, post restored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.alignment import show
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.chunks import ChunkDecoder
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import BASE, POST
from pipeline.deltas.names import as_side_of
from pipeline.deltas.signing import Verifier
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Input, Job, Plan, Ragged, Slice
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.errors import OtherCheckpoint, UsageError
from pipeline.operations.lineage.probing import check_sample
from pipeline.operations.setup import Resources
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.tensors.arithmetic import Arithmetic, Operand, Term, sum_bytes
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into
from pipeline.tensors.norms import SCRATCH_BYTES, measure_into


def check_delta(
    location: str,
    settings: Settings,
    resources: Resources,
    progress: Progressing,
    *,
    base: str | None,
    post: str | None,
    verifier: Verifier | None,
    signature: bytes | None,
) -> dict[str, Any]:
    """Check the delta at `location`; returns what a report says of it."""
    with ExitStack() as stack:
        delta = stack.enter_context(open_delta(location, settings=settings))
        signed_by = None
        if verifier is not None:
            signed_by = verifier.verify(signature, delta.manifest_digest, where=delta.location)
        delta.read_companions()
        models: dict[int, Checkpoint] = {}
        own_base: Checkpoint | None = None
        for side, where in ((BASE, base), (POST, post)):
            if where is not None:
                opened = (
                    open_post(where, own_base, settings=settings)  # an adapter is a post with its base
                    if side == POST and own_base
                    else open_checkpoint(where, settings=settings)
                )
                stack.enter_context(opened)
                models[side] = as_side_of(delta, opened, is_base=side == BASE)
                if side == BASE:
                    own_base = opened
                    models[side] = in_posts_order(models[side], delta.manifest.base_rows)
                check_form(delta, models[side], side)
        run = _Run(delta, models, resources)
        run.check(progress)
        if base is not None:
            check_sample(delta, models[BASE])
        return {
            "location": delta.location,
            "tensors": len(delta.tensors),
            "read_bytes": run.plan.read_bytes,
            "fingerprint": str(delta.manifest.fingerprint),
            "base": models[BASE].location if base else None,
            "post": models[POST].location if post else None,
            "restores_post": True if base and post else None,
            "signed_by": signed_by,
        }


def check_form(delta: Delta, model: Checkpoint, side: int) -> None:
    """Names, formats and shapes must be those that the delta was made of. Raises OtherCheckpoint."""
    what = "base" if side == BASE else "post"
    if (delta.manifest.base if side == BASE else delta.manifest.post) is None:
        raise UsageError(
            f"is a combination, which has no {what} to be compared with",
            where=delta.location,
            hint=f"leave out --{what}",
        )
    problems = []
    for name, stored in delta.tensors.items():
        record = stored.record
        wanted = (record.base_shape, record.base) if side == BASE else (record.shape, record.post)
        source = model.tensors.get(name)
        if source is None:
            problems.append(f"{name} is missing")
        elif (source.entry.shape, source.entry.dtype) != wanted:
            found = f"{show(source.entry.shape)} {source.entry.dtype}"
            problems.append(f"{name} is {found}, not {show(wanted[0])} {wanted[1]}")
    problems += [f"{name} is not in the delta" for name in model.tensors if name not in delta.tensors]
    if problems:
        raise _other(delta, model, what, problems, "")


def _other(
    delta: Delta, model: Checkpoint, what: str, problems: Sequence[str], extent: str
) -> OtherCheckpoint:
    shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" * (len(problems) > 10))
    identity = delta.manifest.base if what == "base" else delta.manifest.post
    said = f"{identity.location}" if identity else "?"
    return OtherCheckpoint(
        f"is not the {what} of {delta.location}, which was {said}: {len(problems)} of "
        f"{len(delta.tensors)} tensors differ{extent}: {shown}",
        where=model.location,
        hint="compare revisions with `cli.py inspect`",
    )


@dataclass
class _Run:
    """A delta with the checkpoints to compare it with."""

    delta: Delta
    models: Mapping[int, Checkpoint]
    resources: Resources
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        self._stored = list(self.delta.tensors.values())
        rooms = (stored.count * stored.record.post.itemsize for stored in self._stored)
        places = accumulate(rooms, initial=0)
        self.plan = Plan([self._job(each, at) for each, at in zip(self._stored, places, strict=False)])

    def _job(self, stored: StoredTensor, offset: int) -> Job:
        """Inputs: the delta's two parts, base, post. What comes out is room for the restored chunk."""
        first = 1
        inputs: list[Input | Ragged | None] = [*self.delta.inputs(stored, 0)]
        for side in (BASE, POST):
            model = self.models.get(side)
            inputs.append(model.input(stored.record.name, first) if model else None)
            first += len(model.readers) if model else 0
        return Job(None, offset, stored.record.post.itemsize, stored.count, tuple(inputs))

    def check(self, progress: Progressing) -> None:
        """Walk, then raise OtherCheckpoint if anything was another than it should be."""
        found = _Found.empty(self.plan.rows)
        delta = self.delta
        models = [self.models[side] for side in (BASE, POST) if side in self.models]
        work = Work(
            title=f"verify {delta.location}",
            plan=self.plan,
            readers=[delta.reader, *(reader for model in models for reader in model.readers)],
            make_kernel=lambda: _Check(
                self._stored, set(self.models), found, delta.decoder(), self.resources.arithmetic()
            ),
            findings=[found.differs, found.lost, found.distances],
            scratch_bytes=sum_bytes(delta.dtypes) + SCRATCH_BYTES + delta.decoding_bytes,
        )
        walk(work, self.resources.limits, progress)
        for side, what in ((BASE, "base"), (POST, "post")):
            if side in self.models and (problems := self._differing(found.differs[:, side])):
                raise _other(delta, self.models[side], what, problems, self._extent(found, side))
        if problems := self._differing(found.lost):
            raise _other(delta, self.models[POST], "post", problems, " from what is restored")

    def _differing(self, rows: NDArray[np.bool_]) -> list[str]:
        """The tensors of which any chunk differs."""
        return [
            stored.record.name
            for job, stored in enumerate(self._stored)
            if rows[self.plan.rows_of(job)].any()
        ]

    def _extent(self, found: _Found, side: int) -> str:
        """How much differs, and with both checkpoints at hand how far the base is off."""
        text = f", {found.differs[:, side].mean():.1%} of the chunks"
        size = self.delta.manifest.base_l2
        away = float(found.distances.sum())
        if side == BASE and POST in self.models and size and math.isfinite(away):
            text += f", relative distance {math.sqrt(away) / size:.3g}"
        return text


@dataclass(frozen=True)
class _Found:
    """What differs in each chunk. distances: sum of squares of base' - base."""

    differs: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    distances: NDArray[np.float64]

    @classmethod
    def empty(cls, rows: int) -> _Found:
        """Tables for `rows` chunks."""
        return cls(np.zeros((rows, 2), bool), np.zeros(rows, bool), np.zeros(rows))


@dataclass
class _Check:
    """One worker's kernel: a delta's chunk and its counterparts in; what differs is noted."""

    stored: Sequence[StoredTensor]
    sides: set[int]
    found: _Found
    decode: ChunkDecoder
    arithmetic: Arithmetic

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        item = self.stored[part.job]
        values, rest, base, post = inputs
        stored, corrections = self.decode(item, part.chunk, values, rest)
        for side, data in ((BASE, base), (POST, post)):
            if side in self.sides:
                self.found.differs[part.row, side] = _differs(item.digests[part.chunk, side], data)
        if self.sides != {BASE, POST}:
            return b""
        record = item.record
        if record.carried:
            self.found.lost[part.row] = not np.array_equal(stored, post)
            return b""
        term = Term(
            Operand(stored, record.stored), 1.0, corrections.rest_at, corrections.rest, record.width
        )
        restored = Operand(out, record.post)
        self.arithmetic.add(Operand(base, record.base), [term], restored)
        if self.found.differs[part.row, BASE]:
            self._measure(part.row, Operand(post, record.post), restored)
            return b""
        restored.bits[corrections.lost_at] = corrections.lost
        self.found.lost[part.row] = not np.array_equal(out, post)
        return b""

    def _measure(self, row: int, post: Operand, restored: Operand) -> None:
        """base' + d - post is base' - base, near enough."""
        sums = np.empty(3)
        measure_into(sums, restored, post)
        self.found.distances[row] = sums[0]


def _differs(digest: NDArray[np.uint8], data: Bytes) -> bool:
    found = np.empty(DIGEST_BYTES, np.uint8)
    if not len(data):
        return False  # rows that only post has
    digest_into(found, data.data)
    return not np.array_equal(found, digest)
