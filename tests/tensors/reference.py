"""Rounding and the two formulas by definition, to compare the implementations with.

Nothing here shares code with the pipeline: 16-bit formats are tables of all their values, and rounding
is a search for the nearest of them, done in float64, in which every midpoint of theirs is exact.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.arithmetic import Arithmetic, Corrections, CpuArithmetic, Operand, Term
from pipeline.tensors.dtypes import BF16, F16, F32, F64, DType
from pipeline.tensors.torch_arithmetic import TorchArithmetic

FLOATS = (BF16, F16, F32, F64)
IMPLEMENTATIONS = {"numba": CpuArithmetic, "torch": lambda: TorchArithmetic("cpu")}

_INFINITY = {BF16: 0x7F80, F16: 0x7C00, F32: 0x7F800000, F64: 0x7FF0000000000000}
_QUIET_NAN = {BF16: 0x7FC0, F16: 0x7E00, F32: 0x7FC00000, F64: 0x7FF8000000000000}
_NEXT_AFTER_MAX = {BF16: 2.0**128, F16: 2.0**16}  # where the next value would lie
_IEEE = {F16: np.float16, F32: np.float32, F64: np.float64}

Array = NDArray[np.generic]


def wide(dtypes: tuple[DType, ...]) -> type:
    """numpy's type for arithmetic on `dtypes`."""
    return np.float64 if F64 in dtypes else np.float32


def values(bits: Array, dtype: DType, width: type) -> Array:
    """The numbers that `bits` mean, as floats of `width`."""
    if dtype is BF16:
        return values(bits.astype(np.uint32) << 16, F32, width)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return bits.view(_IEEE[dtype]).astype(width)


@cache
def _table(dtype: DType) -> NDArray[np.float64]:
    """Every value of a 16-bit format from 0 up, and the one that infinity stands for."""
    finite = values(np.arange(_INFINITY[dtype], dtype=np.uint16), dtype, np.float64)
    return np.append(finite, _NEXT_AFTER_MAX[dtype])


def nearest(numbers: Array, dtype: DType) -> Array:
    """The bits of `dtype` nearest to float32 or float64 `numbers`, ties to even; one NaN for all."""
    if dtype.itemsize > 2:
        with np.errstate(all="ignore"):
            rounded = numbers.astype(_IEEE[dtype]).view(dtype.bits).copy()
    else:
        with np.errstate(invalid="ignore"):
            exact = np.abs(numbers.astype(np.float64))
        table = _table(dtype)
        above = np.clip(np.searchsorted(table, exact), 1, len(table) - 1)
        middle = (table[above - 1] + table[above]) / 2
        up = (exact > middle) | ((exact == middle) & (above % 2 == 0))
        rounded = np.where(up, above, above - 1).astype(np.uint16)
        rounded |= np.signbit(numbers).astype(np.uint16) << 15
    rounded[np.isnan(numbers)] = _QUIET_NAN[dtype]
    return rounded


def is_nan(bits: Array, dtype: DType) -> NDArray[np.bool_]:
    """Which bit patterns are NaNs."""
    magnitude = dtype.bits.type((1 << (8 * dtype.itemsize - 1)) - 1)
    return (bits & magnitude) > dtype.bits.type(_INFINITY[dtype])


def is_finite(bits: Array, dtype: DType) -> NDArray[np.bool_]:
    """Which bit patterns are numbers."""
    infinity = dtype.bits.type(_INFINITY[dtype])
    return (bits & infinity) != infinity


def difference(post: Array, post_type: DType, base: Array, base_type: DType) -> Array:
    """The exact delta: post - base in the wide format, zeros where base is shorter, one NaN for all."""
    width = wide((post_type, base_type))
    padded = np.zeros(len(post), width)
    padded[: len(base)] = values(base, base_type, width)
    with np.errstate(all="ignore"):
        result = values(post, post_type, width) - padded
    result[np.isnan(result)] = np.nan
    return result


def specials(dtype: DType) -> Array:
    """The bit patterns at which formats go wrong: zeros, subnormals, limits, infinities, NaNs."""
    infinity, size = _INFINITY[dtype], 8 * dtype.itemsize
    quiet = _QUIET_NAN[dtype]
    smallest_normal = infinity & -infinity  # the exponent's lowest bit
    one = {BF16: 0x3F80, F16: 0x3C00, F32: 0x3F800000, F64: 0x3FF0000000000000}[dtype]
    positive = [
        0, 1, 2, smallest_normal - 1, smallest_normal, smallest_normal + 1, one - 1, one, one + 1,
        infinity - 1, infinity, infinity + 1, quiet - 1, quiet, quiet + 1, (1 << (size - 1)) - 1,
    ]  # fmt: skip
    return np.array([*positive, *(bits | 1 << (size - 1) for bits in positive)], dtype.bits)


def random_bits(dtype: DType, count: int, seed: int) -> Array:
    """Bit patterns drawn evenly: NaNs and infinities among them."""
    return np.random.default_rng(seed).integers(0, 1 << (8 * dtype.itemsize), count, dtype.bits)


def weights(dtype: DType, count: int, seed: int, *, close_to: Array | None = None) -> Array:
    """Bits of numbers like a model's, or of those of `close_to` after a small change."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(0, 0.02, count) if close_to is None else close_to
    return nearest(numbers + rng.normal(0, 1e-4, count), dtype)


def pairs(post: DType, base: DType) -> tuple[Array, Array]:
    """Post and base bits: all specials against each other, random bits, and a fine-tune's numbers."""
    theirs, ours = np.meshgrid(specials(base), specials(post))
    old = weights(base, 1000, 1)
    new = weights(post, 1000, 2, close_to=values(old, base, np.float64))
    return (
        np.concatenate([ours.ravel(), random_bits(post, 1000, 3), new]),
        np.concatenate([theirs.ravel(), random_bits(base, 1000, 4), old]),
    )


def operand(bits: Array, dtype: DType) -> Operand:
    """`bits` as an operand with memory of its own."""
    return Operand(np.array(bits, dtype.bits).view(np.uint8), dtype)


def subtract(
    arithmetic: Arithmetic, post: Operand, base: Operand, stored: DType
) -> tuple[int, Operand, Corrections]:
    """What `arithmetic` makes of post - base: (changed, stored, corrections)."""
    out = operand(np.full(len(post.bits), 0xA5), stored)
    found = arithmetic.subtract(post, base, out)
    corrections = found.lost
    kept = Corrections(
        corrections.rest_at.copy(),
        corrections.rest.copy(),
        corrections.lost_at.copy(),
        corrections.lost.copy(),
    )
    return found.changed, out, kept


def term(stored: Operand, corrections: Corrections, width: type, scale: float = 1.0) -> Term:
    """A delta as a term of a sum."""
    kind = F64 if width is np.float64 else F32
    return Term(stored, scale, corrections.rest_at, corrections.rest, kind)


def plain_term(stored: Operand, scale: float, width: DType = F32) -> Term:
    """A delta that lost nothing, as a term of a sum."""
    return Term(stored, scale, np.empty(0, np.uint32), np.empty(0, f"<i{width.itemsize}"), width)


def restore(
    arithmetic: Arithmetic, base: Operand, stored: Operand, corrections: Corrections, post: DType
) -> Array:
    """Post's bits from base and its delta, as apply does it."""
    result = operand(np.full(len(stored.bits), 0xA5), post)
    width = wide((base.dtype, post))
    arithmetic.add(base, [term(stored, corrections, width)], result)
    result.bits[corrections.lost_at] = corrections.lost
    return result.bits
