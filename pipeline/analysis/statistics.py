"""Figures of one chunk: how large its elements are, and how two deltas agree on it.

Every sum is over one chunk, in float64 and in one order, so that it does not depend on who computes it;
counts are integers. What is not finite is taken out first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors import kernels
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Corrections, Operand
from pipeline.tensors.dtypes import BF16, F32, NUMPY_FLOATS, DType

# Exponents that are told apart; what is smaller or larger is counted with the outermost.
LOWEST, HIGHEST = -64, 31
BINS = HIGHEST - LOWEST + 1

_PIECE = 1 << 15  # elements that are widened to float64 at a time: they stay in the cache
_EXPONENT = {4: (23, 0xFF, 127), 8: (52, 0x7FF, 1023)}  # of float32 and float64: shift, mask, bias


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a chunk's elements are. bins: how many have which exponent, from `LOWEST` on."""

    squares: float
    largest: float
    zeros: int
    nonfinite: int
    bins: NDArray[np.int64]


def scratch_bytes(width: DType) -> int:
    """Memory that the functions here take at most for one chunk, beside what they are given."""
    return CHUNK_ELEMENTS * (2 * width.itemsize + 8 + 4)


def widen(stored: Operand, corrections: Corrections, out: NDArray[Any]) -> NDArray[Any]:
    """The exact values of a chunk's δ, in `out`, which has room for them in the delta's width."""
    values = out[: len(stored.bits)]
    if stored.dtype == BF16 and values.itemsize == F32.itemsize:
        kernels.widen_bf16(stored.bits, values)
    elif stored.dtype == BF16:
        wide = np.empty(len(values), np.float32)
        kernels.widen_bf16(stored.bits, wide)
        np.copyto(values, wide)
    else:
        np.copyto(values, stored.data.view(NUMPY_FLOATS[stored.dtype]))
    if len(corrections.rest_at):
        values.view(f"<i{values.itemsize}")[corrections.rest_at] += corrections.rest
    return values


def measure(values: NDArray[Any]) -> Sizes:
    """The figures of `values`, floats, of which what is not finite becomes zero."""
    shift, mask, bias = _EXPONENT[values.itemsize]
    bits = values.view(f"<u{values.itemsize}")
    shifted, masked = bits.dtype.type(shift), bits.dtype.type(mask)
    found = np.zeros(mask + 1, np.int64)
    filled, largest = 0, 0.0
    for start in range(0, len(values), _PIECE):  # temporary arrays stay in the cache
        piece = values[start : start + _PIECE]
        exponents = ((bits[start : start + _PIECE] >> shifted) & masked).astype(np.int64)
        counts = np.bincount(exponents, minlength=mask + 1)
        if counts[mask]:
            piece[exponents == mask] = 0
        found += counts
        filled += int(np.count_nonzero(piece))
        largest = max(largest, float(piece.max()), -float(piece.min()))
    nonfinite = int(found[mask])
    zeros = len(values) - filled
    found[0] += nonfinite - zeros  # what is left there is too small to be normal
    found[mask] = 0
    at = np.clip(np.arange(mask + 1) - bias, LOWEST, HIGHEST) - LOWEST
    bins = np.bincount(at, weights=found, minlength=BINS).astype(np.int64)
    return Sizes(sum_products(values, values), largest, zeros, nonfinite, bins)


def sum_products(left: NDArray[Any], right: NDArray[Any]) -> float:
    """The sum of the products of two arrays of one length, in float64."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(left), _PIECE):
            product = left[start : start + _PIECE].astype(np.float64)
            product *= right[start : start + _PIECE]
            total += float(np.add.reduce(product))
    return total


def count_agreement(left: NDArray[Any], right: NDArray[Any]) -> tuple[int, int]:
    """How many elements are nonzero in both arrays, and how many of those have one sign."""
    both = (left != 0) & (right != 0)
    same = both & (np.signbit(left) == np.signbit(right))
    return int(np.count_nonzero(both)), int(np.count_nonzero(same))
