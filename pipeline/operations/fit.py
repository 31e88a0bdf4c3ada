"""Whether addends fit a new base, tensor by tensor, and the plan of the sum if they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline.checkpoints.alignment import is_absent, is_grown, name_problems, show
from pipeline.checkpoints.buffers import is_buffer
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.header import Entry, Tensor
from pipeline.checkpoints.kept_digests import Rows
from pipeline.checkpoints.output import Shard, plan_shards
from pipeline.engine.plan import Input, Job, Plan, Ragged
from pipeline.errors import Mismatch
from pipeline.operations.addends.addend import AddedTensor, Addend
from pipeline.operations.kernels.rows import RowRule
from pipeline.tensors.dtypes import DType

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """One tensor of the result: the new base's entry, each addend's tensor, and the result's form."""

    base: Entry
    added: tuple[AddedTensor, ...]
    result: Tensor
    rules: tuple[RowRule, ...] = ()  # for rows in which not everything counts

    @property
    def is_whole(self) -> bool:
        """Whether the new base has nothing of it, so that it is a post's own."""
        return is_absent(self.base.shape, self.result.shape)

    @property
    def is_grown(self) -> bool:
        """Whether the result has rows that the new base lacks."""
        return self.result.shape != self.base.shape


@dataclass(frozen=True)
class SumPlan:
    """The result's shards, its tensors in the order of the plan's jobs, and the plan."""

    shards: Sequence[Shard]
    tensors: Sequence[Fitted]
    plan: Plan

    def by_tensor(self, table: Rows) -> dict[str, Rows]:
        """The rows of each of the result's tensors in a table with a row for each chunk."""
        return {item.result.name: table[self.plan.rows_of(job)] for job, item in enumerate(self.tensors)}

    def carried(self) -> tuple[str, ...]:
        """The tensors that are taken whole from a post, for they are not float and differ from its base.

        To find that out, those of differences are read.
        """
        return tuple(
            item.result.name
            for item in self.tensors
            if any(tensor.record.carried and tensor.changed for tensor in item.added)
        )


def fit(
    base: Checkpoint, addends: Sequence[Addend], *, dtype: DType | None, as_post: bool
) -> list[Fitted]:
    """Each tensor of `base` with those of `addends`, in the order of base's files.

    dtype: the result's float format, None being the new base's own, or post's if `as_post`.
    Raises Mismatch with every tensor that is missing somewhere or has another shape.
    """
    problems: list[str] = []
    for addend in addends:
        problems += name_problems(base.tensors, addend.tensors, "the new base", addend.location)
    fitted = []
    for name, source in base.tensors.items():
        entry = source.entry
        having = [addend for addend in addends if name in addend.tensors]
        added = tuple(addend.tensors[name] for addend in having)
        problems += [
            _describe(entry, tensor, addend)
            for tensor, addend in zip(added, having, strict=True)
            if not _fits(entry, base.vocab_size, tensor, addend.vocab_size)
        ]
        if len(added) == len(addends):
            form = _result_dtype(entry, added, dtype, as_post=as_post)
            shape = max([entry.shape, *(t.record.shape for t in added)], key=math.prod)
            if form != entry.dtype and not entry.dtype.is_float and entry.shape != shape:
                problems.append(f"{name} is {entry.dtype} in the new base, but {form} rows are added")
            fitted.append(Fitted(entry, added, Tensor(name, form, shape)))
    if problems:
        raise Mismatch(
            problems,
            where=f"{base.location} and {', '.join(addend.location for addend in addends)}",
            hint="a delta fits only bases of the architecture it was made on: compare them "
            "with `cli.py inspect`",
        )
    return fitted


def _result_dtype(
    entry: Entry, added: Sequence[AddedTensor], dtype: DType | None, *, as_post: bool
) -> DType:
    """The format of one result: carried tensors keep the base's unless an addend changed them."""
    if entry.dtype.is_float:
        if is_buffer(entry.name, entry.shape) and not as_post:
            return entry.dtype  # computed by the architecture in a format of its own
        return dtype or (added[0].record.post if as_post else entry.dtype)
    if all(tensor.record.post == entry.dtype for tensor in added):
        return entry.dtype  # whatever has changed: to know that, it may have to be read
    changed = [tensor.record.post for tensor in added if tensor.changed]
    return changed[-1] if changed else entry.dtype


def _fits(entry: Entry, vocab: int | None, tensor: AddedTensor, post_vocab: int | None) -> bool:
    shape = tensor.record.shape
    if entry.dtype.is_float != tensor.record.post.is_float:
        return False
    if entry.shape == shape or is_grown(shape, post_vocab, entry.shape, vocab):
        return True
    if is_absent(entry.shape, shape) and is_absent(tensor.record.base_shape, shape):
        return True  # carried whole
    # Rows that the new base lacks must be post's own: a difference added to nothing means nothing.
    has_old_rows = entry.shape[:1] >= tensor.record.base_shape[:1]
    return has_old_rows and is_grown(entry.shape, vocab, shape, post_vocab)


def _describe(entry: Entry, tensor: AddedTensor, addend: Addend) -> str:
    ours = f"{show(entry.shape)} {entry.dtype}"
    shapes = dict.fromkeys((show(tensor.record.base_shape), show(tensor.record.shape)))
    theirs = f"{' → '.join(shapes)} {tensor.record.post}"
    return f"{entry.name} is {ours} in the new base, {theirs} in {addend.location}"


def plan_sum(
    base: Checkpoint,
    old: Checkpoint | None,
    addends: Sequence[Addend],
    fitted: Sequence[Fitted],
    *,
    shard_bytes: int,
) -> SumPlan:
    """The result's layout: a job per tensor, in the order of the shards' bytes.

    Inputs of a job are the new base's tensor and the old one's, if there is one, then for each addend
    the two that its decoder takes.
    """
    by_name = {item.result.name: item for item in fitted}
    shards = plan_shards([item.result for item in fitted], shard_bytes)
    old_readers = old.readers if old else ()
    own = len(base.readers) + len(old_readers)
    firsts = list(accumulate((len(addend.readers) for addend in addends), initial=own))
    ordered: list[Fitted] = []
    jobs: list[Job] = []
    for number, shard in enumerate(shards):
        for tensor, offset in zip(shard.tensors, shard.offsets, strict=True):
            item = by_name[tensor.name]
            before = old.input(tensor.name, len(base.readers)) if old else None
            inputs: list[Input | Ragged | None] = [base.input(tensor.name), before]
            for addend, first in zip(addends, firsts, strict=False):
                inputs += addend.inputs(tensor.name, first)
            ordered.append(item)
            jobs.append(Job(number, offset, tensor.dtype.itemsize, tensor.count, tuple(inputs)))
    return SumPlan(shards, ordered, Plan(jobs))
