"""How a fusion is walked: surveyed first, then with kernels that know what was found."""

from __future__ import annotations

from dataclasses import replace

from pipeline.engine.walk import timetable_of
from pipeline.engine.work import Work
from pipeline.operations.fit import SumPlan
from pipeline.operations.fusion.survey import Survey
from pipeline.operations.kernels.add import Adding
from pipeline.operations.kernels.deltas import scratch_bytes
from pipeline.operations.kernels.fuse import FuseKernel
from pipeline.operations.setup import Setup
from pipeline.operations.sum import Sum


def fusing_work(work: Work, what: Sum, layout: SumPlan, adding: Adding, setup: Setup) -> Work:
    """The work of a sum, with the kernels and the memory of its fusion.

    What the method must know of whole tensors is found out here; for that they may be read.
    Raises UsageError if the whole does not fit into the memory, before anything is read; Mismatch for
    tensors of which the method can't know that.
    """
    fused, addends = what.fused, what.addends
    more = scratch_bytes(fused.fusion, len(addends))
    work = replace(work, scratch_bytes=work.scratch_bytes + more)
    timetable_of(work, setup.resources.limits)
    recipes = Survey(fused, layout, addends, what.scales, what.readers, setup).recipes()

    return replace(
        work, make_kernel=lambda: FuseKernel.of(adding, setup.resources.arithmetic, fused, recipes)
    )
