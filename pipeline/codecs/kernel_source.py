"""The codec's inner loops as numba compiles them: on any processor, an element at a time.

Only `pipeline.tensors.native` imports this module, and only to compile it. `pipeline.codecs.kernels`
has the functions' contracts; `pipeline.codecs.rans` says what the numbers mean. `table_source` has what
is done once for each chunk. `vector_source` has the loops that take nearly all the time again, for
processors with AVX-512; both write the same bytes.

Here are pointers with unsigned indices, because for signed ones numba compiles Python's negative
indexing; `U32(...)` around every operation, because it widens integer results to 64 bits; and no builtin
that may raise, such as `min`, because what it would call is Python's.

Formulas: J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; division by multiplication: T. Granlund
and P. Montgomery, "Division by invariant integers using multiplication", PLDI 1994. For a dividend
x < f 2^(31 - BITS) and s = ceil(log2 f) - 1, x // f = x ceil(2^(32 + s) / f) >> (32 + s), because the
reciprocal's error, below f, costs less than 1 / f as long as f^2 2^(31 - BITS) <= 2^(32 + s).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types  # type: ignore[attr-defined]

from pipeline.codecs import table_source, vector_source
from pipeline.codecs.tables import BITS, LANES, LOWEST, SAMPLE, SAMPLE_PERIOD, TOTAL

U8, U16, U32, U64, I64 = np.uint8, np.uint16, np.uint32, np.uint64, np.int64

_MASK = U32(TOTAL - 1)
_BITS = U32(BITS)
_LOWEST = U32(LOWEST)
_WORD = U32(16)
_LIMIT = U32(31 - BITS)

_P8 = types.CPointer(types.uint8)
_P16 = types.CPointer(types.uint16)
_P32 = types.CPointer(types.uint32)
_P64 = types.CPointer(types.uint64)
_TOTALS = types.CPointer(types.int64)
_N = types.int64


@cfunc(types.int64(_P8, _N, _N), error_model="numpy")
def is_constant(data, count, itemsize):
    """See `kernels`."""
    for start in range(itemsize, count, 4096):
        different = U8(0)
        for i in range(start, start + 4096 if start + 4096 < count else count):
            different |= data[U64(i)] ^ data[U64(i - itemsize)]
        if different:
            return 0
    return 1


def _count(data, count, sampled, counts, size):
    """Two tables in turn: equal neighbours, of which there are many, would wait for each other."""
    for i in range(2 * size):
        counts[U64(i)] = U32(0)
    period = SAMPLE_PERIOD if sampled else SAMPLE
    total = 0
    second = U64(size)
    start = 0
    while start < count:
        end = start + SAMPLE if start + SAMPLE < count else count
        for i in range(start, end - 1, 2):
            counts[U64(data[U64(i)])] += U32(1)
            counts[U64(data[U64(i + 1)]) + second] += U32(1)
        if (end - start) & 1:
            counts[U64(data[U64(end - 1)])] += U32(1)
        total += end - start
        start += period
    for i in range(size):
        counts[U64(i)] += counts[U64(i) + second]
    return total


def count_values(pointer, name):
    """The histogram's loop for elements of one width."""
    entry = cfunc(types.int64(pointer, _N, _N, _P32, _N), error_model="numpy")(_count)
    entry.__name__ = name
    return entry


@njit(inline="always")
def _push(entry, value, lane, states, words, used):
    """Encode one element into its state; returns how many words are used then."""
    packed = U32(entry)
    x = states[lane]
    over = x >= U32(U32(packed & _MASK) << _LIMIT)
    words[used] = U16(x)
    x = U32(x >> _WORD) if over else x
    quotient = U32((U64(x) * U64(entry >> U64(32))) >> U64(32))
    quotient = U32(quotient >> U32(packed >> U32(2 * BITS + 1)))
    bias = U32(U32(packed >> _BITS) & U32(2 * TOTAL - 1))
    rest = U32(U32(TOTAL) - U32(packed & _MASK))
    states[lane] = U32(x + U32(U32(quotient * rest) + bias))
    return used + U64(over)


def _encode(data, start, end, states, lanes, table, words, room, escapes, place, totals):
    used = U64(totals[0])
    escaped = U64(totals[1])
    escape = table[U64(place)] if place >= 0 else U64(0)  # no entry is 0
    lane = U64(start % lanes)
    i = start
    while i < end:
        if lane == U64(0) and lanes == LANES and end - i >= LANES and I64(used) + LANES <= room:
            for k in range(LANES):
                value = data[U64(i + k)]
                entry = table[U64(value)]
                used = _push(entry, value, U64(k), states, words, used)
                escapes[escaped] = value
                escaped += U64(entry == escape)
            i += LANES
        elif I64(used) < room:
            value = data[U64(i)]
            entry = table[U64(value)]
            used = _push(entry, value, lane, states, words, used)
            escapes[escaped] = value
            escaped += U64(entry == escape)
            lane = U64(0) if lane + U64(1) == U64(lanes) else lane + U64(1)
            i += 1
        else:
            return 0
    totals[0] = I64(used)
    totals[1] = I64(escaped)
    return 1


def encode(pointer, name):
    """The encoder's loop for elements of one width."""
    signature = types.int64(
        pointer, _N, _N, _P32, _N, _P64, _P16, _N, _P16, _N, _TOTALS
    )  # fmt: skip
    entry = cfunc(signature, error_model="numpy")(_encode)
    entry.__name__ = name
    return entry


@njit(inline="always")
def _pop(x, entry):
    """A state after an element was taken out of it, before it is filled up."""
    return U32(U32(U32(entry & _MASK) * U32(x >> _BITS)) + U32(entry >> _BITS))


def _decode(words, states, lanes, table, values, out, start, end, totals):
    left = I64(totals[0])
    lane = (end - 1) % lanes
    i = end
    while i > start:
        if lane == LANES - 1 and lanes == LANES and left >= LANES and i - start >= LANES:
            # No word can be missing in this round, and none before the first is read.
            i -= LANES
            top = U64(left - 1)
            for k in range(LANES):
                which = U64(LANES - 1 - k)
                x = states[which]
                slot = U64(x & _MASK)
                out[U64(i) + which] = values[slot]
                x = _pop(x, table[slot])
                short = x < _LOWEST
                longer = U32(U32(x << _WORD) | U32(words[top]))
                states[which] = longer if short else x
                top -= U64(short)
            left = I64(top) + 1
        else:
            i -= 1
            x = states[U64(lane)]
            slot = U64(x & _MASK)
            out[U64(i)] = values[slot]
            x = _pop(x, table[slot])
            if x < _LOWEST:
                if left == 0:
                    return 0
                left -= 1
                x = U32(U32(x << _WORD) | U32(words[U64(left)]))
            states[U64(lane)] = x
            lane = lanes - 1 if lane == 0 else lane - 1
    totals[0] = left
    return 1


def decode(pointer, name):
    """The decoder's loop for elements of one width."""
    signature = types.int64(_P16, _P32, _N, _P32, _P16, pointer, _N, _N, _TOTALS)
    entry = cfunc(signature, error_model="numpy")(_decode)
    entry.__name__ = name
    return entry


@cfunc(types.int64(_P16, _N, _N, types.uint16, _P16), error_model="numpy")
def fill_in(out, start, end, place, escapes):
    """Replace what equals `place` by the next escape; returns how many there were."""
    found = U64(0)
    for i in range(start, end):
        value = out[U64(i)]
        here = value == place
        out[U64(i)] = escapes[found] if here else value
        found += U64(here)
    return I64(found)


ENTRY_POINTS: tuple[Any, ...] = (
    is_constant,
    count_values(_P8, "count8"),
    count_values(_P16, "count16"),
    encode(_P8, "encode8"),
    encode(_P16, "encode16"),
    decode(_P8, "decode8"),
    decode(_P16, "decode16"),
    fill_in,
    *table_source.ENTRY_POINTS,
    *vector_source.ENTRY_POINTS,
)
