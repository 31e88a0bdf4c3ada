"""Values of a sum that are not finite: named, and refused where the result's format is at fault."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Mismatch
from pipeline.operations.fit import SumPlan
from pipeline.tensors.dtypes import F16, torch_name


def tensors_with(layout: SumPlan, counts: NDArray[np.int64]) -> tuple[tuple[str, int], ...]:
    """The tensors that have some of what `counts` counts by chunk, and how many."""
    found = []
    for job, item in enumerate(layout.tensors):
        total = int(counts[layout.plan.rows_of(job)].sum())
        if total:
            found.append((item.result.name, total))
    return tuple(found)


def refuse_overflow(layout: SumPlan, overflows: NDArray[np.int64], *, where: str) -> None:
    """Raise Mismatch, with every tensor's name, if finite inputs made values that are not finite.

    Values that were NaN or infinite in an input are not the result's fault: they are only counted.
    """
    found = dict(tensors_with(layout, overflows))
    if not found:
        return
    results = {item.result.name: item.result for item in layout.tensors}
    problems = [
        f"{name}: {count} of {results[name].count} values are beyond {torch_name(results[name].dtype)}"
        for name, count in found.items()
    ]
    is_half = any(results[name].dtype == F16 for name in found)
    hint = "--dtype bfloat16 or float32 has room for them" if is_half else "try a smaller scale"
    raise Mismatch(problems, where=where, hint=hint)
