"""The inner loops as numba compiles them: pure functions on flat arrays of bits, no allocation.

Only `pipeline.tensors.native` imports this module, and only to compile it.

Loops run over bits rather than floats, because bfloat16 has no numpy type and because exactness is
about bits: -0.0, infinities and NaN payloads count. The formulas are those of
`pipeline.tensors.arithmetic`.

`U32(...)` around every operation is not decoration: numba widens integer results to 64 bits, which
halves the width of the vector instructions that the compiler can use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

U32 = np.uint32

LANES = 512  # of sums side by side, each in order: the same for vectors of any width
SPAN = 4096  # elements of the inner loops: what they leave behind stays in the first-level cache

_SIXTEEN = U32(16)
_ONE = U32(1)
_HALF = U32(0x7FFF)  # just under half a unit of bfloat16's last place
_F32_INF = U32(0x7F800000)
_F32_NAN = U32(0x7FC00000)
_F32_MAGNITUDE = U32(0x7FFFFFFF)
_BF16_INF = np.uint16(0x7F80)
_BF16_NAN = U32(0x7FC0)


@intrinsic
def float_of(typingctx, bits):
    """The float32 whose bits are the uint32 `bits`."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of(typingctx, value):
    """The bits, as uint32, of the float32 `value`."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(inline="always")
def round_bf16(bits):
    """The bfloat16 bits nearest to the float32 with `bits`, ties to even; every NaN is the same."""
    rounded = U32(U32(bits + _HALF + U32(U32(bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)
    return _BF16_NAN if U32(bits & _F32_MAGNITUDE) > _F32_INF else rounded


@njit(inline="always")
def wide(bf16):
    """The float32 value of bfloat16 bits."""
    return float_of(U32(U32(bf16) << _SIXTEEN))


@njit(inline="always")
def difference(post, base):
    """The float32 bits of post - base for bfloat16 bits; every NaN is the one canonical NaN."""
    bits = bits_of(wide(post) - wide(base))
    return _F32_NAN if U32(bits & _F32_MAGNITUDE) > _F32_INF else bits


@njit(inline="always")
def nearest_bf16(bits):
    """`round_bf16` for finite values and infinities only."""
    return U32(U32(bits + _HALF + U32(U32(bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)


@njit
def _subtract_simple(post, base, out, suspect):
    """out = post - base where that is exact; `suspect` is nonzero where the caller must look again.

    That is where the difference has bits below bfloat16's last place, or base + difference is not post
    in float32 already. Where `out` is not finite, neither array says anything of value.
    """
    for i in range(post.size):
        p = U32(U32(post[i]) << _SIXTEEN)
        base_value = wide(base[i])
        delta = float_of(p) - base_value
        bits = bits_of(delta)
        astray = U32(bits_of(base_value + delta) ^ p)
        out[i] = np.uint16(U32(bits >> _SIXTEEN))
        suspect[i] = np.uint16(U32(U32(bits | astray) | U32(astray >> _SIXTEEN)))


@njit
def _subtract_all(post, base, out, suspect):
    """`out` for any values, an element at a time, and all of them suspect."""
    for i in range(post.size):
        out[i] = np.uint16(round_bf16(difference(post[i], base[i])))
        suspect[i] = np.uint16(1)


@njit
def _count_differing(left, right):
    """How many of at most SPAN elements differ; in 16 bits, for vectors of 16-bit lanes."""
    total = np.uint16(0)
    for i in range(left.size):
        total = np.uint16(total + np.uint16(left[i] != right[i]))
    return total


@njit
def _has_all_bits(source, mask):
    """Whether any of the uint16 has all bits of `mask` set: with the exponent's, is not finite."""
    largest = np.uint16(0)
    for i in range(source.size):
        value = np.uint16(source[i] & mask)
        largest = value if value > largest else largest
    return largest == mask


@njit
def _find_nonzero(flags, groups, found):
    """Fill `found` with the positions of nonzero flags, ascending; returns how many there are.

    Without a branch for each, for a branch that is seldom taken and can't be foreseen costs more than
    the element: first the groups of eight flags in which there is any, then the flags of those.
    """
    words = flags.view(np.uint64)
    filled = np.int64(0)
    for group in range(words.size // 2):
        groups[filled] = np.uint16(group)
        filled += np.int64((words[2 * group] | words[2 * group + 1]) != 0)
    count = np.int64(0)
    for k in range(filled):
        first = 8 * np.int64(groups[k])
        for i in range(first, first + 8):
            found[count] = np.uint16(i)
            count += np.int64(flags[i] != 0)
    return count


@njit
def _add_squares(post, base, deltas, bases, sizes):
    """Add the squares of post - base and of base, lane by lane, and keep the largest |post - base|."""
    for i in range(post.size):
        value = wide(base[i])
        delta = wide(post[i]) - value
        deltas[i] += delta * delta
        bases[i] += value * value
        sizes[i] = max(sizes[i], U32(bits_of(delta) & _F32_MAGNITUDE))


# --- Entry points: C functions of pointers and counts; `pipeline.tensors.kernels` has their contracts.

_BITS = types.CPointer(types.uint16)
_FLOATS = types.CPointer(types.float32)
_DOUBLES = types.CPointer(types.float64)
_POSITIONS = types.CPointer(types.uint32)
_RESTS = types.CPointer(types.int32)
_TOTALS = types.CPointer(types.int64)
_COUNT = types.int64


@cfunc(
    types.void(_BITS, _BITS, _BITS, _COUNT, _BITS, _POSITIONS, _RESTS, _POSITIONS, _BITS, _TOTALS),
    error_model="numpy",
)
def subtract_bf16(post, base, out, count, scratch, rest_at, rest, lost_at, lost, totals):
    all_post = carray(post, count)
    all_base = carray(base, count)
    all_out = carray(out, count)
    suspect = carray(scratch, 3 * SPAN)[:SPAN]
    groups = carray(scratch, 3 * SPAN)[SPAN : 2 * SPAN]
    found = carray(scratch, 3 * SPAN)[2 * SPAN :]
    rest_positions = carray(rest_at, count)
    rests = carray(rest, count)
    lost_positions = carray(lost_at, count)
    losts = carray(lost, count)
    changed = 0
    rest_count = 0
    lost_count = 0
    for start in range(0, count, SPAN):
        p = all_post[start : start + SPAN]
        b = all_base[start : start + SPAN]
        o = all_out[start : start + SPAN]
        for i in range(p.size, SPAN):
            suspect[i] = 0
        _subtract_simple(p, b, o, suspect)
        if _has_all_bits(o, _BF16_INF):
            _subtract_all(p, b, o, suspect)
        changed += _count_differing(p, b)
        for k in range(_find_nonzero(suspect, groups, found)):
            i = found[k]
            bits = difference(p[i], b[i])
            high = round_bf16(bits)
            o[i] = np.uint16(high)
            low = np.int32(U32(bits - U32(high << _SIXTEEN)))
            if low != 0:
                rest_positions[rest_count] = start + i
                rests[rest_count] = low
                rest_count += 1
            if round_bf16(bits_of(wide(b[i]) + float_of(bits))) != U32(p[i]):
                lost_positions[lost_count] = start + i
                losts[lost_count] = p[i]
                lost_count += 1
    result = carray(totals, 3)
    result[0] = changed
    result[1] = rest_count
    result[2] = lost_count


@cfunc(types.void(_BITS, _BITS, types.float32, _BITS, _COUNT), error_model="numpy")
def add_bf16(base, stored, scale, out, count):
    bases = carray(base, count)
    deltas = carray(stored, count)
    results = carray(out, count)
    for i in range(count):
        results[i] = np.uint16(nearest_bf16(bits_of(wide(bases[i]) + scale * wide(deltas[i]))))
    if _has_all_bits(results, _BF16_INF):  # seldom: infinities and NaNs want more care
        for i in range(count):
            results[i] = np.uint16(round_bf16(bits_of(wide(bases[i]) + scale * wide(deltas[i]))))


@cfunc(
    types.void(_BITS, _BITS, types.float32, _POSITIONS, _RESTS, _COUNT, _BITS, _COUNT),
    error_model="numpy",
)
def add_bf16_at(base, stored, scale, rest_at, rest, rests, out, count):
    bases = carray(base, count)
    deltas = carray(stored, count)
    results = carray(out, count)
    positions = carray(rest_at, rests)
    values = carray(rest, rests)
    for k in range(rests):
        i = positions[k]
        delta = float_of(U32(U32(U32(deltas[i]) << _SIXTEEN) + U32(values[k])))
        results[i] = np.uint16(round_bf16(bits_of(wide(bases[i]) + scale * delta)))


@cfunc(types.int64(_BITS, types.uint16, _COUNT), error_model="numpy")
def has_all_bits(source, mask, count):
    return np.int64(_has_all_bits(carray(source, count), mask))


@cfunc(types.void(_BITS, _FLOATS, _COUNT), error_model="numpy")
def widen_bf16(source, out, count):
    bits = carray(source, count)
    values = carray(out, count)
    for i in range(count):
        values[i] = wide(bits[i])


@cfunc(types.void(_BITS, _BITS, _COUNT, _FLOATS, _DOUBLES), error_model="numpy")
def norms_bf16(post, base, count, scratch, out):
    all_post = carray(post, count)
    all_base = carray(base, count)
    deltas = carray(scratch, 3 * LANES)[:LANES]
    bases = carray(scratch, 3 * LANES)[LANES : 2 * LANES]
    sizes = carray(scratch, 3 * LANES)[2 * LANES :].view(np.uint32)  # magnitudes grow as their bits do
    for i in range(LANES):
        deltas[i] = np.float32(0)
        bases[i] = np.float32(0)
        sizes[i] = U32(0)
    for start in range(0, count, LANES):
        p = all_post[start : start + LANES]
        _add_squares(p, all_base[start : start + LANES], deltas, bases, sizes)
    delta_squares = np.float64(0)
    base_squares = np.float64(0)
    largest = U32(0)
    for i in range(LANES):
        delta_squares += deltas[i]
        base_squares += bases[i]
        largest = max(largest, sizes[i])
    result = carray(out, 3)
    result[0] = delta_squares
    result[1] = base_squares
    result[2] = float_of(largest)


@cfunc(types.void(_FLOATS, _BITS, _COUNT), error_model="numpy")
def narrow_bf16(source, out, count):
    values = carray(source, count)
    bits = carray(out, count)
    for i in range(count):
        bits[i] = np.uint16(round_bf16(bits_of(values[i])))


@cfunc(types.void(_DOUBLES, _FLOATS, _COUNT), error_model="numpy")
def round_to_odd(source, out, count):
    values = carray(source, count)
    rounded = carray(out, count)
    for i in range(count):
        value = np.float32(values[i])
        if np.float64(value) == values[i] or value != value:
            rounded[i] = value
        else:
            bits = bits_of(value)
            if abs(np.float64(value)) > abs(values[i]):
                bits = U32(bits - _ONE)
            rounded[i] = float_of(U32(bits | _ONE))


ENTRY_POINTS: tuple[Any, ...] = (
    subtract_bf16,
    add_bf16,
    add_bf16_at,
    has_all_bits,
    norms_bf16,
    widen_bf16,
    narrow_bf16,
    round_to_odd,
)
