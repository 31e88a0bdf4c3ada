"""The inner loops of fusion as numba compiles them: pure functions on flat arrays of float32.

Only `pipeline.tensors.native` imports this module, and only to compile it. What is left out of a delta
is multiplied by zero rather than set to it, so that a NaN is never lost. Sums run in lanes of a fixed
number, so that they do not depend on how wide a processor's vectors are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]

from pipeline.tensors.bf16_source import LANES
from pipeline.tensors.kernel_source import SPAN, U32, bits_of

_MAGNITUDE = U32(0x7FFFFFFF)
_LOW_BITS = U32(15)
_LOW_MASK = U32(0x7FFF)

_BITS = types.CPointer(types.uint16)
_FLOATS = types.CPointer(types.float32)
_DOUBLES = types.CPointer(types.float64)
_WORDS = types.CPointer(types.uint32)
_COUNTS = types.CPointer(types.int64)
_COUNT = types.int64

U64 = np.uint64
_STEP = U64(0x9E3779B97F4A7C15)
_FIRST = U64(0xBF58476D1CE4E5B9)
_SECOND = U64(0x94D049BB133111EB)


@njit(inline="always")
def uniform(key, index):
    """Number `index` of the SplitMix64 sequence that begins at `key`: its upper 32 bits.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = U64(key + U64(U64(index) + U64(1)) * _STEP)
    state = U64(U64(state ^ U64(state >> U64(30))) * _FIRST)
    state = U64(U64(state ^ U64(state >> U64(27))) * _SECOND)
    return U64(U64(state ^ U64(state >> U64(31))) >> U64(32))


@cfunc(types.int64(_FLOATS, _COUNT, _WORDS, _WORDS, _COUNT), error_model="numpy")
def count_high(values, count, bins, others, room):
    floats = carray(values, count)
    table = carray(bins, 1 << 16)
    listed = carray(others, room + 1)
    found = np.int64(0)
    for i in range(count):
        bits = U32(bits_of(floats[i]) & _MAGNITUDE)
        table[bits >> _LOW_BITS] += U32(1)
        listed[min(found, room)] = bits
        found += np.int64(U32(bits & _LOW_MASK) != 0)
    return found


@cfunc(types.void(_FLOATS, _COUNT, types.uint32, _WORDS), error_model="numpy")
def count_low(values, count, high, bins):
    floats = carray(values, count)
    table = carray(bins, 1 << 15)
    for i in range(count):
        bits = U32(bits_of(floats[i]) & _MAGNITUDE)
        if U32(bits >> _LOW_BITS) == high:
            table[U32(bits & _LOW_MASK)] += U32(1)


@cfunc(types.void(_FLOATS, _COUNT, types.uint32, types.uint32, _COUNTS), error_model="numpy")
def keep_band(values, count, low, high, ordinals):
    floats = carray(values, count)
    places = carray(ordinals, 5)
    low_from, low_until, high_until = places[0], places[1], places[2]
    low_seen, high_seen = places[3], places[4]
    for i in range(count):
        bits = U32(bits_of(floats[i]) & _MAGNITUDE)
        # Without branches: where many are equal, none of them can be foreseen.
        is_low = bits == low
        is_high = (bits == high) & (not is_low)
        low_stays = is_low & (low_seen >= low_from) & (low_seen < low_until)
        stays = ((bits > low) & (bits < high)) | low_stays | (is_high & (high_seen < high_until))
        low_seen += np.int64(is_low)
        high_seen += np.int64(is_high)
        floats[i] *= np.float32(stays)


@cfunc(types.void(_FLOATS, _COUNT, types.uint32, types.uint32), error_model="numpy")
def keep_between(values, count, least, most):
    floats = carray(values, count)
    for i in range(count):
        bits = U32(bits_of(floats[i]) & _MAGNITUDE)
        floats[i] *= np.float32((bits >= least) & (bits <= most))


@cfunc(types.void(_FLOATS, _COUNT, types.uint64, types.int64, types.uint64), error_model="numpy")
def keep_random(values, count, key, start, limit):
    floats = carray(values, count)
    for i in range(count):
        floats[i] *= np.float32(uniform(key, start + i) < limit)


@cfunc(types.void(_FLOATS, _COUNT, types.uint64, types.int64, _COUNTS), error_model="numpy")
def keep_ranked(values, count, key, start, limits):
    floats = carray(values, count)
    chances = carray(limits, count)
    for i in range(count):
        floats[i] *= np.float32(uniform(key, start + i) < U64(chances[i]))


@njit
def _clear(array):
    for i in range(array.size):
        array[i] = 0


@cfunc(types.float64(_FLOATS, _COUNT, _DOUBLES), error_model="numpy")
def sum_sizes(values, count, scratch):
    floats = carray(values, count)
    sums = carray(scratch, LANES)
    _clear(sums)
    for start in range(0, count, LANES):
        part = floats[start : start + LANES]
        for i in range(part.size):
            sums[i] += np.float64(abs(part[i]))
    total = np.float64(0)
    for i in range(LANES):
        total += sums[i]
    return total


@cfunc(types.float64(_FLOATS, _FLOATS, _COUNT, _DOUBLES), error_model="numpy")
def sum_products(left, right, count, scratch):
    ours = carray(left, count)
    theirs = carray(right, count)
    sums = carray(scratch, LANES)
    _clear(sums)
    for start in range(0, count, LANES):
        a = ours[start : start + LANES]
        b = theirs[start : start + LANES]
        for i in range(a.size):
            sums[i] += np.float64(a[i]) * np.float64(b[i])
    total = np.float64(0)
    for i in range(LANES):
        total += sums[i]
    return total


@njit
def _elect(deltas, weight, sign, mixed, divisor):
    """Add those of one delta's elements that have the elected sign."""
    for i in range(deltas.size):
        value = deltas[i]
        agrees = np.float32(value * sign[i] > 0)
        mixed[i] += value * agrees
        divisor[i] += weight * agrees


@cfunc(
    types.void(_FLOATS, _FLOATS, _COUNT, _COUNT, _COUNT, types.int64, _FLOATS, _FLOATS),
    error_model="numpy",
)
def elect(deltas, weights, terms, stride, count, normalize, scratch, out):
    matrix = carray(deltas, terms * stride)
    factors = carray(weights, terms)
    results = carray(out, count)
    room = carray(scratch, 2 * SPAN)
    for start in range(0, count, SPAN):
        mixed = results[start : start + SPAN]
        size = mixed.size
        total = room[:SPAN][:size]
        divisor = room[SPAN:][:size]
        _clear(mixed)
        _clear(total)
        _clear(divisor)
        for k in range(terms):
            part = matrix[k * stride + start : k * stride + start + size]
            for i in range(size):
                total[i] += part[i]
        for i in range(size):  # plus, where the sum is zero
            total[i] = np.float32(1) if total[i] >= 0 else np.float32(-1)
        for k in range(terms):
            part = matrix[k * stride + start : k * stride + start + size]
            _elect(part, factors[k], total, mixed, divisor)
        if normalize:
            for i in range(size):
                mixed[i] /= divisor[i] if divisor[i] != 0 else np.float32(1)


ENTRY_POINTS: tuple[Any, ...] = (
    count_high,
    count_low,
    keep_band,
    keep_between,
    keep_random,
    keep_ranked,
    sum_sizes,
    sum_products,
    elect,
)
