"""The codec's inner loops as numba compiles them: on any processor, an element at a time.

Only `pipeline.tensors.native` imports this module, and only to compile it. `pipeline.codecs.kernels`
has the functions' contracts; `pipeline.codecs.rans` says what the numbers mean. `vector_source` has the
two loops that take nearly all the time again, for processors with AVX-512; both write the same bytes.

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

from pipeline.codecs import vector_source
from pipeline.codecs.tables import BITS, LANES, LOWEST, MAX_SYMBOLS, SAMPLE, SAMPLE_PERIOD, TOTAL

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
_COSTS = types.CPointer(types.float32)
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


@cfunc(types.void(_P32, _N, _N, _COSTS, _P16, _P16, _TOTALS), error_model="numpy")
def plan(counts, size, total, costs, values, frequencies, totals):
    """Choose a table's values and frequencies. totals: see `kernels.Plan`; [2] is `sampled` before."""
    least = 2 + (total >> 15) if size > 256 else 1
    symbols = 0
    kept = 0
    for v in range(size):
        if counts[U64(v)] >= least:
            if symbols < MAX_SYMBOLS - 1:
                values[U64(symbols)] = v
                kept += counts[U64(v)]
            symbols += 1
    totals[0] = 0
    totals[1] = -1
    if symbols >= MAX_SYMBOLS:
        return
    # The placeholder of all others, where there are or may be any: the first value that is not taken.
    place = -1
    others = total - kept
    if size > 256 and (others > 0 or totals[2] != 0):
        place = 0
        while place < symbols and values[U64(place)] == place:
            place += 1
        for k in range(symbols, place, -1):
            values[U64(k)] = values[U64(k - 1)]
        values[U64(place)] = place
        symbols += 1
    if symbols < 2:
        return
    # Frequencies: 1 for all below a unit, the rest in proportion.
    sum_counts = total if total > 0 else 1
    rare = 0
    rare_counts = 0
    for k in range(symbols):
        count = others if k == place else I64(counts[U64(values[U64(k)])])
        if count * TOTAL <= sum_counts:
            rare += 1
            rare_counts += count
    left = sum_counts - rare_counts
    room = TOTAL - rare
    missing = TOTAL
    for k in range(symbols):
        count = others if k == place else I64(counts[U64(values[U64(k)])])
        share = I64(1)
        if count * TOTAL > sum_counts:
            share = (2 * count * room + left) // (2 * left)
            share = share if share > 1 else I64(1)
        frequencies[U64(k)] = share
        missing -= share
    largest = 0
    for k in range(symbols):
        if frequencies[U64(k)] > frequencies[U64(largest)]:
            largest = k
    if missing > 0:
        frequencies[U64(largest)] += missing
    # Too many slots: up to a sixteenth of each from the most frequent values, then from others.
    most = I64(frequencies[U64(largest)])
    while missing < 0:
        most = most >> 1 if most > 4 else I64(2)
        for k in range(symbols):
            share = I64(frequencies[U64(k)])
            if share >= most and missing < 0:
                change = share >> 4 if share >= 16 else I64(1)
                change = change if change < -missing else -missing
                frequencies[U64(k)] = share - change
                missing += change
    bits = 0.0
    for k in range(symbols):
        count = others if k == place else I64(counts[U64(values[U64(k)])])
        bits += count * costs[U64(frequencies[U64(k)])]
    totals[0] = symbols
    totals[1] = place
    totals[2] = I64(bits)
    totals[3] = others


@cfunc(types.void(_P16, _P16, _N, _N, _P64, _N), error_model="numpy")
def encoding_table(values, frequencies, symbols, place, table, size):
    """For each value: reciprocal, shift, bias and frequency, from the upper bits down (see `_push`)."""
    # Twice: the first time for the placeholder's entry alone, which all other values share.
    for others in range(1, -1, -1):
        first = I64(0)
        for k in range(symbols):
            f = I64(frequencies[U64(k)])
            shift = I64(0)
            while (I64(2) << shift) < f:
                shift += 1
            reciprocal = ((I64(1) << (32 + shift)) + f - 1) // f
            bias = first
            if f == 1:  # its reciprocal has 33 bits: the largest of 32 divides one too low
                reciprocal = (I64(1) << 32) - 1
                bias += TOTAL - 1
            word = U64(reciprocal) << U64(32)
            word |= U64((shift << (2 * BITS + 1)) | (bias << BITS) | f)
            first += f
            if others == 0:
                table[U64(values[U64(k)])] = word
            elif k == place:
                for v in range(size):
                    table[U64(v)] = word


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


@cfunc(types.int64(_P8, _N, _N, _N, _P32, _P16, _P16), error_model="numpy")
def decoding_table(data, room, symbols, bits, table, values, entries):
    """For each slot its number within its entry, the entry's frequency, and apart the entry's value."""
    at = I64(0)
    value = I64(-1)
    first = I64(0)
    for k in range(2 * symbols):
        number = I64(0)
        shift = I64(0)
        more = True
        while more:
            if at >= room or shift > 14:
                return -1
            byte = I64(data[U64(at)])
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            more = byte >= 128
        if k < symbols:
            value += number + 1
            if value >> bits:
                return -1
            entries[U64(k)] = value
        else:
            if number == 0 or number >= TOTAL or first + number > TOTAL:
                return -1
            for slot in range(number):
                table[U64(first + slot)] = U32((slot << BITS) | number)
                values[U64(first + slot)] = entries[U64(k - symbols)]
            first += number
    return at if first == TOTAL else -1


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
    plan,
    encoding_table,
    encode(_P8, "encode8"),
    encode(_P16, "encode16"),
    decoding_table,
    decode(_P8, "decode8"),
    decode(_P16, "decode16"),
    fill_in,
    *vector_source.ENTRY_POINTS,
)
