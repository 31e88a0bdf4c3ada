"""Whether a delta points where a base itself has moved: sums over chunks that fold into a cosine.

Summed as norms are, in the order that `tensors.norms` keeps to, so the same bits on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors import kernels
from pipeline.tensors.arithmetic import Operand, Term
from pipeline.tensors.dtypes import BF16, F32, F64, NUMPY_FLOATS, compute_dtype

_LANES = 64
_SAFE = (1e-24, 1e30)  # float32 squares and their sums are trusted between these, as in `tensors.norms`
_PIECE = 1 << 14  # elements at a time, which stay in cache; a multiple of `_LANES`
SCRATCH_BYTES = 8 * 8 * _PIECE  # that `correlate_into` needs


def correlate_into(row: NDArray[np.float64], new: Operand, old: Operand, delta: Term) -> None:
    """Write sum(d * m), sum(d^2), sum(m^2) of one chunk into `row`, where m = new - old.

    d is the delta, exact, before its scale. m and the products are in float32 (float64 if any side is,
    or where float32 would lose them), their sums in float64. Elements that any of the three lacks are
    left out.
    """
    width = compute_dtype(new.dtype, old.dtype, delta.width)
    row[:] = _sums(new, old, delta, NUMPY_FLOATS[width])
    if width == F32 and not all(_SAFE[0] < square < _SAFE[1] for square in row[1:]):
        row[:] = _sums(new, old, delta, NUMPY_FLOATS[F64])


def _sums(new: Operand, old: Operand, delta: Term, width: str) -> list[float]:
    """The three sums, with m and the products in `width`."""
    count = min(len(new.bits), len(old.bits), len(delta.stored.bits))
    moved, added, spare = np.empty((3, _PIECE), width)
    sums = np.zeros((3, _PIECE))
    with np.errstate(all="ignore"):
        for start in range(0, count, _PIECE):
            stop = min(count, start + _PIECE)
            _widen(new, start, stop, moved)
            _widen(old, start, stop, spare)
            moved -= spare
            _widen(delta.stored, start, stop, added)
            _restore(delta, start, stop, added)
            for total, left, right in zip(
                sums, (added, added, moved), (moved, added, moved), strict=True
            ):
                np.multiply(left, right, out=spare)
                total += spare
        lanes = np.add.reduce(sums.reshape(3, -1, _LANES), axis=1)
    return [_sum(each) for each in lanes]


def fold_cosine(rows: NDArray[np.float64]) -> float | None:
    """The cosine of a tensor's delta and movement, or a model's, from its chunks' sums.

    None where one of both is zero or not finite.
    """
    product, delta, moved = (_sum(column) for column in rows.T)
    size = math.sqrt(delta) * math.sqrt(moved) if delta > 0 and moved > 0 else math.nan
    found = product / size if 0 < size < math.inf else math.nan
    return max(-1.0, min(1.0, found)) if math.isfinite(found) else None


def _widen(source: Operand, start: int, stop: int, out: NDArray[Any]) -> None:
    """Fill `out` with the values from `start` to `stop`, and zeros behind them."""
    bits, count = source.bits[start:stop], stop - start
    if source.dtype == BF16 and out.dtype == np.float32:
        kernels.widen_bf16(bits, out[:count])
    elif source.dtype == BF16:
        out[:count] = (bits.astype("<u4") << 16).view("<f4")
    else:
        out[:count] = bits.view(NUMPY_FLOATS[source.dtype])
    out[count:] = 0


def _restore(delta: Term, start: int, stop: int, out: NDArray[Any]) -> None:
    """Give the values what they lost: `docs/delta-format.md`, "How d comes back"."""
    first, last = np.searchsorted(delta.rest_at, (start, stop))
    if last > first:
        at = delta.rest_at[first:last] - np.uint32(start)
        values = out[at].astype(NUMPY_FLOATS[delta.width])
        values.view(f"<i{delta.width.itemsize}")[:] += delta.rest[first:last]
        out[at] = values


def _sum(values: NDArray[np.float64]) -> float:
    try:
        return math.fsum(values.tolist())
    except (OverflowError, ValueError):  # too large; infinities of both signs
        return math.nan
