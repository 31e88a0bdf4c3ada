"""Which rows of what is added are no differences, and what counts in them instead of a scaled sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.vocabulary import Vocabulary
from pipeline.deltas.base_rows import whole_rows
from pipeline.errors import Mismatch
from pipeline.operations.addends.addend import Addend
from pipeline.operations.kernels.rows import RowRule


def whole_in_each(addends: Sequence[Addend], names: Sequence[str]) -> list[NDArray[np.bool_]]:
    """For each addend which rows it has whole, for its base had none; all as long as the longest.

    Raises Mismatch if an addend has not the same in all of the tensors `names`.
    """
    count = max(addend.tensors[names[0]].record.shape[0] for addend in addends)
    found = []
    for addend in addends:
        records = [addend.tensors[name].record for name in names]
        places = [whole_rows(r.name, r.shape, r.base_shape, addend.base_rows) for r in records]
        odd = [name for name, each in zip(names, places, strict=True) if each != places[0]]
        if odd:
            raise Mismatch(
                [f"{name} grew by other rows than {names[0]}" for name in odd],
                where=addend.location,
                hint="embedding and head of its base had different numbers of rows: resize them first",
            )
        whole = np.zeros(count, bool)
        for start, stop in places[0]:
            whole[start:stop] = True
        found.append(whole)
    return found


def shares(whole: Sequence[bool], scales: Sequence[float]) -> tuple[float | None, ...]:
    """What each addend's row is multiplied by, where it is whole in some: there it is no difference.

    whole: in which it is. Their mean, weighted by the scales, is what the sum has of them: of one alone
    the row as it is. Where scales can be no weights, the first counts.
    """
    owners = [scale for scale, is_whole in zip(scales, whole, strict=True) if is_whole]
    total = sum(owners)
    if 0 < total < math.inf and min(owners) >= 0:
        return tuple(s / total if is_whole else s for s, is_whole in zip(scales, whole, strict=True))
    first = whole.index(True)
    return tuple(
        (1.0 if number == first else None) if is_whole else scale
        for number, (is_whole, scale) in enumerate(zip(whole, scales, strict=True))
    )


def row_rules(
    kept: AbstractSet[int],
    wholes: Sequence[NDArray[np.bool_]],
    scales: Sequence[float],
    known: Sequence[Vocabulary | None],
) -> tuple[RowRule, ...]:
    """What counts where not everything does, neighbours with the same rule in one.

    kept: rows that are the new base's own. known: each addend's tokens. A row that is whole in any
    addend has no part in the new base; of several, their mean counts. To an addend that has no token
    there the row was padding, and what became of that does not count. That holds for one delta at
    scale 1, too: a method, a factor or a pattern may be at work on its tensor.
    """
    owned = np.flatnonzero(np.logical_or.reduce(wholes)).tolist()
    found: list[RowRule] = []
    for row in sorted({*kept, *owned}):
        keeps_base = row in kept
        mine: tuple[float | None, ...] = (None,) * len(scales)
        if not keeps_base:
            owns = [bool(whole[row]) for whole in wholes]
            counts = [o or v is None or row in v.tokens for o, v in zip(owns, known, strict=True)]
            mine = tuple(s if c else None for s, c in zip(shares(owns, scales), counts, strict=True))
        if found and (found[-1].stop, found[-1].keeps_base, found[-1].scales) == (row, keeps_base, mine):
            found[-1] = replace(found[-1], stop=row + 1)
        else:
            found.append(RowRule(row, row + 1, keeps_base, mine))
    return tuple(found)
