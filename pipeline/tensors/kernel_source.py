"""The inner loops as numba compiles them: pure functions on flat arrays of bits, no allocation.

Only `pipeline.tensors.native` imports this module, and only to compile it.

Loops run over bits rather than floats, because bfloat16 has no numpy type and because exactness is
about bits: -0.0, infinities and NaN payloads count. The formulas are those of
`pipeline.tensors.arithmetic`; `bf16_source` has what takes nearly all the time, 16 elements at once.

`U32(...)` around every operation is not decoration: numba widens integer results to 64 bits, which
halves the width of the vector instructions that the compiler can use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from pipeline.tensors.bf16_source import (
    LANES,
    ROW,
    SUMMED,
    add_step,
    add_wide_step,
    squares_step,
    subtract_step,
    subtract_wide_step,
)
from pipeline.tensors.vector_source import WIDTH, lowest

U32 = np.uint32

SPAN = 4096  # elements of the inner loops: what they leave behind stays in the first-level cache
SUMS = 3 * ROW  # float32 of sums in a kernel's room
ROOM = SUMS + SPAN // 32  # all of them: behind the sums is a bit for each element of a span

_SIXTEEN = U32(16)
_ONE = U32(1)
_HALF = U32(0x7FFF)  # just under half a unit of bfloat16's last place
_F32_INF = U32(0x7F800000)
_F32_NAN = U32(0x7FC00000)
_F32_MAGNITUDE = U32(0x7FFFFFFF)
_BF16_INF = np.uint16(0x7F80)
_BF16_NAN = U32(0x7FC0)
_SUSPECTS = np.int64((1 << WIDTH) - 1)  # of what a step says, the bits of elements to be looked at again


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
def is_astray(post, base, difference_bits):
    """Whether base + difference, rounded, is not post, bit for bit."""
    return round_bf16(bits_of(wide(base) + float_of(difference_bits))) != U32(post)


@njit
def _start_sums(sums):
    """No squares yet, in any lane."""
    for i in range(3 * ROW):
        sums[i] = np.float32(0)


@njit
def _fold_sums(sums, result):
    """result = the sums of squares of differences and of the base, lane by lane, and the largest."""
    delta_squares = np.float64(0)
    base_squares = np.float64(0)
    largest = U32(0)
    for i in range(LANES):
        delta_squares += sums[i]
        base_squares += sums[ROW + i]
        largest = max(largest, bits_of(sums[2 * ROW + i]))  # magnitudes grow as their bits do
    result[0] = delta_squares
    result[1] = base_squares
    result[2] = float_of(largest)


@njit
def _add_square(post, base, sums, lane):
    """What a step adds to the sums, for one element."""
    value = wide(base)
    delta = wide(post) - value
    sums[lane] += delta * delta
    sums[ROW + lane] += value * value
    largest = bits_of(sums[2 * ROW + lane])
    sums[2 * ROW + lane] = float_of(max(largest, U32(bits_of(delta) & _F32_MAGNITUDE)))


# --- Entry points: C functions of pointers and counts; `pipeline.tensors.kernels` has their contracts.

_BITS = types.CPointer(types.uint16)
_FLOATS = types.CPointer(types.float32)
_DOUBLES = types.CPointer(types.float64)
_POSITIONS = types.CPointer(types.uint32)
_RESTS = types.CPointer(types.int32)
_TOTALS = types.CPointer(types.int64)
_COUNT = types.int64


@cfunc(
    types.void(
        _BITS, _BITS, _BITS, _COUNT, _FLOATS, _POSITIONS, _RESTS, _POSITIONS, _BITS, _TOTALS, _DOUBLES
    ),
    error_model="numpy",
)
def subtract_bf16(post, base, out, count, room, rest_at, rest, lost_at, lost, totals, squares):
    looks = carray(room, ROOM)[SUMS:].view(np.uint16)  # a bit for each element to be looked at again
    words = looks.view(np.uint64)
    changed = np.int64(0)
    rests = np.int64(0)
    losses = np.int64(0)
    _start_sums(room)
    for start in range(0, count, SPAN):
        stop = min(count, start + SPAN)
        vectors = (stop - start) // WIDTH
        for number in range(vectors):
            first = WIDTH * number
            found = subtract_step(post, base, out, start + first, room, first & (LANES - 1))
            looks[number] = np.uint16(found)
            changed += found >> 32
        for number in range(vectors, SPAN // WIDTH):  # none but in the last span
            looks[number] = np.uint16(0)
        for i in range(start + WIDTH * vectors, stop):
            _add_square(post[i], base[i], room, i & (LANES - 1))
            changed += np.int64(post[i] != base[i])
            looks[vectors] |= np.uint16(1 << (i & (WIDTH - 1)))
        for number in range(SPAN // 64):
            suspects = np.int64(words[number])
            while suspects:
                i = start + 64 * number + lowest(suspects)
                suspects &= suspects - 1
                bits = difference(post[i], base[i])
                high = round_bf16(bits)
                out[i] = np.uint16(high)
                low = np.int32(U32(bits - U32(high << _SIXTEEN)))
                if low != 0:
                    rest_at[rests] = U32(i)
                    rest[rests] = low
                    rests += 1
                if is_astray(post[i], base[i], bits):
                    lost_at[losses] = U32(i)
                    lost[losses] = post[i]
                    losses += 1
    totals[0] = changed
    totals[1] = rests
    totals[2] = losses
    _fold_sums(room, squares)


@njit(inline="always")
def _subtract_wide(post, base, out, i, lost_at, lost, losses):
    """out = post - base for element number `i`; returns how many exceptions there are, with its own."""
    bits = difference(post[i], base[i])
    out[i] = float_of(bits)
    if not is_astray(post[i], base[i], bits):
        return losses
    lost_at[losses] = U32(i)
    lost[losses] = post[i]
    return losses + 1


@cfunc(
    types.void(_BITS, _BITS, _FLOATS, _COUNT, _POSITIONS, _BITS, _TOTALS),
    error_model="numpy",
)
def subtract_wide_bf16(post, base, out, count, lost_at, lost, totals):
    whole = count - count % WIDTH
    changed = np.int64(0)
    losses = np.int64(0)
    for start in range(0, whole, WIDTH):
        found = subtract_wide_step(post, base, out, start)
        changed += found >> 32
        suspects = found & _SUSPECTS
        while suspects:
            i = start + lowest(suspects)
            suspects &= suspects - 1
            losses = _subtract_wide(post, base, out, i, lost_at, lost, losses)
    for i in range(whole, count):
        changed += np.int64(post[i] != base[i])
        losses = _subtract_wide(post, base, out, i, lost_at, lost, losses)
    totals[0] = changed
    totals[1] = losses


@njit(inline="always")
def _add_exactly(base, stored, scale, out, rest_at, rest, rests, done, stop):
    """out again for those of the remainders from number `done` on that lie before element `stop`.

    Returns the number of the next, and whether any result is not finite.
    """
    strange = np.int64(0)
    while done < rests and rest_at[done] < stop:
        i = rest_at[done]
        delta = float_of(U32(U32(U32(stored[i]) << _SIXTEEN) + U32(rest[done])))
        out[i] = np.uint16(round_bf16(bits_of(wide(base[i]) + scale * delta)))
        strange |= np.int64((out[i] & _BF16_INF) == _BF16_INF)
        done += 1
    return done, strange


@cfunc(
    types.int64(_BITS, _BITS, types.float32, _BITS, _COUNT, _POSITIONS, _RESTS, _COUNT),
    error_model="numpy",
)
def add_bf16(base, stored, scale, out, count, rest_at, rest, rests):
    whole = count - count % SUMMED
    strange = np.int64(0)
    done = np.int64(0)
    for start in range(0, whole, SPAN):
        stop = min(whole, start + SPAN)
        for first in range(start, stop, SUMMED):
            strange |= add_step(base, stored, scale, out, first)
        done, found = _add_exactly(base, stored, scale, out, rest_at, rest, rests, done, stop)
        strange |= found
    # Seldom more than the end: infinities and NaNs want more care.
    for i in range(0 if strange else whole, count):
        out[i] = np.uint16(round_bf16(bits_of(wide(base[i]) + scale * wide(stored[i]))))
        strange |= np.int64((out[i] & _BF16_INF) == _BF16_INF)
    done = 0 if strange else done
    done, found = _add_exactly(base, stored, scale, out, rest_at, rest, rests, done, count)
    return strange | found


@cfunc(types.int64(_BITS, _FLOATS, types.float32, _BITS, _COUNT), error_model="numpy")
def add_wide_bf16(base, delta, scale, out, count):
    whole = count - count % SUMMED
    strange = np.int64(0)
    for start in range(0, whole, SUMMED):
        strange |= add_wide_step(base, delta, scale, out, start)
    for i in range(0 if strange else whole, count):
        out[i] = np.uint16(round_bf16(bits_of(wide(base[i]) + scale * delta[i])))
        strange |= np.int64((out[i] & _BF16_INF) == _BF16_INF)
    return strange


@cfunc(types.int64(_BITS, types.uint16, _COUNT), error_model="numpy")
def has_all_bits(source, mask, count):
    bits = carray(source, count)
    largest = np.uint16(0)
    for i in range(count):
        value = np.uint16(bits[i] & mask)
        largest = value if value > largest else largest
    return np.int64(largest == mask)


@cfunc(types.void(_BITS, _FLOATS, _COUNT), error_model="numpy")
def widen_bf16(source, out, count):
    bits = carray(source, count)
    values = carray(out, count)
    for i in range(count):
        values[i] = wide(bits[i])


@cfunc(types.void(_BITS, _BITS, _COUNT, _FLOATS, _DOUBLES), error_model="numpy")
def norms_bf16(post, base, count, sums, squares):
    whole = count - count % WIDTH
    _start_sums(sums)
    for start in range(0, whole, WIDTH):
        squares_step(post, base, start, sums, start & (LANES - 1))
    for i in range(whole, count):
        _add_square(post[i], base[i], sums, i & (LANES - 1))
    _fold_sums(sums, squares)


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
    subtract_wide_bf16,
    add_bf16,
    add_wide_bf16,
    has_all_bits,
    norms_bf16,
    widen_bf16,
    narrow_bf16,
    round_to_odd,
)
