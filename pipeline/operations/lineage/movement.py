"""What a pass over all weights finds out of two bases and a delta: how far, which way, how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.operations.fit import SumPlan
from pipeline.operations.lineage.figures import Extreme
from pipeline.tensors.movements import fold_cosine
from pipeline.tensors.norms import fold

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Movements:
    """Tables with a row for each chunk, written by one worker each.

    change: see `tensors.norms`, of result - new base. distance: the same of new base - old base, where
    that is read. way: see `tensors.movements`, of the first delta and new base - old base.
    """

    change: Table
    distance: Table
    way: Table

    def summary(self, layout: SumPlan, *, has_old: bool) -> dict[str, Any]:
        """What the report of `layout` says of them. has_old: whether the old base was read."""
        change, extremes = _figures(layout, self.change, _relative)
        found: dict[str, Any] = {"relative_change": change, "change_extremes": extremes}
        if has_old:
            _, found["distance_extremes"] = _figures(layout, self.distance, _relative)
            found["movement_cosine"], found["movement_extremes"] = _figures(
                layout, self.way, fold_cosine
            )
        return found


def _figures(
    layout: SumPlan, rows: Table, of: Callable[[Table], float | None]
) -> tuple[float | None, list[Extreme]]:
    """A figure of the whole, and the least and the greatest of any tensor."""
    known = [
        Extreme(item.result.name, value)
        for job, item in enumerate(layout.tensors)
        if (value := of(rows[layout.plan.rows_of(job)])) is not None
    ]
    ordered = sorted(known, key=lambda each: (each.value, each.tensor))
    return of(rows), [*ordered[:1], *ordered[1:][-1:]]


def _relative(rows: Table) -> float | None:
    norms = fold(rows)
    return norms.delta_l2 / norms.base_l2 if norms.base_l2 and norms.delta_l2 is not None else None
