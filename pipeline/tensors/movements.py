"""Whether a delta points where a base itself has moved: sums over chunks that fold into a cosine.

Summed as norms are, in the order that `tensors.norms` keeps to, so the same bits on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.arithmetic import Operand, Term
from pipeline.tensors.likeness import wide

_LANES = 64
_PIECE = 1 << 15  # elements in float64 at a time; a multiple of `_LANES`
SCRATCH_BYTES = 8 * 8 * _PIECE  # that `correlate_into` needs


def correlate_into(row: NDArray[np.float64], new: Operand, old: Operand, delta: Term) -> None:
    """Write sum(d * m), sum(d^2), sum(m^2) of one chunk into `row`, where m = new - old.

    d is the delta, exact, before its scale. Elements that any of the three lacks are left out.
    """
    count = min(len(new.bits), len(old.bits), len(delta.stored.bits))
    lanes = np.zeros((3, _LANES))
    with np.errstate(all="ignore"):
        for start in range(0, count, _PIECE):
            stop = min(count, start + _PIECE)
            moved = wide(_part(new, start, stop)) - wide(_part(old, start, stop))
            added = _exact(delta, start, stop)
            for sums, product in zip(
                lanes, (added * moved, np.square(added), np.square(moved)), strict=True
            ):
                full = np.zeros(-(-len(product) // _LANES) * _LANES)
                full[: len(product)] = product
                sums += np.add.reduce(full.reshape(-1, _LANES), axis=0)
    row[:] = [_sum(sums) for sums in lanes]


def fold_cosine(rows: NDArray[np.float64]) -> float | None:
    """The cosine of a tensor's delta and movement, or a model's, from its chunks' sums.

    None where one of both is zero or not finite.
    """
    product, delta, moved = (_sum(column) for column in rows.T)
    size = math.sqrt(delta) * math.sqrt(moved) if delta > 0 and moved > 0 else math.nan
    found = product / size if 0 < size < math.inf else math.nan
    return max(-1.0, min(1.0, found)) if math.isfinite(found) else None


def _part(source: Operand, start: int, stop: int) -> Operand:
    size = source.dtype.itemsize
    return Operand(source.data[start * size : stop * size], source.dtype)


def _exact(delta: Term, start: int, stop: int) -> NDArray[np.float64]:
    """d from its stored values and remainders: `docs/delta-format.md`, "How d comes back"."""
    values: NDArray[Any] = wide(_part(delta.stored, start, stop)).astype(f"<f{delta.width.itemsize}")
    first, last = np.searchsorted(delta.rest_at, (start, stop))
    if last > first:
        bits = values.view(f"<i{delta.width.itemsize}")
        bits[delta.rest_at[first:last] - np.uint32(start)] += delta.rest[first:last]
    return values.astype(np.float64)


def _sum(values: NDArray[np.float64]) -> float:
    try:
        return math.fsum(values.tolist())
    except (OverflowError, ValueError):  # too large; infinities of both signs
        return math.nan
