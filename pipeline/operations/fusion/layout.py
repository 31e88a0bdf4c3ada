"""Whether a fusion can be right for what is added, and what it has to read beside the chunks in hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.header import Tensor
from pipeline.engine.plan import Input, Job, Plan, Ragged
from pipeline.errors import Mismatch
from pipeline.operations.addends.addend import Addend
from pipeline.operations.fit import Fitted, SumPlan
from pipeline.operations.fusion.choice import Fusion
from pipeline.operations.fusion.methods import Drop
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import F64, DType

OWN_INPUTS = 2  # of a job: of the new base and of the old one


@dataclass(frozen=True)
class Fused:
    """A fusion for the tensors of one base. factors: see `Selection.factors`."""

    fusion: Fusion
    factors: dict[str, float | None]

    @classmethod
    def of(cls, fusion: Fusion, base: Checkpoint) -> Fused:
        """The fusion onto `base`. Raises UsageError for patterns that match or leave none."""
        return cls(fusion, fusion.selection.factors(base.tensors))

    @property
    def is_plain(self) -> bool:
        """Whether it is the sum of the scaled deltas, on every tensor."""
        return self.fusion.is_plain

    @property
    def key(self) -> tuple[Any, ...]:
        """What the output depends on, beside scales."""
        return () if self.is_plain else (self.fusion,)

    def report(self) -> dict[str, Any]:
        """What the report says of it, if there is anything to say."""
        if self.is_plain:
            return {}
        return {"fusion": self.fusion.described(), "skipped": self.left_out()}

    def adds_to(self, item: Fitted) -> bool:
        """Whether anything is added to a tensor."""
        return self.factors[item.result.name] is not None

    def combines(self, item: Fitted) -> bool:
        """Whether a tensor's deltas are put together in another way than by their sum."""
        combined = self.fusion.method != "linear" and not item.is_whole
        return combined and item.result.dtype.is_float and self.adds_to(item)

    def left_out(self) -> tuple[str, ...]:
        """The tensors that keep the new base's values."""
        return tuple(name for name, factor in self.factors.items() if factor is None)

    def fit(self, fitted: Sequence[Fitted], dtype: DType | None, *, where: str) -> list[Fitted]:
        """`fitted`, where what is left out keeps its form; `dtype` is the result's, if one is asked.

        Raises Mismatch with every tensor for which it can't be right.
        """
        if strange := [text for item in fitted if (text := self._left_out_problem(item))]:
            raise Mismatch(strange, where=where, hint="add to them: see --only and --skip")
        refuse_tensors([text for item in fitted if (text := self._problem(item))], where=where)
        return [
            item if self.adds_to(item) or item.is_grown else _left_out(item, dtype) for item in fitted
        ]

    @staticmethod
    def _is_wide(item: Fitted) -> bool:
        return F64 in (item.base.dtype, *(tensor.record.width for tensor in item.added))

    def _left_out_problem(self, item: Fitted) -> str | None:
        is_settled = item.is_whole or (item.rules and item.result.dtype.is_float)
        if self.adds_to(item) or not item.is_grown or is_settled:
            return None
        return f"{item.result.name} gets more rows, so it can't be left out"

    def _problem(self, item: Fitted) -> str | None:
        name, base, shapes = item.result.name, item.base, {t.record.shape for t in item.added}
        if not self.combines(item):
            return None
        method = self.fusion.method
        if self._is_wide(item):
            return f"{name} is {F64}: {method} is done in float32"
        shapes |= {tensor.record.base_shape for tensor in item.added}
        is_partial = shapes != {base.shape} or len(item.rules) > 0
        if self.fusion.kind.by_angles and is_partial:
            return f"{name} has rows that are not in all models: {method} goes between whole tensors"
        if self.ranks and any(row_width(shape) > CHUNK_ELEMENTS for shape in shapes):
            return f"{name} has rows of more than {CHUNK_ELEMENTS} elements, which {method} would rank"
        return None

    @property
    def ranks(self) -> bool:
        """Whether elements are ranked within their rows."""
        return self.fusion.thins and self.fusion.kind.drops is Drop.RANKED

    def survey_plan(self, layout: SumPlan, numbers: Sequence[int]) -> Plan:
        """The deltas of these jobs, and the base where it counts; nothing comes out."""
        takes_base = self.fusion.method == "slerp"
        jobs = []
        for number in numbers:
            job = layout.plan.jobs[number]
            base = job.inputs[0] if takes_base else None
            inputs = (base, None, *job.inputs[OWN_INPUTS:])
            jobs.append(replace(job, writer=None, offset=0, itemsize=0, inputs=inputs))
        return Plan(jobs)

    def all_reading(self, layout: SumPlan) -> Plan:
        """All that is read: for the sum, and once before it of what must be surveyed."""
        if not self.fusion.surveys:
            return layout.plan
        numbers = [n for n, item in enumerate(layout.tensors) if self.combines(item)]
        return Plan([*layout.plan.jobs, *self.survey_plan(layout, numbers).jobs])

    def with_edges(self, layout: SumPlan, addends: Sequence[Addend]) -> SumPlan:
        """`layout`, which also reads the neighbours of chunks with torn rows, if rows are ranked."""
        if not self.ranks:
            return layout
        jobs = []
        for job, item in zip(layout.plan.jobs, layout.tensors, strict=True):
            if self.combines(item) and any(_has_torn_rows(t.record.shape) for t in item.added):
                job = replace(job, inputs=(*job.inputs, *_neighbours(job)))
            jobs.append(job)
        return replace(layout, plan=Plan(jobs))


def refuse_tensors(problems: Sequence[str], *, where: str) -> None:
    """Raise Mismatch if there are tensors for which a method can't be right, a line for each."""
    if problems:
        hint = "use --method linear, or leave these tensors out with --skip"
        raise Mismatch(problems, where=where, hint=hint)


def row_width(shape: tuple[int, ...]) -> int:
    """Elements of a row: the last dimension's. A vector is one row."""
    return shape[-1] if shape else 1


def _left_out(item: Fitted, dtype: DType | None) -> Fitted:
    form = dtype if dtype and item.base.dtype.is_float else item.base.dtype
    return replace(item, result=Tensor(item.result.name, form, item.base.shape))


def _has_torn_rows(shape: tuple[int, ...]) -> bool:
    """Whether rows go on from one chunk to the next."""
    return len(shape) > 1 and shape[-1] > 0 and CHUNK_ELEMENTS % shape[-1] != 0


def _neighbours(job: Job) -> list[Ragged | None]:
    """For each of a job's inputs but its own, the chunk before; then for each the chunk after."""
    sources = [_ragged(source) for source in job.inputs[OWN_INPUTS:]]
    nothing = np.zeros(1, np.uint64)
    before = [
        source
        and replace(
            source,
            starts=np.concatenate([nothing, source.starts[:-1]]),
            ends=np.concatenate([nothing, source.ends[:-1]]),
        )
        for source in sources
    ]
    after = [
        source and replace(source, starts=source.starts[1:], ends=source.ends[1:]) for source in sources
    ]
    return [*before, *after]


def _ragged(source: Input | Ragged | None) -> Ragged | None:
    """The same bytes, chunk by chunk."""
    if not isinstance(source, Input):
        return source
    step = CHUNK_ELEMENTS * source.itemsize
    starts = np.arange(0, max(source.nbytes, 1), step, dtype=np.uint64)
    ends = np.minimum(starts + np.uint64(step), np.uint64(source.nbytes))
    return Ragged(source.reader, source.offset, starts, ends)
