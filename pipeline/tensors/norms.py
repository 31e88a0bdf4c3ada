"""How large a chunk's delta is, and its base: sums that fold into norms of tensors and models.

The same bits on every machine, for manifests must be: sums are folded in an order that is written down,
not in one that depends on a processor's vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors import kernels
from pipeline.tensors.arithmetic import Operand
from pipeline.tensors.dtypes import BF16, NUMPY_FLOATS

_LANES = 64  # sums side by side, each in order
_SAFE = (1e-24, 1e30)  # float32 squares and their sums are trusted between these
_PIECE = 1 << 15  # elements that are widened to float64 at a time; a multiple of `_LANES`
SCRATCH_BYTES = 4 * 8 * _PIECE  # that `measure_into` needs


@dataclass(frozen=True, slots=True)
class Norms:
    """L2 norms of delta and base, and the largest |delta|; None where they are not finite."""

    delta_l2: float | None = None
    base_l2: float | None = None
    delta_max: float | None = None


def measure_into(
    row: NDArray[np.float64], post: Operand, base: Operand, squares: NDArray[np.float64] | None = None
) -> None:
    """Write sum(d^2), sum(base^2), max|d| of one chunk into `row`, where d = post - base.

    `base` may be shorter than `post`: what it lacks counts as zero. squares: of a `Subtracted` of them.
    """
    if post.dtype == base.dtype == BF16 and len(post.data) == len(base.data):
        if squares is None:
            kernels.norms_bf16(post.bits, base.bits, row)
        else:
            row[:] = squares
        if _are_safe(*row.tolist()):
            return
    lanes = np.zeros((2, _LANES))
    largest = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(post.bits), _PIECE):
            delta, others = (_piece(side, start) for side in (post, base))
            delta[: len(others)] -= others
            for sums, values in zip(lanes, (delta, others), strict=True):
                sums += np.add.reduce(np.square(values).reshape(-1, _LANES), axis=0)
            largest = float(np.maximum(largest, np.max(np.abs(delta, out=delta))))
    row[:] = *(_sum(sums) for sums in lanes.tolist()), largest


def fold(rows: NDArray[np.float64]) -> Norms:
    """The norms of a tensor, or of a model, from its chunks' sums, an array of shape (chunks, 3)."""
    deltas, bases, sizes = rows.T.tolist()
    finite = all(map(math.isfinite, sizes))
    return Norms(_root(deltas), _root(bases), max(sizes, default=0.0) if finite else None)


def _are_safe(delta: float, base: float, largest: float) -> bool:
    """Whether sums in float32 neither overflowed nor lost what is too small for it."""
    return (largest == 0 or _SAFE[0] < delta < _SAFE[1]) and _SAFE[0] < base < _SAFE[1]


def _root(squares: Sequence[float]) -> float | None:
    total = _sum(squares)
    return math.sqrt(total) if math.isfinite(total) else None


def _sum(values: Sequence[float]) -> float:
    """The exact sum, rounded once; NaN if it or a value is not finite."""
    try:
        total = math.fsum(values)
    except (OverflowError, ValueError):  # the latter for infinities of both signs
        return math.nan
    return total if math.isfinite(total) else math.nan


def _piece(source: Operand, start: int) -> NDArray[np.float64]:
    """The values from `start` on, of one piece, with zeros up to whole rows of lanes."""
    bits = source.bits[start : start + _PIECE]
    values = np.zeros(-(-len(bits) // _LANES) * _LANES)
    if source.dtype == BF16:
        wide = np.empty(len(bits), np.float32)
        kernels.widen_bf16(bits, wide)
        values[: len(bits)] = wide
    else:
        values[: len(bits)] = bits.view(NUMPY_FLOATS[source.dtype])
    return values
